"""Four sample shoppers, each with the same product's ad without and with their history: demo.png and demo.html."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from uniadgen import files
from uniadgen.data.adworld import example_of, shop_of
from uniadgen.pipeline import AdGenerator
from uniadgen.records import Ad, Example
from uniadgen.train.log import progress_bar

# Shoppers of the held-out shop, at home in four departments, all reading English: the picture's letters come with
# Pillow, which has no Chinese.
SHOPPERS = (0, 2, 9, 14)
_BIG, _SMALL, _GAP = 288, 92, 16
_INK, _FAINT, _PAPER, _LINE = "#1d1d1f", "#6e6e73", "#fbfbfd", "#e2e2e7"


@dataclass(frozen=True)
class Sample:
    """One row of the demo."""

    shopper: int
    example: Example
    shown: Sequence[int]  # the clicks that the model saw
    without: Ad
    with_history: Ad


def make_demo(model: str, folder: Path, seed: int) -> tuple[Path, Path]:
    """Makes the ads and writes demo.png and demo.html to `folder`; returns both paths."""
    generator = AdGenerator.from_pretrained(model)
    world = generator.config.world
    if world is None:
        raise ValueError(f"{model} was not trained on AdWorld, expected a model that was, such as nano")
    shop, side = shop_of(world, held_out=True), generator.config.data.image_size
    with progress_bar("demo", 2 * len(SHOPPERS)) as bar:
        examples = []
        for shopper in SHOPPERS:
            examples.append(example_of(shop, shop.visit(shopper), side, 3 * side))
            bar.advance("shoppers and their clicks")
        without, known = [], []
        for example in examples:
            without += generator.generate_batch([replace(example, clicks=())], [seed])
            known += generator.generate_batch([example], [seed])
            bar.advance(known[-1].text)
    samples = [
        Sample(shopper, example, ad.record["shown"], plain, ad)
        for shopper, example, plain, ad in zip(SHOPPERS, examples, without, known, strict=True)
    ]
    png, page = folder / "demo.png", folder / "demo.html"
    files.save_picture(png, draw(samples))
    files.write_whole(page, lambda path: path.write_text(render_page(samples, seed), encoding="utf-8"))
    return png, page


def draw(samples: Sequence[Sample]) -> Image.Image:
    """The demo as one picture: a row per shopper."""
    height = _BIG + 64
    sheet = Image.new("RGB", (3 * _SMALL + 3 * _BIG + 7 * _GAP, len(samples) * (height + _GAP) + 3 * _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    left = [_GAP, 3 * _SMALL + 4 * _GAP, 3 * _SMALL + _BIG + 5 * _GAP, 3 * _SMALL + 2 * _BIG + 6 * _GAP]
    titles = ("what the shopper clicked", "product", "ad without history", "ad with history")
    for x, title in zip(left, titles, strict=True):
        pen.text((x, _GAP // 2), title, _FAINT, ImageFont.load_default(15))
    for row, sample in enumerate(samples):
        _draw_row(sheet, pen, sample, left, 2 * _GAP + 8 + row * (height + _GAP))
    return sheet


def _draw_row(sheet: Image.Image, pen: ImageDraw.ImageDraw, sample: Sample, left: Sequence[int], top: int) -> None:
    for place, index in enumerate(sample.shown[:9]):
        click = sample.example.clicks[index].picture.resize((_SMALL, _SMALL), Image.Resampling.LANCZOS)
        step = _SMALL + _GAP // 2
        sheet.paste(click, (left[0] + place % 3 * step, top + place // 3 * step))
    product = Image.new("RGBA", sample.example.product.cutout.size, "white")
    product.alpha_composite(sample.example.product.cutout)
    for x, picture in zip(left[1:], (product, sample.without.picture, sample.with_history.picture), strict=True):
        sheet.paste(picture.convert("RGB").resize((_BIG, _BIG), Image.Resampling.LANCZOS), (x, top))
    words = (sample.example.product.description, sample.without.text, sample.with_history.text)
    for x, text in zip(left[1:], words, strict=True):
        _write(pen, (x, top + _BIG + 6), text, _BIG)


def _write(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, width: int) -> None:
    """Up to three lines, broken at spaces."""
    font, lines = ImageFont.load_default(14), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if pen.textlength(longer, font) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    pen.multiline_text(at, "\n".join(lines[:3]), _INK, font)


def render_page(samples: Sequence[Sample], seed: int) -> str:
    """The demo as one self-contained page."""
    rows = "\n".join(_row(sample) for sample in samples)
    page = Path(__file__).with_name("demo_page.html").read_text(encoding="utf-8")
    return page.replace("{rows}", rows).replace("{seed}", str(seed))


def _row(sample: Sample) -> str:
    product = sample.example.product
    clicks = "".join(
        f'<figure class="{"shown" if index in sample.shown else "unseen"}">{_img(click.picture, click.text)}</figure>'
        for index, click in enumerate(sample.example.clicks)
    )
    points = "".join(f"<li>{html.escape(point)}</li>" for point in product.selling_points)
    articles = (
        _article("Product", product.cutout, product.description, f"<ul>{points}</ul>"),
        _article("Without history", sample.without.picture, sample.without.text),
        _article("With history", sample.with_history.picture, sample.with_history.text, kind="best"),
    )
    return f"""<section>
<h2>Shopper {sample.shopper}</h2>
<div class="history" aria-label="click history">{clicks}</div>
<div class="ads">{"".join(articles)}</div>
</section>"""


def _article(title: str, picture: Image.Image, text: str, more: str = "", kind: str = "") -> str:
    said = html.escape(text)
    return f'<article class="{kind}"><h3>{title}</h3>{_img(picture, text)}<p>{said}</p>{more}</article>'


def _img(picture: Image.Image, alt: str) -> str:
    data = BytesIO()
    picture.save(data, "WEBP", quality=92)
    source = base64.b64encode(data.getvalue()).decode()
    return f'<img src="data:image/webp;base64,{source}" alt="{html.escape(alt)}" title="{html.escape(alt)}">'
