"""What every generator is asked: AdWorld's held-out shoppers, or the samples of a shop's own data."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from uniadgen.config import WorldConfig
from uniadgen.data.adworld import example_of, shop_of
from uniadgen.data.cutout import read_picture
from uniadgen.data.listing import Batches, Listing
from uniadgen.records import Click, Example, Product
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


class ListedRequests:
    """The first `most` samples of a dataset, of JSON lines or of PAd1M's JSON: whatever a listing reads.

    A picture that cannot be used is noted: a click's leaves the history, the target's or the product's takes the
    request with it. Raises `ValueError` where these are more than `listing.max_broken` of all, or there is nothing.
    """

    knows = frozenset({"target"})

    def __init__(self, listing: Listing, most: int, source: Path) -> None:
        self.listing, self.source = listing, source
        self.left_out: list[LeftOut] = []
        lines = chain.from_iterable(batch.to_pylist() for batch in listing.samples())
        self.samples = [line for _, line in zip(range(most), lines, strict=False)]
        if not self.samples:
            raise ValueError(f"{source}: has no samples, expected at least one: choose another split")
        targets = np.array([line["target"] for line in self.samples])
        shown = [number for line in self.samples for number in (line["target"], *line["history"])]
        wanted, self.siblings = np.array(shown), dict[int, NDArray[np.int64]]()
        if listing.product_of is not None:
            products = listing.product_of[targets]
            same = np.flatnonzero(np.isin(listing.product_of, products))
            wanted = np.concatenate([wanted, same])
            for target, product in zip(targets.tolist(), products.tolist(), strict=True):
                self.siblings[target] = same[listing.product_of[same] == product]
        self.creatives = rows_of(listing.creatives, wanted)
        self.products = rows_of(listing.products, np.array([line["product"] for line in self.samples]))

    @property
    def settings(self) -> dict[str, Any]:
        """Which file or folder, by its name."""
        return {"source": self.source.name, "samples": self.listing.num_samples}

    def __len__(self) -> int:
        return len(self.samples)

    def load(self, numbers: range) -> list[Request]:
        """Pictures are read anew from where the listing has them."""
        requests = [request for number in numbers if (request := self._load(number)) is not None]
        lost = [found for found in self.left_out if found.what != "click"]
        if len(lost) > self.listing.max_broken * len(self):
            first = f"the first is sample {lost[0].number}, its {lost[0].what}: {lost[0].why}"
            raise ValueError(
                f"{self.source}: {len(lost)} of {len(self)} requests cannot be used, expected at most "
                f"{self.listing.max_broken:.0%}; {first}"
            )
        return requests

    def _load(self, number: int) -> Request | None:
        line = self.samples[number]
        told = self.products[line["product"]]
        what = "product"
        try:
            if not told["image"]:
                raise ValueError("the product has no transparent picture")
            cutout = read_picture(Path(told["image"]), "RGBA", self.listing.read_cutout(told["image"]))
            product = Product(cutout, told["description"], tuple(told["selling_points"]))
            what = "target"
            target = self._click(line["target"])
        except (OSError, ValueError) as error:
            self.left_out.append(LeftOut(number, what, str(error)))
            return None
        clicks = tuple(self._history(number, line["history"]))
        titles = line["titles"] or [self.creatives[i]["text"] for i in self.siblings.get(line["target"], ())]
        return Request(number, line["user"] or f"sample {number}", Example(product, clicks, target), tuple(titles))

    def _history(self, number: int, creatives: Sequence[int]) -> Iterator[Click]:
        for creative in creatives:
            try:
                yield self._click(creative)
            except (OSError, ValueError) as error:
                self.left_out.append(LeftOut(number, "click", str(error)))

    def _click(self, creative: int) -> Click:
        row = self.creatives[creative]
        return Click(self._picture(row["image"] or ""), row["text"] or "")

    def _picture(self, name: str) -> Image.Image:
        return read_picture(Path(name), "RGB", self.listing.read(name))


def rows_of(batches: Batches, numbers: NDArray[np.integer]) -> dict[int, dict[str, Any]]:
    """Some rows of a table, by their number; the table goes by in batches, and no more of it is held."""
    wanted, found, start = np.unique(numbers), dict[int, dict[str, Any]](), 0
    for batch in batches():
        here = wanted[(wanted >= start) & (wanted < start + len(batch))]
        for number, row in zip(here.tolist(), batch.take(here - start).to_pylist(), strict=True):
            found[number] = row
        start += len(batch)
    return found
