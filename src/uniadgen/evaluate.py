"""Requests of held-out shoppers x measures against AdWorld's ground truth -> a table with intervals."""

import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.table import Table

from uniadgen.config import WorldConfig, replace_in
from uniadgen.data import cutout
from uniadgen.data.adworld import example_of, picture_of, shop_of
from uniadgen.data.prompt import Layout
from uniadgen.pipeline import AdGenerator, to_pixels
from uniadgen.records import Ad, Example
from uniadgen.train.log import progress_bar
from uniadgen.world.scenes import NUM_STYLES, Style
from uniadgen.world.shoppers import Shop, Taste
from uniadgen.world.words import KIND_OF, Parsed, parse

JUDGE_SIDE = 48  # px at which backgrounds are compared: small camera jitter no longer matters
JUDGE_JITTERS = 2  # renderings of every style that the judge knows
BATCH = 20


@dataclass(frozen=True)
class Request:
    """One held-out shopper's request and what is known to be right."""

    example: Example
    taste: Taste
    language: str
    style_picture: Image.Image


@dataclass(frozen=True)
class Measure:
    """One line of the table: the mean of `n` values with its 95 % interval, and what was aimed at."""

    name: str
    value: float
    low: float
    high: float
    n: int
    target: str = ""
    met: bool | None = None


def evaluate_in_world(name: str, num_requests: int, seed: int, sheet: Path | None = None) -> dict[str, Any]:
    """Measures a model on `num_requests` held-out shoppers and products, each request with seed `seed + i`.

    Returns measures and the settings that led to them; draws the first requests to `sheet`.
    """
    generator = AdGenerator.from_pretrained(name)
    world = generator.config.world
    if world is None:
        raise ValueError(f"{name} was not trained on AdWorld, expected a model that was: its right answers are needed")
    requests = load_requests(world, generator, range(seed, seed + num_requests))
    judge = StyleJudge(shop_of(world, held_out=True))
    seeds = [seed + i for i in range(num_requests)]
    blank = [replace(request.example, clicks=()) for request in requests]
    asked = [request.example for request in requests]
    with progress_bar("ads", 3 * num_requests) as bar:
        known = _make(generator, asked, seeds, bar)
        unknown = _make(generator, blank, seeds, bar)
        unbound = _make(_unbound_writer(generator), asked, seeds, bar)
    measures = [
        *_vq(generator, requests),
        *_style(judge, requests, known, unknown),
        *_words(requests, known, unknown, unbound),
        *_pasted(requests, known),
        *_replay(generator, requests, known, seeds),
    ]
    if sheet is not None:
        draw_sheet(requests[:12], known, unknown).save(sheet)
    settings = {"model": name, "requests": num_requests, "seed": seed, "threads": torch.get_num_threads()}
    return {**settings, "generate": asdict(generator.config.generate), "measures": [asdict(m) for m in measures]}


def load_requests(world: WorldConfig, generator: AdGenerator, shoppers: range) -> list[Request]:
    """Renders the held-out requests, in parallel."""
    side = generator.config.data.image_size
    with (
        ProcessPoolExecutor(cpu_count(), mp_context=get_context("spawn")) as pool,
        progress_bar("requests", len(shoppers)) as bar,
    ):
        requests = []
        for request in pool.map(_request, [world] * len(shoppers), shoppers, [side] * len(shoppers)):
            requests.append(request)
            bar.advance()
    return requests


def _request(world: WorldConfig, shopper_id: int, side: int) -> Request:
    shop = shop_of(world, held_out=True)
    visit = shop.visit(shopper_id)
    example = example_of(shop, visit, side, 3 * side)
    assert example.target is not None
    return Request(example, visit.shopper.tastes[visit.department], visit.shopper.language, example.target.picture)


def _unbound_writer(generator: AdGenerator) -> AdGenerator:
    """The same model writing texts only, held to the selling points by nothing but what it has learnt."""
    config = replace_in(generator.config, data__modality="text", generate__connecting_words=())
    return AdGenerator(generator.model, Layout(generator.layout.tokenizer, config), config)


def _make(generator: AdGenerator, examples: Sequence[Example], seeds: Sequence[int], bar: Any) -> list[Ad]:
    ads: list[Ad] = []
    for start in range(0, len(examples), BATCH):
        ads += generator.generate_batch(examples[start : start + BATCH], seeds[start : start + BATCH])
        bar.advance(by=len(examples[start : start + BATCH]))
    return ads


