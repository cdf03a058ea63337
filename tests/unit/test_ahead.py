"""The benchmark of drafts: all ways make the same ads, and what a step gives is counted."""

import json
from pathlib import Path

import pytest

from uniadgen import AdGenerator
from uniadgen.ahead import AHEAD, TOGETHER, Drafts, table


@pytest.fixture
def drafts(generator: AdGenerator, rendering: None, monkeypatch) -> Drafts:
    """For two shoppers, on the trained tiny nano."""
    monkeypatch.setattr(AdGenerator, "from_pretrained", lambda name: generator)
    monkeypatch.setattr(generator.engine, "positions", 1)  # the bench sets it; put back afterwards
    return Drafts("tiny", 2)


def test_all_ways_make_the_same_ads_and_are_counted(drafts: Drafts, tmp_path: Path) -> None:
    report = drafts.measure(1)
    assert report.same_tokens
    assert [(line.ads, line.ahead) for line in report.lines] == [(ads, ahead) for ads in TOGETHER for ahead in AHEAD]
    for line in report.lines:
        assert line.seconds > 0 and 1 <= line.words <= line.ahead and 1 <= line.cells <= line.ahead
        assert (line.words, line.cells) == (1, 1) or line.ahead > 1
    assert max(line.cells for line in report.lines) > 1
    assert 0 <= report.as_cutout <= report.covered
    report.save(tmp_path / "drafts.json")
    assert json.loads((tmp_path / "drafts.json").read_text())["same_tokens"] is True
    assert table(report).row_count == len(report.lines)


def test_ads_that_differ_are_told(drafts: Drafts) -> None:
    drafts._make([0], 1)
    drafts.made[1] = drafts.made[0]
    drafts._make([1], 4)
    assert not drafts.agree
