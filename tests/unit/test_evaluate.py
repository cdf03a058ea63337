"""The judge of styles, requests from files, values by contender kept and resumed, lines with intervals and tests."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from rich.console import Console
from typer.testing import CliRunner

from metric_models import write_all
from uniadgen.__main__ import app
from uniadgen.data import adworld
from uniadgen.data.listing import read_listing
from uniadgen.evaluate import harness
from uniadgen.evaluate.cache import AdCache, fingerprint_of
from uniadgen.evaluate.contenders import Contender, Truth
from uniadgen.evaluate.harness import APART, Measured, Row, Seeds, measure
from uniadgen.evaluate.listed import ListedRequests
from uniadgen.evaluate.measures import Measure, Setting
from uniadgen.evaluate.pictures import PUBLISHED, AgainstTarget
from uniadgen.evaluate.report import Report, as_markdown, table
from uniadgen.evaluate.requests import LeftOut, Request, WorldRequests
from uniadgen.evaluate.run import Plan
from uniadgen.evaluate.scorers import ChecksScorer, PastedScorer, TextScorer, scorers_of
from uniadgen.evaluate.summary import interval_of, summarise
from uniadgen.evaluate.truth import StyleJudge
from uniadgen.records import Ad, Click, Example, Product
from uniadgen.world.scenes import NUM_STYLES, Style

# the judge


@pytest.fixture
def judge() -> StyleJudge:
    """A judge who knows four plain pictures: styles 0 to 3 are shades from black to white, a product in the middle."""
    judge = StyleJudge.__new__(StyleJudge)
    judge.styles = [Style.from_index(i) for i in range(4)]
    judge.known = np.stack([np.full((48, 48, 3), 85.0 * i, np.float32) for i in range(4)])
    judge.ground = np.ones((4, 48, 48), bool)
    judge.ground[:, 16:32, 16:32] = False
    return judge


def test_the_judge_names_the_nearest_style(judge: StyleJudge) -> None:
    nothing = np.zeros((48, 48), np.uint8)
    for i, grey in enumerate((20, 90, 150, 250)):
        assert judge.style(Image.new("RGB", (144, 144), (grey,) * 3), nothing) == Style.from_index(i)


def test_the_judge_does_not_look_at_the_product(judge: StyleJudge) -> None:
    picture, product = Image.new("RGB", (48, 48), "black"), np.zeros((48, 48), np.uint8)
    picture.paste("white", (0, 0, 40, 48))
    assert judge.style(picture, product) != Style.from_index(0)
    product[:, :40] = 255
    assert judge.style(picture, product) == Style.from_index(0)


def test_the_judge_knows_every_style_as_often_as_every_other(rendering: None) -> None:
    from uniadgen.data.adworld import shop_of
    from uniadgen.recipes import nano

    shop = shop_of(nano().world, held_out=True)
    chosen = np.array(StyleJudge._one_of_each_style(shop))
    assert np.bincount(shop.style_indices(chosen), minlength=NUM_STYLES).tolist() == [2] * NUM_STYLES
    assert len(set(chosen)) == 2 * NUM_STYLES


# AdWorld's requests


def test_what_was_rendered_for_a_request_is_not_rendered_again(tmp_path: Path, tiny_config, monkeypatch) -> None:
    """Nor where another process asks; a file that was cut short is made anew."""
    world = tiny_config.world
    first = WorldRequests(world, 16, 2, 5, tmp_path).load(range(2))
    (folder,) = tmp_path.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["5.npz", "6.npz"]
    drawn = []
    real = adworld.picture_of
    monkeypatch.setattr(adworld, "picture_of", lambda *what: drawn.append(what) or real(*what))
    again = WorldRequests(world, 16, 2, 5, tmp_path).load(range(2))
    assert not drawn
    assert list(map(fingerprint, again)) == list(map(fingerprint, first))
    whole = (folder / "6.npz").read_bytes()
    (folder / "6.npz").write_bytes(whole[: len(whole) // 2])
    mended = WorldRequests(world, 16, 2, 5, tmp_path).load(range(2))
    assert drawn and list(map(fingerprint, mended)) == list(map(fingerprint, first))
    assert (folder / "6.npz").stat().st_size == len(whole)


def fingerprint(request: Request) -> tuple[str, str]:
    return request.shopper, fingerprint_of(request.example)


# requests of one's own


@pytest.fixture
def lines(tmp_path: Path, product: Product) -> Path:
    """Twelve JSON lines of six shoppers, English and Chinese, whose pictures are there."""
    product.cutout.save(tmp_path / "mug.png")
    entries = []
    for number in range(12):
        Image.new("RGB", (20, 20), (20 * number, 90, 90)).save(tmp_path / f"{number}.png")
        told = {"cutout": "mug.png", "description": "A red mug.", "selling_points": ["kitchen mug", "礼盒包装"]}
        clicks = [{"picture": f"{n}.png", "text": f"mug {n} 礼盒"} for n in range(number % 4)]
        target = {"picture": f"{number}.png", "text": ("kitchen mug: gift", "家用马克杯，礼盒包装")[number % 2]}
        entries.append({"product": told, "clicks": clicks, "target": target, "user": f"u{number // 2}"})
    entries[0]["titles"] = ["kitchen mug: gift", "the red mug"]
    return write_lines(tmp_path / "own.jsonl", entries)


def write_lines(path: Path, entries: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8")
    return path


def listed(lines: Path, most: int = 100) -> ListedRequests:
    return ListedRequests(read_listing(lines), most, lines)


def test_lines_of_ones_own_become_requests(lines: Path) -> None:
    requests = listed(lines)
    assert (len(requests), requests.knows) == (12, {"target"})
    found = requests.load(range(12))
    assert [request.shopper for request in found] == [f"u{number // 2}" for number in range(12)]
    assert [len(request.example.clicks) for request in found] == [number % 4 for number in range(12)]
    assert found[5].example.target.picture.getpixel((0, 0)) == (100, 90, 90)
    assert found[3].example.clicks[1].text == "mug 1 礼盒"
    assert (found[0].titles, found[1].titles) == (("kitchen mug: gift", "the red mug"), ())
    assert len(listed(lines, 5)) == 5
    assert requests.left_out == []


def test_a_picture_that_is_broken_is_counted_and_listed(lines: Path) -> None:
    """A click's leaves the history, a target's takes the request."""
    (lines.parent / "1.png").write_bytes(b"no picture")
    requests = listed(lines)
    requests.listing = replace(requests.listing, max_broken=0.2)
    found = requests.load(range(12))
    assert [request.number for request in found] == [number for number in range(12) if number != 1]
    assert len(found[2].example.clicks) == 2 and len(found[1].example.clicks) == 1
    assert [(lost.number, lost.what) for lost in requests.left_out if lost.what != "click"] == [(1, "target")]
    assert {lost.number for lost in requests.left_out if lost.what == "click"} == {2, 3, 6, 7, 10, 11}
    assert all("not a picture" in lost.why for lost in requests.left_out)


def test_too_many_broken_pictures_stop_an_evaluation(lines: Path) -> None:
    for number in (4, 5):
        (lines.parent / f"{number}.png").unlink()
    with pytest.raises(
        ValueError, match=r"2 of 12 requests cannot be used, expected at most 10%; the first is sample 4"
    ):
        listed(lines).load(range(12))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user": 7}, "line 1: the user is 7, expected a text"),
        ({"titles": "one"}, "line 1: the titles are 'one', expected a list of texts"),
        ({"titles": [""]}, r"line 1: the titles are \[''\], expected a list of texts"),
    ],
)
def test_a_line_that_is_wrong_is_named(lines: Path, change: dict[str, Any], message: str) -> None:
    entry = json.loads(lines.read_text(encoding="utf-8").splitlines()[0])
    with pytest.raises(ValueError, match=message):
        read_listing(write_lines(lines, [entry | change]))


def test_a_file_without_samples_is_refused(lines: Path) -> None:
    with pytest.raises(ValueError, match="has no samples, expected at least one"):
        listed(write_lines(lines, []))


def test_adworld_needs_no_extra() -> None:
    script = "import sys; sys.modules |= dict.fromkeys(('pyarrow', 'duckdb', 'accelerate', 'sacrebleu')); "
    script += "import uniadgen.evaluate.run"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# ads kept and measured


class Shades:
    """Requests in memory, two of each shopper: products are discs, targets grey."""

    knows = frozenset({"target"})
    settings = {"source": "shades"}  # noqa: RUF012

    def __init__(self, number: int = 12, useless: Sequence[int] = ()) -> None:
        self.number, self.useless = number, useless
        self.left_out: list[LeftOut] = []

    def __len__(self) -> int:
        return self.number

    def load(self, numbers: range) -> list[Request]:
        self.left_out += [LeftOut(number, "target", "gone") for number in numbers if number in self.useless]
        return [self.request(number) for number in numbers if number not in self.useless]

    @staticmethod
    def request(number: int) -> Request:
        cutout = Image.new("RGBA", (40, 40))
        ImageDraw.Draw(cutout).ellipse((10, 10, 29, 29), fill=(200, number, 30, 255))
        product = Product(cutout, f"A mug, number {number}.", ("kitchen mug", "dishwasher safe"))
        clicks = (Click(Image.new("RGB", (16, 16), "white"), "kitchen mug: light"),) * (number % 2)
        target = Click(Image.new("RGB", (16, 16), (10 * number,) * 3), f"kitchen mug: number {number}")
        return Request(number, f"shopper {number // 2}", Example(product, clicks, target))


class Painter:
    """Pastes products on its colour; stops after so many batches."""

    def __init__(self, colour: str, text: str, batches: int = 1000) -> None:
        self.colour, self.text, self.left, self.asked = colour, text, batches, list[int]()

    def generate_batch(self, examples: Sequence[Example], seeds: Sequence[int]) -> list[Ad]:
        from uniadgen.baselines.copied import paste_ad

        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.asked += seeds
        background = Image.new("RGB", (16, 16), self.colour)
        return [
            paste_ad(example.product, background, self.text, 16, seed, {"shown": [0]})
            for example, seed in zip(examples, seeds, strict=True)
        ]


class Brightness:
    """Two measures: how bright an ad is, and whether its seed is even; the second of every third ad is unknown."""

    name = "brightness"
    needs = frozenset({"picture"})

    def score(self, made: Sequence[Ad], asked: Sequence[Request]) -> dict[str, np.ndarray]:
        bright = [float(np.asarray(ad.painted, np.float64).mean()) for ad in made]
        even = [float(ad.seed % 2 == 0) for ad in made]
        known = [request.number % 3 != 2 for request in asked]
        return {"bright": np.array(bright), "even": np.where(known, even, np.nan)}


def contender(name: str, generator: Any, makes: Sequence[str] = ("picture", "text", "pasted")) -> Contender:
    return Contender(name, "model", generator, frozenset(makes), f"the fingerprint of {name}")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks and batches so small that a few requests fill several."""
    monkeypatch.setattr(harness, "CHUNK", 6)
    monkeypatch.setattr(harness, "BATCH", 4)


