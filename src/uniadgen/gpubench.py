"""How fast a GPU makes ads: models of the paper's sizes with random weights, beside what the memory's speed allows."""

import gc
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.table import Table

from uniadgen.data.prompt import Layout
from uniadgen.engine.engine import Engine
from uniadgen.engine.layers import Prefix
from uniadgen.engine.painting import Canvas, Painting
from uniadgen.engine.precision import Precision
from uniadgen.engine.reading import take
from uniadgen.engine.scheduler import Scheduler
from uniadgen.engine.slots import Slots
from uniadgen.standin import SHAPES, WORDS, build, checked, requests, told

CANDIDATES = 8  # of a request, where prompts are shared
ORDER = 8  # ads that are asked for together: so many prompts are held while they are read
REPLAYS = 20  # steps timed, of which the median counts
# Positions of each ad in a step, by ads at once: with many, drafts are no gain.
COUNTS = {1: (1, 4, 8, 16), 8: (1, 4, 8), 32: (1, 4)}
PRECISIONS = (Precision(), Precision(weights="fp8"), Precision(weights="fp8", cache="fp8"))


TARGETS = {
    "7b": "one ad in 3.2 s in bf16, 2.0 s in fp8, 0.75 s in fp8 with 3 cells a step; 4.5 ads/s in fp8 at 32, 9 shared",
    "1b": "one ad in 0.70 s in bf16, 0.2 s in fp8 with 3 cells a step",
}


@dataclass(frozen=True)
class Case:
    """One line: a step of the image stage, or whole ads."""

    shape: str
    weights: str
    cache: str
    ads: int
    shared: bool  # 8 candidates of each request, whose prompts are shared
    count: int  # positions of each ad in a step
    what: str  # step, ads, prefill, control, pictures

    @property
    def name(self) -> str:
        """For people."""
        shared = f" ({self.ads // CANDIDATES} x {CANDIDATES} candidates)" if self.shared else ""
        precision = f"weights {self.weights} cache {self.cache}"
        return f"{self.shape} {precision}, {self.ads} ads{shared}, K {self.count}, {self.what}"


@dataclass(frozen=True)
class Line:
    """What came of a case: `seconds` of it, or why there are none."""

    case: Case
    seconds: float | None = None
    limit: float | None = None  # s: bytes that a step must read over the memory's speed
    parts: dict[str, float] = field(default_factory=dict)  # s
    failed: str = ""


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
    ) -> None:
        self.device, self.say, self.save = device, say, save
        self.until = time.perf_counter() + seconds
        self.report = Report(name_of(device), terabytes_a_second(device), accepted)

    def run(self, shapes: Sequence[str], ads: Sequence[int]) -> Report:
        """All cases of all shapes."""
        self.say(f"{self.report.device}; a large copy reads and writes {self.report.terabytes_a_second:.2f} TB/s")
        self.check()
        for shape in shapes:
            self._shape(shape, ads)
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

    def _shape(self, shape: str, ads: Sequence[int]) -> None:
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
                bench = Shape(shape, engine, layout, self.report)
            except Exception as error:
                self._keep(
                    Line(Case(shape, precision.weights, precision.cache, 0, False, 1, "engine"), failed=told(error))
                )
                continue
            for case, measure in bench.cases(ads):
                self._keep(self._measured(case, measure))
            self.report.products |= getattr(engine.layers.operations, "microseconds", {})
            del bench
        self.save(self.report)

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
        self.save(self.report)


