"""Product, Click, Ad, Example: the frozen nouns that every stage hands to the next; no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from PIL.Image import Image

MAX_TEXT = 2000  # characters of one description, selling point or title


def _expect_unicode(what: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} is {text!r}, expected Unicode text: check its encoding") from None


@dataclass(frozen=True)
class Product:
    """What is advertised (paper section 4.1: P = transparent image, description D, selling points W).

    `cutout` is the transparent image (RGBA); raises `ValueError` for any other mode or when nothing can be said.
    """

    cutout: Image
    description: str
    selling_points: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.cutout.mode != "RGBA":
            raise ValueError(
                f"the product picture has mode {self.cutout.mode}, expected RGBA: cut the product out first "
                "(its background must be transparent)"
            )
        if self.cutout.getchannel("A").getbbox() is None:
            raise ValueError("the product picture is fully transparent, expected a visible product: check the file")
        if self.cutout.getchannel("A").getextrema()[0] == 255:
            raise ValueError(
                "the product picture has no transparent pixel, expected a cut-out: remove its background first"
            )
        if not self.description.strip():
            raise ValueError("the product has no description, expected one sentence: add a description")
        object.__setattr__(self, "selling_points", tuple(self.selling_points))
        for what, text in (
            ("the description", self.description),
            *(("a selling point", p) for p in self.selling_points),
        ):
            _expect_unicode(what, text)
        if not self.selling_points or not all(point.strip() for point in self.selling_points):
            raise ValueError(
                f"got selling points {self.selling_points!r}, expected at least one and none empty: "
                "the advertising text may use nothing else"
            )


@dataclass(frozen=True)
class Click:
    """One entry of a click history: the advertisement (I_j, T_j) that the shopper clicked."""

    picture: Image
    text: str

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("a click has an empty text, expected the title that was clicked: drop or fill this click")
        _expect_unicode("the text of a click", self.text)


@dataclass(frozen=True)
class Example:
    """One request, or one line of training data when `target` is the click that really happened."""

    product: Product
    clicks: tuple[Click, ...] = ()
    target: Click | None = None


@dataclass(frozen=True)
class Ad:
    """One advertisement. `picture` has the product's own pixels pasted back over `painted`, the model's picture.

    `record` holds what is needed to make it again: seed, guidance, the clicks that were shown, the model's name.
    """

    picture: Image
    painted: Image
    text: str
    seed: int
    record: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


def click_entry(where: str, entry: object) -> tuple[str, str]:
    """Picture path and title of {"picture": path, "text": title} as a person writes it; `ValueError` says `where`."""
    if not isinstance(entry, dict):
        raise ValueError(f'{where} is {entry!r}, expected {{"picture": ..., "text": ...}}')
    for key in ("picture", "text"):
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise ValueError(f'{where} has no {key}, expected "{key}" with a text: add it or drop this click')
    return entry["picture"], entry["text"][:MAX_TEXT]
