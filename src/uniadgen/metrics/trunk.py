"""MoCo v3's vision transformer on transformers' ViTModel: how it sees a picture, and its published tensors."""

import argparse
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float32
from PIL import Image
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from uniadgen.config import PBSModelConfig
from uniadgen.metrics.pictures import collected, in_batches
from uniadgen.metrics.pixels import IMAGENET_CROP, CentreCrop
from uniadgen.model.convert import Renaming, Tensors, joined
from uniadgen.model.shards import check_tensors, shapes_of, unpickle

PREFIX = "module.base_encoder."
BESIDE = ("module.momentum_encoder.", "module.predictor.")  # of training; a checkpoint may hold them
HEAD = "head."  # the projector of training, likewise
# MoCo v3's name, ours.
NAMES = (
    ("cls_token", "vit.embeddings.cls_token"),
    ("pos_embed", "vit.embeddings.position_embeddings"),
    ("patch_embed.proj.*", "vit.embeddings.patch_embeddings.projection.*"),
    ("blocks.#.norm1.*", "vit.layers.#.layernorm_before.*"),
    ("blocks.#.norm2.*", "vit.layers.#.layernorm_after.*"),
    ("blocks.#.attn.proj.*", "vit.layers.#.attention.o_proj.*"),
    ("blocks.#.mlp.*", "vit.layers.#.mlp.*"),
    ("norm.*", "vit.layernorm.*"),
    ("compress_layer.*", "compress.*"),
)
_RENAMING = Renaming(NAMES)
_QKV = re.compile(r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)")
_Q_K_V = re.compile(r"vit\.layers\.(?P<layer>\d+)\.attention\.(?P<part>[qkv])_proj\.(?P<kind>weight|bias)")
Item = TypeVar("Item")
Network = TypeVar("Network", bound="Trunk")


