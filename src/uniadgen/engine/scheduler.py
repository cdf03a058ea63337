"""The scheduler: ads join and leave at any step, each at a position of its own, words and cells in one step."""

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import count as count_from
from itertools import islice
from traceback import clear_frames

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from uniadgen.config import GenerateConfig
from uniadgen.data.batch import Batch
from uniadgen.data.prompt import Layout
from uniadgen.data.waves import NOTHING, waves
from uniadgen.engine.canvas import Canvas, Painter, Staggered
from uniadgen.engine.engine import Engine
from uniadgen.engine.layers import Prefix
from uniadgen.engine.lookup import Lookup
from uniadgen.engine.loop import Progress
from uniadgen.engine.making import Making, Window
from uniadgen.engine.noise import PictureNoise
from uniadgen.engine.reading import Read, read
from uniadgen.engine.sampling import guide, settle
from uniadgen.engine.slots import Places, Slots
from uniadgen.engine.ticket import QueueFull, Ticket

MOST = 16  # positions of one ad in a step: of more drafts hardly one is right
Owner = tuple[Making, int]  # of a row: an ad, and which branch of guidance


@dataclass(frozen=True, eq=False)
class Order:
    """Ads that were asked for together: they are read together, join together and share what is the same."""

    batch: Batch
    ads: tuple[Making, ...]
    with_picture: bool


