"""What products are made from (colours, finishes, trims, draws) and what they end in (Variant, Family)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import numpy as np

from uniadgen.world.solids import Colour, Material, Part, Solid, Vector, fitted, turned

Option = TypeVar("Option")

# The product colours, sRGB 0..1: saturated or deep enough to stand out on pastel backgrounds.
COLOURS: Final[dict[str, Colour]] = {
    "red": (0.80, 0.13, 0.14),
    "orange": (0.93, 0.46, 0.12),
    "pink": (0.93, 0.48, 0.58),
    "cream": (0.93, 0.84, 0.66),
    "green": (0.24, 0.46, 0.25),
    "teal": (0.05, 0.50, 0.52),
    "navy": (0.11, 0.18, 0.40),
    "white": (0.95, 0.95, 0.94),
    "grey": (0.50, 0.52, 0.55),
    "black": (0.09, 0.09, 0.10),
}

# The word for what a product is mainly made of.
FINISHES: Final = ("ceramic", "steel", "glass", "wood", "leather", "fabric", "plastic", "aluminium")

# A second colour that flatters the first: bands, linings, soles, cushions.
COMPANIONS: Final[dict[str, Colour]] = {
    "red": (0.96, 0.90, 0.80),
    "orange": (0.98, 0.93, 0.82),
    "pink": (0.99, 0.93, 0.90),
    "cream": (0.62, 0.36, 0.22),
    "green": (0.93, 0.86, 0.70),
    "teal": (0.97, 0.86, 0.70),
    "navy": (0.95, 0.90, 0.82),
    "white": (0.24, 0.38, 0.55),
    "grey": (0.95, 0.74, 0.28),
    "black": (0.80, 0.62, 0.42),
}

BRASS: Final = Material(colour=(0.92, 0.72, 0.38), gloss=0.7, metal=0.9)
ROSE_GOLD: Final = Material(colour=(0.93, 0.66, 0.56), gloss=0.7, metal=0.9)
CHROME: Final = Material(colour=(0.82, 0.84, 0.87), gloss=0.8, metal=0.9)
IRON: Final = Material(colour=(0.20, 0.20, 0.22), gloss=0.4, metal=0.5)
RUBBER: Final = Material(colour=(0.07, 0.07, 0.08), gloss=0.12)
PAPER: Final = Material(colour=(0.97, 0.95, 0.91), gloss=0.05)
INK: Final = Material(colour=(0.14, 0.13, 0.14), gloss=0.1)
OAK: Final = Material(colour=(0.80, 0.60, 0.38), accent=(0.66, 0.45, 0.26), pattern="wood", scale=0.05, gloss=0.2)
WALNUT: Final = Material(colour=(0.45, 0.28, 0.17), accent=(0.31, 0.18, 0.10), pattern="wood", scale=0.05, gloss=0.25)
TAN: Final = Material(colour=(0.66, 0.39, 0.20), pattern="leather", scale=0.03, gloss=0.25)
METALS: Final = (BRASS, ROSE_GOLD, CHROME)
WOODS: Final = (OAK, WALNUT)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One product: its solid, and the words for its colour and finish, from `COLOURS` and `FINISHES`."""

    solid: Solid
    colour: str
    finish: str

    def __post_init__(self) -> None:
        if self.colour not in COLOURS:
            raise ValueError(f"got colour {self.colour!r}, expected one of {', '.join(COLOURS)}, use one of these")
        if self.finish not in FINISHES:
            raise ValueError(f"got finish {self.finish!r}, expected one of {', '.join(FINISHES)}, use one of these")


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of product; `build` draws one variant from a generator."""

    name: str
    department: str
    build: Callable[[np.random.Generator], Variant]


@dataclass(frozen=True, kw_only=True)
class Look:
    """The colour and finish drawn for a variant, and what follows from them."""

    colour: str
    finish: str
    body: Material
    second: Material

    def variant(self, parts: Sequence[Part], turn: float = 0.0) -> Variant:
        """The variant whose parts are turned about y by `turn` radians and fitted to the product box."""
        solid = tuple(map(_unspun, parts, turned(tuple(parts), turn)))
        return Variant(solid=fitted(solid), colour=self.colour, finish=self.finish)


def _unspun(before: Part, after: Part) -> Part:
    # An upright dome looks the same from all sides; left unturned, its box stays tight and the fit full.
    return replace(after, turn=before.turn) if before.shape == "dome" and before.turn == (0.0, 0.0, 0.0) else after


def look(rng: np.random.Generator, finishes: Sequence[str], colours: Sequence[str] = tuple(COLOURS)) -> Look:
    """Draws a colour and a finish, each equally likely among those given."""
    colour, finish = choose(rng, colours), choose(rng, finishes)
    shade = varied(rng, COLOURS[colour])
    second = Material(colour=COMPANIONS[colour], gloss=0.2)
    return Look(colour=colour, finish=finish, body=finished(shade, finish), second=second)


def finished(colour: Colour, finish: str) -> Material:
    """A material of this colour and finish; neutral steel is brushed, coloured steel enamelled."""
    neutral = max(colour) - min(colour) < 0.12
    match finish:
        case "ceramic":
            return Material(colour=colour, gloss=0.55)
        case "steel" if neutral:
            return Material(colour=mixed(colour, (0.62, 0.64, 0.67), 0.4), pattern="brushed", gloss=0.55, metal=0.8)
        case "steel":
            return Material(colour=colour, gloss=0.8)
        case "aluminium":
            return Material(colour=mixed(colour, (0.8, 0.8, 0.8), 0.1), gloss=0.5, metal=0.55)
        case "glass":
            pale = mixed(colour, (1.0, 1.0, 1.0), 0.28)  # the liquid, or the thick foot, is the deeper colour
            return Material(colour=colour, accent=pale, pattern="gradient", scale=0.4, gloss=0.9, clear=0.3)
        case "wood":
            stained = mixed(colour, OAK.colour, 0.2)
            return Material(colour=stained, accent=dark(stained, 0.72), pattern="wood", scale=0.06, gloss=0.2)
        case "leather":
            return Material(colour=colour, pattern="leather", scale=0.03, gloss=0.3)
        case "fabric":
            return Material(colour=colour, pattern="fabric", scale=0.03, gloss=0.03)
        case _:
            return Material(colour=colour, gloss=0.35)


def cloth(colour: Colour) -> Material:
    """Soft woven fabric of this colour, for trims, linings and covers."""
    return Material(colour=colour, pattern="fabric", scale=0.03, gloss=0.02)


def shaded(material: Material, factor: float) -> Material:
    """The same material at `factor` of its brightness."""
    return replace(material, colour=dark(material.colour, factor))


def decorated(rng: np.random.Generator, style: Look, probability: float) -> Material:
    """The body's material; ceramic is sometimes glazed with stripes or dots of the second colour."""
    if style.finish != "ceramic" or not chance(rng, probability):
        return style.body
    pattern, scale = choose(rng, (("stripes", 0.11), ("stripes", 0.06), ("dots", 0.17)))
    return replace(style.body, accent=style.second.colour, pattern=pattern, scale=scale)


