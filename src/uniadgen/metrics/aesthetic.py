"""The aesthetic score: how people would rate a picture, 1 to 10, by an affine map on CLIP ViT-L/14 (ASE, LAION)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from uniadgen.metrics.clip import clip_encoder, read_clip
from uniadgen.metrics.heads import WIDTH, Affine, fold
from uniadgen.metrics.pictures import BATCH_SIZE, Encoder, collected, in_batches
from uniadgen.metrics.pixels import CLIP_CROP
from uniadgen.model.shards import read

HEAD: Final = "sac+logos+ava1-l14-linearMSE.pth"
# What tells OpenAI's ViT-L/14 from LAION's, from the one for 336 px, and from smaller ones.
CLIP: Final = {"patch_size": 14, "image_size": 224, "hidden_act": "quick_gelu"}


@dataclass(frozen=True)
class AestheticScore:
    """weight . e + bias of the projected, normalised CLIP vector e. It looks at no prompt."""

    encoder: Encoder
    head: Affine
    name: str = "ase"
    needs_prompts: bool = False

    def __call__(
        self, pictures: Iterable[Image.Image], prompts: Iterable[str] | None = None
    ) -> Float32[np.ndarray, " N"]:
        """The score of each picture; `ValueError` for no pictures, or one that cannot be read."""
        return collected(self._score(batch) for batch in in_batches(pictures, self.encoder.batch_size))

    @torch.inference_mode()
    def _score(self, pictures: Sequence[Image.Image]) -> Float[Tensor, " B"]:
        return self.head(normalize(self.encoder.encode(pictures), dim=-1))

    def truncated(self, prompts: Sequence[str]) -> Bool[np.ndarray, " N"]:
        """None: prompts are not read."""
        return np.zeros(len(prompts), dtype=bool)


def load_aesthetic(folder: Path, device: torch.device, batch_size: int = BATCH_SIZE) -> AestheticScore:
    """The score from a folder with OpenAI's CLIP ViT-L/14 and `HEAD` beside it.

    Raises `ValueError` for another CLIP, or a head of other layers.
    """
    model = read_clip(folder, device)
    seen: Any = model.config.vision_config
    found = {name: getattr(seen, name) for name in CLIP} | {"projection_dim": model.config.projection_dim}
    wanted = CLIP | {"projection_dim": WIDTH}
    if found != wanted:
        raise ValueError(f"{folder}: got a CLIP with {found}, expected OpenAI's ViT-L/14 with {wanted}")
    head = fold(folder / HEAD, dict(read(folder / HEAD))).to(device)
    return AestheticScore(clip_encoder(model, CLIP_CROP, device, batch_size, "ase"), head)
