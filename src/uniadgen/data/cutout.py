"""The product's transparent picture: read, and placed on the canvas."""

import warnings
from io import BytesIO
from math import ceil, gcd
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 64_000_000  # 8000 x 8000; a larger picture is refused before it is decoded
# Where a product stands that comes without a placement of its own: as AdWorld's and most shops' pictures have it.
STAND_HEIGHT, STAND_WIDTH, STAND_BASE = 0.50, 0.60, 0.78  # shares of the canvas
MARGIN = 0.08  # a square picture whose product keeps this share free on every side brings its own placement


def read_picture(path: Path, mode: str, data: bytes | None = None) -> Image.Image:
    """Reads a picture, turned as its camera says, as RGB (what is transparent becomes white) or RGBA (mode).

    Where its bytes are given as `data`, `path` is only its name in messages.
    Raises `ValueError` saying what was got and what to do: no such file, not a picture, cut short, too large
    (told from its header, before decoding), or no transparency where RGBA is asked for.
    """
    if data is None and not path.is_file():
        raise ValueError(f"{path}: no such file, expected a picture (PNG, WebP or JPEG)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path if data is None else BytesIO(data)) as picture:
                _check_size(path, picture)
                picture.load()
    except Image.DecompressionBombError:
        raise ValueError(f"{path}: far more than {MAX_PIXELS:,} pixels, expected fewer: make it smaller") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not a picture that can be read, expected PNG, WebP or JPEG") from None
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        raise ValueError(f"{path}: the picture is damaged or cut short ({error}): save it again") from None
    picture = ImageOps.exif_transpose(picture)
    if mode == "RGBA" and not picture.has_transparency_data:
        raise ValueError(
            f"{path}: the picture has mode {picture.mode} without transparency, expected a product cut out on a "
            "transparent background: remove its background (any cut-out tool) and save it as PNG or WebP"
        )
    return in_mode(picture, mode)


def in_mode(picture: Image.Image, mode: str) -> Image.Image:
    """A picture of any mode as RGB, on white where it is transparent, or as RGBA."""
    if picture.mode.startswith("I"):  # 16-bit grey, of which Pillow would cut off the bright part
        picture = Image.fromarray((np.asarray(picture) // 256).astype(np.uint8))
    if mode == "RGB" and picture.has_transparency_data:
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
    return picture.convert(mode)


def _check_size(path: Path, picture: Image.Image) -> None:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{path}: {width} x {height} pixels, expected at most {MAX_PIXELS:,} in all: make it smaller")
    if min(width, height) < 8:
        raise ValueError(f"{path}: {width} x {height} pixels, expected at least 8 x 8: use a larger picture")


def squash(picture: Image.Image, side: int) -> Image.Image:
    """A picture as it is encoded: RGB, a square of `side` pixels."""
    return picture.convert("RGB").resize((side, side), Image.Resampling.BOX)


def place(cutout: Image.Image, side: int) -> Image.Image:
    """The product on a transparent square canvas of `side` pixels.

    A square picture whose product keeps a margin is taken as the placement that its maker wanted. Any other is
    cropped to the product and put where products stand: centred, on the stage, at a fitting size.
    """
    box = cutout.getchannel("A").point(above(8)).getbbox() or cutout.getbbox()
    assert box is not None, "Product refuses fully transparent pictures"
    width, height = cutout.size
    free = min(box[0] / width, box[1] / height, 1 - box[2] / width, 1 - box[3] / height)
    if width == height and free >= MARGIN:
        return _resized(cutout, side)
    product = cutout.crop(box)
    scale = min(STAND_WIDTH * side / product.width, STAND_HEIGHT * side / product.height)
    size = max(1, round(product.width * scale)), max(1, round(product.height * scale))
    product = product.resize(size, Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (side, side))
    canvas.paste(product, ((side - product.width) // 2, round(STAND_BASE * side) - product.height))
    return canvas


def _resized(cutout: Image.Image, side: int) -> Image.Image:
    """A square picture in another size, bit for bit; but only the part with the product is worked on.

    That part begins and ends where a pixel of both sizes does, and is square, too: in other pictures Pillow may change
    the height before the width, and rounds between the two.
    """
    if cutout.width == side:
        return cutout.copy()
    common = gcd(cutout.width, side)
    step, wanted = cutout.width // common, side // common
    around = ceil(2 * 3 * max(1, cutout.width / side))  # Lanczos' reach: of the product, and of what it reaches
    box = cutout.getbbox()
    assert box is not None, "Product refuses fully transparent pictures"
    left, top = (max(0, edge - around) // step for edge in box[:2])
    right, bottom = (-(-min(cutout.width, edge + around) // step) for edge in box[2:])
    span = max(right - left, bottom - top)
    left, top = (min(start, common - span) for start in (left, top))
    product = cutout.crop((step * left, step * top, step * (left + span), step * (top + span)))
    size = wanted * span, wanted * span
    canvas = Image.new("RGBA", (side, side))
    canvas.paste(product.resize(size, Image.Resampling.LANCZOS), (wanted * left, wanted * top))
    return canvas


def above(alpha: int) -> list[int]:
    """A look-up table: 255 for every value above `alpha`."""
    return [255 * (value > alpha) for value in range(256)]


def premultiplied(canvas: Image.Image | np.ndarray) -> np.ndarray:
    """RGBA -> what the model reads: float32 (4, H, W) in [0, 1], colours multiplied by alpha."""
    pixels = np.asarray(canvas, dtype=np.float32) / 255
    pixels[..., :3] *= pixels[..., 3:]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def as_released(cutout: Image.Image, max_ratio: float = 1.0) -> Image.Image:
    """The transparent picture as the authors' release prepares it, in its own size.

    A product wider or higher than `max_ratio` of the picture is shrunk about its middle; none is enlarged. As there,
    the last column and row of the product are lost.
    """
    left, top, right, bottom = cutout.getchannel("A").getbbox() or cutout.getbbox() or (0, 0, *cutout.size)
    right, bottom = max(right - 1, left + 1), max(bottom - 1, top + 1)
    product = cutout.crop((left, top, right, bottom))
    share = max(product.width / cutout.width, product.height / cutout.height)
    if share > max_ratio:
        width, height = (max(1, round(side * max_ratio / share)) for side in product.size)
        product = product.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (left + right) // 2 - width // 2, (top + bottom) // 2 - height // 2
    canvas = Image.new("RGBA", cutout.size)
    canvas.paste(product, (left, top))
    return canvas


def on_white(canvas: Image.Image, side: int) -> Image.Image:
    """RGBA -> RGB on white, then squashed to a square of `side` pixels: the release's control picture."""
    white = Image.new("RGB", canvas.size, "white")
    white.paste(canvas, mask=canvas.getchannel("A"))
    return white.resize((side, side), Image.Resampling.BICUBIC)
