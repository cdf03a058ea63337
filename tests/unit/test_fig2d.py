"""The Fig. 2(d) study: its statistics, its pictures, and that the shipped PBS does what it is for."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from uniadgen.config import WorldConfig
from uniadgen.metrics import fig2d
from uniadgen.metrics.backgrounds import SHOWN, Probe, probes
from uniadgen.metrics.fig2d import (
    Watched,
    cohens_d_of,
    colour_histogram,
    gap_of,
    metrics,
    pixel_statistics,
    raw_pixels,
    save,
    study,
)
from uniadgen.metrics.pbs import PBS
from uniadgen.metrics.statistics import auc_of
from uniadgen.metrics.trunk import Trunk

# statistics


def test_gap_and_cohens_d_are_what_they_say() -> None:
    scores, kind = np.array([0.9, 0.7, 0.8, 0.1, 0.3]), np.array([True, True, True, False, False])
    weights = np.array([[1.0] * 5, [2, 0, 1, 1, 1]])
    one, other = scores[[0, 0, 2]], scores[[3, 4]]
    np.testing.assert_allclose(gap_of(scores, kind)(weights), [0.8 - 0.2, one.mean() - 0.2])
    pooled = [np.sqrt((0.02 + 0.02) / 3), np.sqrt((((one - one.mean()) ** 2).sum() + ((other - 0.2) ** 2).sum()) / 3)]
    np.testing.assert_allclose(cohens_d_of(scores, kind)(weights), [0.6 / pooled[0], (one.mean() - 0.2) / pooled[1]])


def test_a_metric_without_any_spread_has_no_d() -> None:
    assert np.isnan(cohens_d_of(np.array([1.0, 1, 0, 0]), np.array([True, True, False, False]))(np.ones((1, 4))))


# pictures


@pytest.fixture(scope="module")
def rendered() -> list[Probe]:
    return list(probes(WorldConfig(), 12, 112))


def test_probes_show_what_they_say(rendered: list[Probe]) -> None:
    assert all(tuple(probe) == SHOWN for probe in rendered)
    error = {
        kind: np.mean([np.abs(np.asarray(p["first"], float) - np.asarray(p[kind], float)).mean() for p in rendered])
        for kind in SHOWN[1:]
    }
    assert error["same"] < error["remade"] < error["near"] < error["different"]
    assert 0 < error["swapped"] < error["different"]
    corner = [np.abs(np.asarray(p["first"], float) - np.asarray(p["swapped"], float))[:8, :8].max() for p in rendered]
    assert max(corner) <= 8  # far from it another product changes nothing but a little shade
    again = next(probes(WorldConfig(), 12, 112))
    assert all(np.array_equal(np.asarray(again[kind]), np.asarray(rendered[0][kind])) for kind in SHOWN)


def test_more_products_than_there_are_are_refused() -> None:
    with pytest.raises(ValueError, match="got 289 products, expected 2 to 288"):
        next(probes(WorldConfig(), 289, 32))


def test_controls_are_what_they_are_called() -> None:
    picture = Image.new("RGB", (96, 96), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 0, 96, 48))
    assert raw_pixels([picture]).reshape(48, 48, 3)[[0, -1], 0].tolist() == [[0, 0, 1], [1, 0, 0]]
    np.testing.assert_allclose(pixel_statistics([picture])[0], [0.5, 0, 0.5, 0.5, 0, 0.5])
    (histogram,) = colour_histogram([picture])
    assert histogram.sum() == pytest.approx(1)
    assert np.flatnonzero(histogram).tolist() == [7, 7 * 64]  # red is the first of three axes
    assert histogram[[7, 7 * 64]].tolist() == [0.5, 0.5]


# the study


def oracle(pictures: Iterable[Image.Image]) -> np.ndarray:
    """A metric that sees a picture's upper corners alone."""
    seen = [np.asarray(picture.convert("RGB"), np.float32) for picture in pictures]
    return np.stack([np.concatenate([p[:6, :6].mean((0, 1)), p[:6, -6:].mean((0, 1))]) - 128 for p in seen])


