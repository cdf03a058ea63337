"""Samples become the rows of a step: which sample comes when, which clicks it shows, who works on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from uniadgen.config import Config
from uniadgen.data.batch import LENGTHS, Batch, Row, collate
from uniadgen.data.cutout import premultiplied
from uniadgen.data.history import SAMPLERS, Scores, similarity
from uniadgen.data.prompt import Layout, Shown, Target

WINDOW = 8  # steps whose rows are sorted by length together


@dataclass(frozen=True)
class Sample:
    """One line of training data: its words, and the numbers of its pictures in a `Source`."""

    description: str
    selling_points: tuple[str, ...]
    titles: Sequence[str]  # of all clicks, oldest first
    pictures: Sequence[int] | NDArray[np.integer]  # of all clicks: rows of Source.clicks
    text: str  # the click that really happened
    picture: int  # a row of Source.targets
    product: int  # the transparent picture, for Source.cutout
    scores: Scores | None = None  # s_i of Eq. 6 of all clicks; None: `history.similarity` makes them


@runtime_checkable
class Codes(Protocol):
    """Codes of pictures, row by row."""

    def __getitem__(self, row: int, /) -> NDArray[np.integer]:
        """The codes of one picture."""
        ...


@runtime_checkable
class Source(Protocol):
    """Where samples come from. Pictures are codes: neither the VQ nor SigLIP runs in training."""

    @property
    def targets(self) -> Codes:
        """(pictures, K)"""
        ...

    @property
    def clicks(self) -> Codes:
        """(pictures, P)"""
        ...

    def sample(self, number: int) -> Sample:
        """The sample that comes as the `number`-th of a run, endlessly."""
        ...

    def cutout(self, product: int) -> NDArray[np.uint8]:
        """A transparent picture, (S, S, 4)."""
        ...


class Share(NamedTuple):
    """Which part of every step this process works on."""

    rank: int = 0
    world: int = 1


class Rows:
    """Training rows of a source: a pure function of the step, whatever ran before and whoever shares the step."""

    template: int | None = None  # of all rows; None: each draws its own

    def __init__(self, config: Config, layout: Layout, source: Source, share: Share = Share()) -> None:  # noqa: B008
        size, world = config.train.batch_size, share.world
        if size % world:
            raise ValueError(f"train.batch_size is {size}, expected a multiple of the {world} processes: change it")
        self.config, self.layout, self.source, self.share = config, layout, source, share
        self.sampler = SAMPLERS[config.data.sampler]
        self._window = lru_cache(maxsize=1)(self._sorted_rows)  # of this object: it dies with its source

    def batches(self, step: int) -> list[Batch]:
        """This process's rows of a step, at most `train.rows_at_once` in each batch."""
        own = [row for _, row in self._own(step)]
        at_once = self.config.train.rows_at_once or len(own)
        multiple = LENGTHS if at_once > 1 else 1  # a row alone needs no padding, and attends faster without
        return [collate(own[i : i + at_once], self.layout.pad_id, multiple) for i in range(0, len(own), at_once)]

    def numbers(self, step: int) -> list[int]:
        """Which samples this process works on in a step."""
        return [number for number, _ in self._own(step)]

    def _own(self, step: int) -> list[tuple[int, Row]]:
        """The rows of `WINDOW` steps are sorted by length before they are dealt out, so that little is padding."""
        window, place = divmod(step, WINDOW)
        order = np.random.default_rng([self.config.train.seed, window]).permutation(WINDOW)
        size = self.config.train.batch_size
        start = int(order[place]) * size
        return self._window(window)[start : start + size][self.share.rank :: self.share.world]

    def _sorted_rows(self, window: int) -> list[tuple[int, Row]]:
        size = WINDOW * self.config.train.batch_size
        rows = ((number, self.row(number)) for number in range(window * size, (window + 1) * size))
        return sorted(rows, key=lambda numbered: len(numbered[1].ids))

    def row(self, number: int, *, with_history: bool = True, with_target: bool = True) -> Row:
        """One row; template, sampled clicks and history dropout are drawn from its number."""
        rng = np.random.default_rng([self.config.train.seed, number])
        sample = self.source.sample(number)
        shown: list[Shown] = []
        if rng.random() >= self.config.data.history_dropout and with_history:
            scores = similarity(sample.titles, sample.description) if sample.scores is None else sample.scores
            chosen = self.sampler(scores, self.config.data.num_clicks, rng)
            shown = [Shown(sample.titles[i], self.source.clicks[sample.pictures[i]]) for i in chosen]
        answer = Target(sample.text, self.source.targets[sample.picture]) if with_target else None
        cutout = premultiplied(self.source.cutout(sample.product))
        template = int(rng.integers(1000)) if self.template is None else self.template
        words = sample.description, sample.selling_points
        return self.layout.lay_out(*words, cutout, shown, template=template, target=answer)
