"""The kitchen department: mug, kettle, bowl and pan."""

from dataclasses import replace
from itertools import pairwise
from math import cos, pi, sin

import numpy as np

from uniadgen.world.goods import (
    BRASS,
    CHROME,
    IRON,
    METALS,
    RUBBER,
    WALNUT,
    WOODS,
    Variant,
    between,
    chance,
    choose,
    dark,
    decorated,
    look,
    piece,
    rod,
)
from uniadgen.world.solids import Material, Part, Vector

COFFEE = Material(colour=(0.24, 0.12, 0.06), gloss=0.5)
CLAY = Material(colour=(0.78, 0.60, 0.45), pattern="concrete", scale=0.1, gloss=0.05)
EGG_WHITE = Material(colour=(0.98, 0.97, 0.94))
EGG_YOLK = Material(colour=(0.98, 0.72, 0.12), gloss=0.6)
SEARED = Material(colour=(0.16, 0.16, 0.17), pattern="brushed", gloss=0.3, metal=0.3)


def mug(rng: np.random.Generator) -> Variant:
    """A mug of coffee: straight, tapered or round, with a ring or a square handle, dipped or enamelled."""
    style = look(rng, ("ceramic", "ceramic", "steel"))
    top, half = between(rng, 0.40, 0.46), between(rng, 0.40, 0.5)
    foot = top * between(rng, 0.72, 1.0)
    glaze = decorated(rng, style, 0.3)
    parts = [piece("lathe", (half, *_mug_radii(rng, foot, top)), glaze, round=0.025, hollow=0.05)]
    parts += _mug_handle(rng, top, half, style.body)
    parts.append(piece("cylinder", (top - 0.06, 0.02), COFFEE, (0, half - 0.12, 0)))
    if style.finish == "steel":
        rim = Material(colour=dark(style.body.colour, 0.35), gloss=0.5)
        parts.append(piece("torus", (top - 0.025, 0.035), rim, (0, half - 0.01, 0)))
    elif chance(rng, 0.6):
        parts.append(piece("cylinder", (foot + 0.014, 0.05), CLAY, (0, -half + 0.045, 0), round=0.02))
    return style.variant(parts, turn=between(rng, -0.1, 0.35))


def _mug_radii(rng: np.random.Generator, foot: float, top: float) -> tuple[float, ...]:
    if chance(rng, 0.4):
        belly = top * between(rng, 1.04, 1.15)
        return foot, belly, belly, top, top
    return foot, (foot + top) / 2, top


def _mug_handle(rng: np.random.Generator, top: float, half: float, body: Material) -> list[Part]:
    reach = between(rng, 0.22, 0.28)
    if chance(rng, 0.35):
        out, tall = top + reach * 1.1, reach * 0.9
        corners = [(top - 0.05, tall, 0.0), (out, tall, 0.0), (out, -tall, 0.0), (top - 0.07, -tall, 0.0)]
        return [rod(a, b, 0.055, body) for a, b in pairwise(corners)]
    return [piece("arc", (reach, 0.055, 2.0), body, (top + 0.03, 0.02, 0), turn=(0, 0, -pi / 2), blend=0.04)]


def kettle(rng: np.random.Generator) -> Variant:
    """A kettle or teapot: a round body, a lidded top, a spout, and a handle over the top or at the side."""
    style = look(rng, ("steel", "steel", "aluminium", "ceramic"))
    body, wood, metal = style.body, choose(rng, WOODS), choose(rng, (BRASS, CHROME))
    half, wide = between(rng, 0.30, 0.40), between(rng, 0.46, 0.52)
    radii = (wide * 0.92, wide, wide * between(rng, 0.85, 0.95), wide * 0.72, wide * 0.45)
    parts = [piece("lathe", (half, *radii), body, round=0.03)]
    parts += _spout(rng, wide, half, body)
    parts += [
        piece("cylinder", (wide * 0.46, 0.025), metal, (0, half + 0.005, 0), round=0.015),
        piece("ellipsoid", (wide * 0.42, 0.07, wide * 0.42), body, (0, half + 0.025, 0)),
        piece("lathe", (0.06, 0.025, 0.045, 0.065, 0.05), wood, (0, half + 0.14, 0), round=0.015),
        piece("cylinder", (wide * 0.93, 0.03), metal, (0, -half + 0.025, 0), round=0.015),
    ]
    return style.variant(parts + _kettle_handle(rng, wide, half, body, wood), turn=between(rng, -0.3, 0.2))


