"""Few sizes for ads who come and go: what fills them up changes nothing, and one memory is enough for all."""

import gc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from uniadgen.config import GenerateConfig
from uniadgen.data.batch import Batch, Row, collate
from uniadgen.data.prompt import Layout
from uniadgen.engine import painting
from uniadgen.engine.attention import PlainAttention
from uniadgen.engine.engine import Engine
from uniadgen.engine.graphed import GraphedStep
from uniadgen.engine.painting import GraphedPainter
from uniadgen.engine.runner import Runner
from uniadgen.engine.scheduler import Scheduler
from uniadgen.engine.sizes import Sizes, padded
from uniadgen.engine.together import FastDecoder

POINTS = ("kitchen mug", "dishwasher safe")
CONFIG = GenerateConfig(guidance=3.0, text_top_k=5, image_top_k=9, max_words=6)
TO_32 = [*range(1, 9), 10, 12, 14, 16, 20, 24, 28, 32]
ORDERS = ((3, 1), (0, 1), (2, 1), (3, 4), (1, 1), (0, 2), (4, 1), (2, 1), (3, 2), (1, 3), (2, 1), (4, 1))  # clicks, ads


class Kept(GraphedStep):
    """The step of a GPU, with attention that needs none: what was made for a size is placed anew, and used again."""

    def __init__(self, layers) -> None:
        super().__init__(layers, plain=True)
        self.plain = False

    def attention(self, slots, count: int) -> Any:
        return PlainAttention(slots)

    def forward(self, *given) -> torch.Tensor:
        self.plain = True  # it rotates nothing itself
        try:
            return super().forward(*given)
        finally:
            self.plain = False


@pytest.fixture
def engine(model) -> Engine:
    """With so many positions in a step as a GPU has."""
    made = Engine(model, positions=128, plain_torch=True)
    made.step = Kept(made.layers)
    made.painter = GraphedPainter(made.step, made.codes, made.image_logits)
    return made


@pytest.fixture
def batch_of(make_row: Callable[..., Row], layout: Layout) -> Callable[..., Batch]:
    """Candidates of a request with so many clicks; without clicks it has no other branch."""

    def make(clicks: int, ads: int) -> Batch:
        row = make_row(clicks, clicks, target=False)
        other = [replace(make_row(clicks, 0, target=False), cutout=row.cutout)] if clicks else []
        return collate([one for one in (row, *other) for _ in range(ads)], layout.pad_id)

    return make


@pytest.fixture
def alone(model, layout: Layout, batch_of) -> Callable[[int, int], tuple]:
    """What an ad is that has an engine of a CPU to itself, one position after the other."""
    one = Engine(model, positions=1)

    def make(clicks: int, seed: int) -> tuple:
        *_, last = FastDecoder(one, layout, CONFIG, [seed], [POINTS]).run(batch_of(clicks, 1))
        return last.words[0], last.codes[0].tolist()

    return make


@pytest.fixture
def sizes(monkeypatch) -> list[tuple[int, ...]]:
    """Of every painting that is run: ads, pictures, rows of the ads, rows in all."""
    seen, paint = [], Runner.paint

    def counted(runner: Runner, rows, bell) -> tuple:
        seen.append((len(rows.ads), len(rows.pictures), len(rows.row_of), len(rows.starts)))
        return paint(runner, rows, bell)

    monkeypatch.setattr(Runner, "paint", counted)
    return seen


def finish(scheduler: Scheduler) -> None:
    while scheduler.step():
        pass


def seeded(seeds: range) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


# sizes


def test_there_are_four_sizes_between_powers_of_two() -> None:
    assert sorted({padded(number) for number in range(1, 65)}) == [*TO_32, 40, 48, 56, 64]
    assert all(number <= padded(number) < 1.25 * number for number in range(1, 2000))


def test_paintings_and_steps_are_as_many_as_sizes(engine, layout, batch_of, sizes) -> None:
    """However many ads there are, up to 32."""
    for number in range(32, 0, -1):
        scheduler = Scheduler(engine, layout, CONFIG, number)
        tickets = scheduler.submit(batch_of(2, number), seeded(range(number)), [POINTS] * number, "image")
        for _ in range(2):  # all begin, then all paint
            scheduler.step()
        assert not any(ticket.error for ticket in tickets)
        scheduler.clear()
    assert sizes == [(number, padded(number), 2 * number, 2 * padded(number)) for number in range(32, 0, -1)]
    assert len(engine.painter.kept.values) == len(engine.step.seen) == len(TO_32)
