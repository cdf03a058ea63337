"""How fast a dataset is built here: seconds, CPU and memory of `uniadgen data build`, step by step, by clicks."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from uniadgen.config import WorldConfig
from uniadgen.data.adworld import shop_of
from uniadgen.data.card import PAD1M
from uniadgen.data.whole import write_whole
from uniadgen.data.worldlog import repeat_log, write_log
from uniadgen.world.products import FAMILIES
from uniadgen.world.shoppers import CLICKS_PER_SHOPPER

MOST_NEW = 19_000_000  # clicks of PAd1M, rounded; longer logs are more shoppers' clicks on that log's catalogue
_WHOLE_BLOCKS = 120  # a family's products come in multiples of it, so that a department's fill blocks of 480 pictures
_INTERVAL = 0.2  # s between two looks at memory and CPU


class Step(NamedTuple):
    """A stretch of a build, from one finished progress bar to the next."""

    name: str
    seconds: float
    cpu: float  # seconds of all processes together
    peak: float  # bytes of all processes together, shared ones counted once


@dataclass(frozen=True)
class Measured:
    """One build."""

    executor: str
    log: dict[str, int]  # clicks, users, creatives, products
    samples: int
    files: dict[str, str]  # name -> hash, of the dataset
    steps: list[Step]

    @property
    def seconds(self) -> float:
        """From the command's start to its end."""
        return sum(step.seconds for step in self.steps)

    @property
    def cpu(self) -> float:
        """CPU seconds of all processes."""
        return sum(step.cpu for step in self.steps)

    @property
    def peak(self) -> float:
        """Largest memory of all processes together, in bytes."""
        return max(step.peak for step in self.steps)


# the logs


def shop_config(num_clicks: int) -> WorldConfig:
    """A shop with as many products for its clicks as PAd1M has, one picture each."""
    products = PAD1M["products"] * num_clicks / PAD1M["clicks"]
    blocks = max(1, round(products / len(FAMILIES) / _WHOLE_BLOCKS))
    return WorldConfig(num_variants=blocks * _WHOLE_BLOCKS, pictures_per_product=1)


