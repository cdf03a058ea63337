"""A folder of weights: comes back as it was, and says by name what is wrong with it."""

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from uniadgen import AdGenerator
from uniadgen.model import shards, weights
from uniadgen.model.weights import RECIPE, WEIGHTS, load, save


@pytest.fixture
def folder(model, layout, tmp_path: Path) -> Path:
    """A good folder of weights."""
    save(tmp_path / "weights", model, layout, torch.float32)
    return tmp_path / "weights"


def change(folder: Path, edit) -> None:
    """Rewrites the tensors of a folder."""
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)


def test_every_tensor_comes_back_bit_for_bit(folder: Path, model) -> None:
    loaded, _, _ = load(folder)
    expected, found = model.state_dict(), loaded.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert not loaded.training


def test_tokenizer_and_recipe_come_back(folder: Path, layout, tiny_config) -> None:
    _, loaded, config = load(folder)
    assert config == tiny_config
    assert loaded.tokenizer.get_vocab() == layout.tokenizer.get_vocab()
    assert loaded.tokenizer.encode("a mug: 马克杯 <text_ph>") == layout.tokenizer.encode("a mug: 马克杯 <text_ph>")


def test_what_is_saved_again_is_the_same_file(folder: Path, tmp_path: Path) -> None:
    model, layout, _ = load(folder)
    save(tmp_path / "again", model, layout, torch.float32)
    for name in (WEIGHTS, RECIPE, "tokenizer.json", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name


def test_half_precision_takes_half_the_room_and_is_loaded_as_float32(
    model, layout, folder: Path, tmp_path: Path
) -> None:
    save(tmp_path / "half", model, layout, torch.float16)
    assert (tmp_path / "half" / WEIGHTS).stat().st_size < 0.6 * (folder / WEIGHTS).stat().st_size
    loaded, _, _ = load(tmp_path / "half")
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, atol=1e-3, rtol=1e-3)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    change(folder, lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(ValueError, match=r"lm_head.weight is missing: these weights are of another model"):
        load(folder)


def test_an_extra_tensor_is_named(folder: Path) -> None:
    change(folder, lambda tensors: tensors.update(surprise=torch.zeros(2)))
    with pytest.raises(ValueError, match="surprise is not expected"):
        load(folder)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(folder: Path, tokenizer, tiny_config) -> None:
    change(folder, lambda tensors: tensors.update({"lm_head.weight": torch.zeros(3, 5)}))
    width = tiny_config.model.hidden_size
    with pytest.raises(
        ValueError, match=rf"lm_head.weight has shape \(3, 5\), expected \({tiny_config.model.vocab_size}, {width}\)"
    ):
        load(folder)


def test_many_wrong_tensors_do_not_make_a_wall_of_text(folder: Path) -> None:
    change(folder, lambda tensors: [tensors.pop(name) for name in sorted(tensors)[:40]])
    with pytest.raises(ValueError, match="and 35 more") as error:
        load(folder)
    assert len(str(error.value)) < 1000


def test_nothing_is_loaded_from_wrong_weights(folder: Path, model) -> None:
    change(folder, lambda tensors: (tensors.pop("lm_head.weight"), [t.zero_() for t in tensors.values()]))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"lm_head\.weight"):
        weights.load_weights(model, folder)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_file_that_was_cut_short_is_named(folder: Path, share: float) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=f"{WEIGHTS}: damaged or cut short"):
        load(folder)


@pytest.mark.parametrize("name", [RECIPE, WEIGHTS])
def test_a_folder_without_weights_says_how_to_get_some(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"no {name}, expected a folder of weights: train one with `uniadgen train`"):
        load(folder)


def test_a_damaged_recipe_is_named(folder: Path) -> None:
    (folder / RECIPE).write_text("{")
    with pytest.raises(ValueError, match=f"{RECIPE}: not valid JSON"):
        load(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_missing_tokenizer_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ValueError, match=str(folder)):
        load(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_tokenizer_is_named(folder: Path, name: str) -> None:
    text = (folder / name).read_text()
    (folder / name).write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match=str(folder)):
        load(folder)


def test_a_full_disk_leaves_the_old_weights_alone(folder: Path, model, layout, monkeypatch) -> None:
    before = (folder / WEIGHTS).read_bytes()

    def full(tensors, path, metadata) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(shards, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save(folder, model, layout, torch.float32)
    assert (folder / WEIGHTS).read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["weights"]


def test_weights_are_replaced_as_a_whole(folder: Path, model, layout) -> None:
    (folder / "old-file").touch()
    save(folder, model, layout, torch.float16)
    assert not (folder / "old-file").exists()
    load(folder)


def test_a_model_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="no-such-model"):
        AdGenerator.from_pretrained("no-such-model")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_files_can_be_read_by_whom_the_umask_says(model, layout, tmp_path: Path, umask: int, mode: int) -> None:
    """safetensors by itself would keep them to their owner."""
    old = os.umask(umask)
    try:
        save(tmp_path / "weights", model, layout, torch.float16)
    finally:
        os.umask(old)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "weights").iterdir()}
    assert modes == dict.fromkeys(modes, mode)


def test_weights_in_several_shards_are_loaded(folder: Path, model) -> None:
    with shards.new_shards(folder.with_name("parts"), 10**5) as writer:
        for name, tensor in model.state_dict().items():
            writer.add(name, tensor)
    (folder / WEIGHTS).unlink()
    for path in folder.with_name("parts").iterdir():
        shutil.move(path, folder)
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 3
    loaded, _, _ = load(folder)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    next(iter(sorted(folder.glob("model-*")))).unlink()
    with pytest.raises(ValueError, match="missing, expected all"):
        load(folder)


def test_a_folder_can_be_moved(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder, tmp_path / "elsewhere")
    load(tmp_path / "elsewhere")
