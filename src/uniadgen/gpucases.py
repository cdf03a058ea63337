"""What is timed on a GPU: steps of the image stage, whole ads and their parts, each for one model in one precision."""

import gc
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import torch

from uniadgen.config import override
from uniadgen.data.prompt import Layout
from uniadgen.data.waves import waves
from uniadgen.engine.canvas import Canvas, Staggered
from uniadgen.engine.engine import Engine
from uniadgen.engine.layers import Prefix
from uniadgen.engine.painting import GraphedPainter, Painting
from uniadgen.engine.reading import take
from uniadgen.engine.scheduler import Scheduler
from uniadgen.engine.slots import Slots
from uniadgen.standin import WORDS, requests, told

CANDIDATES = 8  # of a request, where prompts are shared
ORDER = 8  # ads that are asked for together: so many prompts are held while they are read
REPLAYS = 10  # steps timed, of which the median counts
LAG = 2  # cells, of rows that are staggered
# (ads at once, whether prompts are shared, positions of each ad in a step, what is timed, and where rows are staggered
# their lag), by the weights' precision.
STAGGERED = ((1, False, 1, "step", LAG), (1, False, 1, "ads", LAG))
CASES = {
    "model": ((1, False, 1, "step"), (1, False, 1, "ads")),
    "fp8": ((1, False, 1, "step"), (1, False, 1, "ads"), *STAGGERED, (1, False, 4, "step"), (1, False, 8, "step")),
}
MANY = ((32, False, 1, "step"), (32, False, 1, "ads"), (32, True, 1, "step"), (32, True, 1, "ads"))  # in fp8
LARGE = ("7b",)  # many at once are timed of these at once, of others when all shapes have had their turn
LATER = {
    "model": ((1, False, 4, "step"), (1, False, 1, "prefill")),
    "fp8": (
        (1, False, 1, "prefill"),
        (8, False, 1, "step"),
        (8, False, 1, "ads"),
        (8, False, 1, "ads", LAG),
        (1, False, 16, "step"),
        (8, False, 4, "step"),
    ),
}


def cases_of(shape: str, weights: str, later: bool) -> tuple[tuple[Any, ...], ...]:
    """What is timed of a shape: that which tells most, and what comes `later`, if there is time left."""
    many = MANY if weights == "fp8" and (shape in LARGE) != later else ()
    return many + LATER[weights] if later else CASES[weights] + many


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
    lag: int = 0  # of staggered rows of cells

    @property
    def name(self) -> str:
        """For people."""
        shared = f" ({self.ads // CANDIDATES} x {CANDIDATES} candidates)" if self.shared else ""
        precision = f"weights {self.weights} cache {self.cache}"
        positions = f"rows {self.lag} cells apart" if self.lag else f"K {self.count}"
        return f"{self.shape} {precision}, {self.ads} ads{shared}, {positions}, {self.what}"


@dataclass(frozen=True)
class Line:
    """What came of a case: `seconds` of it, or why there are none."""

    case: Case
    seconds: float | None = None
    limit: float | None = None  # s: bytes that a step must read over the memory's speed
    parts: dict[str, float] = field(default_factory=dict)  # s
    kernels: dict[str, tuple[float, float]] = field(default_factory=dict)  # of a step: microseconds, and how many
    failed: str = ""


