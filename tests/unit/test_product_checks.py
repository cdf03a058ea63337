"""Picture checks: colour and SSIM against published values, and each fault moves the measure that is for it."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from uniadgen.metrics.product import BEST_PSNR, ciede2000, measure_picture, ssim, to_lab

# From the test data of Sharma, Wu and Dalal (2005): two Lab colours and their difference.
SHARMA = [
    ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
    ((50, -1, 2), (50, 0, 0), 2.3669),
    ((50, 2.49, -0.001), (50, -2.49, 0.0009), 7.1792),
    ((50, 2.49, -0.001), (50, -2.49, 0.0011), 7.2195),
    ((50, 2.5, 0), (73, 25, -18), 27.1492),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((90.8027, -2.0831, 1.4410), (91.1528, -1.6435, 0.0447), 1.4441),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]


def test_colour_differences_are_the_published_ones() -> None:
    one, other, wanted = (np.array([pair[i] for pair in SHARMA], float) for i in range(3))
    assert ciede2000(one, other) == pytest.approx(wanted, abs=1e-4)
    assert ciede2000(other, one) == pytest.approx(wanted, abs=1e-4)
    assert to_lab(np.array([[255, 0, 0], [255, 255, 255]], np.uint8)) == pytest.approx(
        np.array([[53.24, 80.09, 67.20], [100, 0, 0]]), abs=0.01
    )


def test_ssim_of_flat_pictures_is_its_brightness_term() -> None:
    one, other = np.full((20, 20), 100.0), np.full((20, 20), 150.0)
    assert ssim(one, other) == pytest.approx((2 * 100 * 150 + 6.5025) / (100**2 + 150**2 + 6.5025))
    noise = np.random.default_rng(0).normal(128, 20, (20, 20))
    assert ssim(noise, noise) == pytest.approx(1)


@pytest.fixture(scope="module")
def placed() -> Image.Image:
    """A striped red disc on 144 px."""
    picture = Image.new("RGBA", (144, 144))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((45, 50, 100, 105), fill=(190, 40, 50, 255))
    for y in range(58, 98, 8):
        pen.line((56, y, 89, y), fill=(120, 20, 30, 255), width=3)
    return picture


def ad_of(placed: Image.Image, ground: tuple[int, int, int] = (150, 190, 220)) -> Image.Image:
    ad = Image.new("RGB", placed.size, ground)
    ad.paste(placed, mask=placed.getchannel("A"))
    return ad


def test_an_ad_with_the_product_as_it_is_has_no_fault(placed: Image.Image) -> None:
    measured = measure_picture(ad_of(placed), placed)
    assert (measured.psnr, measured.ssim, measured.attached) == (BEST_PSNR, pytest.approx(1), 0)
    assert measured.colour == pytest.approx(0, abs=1e-6)
    assert measured.contrast > 30


def test_the_background_does_not_matter_to_the_product(placed: Image.Image) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (144, 144, 3), dtype=np.uint8)
    ad = Image.fromarray(noise)
    ad.paste(placed, mask=placed.getchannel("A"))
    assert measure_picture(ad, placed).psnr > 60


def test_each_fault_is_seen_by_its_measure(placed: Image.Image) -> None:
    ad = ad_of(placed)
    opacity = placed.getchannel("A")
    red, green, blue = ad.split()
    recoloured = measure_picture(
        Image.composite(
            Image.merge("RGB", (red, green, blue.point([min(255, v + 70) for v in range(256)]))), ad, opacity
        ),
        placed,
    )
    blurred = measure_picture(Image.composite(ad.filter(ImageFilter.GaussianBlur(2)), ad, opacity), placed)
    assert recoloured.colour > 3 and recoloured.ssim > 0.98  # SSIM hardly sees colour
    assert blurred.ssim < 0.85 and blurred.psnr < 30
    lost = measure_picture(ad_of(placed, (185, 45, 52)), placed)
    assert lost.contrast < 8


def test_what_is_grown_onto_the_product_is_seen_and_what_stands_apart_is_not(placed: Image.Image) -> None:
    handle, apart = ad_of(placed), ad_of(placed)
    ImageDraw.Draw(handle).rectangle((98, 70, 118, 82), fill=(190, 40, 50))
    ImageDraw.Draw(apart).rectangle((112, 70, 132, 82), fill=(190, 40, 50))
    area = np.count_nonzero(np.asarray(placed)[..., 3])
    share = 18 * 13 / area  # what stands out; its own soft edges do not count
    assert share / 2 < measure_picture(handle, placed).attached < share
    assert measure_picture(apart, placed).attached == 0


def test_on_a_background_like_the_product_nothing_can_be_said(placed: Image.Image) -> None:
    assert measure_picture(ad_of(placed, (190, 40, 50)), placed).attached is None


def test_one_limit_fits_every_size(placed: Image.Image) -> None:
    ad = ad_of(placed).filter(ImageFilter.GaussianBlur(2))
    small = measure_picture(ad, placed)
    large = measure_picture(*(picture.resize((720, 720), Image.Resampling.BICUBIC) for picture in (ad, placed)))
    assert large.psnr == pytest.approx(small.psnr, abs=1)
    assert large.colour == pytest.approx(small.colour, abs=0.3)


def test_odd_pictures_are_measured_or_refused(placed: Image.Image) -> None:
    tiny = Image.new("RGBA", (8, 8))
    tiny.putpixel((4, 4), (200, 0, 0, 255))
    measure_picture(Image.new("RGB", (8, 8), "white"), tiny)
    thin = Image.new("RGBA", (288, 288))
    ImageDraw.Draw(thin).line((20, 20, 260, 20), fill="red", width=2)
    assert measure_picture(Image.new("RGB", (288, 288)), thin)[:3] == (None, None, None)
    full = Image.new("RGBA", (288, 100), "red")
    assert measure_picture(Image.new("RGB", (288, 100)), full)[3:] == (None, None)
    with pytest.raises(ValueError, match="the ad has 10 x 144 pixels and the placed product 144 x 144"):
        measure_picture(Image.new("RGB", (10, 144)), placed)
    with pytest.raises(ValueError, match="nowhere opaque"):
        measure_picture(Image.new("RGB", (20, 20)), Image.new("RGBA", (20, 20)))
    with pytest.raises(ValueError, match="has mode RGB, expected RGBA"):
        measure_picture(Image.new("RGB", (20, 20)), Image.new("RGB", (20, 20)))
