"""One ad in the making: what it feeds in the next step, and what it makes of what came out."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import accumulate

import torch

from uniadgen.config import GenerateConfig
from uniadgen.data.prompt import Layout
from uniadgen.data.waves import NOTHING, waves
from uniadgen.engine.faithful import Speller, Vocabulary
from uniadgen.engine.lookup import LONGEST, Lookup
from uniadgen.engine.sampling import Noise
from uniadgen.engine.ticket import Ticket


@dataclass(frozen=True)
class Window:
    """The positions that one ad feeds in one step: first what is known to be right, then drafts of what may follow.

    From the last one that is known to be right on, positions predict something: all a word, or all a cell. Where they
    come one after the other, each sees those before it; where they have `places`, all see each other.
    """

    words: list[int]  # fed; where a code is fed, whatever
    cells: list[int]  # predicted at each position; where none is, the number of cells
    sure: int
    says: int = 0  # positions that predict a word
    paints: int = 0  # positions that predict a cell
    allowed: list[list[int]] = field(default_factory=list)  # for each predicted word, where not all are
    codes: list[int] | None = None  # the cells whose codes are fed, or NOTHING; None: those before the predicted ones
    places: list[int] | None = None  # after the prompt; None: one after the other

    @property
    def asks(self) -> range:
        """The positions that predict something."""
        return range(self.sure - 1, self.sure - 1 + self.says + self.paints)

    def padded(self, count: int, cells: int, fed: int) -> tuple[list[int], ...]:
        """Of so many positions words, codes, cells, places and how far each sees; nobody looks at what was added.

        `fed` positions came before; what is seen is counted as they are.
        """
        size = len(self.words)
        codes = self.codes or [cell - 1 if cell < cells else NOTHING for cell in self.cells]
        places = self.places or list(range(fed, fed + size))
        sees = [fed + size] * size if self.places else list(range(fed + 1, fed + size + 1))
        parts = (self.words, 0), (codes, NOTHING), (self.cells, cells), (places, places[-1]), (sees, fed + size)
        return tuple(own + [other] * (count - size) for own, other in parts)


class Making:
    """One ad: the text is written word by word, then the picture is painted wave by wave.

    A wave is a cell, or, where rows are staggered, a cell of every row that has begun.
    """

    def __init__(
        self,
        layout: Layout,
        config: GenerateConfig,
        generator: torch.Generator,
        points: Sequence[str],
        modality: str,
        ticket: Ticket,
        lookup: Lookup | None = None,
    ) -> None:
        self.layout, self.generator, self.ticket, self.lookup = layout, generator, ticket, lookup
        self.max_words, self.guidance = config.max_words, config.guidance
        lag, self.side = layout.config.model.row_lag, math.isqrt(layout.config.cells)
        self.staggered, self.lag = lag > 0, lag or self.side  # waves from where a row begins to where the next one does
        self.cells = layout.config.cells if "image" in modality else 0
        self.waves = waves(self.cells, lag) if self.cells else ()
        self.painted = [0, *accumulate(len(wave.painted) for wave in self.waves)]  # cells before each wave
        self.given = [0, *accumulate(len(wave.fed) for wave in self.waves)]  # positions before each wave
        self.guided_waves = bisect_left(self.painted, config.guided_cells(self.cells))
        self.writing = "text" in modality
        self.pending = [layout.start_text if self.writing else layout.start_image]  # known, and not fed yet
        self.words: list[int] = []
        self.wave = 0  # waves that have been painted
        self.cell = 0  # cells that have been painted
        self.fed = 0  # positions after the prompt whose keys and values are kept
        self.begun = 0  # the place of `<image>`, once a cell has been painted
        self.speller = None
        if self.writing and config.connecting_words:
            said = Vocabulary.of(layout.words, points, config.connecting_words, layout.end_text)
            self.speller = Speller(said, config.max_words)

    @property
    def room(self) -> int:
        """Positions after the prompt, at most."""
        return (self.max_words + 2) * self.writing + self.given[-1]

    @property
    def guided(self) -> bool:
        """Whether what comes next is guided, where there is another branch."""
        return self.writing or self.wave < self.guided_waves

    @property
    def end(self) -> int:
        """Waves up to this one are painted alike: no step is guided in part."""
        return self.guided_waves if self.guided else len(self.waves)

    @property
    def to_look(self) -> int:
        """Waves until a row is whole, or guidance ends."""
        return min(self.side + self.rows * self.lag, self.end) - self.wave

    def reached(self, count: int) -> int:
        """The cell before which all are that so many more waves may paint."""
        return max(self.waves[min(self.wave + count, len(self.waves)) - 1].painted) + 1

    @property
    def done(self) -> bool:
        """Nothing is left to be made."""
        return not self.writing and self.cell == self.cells

    @property
    def rows(self) -> int:
        """Rows of cells that are whole, the first ones."""
        return max(0, (self.wave - self.side) // self.lag + 1)

    @property
    def paints_on(self) -> bool:
        """Whether all that it feeds from now on are the codes of its own cells."""
        return 0 < self.cell < self.cells

    def join(self, slot: int, lengths: Sequence[int], order: object, device: torch.device) -> None:
        """Takes a slot. Its prompts, so long, have been read: the generator's next numbers are the answer's.

        Those who join together are of one `order`.
        """
        self.slot, self.lengths, self.order = slot, lengths, order
        self.noise = Noise(self.generator, device)
        self.drawn = 0  # rows of cells whose noise has been drawn

    def window(self, most: int) -> Window:
        """What to feed: at most so many positions."""
        nothing = self.layout.config.cells
        if self.writing:
            return self._words(most, nothing)
        if self.staggered and self.wave:
            return self._wave(nothing)
        known = self.pending[:most]
        if len(known) < len(self.pending):
            return Window(known, [nothing] * len(known), len(known))
        sure = max(len(known), 1)
        paints = 1 if self.staggered else min(most - sure + 1, self.end - self.wave)
        cells = [nothing] * (sure - 1) + list(range(self.cell, self.cell + paints))
        return Window(known + [0] * (len(cells) - len(known)), cells, sure, paints=paints)

    def _wave(self, nothing: int) -> Window:
        """The next cell of every row that has begun."""
        wave = self.waves[self.wave]
        size, paints = len(wave.fed), len(wave.painted)
        cells = [*wave.painted, *[nothing] * (size - paints)]
        places = [self.begun + place for place in wave.places]
        words = [self.layout.start_image] * size
        return Window(words, cells, 1, paints=paints, codes=list(wave.fed), places=places)

    def _words(self, most: int, nothing: int) -> Window:
        """The last word, and drafts: often just one word may follow, or did follow the same words in the prompt."""
        words, allowed, end = list(self.pending), [], self.layout.end_text
        speller = copy(self.speller)
        while True:
            if speller is not None:
                allowed.append(speller.allowed())
            draft = self._draft(words, allowed[-1] if allowed else None) if len(words) < most else None
            if draft is None or draft == end:
                break
            words.append(draft)
            if speller is not None:
                speller.push(draft)
        return Window(words, [nothing] * len(words), 1, says=len(words), allowed=allowed)

    def _draft(self, words: Sequence[int], allowed: Sequence[int] | None) -> int | None:
        if allowed is not None and len(allowed) == 1:
            return allowed[0]
        if self.lookup is None or len(words) > LONGEST:  # a longer copy is rarely right to its end
            return None
        guess = self.lookup.guess([*self.words[:-1], *words])
        return guess if allowed is None or guess in allowed else None

    def take_words(self, window: Window, sampled: Sequence[int]) -> None:
        """The words that came out: right is the first one, and each that follows a draft which was right."""
        taken = 0
        for draft, word in zip([*window.words[1:], None], sampled, strict=True):
            self._write(word)
            taken += 1
            if word != draft or not self.writing:
                break
        self.noise.use(taken)
        self.fed += taken
        if not self.writing:
            self.noise.end()

    def _write(self, word: int) -> None:
        ending = [self.layout.end_text, self.layout.start_image]
        if word == self.layout.end_text or len(self.words) == self.max_words:
            self.writing, self.pending = False, ending
            return
        if self.speller is not None:
            self.speller.push(word)
        self.words.append(word)
        self.pending = [word]
        if self.layout.is_whole(self.words):
            self.writing, self.pending = False, [word, *ending]

    def take_cells(self, window: Window, right: int) -> None:
        """So many of the waves that came out are right: at least the first one, if any was asked for."""
        self.pending = self.pending[window.sure :]
        if not right:
            self.fed += window.sure
            return
        if not self.wave:
            self.begun = self.fed + window.sure - 1
        self.paint_on(right)

    def paint_on(self, count: int) -> None:
        """So many more waves have been painted, and what they feed has been fed."""
        self.wave += count
        self.cell, self.fed = self.painted[self.wave], self.begun + self.given[self.wave]
