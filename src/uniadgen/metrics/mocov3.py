"""MoCo v3 similarity: the cosine of what a self-supervised ViT sees in two pictures (Chen et al. 2021)."""

from pathlib import Path
from typing import Final

import torch

from uniadgen.metrics.pictures import BATCH_SIZE
from uniadgen.metrics.trunk import Trunk

FILES: Final = ("vit-b-300ep.pth.tar", "vit-s-300ep.pth.tar")  # as published


def load_mocov3(folder: Path, device: torch.device, batch_size: int = BATCH_SIZE) -> Trunk:
    """Pictures as MoCo v3's class token after the last norm, from one of `FILES` in the folder.

    Raises `ValueError` for a file that holds more than tensors and numbers, or naming what is missing or too much.
    """
    trunk = Trunk.from_moco(next((folder / name for name in FILES if (folder / name).is_file()), folder / FILES[0]))
    trunk.batch_size = batch_size
    return trunk.to(device)