def make_log(work: Path, num_clicks: int, advance: Callable[[int], None]) -> Path:
    """The log of that many clicks in `work`, made unless it is there: names instead of sentences, no pictures."""
    folder, base = work / f"log-{num_clicks}", work / f"log-{MOST_NEW}"
    if (folder / "log.json").exists():
        return folder
    if num_clicks > MOST_NEW:
        base = make_log(work, MOST_NEW, lambda _: None)
    shutil.rmtree(folder, ignore_errors=True)
    if num_clicks > MOST_NEW:
        counts = repeat_log(base, folder, num_clicks, MOST_NEW // CLICKS_PER_SHOPPER, advance)
    else:
        counts = write_log(shop_of(shop_config(num_clicks)), folder, num_clicks, names_only=True, advance=advance)
    write_whole(folder / "log.json", lambda path: path.write_text(json.dumps(counts)))
    return folder


# one build


def measure(log: Path, out: Path, number: int, ray: str | None) -> Measured:
    """Builds a log in another process and watches it; the dataset is deleted. Raises `ChildProcessError`."""
    shutil.rmtree(out, ignore_errors=True)
    where = ["--ray", ray] if ray else ["--processes", str(number)]
    command = [sys.executable, "-m", "uniadgen", "data", "build", str(log), str(out), *where]
    steps = list(_watched([*command, "--set", "build.pictures=skip"]))
    manifest = json.loads((out / "manifest.json").read_text())
    shutil.rmtree(out)
    counts = json.loads((log / "log.json").read_text())
    executor = f"Ray ({ray})" if ray else f"{number} processes"
    return Measured(executor, counts, manifest["samples"], manifest["files"], steps)


def _watched(command: Sequence[str]) -> Iterator[Step]:
    """Runs a command whose bars end in lines `name done/total ...`; the last step is what comes after the last bar."""
    began = last = time.monotonic()
    ended: list[tuple[float, str]] = []
    heard: list[str] = []
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None, "it is a pipe"
    reader = threading.Thread(target=_hear, args=(running.stderr, ended, heard), daemon=True)
    reader.start()
    tree, peak, before = _Tree(running.pid), 0.0, 0.0
    try:
        while running.poll() is None:
            peak = max(peak, tree.look())
            while ended:
                now, name = ended.pop(0)
                yield Step(name, now - last, tree.cpu - before, peak)
                last, before, peak = now, tree.cpu, 0.0
            time.sleep(_INTERVAL)
    finally:
        running.kill()  # where we were stopped; one that has ended is not harmed
    reader.join()
    running.stderr.close()
    if running.returncode:
        raise ChildProcessError(f"{' '.join(command)} ended after {time.monotonic() - began:.0f} s: {''.join(heard)}")
    for now, name in ended:
        yield Step(name, now - last, 0.0, peak)
        last = now
    yield Step("manifest and card", time.monotonic() - last, tree.cpu - before, peak)


def _hear(lines: Iterable[str], ended: list[tuple[float, str]], heard: list[str]) -> None:
    for line in lines:
        bar = re.match(r"(.+?) ([0-9]+)/([0-9]+)", line)
        if bar is None:
            heard.append(line)
        elif bar[2] == bar[3]:
            ended.append((time.monotonic(), bar[1]))


class _Tree:
    """A process and all that come from it, as Linux tells of them in /proc."""

    def __init__(self, pid: int) -> None:
        self.root = pid
        self.known: dict[tuple[int, str], float] = {}  # (pid, when it started) -> CPU seconds when last seen

    @property
    def cpu(self) -> float:
        """CPU seconds of every process that was ever seen."""
        return sum(self.known.values())

    def look(self) -> float:
        """Notes CPU seconds; returns the bytes that all processes hold together, shared ones split among them."""
        stats = {int(path.name): _stat(path) for path in Path("/proc").iterdir() if path.name.isdigit()}
        stats = {pid: stat for pid, stat in stats.items() if stat}
        family = {pid for pid, stat in stats.items() if pid == self.root or (pid, stat[19]) in self.known}
        while more := {pid for pid, stat in stats.items() if int(stat[1]) in family} - family:
            family |= more
        for pid in family:
            user, system, began = (stats[pid][place] for place in (11, 12, 19))
            self.known[pid, began] = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
        return sum(_memory(pid) for pid in family)


def _stat(process: Path) -> list[str]:
    """What /proc/PID/stat says, from the state on; nothing of a process that is gone."""
    try:
        return (process / "stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []


def _memory(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    found = re.search(r"^Pss: +([0-9]+) kB", text, re.MULTILINE)
    return 1024.0 * int(found[1]) if found else 0.0


# what a person sees


def machine() -> str:
    """The processor, its cores and the load of this machine."""
    described = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"^model name\s*: (.+)$", described, re.MULTILINE)
    name = model[1] if model else platform.machine()
    return f"{name}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def table(measured: Sequence[Measured]) -> Table:
    """For a terminal: a line for each build, and one for each of its steps."""
    shown = Table(
        "build", "s", "CPU s", "peak MB", title=f"uniadgen data build; {machine()}; shared memory counted once"
    )
    for one in measured:
        log = ", ".join(f"{count:,} {what}" for what, count in one.log.items())
        same = [other for other in measured if other.log == one.log and other is not one]
        bytes_ = ("; same bytes" if all(o.files == one.files for o in same) else "; OTHER BYTES") if same else ""
        name = f"{log}: {one.samples:,} samples, {one.executor}{bytes_}"
        shown.add_section()
        shown.add_row(name, *_figures(one.seconds, one.cpu, one.peak), style="bold")
        for step in one.steps:
            shown.add_row(f"  {step.name}", *_figures(step.seconds, step.cpu, step.peak))
    return shown


def _figures(seconds: float, cpu: float, peak: float) -> tuple[str, str, str]:
    return f"{seconds:,.1f}", f"{cpu:,.1f}", f"{peak / 1e6:,.0f}"


def report(measured: Sequence[Measured]) -> dict[str, object]:
    """The same for a file."""
    builds = []
    for one in measured:
        totals = {"seconds": one.seconds, "cpu_seconds": one.cpu, "peak_bytes": one.peak}
        steps = [step._asdict() for step in one.steps]
        builds.append({"executor": one.executor, **one.log, "samples": one.samples, **totals, "steps": steps})
    return {"machine": machine(), "python": platform.python_version(), "builds": builds}


def slope(clicks: Sequence[float], values: Sequence[float]) -> float:
    """Of the line through all points on logarithmic scales: 1 is linear, 0 is constant."""
    return float(np.polyfit(np.log(clicks), np.log(values), 1)[0])


def plot(measured: Sequence[Measured]) -> Figure:
    """Seconds, CPU seconds and memory against clicks, on logarithmic scales, with the slopes."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for executor in dict.fromkeys(one.executor for one in measured):
        builds = sorted((one for one in measured if one.executor == executor), key=lambda one: one.log["clicks"])
        clicks = [one.log["clicks"] for one in builds]
        for axis, what, values in (
            (left, "s", [one.seconds for one in builds]),
            (left, "CPU s", [one.cpu for one in builds]),
            (right, "MB", [one.peak / 1e6 for one in builds]),
        ):
            steep = f", slope {slope(clicks, values):.2f}" if len(set(clicks)) > 1 else ""
            axis.plot(clicks, values, marker="o", label=f"{executor}, {what}{steep}")
    for axis, what in ((left, "seconds"), (right, "memory of all processes (MB)")):
        axis.set(xscale="log", yscale="log", xlabel="clicks", ylabel=what)
        axis.legend(frameon=False)
        axis.grid(visible=True, which="both", alpha=0.2)
    return figure
