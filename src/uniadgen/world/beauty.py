"""The beauty department: lipstick, serum, cream and perfume."""

from math import cos, pi, sin

import numpy as np

from uniadgen.world.goods import (
    INK,
    METALS,
    OAK,
    PAPER,
    RUBBER,
    WALNUT,
    Look,
    Variant,
    between,
    chance,
    choose,
    dark,
    look,
    mixed,
    piece,
)
from uniadgen.world.solids import Colour, Material, Part

# Lip shades for cases whose own colour nobody wears.
SHADES: tuple[Colour, ...] = ((0.75, 0.06, 0.12), (0.86, 0.28, 0.36), (0.60, 0.10, 0.20), (0.80, 0.36, 0.26))
CREAM = Material(colour=(0.98, 0.95, 0.90), gloss=0.4)


def lipstick(rng: np.random.Generator) -> Variant:
    """An open lipstick with a slanted tip, metal collars, and its cap standing beside it."""
    style = look(rng, ("plastic", "steel", "leather"))
    shade = style.body.colour if style.colour in ("red", "pink", "orange") else choose(rng, SHADES)
    bullet, metal = Material(colour=shade, gloss=0.45), choose(rng, METALS)
    tall, tip = between(rng, 0.20, 0.26), between(rng, 0.20, 0.26)
    square = chance(rng, 0.35)
    base = ("box", (0.15, tall, 0.15)) if square else ("cylinder", (0.16, tall))
    cap = ("box", (0.15, tall * 1.25, 0.15)) if square else ("cylinder", (0.16, tall * 1.25))
    top, side, slant = tall + 0.22, between(rng, 0.40, 0.46), between(rng, 0.6, 0.8)
    blade = (-0.5 * sin(slant), top + tip * 1.05 + 0.5 * cos(slant), 0.0)
    parts = [
        piece("cylinder", (0.108, tip), bullet, (0, top + tip * 0.5, 0), round=0.03),
        piece("box", (0.5, 0.5, 0.5), bullet, blade, turn=(0, 0, slant), cut=True, blend=0.02),
        piece("cylinder", (0.125, 0.13), metal, (0, tall + 0.13, 0), round=0.01),
        piece(*base, style.body, round=0.025),
        piece("cylinder", (0.135, 0.03), metal, (0, tall + 0.02, 0), round=0.01),
        piece(*cap, style.body, (side, tall * 0.25, 0.06), round=0.03),
    ]
    band = ("box", (0.156, 0.025, 0.156)) if square else ("cylinder", (0.166, 0.025))
    parts.append(piece(*band, metal, (side, -tall + 0.12, 0.06), round=0.01))
    if chance(rng, 0.6):
        parts.append(piece(*band, metal, (0, -tall + 0.03, 0), round=0.01))
    return style.variant(parts, turn=between(rng, -0.3, 0.3))


def serum(rng: np.random.Generator) -> Variant:
    """A dropper bottle with a label, a metal collar and a rubber bulb."""
    style = look(rng, ("glass", "glass", "plastic"))
    metal, bulb = choose(rng, METALS), choose(rng, (RUBBER, PAPER, Material(colour=dark(style.body.colour))))
    wide, half = between(rng, 0.26, 0.33), between(rng, 0.32, 0.40)
    shape = ("cylinder", (wide, half)) if chance(rng, 0.7) else ("box", (wide, half, wide * 0.8))
    parts = [
        piece(*shape, style.body, round=between(rng, 0.05, 0.13)),
        piece("cylinder", (0.12, 0.05), style.body, (0, half + 0.03, 0), blend=0.06),
        piece("cylinder", (0.15, 0.075), metal, (0, half + 0.13, 0), round=0.02),
        piece("cylinder", (0.105, 0.025), bulb, (0, half + 0.215, 0), round=0.015),
        piece("capsule", (0.085, 0.1), bulb, (0, half + 0.32, 0), blend=0.02),
    ]
    return style.variant(parts + _label(rng, style, shape, half), turn=between(rng, -0.35, 0.35))


def _label(rng: np.random.Generator, style: Look, shape: tuple[str, tuple[float, ...]], half: float) -> list[Part]:
    paper = PAPER if style.colour not in ("white", "cream") else Material(colour=style.second.colour)
    tall, low = half * between(rng, 0.42, 0.6), -half * between(rng, 0.05, 0.25)
    name, size = shape
    across = size[0] + 0.008
    if name == "cylinder":
        band = piece("cylinder", (across, tall), paper, (0, low, 0), round=0.004)
        front = across
    else:
        band = piece("box", (across * 0.8, tall, size[2] + 0.008), paper, (0, low, 0), round=0.004)
        front = size[2] + 0.008
    ink = choose(rng, (INK, Material(colour=dark(style.body.colour, 0.7))))
    lines = ((0.10, 0.028, tall * 0.35), (0.07, 0.014, -tall * 0.05), (0.08, 0.012, -tall * 0.4))
    return [band] + [piece("box", (w, h, 0.02), ink, (0, low + y, front - 0.005)) for w, h, y in lines]


