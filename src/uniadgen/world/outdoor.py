"""The outdoor department: bottle, tent, backpack and lantern."""

from math import cos, pi, sin

import numpy as np

from uniadgen.world.goods import (
    BRASS,
    CHROME,
    IRON,
    METALS,
    OAK,
    PAPER,
    RUBBER,
    TAN,
    WALNUT,
    Look,
    Variant,
    between,
    chance,
    choose,
    cloth,
    look,
    piece,
    rod,
    shaded,
)
from uniadgen.world.solids import Material, Part

FLAME = Material(colour=(1.0, 0.83, 0.45), glow=1.2)
DARK = Material(colour=(0.16, 0.14, 0.14), gloss=0.02)


def bottle(rng: np.random.Generator) -> Variant:
    """A drinking bottle with a rubber, metal or wooden cap and a loop; banded, badged or sleeved."""
    style = look(rng, ("steel", "steel", "aluminium", "glass"))
    wide, half = between(rng, 0.19, 0.23), between(rng, 0.36, 0.42)
    slim = wide * between(rng, 0.5, 0.62)
    radii = (wide * 0.97, wide, wide, wide, wide * 0.97, slim * 1.3, slim)
    metal, cap = choose(rng, (CHROME, BRASS)), choose(rng, (RUBBER, OAK, WALNUT, CHROME))
    parts = [
        piece("lathe", (half, *radii), style.body, round=0.025),
        piece("cylinder", (slim * 1.03, 0.02), metal, (0, half + 0.01, 0), round=0.01),
        piece("cylinder", (slim * 1.12, 0.085), cap, (0, half + 0.11, 0), round=0.03),
        piece("cylinder", (wide * 0.985, 0.025), metal, (0, -half + 0.02, 0), round=0.012),
        *_bottle_loop(rng, slim, half + 0.16, cap),
        *_bottle_mark(rng, style, wide),
    ]
    return style.variant(parts, turn=between(rng, -0.4, 0.4))


def _bottle_loop(rng: np.random.Generator, slim: float, top: float, cap: Material) -> list[Part]:
    strap = RUBBER if cap is not RUBBER else IRON
    match int(rng.integers(3)):
        case 0:
            return [piece("arc", (slim * 0.85, 0.024, 1.62), strap, (0, top, 0))]
        case 1:
            return [piece("arc", (0.1, 0.022, 2.1), strap, (slim + 0.06, top - 0.06, 0), turn=(0, 0, -pi / 2 + 0.2))]
        case _:
            return [piece("cylinder", (slim * 0.6, 0.03), strap, (0, top + 0.05, 0), round=0.015)]


def _bottle_mark(rng: np.random.Generator, style: Look, wide: float) -> list[Part]:
    tint = style.second
    match int(rng.integers(4)):
        case 0:
            return [piece("cylinder", (wide + 0.006, 0.05), tint, (0, between(rng, -0.2, 0.05), 0), round=0.004)]
        case 1:
            return [
                piece("cylinder", (wide + 0.006, 0.018), tint, (0, y, 0), round=0.004) for y in (-0.16, -0.1, -0.04)
            ]
        case 2:
            return [piece("cylinder", (0.075, 0.02), tint, (0, 0.0, wide - 0.005), turn=(pi / 2, 0, 0), round=0.005)]
        case _:
            sleeve = choose(rng, (TAN, RUBBER, cloth(style.second.colour)))
            return [piece("cylinder", (wide + 0.012, 0.16), sleeve, (0, -0.12, 0), round=0.01)]


def tent(rng: np.random.Generator) -> Variant:
    """A ridge tent with poles and guy lines, or a dome tent with hoops; both with an open door."""
    return _ridge_tent(rng) if chance(rng, 0.55) else _dome_tent(rng)


