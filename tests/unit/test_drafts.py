"""Drafts: several positions in one step, and still the tokens of one by one."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch

from uniadgen.config import GenerateConfig
from uniadgen.data.batch import Batch, Row, collate
from uniadgen.data.prompt import Layout
from uniadgen.engine.engine import Engine
from uniadgen.engine.lookup import Lookup
from uniadgen.engine.making import Making, Window
from uniadgen.engine.noise import PictureNoise
from uniadgen.engine.rows import Rows
from uniadgen.engine.sampling import Noise, draw
from uniadgen.engine.together import FastDecoder

POINTS = ("kitchen mug", "dishwasher safe")
FREE = GenerateConfig(guidance=3.0, text_top_k=3, image_top_k=4, max_words=9)
BOUND = replace(FREE, connecting_words=("and", ","))
TOGETHER = 10


@pytest.fixture
def batch(make_row: Callable[..., Row], layout: Layout) -> Batch:
    """Candidates of a request with three clicks."""
    row = make_row(0, 3, target=False)
    other = replace(make_row(0, 0, target=False), cutout=row.cutout)
    return collate([row] * TOGETHER + [other] * TOGETHER, layout.pad_id)


def decode(engine: Engine, layout: Layout, config: GenerateConfig, batch: Batch, first: int) -> tuple[list, int]:
    """What the seeds from `first` on make, and in how many steps of one ad."""
    decoder = FastDecoder(engine, layout, config, range(first, first + TOGETHER), [POINTS] * TOGETHER)
    scheduler = decoder.scheduler
    steps, step, painted = 0, scheduler.runner.step, scheduler._take_painted

    def counted(rows: Rows, windows: Sequence[Window]) -> tuple:
        nonlocal steps
        steps += len(windows)
        return step(rows, windows)

    def counted_too(ad: Making, count: int, taken: int) -> None:
        nonlocal steps
        steps += taken
        painted(ad, count, taken)

    scheduler.runner.step, scheduler._take_painted = counted, counted_too
    *_, last = decoder.run(batch)
    return list(zip(last.words, last.codes.tolist(), strict=True)), steps


@pytest.mark.parametrize("config", [FREE, BOUND], ids=["free", "bound"])
def test_drafts_give_the_tokens_of_one_by_one_for_many_seeds(model, layout, batch, config: GenerateConfig) -> None:
    """Sampled, guided, texts and pictures; so the distribution is the same, too. Some drafts are right: fewer steps."""
    one, ahead = Engine(model, positions=1), Engine(model, positions=5 * TOGETHER)
    for first in range(0, 4 * TOGETHER, TOGETHER):
        expected, most = decode(one, layout, config, batch, first)
        made, fewer = decode(ahead, layout, config, batch, first)
        assert made == expected
        assert fewer < most


def test_words_that_must_follow_are_fed_at_once(model, layout: Layout, make_row) -> None:
    """One selling point, and nothing else has room: all its words in one step."""
    words = layout.words("dishwasher safe and light")
    config = replace(BOUND, guidance=1.0, max_words=len(words))
    batch = collate([make_row(0, 2, target=False)], layout.pad_id)
    for positions, steps in ((1, len(words) + 1), (16, 1)):
        decoder = FastDecoder(Engine(model, positions), layout, config, [0], [("dishwasher safe and light",)])
        assert len(list(decoder.run(batch, "text"))) == steps
        assert decoder.words == (words,)


# lookup


def test_what_followed_the_same_words_is_guessed() -> None:
    lookup = Lookup([[1, 2, 3, 4], [9, 2, 3, 5, 6]])
    assert lookup.guess([2, 3]) == 5  # of two places, the last one
    assert lookup.guess([7, 1, 2, 3]) == 4  # a longer match counts more
    assert lookup.guess([3, 5]) == 6
    assert lookup.guess([8]) is None and lookup.guess([]) is None
    assert lookup.guess([4]) is None and lookup.guess([6]) is None  # nothing followed


def test_titles_and_the_prompt_are_looked_up(make_row, layout: Layout) -> None:
    row = make_row(0, 2, target=False)
    lookup = Lookup.of(collate([row, make_row(1, 4, target=False)], layout.pad_id), 0)
    assert [len(text) for text in lookup.texts if len(text)] == [*map(len, row.click_ids), (row.kind == 1).sum()]
    first, second = layout.words("kitchen mug")[:2]
    assert lookup.guess([first]) == second


# noise


def test_noise_is_the_same_where_threads_draw_it() -> None:
    """As they do for a GPU: of every ad from its own generator, rows of cells as they come."""
    tables = []
    for threads in (None, ThreadPoolExecutor(3)):
        noise = PictureNoise(5, 4, 1, 30, torch.device("cpu"))
        noise.threads = threads
        seeded = [torch.Generator().manual_seed(slot) for slot in range(5)]
        ads = [Mock(spec=Making, slot=slot, drawn=0, generator=seeded[slot]) for slot in range(5)]
        for cell in (3, 4, 9):
            noise.draw_until([(ad, cell + ad.slot) for ad in ads])
        tables.append(noise.table)
    assert torch.equal(*tables) and tables[0].abs().min() > 0


@pytest.mark.parametrize("used", [0, 1, 7, 8, 9, 20])
def test_noise_drawn_in_parts_goes_back(used: int) -> None:
    """From the part that was drawn last before the last word, with one word more drawn than used."""
    make = lambda: torch.Generator().manual_seed(3)  # noqa: E731
    one_by_one, ahead = make(), make()
    noise, expected = Noise(ahead, torch.device("cpu")), draw([make()], 30, 50)[0]
    for word in range(used):
        noise.peek(2, 50)
        torch.testing.assert_close(noise.peek(1, 50)[0], expected[word], rtol=0, atol=0)
        noise.use(1)
    noise.peek(1, 50)
    noise.end()
    draw([one_by_one], used, 50)
    assert torch.equal(draw([ahead], 70), draw([one_by_one], 70))


def test_noise_drawn_ahead_goes_back() -> None:
    make = lambda: torch.Generator().manual_seed(3)  # noqa: E731
    one_by_one, ahead = make(), make()
    noise = Noise(ahead, torch.device("cpu"))
    torch.testing.assert_close(noise.peek(3, 50), draw([make()], 3, 50)[0], rtol=0, atol=0)
    noise.use(1)
    noise.peek(4, 50)
    noise.use(1)
    noise.end()
    draw([one_by_one], 2, 50)
    assert torch.equal(draw([ahead], 70), draw([one_by_one], 70))
