"""Product Background Similarity (paper section 3): how alike the backgrounds of two pictures are."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from PIL import Image
from torch import Tensor, nn

from uniadgen.config import PBSModelConfig, nearest
from uniadgen.metrics.pictures import similarity
from uniadgen.metrics.trunk import Trunk
from uniadgen.model.shards import in_new_folder, save_tensors
from uniadgen.model.weights import SHIPPED, WEIGHTS, load_weights

NAME = "pbs"  # of the shipped network, which was trained on AdWorld
CONFIG = "config.json"


class PBS(Trunk):
    """MoCo v3's ViT, compressed to 64 numbers. `PBS.from_pretrained("pbs").features(pictures)`.

    The compression ends in a batch norm without parameters of its own, which centres and scales what it learnt on.
    """

    name = NAME

    def __init__(self, config: PBSModelConfig) -> None:
        super().__init__(config)
        self.compress = nn.Sequential(
            nn.Linear(config.hidden_size, config.features, bias=False), nn.BatchNorm1d(config.features, affine=False)
        )

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C"]:
        """Features of standardised pixels."""
        return self.compress(super().forward(pixels))

    @classmethod
    def from_pretrained(cls, name: str | Path = NAME) -> "PBS":
        """Loads a folder that `save` wrote, or the shipped network by its name ("pbs"); on a GPU, if there is one.

        Raises `ValueError` when there is no such folder, or when a tensor is missing, extra or of another shape.
        """
        folder = SHIPPED / NAME if str(name) == NAME else Path(name)
        if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
            raise ValueError(
                f"{name}: no folder with {CONFIG} and {WEIGHTS}, expected one that `uniadgen train pbs` or "
                f"`uniadgen convert pbs` wrote{nearest(str(name), [NAME])}"
            )
        try:
            model = cls(PBSModelConfig.load(folder / CONFIG))
        except json.JSONDecodeError as error:
            raise ValueError(f"{folder / CONFIG}: not valid JSON ({error})") from None
        load_weights(model, folder)
        return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Writes a folder that `from_pretrained` reads, whole or not at all; statistics stay as they are."""
        learnt = {name for name, _ in self.named_parameters()}
        tensors = {name: t.to(dtype) if name in learnt else t for name, t in self.state_dict().items()}
        with in_new_folder(folder) as partial:
            self.config.save(partial / CONFIG)
            save_tensors({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, partial / WEIGHTS)


def pbs(
    pictures_a: Iterable[Image.Image], pictures_b: Iterable[Image.Image], model: PBS | None = None
) -> Float32[np.ndarray, " N"]:
    """Similarities in [-1, 1] of N pictures with N others, by default with the shipped network.

    Give iterators, and only a batch of pictures is in memory. Raises `ValueError` unless there are as many of both.
    """
    return similarity(PBS.from_pretrained() if model is None else model, pictures_a, pictures_b)