def _ridge_tent(rng: np.random.Generator) -> Variant:
    style = look(rng, ("fabric",))
    wide, half, deep = between(rng, 0.50, 0.56), between(rng, 0.40, 0.48), 0.36
    pole = choose(rng, (OAK, CHROME, IRON))
    flap = cloth(style.second.colour)
    open_wide = wide * 0.62
    parts = [
        piece("wedge", (wide, half, deep), style.body, round=0.02),
        piece("wedge", (open_wide, half * 0.8, 0.3), DARK, (0, -half * 0.22, deep), cut=True),
        piece("wedge", (open_wide * 1.02, half * 0.8, 0.01), DARK, (0, -half * 0.22, deep - 0.22)),
        rod((0, -half, deep - 0.03), (0, half + 0.07, deep - 0.03), 0.018, pole),
        rod((0, half - 0.005, -deep), (0, half - 0.005, deep + 0.02), 0.02, pole),
        piece(
            "box",
            (wide + 0.02, 0.014, deep + 0.02),
            shaded(style.body, 0.6),
            (0, -half + 0.01, 0),
            round=0.01,
        ),
    ]
    for side in (-1, 1):
        fold = (side * open_wide * 0.6, -half * 0.28, deep + 0.01)
        lean = side * (0.6 + between(rng, 0, 0.08))
        parts.append(piece("box", (0.075, half * 0.72, 0.02), flap, fold, turn=(0, -side * 0.5, lean), round=0.018))
        parts.append(
            rod((0, half + 0.05, deep - 0.03), (side * (wide * 0.85), -half + 0.02, deep + 0.14), 0.007, PAPER)
        )
    return style.variant(parts, turn=between(rng, 0.2, 0.6) * choose(rng, (-1, 1)))


def _dome_tent(rng: np.random.Generator) -> Variant:
    style = look(rng, ("fabric",))
    wide, tall, body = 0.58, between(rng, 0.12, 0.2), style.body
    trim = cloth(style.second.colour)
    hoop = choose(rng, (trim, IRON))
    parts = [
        piece("dome", (wide,), body),
        piece("arch", (0.25, tall, 0.3), DARK, (0, -0.05, wide - 0.08), cut=True),
        piece("cylinder", (wide * 0.8, 0.01), DARK, (0, 0.02, 0)),
        piece("torus", (wide + 0.01, 0.022), shaded(style.body, 0.6), (0, 0.02, 0)),
        piece("arc", (0.25, 0.022, 1.35), trim, (0, tall - 0.05, wide - 0.12), turn=(-0.5, 0, 0)),
        piece("cylinder", (0.09, 0.012), trim, (0, wide, 0), round=0.01),
    ]
    for angle in (0.75, -0.75):
        parts.append(piece("arc", (wide + 0.006, 0.016, pi / 2), hoop, turn=(0, angle, 0)))
    return style.variant(parts, turn=between(rng, -0.5, 0.5))


def backpack(rng: np.random.Generator) -> Variant:
    """A backpack: a rounded body, a lid or a zip, a front pocket, leather straps, perhaps a bed roll."""
    style = look(rng, ("fabric", "fabric", "leather"))
    body, trim = style.body, choose(rng, (TAN, style.second, shaded(style.body, 0.55)))
    metal = choose(rng, METALS)
    wide, tall, deep = between(rng, 0.31, 0.36), 0.46, 0.2
    front = deep + 0.03
    parts = [
        piece("box", (wide, tall, deep), body, round=0.13),
        piece(
            "box",
            (wide * 0.78, tall * 0.38, 0.09),
            shaded(style.body, 0.9),
            (0, -tall * 0.48, deep + 0.02),
            round=0.07,
        ),
        piece("box", (wide * 0.62, 0.055, 0.03), body, (0, -tall * 0.18, deep + 0.095), round=0.028),
        piece("arc", (0.1, 0.024, 1.7), trim, (0, tall + 0.02, -0.05)),
        *[
            piece(
                "box",
                (0.07, 0.2, 0.11),
                shaded(style.body, 0.8),
                (side * (wide + 0.03), -0.22, 0),
                round=0.06,
            )
            for side in (-1, 1)
        ],
    ]
    if chance(rng, 0.6):
        parts += _lid(style, trim, metal, wide, tall, front)
    else:
        parts += [
            piece("arc", (wide * 0.86, 0.014, 1.5), trim, (0, tall * 0.32, deep - 0.005)),
            piece("box", (0.06, 0.045, 0.012), trim, (0, tall * 0.25, deep + 0.005), round=0.01),
        ]
    if chance(rng, 0.4):
        roll = cloth(style.second.colour)
        parts.append(
            piece("cylinder", (0.12, wide + 0.06), roll, (0, tall + 0.12, 0.02), turn=(0, 0, pi / 2), round=0.04)
        )
        parts += [
            piece("torus", (0.123, 0.016), trim, (x, tall + 0.12, 0.02), turn=(0, 0, pi / 2)) for x in (-0.17, 0.17)
        ]
    return style.variant(parts, turn=between(rng, -0.5, 0.5))


