"""The shop: its catalogue, its shoppers and their tastes, their click histories, click logs of any length.

A shopper has a taste in every department: an image style, a kind of selling point and a manner of saying it.
A click is drawn by the picture, by the text, or by both; what did not draw it is random (modal-level noise).
Some clicks are random altogether and many are on other departments (sample-level noise; paper section 4.4).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import gcd
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uniadgen.world.catalogue import NUM_TEXTS, Catalogue, Ids, department_index
from uniadgen.world.counters import Bits, What, below, bits, generator, unit
from uniadgen.world.products import DEPARTMENTS
from uniadgen.world.scenes import NUM_STYLES, Style
from uniadgen.world.words import KINDS, LANGUAGES, MANNERS

# Why a click happened: what drew it.
REASONS: Final = ("both", "image", "text", "noise")
EVENTS: Final = ("impression", "click")
CLICK: Final = EVENTS.index("click")

NUM_TASTES: Final = NUM_STYLES * NUM_TEXTS  # a taste as a number: style x kind x manner
LOG_START: Final = 1_704_067_200  # 2024-01-01 in Unix seconds
LOG_SECONDS: Final = 30 * 24 * 3600
CLICKS_PER_SHOPPER: Final = 17  # of a log: on average a history of the default length and its target


@dataclass(frozen=True)
class Taste:
    """What a shopper likes in one department."""

    style: Style
    kind: str
    manner: str


@dataclass(frozen=True)
class Shopper:
    """A shopper; `departments` are the visited ones, the favourite first; `tastes` has one per department."""

    shopper_id: int
    language: str
    departments: tuple[str, ...]
    tastes: dict[str, Taste]


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How noisy clicks are, and where they fall. Raises `ValueError` for impossible rates."""

    sample: float = 0.15  # share of clicks off taste in both picture and text
    image_only: float = 0.2  # share drawn by the picture alone: its text is random
    text_only: float = 0.2  # share drawn by the text alone: its picture is random
    home_share: float = 0.5  # share of clicks in the target (or favourite) department
    num_departments: int = 3  # departments that a shopper visits; the others share the rest evenly
    length: int = 16  # clicks of a history

    def __post_init__(self) -> None:
        rates = {name: getattr(self, name) for name in ("sample", "image_only", "text_only", "home_share")}
        for name, rate in rates.items():
            if not 0 <= rate <= 1:
                raise ValueError(f"got {name} = {rate}, expected 0 <= {name} <= 1, use a share of clicks")
        if self.sample + self.image_only + self.text_only > 1:
            raise ValueError(f"got {rates}, expected sample + image_only + text_only <= 1, lower one of them")
        if not 1 <= self.num_departments <= len(DEPARTMENTS):
            raise ValueError(f"got num_departments = {self.num_departments}, expected 1..{len(DEPARTMENTS)}, change it")
        if self.length < 0:
            raise ValueError(f"got length = {self.length}, expected length >= 0, raise it")

    @property
    def reason_edges(self) -> NDArray[np.float64]:
        """Where in [0, 1) each reason but the first begins."""
        both = 1 - self.sample - self.image_only - self.text_only
        return np.cumsum([both, self.image_only, self.text_only])

    @property
    def department_edges(self) -> NDArray[np.float64]:
        """Where in [0, 1) each visited department but the first begins."""
        others = self.num_departments - 1
        return self.home_share + (1 - self.home_share) * np.arange(others) / max(others, 1)


