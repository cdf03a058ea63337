"""The scheduler: whoever joins whenever makes what it makes alone, and nobody is hurt by another."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Thread

import numpy as np
import pytest
import torch

from uniadgen.config import GenerateConfig
from uniadgen.data.batch import Batch, Row, collate
from uniadgen.data.prompt import Layout
from uniadgen.engine.engine import Engine
from uniadgen.engine.loop import Progress
from uniadgen.engine.scheduler import Scheduler
from uniadgen.engine.ticket import QueueFull, Ticket
from uniadgen.engine.together import FastDecoder

POINTS = ("kitchen mug", "dishwasher safe")
CONFIG = GenerateConfig(guidance=3.0, text_top_k=5, image_top_k=9, max_words=9, connecting_words=("and", ","))
# Clicks and seed of every request: histories differ in length, the request without one has no other branch.
ASKED = ((3, 1), (0, 2), (1, 3), (4, 4), (2, 5), (3, 6), (0, 7))

Make = Callable[..., Scheduler]


@pytest.fixture
def engine(model) -> Engine:
    """Of a tiny model with random weights, with one position of each ad in a step unless a test says otherwise."""
    return Engine(model, positions=1)


@pytest.fixture
def batch_of(make_row: Callable[..., Row], layout: Layout) -> Callable[..., Batch]:
    """The batch of a request with so many clicks, or of some candidates of it."""

    def make(num_clicks: int, candidates: int = 1) -> Batch:
        row = make_row(0, num_clicks, target=False)
        rows = [row] * candidates
        if num_clicks:
            rows += [replace(make_row(0, 0, target=False), cutout=row.cutout)] * candidates
        return collate(rows, layout.pad_id)

    return make


@pytest.fixture
def alone(engine: Engine, layout: Layout, batch_of) -> Callable[..., tuple]:
    """What a request makes that has the engine to itself."""

    def make(num_clicks: int, seed: int, config: GenerateConfig = CONFIG, modality: str | None = None) -> tuple:
        *_, last = FastDecoder(engine, layout, config, [seed], [POINTS]).run(batch_of(num_clicks), modality)
        return told(last)

    return make


@pytest.fixture
def submit(batch_of) -> Callable[..., Ticket]:
    """Asks a scheduler for one ad."""

    def ask(scheduler: Scheduler, num_clicks: int, seed: int, **options) -> Ticket:
        (ticket,) = scheduler.submit(batch_of(num_clicks), [generator(seed)], [POINTS], **options)
        return ticket

    return ask


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def told(progress: Progress) -> tuple:
    """The words and codes of one ad that is done."""
    assert progress.done
    return progress.words[0], tuple(progress.codes[0].tolist())


def finish(scheduler: Scheduler, most: int = 1000) -> int:
    """Steps until nothing is left to do."""
    for count in range(most):
        if not scheduler.step():
            return count
    raise AssertionError("it does not come to an end")


def slots_of(scheduler: Scheduler) -> int:
    """Rows in use."""
    return sum(len(group.owners) for group in scheduler.seats.groups.values())


# whoever joins whenever


@pytest.mark.parametrize(("positions", "seed"), [(1, 0), (1, 1), (9, 2)])
def test_an_ad_is_what_it_is_alone_whenever_it_joins(engine, layout, submit, alone, positions: int, seed: int) -> None:
    engine.positions = engine.cells = positions
    scheduler = Scheduler(engine, layout, CONFIG, num_slots=3)
    engine.positions = engine.cells = 1  # of those that are made alone
    rng, tickets = np.random.default_rng(seed), {}
    for asked in rng.permutation(ASKED).tolist():
        tickets[tuple(asked)] = submit(scheduler, *asked)
        for _ in range(rng.integers(0, 12)):
            scheduler.step()
    finish(scheduler)
    for asked, ticket in tickets.items():
        assert told(ticket.latest) == alone(*asked), asked
    assert len({told(ticket.latest) for ticket in tickets.values()}) == len(ASKED)


def test_texts_and_pictures_share_steps(engine, layout, submit, alone) -> None:
    """One order writes, another paints, a third does both, each with a guidance of its own."""
    scheduler = Scheduler(engine, layout, CONFIG, num_slots=3)
    tickets = {
        (3, 1, 2.0, "text"): submit(scheduler, 3, 1, modality="text", guidance=2.0),
        (3, 2, 3.0, "image"): submit(scheduler, 3, 2, modality="image"),
        (3, 3, 5.0, "image+text"): submit(scheduler, 3, 3, guidance=5.0),
    }
    finish(scheduler)
    for (clicks, seed, guidance, modality), ticket in tickets.items():
        assert told(ticket.latest) == alone(clicks, seed, replace(CONFIG, guidance=guidance), modality)


def test_candidates_join_together_and_share_their_prompt(engine, layout, submit, batch_of, alone) -> None:
    scheduler = Scheduler(engine, layout, CONFIG, num_slots=4)
    first = submit(scheduler, 2, 9)
    scheduler.step()
    tickets = scheduler.submit(batch_of(3, candidates=3), [generator(seed) for seed in (1, 6, 8)], [POINTS] * 3)
    scheduler.step()
    assert sorted(len(group.owners) for group in scheduler.seats.groups.values()) == [1, 1, 3, 3]
    finish(scheduler)
    assert told(first.latest) == alone(2, 9)
    assert [told(ticket.latest) for ticket in tickets] == [alone(3, seed) for seed in (1, 6, 8)]
    assert all(group.shared is None for group in scheduler.seats.groups.values())  # what they shared is gone with them


def test_greedy_and_unguided_ads_too(engine, layout, submit, alone) -> None:
    config = replace(CONFIG, temperature=0.0, connecting_words=())
    scheduler = Scheduler(engine, layout, config, num_slots=2)
    tickets = {asked: submit(scheduler, *asked) for asked in ((0, 0), (0, 1), (3, 2))}
    finish(scheduler)
    for asked, ticket in tickets.items():
        assert told(ticket.latest) == alone(*asked, config)


# fair, and bounded


def test_all_are_read_at_once_where_nobody_is_being_served(engine, layout, submit, alone) -> None:
    """They go on together; once somebody is being served, one order is read between two steps."""
    scheduler = Scheduler(engine, layout, CONFIG, num_slots=5)
    tickets = {seed: submit(scheduler, seed % 3, seed) for seed in range(3)}
    scheduler.step()
    assert len(scheduler.ads) == 3 and not scheduler.waiting
    tickets |= {seed: submit(scheduler, seed % 3, seed) for seed in (3, 4)}
    scheduler.step()
    assert len(scheduler.ads) == 4 and len(scheduler.waiting) == 1
    finish(scheduler)
    for seed, ticket in tickets.items():
        assert told(ticket.latest) == alone(seed % 3, seed)


def test_who_gives_up_while_others_are_read_is_not_read(engine, layout, submit, monkeypatch) -> None:
    scheduler = Scheduler(engine, layout, CONFIG, num_slots=3)
    stays, leaves = submit(scheduler, 1, 0), submit(scheduler, 1, 1)
    admit = scheduler._admit

    def admit_and_cancel() -> bool:
        leaves.cancel()
        return admit()

    monkeypatch.setattr(scheduler, "_admit", admit_and_cancel)
    scheduler.step()
    assert [ad.ticket for ad in scheduler.ads] == [stays] and not scheduler.waiting


def test_first_come_first_served(engine, layout, submit, batch_of) -> None:
    """An order that needs every slot is not overtaken by later ones that would fit, and all end."""
    scheduler = Scheduler(engine, layout, CONFIG, num_slots=2)
    first = submit(scheduler, 1, 0)
    scheduler.step()
    both = scheduler.submit(batch_of(0, candidates=2), [generator(1), generator(2)], [POINTS] * 2)
    later = submit(scheduler, 0, 3)
    order: list[Ticket] = []
    while scheduler.step():
        order += [t for t in (first, *both, later) if t.latest.done and t not in order]
    assert order[0] is first and order[-1] is later and set(order[1:3]) == set(both)


def test_a_full_queue_refuses_the_newest_alone(engine, layout, submit, alone) -> None:
    scheduler = Scheduler(engine, layout, CONFIG, num_slots=1, queue=2)
    kept = [submit(scheduler, 1, seed) for seed in (1, 2)]
    with pytest.raises(QueueFull, match="2 ads are waiting, expected at most 2: try again later"):
        submit(scheduler, 1, 3)
    scheduler.step()  # one of them is in a slot now
    kept.append(submit(scheduler, 1, 4))
    finish(scheduler)
    assert [told(ticket.latest) for ticket in kept] == [alone(1, seed) for seed in (1, 2, 4)]


def test_more_ads_than_slots_are_refused(engine, layout, batch_of) -> None:
    with pytest.raises(ValueError, match="3 ads at once, expected at most 2"):
        Scheduler(engine, layout, CONFIG, num_slots=2).submit(
            batch_of(1, candidates=3), [generator(seed) for seed in range(3)], [POINTS] * 3
        )


def test_memory_is_that_of_the_slots(engine, layout, submit) -> None:
    """Many ads, one after the other: keys and values stay where they were, unless a longer prompt comes."""
    scheduler = Scheduler(engine, layout, CONFIG, num_slots=2)
    submit(scheduler, 3, 0)
    scheduler.step()
    held = [group.keys.data_ptr() for group in scheduler.seats.groups.values()]
    for seed in range(1, 6):
        submit(scheduler, seed % 4, seed)
    finish(scheduler)
    assert [group.keys.data_ptr() for group in scheduler.seats.groups.values()] == held
    assert slots_of(scheduler) == 0 and sorted(scheduler.seats.free) == [0, 1]
    submit(scheduler, 4, 6)
    scheduler.step()
    assert scheduler.seats.groups[0].keys.data_ptr() != held[0] and len(scheduler.seats.groups) == 2


# giving up, and going wrong


def test_a_cancelled_ad_is_gone_within_one_step(engine, layout, submit, alone) -> None:
    scheduler = Scheduler(engine, layout, CONFIG, num_slots=2)
    stays, goes, waits, never = (submit(scheduler, 2, seed) for seed in range(4))
    for _ in range(5):
        scheduler.step()
    assert slots_of(scheduler) == 4
    goes.cancel()
    never.cancel()
    scheduler.step()
    assert [ad.ticket for ad in scheduler.ads] == [stays, waits] and not scheduler.waiting
    finish(scheduler)
    assert (told(stays.latest), told(waits.latest)) == (alone(2, 0), alone(2, 2))
    assert not any(progress.done for progress in (*goes.events(), *never.events()))


class Broken(RuntimeError):
    pass


def test_an_order_that_cannot_be_read_hurts_nobody(engine, layout, submit, alone, monkeypatch) -> None:
    """Out of memory, too: the newest is refused with what happened, and its slot is free."""
    scheduler, embed = Scheduler(engine, layout, CONFIG, num_slots=2), engine.model.embed
    first = submit(scheduler, 2, 0)
    scheduler.step()

    def embed_or_not(batch: Batch, *others):
        if batch.clicked.sum() == 3:
            raise torch.OutOfMemoryError("no memory")
        return embed(batch, *others)

    monkeypatch.setattr(engine.model, "embed", embed_or_not)
    newest, later = submit(scheduler, 3, 1), submit(scheduler, 1, 2)
    finish(scheduler)
    assert (told(first.latest), told(later.latest)) == (alone(2, 0), alone(1, 2))
    with pytest.raises(torch.OutOfMemoryError, match="no memory"):
        list(newest.events())
    assert slots_of(scheduler) == 0 and len(scheduler.seats.free) == 2


def test_no_room_for_its_keys_hurts_nobody(engine, layout, submit, alone, monkeypatch) -> None:
    """A prompt longer than all before, for which there is no memory."""
    from uniadgen.engine.slots import Slots

    scheduler, reserve = Scheduler(engine, layout, CONFIG, num_slots=2), Slots.reserve
    first = submit(scheduler, 2, 0)
    scheduler.step()

    def reserve_or_not(slots: Slots, room: int) -> None:
        if room > slots.keys.shape[3]:
            raise torch.OutOfMemoryError("no memory")
        reserve(slots, room)

    monkeypatch.setattr(Slots, "reserve", reserve_or_not)
    newest, later = submit(scheduler, 4, 1), submit(scheduler, 1, 2)
    finish(scheduler)
    assert isinstance(newest.error, torch.OutOfMemoryError)
    assert (told(first.latest), told(later.latest)) == (alone(2, 0), alone(1, 2))
    assert slots_of(scheduler) == 0 and len(scheduler.seats.free) == 2


def test_a_step_that_fails_costs_the_newest(engine, layout, submit, alone, monkeypatch) -> None:
    scheduler, step = Scheduler(engine, layout, CONFIG, num_slots=3), engine.step
    tickets = [submit(scheduler, 2, seed) for seed in range(3)]
    for _ in range(4):
        scheduler.step()

    def step_or_not(slots, x, *others):
        if len(x) * x.shape[1] > 4:
            raise torch.OutOfMemoryError("no memory")
        return step(slots, x, *others)

    monkeypatch.setattr(engine, "step", step_or_not)
    finish(scheduler)
    assert isinstance(tickets[2].error, torch.OutOfMemoryError)
    assert [told(ticket.latest) for ticket in tickets[:2]] == [alone(2, 0), alone(2, 1)]


def test_an_error_in_one_ad_ends_that_one(engine, layout, submit, alone) -> None:
    scheduler = Scheduler(engine, layout, CONFIG, num_slots=2)
    wrong, right = submit(scheduler, 2, 0), submit(scheduler, 2, 1)
    for _ in range(3):
        scheduler.step()

    def break_down(word: int) -> None:
        raise Broken(word)

    scheduler.ads[0].speller.push = break_down
    finish(scheduler)
    assert told(right.latest) == alone(2, 1)
    with pytest.raises(Broken):
        list(wrong.events())


def test_selling_points_that_do_not_fit_are_refused_at_once(engine, layout, batch_of) -> None:
    scheduler = Scheduler(engine, layout, replace(CONFIG, max_words=1))
    with pytest.raises(ValueError, match=r"raise generate\.max_words"):
        scheduler.submit(batch_of(1), [generator(0)], [("dishwasher safe and light",)])
    assert not scheduler.waiting


# progress


def test_every_word_and_every_row_is_told(engine, layout, submit) -> None:
    scheduler = Scheduler(engine, layout, CONFIG)
    ticket = submit(scheduler, 2, 0)
    finish(scheduler)
    events = list(ticket.events())
    writing = [event for event in events if not event.codes.shape[1]]
    assert [len(event.words[0]) for event in writing[:-1]] == list(range(1, len(writing)))
    assert [event.codes.shape[1] for event in events[len(writing) :]] == [4, 8, 12, 16]
    assert [event.done for event in events] == [False] * (len(events) - 1) + [True]
    for event in events:  # what has been told stays true
        assert events[-1].words[0][: len(event.words[0])] == event.words[0]
        assert torch.equal(events[-1].codes[:, : event.codes.shape[1]], event.codes)


def test_many_threads_ask_and_listen_while_one_steps(engine, layout, submit, alone) -> None:
    scheduler, heard = Scheduler(engine, layout, CONFIG, num_slots=3), {}

    def ask(asked: Sequence[int]) -> None:
        *_, heard[tuple(asked)] = submit(scheduler, *asked).events()

    shoppers = [Thread(target=ask, args=(asked,)) for asked in ASKED]
    for shopper in shoppers:
        shopper.start()
    while any(shopper.is_alive() for shopper in shoppers):
        scheduler.step()
    assert {asked: told(progress) for asked, progress in heard.items()} == {asked: alone(*asked) for asked in ASKED}
