"""Pictures as the pixels that published encoders read: by PIL and torch, as torchvision would make them."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import CLIPImageProcessorPil
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from uniadgen.metrics.pictures import Pixels

Colour = tuple[float, float, float]
PROCESSOR: Final = "preprocessor_config.json"


def _colour(values: Any) -> Colour:
    red, green, blue = map(float, values)
    return red, green, blue


@dataclass(frozen=True)
class CentreCrop:
    """The short side made `short` px long, the middle square of `side` px cut out, colours standardised.

    As torchvision's Resize and CenterCrop treat a PIL picture: the longer side is rounded down, and a margin that is
    odd is halved to the nearest even number. transformers' processors round that margin down, so theirs differ by a
    pixel for a quarter of all sizes that are not square.
    """

    short: int
    side: int
    resample: Image.Resampling
    mean: Colour
    std: Colour

    def __call__(self, pictures: Sequence[Image.Image]) -> Float[Tensor, "B 3 {self.side} {self.side}"]:
        """RGB pictures of any size."""
        if len(pictures) == 1:
            pixels = [self._pixels(pictures[0])]
        else:
            with ThreadPoolExecutor() as pool:  # Pillow lets go of Python's lock while it resizes
                pixels = list(pool.map(self._pixels, pictures))
        return standardised(torch.stack(pixels), self.mean, self.std)

    def _pixels(self, picture: Image.Image) -> Float[Tensor, "3 {self.side} {self.side}"]:
        return scaled(self._crop(picture))

    def _crop(self, picture: Image.Image) -> Image.Image:
        least = min(picture.size)
        width, height = (self.short * length // least for length in picture.size)
        left, top = (round((length - self.side) / 2) for length in (width, height))
        return picture.resize((width, height), self.resample).crop((left, top, left + self.side, top + self.side))


# OpenAI's own preprocessing of CLIP, which ImageReward and the aesthetic score use.
CLIP_CROP: Final = CentreCrop(224, 224, Image.Resampling.BICUBIC, _colour(OPENAI_CLIP_MEAN), _colour(OPENAI_CLIP_STD))
# How MoCo v3 is evaluated on ImageNet.
IMAGENET_CROP: Final = CentreCrop(
    256, 224, Image.Resampling.BILINEAR, _colour(IMAGENET_DEFAULT_MEAN), _colour(IMAGENET_DEFAULT_STD)
)


@dataclass(frozen=True)
class Squash:
    """The whole picture squashed to `height` x `width` in floating point, as DINOv3's processor does."""

    height: int
    width: int
    mean: Colour
    std: Colour

    def __call__(self, pictures: Sequence[Image.Image]) -> Float[Tensor, "B 3 {self.height} {self.width}"]:
        """RGB pictures of any size."""
        size = (self.height, self.width)
        pixels = [interpolate(scaled(picture)[None], size, mode="bilinear", antialias=True) for picture in pictures]
        return standardised(torch.cat(pixels), self.mean, self.std)


def scaled(picture: Image.Image) -> Float[Tensor, "3 H W"]:
    """An RGB picture in 0..1."""
    return torch.from_numpy(np.asarray(picture, np.float32).transpose(2, 0, 1) / 255)


def standardised(pixels: Float[Tensor, "B 3 H W"], mean: Colour, std: Colour) -> Float[Tensor, "B 3 H W"]:
    """Each colour less its mean, divided by its standard deviation."""
    centre, spread = (torch.tensor(colour).view(3, 1, 1) for colour in (mean, std))
    return (pixels - centre) / spread


_SQUASHED: Final = {
    "do_resize": True, "do_rescale": True, "do_normalize": True, "do_center_crop": False,
    "resample": Image.Resampling.BILINEAR,
}  # fmt: skip


def squash_of(folder: Path) -> Squash:
    """DINOv3's preprocessing from its folder; `ValueError` for one that does anything else.

    transformers' own class for it needs torchvision.
    """
    given = _read(folder)
    try:
        size = int(given["size"]["height"]), int(given["size"]["width"])
        mean, std = (_colour(given[name]) for name in ("image_mean", "image_std"))
        for name, value in _SQUASHED.items():
            if (given.get(name) or False) != value:
                raise KeyError(name)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / PROCESSOR}: {error!r} is not as in DINOv3's, expected its own file") from None
    return Squash(*size, mean, std)


def processor_of(folder: Path) -> Pixels:
    """CLIP's preprocessing as transformers has it, with the settings of a folder."""
    _read(folder)
    processor: Any = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
    return lambda pictures: processor(images=list(pictures), return_tensors="pt")["pixel_values"]


def _read(folder: Path) -> dict[str, Any]:
    path = folder / PROCESSOR
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder}: no {PROCESSOR}, expected it beside the weights") from None
    except ValueError as error:
        raise ValueError(f"{path}: damaged, expected JSON ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: got a JSON {type(found).__name__}, expected an object")
    return found
