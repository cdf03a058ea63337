"""Painting in one call of compiled code: the codes of painting step by step, promptly told, given up and failing."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import nn

from uniadgen.config import GenerateConfig
from uniadgen.data.batch import Batch, collate
from uniadgen.engine import building, native_painting
from uniadgen.engine.canvas import Canvas
from uniadgen.engine.engine import Engine
from uniadgen.engine.layers import Layers
from uniadgen.engine.native import Native
from uniadgen.engine.native_painting import NativePainter
from uniadgen.engine.precision import Precision
from uniadgen.engine.scheduler import Scheduler
from uniadgen.engine.slots import Slots
from uniadgen.engine.ticket import Ticket
from uniadgen.engine.together import FastDecoder

pytestmark = pytest.mark.skipif(building.library() is None, reason="needs a C++ compiler")
CELLS, CODES, WIDTH, AHEAD = 16, 64, 64, 3
OWN, SHARED = 21, 9  # positions of prompts
POINTS = ("kitchen mug", "dishwasher safe")
CONFIG = GenerateConfig(guidance=3.0, text_top_k=3, image_top_k=9, max_words=3)
GREEDY, FREE = replace(CONFIG, temperature=0.0), replace(CONFIG, image_top_k=0, temperature=0.7)


@pytest.fixture
def engine(model) -> Engine:
    """Of a tiny model in float32."""
    engine = Engine(model)
    assert isinstance(engine.painter, NativePainter)
    return engine


@pytest.fixture
def unhurried(monkeypatch) -> None:
    """No call ends because the machine is busy."""
    monkeypatch.setattr(native_painting, "SECONDS", 1000.0)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def slots_of(layers: Layers) -> list[Slots]:
    """Three rows that see everything, two of which share a prompt, and one that has another branch."""
    layers.reserve(OWN + CELLS + 2 * AHEAD)
    own, shared, other = (layers.read(torch.randn(n, WIDTH, generator=generator(n))) for n in (OWN, SHARED, 5))
    groups = [Slots(own, 2, OWN + CELLS + AHEAD), Slots(shared, 2, CELLS + AHEAD, shared)]
    for owner, prompt, group in ((0, own, 0), (1, other, 0), (2, shared, 1), (3, shared, 1)):
        groups[group].join(owner, prompt)
    return groups


def canvas_of(known: bool, control: bool) -> Canvas:
    """Three pictures at different cells; the first has two branches. Codes beyond are random drafts."""
    width = CELLS + 2 * AHEAD
    numbers = torch.full((3, width), -1)
    numbers[:, 4:7] = torch.tensor([3, 5, 7])
    return Canvas(
        codes=torch.randint(CODES, (3, width), generator=generator(1)),
        cell=torch.tensor([1, 2, 5]),
        end=torch.tensor([CELLS, 9, CELLS]),
        known=numbers if known else None,
        noise=torch.randn(3, 8, CODES, generator=generator(2)),
        guidance=torch.tensor([3.0, 1.0, 5.0])[:, None, None],
        start=torch.tensor([OWN, 5, SHARED, SHARED])[:, None],
        owner=torch.tensor([0, 0, 1, 2]),
        branches=torch.tensor([[0, 2, 3], [1, 2, 3]]),
        control=torch.randn(4, CELLS + 1, 2 * WIDTH, generator=generator(3)) if control else None,
    )


@torch.no_grad()
def painted(engine: Engine, canvas: Canvas, count: int, config: GenerateConfig, most: Sequence[int]) -> tuple:
    """The canvas after each call, and how many steps it took of so many."""
    slots, after, steps = slots_of(engine.layers), [], []
    for number in most:
        steps.append(engine.painter.paint(canvas, slots, count, number, config))
        after.append(canvas.clone())
    return after, steps


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("config", [CONFIG, GREEDY, FREE], ids=["likeliest", "greedy", "all"])
@pytest.mark.parametrize("count", [1, AHEAD])
@pytest.mark.parametrize(("known", "control"), [(False, True), (True, False)])
def test_it_paints_what_torch_paints(
    model, engine, unhurried, known: bool, control: bool, count: int, config: GenerateConfig, threads: int
) -> None:
    torch.set_num_threads(threads)
    ours, steps = painted(engine, canvas_of(known, control), count, config, (6, 6))
    torch.set_num_threads(1)
    theirs, _ = painted(Engine(model, plain_torch=True), canvas_of(known, control), count, config, steps)
    assert max(steps) > 1
    for mine, expected in zip(ours, theirs, strict=True):
        assert torch.equal(mine.cell, expected.cell)
        assert torch.equal(mine.codes, expected.codes)
        assert (mine.cell > canvas_of(known, control).cell).all()


def test_it_stops_at_a_row_of_cells_an_end_and_in_time(engine, unhurried, monkeypatch) -> None:
    canvas, slots, painter = canvas_of(known=False, control=False), slots_of(engine.layers), engine.painter
    assert painter.paint(canvas, slots, 1, 100, CONFIG) == 2
    assert canvas.cell.tolist() == [3, 4, 7]  # of the second one, a row is whole
    assert painter.paint(canvas, slots, 1, 100, CONFIG) == 1
    assert painter.paint(canvas, slots, 1, 1, CONFIG) == 1
    assert canvas.cell.tolist() == [5, 6, 9]
    assert painter.paint(canvas, slots, 1, 100, CONFIG) == 2
    assert painter.paint(canvas, slots, 1, 100, CONFIG) == 1
    assert canvas.cell.tolist() == [8, 9, 12]  # the second one is at its end
    monkeypatch.setattr(native_painting, "SECONDS", 0.0)
    again = canvas_of(known=False, control=False)
    assert painter.paint(again, slots, 1, 100, CONFIG) == 1


def test_another_activation_is_not_served(model, layout, make_row) -> None:
    """It is painted step by step."""
    model.model.generation_head.activation_fn = nn.SiLU()
    native = Native.find(model, Precision())
    assert native is not None
    engine, plain = Engine(model), Engine(model, plain_torch=True)
    assert isinstance(engine.layers, Native) and engine.painter is None
    batch = collate([make_row(0, 0, target=False)], layout.pad_id)
    made = [
        list(FastDecoder(one, layout, CONFIG, [1], [POINTS]).run(batch, "image"))[-1].codes for one in (engine, plain)
    ]
    assert torch.equal(*made)


def test_int8_paints_what_it_paints_step_by_step(model, layout, make_row, unhurried) -> None:
    if not building.library().has_int8():
        pytest.skip("needs VNNI")
    engine = Engine(model, precision=Precision(weights="int8"))
    batch = collate([make_row(0, 2, target=False), make_row(0, 0, target=False)], layout.pad_id)
    made = []
    for painter in (engine.painter, None):
        engine.painter = painter
        made += [list(FastDecoder(engine, layout, CONFIG, [5], [POINTS]).run(batch, "image"))[-1].codes]
    assert isinstance(made[0], torch.Tensor) and torch.equal(*made)


# who asks for pictures


@pytest.fixture
def submit(make_row: Callable, layout) -> Callable[..., Ticket]:
    """Asks a scheduler for a picture."""

    def ask(scheduler: Scheduler, seed: int) -> Ticket:
        batch: Batch = collate([make_row(seed, 2, target=False), make_row(seed, 0, target=False)], layout.pad_id)
        return scheduler.submit(batch, [generator(seed)], [POINTS], "image")[0]

    return ask


@pytest.fixture
def alone(model, layout, submit) -> Callable[[int], list[int]]:
    """The picture of a seed, painted step by step."""
    engine = Engine(model, positions=1)
    engine.painter = None

    def make(seed: int) -> list[int]:
        scheduler = Scheduler(engine, layout, CONFIG, num_slots=1)
        ticket = submit(scheduler, seed)
        while scheduler.step():
            pass
        return ticket.latest.codes.tolist()

    return make


@pytest.mark.parametrize("positions", [1, 9])
def test_a_picture_given_up_is_gone_before_the_next_row(model, layout, submit, alone, positions: int) -> None:
    scheduler = Scheduler(Engine(model, positions), layout, CONFIG, num_slots=2)
    stays, goes = submit(scheduler, 0), submit(scheduler, 1)
    while len(scheduler.ads) < 2 or not all(ad.paints_on for ad in scheduler.ads):
        scheduler.step()
    goes.cancel()
    before = scheduler.ads[0].cell
    scheduler.step()
    assert [ad.ticket for ad in scheduler.ads] == [stays]
    assert scheduler.ads[0].cell < before + scheduler.seats.side + scheduler.seats.most
    while scheduler.step():
        pass
    assert stays.latest.codes.tolist() == alone(0)
    assert not goes.latest.done


@pytest.mark.parametrize("positions", [1, 4])
def test_every_row_is_told(model, layout, submit, positions: int) -> None:
    scheduler = Scheduler(Engine(model, positions), layout, CONFIG, num_slots=1)
    ticket = submit(scheduler, 0)
    while scheduler.step():
        pass
    told = [progress.codes.shape[1] for progress in ticket.events()]
    assert told == [4, 8, 12, 16]


def test_painting_that_fails_costs_the_newest(model, layout, submit, alone, monkeypatch) -> None:
    engine = Engine(model, positions=1)
    scheduler, paint = Scheduler(engine, layout, CONFIG, num_slots=3), engine.painter.paint
    tickets = [submit(scheduler, seed) for seed in range(3)]

    def paint_or_not(canvas: Canvas, *others) -> int:
        if len(canvas.cell) > 2:
            raise torch.OutOfMemoryError("no memory")
        return paint(canvas, *others)

    monkeypatch.setattr(engine.painter, "paint", paint_or_not)
    while scheduler.step():
        pass
    assert isinstance(tickets[2].error, torch.OutOfMemoryError)
    assert [ticket.latest.codes.tolist() for ticket in tickets[:2]] == [alone(0), alone(1)]