class Trunk(nn.Module):
    """ViT whose feature of a picture is the class token after the last norm, as in MoCo v3 (arXiv 2104.02057)."""

    name = "mocov3"
    batch_size = 64  # pictures that are in memory at once

    def __init__(self, config: PBSModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vit = ViTModel(
            ViTConfig(
                hidden_size=config.hidden_size,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                intermediate_size=config.intermediate_size,
                image_size=config.image_size,
                patch_size=config.patch_size,
                layer_norm_eps=1e-6,
            ),
            add_pooling_layer=False,
        )

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Features of standardised pixels."""
        return self.vit(pixels).last_hidden_state[:, 0]

    @property
    def pixels(self) -> CentreCrop:
        """How it sees RGB pictures."""
        return replace(IMAGENET_CROP, short=self.config.resize, side=self.config.image_size)

    @torch.inference_mode()
    def features(self, pictures: Iterable[Image.Image]) -> Float32[np.ndarray, "N D"]:
        """One row a picture, not normalised. At most `batch_size` pictures are held, so give an iterator.

        Pictures may have any size and mode; what is transparent is seen on white. Raises `ValueError` for no pictures,
        or one that cannot be read.
        """
        self.eval()
        device = next(self.parameters()).device
        return collected(self(self.pixels(batch).to(device)) for batch in in_batches(pictures, self.batch_size))

    @classmethod
    def untrained(cls: type[Network], config: PBSModelConfig, seed: int) -> Network:
        """A network with random weights, which the seed decides."""
        with torch.random.fork_rng():  # transformers initialises from the global generator
            torch.manual_seed(seed)
            return cls(config).eval()

    @classmethod
    def from_moco(cls: type[Network], checkpoint: Path, num_heads: int = 12) -> Network:
        """Reads a checkpoint of MoCo v3's code, strictly; the number of heads is 12 in all that were published.

        Raises `ValueError` naming the tensors that are missing, extra or of another shape: nothing is left random.
        """
        found = read_encoder(checkpoint)
        model = cls(config_of(checkpoint, shapes_of(found), num_heads))
        model.take(checkpoint, found)
        return model.eval()

    @torch.no_grad()
    def take(self, checkpoint: Path, found: Mapping[str, Tensor]) -> None:
        """Copies the tensors that `read_encoder` found, strictly, and compares them under their own names."""
        own = self.state_dict()
        expected = shapes_of(dict(to_moco(iter(own.items()))))
        check_tensors(checkpoint, shapes_of(found), expected, f"these are not the tensors of {self.name}")
        for name, tensor in to_ours(iter(found.items())):
            own[name].copy_(tensor)


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one shorter; no more than one list is drawn from `items` ahead."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


# checkpoints of MoCo v3's code


def read_encoder(checkpoint: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint's base encoder by MoCo v3's names, its projector left out.

    Both forms are read: the authors' PBS, in the entry `model`, and MoCo v3's own, in `state_dict`. Raises
    `ValueError` for any other file, among them those whose tensors have lost their prefix: loaded leniently, such a
    file leaves a random model.
    """
    if not checkpoint.is_file():
        raise ValueError(f"{checkpoint}: no such file, expected a checkpoint of MoCo v3's code (.pth, .pth.tar)")
    with torch.serialization.safe_globals([argparse.Namespace]):  # the run's arguments: plain values
        held = unpickle(checkpoint)
    parts = held if isinstance(held, dict) else {}
    tensors = next((parts[name] for name in ("model", "state_dict") if isinstance(parts.get(name), dict)), None)
    if tensors is None:
        got = ", ".join(map(str, list(parts)[:3])) or type(held).__name__
        raise ValueError(f"{checkpoint}: got {got}, expected an entry `model` (PBS) or `state_dict` (MoCo v3)")
    wrong = [
        str(name)
        for name, tensor in tensors.items()
        if not isinstance(tensor, Tensor) or not str(name).startswith((PREFIX, *BESIDE))
    ]
    if wrong or not tensors:
        raise ValueError(
            f"{checkpoint}: {', '.join(wrong[:3]) or 'nothing'} (of {len(tensors)} tensors) is no tensor of "
            f"{PREFIX}*, expected the file that MoCo v3's code wrote, not one converted for other code"
        )
    own = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    return {name: tensor for name, tensor in own.items() if not name.startswith(HEAD)}


def to_ours(tensors: Tensors) -> Tensors:
    """MoCo v3's tensors under our names; queries, keys and values are one tensor there, three here."""
    for name, tensor in tensors:
        found = _QKV.fullmatch(name)
        if found:
            layer, kind = found.groups()
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                yield f"vit.layers.{layer}.attention.{letter}_proj.{kind}", part
        else:
            yield _known(name, _RENAMING.there(name)), tensor


def to_moco(tensors: Tensors) -> Tensors:
    """Our tensors under MoCo v3's names."""
    for name, tensor in joined(tensors, _Q_K_V, "qkv", "blocks.{layer}.attn.qkv.{kind}"):
        yield name if _QKV.fullmatch(name) else _known(name, _RENAMING.back(name)), tensor


def _known(name: str, renamed: str | None) -> str:
    assert renamed is not None, f"{name} has another name: tensors are compared before they are renamed"
    return renamed


def config_of(checkpoint: Path, shapes: Mapping[str, tuple[int, ...]], num_heads: int) -> PBSModelConfig:
    """The sizes of an encoder, told by its tensors' shapes; the picture is resized to 8/7 of what is cut out of it."""
    try:
        width, inner = (math.prod(shapes[name]) for name in ("cls_token", "blocks.0.mlp.fc1.bias"))
        patch = shapes["patch_embed.proj.weight"][-1]
        positions = math.prod(shapes["pos_embed"]) // width  # the class token's among them
    except KeyError as error:
        raise ValueError(f"{checkpoint}: {error.args[0]} is missing, expected a vision transformer") from None
    side = patch * max(1, math.isqrt(positions))
    try:
        return PBSModelConfig(
            resize=round(side * 8 / 7),
            image_size=side,
            patch_size=patch,
            hidden_size=width,
            num_layers=1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")),
            num_heads=num_heads,
            intermediate_size=inner,
            features=shapes.get("compress_layer.0.weight", (PBSModelConfig.features,))[0],
        )
    except ValueError as error:
        raise ValueError(f"{checkpoint}: {error}") from None
