"""Requests of a shop's own: the samples of a dataset, of JSON lines or of PAd1M's JSON, read with their pictures."""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from uniadgen.data.cutout import read_picture
from uniadgen.data.listing import Batches, Listing
from uniadgen.evaluate.requests import LeftOut, Request
from uniadgen.records import Click, Example, Product


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
        known = tuple(title for title in titles if title and title.strip())
        return Request(number, line["user"] or f"sample {number}", Example(product, clicks, target), known)

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