class Shape:
    """The cases of one model in one precision."""

    def __init__(self, name: str, engine: Engine, layout: Layout, terabytes: float, profile: bool = False) -> None:
        """`terabytes` that the memory reads a second; with `profile` a step tells which kernels it consists of."""
        self.name, self.engine, self.layout = name, engine, layout
        self.terabytes, self.profile = terabytes, profile
        self.config, self.device = layout.config, engine.device
        self.batch = requests(self.config, 1, self.device)
        self.lengths = [int(here) for here in self.batch.attend.sum(-1)]

    def cases(self, ads: Sequence[int], later: bool) -> Iterator[tuple[Case, Callable[[], Line]]]:
        """Each, and what measures it: those first that tell most, and the others `later`."""
        measures = {"step": self._step, "ads": self._ads, "prefill": self._parts}
        precision = self.engine.precision
        for number, shared, count, what, *lag in cases_of(self.name, precision.weights, later):
            if number in ads:
                case = self._case(number, shared, count, what, *lag)
                self.engine.model.config.row_lag = case.lag
                yield case, partial(measures[what], case)

    def _case(self, ads: int, shared: bool, count: int, what: str, lag: int = 0) -> Case:
        precision = self.engine.precision
        weights, cache = (
            str(self.engine.codes.dtype).removeprefix("torch.") if p == "model" else p
            for p in (precision.weights, precision.cache)
        )
        return Case(self.name, weights, cache, ads, shared, count, what, lag)

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
        if case.lag:
            room += 2 * math.isqrt(self.config.cells)  # what begins its rows, and as many positions at once at most
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
        canvas = self._canvas(case)
        self.engine.layers.reserve(max(self.lengths) + WORDS + 2 + self.config.cells + case.count)
        began = time.perf_counter()
        painter = self.engine.painter
        assert isinstance(painter, GraphedPainter), "an engine on a GPU"
        painting = Painting(painter, canvas, slots, case.count, generate)
        sync(self.device)
        captured = time.perf_counter() - began
        times = [timed(painting.take_step, self.device, warm=0, turns=1) for _ in range(REPLAYS)]
        times.sort()
        kernels = self._kernels(painting.take_step)
        parts = {"fastest": times[0], "slowest": times[-1], "capture": captured}
        return Line(case, median(times), self.limit(case), parts, kernels)

    def _kernels(self, run: Callable[[], None]) -> dict[str, tuple[float, float]]:
        """Of one run, where that was asked for; what the profiler cannot do costs no timing."""
        if not self.profile or self.device.type != "cuda":
            return {}
        try:
            return kernels_of(run)
        except Exception as error:
            return {told(error): (0.0, 0.0)}

    def _canvas(self, case: Case) -> Canvas:
        """Pictures half painted; rows as `_slots` has them."""
        ads, cells, place = case.ads, self.config.cells, partial(torch.tensor, device=self.device)
        staggered, end = None, cells
        if case.lag:
            begin = self.engine.model.get_input_embeddings()(place(self.layout.start_image))
            staggered = Staggered.of(waves(cells, case.lag), begin)
            end = len(staggered.paints)
        sites = max(layer.site or 0 for layer in self.engine.layers.layers) + 1
        width = self.engine.codes.shape[1]
        depth = case.count + 1
        noise = torch.randn(ads, depth, self.config.model.num_codes, device=self.device)
        control = torch.zeros(2 * ads, cells + 1, sites * width, device=self.device, dtype=self.engine.codes.dtype)
        codes = torch.randint(self.config.model.num_codes, (ads, cells + 32), device=self.device)
        return Canvas(
            codes=codes,
            cell=place([end // 2] * ads),
            end=place([end] * ads),
            known=None,
            noise=noise,
            guidance=place([self.config.generate.guidance] * ads)[:, None, None],
            start=place([length + WORDS + 2 for length in self.lengths for _ in range(ads)])[:, None],
            owner=place([*range(ads), *range(ads)]),
            branches=place([[*range(ads)], [*range(ads, 2 * ads)]]),
            control=control,
            staggered=staggered,
        )

    def limit(self, case: Case) -> float:
        """Seconds to read, once, the weights and the keys and values of a step in the middle of the picture."""
        layers = self.engine.layers
        column = 2 * len(layers.layers) * self.engine.codes.shape[1] * self.engine.cache_dtype.itemsize
        own = WORDS + 2 + self.config.cells / 2
        prompts = case.ads / CANDIDATES if case.shared else case.ads
        columns = sum(prompts * length + case.ads * own for length in self.lengths)
        return (self.engine.num_bytes + column * columns) / self.terabytes / 1e12

    @torch.no_grad()
    def _ads(self, case: Case) -> Line:
        """Whole ads from their prompts: read, written, painted, decoded. Once before, until there are two rows."""
        self._make(case, seed=1000, rows=2)
        codes = torch.zeros(min(case.ads, ORDER), self.config.cells, dtype=torch.long, device=self.device)
        self.engine.model.decode_pictures(codes)
        gc.collect()  # what the device has been asked for stays asked for, as in serving
        began = time.perf_counter()
        parts = self._make(case, seed=0)
        steps = WORDS + 2 + len(waves(self.config.cells, case.lag))
        return Line(case, time.perf_counter() - began, steps * self.limit(case), parts)

    def _make(self, case: Case, seed: int, rows: int | None = None) -> dict[str, float]:
        layout = Layout(self.layout.tokenizer, override(self.config, {"model.row_lag": case.lag}))
        scheduler = Scheduler(self.engine, layout, self.config.generate, case.ads, case.ads)
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


def kernels_of(run: Callable[[], None], turns: int = 3) -> dict[str, tuple[float, float]]:
    """What runs on the GPU: microseconds, and how many, of one run, by the kernels' names, the largest first."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(turns):
            run()
        torch.cuda.synchronize()
    found: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for event in profile.key_averages():
        if event.self_device_time_total:
            entry = found[event.key[:60]]
            entry[0] += event.self_device_time_total / turns
            entry[1] += event.count / turns
    return {name: (spent, number) for name, (spent, number) in sorted(found.items(), key=lambda x: -x[1][0])}
