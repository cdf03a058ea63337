"""The product's picture: bad files refused in words, placed as its maker wanted, pasted back pixel by pixel."""

import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from uniadgen.data.cutout import (
    MARGIN,
    STAND_BASE,
    STAND_HEIGHT,
    STAND_WIDTH,
    place,
    premultiplied,
    read_picture,
)
from uniadgen.data.pasting import paste


def disc(side: int = 100, box=(30, 30, 69, 69), colour=(200, 30, 30, 255)) -> Image.Image:
    picture = Image.new("RGBA", (side, side))
    ImageDraw.Draw(picture).ellipse(box, fill=colour)
    return picture


def saved(path: Path, picture: Image.Image, **options) -> Path:
    picture.save(path, **options)
    return path


# reading


@pytest.mark.parametrize("ending", ["png", "webp"])
def test_a_cut_out_product_is_read_as_it_is(tmp_path: Path, ending: str) -> None:
    path = saved(tmp_path / f"product.{ending}", disc(), lossless=True)
    picture = read_picture(path, "RGBA")
    assert picture.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(picture)[50, 50], [200, 30, 30, 255])
    np.testing.assert_array_equal(np.asarray(picture)[..., 3], np.asarray(disc())[..., 3])


@pytest.mark.parametrize("mode", ["L", "LA", "P", "CMYK", "1", "RGBA", "I;16"])
def test_a_clicked_picture_may_be_of_any_mode(tmp_path: Path, mode: str) -> None:
    ending = "jpg" if mode == "CMYK" else "png"
    picture = (
        Image.new("I;16", (20, 20), 40000) if mode == "I;16" else Image.new("RGB", (20, 20), "white").convert(mode)
    )
    assert read_picture(saved(tmp_path / f"click.{ending}", picture), "RGB").mode == "RGB"


def test_a_transparent_click_is_seen_on_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (16, 16), (200, 0, 0, 0))  # a red that nobody sees
    picture.paste((0, 0, 255, 255), (0, 0, 8, 16))
    picture.save(tmp_path / "click.png")
    read = read_picture(tmp_path / "click.png", "RGB")
    assert (read.getpixel((12, 4)), read.getpixel((4, 4))) == ((255, 255, 255), (0, 0, 255))


def test_a_picture_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("RGB", (32, 16)).save(tmp_path / "click.jpg", exif=exif)
    assert read_picture(tmp_path / "click.jpg", "RGB").size == (16, 32)


def test_sixteen_bits_of_grey_become_eight(tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 16), 0x8000, np.uint16)).save(tmp_path / "click.png")
    assert read_picture(tmp_path / "click.png", "RGB").getpixel((0, 0)) == (128, 128, 128)


def test_a_palette_with_a_transparent_colour_is_transparency(tmp_path: Path) -> None:
    picture = Image.new("P", (20, 20), 0)
    picture.putpalette([255, 0, 0, 0, 255, 0])
    picture.paste(1, (5, 5, 15, 15))
    read = read_picture(saved(tmp_path / "product.png", picture, transparency=0), "RGBA")
    assert read.getpixel((0, 0))[3] == 0
    assert read.getpixel((10, 10)) == (0, 255, 0, 255)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone.png: no such file, expected a picture \(PNG, WebP or JPEG\)"):
        read_picture(tmp_path / "gone.png", "RGB")


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        read_picture(tmp_path, "RGB")


@pytest.mark.parametrize("content", [b"", b"hello", b"{}", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_picture_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "notes.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"notes.png: (not a picture that can be read|the picture is damaged)"):
        read_picture(tmp_path / "notes.png", "RGB")


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_a_picture_that_was_cut_short_is_named(tmp_path: Path, ending: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path / f"product.{ending}", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=rf"product.{ending}: (the picture is damaged or cut short|not a picture)"):
        read_picture(path, "RGB")


def test_a_product_without_transparency_is_told_what_to_do(tmp_path: Path) -> None:
    path = saved(tmp_path / "photo.jpg", Image.new("RGB", (20, 20), "red"))
    with pytest.raises(
        ValueError, match=r"photo.jpg: the picture has mode RGB without transparency.*remove its background"
    ):
        read_picture(path, "RGBA")


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG that claims a size, with no pixels behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(40000, 40000), (9000, 9000), (2**31 - 1, 1), (64_000_001, 1)])
def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path: Path, width: int, height: int) -> None:
    (tmp_path / "huge.png").write_bytes(png_header(width, height))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"huge.png: .*64,000,000.*make it smaller"):
        read_picture(tmp_path / "huge.png", "RGBA")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_a_tiny_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 x 1 pixels, expected at least 8 x 8"):
        read_picture(saved(tmp_path / "dot.png", Image.new("RGB", (1, 1))), "RGB")


