"""Whether an ad's picture shows the product as it is: preserved, nothing grown onto it, set off from its background.

All measures are taken at one size, so that one threshold fits ads of every size; smaller detail, as a
label's small print, is not looked at. PSNR, SSIM and the colour difference each miss what another sees (SSIM hardly
notices another colour), so all three are given. SSIM and CIEDE2000 are here because the library that has
them (scikit-image) brings SciPy and more for what takes fifty lines.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 288  # px of the longer side at which everything is measured
MARGIN = 2  # px taken off the product's outline: antialiasing and JPEG's ringing are no faults
BEST_PSNR = 100.0  # dB, given to equal pictures instead of infinity
CELL = 4  # Lab units: how alike a colour must be to be the product's
COMMON = 0.10  # of the far background in the product's colours: then nothing can be said of what is attached

Pixels = NDArray[np.float64]
Mask = NDArray[np.bool_]


class PictureMeasures(NamedTuple):
    """What was measured; None where it cannot be."""

    psnr: float | None  # dB inside the product, less is worse; None: the product is thinner than 2 MARGIN
    ssim: float | None  # -1..1 inside the product, less is worse; None as above
    colour: float | None  # mean CIEDE2000 inside the product, more is worse; None as above
    attached: float | None  # area in the product's colours grown onto it / its own area; None: colours too common
    contrast: float | None  # median CIEDE2000 across the outline, less is worse; None: no outline in the picture


def measure_picture(picture: Image.Image, placed: Image.Image) -> PictureMeasures:
    """Measures an ad against the product as it was placed: RGBA of the ad's own size.

    Raises `ValueError` for another size or mode, or a product that is not there at all.
    """
    if placed.mode != "RGBA":
        raise ValueError(f"the placed product has mode {placed.mode}, expected RGBA: cut it out first")
    if picture.size != placed.size:
        raise ValueError(
            f"the ad has {_size(picture)} pixels and the placed product {_size(placed)}, expected the same: place the "
            "product as it stands in the ad"
        )
    if np.asarray(placed.getchannel("A")).max() < 128:
        raise ValueError("the placed product is nowhere opaque, expected a visible product: check its transparency")
    scale = SIDE / max(picture.size)
    size = max(1, round(scale * picture.width)), max(1, round(scale * picture.height))
    ad = picture.convert("RGB")
    wanted = ad.copy()  # the background is the ad's own, so that it makes no difference
    wanted.paste(placed.convert("RGB"), mask=placed.getchannel("A"))
    ad, wanted, product = (each.resize(size, Image.Resampling.LANCZOS) for each in (ad, wanted, placed))
    opacity = np.asarray(product.getchannel("A"))
    found, expected = np.asarray(ad), np.asarray(wanted)
    lab, inside = to_lab(found), shrunk(opacity >= 250, MARGIN)
    psnr = ssim_value = colour = None
    if inside.any():
        near = _around(inside, 6)  # all that SSIM's window sees from inside
        difference = found[near].astype(np.float64) - expected[near]
        error = (difference[inside[near]] ** 2).mean()
        psnr = float(min(BEST_PSNR, 10 * np.log10(255**2 / max(error, 1e-9))))
        ssim_value = float(ssim(_luma(found[near]), _luma(expected[near]))[inside[near]].mean())
        colour = float(ciede2000(lab[inside], to_lab(expected[inside])).mean())
    body = inside if inside.any() else opacity >= 128
    attached = _attached(lab, to_lab(expected[body]), opacity)
    return PictureMeasures(psnr, ssim_value, colour, attached, _contrast(lab, opacity))


def _size(picture: Image.Image) -> str:
    return f"{picture.width} x {picture.height}"


def _around(mask: Mask, by: int) -> tuple[slice, slice]:
    """The smallest part of a picture that holds the mask, with a margin."""
    sides = []
    for axis in (1, 0):
        places = np.flatnonzero(mask.any(axis))
        sides.append(slice(max(0, int(places[0]) - by), int(places[-1]) + 1 + by))
    return sides[0], sides[1]


def _attached(lab: Pixels, sample: Pixels, opacity: NDArray[np.uint8]) -> float | None:
    """Area outside the product, in the colours of its `sample` and connected to it, as a share of the product's area.

    Where the product's colours are common far away, the background is simply like the product: None.
    """
    covered = opacity > 0
    near, far = grown(covered, MARGIN + 1), grown(covered, SIDE // 16)
    alike = _has_colour_of(lab, sample)
    ground = ~far
    if not ground.any() or alike[ground].mean() > COMMON:
        return None
    region = near & ~covered & alike
    allowed = alike & ~covered
    while True:
        larger = grown(region, 1) & allowed
        if (larger == region).all():
            return float((region & ~near).sum() / covered.sum())
        region = larger


def _has_colour_of(lab: Pixels, sample: Pixels) -> Mask:
    """Which pixels have a colour that the sample has often, or its neighbour in a grid of `CELL` Lab units."""
    cells = np.zeros((28, 66, 66), np.int64)
    np.add.at(cells, _cell(sample), 1)
    often = cells >= max(1, 0.002 * len(sample))
    padded = np.pad(often, 1)
    near = np.zeros_like(often)
    for i, j, k in np.ndindex(3, 3, 3):
        near |= padded[i : i + 28, j : j + 66, k : k + 66]
    return near[_cell(lab)]


def _cell(lab: Pixels) -> tuple[NDArray[np.int64], ...]:
    index = np.floor_divide(lab + np.array([0, 130, 130]), CELL).astype(np.int64)
    return tuple(np.clip(index[..., axis], 0, (27, 65, 65)[axis]) for axis in range(3))


def _contrast(lab: Pixels, opacity: NDArray[np.uint8]) -> float | None:
    """Median colour difference along the outline between the product there and the background there."""
    inner, outer = opacity >= 250, opacity == 0
    edge = grown(outer, MARGIN) & grown(inner, MARGIN)
    if not edge.any():
        return None
    near = _around(edge, 11)  # all that the local means are of
    within, without = (_local_mean(lab[near], mask[near])[edge[near]] for mask in (inner, outer))
    return float(np.median(ciede2000(within, without)))


def _local_mean(lab: Pixels, mask: Mask) -> Pixels:
    weight = blurred(mask.astype(np.float64), 3.0)
    return blurred(lab * mask[..., None], 3.0) / np.maximum(weight, 1e-9)[..., None]


def ssim(one: Pixels, other: Pixels) -> Pixels:
    """The SSIM map of two (H, W) pictures in 0..255 (Wang et al. 2004: Gaussian window, sigma 1.5)."""
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean, wanted = blurred(one, 1.5), blurred(other, 1.5)
    variance = blurred(one**2, 1.5) - mean**2 + blurred(other**2, 1.5) - wanted**2
    covariance = blurred(one * other, 1.5) - mean * wanted
    brightness = (2 * mean * wanted + c1) / (mean**2 + wanted**2 + c1)
    return brightness * (2 * covariance + c2) / (variance + c2)


def ciede2000(one: Pixels, other: Pixels) -> Pixels:
    """Colour difference of (..., 3) Lab colours, 1 being just noticeable (Sharma, Wu and Dalal 2005)."""
    light, a, b = np.moveaxis(np.stack([one, other]), -1, 0)
    strong = np.hypot(a, b).mean(0) ** 7
    a = a * (1.5 - 0.5 * np.sqrt(strong / (strong + 25.0**7)))
    chroma, hue = np.hypot(a, b), np.arctan2(b, a) % (2 * np.pi)
    turn = hue[1] - hue[0]
    grey = chroma.prod(0) == 0
    turn = np.where(grey, 0, turn - 2 * np.pi * np.round(turn / (2 * np.pi)))
    far = np.abs(hue[1] - hue[0]) > np.pi
    mean_hue = np.where(grey, hue.sum(0), (hue.mean(0) + np.pi * far) % (2 * np.pi))
    mean_light, mean_chroma = light.mean(0), chroma.mean(0)
    waves = ((1, -30, -0.17), (2, 0, 0.24), (3, 6, 0.32), (4, -63, -0.20))
    t = 1 + sum(size * np.cos(n * mean_hue + np.radians(start)) for n, start, size in waves)
    d_light = (light[1] - light[0]) / (1 + 0.015 * (mean_light - 50) ** 2 / np.sqrt(20 + (mean_light - 50) ** 2))
    d_chroma = (chroma[1] - chroma[0]) / (1 + 0.045 * mean_chroma)
    d_hue = 2 * np.sqrt(chroma.prod(0)) * np.sin(turn / 2) / (1 + 0.015 * mean_chroma * t)
    blue = np.radians(60) * np.exp(-(((np.degrees(mean_hue) - 275) / 25) ** 2))
    rotation = -2 * np.sqrt(mean_chroma**7 / (mean_chroma**7 + 25.0**7)) * np.sin(blue)
    return np.sqrt(d_light**2 + d_chroma**2 + d_hue**2 + rotation * d_chroma * d_hue)


_SHARE: Final = np.arange(256) / 255
_LINEAR: Final = np.where(_SHARE <= 0.04045, _SHARE / 12.92, ((_SHARE + 0.055) / 1.055) ** 2.4)
_TO_XYZ: Final = np.array([
    (0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041),
])  # fmt: skip


def to_lab(pixels: NDArray[np.uint8]) -> Pixels:
    """(..., 3) sRGB -> CIE Lab under D65."""
    xyz = _LINEAR[pixels] @ (_TO_XYZ / _TO_XYZ.sum(1, keepdims=True)).T
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def _luma(pixels: NDArray[np.uint8]) -> Pixels:
    return pixels.astype(np.float64) @ np.array([0.299, 0.587, 0.114])


def blurred(values: Pixels, sigma: float) -> Pixels:
    """(H, W) or (H, W, C) under a Gaussian cut at 3.5 sigma, edges repeated."""
    reach = round(3.5 * sigma)
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps /= taps.sum()
    for axis in (0, 1):
        padding = [(reach, reach) if i == axis else (0, 0) for i in range(values.ndim)]
        padded, size = np.pad(values, padding, mode="edge"), values.shape[axis]
        windows = (padded.take(range(start, start + size), axis) for start in range(len(taps)))
        values = np.sum([weight * window for weight, window in zip(taps, windows, strict=True)], axis=0)
    return values


def grown(mask: Mask, by: int) -> Mask:
    """The mask and all within `by` pixels of it, diagonals included."""
    for _ in range(by):
        tall = mask.copy()
        tall[1:] |= mask[:-1]
        tall[:-1] |= mask[1:]
        mask = tall.copy()
        mask[:, 1:] |= tall[:, :-1]
        mask[:, :-1] |= tall[:, 1:]
    return mask


def shrunk(mask: Mask, by: int) -> Mask:
    """The mask without all within `by` pixels of what is outside of it."""
    return ~grown(~mask, by)
