"""The runner: one step of some ads, words and cells together, or many at once of those that paint."""

from collections.abc import Callable, Sequence
from itertools import count as count_from
from itertools import islice

import torch
from jaxtyping import Float, Int
from torch import Tensor

from uniadgen.config import GenerateConfig
from uniadgen.data.waves import NOTHING
from uniadgen.engine.engine import Engine
from uniadgen.engine.making import Making, Window
from uniadgen.engine.rows import Rows
from uniadgen.engine.sampling import guide, settle
from uniadgen.engine.seats import Seats
from uniadgen.engine.slots import Places
from uniadgen.engine.ticket import Bell


class Runner:
    """Runs the model for the ads in their seats; what comes out of a step is theirs once they take it."""

    def __init__(self, engine: Engine, config: GenerateConfig, seats: Seats) -> None:
        self.engine, self.model, self.config, self.seats = engine, engine.model, config, seats
        self.painter = engine.painter

    def ahead(self, number: int, positions: int) -> int:
        """Positions of each of so many ads in a step of so many: the fewer there are, the more drafts."""
        return max(1, min(positions // self.seats.padded(number), self.seats.most))

    def parts(self, ads: Sequence[Making]) -> tuple[list[Making], list[Making]]:
        """Who takes one step, and who paints many at once, while others write only where the painter picks its rows.

        Those of one order paint together, once all have begun: in a step with fewer pictures each takes longer.
        """
        if self.painter is None or not (self.painter.picks or all(ad.paints_on for ad in ads)):
            return [*ads], []
        begin = [ad for ad in ads if not ad.paints_on]
        busy = {ad.order for ad in begin}
        return begin, [ad for ad in ads if ad.paints_on and ad.order not in busy]

    def paint(self, rows: Rows, bell: Bell) -> tuple[list[int], int, bool]:
        """How many waves each picture is further on, in how many steps, and whether they are there or under way."""
        assert self.painter is not None, "only for who paints many at once"
        seats, ads = self.seats, rows.ads
        count = 1 if seats.staggered else self.ahead(len(ads), self.engine.cells)
        steps = self.painter.unseen if count > 1 else min(ad.to_look for ad in ads)
        self._draw_ahead(ads, steps * count)
        canvas = seats.canvas(rows)
        steps = self.painter.paint(canvas, rows.groups, count, steps, self.config, bell)
        seats.codes[rows.slots] = canvas.codes[: len(ads)]
        if count == 1 and not seats.staggered:  # while a GPU paints
            self._draw_ahead(ads, steps + seats.side)
        if count == 1:
            return [steps] * len(ads), steps, self.painter.waits
        return [wave - ad.wave for ad, wave in zip(ads, canvas.cell[: len(ads)].tolist(), strict=True)], steps, True

    def _draw_ahead(self, ads: Sequence[Making], waves: int) -> None:
        """The noise of all cells that so many waves may paint."""
        if self.config.temperature:
            self.seats.noise.draw_until([(ad, ad.reached(waves)) for ad in ads])

    def step(self, rows: Rows, windows: Sequence[Window]) -> tuple[list[list[int]], list[int]]:
        """The words that came out for each ad, and how many of its waves are right. May be done over again."""
        seats, place = self.seats, self.seats.place
        count = max(len(window.words) for window in windows)
        plan = [w.padded(count, seats.cells, ad.fed) for ad, w in zip(rows.ads, windows, strict=True)]
        word, code, cell, places, sees = place(plan).unbind(1)  # (R, k) each
        first = place([ad.fed for ad in rows.ads])[:, None]
        column = first + torch.arange(count, device=seats.device)
        at = Places(*(rows.start + numbers[rows.owner] for numbers in (places, column, sees)))
        firsts = [start + rows.ads[owner].fed for start, owner in rows.starts]
        control = None
        if seats.control is not None and any(window.paints for window in windows):
            control = seats.control[rows.control_row, cell[rows.owner]]
        embeds = self._embed(rows, word, code, windows)[rows.owner]
        hidden = self.engine.step(rows.groups, embeds, at, control, firsts).flatten(0, 1)
        return self._sample_words(rows, windows, hidden, count), self._sample_cells(rows, windows, hidden, count)

    def _embed(
        self, rows: Rows, word: Int[Tensor, "R k"], code: Int[Tensor, "R k"], windows: Sequence[Window]
    ) -> Float[Tensor, "R k D"]:
        """The codes of these cells, or words where there are none."""
        if not any(window.paints for window in windows):
            return self.model.get_input_embeddings()(word)
        seats = self.seats
        codes = self.engine.codes[seats.codes[rows.slot, code.clamp(min=0)]]
        if all(window.paints and 0 < window.cells[0] < seats.cells for window in windows) and not seats.staggered:
            return codes
        return torch.where((code == NOTHING)[..., None], self.model.get_input_embeddings()(word), codes)

    def _sample_words(
        self, rows: Rows, windows: Sequence[Window], hidden: Float[Tensor, "L D"], count: int
    ) -> list[list[int]]:
        """Those that follow the positions that ask for one."""
        asking = [(number, window) for number, window in enumerate(windows) if window.says]
        words: list[list[int]] = [[] for _ in windows]
        if not asking:
            return words
        logits = self._guided(rows, self._score_words, hidden, asking, count)
        allowed = [ids for _, window in asking for ids in window.allowed]
        if allowed:
            barred = torch.ones(logits.shape, dtype=torch.bool)
            for bars, ids in zip(barred, allowed, strict=True):
                bars[ids] = False
            logits = logits.masked_fill(barred.to(logits.device), float("-inf"))
        noise, size = None, logits.shape[-1]
        if self.config.temperature:
            draw = lambda one: rows.ads[one[0]].noise.peek(one[1].says, size)  # noqa: E731
            noise = torch.cat(self.seats.noise.each(draw, asking))
        chosen = self.engine.sample(logits, self.config.temperature, self.config.text_top_k, noise)
        if noise is not None:
            self.seats.noise.ahead(lambda one: rows.ads[one[0]].noise.peek(one[1].says + 1, size), asking)
        sampled = iter(chosen.tolist())
        for number, window in asking:
            words[number] = list(islice(sampled, window.says))
        return words

    def _score_words(self, hidden: Float[Tensor, "P D"], owners: Int[Tensor, "P"]) -> Float[Tensor, "P V"]:
        alike = None if self.seats.alike is None else self.seats.alike[owners]
        return self.model.text_logits(hidden, alike, self.engine.words)

    def _score_codes(self, hidden: Float[Tensor, "P D"], owners: Int[Tensor, "P"]) -> Float[Tensor, "P Q"]:
        return self.engine.image_logits(hidden)

    def _sample_cells(
        self, rows: Rows, windows: Sequence[Window], hidden: Float[Tensor, "L D"], count: int
    ) -> list[int]:
        """Codes where positions ask for them, and how many waves are right: all whose draft before was right."""
        asking = [(number, window) for number, window in enumerate(windows) if window.paints]
        right = [0] * len(windows)
        if not asking:
            return right
        seats = self.seats
        logits = self._guided(rows, self._score_codes, hidden, asking, count)
        slot = seats.place([rows.ads[number].slot for number, window in asking for _ in window.asks])
        cell = seats.place([window.cells[at] for _, window in asking for at in window.asks])
        noise = None
        if self.config.temperature:
            seats.noise.draw_until([(rows.ads[n], window.cells[window.asks[-1]] + 1) for n, window in asking])
            noise = seats.noise.table[slot, cell % seats.noise.depth]
        codes = self.engine.sample(logits, self.config.temperature, self.config.image_top_k, noise)
        if seats.known is not None:
            codes = settle(codes, seats.known[slot, cell])
        drafts = seats.codes[slot, cell] if count > 1 and not seats.staggered else None
        seats.codes[slot, cell] = codes
        if drafts is None:
            return [int(window.paints > 0) for window in windows]
        matches = iter((drafts == codes).tolist())
        for number, window in asking:
            match = list(islice(matches, window.paints))[:-1]
            right[number] = 1 + next((at for at, same in enumerate(match) if not same), len(match))
            self._draft_next(rows.ads[number].slot, window.cells[-1])
        return right

    def _draft_next(self, slot: int, last: int) -> None:
        """Drafts of the cells that come into the window next: as the last one in it."""
        codes, known = self.seats.codes, self.seats.known
        ahead = slice(last + 1, last + self.seats.most)
        codes[slot, ahead] = codes[slot, last]
        if known is not None:
            codes[slot, ahead] = settle(codes[slot, ahead], known[slot, ahead])

    def _guided(
        self,
        rows: Rows,
        head: Callable[[Tensor, Tensor], Tensor],
        hidden: Float[Tensor, "L D"],
        asking: Sequence[tuple[int, Window]],
        count: int,
    ) -> Float[Tensor, "P V"]:
        """Logits of all positions that ask, guided where an ad has another branch.

        `head` is given the hidden states, and whose they are: twice the ad's slot, and one more for its other branch.
        """
        place, row_of = self.seats.place, rows.row_of
        places = [(rows.ads[number], at) for number, window in asking for at in window.asks]
        asks = [(ad, branch, at) for branch in (0, 1) for ad, at in places if (ad, branch) in row_of]
        lines = [row_of[ad, branch] * count + at for ad, branch, at in asks]
        asked = hidden if lines == list(range(len(hidden))) else hidden[place(lines)]
        logits = head(asked, place([2 * ad.slot + branch for ad, branch, _ in asks])).float()
        if len(lines) == len(places):
            return logits
        if len(lines) < 2 * len(places):  # where there is no other branch, it is the same
            others = count_from(len(places))
            other = [next(others) if (ad, 1) in row_of else number for number, (ad, _) in enumerate(places)]
            logits = logits[place([*range(len(places)), *other])]
        guidance = [ad.guidance for ad, _ in places]
        same = min(guidance) == max(guidance)
        return guide(logits, 2, guidance[0] if same else place(guidance)[:, None])
