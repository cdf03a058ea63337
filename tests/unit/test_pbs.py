"""PBS's network: how it sees, the authors' tensors there and back, and what must never become a random model."""

import math
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from moco import TINY, checkpoint, moco_tensors, random_pbs
from uniadgen.__main__ import app
from uniadgen.config import PBSModelConfig
from uniadgen.metrics.pbs import PBS, pbs
from uniadgen.metrics.trunk import Trunk, batches, read_encoder, to_moco, to_ours


def pictures(number: int = 3, size: tuple[int, int] = (50, 40)) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(256, size=(*size, 3), dtype=np.uint8)) for _ in range(number)]


# the authors' tensors


def plain_forward(tensors: dict[str, Tensor], pixels: Tensor, heads: int) -> Tensor:
    """MoCo v3's transformer and the compression, written out from the tensors' own names."""
    weight, bias = tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"]
    patches = F.conv2d(pixels, weight, bias, stride=weight.shape[-1]).flatten(2).transpose(1, 2)
    x = torch.cat([tensors["cls_token"].expand(len(pixels), -1, -1), patches], 1) + tensors["pos_embed"]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"], 1e-6)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    for block in ("blocks.0", "blocks.1"):
        rows = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").unflatten(-1, (3, heads, -1))
        q, k, v = rows.permute(2, 0, 3, 1, 4)
        seen = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v
        x = x + linear(seen.transpose(1, 2).flatten(2), f"{block}.attn.proj")
        x = x + linear(F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
    seen = F.linear(norm(x, "norm")[:, 0], tensors["compress_layer.0.weight"])
    return F.batch_norm(seen, tensors["compress_layer.1.running_mean"], tensors["compress_layer.1.running_var"])


def test_a_converted_checkpoint_computes_what_its_tensors_say(tmp_path: Path) -> None:
    tensors = moco_tensors()
    head = {"head.0.weight": torch.zeros(3, 3)}
    model = PBS.from_moco(checkpoint(tmp_path / "pbs.pth", tensors | head), num_heads=3)
    assert model.config == TINY
    pixels = model.pixels(pictures())
    torch.testing.assert_close(model(pixels).detach(), plain_forward(tensors, pixels, 3), atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(model.features(pictures()), model(pixels).detach().numpy(), atol=1e-5)


def test_names_go_there_and_back() -> None:
    own = random_pbs().state_dict()
    theirs = dict(to_moco(iter(own.items())))
    assert "blocks.1.attn.qkv.bias" in theirs and "compress_layer.1.running_var" in theirs
    back = dict(to_ours(iter(theirs.items())))
    assert back.keys() == own.keys()
    assert all(torch.equal(back[name], own[name]) for name in own)


def test_the_trunk_of_moco_v3_is_read_without_a_compression(tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in moco_tensors().items() if not name.startswith("compress_layer.")}
    path = checkpoint(tmp_path / "moco.pth.tar", tensors, "state_dict")
    model = Trunk.from_moco(path, num_heads=3)
    assert model.features(pictures()).shape == (3, 24)
    with pytest.raises(ValueError, match=r"compress_layer.0.weight is missing.*not the tensors of pbs"):
        PBS.from_moco(path, num_heads=3)


def without(name: str) -> dict[str, Tensor]:
    return {other: tensor for other, tensor in moco_tensors().items() if other != name}


WRONG = [
    ({"tensors": without("blocks.1.attn.qkv.bias")}, "blocks.1.attn.qkv.bias is missing"),
    ({"tensors": without("compress_layer.1.running_var")}, "compress_layer.1.running_var is missing"),
    ({"tensors": without("pos_embed")}, "pos_embed"),
    ({"tensors": moco_tensors() | {"blocks.0.gamma": torch.zeros(3)}}, "blocks.0.gamma is not expected"),
    ({"tensors": moco_tensors() | {"norm.bias": torch.zeros(5)}}, "norm.bias has shape .5,., expected .24,."),
    ({"prefix": "base_encoder."}, "base_encoder.cls_token.* expected the file that MoCo v3's code wrote"),
    ({"prefix": ""}, "cls_token.* is no tensor of module.base_encoder"),  # as a file converted to DeiT's
    ({"entry": "weights"}, "got epoch, weights, args, expected an entry `model`"),
]


@pytest.mark.parametrize(("changes", "expected"), WRONG, ids=lambda x: x if isinstance(x, str) else "")
def test_a_checkpoint_that_is_not_whole_is_refused_by_name(tmp_path: Path, changes: dict, expected: str) -> None:
    path = checkpoint(tmp_path / "pbs.pth", **({"tensors": moco_tensors()} | changes))
    with pytest.raises(ValueError, match=expected):
        PBS.from_moco(path, num_heads=3)
    result = CliRunner().invoke(app, ["convert", "pbs", str(path), "--out", str(tmp_path / "out"), "--heads", "3"])
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


class Code:
    """A pickle that would run something."""

    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("data", [b"nothing", pickle.dumps(Code())], ids=["damaged", "code"])
def test_a_file_of_no_tensors_is_refused(tmp_path: Path, data: bytes, capsys) -> None:
    (tmp_path / "pbs.pth").write_bytes(data)
    with pytest.raises(ValueError, match=r"pbs.pth: (damaged|holds more)"):
        read_encoder(tmp_path / "pbs.pth")
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match=r"gone.pth: no such file"):
        read_encoder(tmp_path / "gone.pth")


# our folder


def test_convert_writes_the_folder_that_is_read(tmp_path: Path) -> None:
    path, out = checkpoint(tmp_path / "pbs.pth", moco_tensors()), tmp_path / "official"
    result = CliRunner().invoke(app, ["convert", "pbs", str(path), "--out", str(out), "--heads", "3"])
    assert result.exit_code == 0, result.output
    assert sorted(file.name for file in out.iterdir()) == ["config.json", "model.safetensors"]
    ours, theirs = PBS.from_pretrained(out), PBS.from_moco(path, num_heads=3)
    np.testing.assert_array_equal(ours.features(pictures()), theirs.features(pictures()))


def test_half_the_bytes_hardly_change_a_feature(tmp_path: Path) -> None:
    model = random_pbs()
    for name, dtype in (("whole", torch.float32), ("half", torch.float16)):
        model.save(tmp_path / name, dtype)
    whole, half = (PBS.from_pretrained(tmp_path / name).features(pictures()) for name in ("whole", "half"))
    np.testing.assert_array_equal(whole, model.features(pictures()))
    assert 0 < np.abs(whole - half).max() < 0.02
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]


