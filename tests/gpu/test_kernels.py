"""The GPU's kernels against torch's own operations: on a GPU, or, with TRITON_INTERPRET=1, on a CPU."""

import os

import pytest
import torch

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not (torch.cuda.is_available() or INTERPRETED):
    pytest.skip("no GPU", allow_module_level=True)

from uniadgen.engine import attending, eight, fused, nvrtc, streaming  # noqa: E402
from uniadgen.engine.attention import PlainAttention  # noqa: E402
from uniadgen.engine.layers import Operations, Prefix  # noqa: E402
from uniadgen.engine.precision import EIGHT_BIT, MOST, scaled  # noqa: E402
from uniadgen.engine.sizes import Sizes  # noqa: E402
from uniadgen.engine.slots import Places, Slots  # noqa: E402

DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
HEADS, SIZE, LAYERS = 2, 16, 2
EPS = 1e-6
TORCH = Operations(EPS)
ON_HOPPER = pytest.mark.skipif(not nvrtc.serves(DEVICE), reason="no Hopper GPU, or no cuda-bindings")
ON_GPU = pytest.mark.skipif(INTERPRETED, reason="the interpreter has no such numbers")


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


@pytest.fixture
def ours() -> fused.FusedOperations:
    """In float32."""
    return fused.FusedOperations(EPS, torch.float32, DEVICE)


def test_norm_gate_and_rotation(ours) -> None:
    x, weight = numbers(5, 48), numbers(48, seed=1)
    torch.testing.assert_close(ours.norm(x, weight), TORCH.norm(x, weight), atol=1e-5, rtol=1e-5)
    both = numbers(5, 2 * 1030)
    torch.testing.assert_close(ours.gate(both), TORCH.gate(both), atol=1e-5, rtol=1e-5)
    heads = numbers(5, 9, 16)[:, :6]  # of a row, the first ones: as queries and keys stand beside values
    cos, sin = numbers(2, 5, 1, 16, seed=2)
    torch.testing.assert_close(ours.turn(heads, cos, sin), TORCH.turn(heads, cos, sin), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 40] if INTERPRETED else [1, 2, 3, 40])
def test_products_of_few_rows(ours, rows: int) -> None:
    """Every way, with all that may come before and after: the outputs and inputs are no multiples of any tile."""
    x, weight, norm = numbers(rows, 1100), numbers(36, 1100, seed=1) / 33, numbers(1100, seed=4)
    cases = ((None, None, False), (numbers(36, seed=2), None, False), (numbers(rows, 36, seed=3), None, False))
    for add, scaling, gated in (*cases, (None, norm, False), (None, norm, True)):
        expected = TORCH.product(x, weight, add, scaling, gated)
        for way in ours.ways(fused.task_of(rows, weight, scaling, gated))[:: 4 if INTERPRETED else 1]:
            for _ in range(2):  # who arrives last leaves everything as it was
                made = way.multiply(x, weight, add, scaling, gated)
                torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4, msg=lambda m, w=way: f"{w.name}: {m}")


def test_inputs_are_split_where_outputs_are_few() -> None:
    assert fused.splits_of(fused.Task(2, (2048, 2048), torch.bfloat16, False, False), fused.TILES[0]) == 8
    assert fused.splits_of(fused.Task(2, (2048, 2048), torch.bfloat16, True, False), fused.TILES[0]) == 1
    assert fused.splits_of(fused.Task(2, (16384, 2048), torch.bfloat16, False, False), fused.TILES[0]) == 1


@ON_GPU
@pytest.mark.parametrize("rows", [2, 64, 100])
@pytest.mark.parametrize("gated", [False, True])
def test_every_way_to_multiply_by_eight_bits(rows: int, gated: bool) -> None:
    """Against the restored weights: within bfloat16's rounding, or e4m3's where x is narrowed as well."""
    operations = fused.FusedOperations(EPS, torch.bfloat16, DEVICE)
    x, weight = numbers(rows, 512, dtype=torch.bfloat16), scaled(numbers(256, 512, seed=1))
    norm = numbers(512, seed=2, dtype=torch.bfloat16) if gated else None
    expected = TORCH.product(x.float(), weight, None, None if norm is None else norm.float(), gated)
    for way in operations.ways(fused.task_of(rows, weight, norm, gated)):
        off = (way.multiply(x, weight, None, norm, gated).float() - expected).norm() / expected.norm()
        assert off < (0.08 if way.name.startswith(("scaled_mm", "eight")) else 0.015), way.name