def _spout(rng: np.random.Generator, wide: float, half: float, body: Material) -> list[Part]:
    if chance(rng, 0.45):  # a goose neck, for pouring over coffee
        points = [(-wide * 0.85, -half * 0.45), (-wide - 0.2, -half * 0.2), (-wide - 0.22, half * 0.55)]
        points += [(-wide - 0.36, half * 0.98)]
        line = [(x, y, 0.0) for x, y in points]
        sizes = (0.075, 0.055, 0.045)
        return [
            rod(a, b, size, body) if i == 0 else replace(rod(a, b, size, body), blend=0.05)
            for i, (a, b, size) in enumerate(zip(line[:-1], line[1:], sizes, strict=True))
        ]
    return [piece("cone", (0.16, 0.065, 0.24), body, (-wide - 0.06, half * 0.25, 0), turn=(0, 0, 0.85), blend=0.06)]


def _kettle_handle(rng: np.random.Generator, wide: float, half: float, body: Material, wood: Material) -> list[Part]:
    if chance(rng, 0.55):
        rise = wide * 0.86
        return [
            piece("arc", (rise, 0.03, 1.72), IRON, (0, half * 0.55, 0)),
            piece("arc", (rise, 0.055, 0.62), wood, (0, half * 0.55, 0)),
        ]
    top, out = half * 0.75, wide + 0.28
    return [
        rod((wide * 0.7, top, 0), (out, top + 0.05, 0), 0.04, body),
        rod((out, top + 0.05, 0), (out - 0.06, -half * 0.5, 0), 0.06, wood),
    ]


def bowl(rng: np.random.Generator) -> Variant:
    """A bowl on its foot: deep or wide, banded or plain; empty, with chopsticks, or full of fruit."""
    style = look(rng, ("ceramic", "ceramic", "wood", "glass"))
    half, wide = between(rng, 0.24, 0.32), 0.6
    foot = wide * between(rng, 0.42, 0.55)
    radii = (foot, wide * 0.84, wide * 0.96, wide) if chance(rng, 0.6) else (foot, wide * 0.72, wide * 0.86, wide)
    parts = [
        piece("lathe", (half, *radii), style.body, round=0.02, hollow=0.045),
        piece("cylinder", (foot * 0.8, 0.06), style.body, (0, -half - 0.03, 0), round=0.02),
    ]
    if style.finish == "ceramic" and chance(rng, 0.7):
        rim = choose(rng, (style.second, BRASS, CLAY))
        parts.append(piece("torus", (wide - 0.022, 0.028), rim, (0, half - 0.005, 0)))
    parts += _filling(rng, wide, half)
    return style.variant(parts, turn=between(rng, -0.3, 0.3))


def _filling(rng: np.random.Generator, wide: float, half: float) -> list[Part]:
    kind = int(rng.integers(3))
    if kind == 0:
        wood = choose(rng, WOODS)
        broth = Material(colour=choose(rng, ((0.78, 0.42, 0.16), (0.97, 0.95, 0.90), (0.85, 0.62, 0.25))), gloss=0.4)
        return [piece("ellipsoid", (wide * 0.9, 0.03, wide * 0.9), broth, (0, half - 0.07, 0))] + [
            piece(
                "cone",
                (0.016, 0.024, 0.62),
                wood,
                (shift, half + 0.04, 0.1),
                turn=(0.12, 0, pi / 2 - 0.2 + lean),
            )
            for shift, lean in ((0.08, 0.0), (0.12, 0.1))
        ]
    if kind == 1:
        skin = choose(rng, ((0.95, 0.56, 0.12), (0.62, 0.74, 0.22), (0.82, 0.16, 0.15), (0.97, 0.83, 0.25)))
        fruit = Material(colour=skin, gloss=0.35)
        places = (
            (-0.26, 0.12, 0.05),
            (0.25, 0.13, 0.08),
            (0.0, 0.12, -0.24),
            (0.02, 0.34, 0.04),
            (0, 0.1, 0.28),
        )
        return [piece("sphere", (0.2,), fruit, (x, half - 0.1 + y * 0.7, z)) for x, y, z in places]
    return []


