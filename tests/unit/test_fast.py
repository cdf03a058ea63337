"""The engine against the plain reference, token for token, and that it does each thing once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from uniadgen import AdGenerator, Config, Product
from uniadgen.config import GenerateConfig, override
from uniadgen.data import pasting, prompt
from uniadgen.data.batch import Row, collate
from uniadgen.data.prompt import Layout
from uniadgen.engine.engine import Engine
from uniadgen.engine.layers import Layers
from uniadgen.engine.loop import Decoder, Progress
from uniadgen.engine.recent import Recent
from uniadgen.engine.reference import Made, Reference
from uniadgen.engine.released import ReleaseShaped
from uniadgen.engine.sampling import draw
from uniadgen.engine.together import FastDecoder
from uniadgen.model.configuration import architecture
from uniadgen.model.uniadgen import UniAdGenForConditionalGeneration

POINTS = ("kitchen mug", "dishwasher safe")
GUIDED = GenerateConfig(guidance=3.0, text_top_k=0, image_top_k=0, max_words=5)
FEATURES = {
    "leaves out the history": GUIDED,
    "leaves out the product": replace(GUIDED, leave_out="product"),
    "leaves out both": replace(GUIDED, leave_out="both"),
    "not guided, greedy": replace(GUIDED, guidance=1.0, temperature=0.0),
    "faithful text, likeliest few": replace(
        GUIDED, connecting_words=("and", ","), text_top_k=3, image_top_k=9, max_words=9
    ),
}
# (clicks, seed) of every request of a batch; the last batch are candidates of one request.
BATCHES = (((3, 1),), ((0, 2),), ((3, 1), (0, 2), (1, 3)), ((3, 1), (3, 4), (3, 5)))


@pytest.fixture
def branches(make_row: Callable[..., Row]) -> Callable[[int, GenerateConfig], list[Row]]:
    """The rows of a request with so many clicks."""

    def rows(num_clicks: int, config: GenerateConfig) -> list[Row]:
        row = make_row(0, num_clicks, target=False)
        other = replace(make_row(0, 0, target=False), cutout=row.cutout)
        return [row] if config.guidance == 1 else [row, row if config.leave_out == "product" else other]

    return rows


def ask(decoder: Decoder | FastDecoder, requests: list[list[Row]], modality: str | None = None) -> Progress:
    """Decodes to the end."""
    rows = [branch for branches in zip(*requests, strict=True) for branch in branches]
    *_, last = decoder.run(collate(rows, decoder.layout.pad_id), modality)
    return last


def made(progress: Progress) -> list[Made]:
    return [Made(w, tuple(c)) for w, c in zip(progress.words, progress.codes.tolist(), strict=True)]


def check_all(model, layout: Layout, branches, config: GenerateConfig, modality: str | None = None) -> None:
    """The engine and the release-shaped loop make in every batch what the reference makes of each request alone."""
    expected = {}
    for clicks, seed in {request for batch in BATCHES for request in batch}:
        reference = Reference(model, layout, config, branches(clicks, config), seed)
        expected[clicks, seed] = reference.make(POINTS, modality)
    assert len({(m.words, m.codes) for m in expected.values()}) >= 3  # they are not all the same anyway
    for batch in BATCHES:
        seeds, requests = [seed for _, seed in batch], [branches(clicks, config) for clicks, _ in batch]
        points = [POINTS] * len(batch)
        for decoder in (
            ReleaseShaped(model, layout, config, seeds, points),
            FastDecoder(Engine(model, positions=1), layout, config, seeds, points),
            FastDecoder(Engine(model, positions=12), layout, config, seeds, points),
        ):
            assert made(ask(decoder, requests, modality)) == [expected[request] for request in batch]


@pytest.mark.parametrize("feature", FEATURES)
def test_every_feature_is_token_for_token_the_reference(model, layout: Layout, branches, feature: str) -> None:
    check_all(model, layout, branches, FEATURES[feature])


@pytest.mark.parametrize("modality", ["text", "image"])
def test_so_is_a_model_of_one_modality(model, layout: Layout, branches, modality: str) -> None:
    check_all(model, layout, branches, GUIDED, modality)


def test_so_is_the_release_with_its_chance_and_control_of_its_own(
    tiny_config: Config, layout: Layout, branches, monkeypatch
) -> None:
    """Controls of its own at several layers, one cell late; tokens kept by chance: still nobody disturbs another."""
    changes = {"model.variant": "release", "model.preference_control": False, "model.word_preference": 0}
    changes |= {"model.gumbel_at_inference": True, "generate.connecting_words": ()}
    config = override(tiny_config, changes)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = UniAdGenForConditionalGeneration(architecture(config, layout.pad_id)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    check_all(model, layout, branches, GUIDED)


# once


@contextmanager
def counted(owner: object, name: str) -> Iterator[list[tuple]]:
    """Listens to a method: the arguments of every call."""
    calls, call = [], getattr(owner, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, lambda *args, **named: calls.append(args) or call(*args, **named))
        yield calls


def test_each_thing_is_done_once_for_an_ad(model, layout: Layout, branches) -> None:
    engine = Engine(model)
    with (
        counted(model.foreground, "forward") as controls,
        counted(model.preference, "forward") as histories,
        counted(engine.layers, "read") as prompts,
    ):
        ask(FastDecoder(engine, layout, GUIDED, [0], [POINTS]), [branches(3, GUIDED)])
        assert [len(calls) for calls in (controls, histories, prompts)] == [1, 1, 2]
        ask(FastDecoder(engine, layout, GUIDED, [1], [POINTS]), [branches(3, GUIDED)])
        assert [len(calls) for calls in (controls, histories, prompts)] == [2, 2, 3]  # the prompt without history stays


def test_the_prompt_without_history_is_read_without_padding(model, layout: Layout, branches) -> None:
    engine = Engine(model)
    rows = branches(3, GUIDED)
    with counted(engine.layers, "read") as prompts:
        ask(FastDecoder(engine, layout, GUIDED, [0], [POINTS]), [rows])
    assert [len(args[0]) for args in prompts] == [len(row.ids) for row in rows]
    assert len(rows[1].ids) < len(rows[0].ids)


def test_candidates_of_a_request_share_what_does_not_depend_on_the_seed(model, layout: Layout, branches) -> None:
    engine = Engine(model, positions=1)
    decoder = FastDecoder(engine, layout, GUIDED, range(4), [POINTS] * 4)
    rows = [branch for branch in branches(3, GUIDED) for _ in range(4)]
    with (
        counted(model.foreground, "forward") as controls,
        counted(model, "add_preference") as steered,
        counted(engine.layers, "read") as prompts,
    ):
        next(decoder.run(collate(rows, layout.pad_id)))
    assert [len(args[0]) for args in controls] == [1]
    assert [len(args[0]) for args in steered] == [2]
    assert len(prompts) == 2
    groups = list(decoder.scheduler.seats.groups.values())
    assert [len(group.owners) for group in groups] == [4, 4]
    own = max(group.keys.shape[3] for group in groups)
    assert own == layout.config.cells + GUIDED.max_words + 2  # no room for a prompt: it is not copied


def test_pieces_of_a_text_are_spelt_once(model, layout: Layout, branches) -> None:
    config, fresh = FEATURES["faithful text, likeliest few"], Layout(layout.tokenizer, layout.config)
    with counted(prompt, "encode") as spelt:
        ask(FastDecoder(Engine(model), fresh, config, range(3), [POINTS] * 3), [branches(3, config)] * 3)
    said = [text for _, text in spelt]
    assert said
    assert len(set(said)) == len(said)


class Written(TorchDispatchMode):
    """Adds up the bytes of all tensors that come into being."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        held = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        new = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        self.total += sum(t.numel() * t.element_size() for t in new if t.untyped_storage().data_ptr() not in held)
        return out