# placing


def product_box(canvas: Image.Image) -> tuple[float, ...]:
    """Left, top, right, bottom of the product, as shares of the canvas."""
    box = canvas.getchannel("A").point(lambda alpha: 255 * (alpha > 127)).getbbox()
    return tuple(edge / canvas.width for edge in box)


@pytest.mark.parametrize("side", [72, 100, 432])
def test_a_square_picture_with_margins_is_a_placement(side: int) -> None:
    canvas = place(disc(100, (12, 40, 51, 79)), side)
    assert canvas.size == (side, side)
    np.testing.assert_allclose(product_box(canvas), (0.12, 0.40, 0.52, 0.80), atol=1.1 / side)


def test_a_placement_of_the_right_size_is_not_touched() -> None:
    assert place(disc(), 100).tobytes() == disc().tobytes()


@pytest.mark.parametrize("box", [(50, 20, 79, 69), (80, 12, 84, 87), (10, 80, 60, 84)])
@pytest.mark.parametrize(("width", "side"), [(300, 432), (300, 144), (96, 432), (101, 72), (500, 48), (216, 108)])
def test_a_placement_is_enlarged_or_made_smaller_as_a_whole_picture_is(
    width: int, side: int, box: tuple[int, int, int, int]
) -> None:
    rng = np.random.default_rng(width)
    pixels = rng.integers(256, size=(width, width, 4), dtype=np.uint8)
    pixels[..., 3] = np.asarray(disc(100, box).getchannel("A").resize((width, width)))
    picture = Image.fromarray(pixels)
    assert place(picture, side).tobytes() == picture.resize((side, side), Image.Resampling.LANCZOS).tobytes()


@pytest.mark.parametrize(
    "picture",
    [
        disc(100, (0, 0, 99, 99)),  # no margin
        disc(100, (0, 30, 39, 69)),  # no margin on the left
        disc(100, (30, 30, 69, 99)),  # no margin below
        disc(100).resize((150, 100)),  # not square
    ],
)
def test_any_other_picture_is_put_where_products_stand(picture: Image.Image) -> None:
    left, top, right, bottom = product_box(place(picture, 200))
    assert bottom == pytest.approx(STAND_BASE, abs=0.01)
    assert (left + right) / 2 == pytest.approx(0.5, abs=0.01)
    assert max((right - left) / STAND_WIDTH, (bottom - top) / STAND_HEIGHT) == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize("size", [(400, 8), (8, 400), (9, 9), (3000, 2000)])
def test_a_product_keeps_its_proportions_and_stays_in_the_picture(size: tuple[int, int]) -> None:
    picture = Image.new("RGBA", size, (10, 200, 10, 255))
    picture.putpixel((0, 0), (0, 0, 0, 0))
    canvas = place(picture, 240)
    left, top, right, bottom = product_box(canvas)
    assert 0 < left < right < 1
    assert 0 < top < bottom < 1
    assert (right - left) / (bottom - top) == pytest.approx(size[0] / size[1], rel=0.35 if min(size) == 8 else 0.02)


def test_specks_of_almost_no_alpha_do_not_move_the_product() -> None:
    speckled = disc()
    speckled.putpixel((0, 0), (255, 255, 255, 4))
    np.testing.assert_allclose(product_box(place(speckled, 100)), product_box(place(disc(), 100)))


def test_the_margin_counts_from_the_product_and_not_from_the_picture() -> None:
    edge = round(MARGIN * 100)
    kept = place(disc(100, (edge, 30, 69, 69)), 100)
    moved = place(disc(100, (edge - 1, 30, 69, 69)), 100)
    assert product_box(kept)[0] == pytest.approx(MARGIN)
    assert product_box(moved)[3] == pytest.approx(STAND_BASE, abs=0.01)


def test_colours_of_invisible_pixels_do_not_shine_through() -> None:
    """Many cut-outs keep a white (here: green) background under alpha 0."""
    picture = disc()
    hidden = np.asarray(picture).copy()
    hidden[hidden[..., 3] == 0] = (0, 255, 0, 0)
    canvas = np.asarray(place(Image.fromarray(hidden), 60)).astype(int)
    seen = canvas[canvas[..., 3] > 20]
    assert np.abs(seen[:, :3] - (200, 30, 30)).max() < 25