def test_values_stand_in_the_order_of_their_rows(tmp_path: Path) -> None:
    made = measure(
        [contender("dark", Painter("black", "a")), contender("grey", Painter("#808080", "b"))],
        Shades(useless=[7]),
        [Brightness()],
        tmp_path,
        Seeds(100, 2),
    )
    numbers = [*range(6), *range(6), *[6, 8, 9, 10, 11] * 2]
    assert [row.request for row in made.rows] == numbers
    assert [row.seed - 100 - row.request for row in made.rows] == [0] * 6 + [APART] * 6 + [0] * 5 + [APART] * 5
    assert made.rows[-1].shopper == "shopper 5"
    assert made.measures == ["bright", "even"]
    assert made.values["dark"]["bright"].tolist() == [0] * 22
    assert set(made.values["grey"]["bright"].tolist()) == {128.0}
    unknown = np.isnan(made.values["grey"]["even"])
    assert unknown.tolist() == [number % 3 == 2 for number in numbers]
    assert [len(pictures) for pictures in made.drawn.values()] == [6, 6, 6]


def test_a_killed_run_goes_on_and_a_second_one_makes_nothing(tmp_path: Path) -> None:
    first = Painter("black", "a", batches=2)
    with pytest.raises(KeyboardInterrupt):
        measure([contender("dark", first)], Shades(), [Brightness()], tmp_path)
    assert first.asked == [0, 1, 2, 3, 4, 5]
    second = Painter("black", "a")
    made = measure([contender("dark", second)], Shades(), [Brightness()], tmp_path)
    assert second.asked == [6, 7, 8, 9, 10, 11]
    third = Painter("white", "not asked", batches=0)
    again = measure([contender("dark", third)], Shades(), [Brightness()], tmp_path)
    np.testing.assert_array_equal(again.values["dark"]["bright"], made.values["dark"]["bright"])