@ON_HOPPER
@pytest.mark.parametrize("eight", [False, True], ids=["bfloat16", "eight bits"])
@pytest.mark.parametrize("rows", [1, 2, 3, 8, 24])
@pytest.mark.parametrize("size", [2048, 11008])
def test_streamed_products(eight: bool, rows: int, size: int) -> None:
    """With all that may come before and after, inputs split or not, of rows and outputs of very different size."""
    weight = numbers(96, size, seed=1) / size**0.5
    weight[::3] *= 1e-3
    weight[::3, 5] = 1.0  # beside which the others are e4m3's smallest numbers
    held = scaled(weight) if eight else weight.bfloat16()
    whole = held.restored(torch.float32) if eight else held.float()
    x = (numbers(rows, size) * 10.0 ** torch.arange(-3, rows - 3).clamp(max=5)[:, None].to(DEVICE)).bfloat16()
    norm = numbers(size, seed=2, dtype=torch.bfloat16)
    adds = numbers(96, seed=3, dtype=torch.bfloat16), numbers(rows, 96, seed=4, dtype=torch.bfloat16)
    arrived = torch.zeros(65536, dtype=torch.int32, device=DEVICE)
    cases = *((add, None, False) for add in (None, *adds)), (None, norm, False), (None, norm, True)
    for add, scaling, gated in cases:
        expected = TORCH.product(
            x.float(), whole, None if add is None else add.float(), None if scaling is None else norm.float(), gated
        )
        for _ in range(2):  # who arrives last leaves everything as it was
            made = streaming.product(x, held, add, scaling, gated, EPS, arrived)
            off = (made.float() - expected).norm(dim=1) / expected.norm(dim=1)
            assert (off < (0.01 if gated else 0.005)).all()  # what bfloat16 rounds of x times norm, and of the product
    assert not arrived.any()


@ON_HOPPER
@pytest.mark.parametrize("rows", [1, 8, 13, 32, 50])
@pytest.mark.parametrize(("outs", "size"), [(128, 128), (192, 11008), (4096, 2048)])
def test_products_of_eight_bits(rows: int, outs: int, size: int, monkeypatch) -> None:
    """With all that may come before and after, in all numbers of parts, of rows of very different size.

    Expected is what x, rounded to e4m3 as narrow.cu does, gives in float64.
    """
    monkeypatch.setattr(eight, "TRIED", len(eight.SPLITS))
    held = scaled(numbers(outs, size, seed=1) / size**0.5)
    x = (numbers(rows, size) * 10.0 ** torch.arange(-3, rows - 3).clamp(max=5)[:, None].to(DEVICE)).bfloat16()
    norm = numbers(size, seed=2, dtype=torch.bfloat16)
    adds = numbers(outs, seed=3, dtype=torch.bfloat16), numbers(rows, outs, seed=4, dtype=torch.bfloat16)
    arrived = torch.zeros(65536, dtype=torch.int32, device=DEVICE)
    cases = *((add, None, False) for add in (None, *adds)), (None, norm, False), (None, norm, True)
    for add, scaling, gated in cases:
        normed = x.float() if scaling is None else x.float() * scaling.float()
        most = normed.abs().amax(1, keepdim=True)
        narrow = (normed * (torch.full_like(most, MOST) / most)).to(EIGHT_BIT).double() * (most / MOST).double()
        if scaling is not None:
            narrow *= torch.rsqrt(x.double().square().mean(1, keepdim=True) + EPS)
        expected = TORCH.product(
            narrow, held.restored(torch.float64), None if add is None else add.double(), None, gated
        )
        ways = eight.best(size, outs, rows, gated, nvrtc.processors(0))
        for splits in [way.splits for way in ways] * 2:  # who arrives last leaves everything as it was
            made = eight.product(x, held, add, scaling, gated, EPS, arrived, splits)
            off = (made.double() - expected).norm(dim=1) / expected.norm(dim=1)
            assert (off < 0.01).all()  # what bfloat16 rounds of the product, and Hopper of sums in eight bits
    assert not arrived.any()


def prompt(length: int, seed: int, dtype: torch.dtype, size: int) -> Prefix:
    return Prefix(*numbers(2, LAYERS, HEADS, length, size, seed=seed, dtype=dtype))


