"""The electronics department: speaker, headphones, camera and phone."""

from math import pi

import numpy as np

from uniadgen.world.goods import (
    BRASS,
    CHROME,
    COLOURS,
    IRON,
    METALS,
    RUBBER,
    TAN,
    WOODS,
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

GLASS = Material(colour=(0.05, 0.06, 0.10), gloss=1.0)
COATING = Material(colour=(0.16, 0.14, 0.38), gloss=1.0)
CONE = Material(colour=(0.24, 0.24, 0.26), gloss=0.25)
RED = Material(colour=COLOURS["red"], gloss=0.4)
PRINT = Material(colour=(0.96, 0.96, 0.95), gloss=0.3)
FLASH = Material(colour=(0.85, 0.88, 0.90), gloss=0.7)
FACING_FRONT = (pi / 2, 0.0, 0.0)

# Wallpapers of phone screens: the colour at the bottom and at the top.
WALLPAPERS: tuple[tuple[Colour, Colour], ...] = (
    ((0.98, 0.60, 0.35), (0.42, 0.28, 0.70)),
    ((0.30, 0.75, 0.85), (0.14, 0.25, 0.62)),
    ((0.98, 0.80, 0.60), (0.93, 0.40, 0.50)),
    ((0.70, 0.90, 0.65), (0.10, 0.45, 0.50)),
)


def speaker(rng: np.random.Generator) -> Variant:
    """A bookshelf speaker with two drivers, or a portable one with a cloth front, knobs and a strap."""
    return _bookshelf(rng) if chance(rng, 0.55) else _portable(rng)


def _driver(x: float, y: float, front: float, wide: float, rim: Material, middle: Material) -> list[Part]:
    return [
        piece("torus", (wide, wide * 0.16), rim, (x, y, front), turn=FACING_FRONT),
        piece("cylinder", (wide * 0.95, 0.015), CONE, (x, y, front), turn=FACING_FRONT),
        piece("sphere", (wide * 0.42,), middle, (x, y, front - wide * 0.12)),
    ]


def _bookshelf(rng: np.random.Generator) -> Variant:
    style = look(rng, ("wood", "plastic", "aluminium"))
    wide, tall, deep = between(rng, 0.28, 0.33), 0.5, 0.27
    rim, middle = choose(rng, (CHROME, RUBBER, BRASS)), choose(rng, (BRASS, CHROME, RUBBER, style.second))
    front = deep + 0.012
    baffle = choose(rng, (style.body, Material(colour=(0.15, 0.15, 0.16), gloss=0.15)))
    parts = [
        piece("box", (wide, tall, deep), style.body, round=0.035),
        piece("box", (wide - 0.03, tall - 0.03, 0.03), baffle, (0, 0, deep - 0.02), round=0.02),
        *_driver(0, -0.15, front, wide * 0.66, rim, middle),
        *_driver(0, 0.28, front, wide * 0.33, rim, middle),
    ]
    if chance(rng, 0.5):
        parts += [piece("cylinder", (0.028, 0.03), BRASS, (x, -0.43, front), turn=FACING_FRONT) for x in (-0.05, 0.05)]
    legs = choose(rng, WOODS)
    parts += [
        piece("cone", (0.02, 0.032, 0.05), legs, (x, -tall - 0.04, z))
        for x in (-wide + 0.08, wide - 0.08)
        for z in (-0.17, 0.17)
    ]
    return style.variant(parts, turn=between(rng, -0.55, 0.55))


def _portable(rng: np.random.Generator) -> Variant:
    style = look(rng, ("fabric", "leather"))
    wide, tall, deep = 0.56, between(rng, 0.28, 0.34), 0.2
    trim, metal = choose(rng, (TAN, style.second, RUBBER)), choose(rng, (BRASS, CHROME))
    cloth = Material(
        colour=mixed(style.body.colour, (0.1, 0.1, 0.1), 0.25),
        accent=dark(style.body.colour, 0.5),
        pattern="fabric",
        scale=0.02,
        gloss=0.02,
    )
    parts = [
        piece("box", (wide, tall, deep), style.body, round=0.09),
        piece("box", (wide - 0.07, tall - 0.12, 0.02), cloth, (0, -0.04, deep), round=0.015),
        piece("frame", (wide - 0.05, tall - 0.1, 0.018, 0.02), metal, (0, -0.04, deep), round=0.01),
        *[piece("cylinder", (0.045, 0.03), metal, (x, tall + 0.02, 0.02), round=0.01) for x in (0.12, 0.25, 0.38)],
        piece("box", (0.12, 0.025, 0.02), metal, (-wide * 0.5, -0.1, deep + 0.01), round=0.01),
        piece("arc", (0.62, 0.028, 0.95), trim, (0, tall - 0.36, 0)),
    ]
    return style.variant(parts, turn=between(rng, -0.45, 0.45))


def headphones(rng: np.random.Generator) -> Variant:
    """Headphones standing on their ear cups: a padded band, metal yokes, soft cushions."""
    style = look(rng, ("plastic", "aluminium", "leather", "wood"))
    metal, cushion = (
        choose(rng, METALS),
        choose(rng, (RUBBER, TAN, Material(colour=dark(style.body.colour, 0.75), pattern="leather", scale=0.03))),
    )
    span, cup = 0.46, between(rng, 0.20, 0.25)
    body = style.body
    band = body if style.finish != "wood" else TAN
    parts = [
        piece("arc", (span, 0.03, 1.85), metal),
        piece("arc", (span + 0.005, between(rng, 0.05, 0.065), 1.0), band),
    ]
    tilt = between(rng, 0.08, 0.2)
    for side in (-1, 1):
        x, y = side * span, -0.26
        lie = (0.0, 0.0, pi / 2 + side * tilt)
        inner = -side * 0.07
        parts += [
            piece("cylinder", (cup, 0.07), body, (x + side * 0.04, y, 0), turn=lie, round=0.04),
            piece("torus", (cup * 0.68, cup * 0.34), cushion, (x + inner, y, 0), turn=lie),
            piece(
                "cylinder",
                (cup * 0.55, 0.015),
                metal,
                (x + side * 0.115, y, 0),
                turn=lie,
                round=0.01,
            ),
            piece("capsule", (0.03, 0.09), metal, (x + side * 0.03, y + cup + 0.03, 0)),
        ]
    return style.variant(parts, turn=between(rng, 0.35, 0.75) * choose(rng, (-1, 1)))


def camera(rng: np.random.Generator) -> Variant:
    """A rangefinder with a leather band and a long lens, or a friendly instant camera."""
    return _rangefinder(rng) if chance(rng, 0.6) else _instant(rng)


def _lens(x: float, y: float, front: float, wide: float, ring: Material) -> list[Part]:
    return [
        piece("cylinder", (wide, 0.08), RUBBER, (x, y, front + 0.06), turn=FACING_FRONT, round=0.015),
        piece("cylinder", (wide * 0.86, 0.09), ring, (x, y, front + 0.14), turn=FACING_FRONT, round=0.015),
        piece("torus", (wide * 0.72, wide * 0.13), RUBBER, (x, y, front + 0.23), turn=FACING_FRONT),
        piece("cylinder", (wide * 0.66, 0.02), GLASS, (x, y, front + 0.22), turn=FACING_FRONT),
        piece("ellipsoid", (wide * 0.5, wide * 0.5, 0.05), COATING, (x, y, front + 0.22)),
    ]


def _rangefinder(rng: np.random.Generator) -> Variant:
    style = look(rng, ("leather", "leather", "plastic"))
    metal = choose(rng, (CHROME, CHROME, BRASS, IRON))
    wide, tall, deep = 0.58, between(rng, 0.30, 0.34), 0.16
    low = -0.04
    parts = [
        piece("box", (wide, tall, deep), metal, round=0.07),
        piece("box", (wide + 0.006, tall - 0.12, deep + 0.006), style.body, (0, low, 0), round=0.07),
        piece("taper", (0.2, 0.07, 0.13, 0.7), metal, (0, tall + 0.05, 0), round=0.02),
        piece("box", (0.1, 0.05, 0.02), GLASS, (0, tall + 0.05, 0.115), round=0.015),
        piece("cylinder", (0.075, 0.04), metal, (0.4, tall + 0.03, 0), round=0.015),
        piece("cylinder", (0.035, 0.03), style.second, (0.22, tall + 0.03, 0.02), round=0.01),
        piece("cylinder", (0.085, 0.03), metal, (-0.4, tall + 0.025, 0), round=0.015),
        *_lens(0, low, deep, between(rng, 0.23, 0.27), choose(rng, (metal, RUBBER))),
        piece("box", (0.06, 0.035, 0.02), GLASS, (0.42, tall - 0.07, deep), round=0.01),
    ]
    return style.variant(parts, turn=between(rng, -0.5, 0.5))


def _instant(rng: np.random.Generator) -> Variant:
    style = look(rng, ("plastic",))
    body, black = style.body, Material(colour=(0.12, 0.12, 0.13), gloss=0.2)
    wide = 0.5
    parts = [
        piece("box", (wide, 0.2, 0.3), body, (0, -0.24, 0), round=0.06),
        piece("taper", (wide, 0.25, 0.24, 0.82), body, (0, 0.14, -0.04), round=0.06),
        piece("box", (wide * 0.7, 0.025, 0.02), black, (0, -0.27, 0.3)),
        piece("box", (wide * 0.5, 0.012, 0.02), style.second, (0, -0.36, 0.3)),
        *_lens(0, 0.08, 0.14, 0.19, black),
        piece("box", (0.09, 0.065, 0.03), FLASH, (-0.3, 0.26, 0.16), round=0.015),
        piece("box", (0.065, 0.05, 0.03), GLASS, (0.3, 0.26, 0.16), round=0.02),
        piece(
            "cylinder",
            (0.05, 0.03),
            choose(rng, (RED, style.second)),
            (0.33, 0.05, 0.19),
            turn=FACING_FRONT,
            round=0.015,
        ),
    ]
    if chance(rng, 0.35):  # a photograph on its way out
        parts.append(piece("box", (wide * 0.55, 0.01, 0.14), PRINT, (0, -0.28, 0.4), turn=(0.35, 0, 0)))
    stripes = [(0.86, 0.25, 0.22), (0.96, 0.62, 0.18), (0.25, 0.6, 0.45), (0.16, 0.42, 0.70)]
    parts += [
        piece("box", (0.016, 0.09, 0.012), Material(colour=colour), (-0.05 + 0.033 * i, -0.14, 0.295))
        for i, colour in enumerate(stripes)
    ]
    return style.variant(parts, turn=between(rng, -0.5, 0.5))


def phone(rng: np.random.Generator) -> Variant:
    """A phone with a lively screen, and its twin behind it, showing the back and the lenses."""
    style = look(rng, ("aluminium", "glass", "plastic"))
    low, high = choose(rng, WALLPAPERS)
    tall, wide = 0.5, between(rng, 0.235, 0.26)
    apart = between(rng, 0.24, 0.3)
    back = [
        piece("box", (wide, tall, 0.035), style.body, (-apart, 0.0, -0.14), round=0.034),
        *_back_lenses(rng, -apart - wide, tall, wide, style),
    ]
    screen = Material(colour=low, accent=high, pattern="gradient", scale=tall * 0.8, gloss=0.5, glow=0.35)
    front = [
        piece("box", (wide, tall, 0.035), style.body, (apart, 0, 0.1), round=0.034),
        piece("box", (wide - 0.012, tall - 0.012, 0.02), GLASS, (apart, 0, 0.122), round=0.018),
        piece("box", (wide - 0.03, tall - 0.03, 0.02), screen, (apart, 0, 0.126), round=0.018),
        piece("box", (0.06, 0.016, 0.01), GLASS, (apart, tall - 0.07, 0.142), round=0.009),
        *_icons(rng, apart, wide, tall),
    ]
    return style.variant(back + front, turn=between(rng, -0.35, 0.35))


def _back_lenses(rng: np.random.Generator, left: float, tall: float, wide: float, style: Look) -> list[Part]:
    island = Material(colour=mixed(style.body.colour, (1, 1, 1), 0.15), gloss=0.6)
    x, y, front = left + 0.12, tall - 0.14, -0.105
    parts = [piece("box", (0.085, 0.11, 0.02), island, (x, y, front), round=0.019)]
    for at in choose(rng, (((0, 0.05), (0, -0.05)), ((-0.035, 0.055), (-0.035, -0.045), (0.035, 0.005)))):
        parts.append(piece("cylinder", (0.042, 0.02), GLASS, (x + at[0], y + at[1], front + 0.02), turn=FACING_FRONT))
    return [*parts, piece("cylinder", (0.035, 0.01), CHROME, (left + wide, -0.02, front), turn=FACING_FRONT)]


def _icons(rng: np.random.Generator, x: float, wide: float, tall: float) -> list[Part]:
    white = Material(colour=(0.99, 0.99, 0.99), glow=0.5)
    parts = [
        piece("box", (wide * w, h, 0.008), white, (x, tall * y, 0.144), round=0.007)
        for w, h, y in ((0.42, 0.035, 0.52), (0.26, 0.014, 0.38))
    ]
    tints = ((0.98, 0.42, 0.35), (0.99, 0.80, 0.30), (0.35, 0.80, 0.55), (0.99, 0.99, 0.99))
    for i, tint in enumerate(tints):
        at = (x + (i - 1.5) * wide * 0.44, -tall + 0.12, 0.144)
        parts.append(piece("box", (0.038, 0.038, 0.008), Material(colour=tint, glow=0.4), at, round=0.007))
    return parts
