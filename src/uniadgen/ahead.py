"""What drafts are worth: the same ads with more and more positions in a step, and how many tokens a step then gives."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rich.table import Table

from uniadgen.data.adworld import example_of, shop_of
from uniadgen.engine.loop import Progress
from uniadgen.engine.making import Making, Window
from uniadgen.engine.scheduler import Scheduler
from uniadgen.pipeline import AdGenerator, Asked
from uniadgen.speed import machine

TOGETHER = (1, 2, 4, 8)
AHEAD = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Line:
    """So many ads at once, each with at most so many positions in a step."""

    ads: int
    ahead: int
    seconds: float  # median of the turns, for all the ads
    turns: tuple[float, ...]
    words: float  # that a step of an ad's text gives
    cells: float  # that a step of an ad's picture gives


@dataclass(frozen=True)
class Report:
    """All that was measured, and on what."""

    machine: str
    model: str
    threads: int
    requests: int
    same_tokens: bool  # however many positions a step has
    covered: int  # cells of these ads that lie in the product
    as_cutout: int  # of those, the ones whose code is that of the cut-out by itself
    lines: tuple[Line, ...]

    def save(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


class Counted(Scheduler):
    """Counts the steps of texts and of pictures, and the tokens that they gave."""

    def __init__(self, generator: AdGenerator, slots: int) -> None:
        super().__init__(generator.engine, generator.layout, generator.config.generate, slots, slots)
        self.counts = {"words": np.zeros(2), "cells": np.zeros(2)}

    def _take(self, ad: Making, window: Window, words: Sequence[int], right: int) -> None:
        fed, cell = ad.fed, ad.cell
        super()._take(ad, window, words, right)
        if window.says:
            self.counts["words"] += (1, ad.fed - fed)
        elif window.paints:
            self.counts["cells"] += (1, ad.cell - cell)

    def _take_painted(self, ad: Making, count: int, steps: int) -> None:
        before = ad.cell
        super()._take_painted(ad, count, steps)
        self.counts["cells"] += (steps, ad.cell - before)


def make(generator: AdGenerator, asked: Asked) -> tuple[list[Progress], dict[str, np.ndarray]]:
    """Decodes requests, no prompt of which is remembered from before; also what the steps gave, as it was counted."""
    generator.engine.prefixes.values.clear()
    scheduler = Counted(generator, len(asked.seeds))
    noise = [torch.Generator().manual_seed(seed) for seed in asked.seeds]
    points = [example.product.selling_points for example in asked.examples]
    tickets = scheduler.submit(generator.lay_out(asked), noise, points)
    while scheduler.step():
        pass
    return [ticket.latest for ticket in tickets], scheduler.counts


class Drafts:
    """Ads for AdWorld's held-out shoppers."""

    def __init__(self, name: str, shoppers: int) -> None:
        self.generator = AdGenerator.from_pretrained(name)
        self.name = name
        world, side = self.generator.config.world, self.generator.config.data.image_size
        if world is None:
            raise ValueError(
                f"{name} was not trained on AdWorld, expected a model that was: its requests are from there"
            )
        shop = shop_of(world, held_out=True)
        self.examples = [example_of(shop, shop.visit(number), side, 3 * side) for number in range(shoppers)]
        self.made: dict[int, Progress] = {}  # by the numbers of the ads
        self.agree = True

    def measure(self, turns: int, advance: Callable[[str], None] = lambda name: None) -> Report:
        """Each number of ads with each number of positions, `turns` times, and once before that does not count."""
        ways = [(ads, ahead) for ads in TOGETHER for ahead in AHEAD]
        seconds: dict[tuple[int, int], list[float]] = {way: [] for way in ways}
        counts = {way: {"words": np.zeros(2), "cells": np.zeros(2)} for way in ways}
        for turn in range(turns + 1):
            for ads, ahead in ways:
                began = time.perf_counter()
                counted = self._make(range(turn * ads, turn * ads + ads), ahead)
                seconds[ads, ahead].append(time.perf_counter() - began)
                for kind, count in counted.items():
                    counts[ads, ahead][kind] += count
                advance(f"{ads} ads, {ahead} positions")
        lines = []
        for way in ways:
            words, cells = (float(given / steps) for steps, given in counts[way].values())
            lines.append(Line(*way, median(seconds[way][1:]), tuple(seconds[way][1:]), words, cells))
        covered, same = self._compare_with_cutouts()
        threads, shoppers = torch.get_num_threads(), len(self.examples)
        return Report(machine(), self.name, threads, shoppers, self.agree, covered, same, tuple(lines))

    def _make(self, numbers: Sequence[int], ahead: int) -> dict[str, np.ndarray]:
        """The ads with these seeds; what their steps gave."""
        engine = self.generator.engine
        engine.positions = engine.cells = ahead * len(numbers)
        examples = [self.examples[number % len(self.examples)] for number in numbers]
        ads, counts = make(self.generator, self.generator.ask(examples, numbers))
        for number, made in zip(numbers, ads, strict=True):
            first = self.made.setdefault(number, made)
            self.agree &= made.done and first.words == made.words and torch.equal(first.codes, made.codes)
        return counts

    @torch.no_grad()
    def _compare_with_cutouts(self) -> tuple[int, int]:
        """Cells of the ads that lie in the product, and those whose code is that of the cut-out by itself."""
        covered = same = 0
        layout = self.generator.layout
        for number, made in self.made.items():
            cutout = layout.control(self.examples[number % len(self.examples)].product.cutout)
            known = self.generator.model.known_cells(torch.from_numpy(cutout), margin=0)
            covered += int((known >= 0).sum())
            same += int((known == made.codes[0]).sum())
        return covered, same


def table(report: Report) -> Table:
    """For a terminal."""
    title = (
        f"{report.model}: {report.machine}, {report.threads} threads; {report.requests} shoppers; "
        f"same tokens: {'yes' if report.same_tokens else 'NO'}; "
        f"the cut-out's own code is right in {report.as_cutout} of {report.covered} cells"
    )
    out = Table("ads at once", "positions of each", "s", "s/ad", "x one", "words a step", "cells a step", title=title)
    one = {line.ads: line.seconds for line in report.lines if line.ahead == 1}
    for line in report.lines:
        numbers = line.seconds, line.seconds / line.ads, one[line.ads] / line.seconds, line.words, line.cells
        out.add_row(str(line.ads), str(line.ahead), *(f"{number:.2f}" for number in numbers))
    return out
