"""What a person sees of a training run: a progress bar, and one JSON line per step."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def progress_bar(what: str, total: int, done: int = 0, *, unit: str = "", shown: bool = True) -> "Bar":
    """A progress bar on standard error; used for everything that takes long.

    `unit`: also show units per second. Of many processes, one shows it.
    """
    return Bar(what, total, done, unit, shown)


class Bar:
    """`with progress_bar("render", 100) as bar: bar.advance("note")`; without a terminal, a plain line a minute."""

    def __init__(self, what: str, total: int, done: int, unit: str, shown: bool) -> None:
        self.console = Console(stderr=True, quiet=not shown)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        notes = (TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False))
        self.progress = Progress(*columns, *notes, console=self.console, disable=not self.console.is_terminal)
        self.task = self.progress.add_task(what, total=total, completed=done, note="")
        self.what, self.total, self.done, self.unit = what, total, done, unit
        self.first, self.began = done, time.monotonic()
        self.said = self.began

    def __enter__(self) -> "Bar":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def advance(self, note: str = "", by: int = 1) -> None:
        """`by` more are done; `note` is shown at the end of the line."""
        self.done += by
        now = time.monotonic()
        note = f"{self._rate(now)} {note}".rstrip() if self.unit else note
        self.progress.update(self.task, advance=by, note=note)
        if not self.console.is_terminal and (now - self.said > 60 or self.done == self.total):
            self.said = now
            self.console.print(
                f"{self.what} {self.done}/{self.total} {note}", highlight=False, markup=False, soft_wrap=True
            )

    def _rate(self, now: float) -> str:
        rate = (self.done - self.first) / max(now - self.began, 1e-6)
        left = max(self.total - self.done, 0) / max(rate, 1e-6)
        return f"{rate:,.0f} {self.unit}/s, {left:,.0f} s left"


class Metrics:
    """`metrics.jsonl` of a run: one line per step, in step order, also after a kill and a restart."""

    def __init__(self, path: Path | None, first_step: int) -> None:
        """None: another process writes them."""
        self.path = path or Path(os.devnull)
        if (
            path is not None and path.exists()
        ):  # what a killed run wrote after its last checkpoint will be written again
            kept = [line for line in path.read_text().splitlines() if _step(line) < first_step]
            partial = path.with_suffix(".partial")
            partial.write_text("".join(line + "\n" for line in kept))
            os.replace(partial, path)
        self.file = self.path.open("a")

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a line."""
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()

    def close(self) -> None:
        """Closes the file."""
        self.file.close()


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:  # the line that was being written when the run was killed
        return float("inf")
