"""What a GPU does, on a CPU: attention without lengths on the host, numbers of eight bits, pictures painted ahead."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from uniadgen.config import GenerateConfig
from uniadgen.data.batch import Batch, Row, collate
from uniadgen.data.prompt import Layout
from uniadgen.engine.attention import PlainAttention
from uniadgen.engine.engine import Engine
from uniadgen.engine.layers import Prefix
from uniadgen.engine.precision import EIGHT_BIT, Precision, scaled
from uniadgen.engine.scheduler import Scheduler
from uniadgen.engine.slots import Places, Slots
from uniadgen.engine.together import FastDecoder

HEADS, SIZE, LAYERS = 2, 16, 2
POINTS = ("kitchen mug", "dishwasher safe")
CONFIG = GenerateConfig(guidance=3.0, text_top_k=3, image_top_k=4, max_words=9)


def prompt(length: int, seed: int) -> Prefix:
    """Random keys and values."""
    generator = torch.Generator().manual_seed(seed)
    return Prefix(*torch.randn(2, LAYERS, HEADS, length, SIZE, generator=generator))


def groups(dtype: torch.dtype = torch.float32) -> list[Slots]:
    """Three rows of their own prompts, and two that share one, further on than their prompt."""
    own, shared = Slots(prompt(9, 0), 4, 40, dtype=dtype), prompt(11, 5)
    for number, length in enumerate((9, 3, 6)):
        own.join(number, prompt(length, number))
    together = Slots(shared, 2, 30, shared, dtype)
    for number in range(2):
        together.join(number, shared)
    return [own, together]


def at(count: int, step: int = 0) -> Places:
    """Of all five rows."""
    return Places.after(torch.tensor([9, 3, 6, 11, 11])[:, None] + torch.arange(count) + step * count)


@pytest.mark.parametrize("count", [1, 4])
def test_attention_is_the_softmax_over_what_came_before(count: int) -> None:
    """Step after step, against one attention over everything that a row has seen."""
    slots = groups()
    attention = PlainAttention(slots)
    prompts = [prompt(length, seed) for length, seed in ((9, 0), (3, 1), (6, 2), (11, 5), (11, 5))]
    seen = [[list(part[1].unbind(1)) for part in one] for one in prompts]  # of layer 1
    for step in range(3):
        q, k, v = torch.randn(3, 5 * count, HEADS, SIZE, generator=torch.Generator().manual_seed(step))
        attention.aim(at(count, step))
        found = attention.attend(1, q, k, v).unflatten(0, (5, count))
        for row in range(5):
            for i in range(count):
                seen[row][0].append(k[row * count + i])
                seen[row][1].append(v[row * count + i])
                keys, values = (torch.stack(part, 1) for part in seen[row])
                chances = (torch.einsum("hd,hcd->hc", q[row * count + i], keys) * SIZE**-0.5).softmax(-1)
                expected = torch.einsum("hc,hcd->hd", chances, values)
                torch.testing.assert_close(found[row, i], expected, atol=1e-5, rtol=1e-5)


def test_a_cache_of_eight_bits_holds_numbers_within_a_sixteenth() -> None:
    """And what is too large becomes e4m3's largest number, not infinity."""
    slots = groups(EIGHT_BIT)
    attention = PlainAttention(slots)
    attention.aim(at(1))
    q, k, v = torch.randn(3, 5, HEADS, SIZE, generator=torch.Generator().manual_seed(0))
    v[0, 0, 0] = 1000.0
    attention.attend(0, q, k, v)
    kept = slots[0].keys[0, 0, :, 9].float()
    torch.testing.assert_close(kept, k[0], atol=2**-10, rtol=1 / 16)
    assert slots[0].values[0, 0, 0, 9, 0] == 448


def test_weights_of_eight_bits_are_within_a_sixteenth() -> None:
    """Of every number, or within half of the smallest step of its row, whose largest number is 448 x 512 of those."""
    weight = torch.randn(32, 48, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 32)[:, None]
    weight[0] = 0
    restored = scaled(weight).restored(torch.float32)
    step = weight.abs().amax(1, keepdim=True) / 448 / 512
    assert ((restored - weight).abs() <= weight.abs() / 16 + step / 2).all()
    assert (restored != weight).any()


@pytest.fixture
def batch(make_row: Callable[..., Row], layout: Layout) -> Batch:
    """Three requests, two of them for the same prompt."""
    rows = [make_row(0, 3, target=False), make_row(0, 3, target=False), make_row(1, 2, target=False)]
    others = [
        replace(make_row(seed, 0, target=False), cutout=row.cutout) for seed, row in zip((0, 0, 1), rows, strict=True)
    ]
    return collate(rows + others, layout.pad_id)


def decode(engine: Engine, layout: Layout, batch: Batch, config: GenerateConfig = CONFIG) -> tuple[list, list]:
    """What seeds 0 to 2 make, and all that was told on the way."""
    told = list(FastDecoder(engine, layout, config, range(3), [POINTS] * 3).run(batch))
    return [told[-1].words, told[-1].codes.tolist()], told