class StyleJudge:
    """Tells the style of a background: that of the nearest rendering, the product's region left out of both."""

    def __init__(self, shop: Shop) -> None:
        self.pictures, self.styles, masks = [], [], []
        with progress_bar("judge", NUM_STYLES * JUDGE_JITTERS) as bar:
            for picture_id in self._one_of_each_style(shop):
                rendering = picture_of(shop, picture_id, JUDGE_SIDE)
                self.pictures.append(rendering.picture)
                masks.append(rendering.alpha > 0)
                self.styles.append(Style.from_index(int(shop.style_indices(np.array(picture_id)))))
                bar.advance()
        self.known = np.stack(self.pictures).astype(np.float32)
        self.ground = ~np.stack(masks)

    @staticmethod
    def _one_of_each_style(shop: Shop) -> list[int]:
        """Pictures of other departments in turn, each style `JUDGE_JITTERS` times: whole blocks of 480."""
        blocks = shop.num_pictures // NUM_STYLES
        chosen = [(2 * jitter + 1) * blocks // (2 * JUDGE_JITTERS) for jitter in range(JUDGE_JITTERS)]
        return [picture for block in chosen for picture in range(block * NUM_STYLES, (block + 1) * NUM_STYLES)]

    def style(self, picture: Image.Image, product: NDArray[np.uint8]) -> Style:
        """The style of a picture; `product` is the alpha of the product in it, of any size."""
        size = (JUDGE_SIDE, JUDGE_SIDE)
        pixels = np.asarray(picture.resize(size, Image.Resampling.BOX), np.float32)
        covered = np.asarray(Image.fromarray(product).resize(size, Image.Resampling.BOX)) > 0
        seen = self.ground & ~covered
        error = np.abs(self.known - pixels).mean(-1)
        return self.styles[int(((error * seen).sum((1, 2)) / seen.sum((1, 2))).argmin())]


def _vq(generator: AdGenerator, requests: Sequence[Request]) -> list[Measure]:
    """Reconstruction of held-out pictures."""
    pixels = to_pixels(np.stack([np.asarray(r.style_picture) for r in requests]))
    values, used = [], set()
    with torch.no_grad():
        for start in range(0, len(pixels), 50):
            part = pixels[start : start + 50]
            codes = generator.model.encode_pictures(part)
            error = ((generator.model.decode_pictures(codes) - part) / 2).pow(2).mean((1, 2, 3))
            values += (-10 * error.log10()).tolist()
            used |= set(codes.flatten().tolist())
    share = len(used) / generator.config.model.num_codes
    return [
        mean("VQ: PSNR, dB", values, "at least 26", lambda v: v >= 26),
        Measure("VQ: codebook used", share, share, share, len(requests), "at least 60 %", share >= 0.6),
    ]


def _style(judge: StyleJudge, requests: Sequence[Request], known: Sequence[Ad], unknown: Sequence[Ad]) -> list[Measure]:
    side = known[0].painted.width
    products = [np.asarray(cutout.place(r.example.product.cutout, side))[..., 3] for r in requests]
    judged = {
        label: [judge.style(picture, product) for picture, product in zip(pictures, products, strict=True)]
        for label, pictures in (
            ("true pictures (the judge itself)", [r.style_picture for r in requests]),
            ("with history", [ad.painted for ad in known]),
            ("without history", [ad.painted for ad in unknown]),
        )
    }
    measures = []
    for part, bar in (("palette", 0.70), ("layout", 0.60), ("lighting", None)):
        for label, styles in judged.items():
            hits = [getattr(s, part) == getattr(r.taste.style, part) for s, r in zip(styles, requests, strict=True)]
            target = {}
            if bar and label == "with history":
                target = {"target": f"at least {bar:.0%}", "met": bool(np.mean(hits) >= bar)}
            elif bar and label == "without history":
                target = {"target": f"at most {bar / 3:.0%}", "met": bool(np.mean(hits) <= bar / 3)}
            measures.append(share(f"{part}: {label}", hits, **target))
    return measures


def _words(
    requests: Sequence[Request], known: Sequence[Ad], unknown: Sequence[Ad], unbound: Sequence[Ad]
) -> list[Measure]:
    measures: list[Measure] = []
    faithful: list[bool] = []
    for label, ads in (("with history", known), ("without history", unknown)):
        liked: list[bool] = []
        manner: list[bool] = []
        for request, ad in zip(requests, ads, strict=True):
            parsed = _parsed(request, ad)
            liked += [KIND_OF[p] == request.taste.kind for p in parsed.points if p in KIND_OF]
            manner.append(parsed.manner == request.taste.manner)
            faithful.append(parsed.faithful)
        aim = {"target": "at least 75%", "met": bool(np.mean(liked) >= 0.75)} if label == "with history" else {}
        measures.append(share(f"selling points of the liked kind: {label}", liked, **aim))
        measures.append(share(f"manner: {label}", manner))
    alone = [_parsed(request, ad).faithful for request, ad in zip(requests, unbound, strict=True)]
    met = bool(np.mean(faithful) >= 0.99)
    measures.append(share("texts of selling points only", faithful, target="at least 99%", met=met))
    measures.append(share("texts of selling points only: decoding unbound", alone))
    return measures


def _parsed(request: Request, ad: Ad) -> Parsed:
    return parse(ad.text, request.example.product.selling_points, request.language)


def _pasted(requests: Sequence[Request], known: Sequence[Ad]) -> list[Measure]:
    """Largest change of a product pixel, where the product covers the pixel wholly."""
    worst = []
    for request, ad in zip(requests, known, strict=True):
        product = np.asarray(cutout.place(request.example.product.cutout, ad.picture.width)).astype(int)
        change = np.abs(np.asarray(ad.picture).astype(int) - product[..., :3])
        worst.append(int(change[product[..., 3] == 255].max()))
    return [
        Measure(
            "pasted product: largest change of a pixel",
            max(worst),
            max(worst),
            max(worst),
            len(worst),
            "0",
            max(worst) == 0,
        )
    ]


def _replay(
    generator: AdGenerator, requests: Sequence[Request], known: Sequence[Ad], seeds: Sequence[int]
) -> list[Measure]:
    """The same request again; and with the history of another shopper."""
    again, differs = [], []
    for i in range(min(10, len(requests))):
        ask = [requests[i].example]
        first, second = (generator.generate_batch(ask, [seeds[i]])[0] for _ in range(2))
        again.append(first.picture.tobytes() == second.picture.tobytes() and first.text == second.text)
        other = replace(requests[i].example, clicks=requests[i - 1].example.clicks)
        differs.append(generator.generate_batch([other], [seeds[i]])[0].picture.tobytes() != first.picture.tobytes())
    return [
        share("same request and seed: same bytes", again, target="all", met=all(again)),
        share("another history: another picture", differs, target="all", met=all(differs)),
    ]


def share(name: str, hits: Sequence[bool], target: str = "", met: bool | None = None) -> Measure:
    """A share with its Wilson 95 % interval."""
    n, z = len(hits), 1.96
    if n == 0:
        return Measure(name, 0.0, 0.0, 1.0, 0, target, met)
    p = float(np.mean(hits))
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Measure(
        name, p, max(0.0, centre - half), min(1.0, centre + half), n, target, None if met is None else bool(met)
    )


def mean(name: str, values: Sequence[float], target: str, meets: Any) -> Measure:
    """A mean with its normal 95 % interval."""
    value, half = float(np.mean(values)), 1.96 * float(np.std(values)) / math.sqrt(len(values))
    return Measure(name, value, value - half, value + half, len(values), target, bool(meets(value)))


def table(report: dict[str, Any]) -> Table:
    """The report for a terminal."""
    out = Table(
        "measure",
        "value",
        "95 %",
        "n",
        "target",
        "met",
        title=f"{report['model']}, {report['requests']} held-out requests",
    )
    for m in report["measures"]:
        form = "{:.1f}" if "dB" in m["name"] or "largest" in m["name"] else "{:.1%}"
        met = {None: "", True: "yes", False: "NO"}[m["met"]]
        interval = f"{form.format(m['low'])} .. {form.format(m['high'])}"
        out.add_row(m["name"], form.format(m["value"]), interval, str(m["n"]), m["target"], met)
    return out


def draw_sheet(requests: Sequence[Request], known: Sequence[Ad], unknown: Sequence[Ad]) -> Image.Image:
    """Columns: requests. Rows: truth, painted with history, the ad with history, the ad without."""
    side = known[0].painted.width
    out = Image.new("RGB", (len(requests) * side, 4 * side), "white")
    for column, (request, ad, plain) in enumerate(
        zip(requests, known[: len(requests)], unknown[: len(requests)], strict=True)
    ):
        for row, picture in enumerate((request.style_picture, ad.painted, ad.picture, plain.picture)):
            out.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (column * side, row * side))
    return out
