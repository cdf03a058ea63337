"""Runs compared by their losses: every shopper of AdWorld is met once, so a step's loss is of people never seen before.

A quick look at recipes before their ads are made and measured. Runs of one seed meet the same shoppers in the same
order, so differences are taken step by step.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.markup import escape
from rich.table import Table

from uniadgen.metrics.statistics import Interval, paired_bootstrap

LOSSES = ("text", "image")


@dataclass(frozen=True)
class Loss:
    """A run's mean loss over its last steps, and by how much it is above the first run's, with its 95 % interval."""

    run: str
    kind: str  # text or image, per token
    steps: int
    value: float
    difference: Interval | None  # None for the first run


def compare(runs: Sequence[Path], last: int) -> list[Loss]:
    """Of the last `last` steps that all runs have.

    `runs` are folders of `uniadgen train`. Raises `ValueError` for one without `metrics.jsonl`, or with too few steps.
    """
    read = {run.name: _read(run) for run in runs}
    if len(read) < len(runs):
        raise ValueError(f"got {len(runs)} runs of {len(read)} names, expected folders of different names")
    end = min(len(lines) for lines in read.values())
    if end < last:
        raise ValueError(f"the shortest run has {end} steps, expected {last} or more: lower --last")
    found = []
    for kind in LOSSES:
        values = {run: np.array([line[kind] for line in lines[end - last : end]]) for run, lines in read.items()}
        first = next(iter(values.values()))
        for run, own in values.items():
            above = None
            if own is not first:
                above = paired_bootstrap(first, own, range(last), np.random.default_rng(0)).difference
            found.append(Loss(run, kind, last, float(own.mean()), above))
    return found


def _read(run: Path) -> list[dict[str, float]]:
    path = run / "model" / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected a run of `uniadgen train`")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table(losses: Sequence[Loss]) -> Table:
    """For a terminal."""
    out = Table(
        "run",
        *(f"{kind} {what}" for kind in LOSSES for what in ("loss", "above the first, 95 %")),
        title=f"losses of the last {losses[0].steps} steps",
    )
    for run in dict.fromkeys(loss.run for loss in losses):
        cells = []
        for loss in (loss for loss in losses if loss.run == run):
            above = loss.difference
            cells += [
                f"{loss.value:.3f}",
                f"{above.value:+.3f} ({above.low:+.3f} .. {above.high:+.3f})" if above else "",
            ]
        out.add_row(escape(run), *cells)
    return out
