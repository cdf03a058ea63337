"""The benchmark of the engine: what it compares makes the same ads, and its report is whole."""

import json
from pathlib import Path

import pytest
import torch

from uniadgen.config import override
from uniadgen.data.prompt import Layout
from uniadgen.engine.released import ReleaseShaped
from uniadgen.model import weights
from uniadgen.speed import AD, HISTORY, PICTURE, TOGETHER, Bench, plot, table


@pytest.fixture
def bench(model, layout, tmp_path: Path) -> Bench:
    """Of a tiny model with random weights."""
    weights.save(tmp_path / "tiny", model, layout, torch.float32)
    changes = {"model.row_lag": 1, "distilled": layout.config.generate.guidance, "generate.guidance": 1.0}
    quick = Layout(layout.tokenizer, override(layout.config, changes))
    weights.save(tmp_path / "quick", model, quick, torch.float32)
    return Bench(str(tmp_path / "tiny"), str(tmp_path / "quick"))


def test_all_ways_are_timed_and_make_the_same_ads(bench: Bench, tmp_path: Path) -> None:
    report = bench.measure(1)
    assert report.same_tokens
    assert {line.group for line in report.lines} == {AD, PICTURE, TOGETHER, HISTORY}
    assert all(line.seconds > 0 and len(line.turns) == 1 for line in report.lines)
    assert {line.group for line in report.lines if "quick" in line.name} == {AD, PICTURE}
    assert len(report.rows) == 4 and list(report.rows) == sorted(report.rows)
    assert 12 * report.cell == pytest.approx(report.rows[-1] - report.rows[0])  # three rows of four cells
    report.save(tmp_path / "speed.json")
    assert len(json.loads((tmp_path / "speed.json").read_text())["lines"]) == len(report.lines)
    assert table(report).row_count == len(report.lines)
    plot(report, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_a_way_that_makes_other_ads_is_told(bench: Bench, monkeypatch) -> None:
    wrong = bench.others["release-shaped loop"]
    monkeypatch.setattr(
        wrong,
        "other",
        lambda model, layout, config, seeds, points: ReleaseShaped(
            model, layout, config, [seed + 1 for seed in seeds], points
        ),
    )
    for generator in (bench.ours, wrong):
        bench._ad(generator, [bench.request(0)], 0)
    assert not bench.agree


def test_the_limit_counts_weights_keys_and_values(bench: Bench) -> None:
    """Four layers of width 64: by hand, for the ad of the first turn."""
    example = bench.request(0)
    *_, last = bench._decode(bench.ours, example, 0)
    steps = len(last.words[0]) + 2 + 16
    layer, head = 4 * 64**2 + 3 * 64 * 128 + 2 * 64, 64 * 64 + 64 + 64 * 64 + 64
    prompts = bench._laid_out(bench.ours, example, 0).attend.sum(-1).tolist()
    columns = sum(steps * prompt + steps * steps / 2 for prompt in prompts)
    if bench.ours.engine.stepper.startswith(
        "C++"
    ):  # a head's q, k and v, 48 columns, are padded to whole blocks; no norm, no bias
        block = 2 * bench.ours.engine.layers.functions.wide()
        layer, head = 64 * 4 * -(-48 // block) * block + 64**2 + 3 * 64 * 128, 2 * 64**2
    assert bench.reads() == (steps, pytest.approx(4 * (steps * (4 * layer + head) + columns * 4 * 2 * 64)))