def test_an_ad_that_is_kept_is_the_ad_that_was_made(tmp_path: Path) -> None:
    cache = AdCache(tmp_path)
    (ad,) = Painter("navy", "礼盒 “x”").generate_batch([Shades.request(1).example], [7])
    key = cache.key("somebody", fingerprint_of(Shades.request(1).example), 7)
    assert cache.get(key) is None
    cache.put(key, ad)
    kept = cache.get(key)
    assert (kept.text, kept.seed, dict(kept.record)) == (ad.text, 7, dict(ad.record))
    assert kept.picture.tobytes() == ad.picture.tobytes() and kept.painted.tobytes() == ad.painted.tobytes()
    damaged = tmp_path / f"{key}.png"
    damaged.write_bytes(damaged.read_bytes()[:40])
    assert cache.get(key) is None


def test_ads_are_told_apart_by_maker_request_seed_and_code(tmp_path: Path) -> None:
    cache = AdCache(tmp_path)
    request = Shades.request(1).example
    other = replace(request, clicks=(Click(Image.new("RGB", (16, 16), (255, 255, 254)), "kitchen mug: light"),))
    prints = [fingerprint_of(request), fingerprint_of(other), fingerprint_of(replace(request, clicks=()))]
    keys = [cache.key(maker, found, seed) for maker in "ab" for found in prints for seed in (0, 1)]
    cache.code = "another version"
    keys.append(cache.key("a", prints[0], 0))
    assert len(set(keys)) == len(keys)
    assert fingerprint_of(Shades.request(1).example) == prints[0]
    assert fingerprint_of(replace(request, target=None)) == prints[0]


