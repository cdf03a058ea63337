"""Batches made ahead by workers: the same ones, in order; a killed worker is an error, never a hang."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_loop import CONFIG, batches, dies, lines, run, same_bits
from torch import Tensor

from uniadgen.config import TrainConfig
from uniadgen.train.prefetch import made_ahead, num_workers


def numbered(step: int) -> list[Tensor]:
    """A step, and the process that made it."""
    return [torch.tensor([step, os.getpid()])]


@pytest.mark.parametrize(("workers", "window"), [(0, 4), (1, 1), (1, 4), (2, 4), (3, 1)])
@pytest.mark.parametrize("steps", [range(12), range(5, 14), range(3, 3)], ids=str)
def test_steps_come_in_turn_from_the_processes_that_were_asked_for(steps: range, workers: int, window: int) -> None:
    made = [batch[0].tolist() for batch in made_ahead(numbered, steps, workers, window)]
    assert [step for step, _ in made] == list(steps)
    pids = {pid for _, pid in made}
    assert pids <= {os.getpid()} if not workers else os.getpid() not in pids
    assert all(len({pid for step, pid in made if step // window == n}) <= 1 for n in range(14))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("at", [0, 5, 9])
def test_a_run_with_workers_stops_and_goes_on_to_the_bits_of_one_without(tmp_path: Path, at: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "workers", replace(CONFIG, workers=2), dies(at), window=4)
    run(tmp_path / "workers", replace(CONFIG, workers=3), window=4)
    run(tmp_path / "alone", replace(CONFIG, workers=0))
    assert same_bits(tmp_path / "workers", tmp_path / "alone")
    assert lines(tmp_path / "workers") == lines(tmp_path / "alone")


def test_what_goes_wrong_in_a_worker_is_said_as_it_was() -> None:
    def broken(step: int) -> list[Tensor]:
        if step == 6:
            raise ValueError(f"step {step}: cut short, expected whole")
        return numbered(step)

    made = made_ahead(broken, range(20), 2, 2)
    assert [next(made)[0][0].item() for _ in range(6)] == list(range(6))
    with pytest.raises(ValueError, match=r"^step 6: cut short, expected whole$"):
        next(made)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("at", [0, 7])
def test_a_killed_worker_ends_the_run_with_a_line_that_says_what_to_do(tmp_path: Path, at: int) -> None:
    def deadly(step: int) -> list[Tensor]:
        if step == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return batches(step)

    with pytest.raises(
        ChildProcessError, match=r"was killed, .* goes on from the last checkpoint; fewer train.workers"
    ):
        run(tmp_path / "killed", replace(CONFIG, workers=2), deadly, window=2)
    assert not multiprocessing.active_children()
    run(tmp_path / "killed")
    run(tmp_path / "whole")
    assert same_bits(tmp_path / "killed", tmp_path / "whole")


def test_workers_are_no_further_ahead_than_a_window_each(tmp_path: Path) -> None:
    def noted(step: int) -> list[Tensor]:
        (tmp_path / str(step)).touch()
        return numbered(step)

    made = made_ahead(noted, range(1000), 2, 5)
    next(made)
    time.sleep(0.5)
    assert len(list(tmp_path.iterdir())) == 15  # the window at hand, and one for each worker
    made.close()
    assert not multiprocessing.active_children()


ORPHANS = """
import sys, time
from uniadgen.train.prefetch import made_ahead
sys.path[:0] = {paths!r}
from test_prefetch import numbered

made = made_ahead(numbered, range(1000), 3, 1)
pids = {{next(made)[0][1].item() for _ in range(60)}}
print(*pids, flush=True)
time.sleep(60)
"""


def test_workers_end_with_a_parent_that_was_killed() -> None:
    here = Path(__file__).parent
    script = ORPHANS.format(paths=[str(here), str(here.parent)])
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        parent.kill()
    assert pids
    until = time.monotonic() + 10
    while any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids):
        assert time.monotonic() < until, "workers live on"
        time.sleep(0.05)


def test_a_gpu_has_some_workers_and_a_cpu_none(monkeypatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert [num_workers(-1, True, world) for world in (1, 4, 8, 32)] == [4, 3, 1, 1]
    assert num_workers(-1, False, 1) == 0
    assert [num_workers(wanted, True, 1) for wanted in (0, 7)] == [0, 7]
    with pytest.raises(ValueError, match=r"train.workers is -2, expected 0 \(none\) or more, or -1"):
        TrainConfig(workers=-2)
