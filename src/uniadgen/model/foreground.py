"""Foreground perception: the product's transparent picture becomes the control signal C of Eq. 5."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import Dinov2Model

from uniadgen.model.configuration import UniAdGenConfig


class Foreground(nn.Module):
    """Transparent picture -> DINOv2 -> control sequence layers (Eq. 5). Computed once per picture, never per step."""

    def __init__(self, config: UniAdGenConfig) -> None:
        super().__init__()
        size, width = config.foreground_config.hidden_size, config.text_config.hidden_size
        self.channels = config.foreground_config.num_channels
        self.size: int = config.foreground_config.image_size  # pyright: ignore[reportAttributeAccessIssue]
        self.strength = config.control_strength
        self.dinov2 = Dinov2Model(config.foreground_config)
        # No biases: a zero input (a dropped condition) stays exactly zero control.
        self.control_layers = nn.Sequential(
            nn.Linear(size, width, bias=False), nn.GELU(approximate="tanh"), nn.Linear(width, width, bias=False)
        )

    def forward(self, cutout: Float[Tensor, "B 4 H W"]) -> Float[Tensor, "B K D"]:
        """One control vector per image cell, row by row. `cutout` is premultiplied by alpha, in [0, 1]."""
        pixels = cutout
        if self.channels == 3:  # pretrained DINOv2 knows no alpha: on white
            pixels = cutout[:, :3] + (1 - cutout[:, 3:])
        size = self.size
        pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
        features = self.dinov2(pixels * 2 - 1).last_hidden_state[:, 1:]
        return self.strength * self.control_layers(features)


class ControlHook:
    """Adds control states to the hidden states that enter one decoder layer; picklable, holds no tensor.

    Eq. 5 adds C to the output of layers l with l mod `every` = 0, which is the input of layer l + 1. Every layer
    takes `control_states` out of the keyword arguments, so that attention kernels never see it.
    """

    def __init__(self, adds: bool) -> None:
        self.adds = adds

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        control = kwargs.pop("control_states", None)
        if control is not None and self.adds:
            args = (args[0] + control.to(args[0].dtype), *args[1:])
        return args, kwargs


def hook_control(layers: nn.ModuleList, every: int) -> None:
    """Registers Eq. 5 on a stack of stock decoder layers; C enters before layers 1, 1 + every, 1 + 2 every, ..."""
    for index, layer in enumerate(layers):
        layer.register_forward_pre_hook(ControlHook((index - 1) % every == 0 and index > 0), with_kwargs=True)
    assert any((i - 1) % every == 0 for i in range(1, len(layers))), "no layer takes the control"


def drop_rows(
    control: Float[Tensor, "B K D"], rate: float, generator: torch.Generator | None
) -> Float[Tensor, "B K D"]:
    """Condition dropout: the control of a share of rows is zero, so that guidance works without the product."""
    kept = torch.rand(len(control), 1, 1, generator=generator, device=control.device) >= rate
    return control * kept
