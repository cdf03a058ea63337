"""The compiled step: torch's numbers, whatever the threads; and where there is no compiler, or a file is damaged."""

import copy
import ctypes
import multiprocessing
import os
import pickle
import platform
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch

from uniadgen.engine import building
from uniadgen.engine.compiled import CompiledStep
from uniadgen.engine.engine import Engine
from uniadgen.engine.graphed import GraphedStep
from uniadgen.engine.layers import Layers
from uniadgen.engine.native import Native
from uniadgen.engine.precision import Precision
from uniadgen.engine.sampling import draw, sample
from uniadgen.engine.slots import Places, Slots, step

needs_compiler = pytest.mark.skipif(building.library() is None, reason="needs a C++ compiler")
PROMPT, LONGEST = 21, 60


@pytest.fixture
def native(model) -> Native:
    """In float32."""
    found = Native.find(model, Precision())
    assert found is not None
    return found


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request):
    """How many take part."""
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(1)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def ready(layers: Layers, rows: int, count: int, shared: bool, controlled: bool) -> tuple:
    """What a step is given: prompts read by the same layers; where they are not shared, every other one is shorter."""
    layers.reserve(LONGEST)
    prompt, short = layers.read(random(PROMPT, 64)), layers.read(random(5, 64, seed=1))
    slots = Slots(prompt, rows, LONGEST, prompt if shared else None)
    for row in range(rows):
        slots.join(row, prompt if shared or row % 2 == 0 else short)
    firsts = [PROMPT if shared or row % 2 == 0 else 5 for row in range(rows)]
    at = Places.after(torch.tensor(firsts)[:, None] + torch.arange(count))
    control = random(rows, count, 128, seed=3) if controlled else None
    return [slots], random(rows, count, 64, seed=2), at, control, firsts


@torch.no_grad()
def hidden(layers: Layers, *how: int) -> torch.Tensor:
    """Of one step."""
    slots, x, *given = ready(layers, *how)
    take = layers.step if isinstance(layers, Native) else lambda *given: step(layers, *given)
    take(slots, -x, *given)  # what is kept is written over
    return take(slots, x, *given)


@needs_compiler
@pytest.mark.parametrize("shared", [False, True], ids=["own prompts", "one prompt"])
def test_a_step_is_that_of_torch(model, native: Native, threads: int, shared: bool) -> None:
    layers = Layers(model.model.language_model, model.config)
    for how in product((1, 2, 3, 8, 16), (1, 4), [shared], (False, True)):
        torch.set_num_threads(threads)
        found = hidden(native, *how)
        torch.set_num_threads(1)  # torch's own would wait for one another on a busy machine
        torch.testing.assert_close(found, hidden(layers, *how), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_prompts_that_are_read_together_see_themselves_alone(model, monkeypatch) -> None:
    """Some at a time, as a GPU reads them."""
    layers = Layers(model.model.language_model, model.config)
    prompts = [random(length, 64, seed=length) for length in (7, 1, 19, 4)]
    numbers = []
    monkeypatch.setattr(layers, "_read", lambda some, read=layers._read: numbers.append(len(some)) or read(some))
    alone = layers.read_all(prompts)
    layers.together = 20
    together = layers.read_all(prompts)
    assert numbers == [1, 1, 1, 1, 2, 1, 1]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.keys, other.keys, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(one.values, other.values, atol=1e-5, rtol=1e-5)


@needs_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="of an x86 processor")
def test_so_is_that_of_a_processor_without_avx512(model, tmp_path: Path, monkeypatch) -> None:
    others = ("-march=x86-64-v3" if option.startswith("-march") else option for option in building.OPTIONS)
    monkeypatch.setattr(building, "OPTIONS", (*others,))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    building.library.cache_clear()
    native, layers = Native.find(model, Precision()), Layers(model.model.language_model, model.config)
    building.library.cache_clear()
    assert native is not None and native.functions.wide() == 8 and not native.functions.has_int8()
    for how in product((1, 3), (1, 3, 4), (False, True), [True]):
        torch.testing.assert_close(hidden(native, *how), hidden(layers, *how), atol=1e-5, rtol=1e-5)