class Shape:
    """The cases of one model in one precision."""

    def __init__(self, name: str, engine: Engine, layout: Layout, report: Report) -> None:
        self.name, self.engine, self.layout, self.report = name, engine, layout, report
        self.config, self.device = layout.config, engine.device
        self.batch = requests(self.config, 1, self.device)
        self.lengths = [int(here) for here in self.batch.attend.sum(-1)]

    def cases(self, ads: Sequence[int]) -> Iterator[tuple[Case, Callable[[], Line]]]:
        """Each, and what measures it."""
        first = self._case(1, False, 1, "prefill")
        yield first, partial(self._parts, first)
        for number, shared in [(number, False) for number in ads] + [(32, True)] * (32 in ads):
            for count in COUNTS.get(number, (1,)):
                case = self._case(number, shared, count, "step")
                yield case, partial(self._step, case)
            case = self._case(number, shared, 1, "ads")
            yield case, partial(self._ads, case)

    def _case(self, ads: int, shared: bool, count: int, what: str) -> Case:
        precision = self.engine.precision
        weights, cache = (
            str(self.engine.codes.dtype).removeprefix("torch.") if p == "model" else p
            for p in (precision.weights, precision.cache)
        )
        return Case(self.name, weights, cache, ads, shared, count, what)

    @torch.no_grad()
    def _parts(self, case: Case) -> Line:
        """What an ad takes besides its steps."""
        model, prompt = self.engine.model, torch.randn(self.lengths[0], self.engine.codes.shape[1], device=self.device)
        codes = torch.zeros(1, self.config.cells, dtype=torch.long, device=self.device)
        cutout = self.batch.cutout[:1]
        prompt = prompt.to(self.engine.codes.dtype)
        seconds = {
            "prefill of the layers": partial(self.engine.layers.read, prompt),
            "preference": partial(model.prefer, take(self.batch, [0])),
            "control encoder": partial(model.foreground, cutout),
            "VQ decode": partial(model.decode_pictures, codes),
        }
        parts = {name: timed(make, self.device) for name, make in seconds.items()}
        return Line(case, sum(parts.values()), parts=parts)

    def _slots(self, case: Case) -> list[Slots]:
        """Rows of both branches that have read their prompts, with random keys and values."""
        room = WORDS + 2 + self.config.cells + case.count + 1
        groups = []
        for length in self.lengths:
            prefix = self._prefix(length)
            number, together = (case.ads // CANDIDATES, CANDIDATES) if case.shared else (1, case.ads)
            for _ in range(number):
                shared = Prefix(prefix.keys.clone(), prefix.values.clone()) if case.shared else None
                own = 0 if case.shared else length
                group = Slots(prefix, together, own + room, shared, self.engine.cache_dtype)
                for row in range(together):
                    group.join(row, prefix)
                groups.append(group)
        return groups

    def _prefix(self, length: int) -> Prefix:
        layers = self.engine.layers
        width = self.engine.codes.shape[1] // layers.heads
        numbers = torch.randn(2, len(layers.layers), layers.heads, length, width, device=self.device)
        return Prefix(*numbers.to(self.engine.codes.dtype))

    @torch.no_grad()
    def _step(self, case: Case) -> Line:
        """A step in the middle of the picture."""
        slots, generate = self._slots(case), self.config.generate
        cells, middle = self.config.cells, self.config.cells // 2
        canvas = self._canvas(case, middle)
        self.engine.layers.reserve(max(self.lengths) + WORDS + 2 + cells + case.count)
        began = time.perf_counter()
        painting = Painting(self.engine, canvas, slots, case.count, cells, generate)
        sync(self.device)
        captured = time.perf_counter() - began
        times = []
        for _ in range(REPLAYS if self.device.type == "cuda" else 2):
            times.append(timed(painting.take_step, self.device, warm=0, turns=1))
        times.sort()
        limit = self.limit(case)
        return Line(case, median(times), limit, {"fastest": times[0], "slowest": times[-1], "capture": captured})

    def _canvas(self, case: Case, cell: int) -> Canvas:
        """Pictures half painted; rows as `_slots` has them."""
        ads, cells, place = case.ads, self.config.cells, partial(torch.tensor, device=self.device)
        sites = max(layer.site or 0 for layer in self.engine.layers.layers) + 1
        width = self.engine.codes.shape[1]
        depth = case.count + 1
        noise = torch.randn(ads, depth, self.config.model.num_codes, device=self.device)
        control = torch.zeros(2 * ads, cells + 1, sites * width, device=self.device, dtype=self.engine.codes.dtype)
        codes = torch.randint(self.config.model.num_codes, (ads, cells + 32), device=self.device)
        return Canvas(
            codes=codes,
            cell=place([cell] * ads),
            noise=noise,
            guidance=place([self.config.generate.guidance] * ads)[:, None, None],
            start=place([length + WORDS + 2 for length in self.lengths for _ in range(ads)])[:, None],
            owner=place([*range(ads), *range(ads)]),
            branches=place([[*range(ads)], [*range(ads, 2 * ads)]]),
            control=control,
        )

    def limit(self, case: Case) -> float:
        """Seconds to read, once, the weights and the keys and values of a step in the middle of the picture."""
        layers = self.engine.layers
        column = 2 * len(layers.layers) * self.engine.codes.shape[1] * self.engine.cache_dtype.itemsize
        own = WORDS + 2 + self.config.cells / 2
        prompts = case.ads / CANDIDATES if case.shared else case.ads
        columns = sum(prompts * length + case.ads * own for length in self.lengths)
        return (self.engine.num_bytes + column * columns) / self.report.terabytes_a_second / 1e12

    @torch.no_grad()
    def _ads(self, case: Case) -> Line:
        """Whole ads from their prompts: read, written, painted, decoded. Once before, until there are two rows."""
        self._make(case, seed=1000, rows=2)
        empty(self.device)
        began = time.perf_counter()
        parts = self._make(case, seed=0)
        steps = WORDS + 2 + self.config.cells
        return Line(case, time.perf_counter() - began, steps * self.limit(case), parts)

    def _make(self, case: Case, seed: int, rows: int | None = None) -> dict[str, float]:
        scheduler = Scheduler(self.engine, self.layout, self.config.generate, case.ads, case.ads)
        tickets = []
        for first in range(0, case.ads, ORDER):
            number = min(ORDER, case.ads - first)
            batch = requests(self.config, number, self.device, seed + first, case.shared)
            noise = [torch.Generator().manual_seed(seed + first + one) for one in range(number)]
            tickets += scheduler.submit(batch, noise, [()] * number)
        stamps = [time.perf_counter()]
        written = False
        while scheduler.step():
            if len(stamps) == 1 and not scheduler.waiting:
                stamps.append(time.perf_counter())
            if not written and scheduler.ads and all(not ad.writing for ad in scheduler.ads):
                stamps.append(time.perf_counter())
                written = True
            if rows is not None and all(ticket.latest.codes.shape[1] >= rows for ticket in tickets):
                scheduler.clear()
                return {}
        stamps.append(time.perf_counter())
        for ticket in tickets:
            if ticket.error is not None:
                raise ticket.error
        for some in torch.cat([ticket.latest.codes for ticket in tickets]).split(ORDER):
            self.engine.model.decode_pictures(some.to(self.device)).cpu()
        stamps.append(time.perf_counter())
        names = ("prompts and first words", "words", "cells", "pictures")
        return {name: later - earlier for name, earlier, later in zip(names, stamps, stamps[1:], strict=False)}


def timed(make: Callable[[], Any], device: torch.device, warm: int = 1, turns: int = 3) -> float:
    """Seconds: the median of a few turns, on the GPU's clock where there is one."""
    for _ in range(warm):
        make()
    times = []
    for _ in range(turns):
        if device.type == "cuda":
            began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            began.record()
            make()
            ended.record()
            ended.synchronize()
            times.append(began.elapsed_time(ended) / 1e3)
        else:
            start = time.perf_counter()
            make()
            times.append(time.perf_counter() - start)
    return median(times)


def terabytes_a_second(device: torch.device) -> float:
    """Read and written, of a large copy."""
    size = 2**31 if device.type == "cuda" else 2**24
    source, to = torch.zeros(2, size, dtype=torch.uint8, device=device)
    return 2 * size / timed(partial(to.copy_, source), device) / 1e12


def sync(device: torch.device) -> None:
    """Waits for what has been started."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def empty(device: torch.device) -> None:
    """Gives back what nobody holds."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


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
        start = case.shape, case.weights, case.cache, ads, str(case.count), case.what
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