def cream(rng: np.random.Generator) -> Variant:
    """A jar of cream: open with a whipped peak and its lid leaning beside it, or closed."""
    style = look(rng, ("glass", "ceramic", "plastic"))
    lid = choose(rng, (*METALS, OAK, WALNUT))
    half, wide = between(rng, 0.20, 0.26), 0.42
    parts = [
        piece("cylinder", (wide, half), style.body, round=between(rng, 0.05, 0.12)),
        piece("cylinder", (wide * 0.86, 0.05), style.body, (0, half + 0.02, 0), round=0.01),
    ]
    label = PAPER if style.colour not in ("white", "cream") else style.second
    ink = Material(colour=dark(style.body.colour, 0.5)) if label is PAPER else PAPER
    parts.append(piece("cylinder", (wide + 0.006, half * 0.5), label, round=0.004))
    parts.append(piece("box", (0.13, 0.025, 0.02), ink, (0, 0.03, wide)))
    parts.append(piece("box", (0.09, 0.012, 0.02), ink, (0, -0.04, wide)))
    parts += _open_jar(wide, half, lid) if chance(rng, 0.6) else _closed_jar(rng, wide, half, lid)
    return style.variant(parts, turn=between(rng, -0.2, 0.2))


def _open_jar(wide: float, half: float, lid: Material) -> list[Part]:
    return [
        piece("ellipsoid", (wide * 0.82, 0.12, wide * 0.82), CREAM, (0, half + 0.06, 0)),
        piece("torus", (wide * 0.36, 0.09), CREAM, (0, half + 0.15, 0), blend=0.06),
        piece("cone", (0.15, 0.015, 0.12), CREAM, (0.02, half + 0.27, 0), turn=(0, 0, -0.25), blend=0.08),
        piece(
            "cylinder",
            (wide * 0.95, 0.075),
            lid,
            (wide + 0.34, wide * 0.94 - half, 0.1),
            turn=(pi / 2 - 0.25, 0.55, 0),
            round=0.03,
        ),
    ]


def _closed_jar(rng: np.random.Generator, wide: float, half: float, lid: Material) -> list[Part]:
    tall = between(rng, 0.1, 0.15)
    return [
        piece("cylinder", (wide * 1.01, tall), lid, (0, half + tall + 0.04, 0), round=0.035),
        piece(
            "cylinder",
            (wide * 0.7, 0.012),
            Material(colour=dark(lid.colour, 0.85), gloss=0.4, metal=lid.metal),
            (0, half + 2 * tall + 0.045, 0),
        ),
    ]


def perfume(rng: np.random.Generator) -> Variant:
    """A flacon of tinted glass: square, round or faceted, with a label plate, a collar and a sculpted cap."""
    style = look(rng, ("glass",))
    metal = choose(rng, METALS)
    kind, deep = int(rng.integers(4)), between(rng, 0.17, 0.24)
    wide, half = between(rng, 0.30, 0.40), between(rng, 0.32, 0.38)
    if kind == 0:
        flask = [piece("box", (wide, half, deep), style.body, round=0.07)]
    elif kind == 1:
        half = 0.4
        flask = [piece("cylinder", (half, deep), style.body, turn=(pi / 2, 0, 0), round=0.09)]
    elif kind == 2:
        flask = [piece("prism", (wide * 0.95, half, 6), style.body, turn=(0, pi / 6, 0), round=0.04)]
        deep = wide * 1.09
    else:
        flask = [piece("taper", (wide * 1.15, half, deep * 1.15, 0.62), style.body, round=0.06)]
        deep *= 0.95
    parts = [
        *flask,
        piece("cylinder", (0.11, 0.06), metal, (0, half + 0.04, 0), round=0.015),
        *_stopper(rng, metal, style, half + 0.1),
    ]
    if kind != 2:
        plate = choose(rng, (PAPER, metal))
        parts.append(piece("box", (wide * 0.5, half * 0.36, 0.02), plate, (0, -half * 0.12, deep), round=0.01))
        parts.append(piece("box", (wide * 0.3, 0.022, 0.02), INK, (0, -half * 0.08, deep + 0.008)))
    else:
        parts.append(piece("prism", (wide * 0.95 + 0.006, 0.07, 6), metal, (0, -half * 0.2, 0), turn=(0, pi / 6, 0)))
    return style.variant(parts, turn=between(rng, -0.4, 0.4))


def _stopper(rng: np.random.Generator, metal: Material, style: Look, low: float) -> list[Part]:
    lacquer = Material(colour=dark(mixed(style.body.colour, (0.1, 0.1, 0.1), 0.3), 0.8), gloss=0.7)
    material = choose(rng, (metal, lacquer, RUBBER, WALNUT))
    match int(rng.integers(4)):
        case 0:
            return [piece("sphere", (0.19,), material, (0, low + 0.15, 0))]
        case 1:
            return [piece("box", (0.17, 0.15, 0.15), material, (0, low + 0.15, 0), round=0.03)]
        case 2:
            return [piece("cylinder", (0.18, 0.13), material, (0, low + 0.13, 0), round=0.03)]
        case _:
            return [piece("lathe", (0.17, 0.10, 0.14, 0.2, 0.18), material, (0, low + 0.16, 0), round=0.03)]
