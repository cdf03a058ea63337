"""Few sizes for ads who come and go: what fills them up changes nothing, and one memory is enough for all."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from uniadgen.config import GenerateConfig, override
from uniadgen.data.batch import Batch, Row, collate
from uniadgen.data.prompt import Layout
from uniadgen.engine import painting
from uniadgen.engine.attention import PlainAttention
from uniadgen.engine.engine import Engine
from uniadgen.engine.graphed import GraphedStep
from uniadgen.engine.layers import Prefix
from uniadgen.engine.painting import GraphedPainter
from uniadgen.engine.precision import EIGHT_BIT
from uniadgen.engine.runner import Runner
from uniadgen.engine.scheduler import Scheduler
from uniadgen.engine.sizes import Sizes, padded
from uniadgen.engine.slots import Places, Slots
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
def alone(model, layout: Layout, batch_of) -> Callable[..., tuple]:
    """What an ad is that has an engine of a CPU to itself, one position after the other."""
    one = Engine(model, positions=1)

    def make(clicks: int, seed: int, config: GenerateConfig = CONFIG, layout: Layout = layout) -> tuple:
        *_, last = FastDecoder(one, layout, config, [seed], [POINTS]).run(batch_of(clicks, 1))
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


def test_rows_that_stand_again_are_spread_over_the_groups(engine, layout, batch_of) -> None:
    """Each within its own; branches and owners are those of the ads, and an engine that wants none gets none."""
    scheduler = Scheduler(engine, layout, CONFIG, 9)
    scheduler.submit(batch_of(3, 9), seeded(range(9)), [POINTS] * 9)
    scheduler.step()
    ads, seats = scheduler.ads, scheduler.seats
    rows = seats.rows(ads)
    assert [[*group.rows] for group in rows.groups] == [[*range(9), 8]] * 2
    assert rows.owner.tolist() == [*range(9), 8] * 2
    assert rows.row_of == {(ad, branch): 10 * branch + row for row, ad in enumerate(ads) for branch in (0, 1)}
    assert rows.branches == [[*range(9), 8], [*range(10, 19), 18]]
    assert Sizes.of(rows.groups) == (20, 2, 16)
    some = seats.rows(ads[:2])
    assert [[*group.rows] for group in some.groups] == [[0, 1]] * 2 and Sizes.of(some.groups) == (4, 2, 2)
    seats.padded = int
    assert len(seats.rows(ads[1:]).starts) == 16 and len(seats.rows(ads[::-1]).starts) == 18


def test_as_many_rows_as_there_are_may_be_others(engine, layout, batch_of) -> None:
    """Two of three, one of them twice."""
    scheduler = Scheduler(engine, layout, CONFIG, 3)
    scheduler.submit(batch_of(3, 3), seeded(range(3)), [POINTS] * 3)
    scheduler.step()
    group = next(iter(scheduler.seats.groups.values()))
    first, _, last = group.owners
    assert [*group.some([first, last, last]).rows] == [0, 2, 2]
    assert group.some(group.owners) is group


# what fills up


@pytest.mark.parametrize(("number", "lag"), [(3, 0), (5, 0), (9, 0), (11, 0), (9, 2)])
def test_ads_that_are_filled_up_make_what_each_makes_alone(
    engine, layout, batch_of, alone, sizes, number: int, lag: int
) -> None:
    """Candidates that share a prompt in both branches; one cell after the other, or of several rows at once."""
    engine.model.config.row_lag = lag
    layout = Layout(layout.tokenizer, override(layout.config, {"model.row_lag": lag}))
    *_, last = FastDecoder(engine, layout, CONFIG, range(number), [POINTS] * number).run(batch_of(3, number))
    assert set(sizes) == {(number, padded(number), 2 * number, 2 * padded(number))}
    made = zip(last.words, last.codes.tolist(), strict=True)
    assert list(made) == [alone(3, seed, layout=layout) for seed in range(number)]


@pytest.mark.parametrize(("slots", "filled"), [(4, (False, False)), (9, (True, True)), (11, (True, True))])
def test_ads_come_and_go(engine, layout, batch_of, alone, sizes, slots: int, filled: tuple[bool, bool]) -> None:
    """Some alone, some as candidates, some unguided; whoever was painted before, what is kept serves the others."""
    engine.positions = engine.cells = 2
    config = replace(CONFIG, guidance_until=0.6)
    scheduler, tickets, seed = Scheduler(engine, layout, config, slots), [], 0
    for clicks, ads in ORDERS:
        seeds, seed = range(seed, seed + ads), seed + ads
        made = scheduler.submit(batch_of(clicks, ads), seeded(seeds), [POINTS] * ads)
        tickets += [(clicks, *one) for one in zip(seeds, made, strict=True)]
    finish(scheduler)
    assert all(pictures == padded(ads) and every == padded(rows) for ads, pictures, rows, every in sizes)
    more = any(pictures > ads for ads, pictures, *_ in sizes), any(every > rows for *_, rows, every in sizes)
    assert more == filled
    assert len(engine.painter.kept.values) < len(sizes)  # some were run again
    for clicks, one, ticket in tickets:
        assert (ticket.latest.words[0], ticket.latest.codes[0].tolist()) == alone(clicks, one, config), one


def test_rows_that_stand_again_find_what_they_find_where_they_stand_first() -> None:
    """In eight bits too, of which torch can do little; and the rows in between stay as they are."""
    generator = torch.Generator().manual_seed(0)
    prefix = Prefix(*torch.randn(2, 1, 2, 5, 16, generator=generator))
    whole, again = Slots(prefix, 4, 9, dtype=EIGHT_BIT), Slots(prefix, 4, 9, dtype=EIGHT_BIT)
    for owner in range(4):
        whole.join(owner, prefix)
        again.join(owner, prefix)
    q, k, v = torch.randn(3, 4, 2, 16, generator=generator)
    found = []
    for slots, rows in ((whole, [0, 1, 2, 3]), (again.some([1, 3, 3]), [1, 3, 3])):
        attention = PlainAttention([slots])
        attention.aim(Places.after(torch.full((len(rows), 1), 5)))
        found.append(attention.attend(0, q[rows], k[rows], v[rows]))
    torch.testing.assert_close(found[1], found[0][[1, 3, 3]])
    for kept, wanted in ((again.keys, whole.keys), (again.values, whole.values)):
        kept, wanted = kept.float(), wanted.float()
        assert torch.equal(kept[:, [1, 3]], wanted[:, [1, 3]]) and not kept[:, [0, 2], :, 5:].any()


# one memory


def test_paintings_share_their_canvas(engine, layout, batch_of, monkeypatch) -> None:
    """Until a larger one comes: then those that look to the old memory go at once, with all that they held."""
    gc.disable()
    made, init = [], painting.Painting.__init__
    monkeypatch.setattr(
        painting.Painting, "__init__", lambda self, *given: (init(self, *given), made.append(weakref.ref(self)))[0]
    )
    painter, memories = engine.painter, []
    for number, kept in ((2, 1), (1, 2), (2, 2), (3, 1), (4, 2), (1, 3)):
        decoder = FastDecoder(engine, layout, CONFIG, range(number), [POINTS] * number)
        list(decoder.run(batch_of(3, number), "image"))
        del decoder
        assert len(painter.kept.values) == kept
        parts = painter.easel.parts
        for one in painter.kept.values.values():
            for name, part in one.canvas.tensors().items():
                assert part.data_ptr() == parts[name].data_ptr() and part.is_contiguous()
        memories.append(parts["codes"].data_ptr())
    gc.enable()
    assert len(made) == 5 and [one() is None for one in made] == [True, True, False, False, False]
    assert len(set(memories[:3])) == len(set(memories[3:])) == 1


def test_a_canvas_is_copied_to_where_there_is_room(engine, layout, batch_of) -> None:
    """Who is painted for the first time is not asked for its numbers later."""
    scheduler, painter = Scheduler(engine, layout, CONFIG, 3), engine.painter
    scheduler.submit(batch_of(3, 3), seeded(range(3)), [POINTS] * 3, "image")
    scheduler.step()
    for ads in (scheduler.ads[:1], scheduler.ads, scheduler.ads[:2]):
        canvas = scheduler.seats.canvas(scheduler.seats.rows(ads))
        copy = painter.put(canvas)
        assert copy.tensors().keys() == canvas.tensors().keys() and copy.staggered is canvas.staggered
        for mine, theirs in zip(copy.tensors().values(), canvas.tensors().values(), strict=True):
            assert torch.equal(mine, theirs) and mine.data_ptr() != theirs.data_ptr()