def test_a_folder_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    model = random_pbs()
    del model.compress[0]  # another network's tensors
    model.save(tmp_path / "less")
    with pytest.raises(ValueError, match=r"compress.0.weight is missing"):
        PBS.from_pretrained(tmp_path / "less")
    random_pbs().save(tmp_path / "good")
    (tmp_path / "good" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json: not valid JSON"):
        PBS.from_pretrained(tmp_path / "good")
    (tmp_path / "good" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="of another model"):
        PBS.from_pretrained(tmp_path / "good")
    with pytest.raises(ValueError, match=r"pbss: no folder with config.json.*did you mean 'pbs'"):
        PBS.from_pretrained("pbss")


# seeing


@pytest.mark.parametrize(
    ("size", "resized", "box"),
    [  # the shorter side 37, as 256 is to 224
        ((100, 67), (55, 37), (12, 2, 44, 34)),
        ((67, 100), (37, 55), (2, 12, 34, 44)),
        ((30, 30), (37, 37), (2, 2, 34, 34)),
    ],
)
def test_a_small_network_sees_pictures_at_its_own_size(size: tuple, resized: tuple, box: tuple) -> None:
    (picture,) = pictures(1, size[::-1])
    seen = np.asarray(picture.resize(resized, Image.Resampling.BILINEAR).crop(box), np.float32) / 255
    expected = (seen - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    np.testing.assert_allclose(random_pbs().pixels([picture])[0].permute(1, 2, 0), expected, atol=1e-5)


def test_the_defaults_are_the_paper_s() -> None:
    with torch.device("meta"):
        model = PBS(PBSModelConfig())
    assert (model.pixels.short, model.pixels.side) == (256, 224)
    shapes = {name: tuple(tensor.shape) for name, tensor in to_moco(iter(model.state_dict().items()))}
    assert shapes["pos_embed"] == (1, 197, 768)
    assert shapes["blocks.11.attn.qkv.weight"] == (2304, 768)
    assert shapes["compress_layer.0.weight"] == (64, 768)
    assert set(shapes) >= {
        f"compress_layer.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")
    }


def test_what_is_transparent_is_seen_on_white() -> None:
    model = random_pbs()
    clear, white = Image.new("RGBA", (40, 40), (200, 10, 10, 0)), Image.new("L", (40, 40), 255)
    np.testing.assert_array_equal(*model.features([clear, white]))


# similarities


def test_similarity_is_the_cosine_of_features_as_they_are() -> None:
    model, (a, b, c) = random_pbs(), pictures()
    found = pbs([a, a, b], iter([a, b, c]), model)
    one, other, third = model.features([a, b, c]).astype(np.float64)
    assert found[0] == pytest.approx(1, abs=1e-6)
    for value, (x, y) in zip(found[1:], ((one, other), (other, third)), strict=True):
        assert value == pytest.approx(x @ y / np.sqrt((x @ x) * (y @ y)), abs=1e-5)
    with pytest.raises(ValueError, match="got 2 and 1 pictures, expected as many"):
        pbs([a, b], [a], model)


def test_only_a_batch_of_pictures_is_held(monkeypatch) -> None:
    model, drawn, ahead = random_pbs(), [0], []
    model.batch_size = 4
    seen = [0]

    def forward(pixels: Tensor) -> Tensor:
        ahead.append(drawn[0] - seen[0])
        seen[0] += len(pixels)
        return torch.zeros(len(pixels), 8)

    monkeypatch.setattr(model, "forward", forward)

    def counted() -> Iterator[Image.Image]:
        for picture in pictures(10):
            drawn[0] += 1
            yield picture

    assert model.features(counted()).shape == (10, 8)
    assert ahead == [4, 4, 2]
    assert [len(batch) for batch in batches(counted(), 3)] == [3, 3, 3, 1]
