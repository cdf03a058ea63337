"""Foreground perception: the product's transparent picture becomes the control signal C of Eq. 5."""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import Dinov2Model

from uniadgen.model.bases import load_base
from uniadgen.model.configuration import UniAdGenConfig
from uniadgen.model.shards import check_tensors


class Foreground(nn.Module):
    """Transparent picture -> DINOv2 -> control sequence layers (Eq. 5). Computed once per picture, never per step."""

    def __init__(self, config: UniAdGenConfig) -> None:
        super().__init__()
        size, width = config.foreground_config.hidden_size, config.text_config.hidden_size
        self.channels = config.foreground_config.num_channels
        self.size: int = config.foreground_config.image_size  # pyright: ignore[reportAttributeAccessIssue]
        self.strength = config.control_strength
        self.dinov2 = Dinov2Model(config.foreground_config)
        mask_token = self.dinov2.embeddings.mask_token  # of DINOv2's own training; we mask nothing
        assert mask_token is not None, "DINOv2 has one"
        mask_token.requires_grad_(False)
        self.control_layers = control_layers(size, width)

    def load_dinov2(self, folder: Path) -> None:
        """Takes a published DINOv2's weights; `ValueError` where they are not all there or of another size."""
        found = load_base(Dinov2Model, folder)
        tensors, expected = found.state_dict(), self.dinov2.state_dict()
        positions = "embeddings.position_embeddings"
        side = math.isqrt(expected[positions].shape[1] - 1)
        tensors[positions] = resample_positions(tensors[positions], side)
        shapes = [{name: tensor.shape for name, tensor in state.items()} for state in (tensors, expected)]
        check_tensors(folder, *shapes, verdict="this is not the DINOv2 of the config")
        self.dinov2.load_state_dict(tensors)

    def forward(self, cutout: Float[Tensor, "B 4 H W"]) -> Float[Tensor, "B K C"]:
        """One control vector per image cell, row by row. `cutout` is premultiplied by alpha, in [0, 1].

        It has D entries for every site, the places in the decoder that are controlled differently: one here.
        """
        pixels = cutout
        if self.channels == 3:  # pretrained DINOv2 knows no alpha: on white
            pixels = cutout[:, :3] + (1 - cutout[:, 3:])
        features = self.dinov2(self._resize(pixels) * 2 - 1).last_hidden_state[:, 1:]
        return self._control(features) * (1.0 if self.training else self.strength)

    def _resize(self, pixels: Float[Tensor, "B c H W"]) -> Float[Tensor, "B c h w"]:
        """To what DINOv2 sees: 14 pixels for every image cell."""
        size = (self.size, self.size)
        return F.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)

    def _control(self, features: Float[Tensor, "B K F"]) -> Float[Tensor, "B K C"]:
        return self.control_layers(features)


class ReleaseForeground(Foreground):
    """As the authors' release has it: layers of its own for every controlled decoder layer, one cell late."""

    def __init__(self, config: UniAdGenConfig) -> None:
        super().__init__(config)
        width = config.text_config.hidden_size
        self.condition_layers = control_layers(width, width)
        num_sites = len(range(0, config.text_config.num_hidden_layers, config.control_every))
        self.site_layers = nn.ModuleList(control_layers(width, width) for _ in range(num_sites))

    def _resize(self, pixels: Float[Tensor, "B c H W"]) -> Float[Tensor, "B c h w"]:
        """First smoothly to the size of the picture, with 16 pixels a cell, then to 14 by leaving some out."""
        side = self.size // 14 * 16
        pixels = F.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
        return F.interpolate(pixels, size=(self.size, self.size), mode="nearest")

    def _control(self, features: Float[Tensor, "B K F"]) -> Float[Tensor, "B K C"]:
        """The control of a cell is given where its code is read, not where it is predicted: the first cell has none."""
        condition = self.condition_layers(self.control_layers(features))
        sites = torch.cat([layers(condition) for layers in self.site_layers], dim=-1)
        return F.pad(sites, (0, 0, 1, 0))[:, :-1]


def control_layers(size: int, width: int) -> nn.Sequential:
    """Two layers without biases: a zero input (a dropped condition) stays exactly zero control."""
    return nn.Sequential(
        nn.Linear(size, width, bias=False), nn.GELU(approximate="tanh"), nn.Linear(width, width, bias=False)
    )


class ControlHook:
    """Adds control states to the hidden states that enter one decoder layer; picklable, holds no tensor.

    `site` says which part of the control vectors is added, None adds nothing. Every layer takes `control_states`
    out of the keyword arguments, so that attention kernels never see it.
    """

    def __init__(self, site: int | None) -> None:
        self.site = site

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        control = kwargs.pop("control_states", None)
        if control is not None and self.site is not None:
            width = args[0].shape[-1]
            own = control[..., self.site * width : (self.site + 1) * width]
            args = (args[0] + own.to(args[0].dtype), *args[1:])
        return args, kwargs


def control_sites(config: UniAdGenConfig) -> dict[int, int]:
    """Decoder layers whose input the control is added to -> which part of the control vectors (its site).

    Eq. 5 adds C to the output of layers l with l mod `every` = 0, which is the input of layers 1, 1 + every, ...
    The release adds a C of its own to the input of every layer 0, every, 2 every, ...
    """
    number, every = config.text_config.num_hidden_layers, config.control_every
    if config.variant == "release":
        return {index: site for site, index in enumerate(range(0, number, every))}
    return dict.fromkeys(range(1, number, every), 0)


def hook_control(layers: nn.ModuleList, config: UniAdGenConfig) -> None:
    """Registers the control on a stack of stock decoder layers."""
    sites = control_sites(config)
    assert sites, "no layer takes the control"
    for index, layer in enumerate(layers):
        layer.register_forward_pre_hook(ControlHook(sites.get(index)), with_kwargs=True)


def resample_positions(table: Float[Tensor, "1 L C"], side: int) -> Float[Tensor, "1 M C"]:
    """DINOv2's position table (class token first) for a grid of `side` x `side` patches.

    Bicubic with the scale (side + 0.1) / old side: the formula of the code that DINOv2 was published with, which later
    versions of transformers changed. Resampled once and stored, the table is used as it is.
    """
    old = math.isqrt(table.shape[1] - 1)
    if old == side:
        return table
    grid = table[:, 1:].float().unflatten(1, (old, old)).permute(0, 3, 1, 2)
    scale = (side + 0.1) / old
    grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1].float(), grid.flatten(2).transpose(1, 2)], dim=1).to(table.dtype)


def drop_rows(
    control: Float[Tensor, "B K C"], rate: float, generator: torch.Generator | None
) -> Float[Tensor, "B K C"]:
    """Condition dropout: the control of a share of rows is zero, so that guidance works without the product."""
    kept = torch.rand(len(control), 1, 1, generator=generator, device=control.device) >= rate
    return control * kept
