"""The heads of ImageReward and of the aesthetic score: five linear layers with nothing between, so one affine map."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from uniadgen.model.shards import check_tensors, shapes_of

# Both were made of the same code: where dropout was between layers in training, a number is left out.
SIZES: Final = {"layers.0": 1024, "layers.2": 128, "layers.4": 64, "layers.6": 16, "layers.7": 1}
WIDTH: Final = 768  # of what a head reads


@dataclass(frozen=True)
class Affine:
    """x -> weight . x + bias."""

    weight: Float[Tensor, " D"]
    bias: Float[Tensor, ""]

    def __call__(self, features: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """One number for each vector."""
        return features @ self.weight + self.bias

    def to(self, device: torch.device) -> "Affine":
        """The same map on a device."""
        return Affine(self.weight.to(device), self.bias.to(device))


def fold(where: Path, layers: Mapping[str, Tensor], width: int = WIDTH) -> Affine:
    """The five layers as one map, multiplied out in float64.

    Raises `ValueError` naming what is missing, not expected or of another shape; heads with activations between
    their layers have other numbers, and are refused by them.
    """
    check_tensors(where, shapes_of(layers), shapes(width), "this is not the head of five linear layers")
    weight, bias = torch.eye(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
    for name in SIZES:
        matrix, shift = (layers[f"{name}.{kind}"].double() for kind in ("weight", "bias"))
        weight, bias = matrix @ weight, matrix @ bias + shift
    return Affine(weight[0].float(), bias[0].float())


def shapes(width: int = WIDTH) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a head's tensors."""
    found: dict[str, tuple[int, ...]] = {}
    for name, size in SIZES.items():
        found |= {f"{name}.weight": (size, width), f"{name}.bias": (size,)}
        width = size
    return found
