"""The product's own pixels, pasted back over what the model painted."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from uniadgen.data.cutout import above


def paste(painted: Image.Image, canvas: Image.Image) -> Image.Image:
    """The product's own pixels over the painted picture, which is enlarged to the canvas.

    Where alpha is 255 the product's pixels are unchanged. What the model painted of the product just outside its
    outline would show as a seam, so the background is first drawn inwards over it, in the size it was painted in.
    """
    touched = canvas.getchannel("A").point(above(0)).resize(painted.size, Image.Resampling.BOX)
    sure = (_around(_tensor(touched), painted.width // 54) == 0).float()
    sure = sure * _around(sure, painted.width // 54) if sure.any() else 1 - sure  # no sudden end
    ground = _fill(_tensor(painted.convert("RGB")), sure)[0].permute(1, 2, 0)
    ad = Image.fromarray(ground.round().byte().numpy()).resize(canvas.size, Image.Resampling.BICUBIC)
    ad.paste(canvas, mask=canvas)
    return ad


def _tensor(picture: Image.Image) -> Float[Tensor, "1 C H W"]:
    pixels = torch.from_numpy(np.array(picture, dtype=np.float32))
    return pixels.view(1, *pixels.shape[:2], -1).permute(0, 3, 1, 2)


def _around(layer: Float[Tensor, "1 C H W"], reach: int) -> Float[Tensor, "1 C H W"]:
    """Means over the square around every pixel, without what is not in the picture."""
    reach = max(1, reach)
    return F.avg_pool2d(layer, 2 * reach + 1, stride=1, padding=reach, count_include_pad=False)


def _fill(pixels: Float[Tensor, "1 C H W"], sure: Float[Tensor, "1 1 H W"]) -> Float[Tensor, "1 C H W"]:
    """As far as a pixel is not sure, it is what is around it, looked up in the picture of half the size (pull-push)."""
    if sure.all():
        return pixels
    share = F.avg_pool2d(sure, 2, ceil_mode=True)
    mean = F.avg_pool2d(pixels * sure, 2, ceil_mode=True) / share.clamp(min=1e-6)
    coarse = F.interpolate(_fill(mean, (share > 0).float()), pixels.shape[2:], mode="bilinear")
    return coarse + sure * (pixels - coarse)
