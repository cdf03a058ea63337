"""Painting in one call of compiled code, while others write: the codes of painting step by step, and no waiting."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from threading import Thread

import pytest
import torch
from torch import nn

from uniadgen.config import GenerateConfig, override
from uniadgen.data.batch import Batch, collate
from uniadgen.data.prompt import Layout
from uniadgen.engine import building
from uniadgen.engine.canvas import Canvas
from uniadgen.engine.engine import Engine
from uniadgen.engine.layers import Layers
from uniadgen.engine.native import Native
from uniadgen.engine.native_painting import NativePainter
from uniadgen.engine.precision import Precision
from uniadgen.engine.scheduler import Scheduler
from uniadgen.engine.slots import Slots
from uniadgen.engine.ticket import Bell, Ticket
from uniadgen.engine.together import FastDecoder

pytestmark = pytest.mark.skipif(building.library() is None, reason="needs a C++ compiler")
CELLS, CODES, WIDTH, AHEAD = 16, 64, 64, 3
OWN, SHARED = 21, 9  # positions of prompts
POINTS = ("kitchen mug", "dishwasher safe")
CONFIG = GenerateConfig(guidance=3.0, text_top_k=3, image_top_k=9, max_words=3)
FAITHFUL = replace(CONFIG, connecting_words=("and", ","), max_words=20)  # texts of many lengths
GREEDY, FREE = replace(CONFIG, temperature=0.0), replace(CONFIG, image_top_k=0, temperature=0.7)


@pytest.fixture
def engine(model) -> Engine:
    """Of a tiny model in float32."""
    engine = Engine(model)
    assert isinstance(engine.painter, NativePainter)
    return engine


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
        steps.append(engine.painter.paint(canvas, slots, count, number, config, Bell()))
        after.append(deepcopy(canvas))
    return after, steps


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("config", [CONFIG, GREEDY, FREE], ids=["likeliest", "greedy", "all"])
@pytest.mark.parametrize("count", [1, AHEAD])
@pytest.mark.parametrize(("known", "control"), [(False, True), (True, False)])
def test_it_paints_what_torch_paints(
    model, engine, known: bool, control: bool, count: int, config: GenerateConfig, threads: int
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


def test_it_stops_at_a_row_of_cells_an_end_and_when_the_bell_rings(engine) -> None:
    canvas, slots, painter, bell = (
        canvas_of(known=False, control=False),
        slots_of(engine.layers),
        engine.painter,
        Bell(),
    )
    assert painter.paint(canvas, slots, 1, 100, CONFIG, bell) == 2
    assert canvas.cell.tolist() == [3, 4, 7]  # of the second one, a row is whole
    assert painter.paint(canvas, slots, 1, 100, CONFIG, bell) == 1
    assert painter.paint(canvas, slots, 1, 1, CONFIG, bell) == 1
    assert canvas.cell.tolist() == [5, 6, 9]
    assert painter.paint(canvas, slots, 1, 100, CONFIG, bell) == 2
    assert painter.paint(canvas, slots, 1, 100, CONFIG, bell) == 1
    assert canvas.cell.tolist() == [8, 9, 12]  # the second one is at its end
    bell.ring()
    again = canvas_of(known=False, control=False)
    assert painter.paint(again, slots, 1, 100, CONFIG, bell) == 1


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


def test_int8_paints_what_it_paints_step_by_step(model, layout, make_row) -> None:
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
    """Asks a scheduler for a picture, or more."""

    def ask(scheduler: Scheduler, seed: int, modality: str = "image") -> Ticket:
        batch: Batch = collate([make_row(seed, 2, target=False), make_row(seed, 0, target=False)], layout.pad_id)
        return scheduler.submit(batch, [generator(seed)], [POINTS], modality)[0]

    return ask


@pytest.fixture
def alone(model, submit) -> Callable[..., tuple]:
    """What a seed makes that has the scheduler to itself, step by step."""

    def make(layout: Layout, seed: int, modality: str = "image", config: GenerateConfig = CONFIG) -> tuple:
        engine = Engine(model, positions=1)
        engine.painter = None
        scheduler = Scheduler(engine, layout, config, num_slots=1)
        ticket = submit(scheduler, seed, modality)
        finish(scheduler)
        return told(ticket)

    return make


def finish(scheduler: Scheduler) -> None:
    while scheduler.step():
        pass


def told(ticket: Ticket) -> tuple:
    """The words and codes of an ad that is done."""
    assert ticket.latest.done
    return ticket.latest.words[0], ticket.latest.codes.tolist()


def before_painting(scheduler: Scheduler, monkeypatch, act: Callable[[], object]) -> list[int]:
    """Another thread acts once a call has begun, before its first step. Listens: how many steps each call took."""
    painter, steps = scheduler.engine.painter, []
    paint = painter.paint

    def listening(*given) -> int:
        other = Thread(target=act)
        other.start()
        other.join()
        steps.append(paint(*given))
        return steps[-1]

    monkeypatch.setattr(painter, "paint", listening)
    return steps


@pytest.fixture
def paints(model, layout, submit) -> tuple[Scheduler, Ticket, Ticket]:
    """A scheduler of two pictures, one row of each of which is whole."""
    scheduler = Scheduler(Engine(model, positions=1), layout, CONFIG, num_slots=3)
    tickets = submit(scheduler, 0), submit(scheduler, 1)
    while len(scheduler.ads) < 2 or not all(ad.rows for ad in scheduler.ads):
        scheduler.step()
    return scheduler, *tickets


def test_an_ad_given_up_meanwhile_is_gone_within_one_step(layout, paints, alone, monkeypatch) -> None:
    scheduler, stays, goes = paints
    with monkeypatch.context() as patch:
        steps = before_painting(scheduler, patch, goes.cancel)
        scheduler.step()
        assert steps == [1]
    scheduler.step()
    assert [ad.ticket for ad in scheduler.ads] == [stays]
    finish(scheduler)
    assert told(stays) == alone(layout, 0)
    assert not goes.latest.done


def test_who_comes_meanwhile_begins_after_one_step(layout, paints, submit, alone, monkeypatch) -> None:
    scheduler, *tickets = paints
    with monkeypatch.context() as patch:
        steps = before_painting(scheduler, patch, lambda: tickets.append(submit(scheduler, 2)))
        scheduler.step()
        assert steps == [1]
    scheduler.step()
    assert [ad.ticket for ad in scheduler.ads] == tickets
    finish(scheduler)
    assert [told(ticket) for ticket in tickets] == [alone(layout, seed) for seed in range(3)]


def test_who_waits_for_a_slot_rings_once(model, layout, submit, monkeypatch) -> None:
    scheduler = Scheduler(Engine(model, positions=1), layout, CONFIG, num_slots=1)
    first, _ = submit(scheduler, 0), submit(scheduler, 1)
    steps = before_painting(scheduler, monkeypatch, lambda: None)
    while not first.latest.done:
        scheduler.step()
    assert steps == [3, 4, 4, 4]  # after the first cell, a row of cells each


# some paint while others write

MIXES = {
    "one cell after the other": (0, CONFIG),
    "guided in part": (0, replace(CONFIG, guidance_until=0.4)),
    "staggered": (2, CONFIG),
    "staggered, guided in part": (1, replace(CONFIG, guidance_until=0.4)),
}


def listen(scheduler: Scheduler) -> list[tuple[str, int, int]]:
    """What is done for how many ads, of how many."""
    heard, runner = [], scheduler.runner

    def listening(name: str, go_on: Callable) -> Callable:
        return lambda rows, *given: heard.append((name, len(rows.ads), len(scheduler.ads))) or go_on(rows, *given)

    runner.step, runner.paint = listening("step", runner.step), listening("paint", runner.paint)
    return heard


@pytest.mark.parametrize("positions", [1, 2, 9])
@pytest.mark.parametrize("mix", MIXES)
def test_ads_that_join_while_others_paint_are_what_they_are_alone(
    model, layout, submit, alone, mix: str, positions: int
) -> None:
    lag, config = MIXES[mix]
    model.config.row_lag = lag
    layout = Layout(layout.tokenizer, override(layout.config, {"model.row_lag": lag}))
    scheduler = Scheduler(Engine(model, positions), layout, config, num_slots=3)
    asked = [(seed, "image+text" if seed % 3 else "image") for seed in range(7)]
    heard, tickets = listen(scheduler), []
    for number, one in enumerate(asked):
        tickets.append(submit(scheduler, *one))
        for _ in range(number):
            scheduler.step()
    finish(scheduler)
    some = [one for one in heard if one[1] < one[2]]
    assert {name for name, _, _ in some} == {"step", "paint"}
    assert {number for name, number, _ in some if name == "paint"} == {1, 2}
    for one, ticket in zip(asked, tickets, strict=True):
        assert told(ticket) == alone(layout, *one, config=config), one


@pytest.fixture
def candidates(make_row: Callable, layout) -> Callable[..., list[Ticket]]:
    """Asks a scheduler for ads of one request, one for each seed."""

    def ask(scheduler: Scheduler, seeds: Sequence[int]) -> list[Ticket]:
        rows = [make_row(9, clicks, target=False) for clicks in (2, 0) for _ in seeds]
        noise = [generator(seed) for seed in seeds]
        return scheduler.submit(collate(rows, layout.pad_id), noise, [POINTS] * len(seeds), "image+text")

    return ask


def test_ads_of_one_order_paint_together_and_nobody_else_waits(model, layout, submit, candidates, alone) -> None:
    """However long their texts are. Another order paints meanwhile."""
    scheduler = Scheduler(Engine(model, positions=1), layout, FAITHFUL, num_slots=5)
    other = submit(scheduler, 0)
    scheduler.step()
    tickets, painted = candidates(scheduler, range(4)), []
    paint = scheduler.runner.paint
    scheduler.runner.paint = lambda rows, bell: painted.append(rows.ads) or paint(rows, bell)
    finish(scheduler)
    assert len({len(ticket.latest.words[0]) for ticket in tickets}) > 1
    assert {sum(ad.ticket in tickets for ad in ads) for ads in painted} == {0, 4}
    assert told(other) == alone(layout, 0, config=FAITHFUL)


def test_who_was_given_up_is_not_waited_for(model, layout, candidates) -> None:
    scheduler = Scheduler(Engine(model, positions=1), layout, FAITHFUL, num_slots=4)
    tickets = candidates(scheduler, range(4))
    while not any(ad.paints_on for ad in scheduler.ads):
        scheduler.step()
    writing = [ad.ticket for ad in scheduler.ads if ad.writing]
    assert writing
    for ticket in writing:
        ticket.cancel()
    finish(scheduler)
    assert [ticket.latest.done for ticket in tickets] == [ticket not in writing for ticket in tickets]


def test_rows_of_some_are_not_copied(paints) -> None:
    """And they are chosen once, until somebody comes or goes."""
    scheduler = paints[0]
    seats, (_, second) = scheduler.seats, scheduler.ads
    rows = seats.rows([second])
    assert [(group.owners, [*group.rows]) for group in rows.groups] == [([(second, 0)], [1]), ([(second, 1)], [1])]
    for group, whole in zip(rows.groups, seats.groups.values(), strict=True):
        assert group.keys is whole.keys and group.values is whole.values
    assert seats.rows([second]) is rows
    seats.leave(second)
    assert not seats.chosen.values


class Broken(RuntimeError):
    pass


@pytest.mark.parametrize("name", ["step", "paint"])
def test_what_fails_costs_the_newest_of_those_in_it(model, layout, submit, alone, monkeypatch, name: str) -> None:
    """Two write, and two paint, one of which joined before them and one after."""
    engine = Engine(model, positions=1)
    scheduler = Scheduler(engine, layout, CONFIG, num_slots=4)
    asked = (0, "image"), (1, "image+text"), (2, "image+text"), (3, "image")
    tickets = [submit(scheduler, *one) for one in asked]
    while len(scheduler.ads) < 4 or not scheduler.ads[3].paints_on:
        scheduler.step()
    assert [ad.paints_on for ad in scheduler.ads] == [True, False, False, True]

    def broken(*given) -> None:
        raise Broken

    with monkeypatch.context() as patch:
        patch.setattr(*((engine, "step") if name == "step" else (engine.painter, "paint")), broken)
        scheduler.step()
    finish(scheduler)
    failed = 2 if name == "step" else 3
    assert [number for number, ticket in enumerate(tickets) if ticket.error] == [failed]
    for number, (one, ticket) in enumerate(zip(asked, tickets, strict=True)):
        assert number == failed or told(ticket) == alone(layout, *one)


# told, and failing


@pytest.mark.parametrize("positions", [1, 4])
def test_every_row_is_told(model, layout, submit, positions: int) -> None:
    scheduler = Scheduler(Engine(model, positions), layout, CONFIG, num_slots=1)
    ticket = submit(scheduler, 0)
    finish(scheduler)
    rows = [progress.codes.shape[1] for progress in ticket.events()]
    assert rows == [4, 8, 12, 16]


def test_painting_that_fails_costs_the_newest(model, layout, submit, alone, monkeypatch) -> None:
    engine = Engine(model, positions=1)
    scheduler, paint = Scheduler(engine, layout, CONFIG, num_slots=3), engine.painter.paint
    tickets = [submit(scheduler, seed) for seed in range(3)]

    def paint_or_not(canvas: Canvas, *others) -> int:
        if len(canvas.cell) > 2:
            raise torch.OutOfMemoryError("no memory")
        return paint(canvas, *others)

    monkeypatch.setattr(engine.painter, "paint", paint_or_not)
    finish(scheduler)
    assert isinstance(tickets[2].error, torch.OutOfMemoryError)
    assert [told(ticket) for ticket in tickets[:2]] == [alone(layout, 0), alone(layout, 1)]
