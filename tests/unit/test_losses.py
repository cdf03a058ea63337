"""Runs compared by their losses, step by step."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from uniadgen.__main__ import app
from uniadgen.evaluate.losses import compare


def run(folder: Path, text: float, image: float, steps: int = 60) -> Path:
    """Losses that fall alike, since all runs meet the same shoppers."""
    rng = np.random.default_rng(3)
    (folder / "model").mkdir(parents=True)
    lines = []
    for step in range(steps):
        hard = rng.normal() + 10 * (steps - step) / steps
        lines.append(json.dumps({"step": step, "text": hard + text, "image": 2 * hard + image}))
    (folder / "model" / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_differences_are_taken_step_by_step(tmp_path: Path) -> None:
    runs = [run(tmp_path / "first", 0, 0), run(tmp_path / "other", 0.25, -0.5, steps=60)]
    found = {(loss.run, loss.kind): loss for loss in compare(runs, 20)}
    assert found["first", "text"].difference is None
    above, below = found["other", "text"].difference, found["other", "image"].difference
    assert (above.value, above.low, above.high) == pytest.approx((0.25, 0.25, 0.25))  # though single losses spread
    assert below.value == pytest.approx(-0.5)
    assert found["other", "text"].value - found["first", "text"].value == pytest.approx(0.25)


def test_what_cannot_be_compared_is_one_line(tmp_path: Path) -> None:
    one = run(tmp_path / "a", 0, 0, steps=15)
    short = CliRunner().invoke(app, ["losses", str(one), "--last", "20"])
    assert (short.exit_code, "the shortest run has 15 steps" in short.stderr) == (2, True)
    missing = CliRunner().invoke(app, ["losses", str(one), str(tmp_path / "b"), "--last", "10"])
    assert (missing.exit_code, "no such file, expected a run" in missing.stderr) == (2, True)
    good = CliRunner().invoke(app, ["losses", str(one), "--last", "10"])
    assert good.exit_code == 0 and "losses of the last 10 steps" in good.stdout