def flat_probes(number: int = 20) -> list[Probe]:
    """Backgrounds are colours, products squares in the middle."""
    rng = np.random.default_rng(0)

    def picture(ground: np.ndarray, product: np.ndarray) -> Image.Image:
        made = Image.new("RGB", (32, 32), tuple(ground.tolist()))
        made.paste(tuple(product.tolist()), (8, 8, 24, 24))
        return made

    made = []
    for _ in range(number):
        own, other, far, near = (rng.integers(256, size=3) for _ in range(4))
        grounds = dict.fromkeys(SHOWN, own) | {"different": far, "near": near}
        products = {kind: rng.integers(256, size=3) if kind == "swapped" else other for kind in SHOWN}
        made.append({kind: picture(grounds[kind], products[kind]) for kind in SHOWN})
    return made


def test_a_metric_of_backgrounds_wins_and_one_of_products_is_found_out() -> None:
    def products_only(pictures: Iterable[Image.Image]) -> np.ndarray:
        return np.stack([np.asarray(p, np.float32)[12:20, 12:20].mean((0, 1)) - 128 for p in pictures])

    found = study(flat_probes(), {"oracle": oracle, "products": products_only}, 32, 0, resamples=200)
    rows = {(row.metric, row.centred): row for row in found.rows}
    good, bad = rows["oracle", False], rows["products", False]
    assert good.same == pytest.approx(1) and good.swapped == pytest.approx(1)
    assert good.auc.value == good.leakage.value == 1
    assert good.gap.value == pytest.approx(good.same - good.different)
    assert good.gap.low < good.gap.value < good.gap.high
    assert bad.auc.value == 0.5 and bad.gap.value == pytest.approx(0, abs=1e-6)
    assert bad.leakage.value < 0.1
    values = np.concatenate([found.similarities["oracle"][kind] for kind in ("same", "near")])
    kind = np.repeat([True, False], 20)
    assert good.near.value == auc_of(values, kind)(np.ones((1, 40)))[0]


def test_centring_takes_off_what_all_pictures_share() -> None:
    def shifted(pictures: Iterable[Image.Image]) -> np.ndarray:
        return oracle(pictures) + 5000

    found = study(flat_probes(), {"oracle": oracle, "shifted": shifted}, 32, 0, resamples=20)
    rows = {(row.metric, row.centred): row for row in found.rows}
    assert rows["shifted", False].gap.value < 0.01
    assert rows["shifted", True].gap.value == pytest.approx(rows["oracle", True].gap.value, abs=1e-3)


def test_a_study_is_written_whole(tmp_path: Path) -> None:
    advanced = []
    shown = Watched(flat_probes(8), lambda: advanced.append(1))
    found = study(shown, {"oracle": oracle, "raw pixels": raw_pixels}, 32, 0, resamples=20)
    save(found, shown.first, tmp_path)
    assert len(advanced) == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "fig2d-pictures.png", "fig2d.csv", "fig2d.json", "fig2d.png",
    ]  # fmt: skip
    rows = json.loads((tmp_path / "fig2d.json").read_text())["rows"]
    with (tmp_path / "fig2d.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["metric"], line["centred"]) for line in lines] == [
        ("oracle", "false"), ("oracle", "true"), ("raw pixels", "false"), ("raw pixels", "true"),
    ]  # fmt: skip
    for row, line in zip(rows, lines, strict=True):
        assert float(line["gap_low"]) == pytest.approx(row["gap"]["low"], abs=1e-6)
        assert float(line["auc"]) == pytest.approx(row["auc"]["value"], abs=1e-6)
    with Image.open(tmp_path / "fig2d-pictures.png") as picture:
        assert picture.size == (6 * 144, 6 * 144)
    assert fig2d.table(found).row_count == 4


# what is shipped


def test_the_shipped_pbs_tells_backgrounds_and_does_not_mind_the_product(rendered: list[Probe]) -> None:
    model = PBS.from_pretrained("pbs")
    measured = metrics(model, Trunk.untrained(model.config, 0), [])
    found = study(rendered, measured, 112, 0, resamples=200)
    rows = {row.metric: row for row in found.rows if not row.centred}
    assert rows["PBS"].auc.value >= 0.99
    assert rows["PBS"].swapped >= 0.9
    assert rows["PBS"].leakage.value >= 0.99
    assert all(rows["PBS"].gap.value > row.gap.value for name, row in rows.items() if name != "PBS")
