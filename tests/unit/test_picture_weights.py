"""Weights of picture metrics: no tensor can be missing, extra or odd unnoticed, and no file runs code."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import metric_models
from metric_models import IMAGEREWARD, copied, head_shapes, imagereward_state, mocov3_state, tensors, write_all
from uniadgen.metrics.aesthetic import HEAD, load_aesthetic
from uniadgen.metrics.clip import load_clip, load_pickscore
from uniadgen.metrics.dinov3 import load_dinov3
from uniadgen.metrics.imagereward import load_imagereward
from uniadgen.metrics.mocov3 import load_mocov3

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("models"))


Spoil = Callable[[dict[str, Tensor]], None]


def lose(name: str) -> Spoil:
    return lambda state: state.__delitem__(name)


def put(name: str) -> Spoil:
    """Another tensor under this name, be it new or there already."""
    return lambda state: state.update({name: torch.zeros(3)})


def prefix(with_: str) -> Spoil:
    def rename(state: dict[str, Tensor]) -> None:
        held = {f"{with_}{name}": tensor for name, tensor in state.items()}
        state.clear()
        state.update(held)

    return rename


def load(name: str, folder: Path) -> object:
    if name == "imagereward":
        return load_imagereward(folder, CPU, sizes=IMAGEREWARD)
    return LOADERS[name](folder, CPU)


LOADERS = {
    "clip": load_clip,
    "pickscore": load_pickscore,
    "dinov3": load_dinov3,
    "mocov3": load_mocov3,
    "ase": load_aesthetic,
}


@pytest.mark.parametrize("name", ["clip", "pickscore", "dinov3", "ase"])
@pytest.mark.parametrize(
    ("spoil", "new", "said"),
    [(lose, False, "is missing"), (put, True, "is not expected"), (put, False, r"has shape \(3,\), expected")],
)
def test_a_tensor_of_hugging_faces_layout_cannot_be_missing_extra_or_odd(
    models: Path, tmp_path: Path, name: str, spoil: Callable[[str], Spoil], new: bool, said: str
) -> None:
    folder = copied(models / name, tmp_path / "spoilt")
    state = load_file(folder / "model.safetensors")
    tensor = "extra.weight" if new else sorted(state)[-1]
    spoil(tensor)(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"spoilt: {tensor.replace('.', '[.]')} {said}"):
        load(name, folder)


BLOCK = "module.base_encoder.blocks.1.attn.qkv.bias"
WORD = "blip.text_encoder.encoder.layer.1.crossattention.self.key.weight"


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("mocov3", lose(BLOCK), "blocks.1.attn.qkv.bias is missing: these are not the tensors of mocov3"),
        ("mocov3", lose("module.base_encoder.cls_token"), "cls_token is missing"),
        ("mocov3", put("module.base_encoder.cls_token"), "hidden_size is 3, expected a multiple of 12 heads"),
        ("mocov3", put("module.base_encoder.pos_embed"), r"pos_embed has shape \(3,\), expected"),
        ("mocov3", put("module.base_encoder.patch_embed.proj.weight"), r"proj.weight has shape \(3,\), expected"),
        ("mocov3", put("module.base_encoder.extra"), "extra is not expected"),
        ("mocov3", put("fc.weight"), "fc.weight .* is no tensor of module.base_encoder"),
        ("mocov3", put(BLOCK), r"blocks.1.attn.qkv.bias has shape \(3,\), expected \(144,\)"),
        ("mocov3", prefix("encoder."), "encoder.module.base_encoder.* is no tensor of module.base_encoder"),
        ("imagereward", lose(WORD), f"{WORD} is missing: this is not ImageReward"),
        ("imagereward", lose("mlp.layers.7.bias"), "mlp.layers.7.bias is missing"),
        ("imagereward", put("blip.itm_head.weight"), "blip.itm_head.weight is not expected"),
        ("imagereward", put(WORD), r"has shape \(3,\), expected \(24, 32\)"),
        ("imagereward", prefix("module."), "is missing"),
    ],
)
def test_a_tensor_of_a_published_file_cannot_be_missing_extra_or_odd(
    tmp_path: Path, name: str, spoil: Spoil, message: str
) -> None:
    state = {"mocov3": mocov3_state, "imagereward": imagereward_state}[name]()
    spoil(state)
    folder = getattr(metric_models, f"write_{name}")(tmp_path / "spoilt", state)
    with pytest.raises(ValueError, match=message):
        load(name, folder)


def test_the_head_with_activations_is_another_model(models: Path, tmp_path: Path) -> None:
    folder = copied(models / "ase", tmp_path / "relu")
    torch.save(tensors(head_shapes(numbers=(0, 3, 6, 9, 11))), folder / HEAD)
    with pytest.raises(ValueError, match=r"layers\.2\.bias is missing.*this is not the head of five linear layers"):
        load("ase", folder)


def test_the_aesthetic_head_takes_no_other_clip(models: Path, tmp_path: Path) -> None:
    folder = copied(models / "ase", tmp_path / "laion")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace("quick_gelu", "gelu"))
    with pytest.raises(ValueError, match=r"got a CLIP with .*'gelu'.*, expected OpenAI's ViT-L/14"):
        load("ase", folder)
    torch.save(tensors(head_shapes()), models / "clip" / HEAD)
    with pytest.raises(ValueError, match=r"'patch_size': 8.*expected OpenAI's ViT-L/14"):
        load("ase", models / "clip")


@pytest.mark.parametrize("name", ["clip", "dinov3", "mocov3", "imagereward", "ase"])
def test_weights_that_are_cut_short_or_another_thing_are_refused(models: Path, tmp_path: Path, name: str) -> None:
    file = {"mocov3": "vit-b-300ep.pth.tar", "imagereward": "ImageReward.pt", "ase": HEAD}.get(
        name, "model.safetensors"
    )
    folder = copied(models / name, tmp_path / "cut")
    data = (folder / file).read_bytes()
    for damaged in (data[: len(data) // 2], b"", b"hello"):
        (folder / file).write_bytes(damaged)
        with pytest.raises(ValueError, match="cut"):
            load(name, folder)


class Code:
    """A pickle that would run something."""

    def __reduce__(self) -> tuple:
        return print, ("run",)


@pytest.mark.parametrize(
    ("name", "file"), [("mocov3", "vit-b-300ep.pth.tar"), ("imagereward", "ImageReward.pt"), ("ase", HEAD)]
)
def test_a_file_with_code_in_it_is_not_opened(
    models: Path, tmp_path: Path, name: str, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(models / name, tmp_path / "code")
    torch.save({"state_dict": Code()}, folder / file)
    with pytest.raises(ValueError, match="holds more than tensors, so it is not opened"):
        load(name, folder)
    assert capsys.readouterr().out == ""


def test_pickled_weights_of_hugging_faces_layout_are_read_and_code_in_them_is_not(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(models / "clip", tmp_path / "pickled")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    load("clip", folder)
    torch.save(state | {"code": Code()}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pickled: its weights hold more than tensors, so they are not opened"):
        load("clip", folder)
    assert capsys.readouterr().out == ""


def test_mocov3_without_a_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {"cls_token": torch.zeros(1)}}, tmp_path / "vit-b-300ep.pth.tar")  # as converted to DeiT's
    with pytest.raises(ValueError, match=r"cls_token .* is no tensor of module\.base_encoder"):
        load("mocov3", tmp_path)


@pytest.mark.parametrize("name", ["pickscore", "imagereward"])
def test_the_tokenizer_of_another_model_is_refused(models: Path, tmp_path: Path, name: str) -> None:
    folder = copied(models / name, tmp_path / "words")
    if name == "imagereward":
        (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    else:
        for path in [*folder.glob("tokenizer*"), *folder.glob("vocab*"), *folder.glob("merges*")]:
            path.unlink()
    with pytest.raises(ValueError, match=r"got a tokenizer of \d+ entries, expected"):
        load(name, folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="words: the tokenizer is damaged"):
        load(name, folder)


def test_the_end_of_a_text_is_the_tokenizers(models: Path, tmp_path: Path) -> None:
    folder = copied(models / "clip", tmp_path / "end")
    text = (folder / "config.json").read_text()
    end = f'"eos_token_id": {metric_models.WORDS["<|endoftext|>"]}'
    assert end in text
    (folder / "config.json").write_text(text.replace(end, '"eos_token_id": 2'))
    load("pickscore", folder)  # as LAION's CLIPs have it
    (folder / "config.json").write_text(text.replace(end, '"eos_token_id": 7'))
    with pytest.raises(ValueError, match="the text's end is token 7, expected 513"):
        load("pickscore", folder)