def piece(
    shape: str,
    size: tuple[float, ...],
    material: Material,
    at: Vector = (0.0, 0.0, 0.0),
    *,
    turn: Vector = (0.0, 0.0, 0.0),
    round: float = 0.0,
    hollow: float = 0.0,
    blend: float = 0.0,
    cut: bool = False,
) -> Part:
    """A `Part`, written short: products are long lists of these."""
    return Part(
        shape=shape,
        size=size,
        material=material,
        at=at,
        turn=turn,
        round=round,
        hollow=hollow,
        blend=blend,
        cut=cut,
    )


def rod(start: Vector, end: Vector, radius: float, material: Material) -> Part:
    """A straight tube with round ends from one point to another."""
    a, b = np.array(start), np.array(end)
    along = (b - a) / np.linalg.norm(b - a)
    # Turned by a about x and then c about z, the axis y becomes (-cos a sin c, cos a cos c, sin a).
    tilt = float(np.arcsin(np.clip(along[2], -1.0, 1.0)))
    swing = float(np.arctan2(-along[0], along[1]))
    middle = (a + b) / 2
    half = float(np.linalg.norm(b - a)) / 2
    at = (float(middle[0]), float(middle[1]), float(middle[2]))
    return piece("capsule", (radius, half), material, at, turn=(tilt, 0.0, swing))


def choose(rng: np.random.Generator, options: Sequence[Option]) -> Option:
    """One of the options, equally likely."""
    return options[int(rng.integers(len(options)))]


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """A number drawn evenly from low to high."""
    return float(rng.uniform(low, high))


def chance(rng: np.random.Generator, probability: float) -> bool:
    """True with this probability."""
    return float(rng.random()) < probability


def mixed(one: Colour, other: Colour, share: float) -> Colour:
    """One colour with a share (0..1) of the other."""
    r, g, b = ((1 - share) * a + share * c for a, c in zip(one, other, strict=True))
    return r, g, b


def dark(colour: Colour, factor: float = 0.6) -> Colour:
    """The colour at `factor` of its brightness."""
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


def varied(rng: np.random.Generator, colour: Colour) -> Colour:
    """The colour with a slightly different brightness and tone, so that two reds are rarely the same red."""
    shift = rng.normal(0.0, 0.012, size=3) + rng.normal(0.0, 0.02)
    r, g, b = np.clip(np.array(colour) + shift, 0.03, 0.97)
    return float(r), float(g), float(b)
