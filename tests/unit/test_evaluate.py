"""Measures and their intervals, and the judge of styles against pictures whose style is known."""

import math

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from uniadgen.evaluate import Measure, StyleJudge, mean, share, table
from uniadgen.world.scenes import NUM_STYLES, Style


def test_a_share_has_its_wilson_interval() -> None:
    """8 of 10: 49.0 % to 94.3 % (Wilson 1927)."""
    measure = share("hits", [True] * 8 + [False] * 2)
    assert (measure.value, measure.n) == (0.8, 10)
    assert (measure.low, measure.high) == pytest.approx((0.490, 0.943), abs=5e-4)


@pytest.mark.parametrize(
    ("hits", "bound"), [([True] * 10, 1.0), ([False] * 10, 0.0), ([True] * 200, 1.0), ([False] * 7, 0.0)]
)
def test_an_interval_never_leaves_0_to_1(hits: list[bool], bound: float) -> None:
    measure = share("hits", hits)
    assert 0 <= measure.low <= measure.value <= measure.high <= 1
    assert bound in (measure.low, measure.high)


def test_of_nothing_nothing_is_known() -> None:
    measure = share("hits", [])
    assert (measure.low, measure.high, measure.n) == (0.0, 1.0, 0)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(1000):
        measure = share("hits", (rng.random(40) < 0.3).tolist())
        covered.append(measure.low <= 0.3 <= measure.high)
    assert 0.92 < np.mean(covered) < 0.98


def test_a_mean_has_its_normal_interval() -> None:
    values = [1.0, 3.0] * 50
    measure = mean("dB", values, "at least 2", lambda value: value >= 2)
    assert measure.value == 2.0
    assert measure.high - measure.value == pytest.approx(1.96 / math.sqrt(100), rel=0.02)
    assert measure.met is True


@pytest.mark.parametrize(("met", "said"), [(True, "yes"), (False, "NO"), (None, "")])
def test_the_table_says_what_was_met(met: bool | None, said: str) -> None:
    line = vars(Measure("palette", 0.5, 0.4, 0.6, 10, "at least 70%", met))
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table({"model": "nano", "requests": 10, "measures": [line]}))
    console.file.close()
    text = console.export_text()
    assert "nano, 10 held-out requests" in text
    row = next(row for row in text.splitlines() if "palette" in row)
    assert "50.0%" in row and "40.0% .. 60.0%" in row
    assert row.rstrip(" │").endswith(said) if said else "NO" not in row


@pytest.fixture
def judge(monkeypatch) -> StyleJudge:
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