def written(make: Callable[[], object]) -> int:
    """Bytes that it wrote."""
    with Written() as bytes_of:
        make()
    return bytes_of.total


def test_keys_and_values_stay_where_they_are(model, layout: Layout, branches) -> None:
    """What a step writes does not grow with what came before; in the loop over a growing cache it does."""
    batch = collate(branches(3, GUIDED), layout.pad_id)
    loop = Decoder(model, layout, GUIDED, [0], [POINTS])
    ours = FastDecoder(Engine(model, positions=1), layout, GUIDED, [0], [POINTS])
    loop.num_branches = 2
    with torch.no_grad():
        loop._read(batch, "image")
        theirs = [written(lambda: loop._step(torch.zeros(1, 1, 64))) for _ in range(6)]
    steps = ours.run(batch, "image")
    next(steps)  # the first row of cells
    rows = [written(lambda: next(steps)) for _ in range(2)]  # for the last one, no more noise is drawn
    assert rows[1] - rows[0] <= 2 * 4 * 8  # a row of codes more is told
    keys_and_values = 4 * 2 * 2 * 64 * 4  # layers, both, rows, width, bytes
    assert all(after - before >= keys_and_values for before, after in pairwise(theirs))
    assert rows[0] < 4 * theirs[0] / 3


def test_weights_are_held_once(model) -> None:
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    engine = Engine(model)
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
    assert sum(storages.values()) == sum(p.numel() * p.element_size() for p in before.values())
    own = model.model.language_model.layers[0].self_attn
    for linear in (own.q_proj, own.k_proj, own.v_proj):
        assert linear.weight.untyped_storage().data_ptr() == engine.layers.layers[0].qkv.untyped_storage().data_ptr()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_a_decoder_that_is_more_than_its_weights_is_refused(model) -> None:
    class Adapted(nn.Linear):
        pass

    model.model.language_model.layers[1].self_attn.q_proj = Adapted(64, 64, bias=False)
    with pytest.raises(ValueError, match="a Adapted in the decoder, expected plain weights: `uniadgen merge` first"):
        Layers(model.model.language_model, model.config)