def test_a_scorer_is_asked_only_where_it_has_all_it_needs(tmp_path: Path) -> None:
    """Without ground truth of style the measures that need it do not run; a writer's pictures are not looked at."""
    scorers = scorers_of(["style", "words", "pasted", "text"], Setting())
    writer, painter = contender("writer", Painter("red", "x"), ["text"]), contender("painter", Painter("red", "x"))
    made = measure([writer, painter], Shades(2), scorers, tmp_path)
    assert set(made.values["painter"]) - set(made.values["writer"]) == {"change"}
    lacks = {(found.scorer, found.generator): found.lacks for found in made.missing}
    assert lacks == {
        ("style", "writer"): "picture, taste",
        ("words", "writer"): "taste",
        ("pasted", "writer"): "ads with pasted",
        ("style", "painter"): "taste",
        ("words", "painter"): "taste",
    }


def test_a_scorer_with_too_few_values_is_refused(tmp_path: Path) -> None:
    class Short(Brightness):
        def score(self, made, asked):
            return {"bright": np.zeros(1)}

    with pytest.raises(ValueError, match=r"the metric brightness gave \(1,\) values of bright, expected one for each"):
        measure([contender("dark", Painter("black", "a"))], Shades(), [Short()], tmp_path)


def test_where_no_request_can_be_used_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of 2 requests can be used: gone"):
        measure([contender("dark", Painter("black", "a"))], Shades(2, useless=[0, 1]), [Brightness()], tmp_path)