@needs_compiler
@torch.no_grad()
@pytest.mark.parametrize("shared", [False, True], ids=["own prompts", "one prompt"])
@pytest.mark.parametrize("other", [lambda layers: CompiledStep(layers), lambda layers: GraphedStep(layers, plain=True)])
def test_positions_may_see_one_another_and_stand_anywhere(model, native: Native, shared: bool, other) -> None:
    """Columns stay one after the other. Whoever steps."""
    layers = Layers(model.model.language_model, model.config)

    def take(layers: Layers, taking: Callable[..., torch.Tensor]) -> torch.Tensor:
        slots, x, at, _, firsts = ready(layers, 3, 4, shared, False)
        sees = torch.tensor(firsts)[:, None] + torch.tensor([2, 2, 4, 4])
        return taking(slots, x, Places(at.position + torch.tensor([0, 5, 2, 9]), at.column, sees), None, firsts)

    expected = take(layers, partial(step, layers))
    torch.testing.assert_close(take(native, native.step), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(take(layers, other(layers)), expected, atol=1e-5, rtol=1e-5)


@needs_compiler
def test_neither_threads_nor_other_rows_change_a_number(native: Native) -> None:
    alone = hidden(native, 1, 3, True, False)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        assert torch.equal(hidden(native, 9, 3, True, False)[:1], alone)
    torch.set_num_threads(1)


@needs_compiler
def test_weights_that_16_bits_hold_are_read_as_such(model) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half())
    native = Native.find(model, Precision())
    assert native is not None and {layer.qkv.bits for layer in native.packed} == {16}
    layers = Layers(model.model.language_model, model.config)
    expected = hidden(layers, 3, 4, False, True)
    torch.testing.assert_close(hidden(native, 3, 4, False, True), expected, atol=1e-5, rtol=1e-5)


@needs_compiler
def test_heads_are_those_of_the_model(model, native: Native, threads: int) -> None:
    words, codes = native.scorers(model)
    x = random(11, 64)
    torch.testing.assert_close(words(x), model.lm_head(x))
    torch.testing.assert_close(codes(x), model.model.generation_head(x))


@needs_compiler
def test_so_are_all_other_parts(model, threads: int, monkeypatch) -> None:
    """What is linear in them; with gradients they are torch's, and those reach every weight."""
    vq, functions, calls = model.model.vqmodel, Engine(model).layers.functions, []
    dense = functions.dense
    monkeypatch.setattr(functions, "dense", lambda *given: calls.append(given) or dense(*given))
    cutouts, pixels = random(2, 4, 32, 32).sigmoid(), random(3, 3, 16, 16).clamp(-1, 1)
    clicks = random(2, 3, 7, 64), torch.ones(2, 3, 7).bool(), random(2, 3, 4, 64), torch.ones(2, 3).bool()
    parts = {
        "foreground": lambda: model.foreground(cutouts),
        "preference": lambda: model.preference(*clicks).image,
        "encoder": lambda: vq.quant_conv(vq.encoder(pixels)),
    }
    for name, part in parts.items():
        calls.clear()
        with torch.no_grad():
            quick = part()
        count = len(calls)
        torch.testing.assert_close(quick, part().detach(), atol=1e-5, rtol=1e-5)
        assert len(calls) == count > 2, name
    calls.clear()
    with torch.no_grad():
        vq.decoder(vq.post_quant_conv(random(1, 8, 4, 4)))
    assert not calls  # pictures are torch's, to the bit
    parts["foreground"]().sum().backward()
    assert model.foreground.dinov2.embeddings.patch_embeddings.projection.weight.grad.abs().sum() > 0


@needs_compiler
@torch.no_grad()
def test_a_picture_has_the_codes_that_it_has_alone(model, threads: int) -> None:
    vq, engine = model.model.vqmodel, Engine(model)
    for seed in range(30):
        pixels = random(1 + seed % 7, 3, 16, 16, seed=seed).clamp(-1, 1)
        together, alone = vq.encoder(pixels), torch.cat([vq.encoder(one) for one in pixels.split(1)])
        assert torch.equal(together, alone) and torch.equal(vq.quant_conv(together), vq.quant_conv(alone))
        assert engine.codes_together
        assert torch.equal(engine.encode(pixels), torch.cat([engine.encode(one) for one in pixels.split(1)]))