def test_only_the_latest_are_kept() -> None:
    recent: Recent[int] = Recent(2)
    made: list[int] = []
    for key in (1, 2, 1, 3, 1, 2):
        assert recent.get(key, lambda key=key: made.append(key) or 10 * key) == 10 * key
    assert made == [1, 2, 3, 2]  # 2 gave way to 3, as 1 had been used since
    assert len(recent.values) == 2
    missing: list[list[int]] = []
    found = recent.get_all([4, 2, 4, 5], lambda keys: missing.append(keys) or [10 * key for key in keys])
    assert found == [40, 20, 40, 50]
    assert missing == [[4, 5]] and list(recent.values) == [4, 5]


def test_noise_is_a_function_of_seed_and_position() -> None:
    """However many tokens are drawn at once, and whoever is beside."""
    make = lambda *seeds: [torch.Generator().manual_seed(seed) for seed in seeds]  # noqa: E731
    at_once, one_by_one = draw(make(5, 6), 3, 64), make(6)
    for position in range(3):
        assert torch.equal(draw(one_by_one, 64)[0], at_once[1, position])
    ended = [None, *make(6)]
    assert torch.equal(draw(ended, 64)[1], at_once[1, 0])


# the product around it


def test_a_clicked_picture_is_coded_once(model, layout: Layout, tiny_config: Config, product: Product, clicks) -> None:
    generator = AdGenerator(model, layout, tiny_config)
    with counted(model, "encode_pictures") as coded:
        first = generator.encode_clicks(clicks[:2])
        again = generator.encode_clicks([clicks[1], replace(clicks[0], text="another title")])
    assert sum(len(pixels) for (pixels,) in coded) == 2
    assert (again[1].codes == first[0].codes).all() and (again[0].codes == first[1].codes).all()
    assert again[1].text == "another title"


def test_several_images_are_made_at_once(model, layout: Layout, tiny_config: Config, product: Product, clicks) -> None:
    generator = AdGenerator(model, layout, tiny_config)
    with (
        counted(generator.engine.layers, "read") as prompts,
        counted(model.foreground, "forward") as controls,
        counted(pasting, "_around") as outlines,
    ):
        ads = generator.generate(product, clicks[:3], seed=5, num_images=3)
    assert len(controls) == 1
    assert len(outlines) == 2  # of one product, twice for all
    assert len(prompts) == 2  # the same three clicks are shown to all, whichever the seed
    assert len({ad.painted.tobytes() for ad in ads}) == 3
