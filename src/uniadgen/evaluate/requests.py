"""What every generator is asked, and AdWorld's held-out shoppers, who ask it; a shop's own are in `listed`."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from os import cpu_count
from typing import Any, NamedTuple, Protocol, runtime_checkable

from uniadgen.config import WorldConfig
from uniadgen.data.adworld import example_of, shop_of
from uniadgen.records import Example
from uniadgen.train.log import progress_bar
from uniadgen.world.shoppers import Shop, Taste, Visit
from uniadgen.world.words import KINDS, MANNERS


@dataclass(frozen=True)
class Request:
    """One request and what is known to be right: `example.target` is the click that really happened.

    `titles` are other true titles of the product, the several candidates of the paper's m-BLEU; `taste` and `language`
    are AdWorld's ground truth. Values of one `shopper` are resampled together.
    """

    number: int
    shopper: str
    example: Example
    titles: tuple[str, ...] = ()
    language: str = ""
    taste: Taste | None = None


class LeftOut(NamedTuple):
    """Something of a request that could not be used, and what became of it."""

    number: int
    what: str
    why: str


@runtime_checkable
class Requests(Protocol):
    """Where requests come from. `knows` says what is known of them: `target`, `taste`."""

    knows: frozenset[str]
    left_out: list[LeftOut]

    @property
    def settings(self) -> dict[str, Any]:
        """For the report."""
        ...

    def __len__(self) -> int: ...

    def load(self, numbers: range) -> list[Request]:
        """The requests of these numbers, with their pictures; those that cannot be used are noted in `left_out`."""
        ...


class WorldRequests:
    """Held-out shoppers of AdWorld from number `first` on, one request each, rendered in parallel."""

    knows = frozenset({"target", "taste"})

    def __init__(self, world: WorldConfig, side: int, number: int, first: int = 0) -> None:
        self.world, self.side, self.number, self.first = world, side, number, first
        self.left_out: list[LeftOut] = []

    @property
    def settings(self) -> dict[str, Any]:
        """The world and which of its shoppers."""
        return {"source": "AdWorld, held out", "first_shopper": self.first, "world": asdict(self.world)}

    def __len__(self) -> int:
        return self.number

    def load(self, numbers: range) -> list[Request]:
        """Rendered anew: 17 pictures each."""
        tasks = [(self.world, self.side, number, self.first + number) for number in numbers]
        with (
            ProcessPoolExecutor(cpu_count(), mp_context=get_context("spawn")) as pool,
            progress_bar("requests", len(numbers)) as bar,
        ):
            requests = []
            for request in pool.map(_request, tasks):
                requests.append(request)
                bar.advance()
        return requests


def _request(task: tuple[WorldConfig, int, int, int]) -> Request:
    world, side, number, shopper = task
    shop = shop_of(world, held_out=True)
    visit = shop.visit(shopper)
    taste, language = visit.shopper.tastes[visit.department], visit.shopper.language
    return Request(
        number,
        str(shopper),
        example_of(shop, visit, side, 3 * side),
        _candidates(shop, visit),
        language,
        taste,
    )


def _candidates(shop: Shop, visit: Visit) -> tuple[str, ...]:
    """All texts that the target's product has, of every kind and manner."""
    picture = shop.creative(visit.target).picture_id
    creatives = (shop.creative(shop.creative_id(picture, kind, manner)) for kind in KINDS for manner in MANNERS)
    return tuple(creative.text(visit.shopper.language) for creative in creatives)