@pytest.mark.parametrize("positions", [1, 9])
@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, temperature=0.0)], ids=["sampled", "greedy"])
def test_painting_on_the_device_gives_the_tokens_of_the_scheduler(model, layout, batch, positions, config) -> None:
    expected, _ = decode(Engine(model, positions=1), layout, batch, config)
    made, told = decode(Engine(model, positions=positions, plain_torch=True), layout, batch, config)
    assert made == expected
    rows = [progress.codes.shape[1] for progress in told]
    assert all(later - earlier in (0, 4, 8, 12) for earlier, later in pairwise(rows))  # whole rows of cells


@torch.no_grad()
def test_what_a_graph_looks_at_stays_where_it_is(model) -> None:
    """Placed anew where nothing has changed, as before every replay."""
    read = Engine(model, plain_torch=True).layers.read(torch.randn(5, 64))
    slots = [Slots(read, 3, 40)]
    slots[0].join("one", read)
    slots[0].join("other", read)
    attention = PlainAttention(slots)
    rows = attention.rows[0]
    attention.place(slots)
    assert attention.rows[0] is rows
    attention.place([slots[0].some(["other"])])
    assert attention.rows[0].tolist() == [1]


def test_a_row_is_told_while_the_next_one_is_painted(model, layout, make_row) -> None:
    """Nobody waits for a GPU before the next call is under way; and at the end all has been told, in order."""
    engine = Engine(model, positions=1, plain_torch=True)
    scheduler, calls = Scheduler(engine, layout, CONFIG, num_slots=1), []
    row = make_row(0, 0, target=False)
    (ticket,) = scheduler.submit(collate([row, row], layout.pad_id), [torch.Generator().manual_seed(1)], [POINTS])
    paint = scheduler.runner.paint
    scheduler.runner.paint = lambda *given: calls.append(ticket.latest.codes.shape[1]) or paint(*given)
    while scheduler.step():
        pass
    assert calls == [0, 0, 4, 8]
    cells = [event.codes.shape[1] for event in ticket.events()]
    assert cells == sorted(cells) and [number for number in cells if number] == [4, 8, 12, 16]


def test_generators_stand_where_they_would(model, layout: Layout, batch: Batch) -> None:
    """Painting draws the noise of a picture and no more."""
    states = []
    for plain in (False, True):
        decoder = FastDecoder(Engine(model, positions=1, plain_torch=plain), layout, CONFIG, range(3), [POINTS] * 3)
        list(decoder.run(batch))
        states.append([generator.get_state() for generator in decoder.generators])
    assert all(torch.equal(one, other) for one, other in zip(*states, strict=True))


def test_eight_bits_change_scores_a_little(model, layout: Layout, batch: Batch) -> None:
    """Weights and cache, against float32: hidden states of a step, relative to their size."""
    outs = []
    prompts = [torch.randn(n, 64, generator=torch.Generator().manual_seed(n)) for n in (20, 33)]
    x = torch.randn(2, 1, 64, generator=torch.Generator().manual_seed(0))
    for precision in (Precision(), Precision(cache="fp8"), Precision(weights="fp8", cache="fp8")):
        engine = Engine(model, plain_torch=True, precision=precision)
        with torch.no_grad():
            read = [engine.layers.read(prompt) for prompt in prompts]
            slots = Slots(read[0], 2, 40, dtype=engine.cache_dtype)
            for number, prefix in enumerate(read):
                slots.join(number, prefix)
            outs.append(engine.step([slots], x, Places.after(torch.tensor([[20], [33]])), None, [20, 33]))
            scores = engine.image_logits(outs[-1].flatten(0, 1))
            assert scores.shape == (2, 64)
    exact, cache, both = outs
    assert 0 < (cache - exact).norm() / exact.norm() < 0.05
    assert 0 < (both - exact).norm() / exact.norm() < 0.1


def test_what_is_multiplied_by_eight_bits_becomes_that(model) -> None:
    """Where it is emulated: as a GPU does where that is faster. With a norm before and a gate after."""
    layers = Engine(model, plain_torch=True, precision=Precision(weights="fp8")).layers
    x, norm = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)) * 100, layers.layers[0].second_norm
    made = layers.operations.product(x, layers.layers[0].gate_up, norm=norm, gated=True)
    narrow = scaled(torch.rms_norm(x, (64,), norm, layers.operations.eps)).restored(torch.float32)
    gate, up = (narrow @ layers.layers[0].gate_up.restored(torch.float32).T).chunk(2, -1)
    torch.testing.assert_close(made, torch.nn.functional.silu(gate) * up)


def test_weights_of_eight_bits_are_held_once(model) -> None:
    engine = Engine(model, precision=Precision(weights="fp8"))
    assert model.model.language_model.layers[0].self_attn.q_proj.weight.numel() == 0
    weights = 4 * 64 * 64 + 3 * 64 * 128
    assert engine.layers.num_bytes == 4 * (weights + 4 * (5 * 64 + 2 * 128) + 2 * 4 * 64)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"precision\.cache is 'int4', expected model or fp8: choose"):
        Precision(cache="int4")


def test_a_gpu_without_eight_bits_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an older GPU")
    Precision().check(torch.device("cuda"))
    with pytest.raises(
        ValueError, match=r"an older GPU has compute capability 8\.0, expected 8\.9 or more for fp8: use"
    ):
        Precision(weights="fp8").check(torch.device("cuda"))
