"""The benchmark of a GPU, at its smallest on a CPU: all cases, and those that fail or find no time."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from uniadgen import gpucases
from uniadgen.__main__ import app
from uniadgen.gpubench import GPUBench, Report, table
from uniadgen.gpucases import Case, Line, Shape
from uniadgen.standin import SHAPES, build, requests

CPU = torch.device("cpu")


def bench(seconds: float, saved: list[int]) -> GPUBench:
    """One that notes how many lines were saved each time."""
    said: list[str] = []
    return GPUBench(CPU, 3.0, seconds, said.append, lambda report: saved.append(len(report.lines)))


def test_every_case_is_measured_and_saved_at_once(monkeypatch, tmp_path: Path) -> None:
    cases = (1, False, 1, "prefill"), (1, False, 1, "step"), (1, False, 4, "step"), (1, False, 1, "ads")
    monkeypatch.setattr(gpucases, "CASES", {"model": cases, "fp8": (*cases, (32, False, 1, "step"))})
    monkeypatch.setattr(gpucases, "LATER", {"model": (), "fp8": ()})
    monkeypatch.setattr(gpucases, "REPLAYS", 2)
    monkeypatch.setattr("uniadgen.standin.WORDS", 3)
    saved: list[int] = []
    report = bench(1000, saved).run(["tiny"], [1])
    assert all(result == "same tokens" or ", within" in result for result in report.checks.values())
    assert [(line.case.weights, line.case.cache, line.case.count, line.case.what) for line in report.lines] == [
        (weights, cache, count, what)
        for weights, cache in (("float32", "float32"), ("fp8", "fp8"))
        for count, what in ((1, "prefill"), (1, "step"), (4, "step"), (1, "ads"))
    ]
    assert all(line.failed == "" and line.seconds for line in report.lines)
    assert set(saved) == {*range(9)}
    report.save(tmp_path / "gpu.json")
    assert len(json.loads((tmp_path / "gpu.json").read_text())["lines"]) == 8
    assert table(report).row_count == 8


def test_a_case_that_fails_is_a_line_and_the_others_go_on(monkeypatch) -> None:
    def fails(self: Shape, case: Case) -> Line:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(Shape, "_step", fails)
    monkeypatch.setattr(Shape, "_parts", lambda self, case: Line(case, 1.0))
    monkeypatch.setattr(Shape, "_ads", lambda self, case: Line(case, 1.0, 0.5, {"cells": 0.5}))
    report = bench(1000, []).run(["tiny"], [1])
    by_what = {line.case.what: line for line in report.lines}
    assert by_what["step"].failed == "OutOfMemoryError: no memory"
    assert by_what["ads"].seconds == 1.0
    assert table(report).row_count == len(report.lines)


def test_what_finds_no_time_is_marked() -> None:
    report = bench(0, []).run(["tiny"], [1, 8])
    assert {line.failed for line in report.lines} == {"not run: no time left"}


def test_drafts_are_calculated_from_what_was_measured() -> None:
    one, ads = Case("7b", "fp8", "fp8", 1, False, 16, "step"), Case("7b", "fp8", "fp8", 1, False, 1, "ads")
    lines = [Line(one, 0.002, 0.001), Line(ads, 2.0, 1.0, {"cells": 1.5})]
    cells = list(table(Report("a GPU", 3.0, 3.0, lines=lines)).columns[9].cells)
    assert cells == [f"{2.0 - 1.5 + 576 / 3 * 0.002:.3f}", "2.000"]


@pytest.mark.parametrize("shape", ["1b", "7b"])
def test_requests_have_the_layout_of_the_paper(shape: str) -> None:
    batch = requests(SHAPES[shape](), 2, CPU)
    assert batch.attend.sum(-1).tolist() == [1400, 1400, 110, 110]
    same = requests(SHAPES[shape](), 2, CPU, same=True)
    assert torch.equal(same.ids[0], same.ids[1]) and torch.equal(same.cutout[0], same.cutout[1])


def test_limits_count_weights_and_columns_once() -> None:
    from uniadgen.engine.engine import Engine

    model, layout = build(SHAPES["tiny"](), CPU, torch.float32)
    shape = Shape("tiny", Engine(model, 1), layout, 1e-12)  # a byte a second: seconds are bytes
    column, own = 2 * 4 * 256 * 4, 32 + 8
    assert shape.limit(Case("tiny", "", "", 1, False, 1, "")) == pytest.approx(
        shape.engine.num_bytes + column * (sum(shape.lengths) + 2 * own)
    )
    assert shape.limit(Case("tiny", "", "", 32, True, 1, "")) == pytest.approx(
        shape.engine.num_bytes + column * (4 * sum(shape.lengths) + 64 * own)
    )


def test_bad_options_are_one_line() -> None:
    result = CliRunner().invoke(app, ["bench", "gpu", "--shape", "70b"])
    assert result.exit_code == 2
    if not torch.cuda.is_available():
        assert CliRunner().invoke(app, ["bench", "gpu"]).exit_code == 2
