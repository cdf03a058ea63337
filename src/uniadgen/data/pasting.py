"""The product's own pixels, pasted back over what the model painted."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from uniadgen.data.cutout import above

Level = tuple[Float[Tensor, "1 1 _ _"], Float[Tensor, "1 1 _ _"]]  # how sure pixels are, and those of half the size


class Pasting:
    """One product as it is pasted over pictures of one size."""

    def __init__(self, canvas: Image.Image, size: tuple[int, int]) -> None:
        """The product on its canvas, and the size that pictures are painted in."""
        self.canvas = canvas
        touched = canvas.getchannel("A").point(above(0)).resize(size, Image.Resampling.BOX)
        sure = (_around(_tensor(touched), size[0] // 54) == 0).float()
        sure = sure * _around(sure, size[0] // 54) if sure.any() else 1 - sure  # no sudden end
        self.levels: list[Level] = []
        while not sure.all():
            share = F.avg_pool2d(sure, 2, ceil_mode=True)
            self.levels.append((sure, share.clamp(min=1e-6)))
            sure = (share > 0).float()

    def over(self, painted: Image.Image) -> Image.Image:
        """The product's own pixels over the painted picture, which is enlarged to the canvas.

        Where alpha is 255 the product's pixels are unchanged. What the model painted of the product just outside its
        outline would show as a seam, so the background is first drawn inwards over it, in the size it was painted in.
        """
        ground = _fill(_tensor(painted.convert("RGB")), self.levels)[0].permute(1, 2, 0)
        ad = Image.fromarray(ground.round().byte().numpy()).resize(self.canvas.size, Image.Resampling.BICUBIC)
        ad.paste(self.canvas, mask=self.canvas)
        return ad


def paste(painted: Image.Image, canvas: Image.Image) -> Image.Image:
    """Of a product that is pasted once."""
    return Pasting(canvas, painted.size).over(painted)


def _tensor(picture: Image.Image) -> Float[Tensor, "1 C H W"]:
    pixels = torch.from_numpy(np.array(picture, dtype=np.float32))
    return pixels.view(1, *pixels.shape[:2], -1).permute(0, 3, 1, 2)


def _around(layer: Float[Tensor, "1 C H W"], reach: int) -> Float[Tensor, "1 C H W"]:
    """Means over the square around every pixel, without what is not in the picture."""
    reach = max(1, reach)
    return F.avg_pool2d(layer, 2 * reach + 1, stride=1, padding=reach, count_include_pad=False)


def _fill(pixels: Float[Tensor, "1 C H W"], levels: Sequence[Level]) -> Float[Tensor, "1 C H W"]:
    """As far as a pixel is not sure, it is what is around it, looked up in the picture of half the size (pull-push)."""
    if not levels:
        return pixels
    (sure, share), *coarser = levels
    mean = F.avg_pool2d(pixels * sure, 2, ceil_mode=True) / share
    coarse = F.interpolate(_fill(mean, coarser), pixels.shape[2:], mode="bilinear")
    return coarse + sure * (pixels - coarse)