def test_the_model_reads_colours_multiplied_by_alpha() -> None:
    picture = Image.new("RGBA", (8, 6), (200, 100, 0, 51))
    read = premultiplied(picture)
    assert read.shape == (4, 6, 8)
    assert read.dtype == np.float32
    np.testing.assert_allclose(read[:, 0, 0], [200 / 255 * 0.2, 100 / 255 * 0.2, 0, 0.2], atol=1e-6)


# pasting

GROUND = (60, 140, 60)


def ad(canvas: Image.Image) -> np.ndarray:
    """Pastes the canvas over a picture of a third of its size, in which the product was painted yellow on green."""
    side = canvas.width // 3
    covered = np.asarray(canvas.resize((side, side), Image.Resampling.BOX).getchannel("A"))[..., None] / 255
    painted = covered * (250, 250, 0) + (1 - covered) * GROUND
    return np.asarray(paste(Image.fromarray(painted.astype(np.uint8)), canvas)).astype(int)


def test_opaque_pixels_of_the_product_are_unchanged() -> None:
    rng = np.random.default_rng(0)
    canvas = np.asarray(disc(432, (130, 130, 300, 300))).copy()
    canvas[..., :3] = rng.integers(256, size=(432, 432, 3))
    pasted = ad(Image.fromarray(canvas))
    opaque = canvas[..., 3] == 255
    assert opaque.sum() > 1000
    np.testing.assert_array_equal(pasted[opaque], canvas[opaque][:, :3])


def test_the_background_far_from_the_product_is_what_was_painted() -> None:
    pasted = ad(disc(432, (130, 130, 300, 300)))
    np.testing.assert_array_equal(pasted[:80, :80], np.broadcast_to(GROUND, (80, 80, 3)))


def test_no_halo_of_the_painted_product_remains() -> None:
    canvas = disc(432, (130, 130, 300, 300))
    pasted = ad(canvas)
    outside = np.asarray(canvas)[..., 3] == 0
    assert np.abs(pasted[outside] - GROUND).max() <= 12


def test_a_half_covered_pixel_is_half_product_half_ground() -> None:
    canvas = np.asarray(disc(432, (130, 130, 300, 300))).copy()
    rim = canvas[..., 3] > 0
    rim[140:290, 140:290] = False
    canvas[rim, 3] = 128
    pasted = ad(Image.fromarray(canvas))
    expected = 128 / 255 * np.array([200, 30, 30]) + 127 / 255 * np.array(GROUND)
    at = np.argwhere(rim & (canvas[..., 3] == 128))
    outermost = [
        tuple(point) for point in at if not canvas[point[0] - 2 : point[0] + 3, point[1] - 2 : point[1] + 3, 3].all()
    ]
    assert len(outermost) > 100
    assert np.abs(np.array([pasted[point] for point in outermost]) - expected).max() <= 12


@pytest.mark.parametrize(("box", "opacity"), [((20, 15, 50, 55), 255), ((0, 10, 40, 71), 255), ((20, 20, 44, 50), 99)])
def test_the_background_is_drawn_inwards_smoothly(box: tuple[int, int, int, int], opacity: int) -> None:
    """Also at the picture's edge, and under all of a product that can be seen through."""
    rows, columns = np.mgrid[:24, :24]
    ground = np.stack([60 + 4 * rows, 200 - 3 * columns, 80 + 2 * rows + columns], axis=-1).astype(np.uint8)
    canvas = np.asarray(disc(72, box, (200, 30, 30, opacity)))
    covered = canvas[..., 3].reshape(24, 3, 24, 3).max((1, 3)) > 0
    small = Image.fromarray(np.where(covered[..., None], (255, 255, 0), ground).astype(np.uint8))
    enlarged = np.asarray(Image.fromarray(ground).resize((72, 72), Image.Resampling.BICUBIC))
    weight = canvas[..., 3:] / 255
    wanted = weight * canvas[..., :3] + (1 - weight) * enlarged
    pasted = np.asarray(paste(small, Image.fromarray(canvas)))
    assert np.abs(pasted - wanted).max() <= 24  # of yellow, 255 and 0 there, nothing is left
    far = np.abs(pasted - wanted)[60:, 60:] if box[3] < 60 else np.abs(pasted - wanted)[:, 60:]
    assert far.max() < 1.01


def test_the_ad_has_the_size_of_the_canvas() -> None:
    assert paste(Image.new("RGB", (24, 24)), disc(72, (20, 20, 50, 50))).size == (72, 72)


def test_a_product_that_fills_the_picture_can_be_pasted() -> None:
    canvas = Image.new("RGBA", (72, 72), (200, 30, 30, 255))
    assert (
        np.asarray(paste(Image.new("RGB", (24, 24), "white"), canvas)).reshape(-1, 3).tolist()
        == [[200, 30, 30]] * 72**2
    )
