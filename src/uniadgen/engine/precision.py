"""Numbers of eight bits on a GPU: weights with a scale for each of their rows, keys and values as they are."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

EIGHT_BIT = torch.float8_e4m3fn
MOST = 448.0  # the largest number in e4m3
CAPABILITY = (8, 9)  # GPUs from this one on multiply e4m3
CHOICES = ("model", "fp8")


@dataclass(frozen=True, kw_only=True)
class Precision:
    """How an engine on a GPU holds what every step reads; `model`: in the model's dtype."""

    weights: str = "model"  # fp8: e4m3 with a float32 scale for each output
    cache: str = "model"  # fp8: keys and values in e4m3, without a scale: they are of norm-bound size

    def __post_init__(self) -> None:
        for name in ("weights", "cache"):
            if getattr(self, name) not in CHOICES:
                raise ValueError(
                    f"precision.{name} is {getattr(self, name)!r}, expected {' or '.join(CHOICES)}: choose one of them"
                )

    @property
    def in_eight_bits(self) -> bool:
        """Whether anything is."""
        return "fp8" in (self.weights, self.cache)

    def check(self, device: torch.device) -> None:
        """Raises `ValueError` where the GPU has no e4m3. A CPU emulates it, slowly: that is how it is tested."""
        if self.in_eight_bits and device.type == "cuda":
            capability = torch.cuda.get_device_capability(device)
            if capability < CAPABILITY:
                raise ValueError(
                    f"{torch.cuda.get_device_name(device)} has compute capability {capability[0]}.{capability[1]}, "
                    f"expected {CAPABILITY[0]}.{CAPABILITY[1]} or more for fp8: use Precision() on it"
                )


class Scaled(NamedTuple):
    """A weight in eight bits: `rows` (out, k) in e4m3, to be multiplied with `scale` (out)."""

    rows: Tensor
    scale: Tensor

    def restored(self, dtype: torch.dtype) -> Float[Tensor, "out k"]:
        """As numbers of that type: each within 1/16 of what it was, or within half of its row's smallest step."""
        return self.rows.to(dtype) * self.scale.to(dtype)[:, None]

    @property
    def num_bytes(self) -> int:
        """Of both."""
        return self.rows.numel() + 4 * self.scale.numel()


def scaled(weight: Float[Tensor, "out k"]) -> Scaled:
    """The largest number of every row becomes e4m3's largest."""
    scale = weight.abs().amax(dim=1).float().clamp(min=1e-12) / MOST
    return Scaled((weight / scale[:, None]).clamp(-MOST, MOST).to(EIGHT_BIT).contiguous(), scale)


def narrowed(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Keys or values as a cache of that type holds them: what is too large for e4m3 becomes its largest."""
    if dtype == EIGHT_BIT and numbers.dtype != EIGHT_BIT:
        numbers = numbers.clamp(-MOST, MOST)
    return numbers.to(dtype)