def pan(rng: np.random.Generator) -> Variant:
    """A frying pan tipped towards the viewer on a wooden stand, or a lidded saucepan; long handles."""
    style = look(rng, ("steel", "aluminium", "ceramic"))
    wood = choose(rng, (*WOODS, RUBBER))
    if chance(rng, 0.6):
        return style.variant(_frying_pan(rng, style.body, wood), turn=between(rng, -0.2, 0.2))
    return style.variant(_saucepan(rng, style.body, wood), turn=between(rng, -0.5, -0.1))


def _frying_pan(rng: np.random.Generator, body: Material, grip: Material) -> list[Part]:
    tip, deep = between(rng, 0.75, 0.95), between(rng, 0.07, 0.1)
    angle = between(rng, 0.3, 0.75)  # where the handle points, up and to the right
    inside = choose(rng, (SEARED, SEARED, Material(colour=(0.9, 0.88, 0.84), gloss=0.5)))
    parts = [
        piece("cone", (0.40, 0.48, deep), body, turn=(tip, 0, 0), round=0.02, hollow=0.03),
        _tipped("cylinder", (0.42, 0.012), inside, (0, -deep + 0.05, 0), tip),
    ]
    if chance(rng, 0.4):
        parts += [
            _tipped("ellipsoid", (0.2, 0.03, 0.17), EGG_WHITE, (-0.06, -deep + 0.07, 0.05), tip),
            _tipped("ellipsoid", (0.085, 0.06, 0.085), EGG_YOLK, (-0.04, -deep + 0.085, 0.06), tip),
        ]
    _, edge, front = _tip((0, -deep, 0.40), tip)  # the lowest edge rests on a display stand of wood
    parts.append(piece("box", (0.17, 0.035, 0.26), WALNUT, (0, edge - 0.03, front - 0.2), round=0.025))
    parts.append(rod((0, edge - 0.03, front - 0.4), _tip((0, -deep, -0.1), tip), 0.035, WALNUT))
    for radius, near, far, material in ((0.035, 0.44, 0.62, CHROME), (0.05, 0.62, 1.0, grip)):
        ends = [_tip((r * cos(angle), deep * 0.7 + 0.1 * (r - 0.44), -r * sin(angle)), tip) for r in (near, far)]
        parts.append(rod(ends[0], ends[1], radius, material))
    return parts


def _tip(at: Vector, angle: float) -> Vector:
    x, y, z = at
    return x, y * cos(angle) - z * sin(angle), y * sin(angle) + z * cos(angle)


def _tipped(shape: str, size: tuple[float, ...], material: Material, at: Vector, tip: float) -> Part:
    return piece(shape, size, material, _tip(at, tip), turn=(tip, 0, 0))


def _saucepan(rng: np.random.Generator, body: Material, grip: Material) -> list[Part]:
    wide, half, metal = between(rng, 0.40, 0.45), between(rng, 0.18, 0.25), choose(rng, METALS)
    start, end = (wide, half * 0.5, 0.0), (wide + 0.16, half * 0.5 + 0.03, 0.0)
    return [
        piece("cone", (wide * 0.94, wide, half), body, round=0.05),
        piece("cylinder", (wide * 0.95, 0.025), metal, (0, -half + 0.03, 0), round=0.01),
        piece("torus", (wide - 0.005, 0.028), metal, (0, half, 0)),
        piece("ellipsoid", (wide * 0.95, between(rng, 0.08, 0.13), wide * 0.95), body, (0, half + 0.01, 0)),
        piece("cylinder", (0.035, 0.04), metal, (0, half + 0.14, 0)),
        piece("ellipsoid", (0.085, 0.045, 0.085), grip, (0, half + 0.19, 0)),
        rod(start, end, 0.035, metal),
        rod(end, (wide + 0.62, half * 0.5 + 0.14, 0.0), 0.05, grip),
    ]
