"""DINOv3 similarity: the cosine of what a self-supervised ViT sees in two pictures (Siméoni et al. 2025)."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DINOv3ViTModel

from uniadgen.metrics.pictures import BATCH_SIZE, Encoder
from uniadgen.metrics.pixels import squash_of
from uniadgen.model.bases import load_base


def load_dinov3(folder: Path, device: torch.device, batch_size: int = BATCH_SIZE) -> Encoder:
    """Pictures as DINOv3's class token, of any of its ViTs in Hugging Face's layout, in float32.

    Raises `ValueError` naming every tensor that is missing or too much, or for another preprocessing.
    """
    model: Any = load_base(DINOv3ViTModel, folder, verdict="these are no DINOv3 ViT's weights", dtype=torch.float32)
    model = model.eval().to(device)

    def network(seen: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        return model(pixel_values=seen).pooler_output  # the class token after the last norm

    return Encoder("dinov3", squash_of(folder), network, device, batch_size)
