"""The scheduler: ads join and leave at any step, each at a position of its own; some write while others paint."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from traceback import clear_frames
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from uniadgen.config import GenerateConfig
from uniadgen.data.batch import Batch
from uniadgen.data.prompt import Layout
from uniadgen.engine.engine import Engine
from uniadgen.engine.lookup import Lookup
from uniadgen.engine.loop import Progress
from uniadgen.engine.making import Making, Window
from uniadgen.engine.reading import read
from uniadgen.engine.runner import Runner
from uniadgen.engine.seats import Seats
from uniadgen.engine.ticket import Bell, QueueFull, Ticket


@dataclass(frozen=True, eq=False)
class Order:
    """Ads that were asked for together: they are read together, join together and share what is the same."""

    batch: Batch
    ads: tuple[Making, ...]
    with_picture: bool


class News(NamedTuple):
    """Of an ad, to be told to whoever asked for it."""

    ad: Making
    words: tuple[int, ...]
    codes: Callable[[], Int[Tensor, "1 k"]]  # waits where they are not there yet
    done: bool


class Scheduler:
    """Makes ads for many at once, whoever comes whenever: `num_slots` of them at a time, the others wait in order.

    Any thread may `submit`; one thread calls `step`, over and over. An ad's tokens are those that it has alone for the
    same seed, whoever shares the steps. Memory is bounded: by the slots, whose room only a longer prompt than all
    before makes larger, and by `queue`, the ads that may wait. First come, first served: nobody is overtaken, and
    between two steps one order at most is read, so that those who are being served go on. Where nobody is, all are read
    for whom there are slots: they go on together.
    """

    def __init__(
        self,
        engine: Engine,
        layout: Layout,
        config: GenerateConfig,
        num_slots: int = 8,
        queue: int = 64,
    ) -> None:
        self.engine, self.layout, self.config = engine, layout, config
        self.num_slots, self.queue = num_slots, queue
        self.waiting: deque[Order] = deque()
        self.lock = threading.Condition()  # of `waiting`
        self.bell = Bell()
        self.untold: list[News] = []
        self.seats = Seats(engine, layout, num_slots)
        self.runner = Runner(engine, config, self.seats)

    @property
    def ads(self) -> list[Making]:
        """Those that are being made, by the time they joined."""
        return self.seats.ads

    def submit(
        self,
        batch: Batch,
        generators: Sequence[torch.Generator],
        selling_points: Sequence[Sequence[str]],
        modality: str | None = None,
        guidance: float | None = None,
        goes_on: bool = False,
    ) -> list[Ticket]:
        """Asks for R ads, which begin together: a batch as the loop takes it, a generator and selling points of each.

        `guidance` may differ between orders, where there are two branches of it; all else is the scheduler's config.
        What `goes_on` with an earlier order is not refused.

        Raises `ValueError` for more than there are slots, and `QueueFull` where too many wait already.
        """
        if len(generators) > self.num_slots:
            raise ValueError(
                f"{len(generators)} ads at once, expected at most {self.num_slots}: ask for fewer, or give more slots"
            )
        modality = modality or self.layout.config.data.modality
        config = self.config if guidance is None else replace(self.config, guidance=guidance)
        lookups = [Lookup.of(batch, row) if self.seats.most > 1 else None for row in range(len(generators))]
        parts = zip(generators, selling_points, lookups, strict=True)
        ads = tuple(
            Making(self.layout, config, g, points, modality, Ticket(self.bell), lookup) for g, points, lookup in parts
        )
        with self.lock:
            waiting = sum(len(order.ads) for order in self.waiting)
            if waiting + len(ads) > self.queue and not goes_on:
                raise QueueFull(f"{waiting} ads are waiting, expected at most {self.queue}: try again later")
            self.waiting.append(Order(batch, ads, "image" in modality))
            self.lock.notify_all()
        self.bell.ring()
        return [ad.ticket for ad in ads]

    @torch.no_grad()
    def step(self) -> bool:
        """Who was given up leaves, who is next joins, and all go on. False where there is nothing to do.

        Who writes or begins takes one step; then those who paint take some, until there is something to be told, or
        the bell rings; of one order all paint, or none. Where the painter cannot pick them, one step is everybody's.
        One that fails costs the ad in it that joined last, and no other: most likely there was no memory for it.
        """
        self.bell.quiet()
        self._let_go()
        waits = bool(self.ads)  # somebody, while orders are read
        while self._admit() and not waits:
            self._let_go()
        self.seats.end_guidance()
        if not self.ads:
            return bool(self.waiting)
        others, painting = self.runner.parts(self.ads)
        self._write(others)
        self._paint(painting)
        return True

    def _write(self, ads: Sequence[Making]) -> None:
        """One step of these, whatever they feed."""
        windows = self._windows(ads)
        if not windows:
            return
        try:
            made = self.runner.step(self.seats.rows([*windows]), [*windows.values()])
        except Exception as error:
            self._end([*windows][-1], error)
            return
        for (ad, window), words, right in zip(windows.items(), *made, strict=True):
            try:
                self._take(ad, window, words, right)
            except Exception as error:
                self._end(ad, error)

    def _windows(self, ads: Sequence[Making]) -> dict[Making, Window]:
        """What each ad feeds."""
        windows = {}
        for ad in ads:
            try:
                windows[ad] = ad.window(self.runner.ahead(len(ads), self.engine.positions))
            except Exception as error:
                self._end(ad, error)
        return windows

    def _paint(self, ads: Sequence[Making]) -> None:
        """More cells of these pictures."""
        if not ads:
            return
        try:
            waves, steps, there = self.runner.paint(self.seats.rows(ads), self.bell)
            self._tell_news()  # of the last call, while this one is under way
            for ad, count in zip(ads, waves, strict=True):
                self._take_painted(ad, count, steps)
            if there:
                self._tell_news()
        except Exception as error:
            self._end(ads[-1], error)

    def wait(self, seconds: float) -> None:
        """Sleeps until somebody asks for an ad, at most so long."""
        with self.lock:
            self.lock.wait_for(lambda: bool(self.waiting), seconds)

    def clear(self) -> None:
        """Gives everything up that is not done."""
        with self.lock:
            ads = [*self.ads, *(ad for order in self.waiting for ad in order.ads)]
        for ad in ads:
            ad.ticket.cancel()
        self._let_go()

    def _let_go(self) -> None:
        for ad in [ad for ad in self.ads if ad.ticket.given_up]:
            self._end(ad)
        with self.lock:
            gone = [order for order in self.waiting if all(ad.ticket.given_up for ad in order.ads)]
            for order in gone:
                self.waiting.remove(order)
        for ad in (ad for order in gone for ad in order.ads):
            ad.ticket.end()

    def _admit(self) -> bool:
        """The order that has waited longest, once there is a slot for each of its ads; whether there was one."""
        with self.lock:
            if not self.waiting or len(self.waiting[0].ads) > len(self.seats.free):
                return False
            order = self.waiting.popleft()
        try:
            generators = [ad.generator for ad in order.ads]
            found = read(self.engine, order.batch, generators, self.config, order.with_picture)
            self.seats.join(order.ads, found)
        except Exception as error:  # whatever it is, no memory as well: the others go on
            for ad in order.ads:
                self._end(ad, error)
        return True

    def _end(self, ad: Making, error: Exception | None = None) -> None:
        """Out of its slot; whoever waits for it is told."""
        self.seats.leave(ad)
        if error is not None:
            clear_frames(error.__traceback__)  # or whoever holds the ticket would hold their tensors
        ad.ticket.end(error)

    def _take(self, ad: Making, window: Window, words: Sequence[int], right: int) -> None:
        """What came out is the ad's; whoever waits for it is told."""
        before = ad.rows
        if window.says:
            ad.take_words(window, words)
        else:
            ad.take_cells(window, right)
        self._tell_of(ad, before, bool(window.says))
        self._tell_news()

    def _take_painted(self, ad: Making, count: int, steps: int) -> None:
        """So many more waves of its picture have been painted, in so many steps."""
        before = ad.rows
        ad.paint_on(count)
        self._tell_of(ad, before)

    def _tell_of(self, ad: Making, before: int, says: bool = False) -> None:
        """There is something to be told where there is a word more, or a row of cells; who is done is let go."""
        if ad.done or says or ad.rows > before:
            self._note(ad)
        if ad.done:
            self._tell_news()
            self._end(ad)

    def _note(self, ad: Making) -> None:
        self.untold.append(News(ad, tuple(ad.words), self.seats.rows_of(ad), ad.done))

    def _tell_news(self) -> None:
        """To those who are still here: the words so far, and all whole rows of cells."""
        untold, self.untold = self.untold, []
        for news in untold:
            if news.ad in self.ads:
                news.ad.ticket.tell(Progress((news.words,), news.codes(), news.done))
