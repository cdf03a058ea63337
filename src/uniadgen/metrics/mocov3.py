"""MoCo v3 similarity: the cosine of what a self-supervised ViT sees in two pictures (Chen et al. 2021)."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import ViTConfig, ViTModel

from uniadgen.metrics.pictures import BATCH_SIZE, Encoder
from uniadgen.metrics.pixels import IMAGENET_CROP
from uniadgen.model.convert import Renaming, joined
from uniadgen.model.shards import check_tensors, refuse_tensors, shapes_of, unpickle

FILES: Final = ("vit-b-300ep.pth.tar", "vit-s-300ep.pth.tar")  # as published
HEADS: Final = 12  # of ViT-B and of MoCo v3's own ViT-S; shapes do not tell
ENCODER: Final = "module.base_encoder."
LEFT_OUT: Final = ("module.base_encoder.head.", "module.momentum_encoder.", "module.predictor.")  # only for training
VERDICT: Final = "this is no ViT of MoCo v3"
# Names in the checkpoint, names in `ViTModel`; queries, keys and values are one tensor there.
NAMES: Final = (
    ("cls_token", "embeddings.cls_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.*", "embeddings.patch_embeddings.projection.*"),
    ("blocks.#.norm1.*", "layers.#.layernorm_before.*"),
    ("blocks.#.norm2.*", "layers.#.layernorm_after.*"),
    ("blocks.#.attn.proj.*", "layers.#.attention.o_proj.*"),
    ("blocks.#.mlp.*", "layers.#.mlp.*"),
    ("norm.*", "layernorm.*"),
)
_QKV = re.compile(r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)")
_Q_K_V = re.compile(r"layers\.(?P<layer>\d+)\.attention\.(?P<part>[qkv])_proj\.(?P<kind>weight|bias)")
_RENAMING = Renaming(NAMES)


def load_mocov3(folder: Path, device: torch.device, batch_size: int = BATCH_SIZE) -> Encoder:
    """Pictures as MoCo v3's class token after the last norm, from one of `FILES` in the folder.

    Raises `ValueError` for a file that holds more than tensors and numbers, or naming what is missing or too much.
    """
    path = next((folder / name for name in FILES if (folder / name).is_file()), folder / FILES[0])
    held = unpickle(path)
    tensors = held.get("state_dict") if isinstance(held, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise ValueError(f"{path}: no state_dict, expected MoCo v3's published checkpoint")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(LEFT_OUT)}
    refuse_tensors(path, (), [name for name in kept if not name.startswith(ENCODER)], (), VERDICT)
    model: Any = vit_of(path, {name.removeprefix(ENCODER): tensor for name, tensor in kept.items()})
    model = model.eval().to(device)

    def network(seen: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        return model(pixel_values=seen).last_hidden_state[:, 0]

    return Encoder("mocov3", IMAGENET_CROP, network, device, batch_size)


def vit_of(where: Path, tensors: Mapping[str, Tensor]) -> ViTModel:
    """A ViT of these tensors, by their bare names (`blocks.0.norm1.weight`), in float32; shapes tell its sizes.

    Raises `ValueError` naming what is missing, not expected or of another shape.
    """
    try:
        config = _config_of(tensors)
    except KeyError as error:
        raise ValueError(f"{where}: {error.args[0]} is missing: {VERDICT}") from None
    if config.hidden_size % HEADS:
        raise ValueError(f"{where}: cls_token is {config.hidden_size} wide, expected a multiple of {HEADS}: {VERDICT}")
    with torch.device("meta"):
        model = ViTModel(config, add_pooling_layer=False)
    expected = dict(_published(model.state_dict()))
    check_tensors(where, shapes_of(tensors), shapes_of(expected), VERDICT)
    model.load_state_dict(dict(_as_hf(tensors)), assign=True)
    return model


def _config_of(tensors: Mapping[str, Tensor]) -> ViTConfig:
    width, patch = tensors["cls_token"].numel(), tensors["patch_embed.proj.weight"].shape[-1]
    return ViTConfig(
        hidden_size=width,
        num_hidden_layers=len({name.split(".")[1] for name in tensors if name.startswith("blocks.")}),
        num_attention_heads=HEADS,
        intermediate_size=tensors["blocks.0.mlp.fc1.bias"].numel(),
        image_size=patch * math.isqrt(tensors["pos_embed"].numel() // width),  # the class token's place is one more
        patch_size=patch,
        layer_norm_eps=1e-6,
    )


def _published(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a `ViTModel` by the checkpoint's names."""
    for name, tensor in joined(iter(tensors.items()), _Q_K_V, "qkv", "blocks.{layer}.attn.qkv.{kind}"):
        yield _RENAMING.back(name) or name, tensor


def _as_hf(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a checkpoint by the names of `ViTModel`."""
    for name, tensor in tensors.items():
        found = _QKV.fullmatch(name)
        if found:
            layer, kind = found.groups()
            for part, third in zip("qkv", tensor.float().chunk(3), strict=True):
                yield f"layers.{layer}.attention.{part}_proj.{kind}", third
        else:
            renamed = _RENAMING.there(name)
            assert renamed is not None, "names were checked"
            yield renamed, tensor.float()