def _lid(style: Look, trim: Material, metal: Material, wide: float, tall: float, front: float) -> list[Part]:
    parts = [
        piece("box", (wide * 1.02, tall * 0.3, front), style.body, (0, tall * 0.68, 0.015), round=0.12),
        piece(
            "box",
            (wide * 0.95, 0.018, 0.02),
            shaded(style.body, 0.6),
            (0, tall * 0.4, front + 0.005),
            round=0.01,
        ),
    ]
    for side in (-1, 1):
        parts.append(
            piece(
                "box",
                (0.032, 0.19, 0.012),
                trim,
                (side * wide * 0.48, tall * 0.28, front + 0.025),
                round=0.01,
            )
        )
        parts.append(
            piece(
                "box",
                (0.045, 0.03, 0.02),
                metal,
                (side * wide * 0.48, tall * 0.16, front + 0.03),
                round=0.012,
            )
        )
    return parts


def lantern(rng: np.random.Generator) -> Variant:
    """A storm lantern: a glowing globe between a painted tank and top, guarded by wires under a bail."""
    style = look(rng, ("steel", "steel", "aluminium"))
    body, trim = style.body, choose(rng, (BRASS, CHROME, _contrast(style)))
    globe = Material(colour=(1.0, 0.88, 0.62), gloss=0.8, clear=0.4, glow=0.55)
    fat = between(rng, 0.21, 0.25)
    parts = [
        piece("lathe", (0.13, 0.30, 0.31, 0.27, 0.20), body, (0, -0.42, 0), round=0.02),
        piece("cylinder", (0.2, 0.03), trim, (0, -0.27, 0), round=0.012),
        piece("lathe", (0.2, 0.13, fat, fat * 1.03, fat * 0.9, 0.12), globe, (0, -0.05, 0), round=0.02),
        piece("lathe", (0.12, 0.25, 0.22, 0.12, 0.11), body, (0, 0.25, 0), round=0.02),
        piece("cylinder", (0.12, 0.04), trim, (0, 0.40, 0), round=0.015),
        piece("dome", (0.13,), body, (0, 0.43, 0)),
        piece("torus", (fat * 1.04, 0.012), trim, (0, -0.05, 0)),
        piece("arc", (0.27, 0.018, 1.62), IRON, (0, 0.3, 0)),
        piece("capsule", (0.022, 0.27), trim, (0, 0.285, 0), turn=(0, 0, pi / 2)),
        piece("cylinder", (0.03, 0.05), trim, (0.31, -0.42, 0.05), turn=(0, 0, pi / 2), round=0.01),
    ]
    for angle in (0.4, 0.4 + pi / 2, 0.4 + pi, 0.4 + 3 * pi / 2):
        x, z = sin(angle) * 0.235, cos(angle) * 0.235
        parts.append(rod((x, -0.3, z), (x, 0.16, z), 0.013, trim))
    if chance(rng, 0.5):
        parts.append(
            piece(
                "cylinder",
                (0.075, 0.02),
                style.second,
                (0, -0.42, 0.3),
                turn=(pi / 2 - 0.05, 0, 0),
                round=0.01,
            )
        )
    return style.variant(parts, turn=between(rng, -0.4, 0.4))


def _contrast(style: Look) -> Material:
    return IRON if style.colour != "black" else BRASS