# what is measured


def test_texts_are_compared_with_the_true_title_the_products_titles_and_the_history() -> None:
    asked = [replace(Shades.request(1), titles=("dishwasher safe kitchen mug",)), Shades.request(2)]
    ads = Painter("red", "kitchen mug: light").generate_batch([request.example for request in asked], [0, 0])
    scores = TextScorer("paper").score(ads, asked)
    assert all(values.shape == (2,) for values in scores.values())
    assert scores["history_m_bleu"][0] == pytest.approx(1) and np.isnan(scores["history_m_bleu"][1])
    assert 0 < scores["rouge_l"][0] < 1
    assert scores["m_rouge"][0] >= scores["rouge_l"][0]
    assert scores["empty"].tolist() == [0, 0]
    nothing = [replace(ad, text=" ") for ad in ads]
    scores = TextScorer("paper").score(nothing, asked)
    assert scores["bleu"].tolist() == [0, 0] and scores["empty"].tolist() == [1, 1]


def test_a_pasted_product_does_not_change_and_a_painted_one_does() -> None:
    asked = [Shades.request(3)]
    (ad,) = Painter("red", "x").generate_batch([asked[0].example], [0])
    assert PastedScorer(Setting()).score([ad], asked)["change"].tolist() == [0]
    pixels = np.asarray(ad.picture).copy()
    pixels[24, 24] = 255
    changed = replace(ad, picture=Image.fromarray(pixels))
    assert PastedScorer(Setting()).score([changed], asked)["change"].tolist() == [252]


def test_checks_are_passed_or_not() -> None:
    asked = [Shades.request(3)] * 2
    ads = Painter("#004080", "kitchen mug: dishwasher safe").generate_batch([r.example for r in asked], [0, 1])
    scores = ChecksScorer("text").score([ads[0], replace(ads[1], text="the best mug, 500 ml")], asked)
    assert scores["passed_text"].tolist() == [1, 0]
    assert scores["check_numbers"].tolist() == [1, 0]
    scores = ChecksScorer("picture").score([ads[0], replace(ads[1], picture=Image.new("RGB", (48, 48)))], asked)
    assert scores["check_psnr"].tolist() == [1, 0]


