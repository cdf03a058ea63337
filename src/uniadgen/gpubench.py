"""How fast a GPU makes ads: models of the paper's sizes with random weights, beside what the memory's speed allows."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from rich.table import Table

from uniadgen.engine.engine import Engine
from uniadgen.engine.precision import Precision
from uniadgen.gpucases import Case, Line, Shape, empty, terabytes_a_second
from uniadgen.standin import SHAPES, build, checked, told

PRECISIONS = (Precision(), Precision(weights="fp8", cache="fp8"))
SHOWN = 8  # kernels of a step, in print
TARGETS = {
    "7b": "one ad in 3.2 s in bf16, 2.0 s in fp8, 0.75 s in fp8 with 3 cells a step; 4.5 ads/s in fp8 at 32, 9 shared",
    "1b": "one ad in 0.70 s in bf16, 0.2 s in fp8 with 3 cells a step",
}


@dataclass
class Report:
    """All that was measured, and on what."""

    device: str
    terabytes_a_second: float  # read and written, of a large copy
    accepted: float  # cells a step with drafts, assumed
    checks: dict[str, str] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    products: dict[str, dict[str, float]] = field(default_factory=dict)  # microseconds of every way to multiply

    def save(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


class OutOfTime(Exception):
    """The budget is spent."""


class GPUBench:
    """Every case on its own: what fails is a line, and the others still run."""

    def __init__(
        self,
        device: torch.device,
        accepted: float,
        seconds: float,
        say: Callable[[str], None],
        save: Callable[[Report], None],
        profile: bool = False,
    ) -> None:
        self.device, self.say, self.save, self.profile = device, say, save, profile
        self.until = time.perf_counter() + seconds
        self.report = Report(name_of(device), terabytes_a_second(device), accepted)

    def run(self, shapes: Sequence[str], ads: Sequence[int]) -> Report:
        """All cases of all shapes."""
        self.say(f"{self.report.device}; a large copy reads and writes {self.report.terabytes_a_second:.2f} TB/s")
        self.check()
        for later in (False, True):
            for shape in shapes:
                if not (later and time.perf_counter() > self.until):
                    self._shape(shape, ads, later)
        return self.report

    def check(self) -> None:
        """That what is timed is right: tokens in float32, hidden states in fewer bits."""
        try:
            self.report.checks = checked(self.device)
        except (
            Exception
        ) as error:  # then the timings still say something, and it is seen that they are not of something right
            self.report.checks = {"failed": told(error)}
        for name, result in self.report.checks.items():
            self.say(f"check: {name}: {result}")
        self.save(self.report)

    def _shape(self, shape: str, ads: Sequence[int], later: bool) -> None:
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        began = time.perf_counter()
        try:
            model, layout = build(SHAPES[shape](), self.device, dtype)
        except Exception as error:
            self._keep(Line(Case(shape, "", "", 0, False, 1, "build"), failed=told(error)))
            return
        self.say(f"{shape}: built in {time.perf_counter() - began:.1f} s; {free_memory(self.device)}")
        engine = None
        for precision in PRECISIONS:
            try:
                if engine is None or engine.precision.weights != precision.weights:
                    engine = None  # gives its memory back
                    engine = Engine(model, 1, precision, self.device.type != "cuda")
                engine.precision = precision
                bench = Shape(shape, engine, layout, self.report.terabytes_a_second, self.profile)
            except Exception as error:
                self._keep(
                    Line(Case(shape, precision.weights, precision.cache, 0, False, 1, "engine"), failed=told(error))
                )
                continue
            for case, measure in bench.cases(ads, later):
                self._keep(self._measured(case, measure))
            self._tell_products(getattr(engine.layers.operations, "microseconds", {}))
            del bench
        self.save(self.report)

    def _tell_products(self, microseconds: dict[str, dict[str, float]]) -> None:
        """Of every task, the ways to do it, the fastest first."""
        self.report.products |= microseconds
        for task, ways in microseconds.items():
            best = sorted(ways.items(), key=lambda way: way[1] if way[1] == way[1] else float("inf"))
            self.say(f"{task}: " + ", ".join(f"{name} {spent:.1f}" for name, spent in best))

    def _measured(self, case: Case, measure: Callable[[], Line]) -> Line:
        if time.perf_counter() > self.until:
            return Line(case, failed="not run: no time left")
        try:
            return measure()
        except Exception as error:
            return Line(case, failed=told(error))
        finally:
            empty(self.device)

    def _keep(self, line: Line) -> None:
        self.report.lines.append(line)
        result = line.failed or f"{line.seconds:.5f} s" if line.seconds is None else f"{1e3 * line.seconds:.3f} ms"
        of_limit = f", {line.limit / line.seconds:.0%} of the limit" if line.limit and line.seconds else ""
        parts = "".join(f", {name} {1e3 * seconds:.2f} ms" for name, seconds in line.parts.items())
        self.say(f"{line.case.name}: {result}{of_limit}{parts}")
        for name, (spent, number) in list(line.kernels.items())[:SHOWN]:
            self.say(f"    {spent:8.1f} us {number:6.1f} x {name}")
        if line.kernels:
            spent, number = (sum(column) for column in zip(*line.kernels.values(), strict=True))
            self.say(f"    {spent:8.1f} us {number:6.1f} kernels in all")
        self.save(self.report)


def name_of(device: torch.device) -> str:
    """Device and torch."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return f"{name}, torch {torch.__version__}"


def free_memory(device: torch.device) -> str:
    """For a line."""
    if device.type != "cuda":
        return "on a CPU"
    free, total = torch.cuda.mem_get_info(device)
    return f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"


def table(report: Report) -> Table:
    """For a terminal. Ads with drafts were not made, as random weights accept none: their seconds are calculated."""
    title = (
        f"{report.device}, {report.terabytes_a_second:.2f} TB/s; "
        f"with K > 1, calculated for {report.accepted:g} right cells a step (an assumption)"
    )
    names = ("model", "weights", "cache", "ads", "K", "what", "ms", "limit, ms", "of limit", "s for the ads", "ads/s")
    out = Table(*names, title=title)
    whole = {replace(line.case, what=""): line for line in report.lines if line.case.what == "ads" and line.seconds}
    for line in report.lines:
        case = line.case
        ads = f"{case.ads} shared" if case.shared else str(case.ads)
        positions = f"lag {case.lag}" if case.lag else str(case.count)
        start = case.shape, case.weights, case.cache, ads, positions, case.what
        if line.seconds is None:
            out.add_row(*start, line.failed)
            continue
        limit = (f"{1e3 * line.limit:.3f}", f"{line.limit / line.seconds:.0%}") if line.limit else ("", "")
        seconds = line.seconds if case.what == "ads" else None
        one = whole.get(replace(case, count=1, what=""))
        if case.what == "step" and case.count > 1 and one is not None and one.seconds:
            steps = SHAPES[case.shape]().cells / report.accepted
            seconds = one.seconds - one.parts["cells"] + steps * line.seconds
        last = (f"{seconds:.3f}", f"{case.ads / seconds:.2f}") if seconds else ("", "")
        out.add_row(*start, f"{1e3 * line.seconds:.3f}", *limit, *last)
    shapes = dict.fromkeys(line.case.shape for line in report.lines)
    out.caption = "; ".join(f"aim for {shape}: {TARGETS[shape]}" for shape in shapes if shape in TARGETS)
    return out
