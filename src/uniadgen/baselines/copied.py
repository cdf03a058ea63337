"""Rivals without a model: an ad that the shopper clicked is taken over, the product pasted on its picture."""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from uniadgen.data import cutout
from uniadgen.data.history import similarity
from uniadgen.data.pasting import paste
from uniadgen.pipeline import ENLARGE
from uniadgen.records import Ad, Click, Example, Product

PATCHES = 8  # along each side: pictures are compared by the mean colours of so many patches


class Copy:
    """The click whose title is most like the product's description (Eq. 6's score): its picture, its title."""

    name = "copy"

    def __init__(self, side: int) -> None:
        self.side = side

    def generate_batch(self, examples: Sequence[Example], seeds: Sequence[int]) -> list[Ad]:
        """Chance takes no part; without a history the ad is the product on white, with its first selling point."""
        return [self._ad(example, seed) for example, seed in zip(examples, seeds, strict=True)]

    def _ad(self, example: Example, seed: int) -> Ad:
        product = example.product
        if not example.clicks:
            return paste_ad(product, None, product.selling_points[0], self.side, seed, {"model": self.name})
        picture, text = self._take(example)
        record = {"model": self.name, "picture_of": picture, "text_of": text}
        background = example.clicks[picture].picture
        return paste_ad(product, background, example.clicks[text].text, self.side, seed, record)

    def _take(self, example: Example) -> tuple[int, int]:
        """Which click's picture, and which click's title."""
        scores = similarity([click.text for click in example.clicks], example.product.description)
        nearest = int(np.argmax(scores))
        return nearest, nearest


class Retrieve(Copy):
    """The shopper's most frequent taste, as the history alone shows it: the picture and the title most like all others.

    Two medoids: of pictures by their layout of colours, of titles by their words. No model, no ground truth.
    """

    name = "retrieve"

    def _take(self, example: Example) -> tuple[int, int]:
        return central_picture(example.clicks), central_title(example.clicks)


def central_picture(clicks: Sequence[Click]) -> int:
    """The click whose picture is nearest to all others', by the colours of `PATCHES` x `PATCHES` patches."""
    colours = np.stack([_colours(click.picture) for click in clicks])
    distances = np.abs(colours[:, None] - colours[None]).mean(-1)
    return int(distances.sum(1).argmin())


def _colours(picture: Image.Image) -> NDArray[np.float32]:
    return np.asarray(cutout.squash(picture, PATCHES), np.float32).ravel()


def central_title(clicks: Sequence[Click]) -> int:
    """The click whose title shares most words with all others'."""
    titles = [click.text for click in clicks]
    return int(np.argmax([sum(similarity(titles, title)) for title in titles]))


def paste_ad(
    product: Product, background: Image.Image | None, text: str, side: int, seed: int, record: dict[str, Any]
) -> Ad:
    """An ad of a product on a background (None: white), of the size that a model of `side` pixels makes."""
    painted = Image.new("RGB", (side, side), "white") if background is None else cutout.squash(background, side)
    picture = paste(painted, cutout.place(product.cutout, ENLARGE * side))
    return Ad(picture, painted, text, seed, MappingProxyType(record | {"seed": seed}))
