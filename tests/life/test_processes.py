"""Several processes train as one does: the same losses and gradients, checkpoints that fit any number of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from uniadgen.config import Config, override
from uniadgen.train.loop import checkpoints

WORKER = Path(__file__).with_name("worker.py")
NEVER = 10**6
QUIET = {  # noise is drawn by each process for its own rows: without it, the runs must agree
    "train.bfloat16": False,
    "train.optimizer": "adamw",
    "train.save_every": 2,
    "model.gumbel_scale": 0.0,
    "model.condition_dropout": 0.0,
    "model.code_dropout": 0.0,
}


@pytest.fixture
def start(tiny_config: Config, tokenizer, tmp_path: Path):
    """Runs some steps on some processes in a folder: `start("name", steps, processes)`."""

    def run(name: str, steps: int, processes: int, die_at: int = NEVER) -> subprocess.CompletedProcess:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        config = override(tiny_config, {**QUIET, "train.steps": steps, "train.decay": 0.0})
        config.save(folder / "recipe.json")
        tokenizer.save_pretrained(folder / "tokenizer")
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
        command = [sys.executable, *launcher, str(WORKER), str(folder), str(die_at)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, env=environment)

    return run


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def agree(one: Path, other: Path) -> None:
    """Losses and gradient norms of every step are equal to 1e-4."""
    a, b = lines(one), lines(other)
    assert [line["step"] for line in a] == [line["step"] for line in b]
    for mine, theirs in zip(a, b, strict=True):
        for name in ("total", "text", "image", "norm"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-4), (mine["step"], name)


def test_runs_that_die_on_two_processes_or_one_go_on_with_one_or_two(start, tmp_path: Path) -> None:
    start("whole", 6, 1).check_returncode()
    for name, before, after in (("sharded", 2, 1), ("alone", 1, 2)):
        died = start(name, 6, before, die_at=3)
        assert died.returncode != 0
        if before > 1:  # who died and of what
            assert "SIGKILL" in died.stderr and "rank      : 1" in died.stderr
        assert [step for step, _ in checkpoints(tmp_path / name / "run")] == [2]
        start(name, 6, after).check_returncode()
        agree(tmp_path / name, tmp_path / "whole")