@pytest.mark.parametrize(("which", "side"), [("pasted", 48), ("painted", 16)])
def test_a_picture_is_compared_as_it_was_painted_or_as_the_ad_shows_it(which: str, side: int) -> None:
    asked = [Shades.request(3)]
    ads = Painter("red", "x").generate_batch([asked[0].example], [0])
    scorer = AgainstTarget("size", lambda made, true: np.array([float(m.width) for m in made]), Setting(picture=which))
    assert scorer.score(ads, asked) == {"size": np.array([side])}
    assert scorer.settings == {"picture": which, "weights": ""}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of published picture metrics, tiny and random."""
    folder = write_all(tmp_path_factory.mktemp("metrics"))
    return {name: str(folder / name) for name in PUBLISHED}


def test_published_picture_metrics_are_scorers(published: dict[str, str]) -> None:
    from uniadgen.metrics.weights import SOURCES

    assert set(PUBLISHED) == set(SOURCES)
    asked = [Shades.request(number) for number in (3, 4, 5)]
    ads = Painter("red", "a mug").generate_batch([request.example for request in asked], [0, 0, 0])
    for which in ("pasted", "painted"):
        setting = Setting(picture=which, prompt="points", weights=published)
        for scorer in scorers_of(
            [name for name in PUBLISHED if name != "imagereward"], setting
        ):  # it has one size only
            (values,) = scorer.score(ads, asked).values()
            assert values.shape == (3,) and np.isfinite(values).all(), scorer.name
            assert scorer.settings["weights"] == published[scorer.name]
            assert scorer.needs == {"picture", "target"} or SOURCES[scorer.name].needs != "counterparts"
            assert ("prompt" in scorer.settings) == (SOURCES[scorer.name].needs == "prompts")


def test_a_true_picture_is_like_itself(published: dict[str, str]) -> None:
    asked = [Shades.request(number) for number in (3, 4)]
    ads = Truth(16).generate_batch([request.example for request in asked], [0, 0])
    for scorer in scorers_of(["clip", "dinov3"], Setting(picture="painted", weights=published)):
        assert scorer.score(ads, asked)[scorer.name] == pytest.approx([1, 1], abs=1e-5)


def test_pbs_is_a_scorer_and_may_have_other_weights() -> None:
    asked = [Shades.request(number) for number in (3, 9)]
    ads = Truth(16).generate_batch([request.example for request in asked], [0, 0])
    (scorer,) = scorers_of(["pbs"], Setting(picture="painted"))
    assert scorer.score(ads, asked)["pbs"] == pytest.approx([1, 1], abs=1e-5)
    assert Plan(models=["nano"], weights={"pbs": "own"}).weights == {"pbs": "own"}


def test_a_published_metric_without_weights_says_what_goes_where() -> None:
    with pytest.raises(ValueError, match=r"clip: no weights given, expected a folder with .*clip=FOLDER"):
        scorers_of(["clip"], Setting())


def test_the_truth_is_the_click_that_happened() -> None:
    example = Shades.request(3).example
    (ad,) = Truth(16).generate_batch([example], [5])
    assert (ad.text, ad.seed, ad.picture.size) == ("kitchen mug: number 3", 5, (48, 48))
    assert ad.painted.tobytes() == example.target.picture.tobytes()
    with pytest.raises(ValueError, match="a request has no target"):
        Truth(16).generate_batch([replace(example, target=None)], [5])


# lines


def measured(shoppers: Sequence[str], **values: dict[str, Sequence[float]]) -> Measured:
    rows = [Row(number, shopper, number) for number, shopper in enumerate(shoppers)]
    return Measured(rows, {name: {k: np.array(v, float) for k, v in found.items()} for name, found in values.items()})


def line_up(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "model")


RNG = np.random.default_rng(0)


def test_a_share_of_one_answer_each_has_wilsons_interval() -> None:
    """8 of 10: 49.0 % to 94.3 % (Wilson 1927)."""
    values = np.array([1.0] * 8 + [0.0] * 2)
    interval, how = interval_of(Measure("hits", yes_no=True), values, [str(i) for i in range(10)], RNG)
    assert how == "wilson"
    assert interval == pytest.approx((0.8, 0.490, 0.943), abs=5e-4)


def test_where_all_answer_alike_nothing_is_certain() -> None:
    """Nor does it help that each answered many times."""
    for answer in (0.0, 1.0):
        interval, how = interval_of(Measure("hits", yes_no=True), np.full(100, answer), ["a", "b"] * 50, RNG)
        assert how == "wilson"
        assert interval.high - interval.low > 0.6


def test_several_values_of_a_shopper_are_resampled_together() -> None:
    """Ten times the same value of each of 40 shoppers tells no more than one value of each."""
    rng = np.random.default_rng(1)
    once = rng.normal(size=40)
    users = [str(i) for i in range(40)]
    one, _ = interval_of(Measure("x"), once, users, np.random.default_rng(0))
    many, how = interval_of(Measure("x"), np.repeat(once, 10), np.repeat(users, 10).tolist(), np.random.default_rng(0))
    apart, _ = interval_of(Measure("x"), np.repeat(once, 10), [str(i) for i in range(400)], np.random.default_rng(0))
    assert how == "bootstrap"
    assert many.high - many.low == pytest.approx(one.high - one.low, rel=0.1)
    assert apart.high - apart.low < 0.5 * (many.high - many.low)


def test_the_largest_value_counts_where_that_is_what_matters() -> None:
    interval, how = interval_of(Measure("change", largest=True), np.array([0.0, 3.0, 1.0]), ["a", "b", "c"], RNG)
    assert (tuple(interval), how) == ((3, 3, 3), "none")


def test_generators_are_tested_against_the_reference_on_the_same_requests() -> None:
    """Yes or no by McNemar, means by the bootstrap, and p adjusted over the generators of a measure."""
    base, better = [0.0] * 30, [1.0] * 12 + [0.0] * 18
    found = measured(
        [str(i) for i in range(30)],
        ours={"palette": base, "bleu": np.arange(30) / 100},
        theirs={"palette": better, "bleu": np.arange(30) / 100 + 0.3},
        others={"palette": [*base[:29], np.nan], "bleu": [np.nan] * 30},
    )
    lines = {(line.key, line.generator): line for line in summarise(found, line_up("ours", "theirs", "others"), "ours")}
    assert ("bleu", "others") not in lines
    assert lines["palette", "ours"].difference is None
    theirs = lines["palette", "theirs"].difference
    assert (theirs.test, theirs.value, theirs.n) == ("mcnemar", pytest.approx(0.4), 30)
    assert theirs.p == pytest.approx(2 / 2**12)
    assert theirs.adjusted == pytest.approx(2 * theirs.p)
    assert theirs.low < 0.4 < theirs.high
    others = lines["palette", "others"].difference
    assert (others.p, others.n) == (1, 29)
    mean = lines["bleu", "theirs"].difference
    assert (mean.test, mean.value) == ("paired bootstrap", pytest.approx(0.3))
    assert mean.p < 0.01


def test_several_answers_of_a_shopper_are_no_case_for_mcnemar() -> None:
    found = measured(["a", "b", "c"] * 4, ours={"palette": [0.0] * 12}, theirs={"palette": [0.0, 1.0] * 6})
    _, line = summarise(found, line_up("ours", "theirs"), "ours")
    assert line.difference.test == "paired bootstrap"


def test_of_one_shopper_nothing_is_tested() -> None:
    found = measured(["a"] * 12, ours={"bleu": [0.0] * 12}, theirs={"bleu": [1.0] * 12})
    _, line = summarise(found, line_up("ours", "theirs"), "ours")
    assert line.difference is None


def test_the_same_seed_gives_the_same_lines() -> None:
    rng = np.random.default_rng(0)
    found = measured([str(i) for i in range(20)], ours={"bleu": rng.random(20)}, theirs={"bleu": rng.random(20)})
    assert summarise(found, line_up("ours", "theirs"), "ours") == summarise(found, line_up("ours", "theirs"), "ours")


# the report


@pytest.fixture
def report() -> Report:
    """Two generators, one target that is met and one that is not."""
    good, bad = [1.0] * 8 + [0.0] * 2, [1.0] * 5 + [0.0] * 5
    found = measured(
        [str(i) for i in range(10)],
        ours={"palette": good, "layout": bad, "fresh": np.arange(10)},
        theirs={"palette": bad},
    )
    found.drawn = {"target": [Image.new("RGB", (10, 10))] * 2, "ours": [Image.new("RGB", (10, 10), "red")] * 2}
    settings = {"reference": "ours", "first_seed": 0, "seeds": 1, "requests": {"number": 10}, "none": float("nan")}
    return Report(tuple(summarise(found, line_up("ours", "theirs"), "ours")), found, settings)


def test_the_table_says_what_was_found_and_met(report: Report) -> None:
    with Console(width=100, record=True, file=io.StringIO()) as console:
        console.print(table(report))
    text = console.export_text()
    assert "10 requests; reference: ours" in text
    lines = text.splitlines()
    palette, layout = (next(place for place, row in enumerate(lines) if name in row) for name in ("palette", "layout"))
    for said in ("ours", "80.0%", "49.0% .. 94.3%", "at least 70% yes"):
        assert said in lines[palette + 1]
    assert "NO" in lines[layout + 1]
    assert "-30.0%" in next(row for row in lines if "theirs" in row)


def test_the_report_is_written_for_people_and_programs(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    told = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert told["none"] is None
    assert [(line["key"], line["generator"]) for line in told["lines"]] == [
        *(("palette", name) for name in ("ours", "theirs")),
        ("layout", "ours"),
        ("fresh", "ours"),
    ]
    rows, values = (
        list(csv.DictReader((tmp_path / name).read_text(encoding="utf-8").splitlines()))
        for name in ("table.csv", "values.csv")
    )
    assert float(rows[0]["value"]) == 0.8 and float(rows[1]["difference_value"]) == pytest.approx(-0.3)
    assert len(values) == 20
    assert (values[0]["palette"], values[9]["fresh"], values[10]["fresh"]) == ("1.0", "9.0", "")
    markdown = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    assert len(markdown) == 2 + len(rows)
    assert len({line.count("|") for line in markdown}) == 1
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (2 * 144, 2 * 144)


def test_a_name_cannot_break_the_markdown_table(report: Report) -> None:
    line = replace(report.lines[0], generator="a|b")
    assert "a\\|b" in as_markdown([line])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baselines": ["copi"]}, r"unknown baseline 'copi'; did you mean 'copy'\?"),
        ({"metrics": ["texts"]}, r"unknown metric 'texts'; did you mean 'text'\?"),
        ({"picture": "drawn"}, r"unknown picture 'drawn'.*known: painted, pasted"),
        ({"prompt": "caption"}, r"unknown prompt 'caption'.*known: description, points, target, text"),
        ({"weights": {"klip": "x"}}, r"unknown metric with weights 'klip'; did you mean 'clip'\?"),
        ({"baselines": ["llm"]}, "the baseline llm asks a server, got none"),
    ],
)
def test_a_plan_with_what_is_not_there_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan(models=["nano"], **change)


# the command


def test_a_shop_compares_a_model_with_rivals_on_its_own_data(lines: Path, tiny_run: Path, tmp_path: Path) -> None:
    """Only what needs no ground truth of style is measured; the second time nothing is made."""
    out = tmp_path / "out"
    command = ["evaluate", f"mine={tiny_run}", "--data", str(lines), "--baselines", "no_history,copy,retrieve"]
    results = [CliRunner().invoke(app, [*command, "--seeds", "2", "--out", str(out)]) for _ in range(2)]
    assert [result.exit_code for result in results] == [0, 0], results[0].stderr
    assert results[0].stdout == results[1].stdout
    assert "12 requests, 2 seeds each; reference: mine" in " ".join(results[0].stdout.split())
    assert len(list((out / "ads").glob("*.json"))) == 4 * 12 * 2
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert {found["scorer"] for found in report["not_measured"]} == {"style", "words"}
    assert report["generators"]["mine"]["config"]["data"]["image_size"] == 32
    found = {(line["key"], line["generator"]): line for line in report["lines"]}
    assert found["change", "copy"]["value"] == 0
    assert found["history_m_bleu", "copy"]["value"] == pytest.approx(1)
    assert (found["bleu", "mine"]["n"], found["bleu", "mine"]["shoppers"]) == (24, 6)
    assert found["bleu", "copy"]["difference"]["test"] == "paired bootstrap"
    assert found["same", "mine"]["value"] == 1
