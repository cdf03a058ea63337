"""The benchmark of serving: both ways serve everybody, and its clock counts what it should."""

import json
from pathlib import Path

import pytest
import torch

from uniadgen.model import weights
from uniadgen.speed import request
from uniadgen.traffic import CONTINUOUS, STATIC, Served, Traffic, Visit, table


@pytest.fixture
def traffic(model, layout, tmp_path: Path) -> Traffic:
    """To a tiny model with random weights."""
    weights.save(tmp_path / "tiny", model, layout, torch.float32)
    return Traffic(str(tmp_path / "tiny"), slots=2)


def test_everybody_is_served_both_ways(traffic: Traffic, tmp_path: Path) -> None:
    report = traffic.measure([0.5, 2.0], 3, 1)
    assert [(line.load, line.way) for line in report.lines] == [
        (load, way) for load in (0.5, 2.0) for way in (STATIC, CONTINUOUS)
    ]
    for line in report.lines:
        assert len(line.first) == len(line.whole) == 3
        assert all(0 < first < whole <= line.seconds for first, whole in zip(line.first, line.whole, strict=True))
    assert 0 < report.told < 0.5
    report.save(tmp_path / "serving.json")
    assert json.loads((tmp_path / "serving.json").read_text())["slots"] == 2
    assert table(report).row_count == 6


def test_one_who_comes_later_waits_for_a_batch_but_not_for_an_ad(traffic: Traffic, monkeypatch) -> None:
    """Three come, the second while the first is served: continuously it begins before the first one has its ad."""
    examples = [request(traffic.generator.config, number) for number in range(3)]
    moments = [0.0, 1e-6, 1e6]
    visits = {}
    for way in (traffic.in_batches, traffic.continuously):
        visits[way.__name__] = visit = Visit(moments, examples)
        way(visit)
        assert visit.clock.now > 1e6  # nobody came for long, and that time was skipped
        assert visit.clock.busy < 1e3
    batches, desk = visits["in_batches"], visits["continuously"]
    assert batches.first[1] > batches.whole[0]
    assert desk.first[1] < desk.whole[0]


def test_figures_are_of_all_ads() -> None:
    line = Served(1.0, STATIC, 10.0, (1.0, 2.0, 3.0), (2.0, 4.0, 6.0))
    assert line.figures == pytest.approx((0.3, 4.0, 5.8, 2.0))