class Scheduler:
    """Makes ads for many at once, whoever comes whenever: `num_slots` of them at a time, the others wait in order.

    Any thread may `submit`; one thread calls `step`, over and over. An ad's tokens are those that it has alone for the
    same seed, whoever shares the steps. Memory is bounded: by the slots, whose room only a longer prompt than all
    before makes larger, and by `queue`, the ads that may wait. First come, first served: nobody is overtaken, and
    between two steps one order at most is read, so that those who are being served go on.
    """

    def __init__(
        self,
        engine: Engine,
        layout: Layout,
        config: GenerateConfig,
        num_slots: int = 8,
        queue: int = 64,
    ) -> None:
        self.engine, self.model, self.layout, self.config = engine, engine.model, layout, config
        self.num_slots, self.queue = num_slots, queue
        self.positions = engine.positions
        self.most = min(self.positions, MOST)  # of one ad in a step
        self.waiting: deque[Order] = deque()
        self.lock = threading.Condition()  # of `waiting`
        self.ads: list[Making] = []  # in the slots, by the time they joined
        self.groups: dict[Hashable, Slots] = {}
        self.free = [*reversed(range(num_slots))]
        self.cells, size = layout.config.cells, layout.config.model.num_codes
        self.side, self.lag = round(self.cells**0.5), self.model.config.row_lag
        self.device = engine.device
        self.painter = engine.painter
        # With place for drafts beyond the last cell.
        self.codes = torch.zeros(num_slots, self.cells + 2 * self.most, dtype=torch.long, device=self.device)
        unseen = self.most * (self.painter.unseen if self.painter else 1)
        self.widest = self.most  # positions of one ad in a step
        self.staggered: Staggered | None = None
        if self.lag:
            begin = self.model.get_input_embeddings()(torch.tensor(layout.start_image, device=self.device))
            self.staggered = Staggered.of(waves(self.cells, self.lag), begin.detach())
            self.widest = max(self.most, self.staggered.fed.shape[1])
            unseen = self.side * -(-self.side // self.lag)  # of all rows that grow at once
        self.noise = PictureNoise(num_slots, self.side, unseen, size, self.device)
        self.control: Tensor | None = None  # (2 slots, K + 1, C): the last cell is none, and has none
        self.known: Tensor | None = None  # (slots, K + drafts): codes of cells that are not sampled, -1 for others
        self.alike: Tensor | None = None  # (2 slots, V), where the model has a word preference
        if self.model.config.word_preference:
            self.alike = torch.zeros(2 * num_slots, self.model.config.text_config.vocab_size, device=self.device)

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
        lookups = [Lookup.of(batch, row) if self.most > 1 else None for row in range(len(generators))]
        parts = zip(generators, selling_points, lookups, strict=True)
        ads = tuple(Making(self.layout, config, g, points, modality, lookup) for g, points, lookup in parts)
        with self.lock:
            waiting = sum(len(order.ads) for order in self.waiting)
            if waiting + len(ads) > self.queue and not goes_on:
                raise QueueFull(f"{waiting} ads are waiting, expected at most {self.queue}: try again later")
            self.waiting.append(Order(batch, ads, "image" in modality))
            self.lock.notify_all()
        return [ad.ticket for ad in ads]

    @torch.no_grad()
    def step(self) -> bool:
        """Who was given up leaves, who is next joins, and all go one step on. False where there is nothing to do.

        A step that fails costs the ad that joined last, and no other: most likely there was no memory for it.
        """
        self._let_go()
        self._admit()
        self._leave([(ad, 1) for ad in self.ads if not ad.guided and (ad, 1) in self.row_of])
        if self.painter and self.ads and all(ad.paints_on for ad in self.ads):
            try:
                self._paint_on(self.painter)
            except Exception as error:
                self._end(self.ads[-1], error)
            return True
        windows = self._windows()
        if not windows:
            return bool(self.waiting)
        try:
            made = self._decode(windows)
        except Exception as error:
            self._end(self.ads[-1], error)
            return True
        for ad, window, words, right in zip(tuple(self.ads), windows, *made, strict=True):
            try:
                self._take(ad, window, words, right)
            except Exception as error:
                self._end(ad, error)
        return True

    def _windows(self) -> list[Window]:
        """What each ad feeds: the fewer there are, the more drafts."""
        windows = []
        for ad in tuple(self.ads):
            try:
                windows.append(ad.window(self._ahead))
            except Exception as error:
                self._end(ad, error)
        return windows

    @property
    def _ahead(self) -> int:
        """Positions of each ad in a step."""
        return max(1, min(self.positions // max(len(self.ads), 1), self.most))

    def _paint_on(self, painter: Painter) -> None:
        """Some cells of all pictures, while nobody wants anything else: the host looks only when they are there."""
        count = 1 if self.lag else self._ahead
        steps = painter.unseen if count > 1 else min(ad.to_look for ad in self.ads)
        self._draw_ahead(steps, count)
        canvas = self._canvas()
        steps = painter.paint(canvas, self.in_use, count, steps, self.config)
        self.codes[self.slots] = canvas.codes
        if count == 1 and not self.lag:  # while a GPU paints
            self._draw_ahead(steps + self.side, 1)
        cells = canvas.cell.tolist() if count > 1 else [ad.cell + steps for ad in self.ads]
        for ad, cell in zip(tuple(self.ads), cells, strict=True):
            self._take_painted(ad, cell, steps)

    def _take_painted(self, ad: Making, cell: int, steps: int) -> None:
        """The ad is at this cell, or so many steps of staggered rows further on."""
        before = ad.rows
        if self.lag:
            ad.paint_waves(steps)
        else:
            ad.paint_on(cell - ad.cell)
        self._tell_of(ad, before)

    def _draw_ahead(self, steps: int, count: int) -> None:
        """The noise of all cells that so many steps of so many cells may paint."""
        if self.config.temperature:
            self.noise.draw_until([(ad, ad.reached(steps, count)) for ad in self.ads])

    def _canvas(self) -> Canvas:
        """Where the pictures of all ads stand."""
        if self.controls is None and self.control is not None:
            self.controls = self.control[self.control_row[:, 0]]
        rows = [[self.row_of.get((ad, branch), self.row_of[ad, 0]) for ad in self.ads] for branch in (0, 1)]
        offset = self._place([ad.begun for ad in self.ads])[:, None]
        return Canvas(
            codes=self.codes[self.slots],
            cell=self._place([ad.wave if self.lag else ad.cell for ad in self.ads]),
            end=self._place([ad.last_wave if self.lag else ad.end for ad in self.ads]),
            known=None if self.known is None else self.known[self.slots],
            noise=self.noise.table[self.slots],
            guidance=self._place([float(ad.guidance) for ad in self.ads])[:, None, None],
            start=self.start + offset[self.owner],
            owner=self.owner,
            branches=self._place(rows),
            control=self.controls,
            staggered=self.staggered,
        )

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

    def _admit(self) -> None:
        """The order that has waited longest, once there is a slot for each of its ads."""
        with self.lock:
            if not self.waiting or len(self.waiting[0].ads) > len(self.free):
                return
            order = self.waiting.popleft()
        try:
            generators = [ad.generator for ad in order.ads]
            found = read(self.engine, order.batch, generators, self.config, order.with_picture)
            self._seat(order, found)
        except Exception as error:  # whatever it is, no memory as well: the others go on
            for ad in order.ads:
                self._end(ad, error)

    def _seat(self, order: Order, found: Read) -> None:
        """Rows of one prompt share it; all others stand with those of their branch, of whatever order."""
        number = len(order.ads)
        lengths = [prefix.keys.shape[2] for prefix in found.prefixes]
        for place, ad in enumerate(order.ads):
            ad.join(self.free.pop(), lengths[place::number])
            self.ads.append(ad)
            if found.known is not None:
                self._keep_known(ad.slot, found.known[place])
        room = max(ad.room for ad in order.ads) + self.widest - 1
        self.engine.layers.reserve(max(lengths) + room)
        for row, prefix in enumerate(found.prefixes):
            ad, branch = order.ads[row % number], row // number
            same = sum(other is prefix for other in found.prefixes)
            if same > 1:
                group = self._group((order.ads[0], id(prefix)), prefix, same, room, shared=True)
            else:
                longest = max(lengths[branch * number : (branch + 1) * number])
                group = self._group(branch, prefix, self.num_slots, longest + room, shared=False)
            group.join((ad, branch), prefix)
            if found.control is not None:
                self._keep_control(2 * ad.slot + branch, found.control[row])
            if self.alike is not None and found.alike is not None:
                self.alike[2 * ad.slot + branch] = found.alike[row]
        self._arrange()

    def _group(self, key: Hashable, prefix: Prefix, capacity: int, room: int, shared: bool) -> Slots:
        if key not in self.groups:
            self.groups[key] = Slots(prefix, capacity, room, prefix if shared else None, self.engine.cache_dtype)
        self.groups[key].reserve(room)
        return self.groups[key]

    def _keep_control(self, row: int, control: Float[Tensor, "K C"]) -> None:
        if self.control is None:
            self.control = control.new_zeros(2 * self.num_slots, self.cells + 1, control.shape[-1])
        self.control[row, : self.cells] = control

    def _keep_known(self, slot: int, known: Int[Tensor, "K"]) -> None:
        """They are also their own drafts, which are always right."""
        if self.known is None:
            self.known = torch.full_like(self.codes, -1)
        self.known[slot, : self.cells] = known
        self.codes[slot] = settle(self.codes[slot], self.known[slot])

    def _arrange(self) -> None:
        """Who stands in which row: after somebody came or went."""
        self.in_use = [group for group in self.groups.values() if group.owners]
        owners: list[Owner] = [owner for group in self.in_use for owner in group.owners]
        number = {ad: number for number, ad in enumerate(self.ads)}
        self.row_of = {owner: row for row, owner in enumerate(owners)}
        self.starts = [(ad.lengths[branch], number[ad]) for ad, branch in owners]
        self.owner = self._place([owner for _, owner in self.starts])
        self.start = self._place([start for start, _ in self.starts])[:, None]
        slots = [ad.slot for ad in self.ads]
        self.slot = self._place(slots)[:, None]
        in_turn = bool(slots) and slots == [*range(slots[0], slots[0] + len(slots))]
        self.slots = slice(slots[0], slots[0] + len(slots)) if in_turn else self.slot[:, 0]  # nothing is copied then
        self.controls: Tensor | None = None  # of all rows, once they are needed
        self.control_row = self._place([2 * ad.slot + branch for ad, branch in owners])[:, None]

    def _place(self, numbers: Sequence[object]) -> Tensor:
        """Numbers of the host, on the device, which nobody waits for."""
        array = np.array(numbers)  # many times as fast as torch.tensor
        tensor = torch.from_numpy(array.astype(np.float32) if array.dtype == np.float64 else array)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def _end(self, ad: Making, error: Exception | None = None) -> None:
        """Out of its slot, if it has one, with all that it kept there."""
        if ad in self.ads:
            self.ads.remove(ad)
            self.free.append(ad.slot)
            self._leave([(ad, 0), (ad, 1)])
        if error is not None:
            clear_frames(error.__traceback__)  # or whoever holds the ticket would hold their tensors
        ad.ticket.end(error)

    def _leave(self, owners: Sequence[Owner]) -> None:
        """Out of their rows."""
        if not owners:
            return
        for key, group in tuple(self.groups.items()):
            for owner in [owner for owner in owners if owner in group.owners]:
                group.leave(owner)
            if group.shared is not None and not group.owners:
                del self.groups[key]
        self._arrange()

    def _decode(self, windows: Sequence[Window]) -> tuple[list[list[int]], list[int]]:
        """The words that came out for each ad, and how many of its cells are right. May be done over again."""
        count = max(len(window.words) for window in windows)
        plan = [w.padded(count, self.cells, ad.fed) for ad, w in zip(self.ads, windows, strict=True)]
        word, code, cell, place, sees = self._place(plan).unbind(1)  # (R, k) each
        first = self._place([ad.fed for ad in self.ads])[:, None]
        column = first + torch.arange(count, device=self.device)
        at = Places(*(self.start + numbers[self.owner] for numbers in (place, column, sees)))
        firsts = [start + self.ads[owner].fed for start, owner in self.starts]
        control = None
        if self.control is not None and any(window.paints for window in windows):
            control = self.control[self.control_row, cell[self.owner]]
        embeds = self._embed(word, code, windows)[self.owner]
        hidden = self.engine.step(self.in_use, embeds, at, control, firsts).flatten(0, 1)
        return self._say(windows, hidden, count), self._paint(windows, hidden, count)

    def _embed(
        self, word: Int[Tensor, "R k"], code: Int[Tensor, "R k"], windows: Sequence[Window]
    ) -> Float[Tensor, "R k D"]:
        """The codes of these cells, or words where there are none."""
        if not any(window.paints for window in windows):
            return self.model.get_input_embeddings()(word)
        codes = self.engine.codes[self.codes[self.slot, code.clamp(min=0)]]
        if all(window.paints and 0 < window.cells[0] < self.cells for window in windows) and not self.lag:
            return codes
        return torch.where((code == NOTHING)[..., None], self.model.get_input_embeddings()(word), codes)

    def _say(self, windows: Sequence[Window], hidden: Float[Tensor, "L D"], count: int) -> list[list[int]]:
        """The words that follow the positions that ask for one."""
        asking = [(number, window) for number, window in enumerate(windows) if window.says]
        words: list[list[int]] = [[] for _ in windows]
        if not asking:
            return words
        logits = self._guided(self._score_words, hidden, asking, count)
        allowed = [ids for _, window in asking for ids in window.allowed]
        if allowed:
            barred = torch.ones(logits.shape, dtype=torch.bool)
            for row, ids in zip(barred, allowed, strict=True):
                row[ids] = False
            logits = logits.masked_fill(barred.to(self.device), float("-inf"))
        noise = None
        if self.config.temperature:
            noise = torch.cat([self.ads[number].noise.peek(w.says, logits.shape[-1]) for number, w in asking])
        sampled = iter(self.engine.sample(logits, self.config.temperature, self.config.text_top_k, noise).tolist())
        for number, window in asking:
            words[number] = list(islice(sampled, window.says))
        return words

    def _score_words(self, hidden: Float[Tensor, "P D"], owners: Int[Tensor, "P"]) -> Float[Tensor, "P V"]:
        alike = None if self.alike is None else self.alike[owners]
        return self.model.text_logits(hidden, alike, self.engine.words)

    def _score_codes(self, hidden: Float[Tensor, "P D"], owners: Int[Tensor, "P"]) -> Float[Tensor, "P Q"]:
        return self.engine.image_logits(hidden)

    def _paint(self, windows: Sequence[Window], hidden: Float[Tensor, "L D"], count: int) -> list[int]:
        """Codes where positions ask for them, and how many of each ad are right: all whose draft before was right."""
        asking = [(number, window) for number, window in enumerate(windows) if window.paints]
        right = [0] * len(windows)
        if not asking:
            return right
        logits = self._guided(self._score_codes, hidden, asking, count)
        slot = self._place([self.ads[number].slot for number, window in asking for _ in window.asks])
        cell = self._place([window.cells[at] for _, window in asking for at in window.asks])
        noise = None
        if self.config.temperature:
            self.noise.draw_until([(self.ads[n], window.cells[window.asks[-1]] + 1) for n, window in asking])
            noise = self.noise.table[slot, cell % self.noise.depth]
        codes = self.engine.sample(logits, self.config.temperature, self.config.image_top_k, noise)
        if self.known is not None:
            codes = settle(codes, self.known[slot, cell])
        drafts = self.codes[slot, cell] if count > 1 and not self.lag else None
        self.codes[slot, cell] = codes
        if drafts is None:
            return [window.paints for window in windows]
        matches = iter((drafts == codes).tolist())
        for number, window in asking:
            match = list(islice(matches, window.paints))[:-1]
            right[number] = 1 + next((at for at, same in enumerate(match) if not same), len(match))
            self._draft_next(self.ads[number].slot, window.cells[-1])
        return right

    def _draft_next(self, slot: int, last: int) -> None:
        """Drafts of the cells that come into the window next: as the last one in it."""
        ahead = slice(last + 1, last + self.most)
        self.codes[slot, ahead] = self.codes[slot, last]
        if self.known is not None:
            self.codes[slot, ahead] = settle(self.codes[slot, ahead], self.known[slot, ahead])

    def _guided(
        self,
        head: Callable[[Tensor, Tensor], Tensor],
        hidden: Float[Tensor, "L D"],
        asking: Sequence[tuple[int, Window]],
        count: int,
    ) -> Float[Tensor, "P V"]:
        """Logits of all positions that ask, guided where an ad has another branch.

        `head` is given the hidden states, and whose they are: twice the ad's slot, and one more for its other branch.
        """
        places = [(self.ads[number], at) for number, window in asking for at in window.asks]
        asks = [(ad, branch, at) for branch in (0, 1) for ad, at in places if (ad, branch) in self.row_of]
        rows = [self.row_of[ad, branch] * count + at for ad, branch, at in asks]
        asked = hidden if rows == list(range(len(hidden))) else hidden[self._place(rows)]
        logits = head(asked, self._place([2 * ad.slot + branch for ad, branch, _ in asks])).float()
        if len(rows) == len(places):
            return logits
        if len(rows) < 2 * len(places):  # where there is no other branch, it is the same
            others = count_from(len(places))
            other = [next(others) if (ad, 1) in self.row_of else number for number, (ad, _) in enumerate(places)]
            logits = logits[self._place([*range(len(places)), *other])]
        guidance = [ad.guidance for ad, _ in places]
        same = min(guidance) == max(guidance)
        return guide(logits, 2, guidance[0] if same else self._place(guidance)[:, None])

    def _take(self, ad: Making, window: Window, words: Sequence[int], right: int) -> None:
        """What came out is the ad's; whoever waits for it is told."""
        before = ad.rows
        if window.says:
            ad.take_words(window, words)
        else:
            ad.take_cells(window, right)
        self._tell_of(ad, before, bool(window.says))

    def _tell_of(self, ad: Making, before: int, says: bool = False) -> None:
        """Tells where there is a word more, or a row of cells, and lets go who is done."""
        if ad.done or says or ad.rows > before:
            self._tell(ad)
        if ad.done:
            self._end(ad)

    def _tell(self, ad: Making) -> None:
        """The words so far, and all whole rows of cells."""
        codes = self.codes[ad.slot, : ad.rows * self.side].to("cpu", copy=True)  # others take the slot
        ad.ticket.tell(Progress((tuple(ad.words),), codes[None], ad.done))
