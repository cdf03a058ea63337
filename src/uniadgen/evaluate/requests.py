"""What every generator is asked, and AdWorld's held-out shoppers, who ask it; a shop's own are in `listed`."""

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import blake2b
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from uniadgen.config import WorldConfig
from uniadgen.data.adworld import example_of, shop_of
from uniadgen.data.whole import write_whole
from uniadgen.evaluate.cache import fingerprint_of_code
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
    """Held-out shoppers of AdWorld from number `first` on, one request each, rendered in parallel, kept in a folder."""

    knows = frozenset({"target", "taste"})

    def __init__(self, world: WorldConfig, side: int, number: int, first: int, folder: Path) -> None:
        self.world, self.side, self.number, self.first = world, side, number, first
        said = json.dumps([fingerprint_of_code(), asdict(world), side])
        self.folder = folder / blake2b(said.encode(), digest_size=8).hexdigest()
        self.left_out: list[LeftOut] = []

    @property
    def settings(self) -> dict[str, Any]:
        """The world and which of its shoppers."""
        return {"source": "AdWorld, held out", "first_shopper": self.first, "world": asdict(self.world)}

    def __len__(self) -> int:
        return self.number

    def load(self, numbers: range) -> list[Request]:
        """Up to 17 pictures each, rendered unless they were before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        shoppers = [self.first + number for number in numbers]
        missing = [shopper for shopper in shoppers if not _kept(self.folder, shopper).is_file()]
        if missing:
            with (
                ProcessPoolExecutor(min(cpu_count() or 1, len(missing)), mp_context=get_context("spawn")) as pool,
                progress_bar("requests", len(missing)) as bar,
            ):
                for _ in pool.map(_render, ((self.world, self.side, shopper, self.folder) for shopper in missing)):
                    bar.advance()
        shop = shop_of(self.world, held_out=True)
        return [self._request(shop, number) for number in numbers]

    def _request(self, shop: Shop, number: int) -> Request:
        shopper = self.first + number
        visit = shop.visit(shopper)
        example = _example(shop, visit, self.side, _kept(self.folder, shopper))
        taste, language = visit.shopper.tastes[visit.department], visit.shopper.language
        return Request(number, str(shopper), example, _candidates(shop, visit), language, taste)


def _kept(folder: Path, shopper: int) -> Path:
    return folder / f"{shopper}.npz"


def _render(task: tuple[WorldConfig, int, int, Path]) -> None:
    world, side, shopper, folder = task
    shop = shop_of(world, held_out=True)
    _example(shop, shop.visit(shopper), side, _kept(folder, shopper))


def _example(shop: Shop, visit: Visit, side: int, path: Path) -> Example:
    """A request whose renderings are read from a file; those that are not there are made, and kept."""
    held: dict[str, NDArray[np.uint8]] = {}
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            held |= arrays
    except (OSError, ValueError, BadZipFile):  # not there, or cut short
        pass
    before = len(held)
    example = example_of(shop, visit, side, 3 * side, held)
    if len(held) > before:
        write_whole(path, lambda partial: _save(partial, held))
    return example


def _save(path: Path, arrays: dict[str, NDArray[np.uint8]]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]


def _candidates(shop: Shop, visit: Visit) -> tuple[str, ...]:
    """All texts that the target's product has, of every kind and manner."""
    picture = shop.creative(visit.target).picture_id
    creatives = (shop.creative(shop.creative_id(picture, kind, manner)) for kind in KINDS for manner in MANNERS)
    return tuple(creative.text(visit.shopper.language) for creative in creatives)
