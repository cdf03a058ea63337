"""A tiny PBS with random weights, and its tensors as a checkpoint of MoCo v3's code has them."""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from uniadgen.config import PBSModelConfig
from uniadgen.metrics.pbs import PBS
from uniadgen.metrics.trunk import to_moco

TINY = PBSModelConfig(
    resize=37, image_size=32, patch_size=8, hidden_size=24, num_layers=2, num_heads=3, intermediate_size=48, features=8
)


def random_pbs(seed: int = 0) -> PBS:
    """Everything matters and nothing is at its start, also the statistics."""
    model, generator = PBS.untrained(TINY, seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*model.parameters(), model.compress[1].running_mean):
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
        model.compress[1].running_var.uniform_(0.5, 2, generator=generator)
    return model


def moco_tensors(seed: int = 0) -> dict[str, Tensor]:
    """An encoder as MoCo v3's code names it."""
    return dict(to_moco(iter(random_pbs(seed).state_dict().items())))


def checkpoint(
    path: Path, tensors: dict[str, Tensor], entry: str = "model", prefix: str = "module.base_encoder."
) -> Path:
    """A file of torch, with what else a training leaves in it."""
    beside = {"module.momentum_encoder.cls_token": torch.zeros(1), "module.predictor.0.weight": torch.zeros(1)}
    held = {prefix + name: tensor for name, tensor in tensors.items()}
    torch.save({"epoch": 3, entry: held | beside, "args": argparse.Namespace(lr=0.1)}, path)
    return path
