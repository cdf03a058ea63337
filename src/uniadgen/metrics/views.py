"""Views of a picture for contrastive learning: cropped, flipped, blurred and so on, as MoCo v3 has them, in Pillow."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from uniadgen.config import ContrastConfig

TRIES = 10  # to find a crop of the wanted shape inside of the picture
RATIO = 4 / 3  # of a crop's sides, at most


def random_view(
    picture: Image.Image, side: int, config: ContrastConfig, number: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "S S 3"]:
    """The `number`-th view (0 or 1) of an RGB picture, a square of `side` pixels."""
    view = picture.resize((side, side), Image.Resampling.BILINEAR, box=crop(picture.size, config.min_crop, rng))
    view = jitter(view, config.colour_jitter, rng)
    if rng.random() < config.grey:
        view = view.convert("L").convert("RGB")
    if rng.random() < config.blur[number]:
        view = view.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 2.0) * side / 224))
    if rng.random() < config.solarise[number]:
        view = ImageOps.solarize(view)
    if rng.random() < config.flip:
        view = ImageOps.mirror(view)
    return np.asarray(view)


def crop(size: tuple[int, int], smallest: float, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A random part of a picture: at least `smallest` of its area, its sides at most 4 : 3."""
    width, height = size
    for _ in range(TRIES):
        area = rng.uniform(smallest, 1) * width * height
        ratio = np.exp(rng.uniform(-np.log(RATIO), np.log(RATIO)))
        w, h = np.sqrt(area * ratio), np.sqrt(area / ratio)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return float(left), float(top), float(left + w), float(top + h)
    short = min(width, height)  # a very long picture: its middle
    left, top = (width - short) / 2, (height - short) / 2
    return left, top, left + short, top + short


def jitter(view: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast, saturation and hue moved in any order, in four views of five; strength 1 is MoCo v3's."""
    if strength == 0 or rng.random() >= 0.8:
        return view
    changes = (
        lambda v: ImageEnhance.Brightness(v).enhance(1 + 0.4 * strength * rng.uniform(-1, 1)),
        lambda v: ImageEnhance.Contrast(v).enhance(1 + 0.4 * strength * rng.uniform(-1, 1)),
        lambda v: ImageEnhance.Color(v).enhance(1 + 0.2 * strength * rng.uniform(-1, 1)),
        lambda v: _turn_hue(v, 0.1 * strength * rng.uniform(-1, 1)),
    )
    for place in rng.permutation(len(changes)):
        view = changes[place](view)
    return view


def _turn_hue(view: Image.Image, turns: float) -> Image.Image:
    hue, saturation, value = view.convert("HSV").split()
    hue = hue.point([(level + round(256 * turns)) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")