def groups(dtype: torch.dtype, cache: torch.dtype, size: int = SIZE) -> list[Slots]:
    """Three rows of their own prompts, and two that share one."""
    own, shared = Slots(prompt(70, 0, dtype, size), 4, 300, dtype=cache), prompt(90, 5, dtype, size)
    for number, length in enumerate((70, 3, 66)):
        own.join(number, prompt(length, number, dtype, size))
    together = Slots(shared, 2, 30, shared, cache)
    for number in range(2):
        together.join(number, shared)
    return [own, together]


def turned(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotated, and rounded once, as the kernels do."""
    return TORCH.turn(heads.float(), cos.float(), sin.float()).to(heads.dtype)


KINDS = {
    "float32": (torch.float32, torch.float32, 1e-5),
    "bfloat16": (torch.bfloat16, torch.bfloat16, 2e-2),
    "eight bits": (torch.bfloat16, EIGHT_BIT, 2e-2),
}


@pytest.mark.parametrize("kind", ["float32"] if INTERPRETED else KINDS)
@pytest.mark.parametrize("count", [1, 4, 16])
@pytest.mark.parametrize("size", [SIZE] if INTERPRETED else [SIZE, attending.HEAD])
@pytest.mark.parametrize("by_turns", [True, False], ids=["one after the other", "together"])
def test_attention(kind: str, count: int, size: int, by_turns: bool, monkeypatch) -> None:
    """Rows at positions of their own, some behind a shared prompt, with columns split or not; then slots move."""
    dtype, cache, off = KINDS[kind]
    cos, sin = angles = numbers(2, 200, 1, size, seed=9, dtype=dtype).unbind()
    plans = [(1, False), (64, False), *((programs, True) for programs in (1, 20, 64))]
    for programs, ours in plans:
        monkeypatch.setattr(attending, "PLANS", (attending.Plan(programs, 64, 3, 4),))
        monkeypatch.setattr(attending, "PLANS_OF_OURS", (attending.Plan(programs, 64, 3, 4, True),) * ours)
        expected, slots = groups(dtype, cache, size), groups(dtype, cache, size)
        plain, attention = PlainAttention(expected), attending.FusedAttention(slots, count, angles)
        if ours and attention.kernel is None:  # no Hopper, or other numbers than it takes
            continue
        assert attention.plan.ours == ours
        start = torch.tensor([70, 3, 66, 90, 90])[:, None] + torch.arange(count)
        for step in range(2 if count == 1 else 1):
            heads = numbers(5 * count, 3 * HEADS, size, seed=step, dtype=dtype)
            position = (start + step).to(DEVICE)
            seen = position + 1 if by_turns else position.amax(1, keepdim=True).expand_as(position) + 1
            for one in (plain, attention):
                one.aim(Places(position, position, seen))
            q, k, v = heads.split(HEADS, 1)
            at = position.flatten()
            wanted = plain.attend(1, *(turned(part, cos[at], sin[at]) for part in (q, k)), v)
            made = attention.attend(1, q, k, v)
            assert (made - wanted).float().norm() < off * wanted.float().norm()
            if cache != EIGHT_BIT:  # there a key that is rounded the other way moves single numbers by more
                torch.testing.assert_close(made, wanted, atol=off, rtol=off)
            for one, other in zip(slots, expected, strict=True):
                torch.testing.assert_close(one.keys.float(), other.keys.float(), atol=off, rtol=8 * off)
                assert torch.equal(one.values.float(), other.values.float())
                one.reserve(200)
                other.reserve(200)
            attention.place(slots)


ONE, OTHER = ((1, (0, 1)), (2, (0,)), (3, (0,)), (0, (0, 2))), ((0, (1, 1)), (2, (1, 1)), (1, (0,)), (3, (0,)))


@pytest.mark.parametrize("kind", ["float32"] if INTERPRETED else KINDS)
@pytest.mark.parametrize("count", [1, 16])
@pytest.mark.parametrize("size", [SIZE] if INTERPRETED else [SIZE, attending.HEAD])
@pytest.mark.parametrize("programs", [1, 40])
@pytest.mark.parametrize("ours", [False, True])
def test_attention_that_serves_others(kind: str, count: int, size: int, programs: int, ours: bool, monkeypatch) -> None:
    """Rows that stand there again, fewer groups and queries than are started, rows that share no prompt any more."""
    dtype, cache, off = KINDS[kind]
    monkeypatch.setattr(attending, "PLANS", (attending.Plan(programs, 64, 3, 4),))
    monkeypatch.setattr(attending, "PLANS_OF_OURS", (attending.Plan(programs, 64, 3, 4, True),) * ours)
    monkeypatch.setattr(attending, "QUERIES", 16)
    angles = cos, sin = numbers(2, 200, 1, size, seed=9, dtype=dtype).unbind()
    lengths = (70, 3, 66), (90, 90), (40, 40), (64,)
    both: list[list[Slots]] = []  # for each of two, the groups
    for _ in range(2):
        made = []
        for number, rows in enumerate(lengths):
            prompts = [
                prompt(length, row if not number else 5 + number, dtype, size) for row, length in enumerate(rows)
            ]
            group = Slots(prompts[0], len(rows), 120, prompts[0] if number else None, cache)
            for row, prefix in enumerate(prompts):
                group.join(row, prefix)
            made.append(group)
        both.append(made)
    attention = None
    for step, chosen in enumerate((ONE, OTHER, ONE, OTHER)):
        expected, slots = ([groups[number].some(rows) for number, rows in chosen] for groups in both)
        assert Sizes.of(slots) == (6, 4, 2)
        attention = attention or attending.FusedAttention(slots, count, angles)
        if ours and attention.kernel is None:
            pytest.skip("no Hopper, or other numbers than attend.cu takes")
        assert attention.plan.ours == ours
        attention.place(slots)
        plain = PlainAttention(expected)
        rows = [(number, row) for number, some in chosen for row in some]
        position = torch.tensor([lengths[number][row] for number, row in rows])[:, None] + torch.arange(count) + step
        at = Places.after(position.to(DEVICE))
        first = torch.tensor([rows.index(row) for row in rows], device=DEVICE)  # what stands again feeds the same
        heads = numbers(6, count, 3 * HEADS, size, seed=step, dtype=dtype)[first].flatten(0, 1)
        q, k, v = heads.split(HEADS, 1)
        turns = at.position.flatten()
        for one in (plain, attention):
            one.aim(at)
        wanted = plain.attend(1, *(turned(part, cos[turns], sin[turns]) for part in (q, k)), v)
        made = attention.attend(1, q, k, v)
        assert (made - wanted).float().norm() < off * wanted.float().norm()
        if cache != EIGHT_BIT:
            torch.testing.assert_close(made, wanted, atol=off, rtol=off)
        for one, other in zip(*both, strict=True):
            assert torch.equal(one.values.float(), other.values.float())
            torch.testing.assert_close(one.keys.float(), other.keys.float(), atol=off, rtol=8 * off)


def test_the_fastest_plan_is_followed_and_nothing_else_is_spoiled(monkeypatch) -> None:
    """Columns before those that were timed, and how many programs have arrived, stay as they were."""
    plans = [attending.Plan(programs, 64, 3, 4) for programs in (1, 16, 64)]
    seconds = iter((3.0, 1.0, 2.0))

    class Timed:
        def __init__(self, run, level) -> None:
            run()
            self.graph, spent = run, next(seconds)
            self.seconds = lambda: spent

    monkeypatch.setattr(attending, "PLANS", plans)
    monkeypatch.setattr(attending, "Graph", Timed)
    angles = numbers(2, 200, 1, SIZE, seed=9).unbind()
    slots, before, chosen = groups(torch.float32, torch.float32), groups(torch.float32, torch.float32), {}
    attention = attending.FusedAttention(slots, 1, angles)
    at = Places.after(torch.tensor([70, 3, 66, 90, 90], device=DEVICE)[:, None])
    attention.tune(slots, at, chosen)
    assert attention.plan == plans[1] == next(iter(chosen.values()))
    again = attending.FusedAttention(slots, 1, angles)
    again.tune(slots, at, chosen)  # nothing is left to be timed
    assert again.plan == plans[1] and not attention.arrived.any()
    slots[0].join(3, prompt(5, 7, torch.float32, SIZE))
    more = attending.FusedAttention(slots, 1, angles)
    more.tune(slots, Places.after(torch.tensor([70, 3, 66, 5, 90, 90], device=DEVICE)[:, None]), chosen)
    assert more.plan == plans[1] and len(chosen) == 1  # six rows are as good as five
    assert torch.equal(slots[0].keys[:, 0, :, :70], before[0].keys[:, 0, :, :70])
    assert not slots[0].keys[:, 0, :, 70].any()


@ON_GPU
def test_what_the_bench_checks() -> None:
    """Tokens in float32, hidden states in fewer bits, through CUDA graphs."""
    from uniadgen.standin import checked

    for name, result in checked(DEVICE).items():
        assert result == "same tokens" or ", within" in result, f"{name}: {result}"