@needs_compiler
@pytest.mark.parametrize("spread", [0.1, 3.0])
@pytest.mark.parametrize("top_k", [0, 1, 7, 100, 5000])
def test_sampling_is_that_of_torch(native: Native, top_k: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for size in (256, 250):
        for temperature in (0.7, 1.0, 0.0):
            logits = spread * torch.randn(50, size, generator=generator)
            logits[:, ::3] = float("-inf")
            logits[:, 1] = logits[:, 2]  # equals are all kept
            noise = draw([generator], 50, size)[0]
            expected = sample(logits, temperature, top_k, noise)
            assert torch.equal(native.sample(logits, temperature, top_k, noise), expected)


@needs_compiler
def test_int8_is_near(model, native: Native, threads: int) -> None:
    if not native.functions.has_int8():
        pytest.skip("needs VNNI")
    rough = Native.find(model, Precision(weights="int8"))
    assert rough is not None and {layer.down.bits for layer in rough.packed} == {8}
    exact, near = (hidden(layers, 5, 4, False, True) for layers in (native, rough))
    error = (exact - near).pow(2).mean().sqrt() / exact.std()
    assert 1e-4 < error < 0.05
    x = random(9, 64)
    for head, rough_head in zip(native.scorers(model), rough.scorers(model), strict=True):
        error = (head(x) - rough_head(x)).pow(2).mean().sqrt() / head(x).std()
        assert 1e-4 < error < 0.05


@needs_compiler
@torch.no_grad()
def test_in_int8_all_parts_are_near_and_codes_of_pictures_exact(model, native: Native) -> None:
    if not native.functions.has_int8():
        pytest.skip("needs VNNI")
    pixels, cutouts = random(9, 3, 16, 16).clamp(-1, 1), random(2, 4, 32, 32).sigmoid()
    vq, latents = model.model.vqmodel, random(1, 8, 4, 4)
    exact, control = Engine(model).encode(pixels), model.foreground(cutouts)
    painted = vq.decoder(vq.post_quant_conv(latents))
    rough = Engine(model, precision=Precision(weights="int8"))
    assert torch.equal(rough.encode(pixels), exact)
    near = {model.foreground(cutouts): control, vq.decoder(vq.post_quant_conv(latents)): painted}
    for found, right in near.items():
        assert 1e-4 < (found - right).pow(2).mean().sqrt() / right.std() < 0.05
    Engine(model)  # the one made last has its way
    assert torch.equal(model.foreground(cutouts), control)
    assert torch.equal(vq.decoder(vq.post_quant_conv(latents)), painted)


@needs_compiler
def test_an_engine_of_torch_hands_all_back(model) -> None:
    before = [type(module) for module in model.modules()]
    Engine(model)
    assert [type(module) for module in model.modules()] != before
    Engine(model, plain_torch=True)
    assert [type(module) for module in model.modules()] == before
    assert not any("quick" in vars(module) for module in model.modules())


@needs_compiler
@torch.no_grad()
def test_a_copy_has_weights_of_its_own(model) -> None:
    Engine(model)
    cutouts = random(2, 4, 32, 32).sigmoid()
    control = model.foreground(cutouts)
    for copied in (copy.deepcopy(model.foreground), pickle.loads(pickle.dumps(model.foreground))):
        torch.testing.assert_close(copied(cutouts), control)
        for parameter in copied.parameters():
            parameter.mul_(0)
        assert not copied(cutouts).any()
    assert torch.equal(model.foreground(cutouts), control)


@needs_compiler
def test_a_forked_process_has_threads_of_its_own(native: Native) -> None:
    """Of torch's own threads none would answer there, so nothing else is done in it."""
    given = ready(native, 8, 1, True, False)
    torch.set_num_threads(2)
    expected = native.step(*given).numpy().tobytes()

    def again() -> None:
        os._exit(native.step(*given).numpy().tobytes() != expected)

    child = multiprocessing.get_context("fork").Process(target=again, daemon=True)
    child.start()
    child.join(20)
    torch.set_num_threads(1)
    child.kill()
    assert child.exitcode == 0


def test_other_precisions_are_refused(model) -> None:
    with pytest.raises(ValueError, match="precision is 'int4', expected model, fp8, int8"):
        Precision.named("int4")


# building


@pytest.fixture
def anew(tmp_path: Path, monkeypatch):
    """A machine on which nothing was compiled, and a short source."""
    source = tmp_path / "short.cpp"
    source.write_text('extern "C" int answer() { return 42; }\n')
    monkeypatch.setattr(building, "SOURCE", source)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    building.library.cache_clear()
    yield tmp_path / "cache" / "uniadgen"
    building.library.cache_clear()


def test_without_a_compiler_numba_takes_the_steps(model, anew: Path, monkeypatch) -> None:
    monkeypatch.setattr(building.shutil, "which", lambda name: None)
    assert Engine(model).stepper == "numba"
    with pytest.raises(ValueError, match=r"and a C\+\+ compiler: take the model"):
        Engine(model, precision=Precision(weights="int8"))


def test_so_it_does_where_nothing_can_be_compiled_or_kept(model, anew: Path) -> None:
    building.SOURCE.write_text("no C++ at all")
    assert building.library() is None
    assert list(anew.iterdir()) == []
    anew.rmdir()
    anew.write_text("a file where the folder should be")
    building.library.cache_clear()
    assert Engine(model).stepper == "numba"


@needs_compiler
def test_it_is_compiled_once_and_anew_where_it_is_damaged(anew: Path, monkeypatch) -> None:
    assert building.library().answer() == 42
    (made,) = anew.iterdir()
    whole = made.read_bytes()
    building.library.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(building.shutil, "which", lambda name: None)
        assert building.library().answer() == 42  # kept
    made.unlink()
    made.write_bytes(whole[: len(whole) // 2])
    building.library.cache_clear()
    library = building.library()
    assert isinstance(library, ctypes.CDLL) and library.answer() == 42
    assert any(path.stem.endswith(building._digest(path.read_bytes())) for path in anew.iterdir())


@needs_compiler
def test_two_processes_may_build_at_once(anew: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from uniadgen.engine import building\n"
        f"building.SOURCE = Path({str(building.SOURCE)!r})\n"
        "sys.exit(building.library().answer() != 42)"
    )
    both = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    assert len({path.stem.rpartition("-")[0] for path in anew.iterdir()}) == 1
