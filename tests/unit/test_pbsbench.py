"""The bench of PBS and the command of the study, at their smallest."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from moco import random_pbs
from uniadgen.__main__ import app
from uniadgen.metrics import pbsbench


def test_both_ways_find_the_same_and_memory_is_that_of_each_run(tmp_path: Path, monkeypatch) -> None:
    random_pbs().save(tmp_path / "model")
    peaks = iter((3_000_000, 3_100_000))
    monkeypatch.setattr(pbsbench, "_peak", lambda *_: next(peaks))
    steps = []
    found = pbsbench.bench_pairs(str(tmp_path / "model"), tmp_path / "work", 9, 32, steps.append)
    assert len(list((tmp_path / "work" / "few" / "a").iterdir())) == 9
    assert len(list((tmp_path / "work" / "many" / "b").iterdir())) == 36
    assert found.pairs == 9 and found.difference < 1e-5
    assert found.ratio == pytest.approx(found.one_at_a_time / found.batched)
    assert (found.peak, found.peak_of_more) == (3_000_000, 3_100_000)
    assert len(steps) == 5
    assert pbsbench.table(found).row_count == 2


def test_a_process_of_its_own_tells_its_peak(tmp_path: Path) -> None:
    random_pbs().save(tmp_path / "model")
    folders = pbsbench.make_folders(tmp_path, 8, 32)
    alone = pbsbench.compare_alone(str(tmp_path / "model"), folders, tmp_path / "pbs.csv")
    assert 50e6 < alone < 50e9
    assert len((tmp_path / "pbs.csv").read_text().splitlines()) == 9


def test_the_study_is_a_command(tmp_path: Path) -> None:
    random_pbs().save(tmp_path / "model")
    out = tmp_path / "study"
    command = ["fig2d", "--out", str(out), "--products", "3", "--size", "32", "--model", str(tmp_path / "model")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert len(list(out.iterdir())) == 4
    assert "3 held-out products" in " ".join(result.stdout.split())
    for weights, problem in (("mocov3=gone", "mocov3: gone is no folder"), ("ase=gone", "clip, dinov3 or mocov3")):
        result = CliRunner().invoke(app, [*command, "--weights", weights])
        assert result.exit_code == 2 and problem in result.stderr, result.stderr
