"""Ads under load: requests at random moments, served side by side, and in batches that later ones wait for."""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from rich.table import Table

from uniadgen.desk import Desk, Order
from uniadgen.engine.loop import Progress
from uniadgen.engine.making import Making
from uniadgen.pipeline import AdGenerator
from uniadgen.records import Example
from uniadgen.speed import machine, request, timed

CONTINUOUS, STATIC = "continuous", "static batches"
Value = TypeVar("Value")


@dataclass(frozen=True)
class Served:
    """How one way served a load: seconds from each request to its first word (or row), and to its ad."""

    load: float  # ads asked for, as a share of what full static batches make in the same time
    way: str
    seconds: float  # from the first request to the last ad, of all turns
    first: tuple[float, ...]
    whole: tuple[float, ...]

    @property
    def figures(self) -> tuple[float, float, float, float]:
        """Ads a second; half and 95 % of the ads were there after so many seconds; half had begun."""
        return len(self.whole) / self.seconds, *np.quantile(self.whole, (0.5, 0.95)).tolist(), median(self.first)


@dataclass(frozen=True)
class Report:
    """All that was measured, and on what."""

    machine: str
    model: str
    threads: int
    slots: int
    requests: int  # of each load and turn
    turns: int
    capacity: float  # ads/s of full static batches: a load of 1
    told: float  # share of the time of continuous serving that goes into telling progress
    lines: tuple[Served, ...]

    def save(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


class Clock:
    """Time that passes while something is made, and is skipped while nobody asks for anything."""

    def __init__(self) -> None:
        self.now = self.busy = 0.0

    def spend(self, make: Callable[[], Value]) -> Value:
        """Makes it."""
        began = time.perf_counter()
        made = make()
        seconds = time.perf_counter() - began
        self.now, self.busy = self.now + seconds, self.busy + seconds
        return made


class Visit:
    """Some requests, the moments at which they come, and what became of them."""

    def __init__(self, moments: Sequence[float], examples: Sequence[Example]) -> None:
        self.moments, self.examples = moments, examples
        self.clock = Clock()
        self.first, self.whole = [math.nan] * len(moments), [math.nan] * len(moments)
        self.come = 0  # requests that have been taken

    @property
    def here(self) -> int:
        """Requests that have come by now."""
        return sum(moment <= self.clock.now for moment in self.moments)

    def tell(self, number: int, progress: Progress) -> None:
        """Progress of one request, now."""
        if math.isnan(self.first[number]) and (progress.words[0] or progress.codes.shape[1]):
            self.first[number] = self.clock.now - self.moments[number]

    def finish(self, number: int) -> None:
        """Its ad is there, now."""
        self.whole[number] = self.clock.now - self.moments[number]


class Traffic:
    """Serves requests that come as in a Poisson process. One thread does everything, from the clicks to the ad."""

    def __init__(self, name: str, slots: int) -> None:
        self.generator = AdGenerator.from_pretrained(name)
        self.name, self.slots = name, slots
        self.telling = self.working = 0.0  # s, of continuous serving

    def continuously(self, visit: Visit) -> None:
        """Whoever comes joins at the next step."""
        desk, clock = Desk(self.generator, self.slots, queue=len(visit.moments)), visit.clock
        self._time_telling(desk)
        orders: dict[int, Order] = {}
        while visit.come < len(visit.moments) or orders:
            if not orders:
                clock.now = max(clock.now, visit.moments[visit.come])
            while visit.come < visit.here:  # more may come while one is laid out
                example, number = visit.examples[visit.come], visit.come
                orders[number] = clock.spend(partial(desk.order, example.product, example.clicks, seed=number))
                visit.come += 1
            clock.spend(desk.scheduler.step)
            for number, order in tuple(orders.items()):
                visit.tell(number, order.ticket.latest)
                if order.ticket.latest.done or order.ticket.error:
                    clock.spend(orders.pop(number).ad)
                    visit.finish(number)
        self.working += clock.busy

    def _time_telling(self, desk: Desk) -> None:
        note, tell = desk.scheduler._note, desk.scheduler._tell_news

        def timed_note(ad: Making) -> None:
            self.telling += timed(partial(note, ad))

        def timed_tell() -> None:
            self.telling += timed(tell)

        desk.scheduler._note, desk.scheduler._tell_news = timed_note, timed_tell

    def in_batches(self, visit: Visit) -> None:
        """All who wait, as many as there are slots; whoever comes then waits for all of them."""
        clock = visit.clock
        while visit.come < len(visit.moments):
            clock.now = max(clock.now, visit.moments[visit.come])
            numbers = range(visit.come, min(visit.here, visit.come + self.slots))
            visit.come = numbers.stop
            run = self.generator._run([visit.examples[n] for n in numbers], list(numbers), None)
            while (step := clock.spend(partial(next, run, None))) is not None:
                for number in numbers:
                    visit.tell(number, step[0])
            for number in numbers:
                visit.finish(number)

    def measure(
        self, loads: Sequence[float], requests: int, turns: int, advance: Callable[[str], None] = lambda _: None
    ) -> Report:
        """Both ways take turns on the same requests, at the same moments. A first batch is not counted."""
        examples = [request(self.generator.config, number) for number in range(requests)]
        full = [timed(partial(self.in_batches, Visit([0.0] * self.slots, self._some(examples)))) for _ in range(3)]
        advance("capacity")
        capacity = self.slots / median(full[1:])
        ways = {STATIC: self.in_batches, CONTINUOUS: self.continuously}
        visits: dict[tuple[float, str], list[Visit]] = {(load, way): [] for load in loads for way in ways}
        for turn in range(turns):
            for load in loads:
                gaps = np.random.default_rng(turn).exponential(1 / (load * capacity), requests)
                for way, serve in ways.items():
                    visit = Visit(np.cumsum(gaps).tolist(), examples)
                    serve(visit)
                    visits[load, way].append(visit)
                    advance(f"load {load}, {way}")
        lines = [served(load, way, some) for (load, way), some in visits.items()]
        return Report(
            machine(),
            self.name,
            torch.get_num_threads(),
            self.slots,
            requests,
            turns,
            capacity,
            self.telling / self.working,
            tuple(lines),
        )

    def _some(self, examples: Sequence[Example]) -> list[Example]:
        return [examples[number % len(examples)] for number in range(self.slots)]


def served(load: float, way: str, visits: Sequence[Visit]) -> Served:
    """Several visits as one line."""
    seconds = sum(visit.clock.now - visit.moments[0] for visit in visits)
    first, whole = (tuple(s for visit in visits for s in getattr(visit, name)) for name in ("first", "whole"))
    return Served(load, way, seconds, first, whole)


def table(report: Report) -> Table:
    """For a terminal."""
    title = (
        f"{report.model}: {report.machine}, {report.threads} threads; {report.slots} slots, {report.requests} requests "
        f"a load, {report.turns} turns; load 1 is {report.capacity:.2f} ads/s; telling progress: {report.told:.2%}"
    )
    out = Table("load", "way", "ads/s", "half of the ads, s", "95 %, s", "begun, s", title=title)
    known = {(line.load, line.way): line.figures for line in report.lines}
    for load in dict.fromkeys(line.load for line in report.lines):
        static, continuous = known[load, STATIC], known[load, CONTINUOUS]
        for way, figures in ((STATIC, static), (CONTINUOUS, continuous)):
            out.add_row(f"{load:g}", way, *(f"{figure:.2f}" for figure in figures))
        ratios = [continuous[0] / static[0], *(b / a for a, b in zip(static[1:], continuous[1:], strict=True))]
        out.add_row("", "  continuous / static", *(f"x {ratio:.2f}" for ratio in ratios), end_section=True)
    return out