@dataclass(frozen=True)
class History:
    """Clicked creatives, oldest first, and for each why it was clicked (one of `REASONS`)."""

    creative_ids: tuple[int, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Visit:
    """A shopper's true, on-taste click in a department (`target`, a creative) and the clicks before it."""

    shopper: Shopper
    department: str
    target: int
    history: History


class Chunk(NamedTuple):
    """A stretch of a click log, sorted by time; one entry per event, `event` an index into `EVENTS`."""

    user_id: Ids
    creative_id: Ids
    timestamp: Ids  # Unix seconds
    event: NDArray[np.uint8]


class _Draws(NamedTuple):
    """The random bits behind clicks, (clicks,) each."""

    department: Bits
    reason: Bits
    random: Bits
    place: Bits


class Shop(Catalogue):
    """A catalogue with endlessly many shoppers, all derived from one seed.

    A click picks evenly among the department's pictures of the wanted style.
    """

    def __init__(
        self,
        seed: int,
        *,
        num_variants: int = 24,
        pictures_per_product: int = 20,
        noise: Noise | None = None,
        languages: Sequence[str] = LANGUAGES,
    ) -> None:
        super().__init__(seed, num_variants=num_variants, pictures_per_product=pictures_per_product)
        if not languages or not set(languages) <= set(LANGUAGES):
            raise ValueError(f"got languages {tuple(languages)}, expected some of {LANGUAGES}, use these")
        self.noise = noise if noise is not None else Noise()
        self.languages = tuple(languages)
        # Every ordered choice of visited departments, and where the rates of `noise` change.
        self._choices = np.array(list(permutations(range(len(DEPARTMENTS)), self.noise.num_departments)))
        self._reason_edges = self.noise.reason_edges
        self._department_edges = self.noise.department_edges

    def shopper(self, shopper_id: int) -> Shopper:
        """The shopper of that number, any number >= 0; raises `ValueError` below."""
        _not_negative("shopper", shopper_id)
        tastes = self.taste_indices(np.int64(shopper_id), np.arange(len(DEPARTMENTS)))
        language = int(below(bits(self.seed, What.LANGUAGE, shopper_id), len(self.languages))[0])
        visited = self._visited(np.array([shopper_id]))[0]
        return Shopper(
            shopper_id,
            self.languages[language],
            tuple(DEPARTMENTS[place] for place in visited),
            {name: _taste(int(taste)) for name, taste in zip(DEPARTMENTS, tastes, strict=True)},
        )

    def taste_indices(self, shopper_ids: Ids | np.int64, departments: Ids) -> Ids:
        """Tastes as numbers, style index x 20 + text id, of shoppers in departments; arguments broadcast."""
        return below(bits(self.seed, What.TASTE, np.asarray(shopper_ids), departments), NUM_TASTES)

    def _visited(self, shopper_ids: Ids) -> Ids:
        """(shoppers, visited) department numbers, the favourite first."""
        return self._choices[below(bits(self.seed, What.DEPARTMENTS, shopper_ids), len(self._choices))]

    def visit(self, shopper_id: int, department: str | None = None, length: int | None = None) -> Visit:
        """A shopper's target click in a department (the favourite by default) and the history before it.

        Always the same for the same shopper and department; a shorter history is the start of a longer one.
        Raises `ValueError` for unknown ids and names, or when the department has just one picture per style.
        """
        shopper = self.shopper(shopper_id)
        department = shopper.departments[0] if department is None else department
        rng = generator(self.seed, What.VISIT, shopper_id, department_index(department))
        taste = shopper.tastes[department]
        pictures = self.pictures_of(department, taste.style.index)
        target = int(pictures[rng.integers(len(pictures))])
        history = self.history(shopper, department, length, rng, avoid=target)
        return Visit(shopper, department, self.creative_id(target, taste.kind, taste.manner), history)

    def history(
        self,
        shopper: Shopper,
        department: str,
        length: int | None,
        rng: np.random.Generator,
        *,
        avoid: int | None = None,
    ) -> History:
        """Clicks of a shopper who is at home in `department`, none of them on the picture `avoid`.

        `length` is the number of clicks, by default the shop's. Raises `ValueError` when `avoid` is the only
        picture of its style in its department.
        """
        length = self.noise.length if length is None else length
        _not_negative("length", length)
        if avoid is not None and self._num_blocks.min() < 2:
            raise ValueError(
                "got one picture per style in a department, expected at least two (one is the target's), "
                "raise num_variants or pictures_per_product"
            )
        home = department_index(department)
        visited = [home, *(department_index(name) for name in shopper.departments if name != department)]
        draws = _Draws(*rng.integers(2**64, size=(length, len(_Draws._fields)), dtype=np.uint64).T)
        departments = np.array(visited[: self.noise.num_departments])[self._ranks(draws)]
        tastes = self.taste_indices(np.int64(shopper.shopper_id), departments)
        creatives, reasons = self._clicks(departments, tastes, draws, avoid)
        return History(tuple(creatives.tolist()), tuple(REASONS[reason] for reason in reasons))

    def _ranks(self, draws: _Draws) -> Ids:
        """Which of the visited departments each click falls in, 0 being home."""
        return np.searchsorted(self._department_edges, unit(draws.department), side="right")

    def _clicks(self, departments: Ids, tastes: Ids, draws: _Draws, avoid: int | None = None) -> tuple[Ids, Ids]:
        """The creatives clicked and the reasons (indices into `REASONS`); all arrays are (clicks,)."""
        reasons = np.searchsorted(self._reason_edges, unit(draws.reason), side="right")
        random = below(draws.random, NUM_TASTES)
        by_picture = (reasons == REASONS.index("both")) | (reasons == REASONS.index("image"))
        by_text = (reasons == REASONS.index("both")) | (reasons == REASONS.index("text"))
        styles = np.where(by_picture, tastes, random) // NUM_TEXTS
        texts = np.where(by_text, tastes, random) % NUM_TEXTS
        return self._pictures(departments, styles, draws.place, avoid) * NUM_TEXTS + texts, reasons

    def _pictures(self, departments: Ids, styles: Ids, draws: Bits, avoid: int | None) -> Ids:
        """One of each department's pictures of the style, evenly among those that are not `avoid`."""
        counts, first = self._num_blocks[departments], self._first_block[departments]
        blocks = below(draws, counts)
        pictures = self._picture_of[first + blocks, styles]
        if avoid is None:
            return pictures
        others = below(draws >> np.uint64(32), np.maximum(counts - np.uint64(1), np.uint64(1)))
        elsewhere = (blocks + 1 + others) % counts.astype(np.int64)
        return np.where(pictures == avoid, self._picture_of[first + elsewhere, styles], pictures)

    def click_log(
        self,
        num_clicks: int,
        *,
        num_shoppers: int | None = None,
        first_shopper: int = 0,
        log: int = 0,
        chunk: int = 100_000,
    ) -> Iterator[Chunk]:
        """A click log of `num_clicks` events in order of time, in chunks; memory is bounded by `chunk`.

        They are the clicks of `num_shoppers` shoppers (by default one for 17 clicks), numbered from
        `first_shopper`, some far more active than others, over 30 days; another number `log` gives other
        clicks of the same shoppers. The log does not depend on `chunk`. Raises `ValueError` for impossible
        sizes.
        """
        shoppers = max(1, num_clicks // CLICKS_PER_SHOPPER) if num_shoppers is None else num_shoppers
        _not_negative("num_clicks", num_clicks)
        _not_negative("first_shopper", first_shopper)
        _not_negative("log", log)
        if chunk < 1 or shoppers < 1:
            raise ValueError(f"got chunk {chunk} and {shoppers} shoppers, expected at least 1, raise them")
        for start in range(0, num_clicks, chunk):
            clicks = np.arange(start, min(start + chunk, num_clicks))
            yield self._chunk(clicks, num_clicks, shoppers, first_shopper, log)

    def _chunk(self, clicks: Ids, num_clicks: int, shoppers: int, first_shopper: int, log: int) -> Chunk:
        def lane(number: int) -> Bits:
            return bits(self.seed, What.LOG, log, number, clicks)

        draws = _Draws(lane(0), lane(1), lane(2), lane(3))
        users = first_shopper + _scattered((unit(lane(4)) ** 2 * shoppers).astype(np.int64), shoppers)
        departments = self._visited(users)[np.arange(len(users)), self._ranks(draws)]
        creatives, _ = self._clicks(departments, self.taste_indices(users, departments), draws)
        seconds = ((clicks + unit(lane(5))) * (LOG_SECONDS / num_clicks)).astype(np.int64)
        return Chunk(users, creatives, LOG_START + seconds, np.full(len(users), CLICK, np.uint8))


def _taste(number: int) -> Taste:
    style, text = divmod(number, NUM_TEXTS)
    return Taste(Style.from_index(style), KINDS[text // len(MANNERS)], MANNERS[text % len(MANNERS)])


def _scattered(ranks: Ids, count: int) -> Ids:
    """A permutation of 0..count-1, so that a shopper's number tells nothing about how active they are."""
    step = max(1, round(count * 0.618))
    while gcd(step, count) != 1:
        step += 1
    return ranks * step % count


def _not_negative(what: str, number: int) -> None:
    if number < 0:
        raise ValueError(f"got {what} {number}, expected {what} >= 0, raise it")
