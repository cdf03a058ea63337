"""The living department: lamp, sofa, vase and clock."""

from math import cos, pi, sin

import numpy as np

from uniadgen.world.goods import (
    BRASS,
    CHROME,
    INK,
    IRON,
    METALS,
    OAK,
    PAPER,
    WALNUT,
    WOODS,
    Look,
    Variant,
    between,
    chance,
    choose,
    decorated,
    look,
    piece,
    rod,
    shaded,
)
from uniadgen.world.solids import Colour, Material, Part

GLOW = Material(colour=(1.0, 0.93, 0.76), glow=0.9)
STEM = Material(colour=(0.33, 0.45, 0.24), gloss=0.1)
PETALS: tuple[Colour, ...] = ((0.93, 0.42, 0.45), (0.97, 0.78, 0.30), (0.98, 0.95, 0.92), (0.62, 0.45, 0.75))


def lamp(rng: np.random.Generator) -> Variant:
    """A table lamp: a fabric shade on a turned base, a mushroom, or an architect's lamp with joints."""
    kind = int(rng.integers(3))
    if kind == 0:
        return _shade_lamp(rng)
    return _mushroom_lamp(rng) if kind == 1 else _desk_lamp(rng)


def _shade_lamp(rng: np.random.Generator) -> Variant:
    style = look(rng, ("fabric", "ceramic"))
    linen = Material(colour=(0.97, 0.92, 0.82), pattern="fabric", scale=0.03, gloss=0.02, glow=0.25)
    shade, base = linen, style.body
    if style.finish == "fabric":
        shade = Material(colour=style.body.colour, pattern="fabric", scale=0.03, gloss=0.02, glow=0.12)
        base = choose(rng, (*WOODS, BRASS, PAPER))
    wide, tall = between(rng, 0.34, 0.42), between(rng, 0.17, 0.23)
    foot = choose(rng, ((0.12, 0.2, 0.21, 0.13, 0.05), (0.2, 0.21, 0.16, 0.08, 0.045), (0.1, 0.22, 0.12, 0.2, 0.05)))
    return style.variant(
        [
            piece("lathe", (0.25, *foot), base, (0, -0.25, 0), round=0.02),
            piece("cylinder", (0.18, 0.02), BRASS, (0, -0.5, 0), round=0.01),
            piece("cylinder", (0.022, 0.14), BRASS, (0, 0.1, 0)),
            piece("cone", (wide, wide * between(rng, 0.5, 0.75), tall), shade, (0, 0.32, 0), round=0.01),
            piece("torus", (wide - 0.005, 0.012), BRASS, (0, 0.32 - tall + 0.005, 0)),
            piece("sphere", (0.03,), BRASS, (0, 0.32 + tall + 0.025, 0)),
        ]
    )


def _mushroom_lamp(rng: np.random.Generator) -> Variant:
    style = look(rng, ("steel", "glass", "plastic"))
    wide, metal = between(rng, 0.40, 0.48), choose(rng, METALS)
    stem = style.body if chance(rng, 0.6) else metal
    return style.variant(
        [
            piece("lathe", (0.32, 0.24, 0.13, 0.10, 0.12), stem, (0, -0.3, 0), round=0.02),
            piece("cylinder", (wide * 0.9, 0.015), GLOW, (0, -0.03, 0)),
            piece("lathe", (0.19, wide, wide * 0.98, wide * 0.75, 0.08), style.body, (0, 0.15, 0), round=0.03),
            piece("torus", (wide * 0.98, 0.018), metal, (0, -0.03, 0)),
            piece("sphere", (0.035,), metal, (0, 0.36, 0)),
            piece("cylinder", (0.25, 0.018), metal, (0, -0.615, 0), round=0.01),
        ]
    )


def _desk_lamp(rng: np.random.Generator) -> Variant:
    style = look(rng, ("aluminium", "steel"))
    joint = choose(rng, METALS)
    elbow, wrist = (-between(rng, 0.22, 0.32), 0.48, 0.0), (0.2, between(rng, 0.88, 0.98), 0.0)
    drop = between(rng, 0.5, 0.8)
    head = (wrist[0] + 0.14 * sin(drop), wrist[1] - 0.14 * cos(drop), 0.0)
    bulb = (wrist[0] + 0.27 * sin(drop), wrist[1] - 0.27 * cos(drop), 0.0)
    return style.variant(
        [
            piece("cylinder", (0.25, 0.035), style.body, (0, 0.03, 0), round=0.025),
            rod((0, 0.05, 0), elbow, 0.028, joint),
            rod(elbow, wrist, 0.028, joint),
            piece("cylinder", (0.05, 0.05), style.body, elbow, turn=(pi / 2, 0, 0), round=0.015),
            piece(
                "lathe",
                (0.17, 0.23, 0.21, 0.14, 0.075, 0.06),
                style.body,
                head,
                turn=(0, 0, drop),
                round=0.015,
            ),
            piece("sphere", (0.12,), GLOW, bulb),
            piece("cylinder", (0.05, 0.05), joint, wrist, turn=(pi / 2, 0, 0), round=0.015),
        ],
        turn=between(rng, -0.4, 0.1),
    )


def sofa(rng: np.random.Generator) -> Variant:
    """A sofa or an armchair: padded arms, seat and back cushions, slender legs, a throw pillow."""
    style = look(rng, ("fabric", "fabric", "leather"))
    seats = choose(rng, (2, 2, 1))
    wide, arm = 0.36 * seats + 0.1, between(rng, 0.09, 0.13)
    deep, rise = 0.34, between(rng, 0.36, 0.44)
    soft, legs = between(rng, 0.05, 0.085), choose(rng, (OAK, WALNUT, BRASS, IRON))
    body = style.body
    shadow = shaded(body, 0.88)
    parts = [
        piece("box", (wide, 0.10, deep), shadow, (0, 0.22, 0), round=0.04),
        piece(
            "box",
            (wide, rise * 0.62, 0.10),
            body,
            (0, 0.14 + rise * 0.62, -deep + 0.08),
            turn=(-0.1, 0, 0),
            round=soft,
        ),
    ]
    boxy = chance(rng, 0.5)
    for side in (-1, 1):
        at = (side * (wide + arm * 0.6), 0.34, 0.02)
        if boxy:
            parts.append(piece("box", (arm, 0.22, deep), body, at, round=soft))
        else:
            parts.append(piece("capsule", (arm * 1.1, deep - arm), body, (at[0], 0.46, 0.02), turn=(pi / 2, 0, 0)))
            parts.append(piece("box", (arm * 0.8, 0.17, deep - 0.03), body, (at[0], 0.29, 0.02), round=0.04))
    for seat in range(seats):
        x = (seat - (seats - 1) / 2) * 2 * (wide / seats)
        half = wide / seats - 0.012
        parts.append(piece("box", (half, 0.085, deep * 0.9), body, (x, 0.36, 0.06), round=soft * 0.95))
        parts.append(piece("box", (half, 0.2, 0.09), body, (x, 0.60, -0.12), turn=(-0.2, 0, 0), round=soft))
    parts += _sofa_legs(wide, deep, legs) + _pillow(rng, style, wide)
    return style.variant(parts, turn=between(rng, -0.45, 0.45))


def _sofa_legs(wide: float, deep: float, legs: Material) -> list[Part]:
    return [
        piece("cone", (0.022, 0.04, 0.09), legs, (x, 0.05, z), turn=(0, 0, 0.15 if x > 0 else -0.15))
        for x in (-wide + 0.02, wide - 0.02)
        for z in (-deep + 0.1, deep - 0.06)
    ]


def _pillow(rng: np.random.Generator, style: Look, wide: float) -> list[Part]:
    if chance(rng, 0.3):
        return []
    pattern = choose(rng, ("stripes", "fabric", "fabric"))
    cover = Material(colour=style.second.colour, accent=style.body.colour, pattern=pattern, scale=0.05, gloss=0.02)
    side = choose(rng, (-1, 1))
    return [
        piece(
            "box",
            (0.16, 0.15, 0.06),
            cover,
            (side * wide * 0.6, 0.58, 0.07),
            turn=(-0.3, 0, side * 0.2),
            round=0.055,
        )
    ]


def vase(rng: np.random.Generator) -> Variant:
    """A turned vase, plain or banded, with tulips, eucalyptus, pampas grass or nothing in it."""
    style = look(rng, ("ceramic", "ceramic", "glass"))
    shapes = (
        (0.20, 0.36, 0.38, 0.22, 0.13, 0.17),
        (0.16, 0.24, 0.33, 0.36, 0.26, 0.15),
        (0.24, 0.27, 0.25, 0.17, 0.10, 0.15),
        (0.18, 0.30, 0.20, 0.32, 0.20, 0.16),
        (0.30, 0.33, 0.33, 0.30, 0.18, 0.18),
    )
    stretch, half = between(rng, 0.85, 1.1), between(rng, 0.38, 0.46)
    radii = tuple(radius * stretch for radius in choose(rng, shapes))
    glaze = decorated(rng, style, 0.25)
    parts = [piece("lathe", (half, *radii), glaze, round=0.02, hollow=0.035)]
    if style.finish == "ceramic" and chance(rng, 0.6):
        parts.append(piece("torus", (radii[-1] - 0.015, 0.022), choose(rng, (style.second, BRASS)), (0, half, 0)))
    kind = int(rng.integers(4))
    if kind == 0:
        parts += _tulips(rng, half)
    elif kind == 1:
        parts += _leaves(rng, half)
    elif kind == 2:
        parts += _grass(rng, half)
    elif chance(rng, 0.6):
        parts += _ears(radii[-2], half, style.body)
    else:
        foot = choose(rng, (OAK, WALNUT, BRASS))
        parts.append(piece("cylinder", (radii[0] + 0.03, 0.04), foot, (0, -half + 0.01, 0), round=0.02))
    return style.variant(parts)


def _ears(neck: float, half: float, body: Material) -> list[Part]:
    return [
        piece("arc", (0.15, 0.03, 2.0), body, (side * (neck + 0.05), half * 0.5, 0), turn=(0, 0, -side * pi / 2))
        for side in (-1, 1)
    ]


def _stems(rng: np.random.Generator, half: float, leans: tuple[float, ...], tall: float) -> list[tuple[float, ...]]:
    """For each stem: its lean in radians and the x, y, z of its tip."""
    tips = []
    for i, lean in enumerate(leans):
        lean += between(rng, -0.06, 0.06)
        length = tall * between(rng, 0.9, 1.15)
        tips.append((lean, sin(lean) * length, half - 0.1 + cos(lean) * length, 0.05 * (-1) ** i))
    return tips


def _tulips(rng: np.random.Generator, half: float) -> list[Part]:
    petal = Material(colour=choose(rng, PETALS), gloss=0.2)
    parts = []
    for lean, x, y, z in _stems(rng, half, (-0.45, 0.0, 0.42), 0.42):
        parts.append(rod((0, half - 0.2, 0), (x, y, z), 0.016, STEM))
        parts.append(
            piece(
                "lathe",
                (0.11, 0.03, 0.085, 0.09, 0.06),
                petal,
                (x, y + 0.07, z),
                turn=(0, 0, -lean),
                round=0.02,
            )
        )
    return parts


def _leaves(rng: np.random.Generator, half: float) -> list[Part]:
    leaf = Material(colour=choose(rng, ((0.42, 0.55, 0.45), (0.30, 0.48, 0.28), (0.55, 0.62, 0.42))), gloss=0.15)
    parts = []
    for lean, x, y, z in _stems(rng, half, (-0.5, 0.28), 0.6):
        parts.append(rod((0, half - 0.2, 0), (x, y, z), 0.014, STEM))
        for i, share in enumerate((0.62, 0.82, 1.0)):
            side = -1 if i % 2 else 1
            at = (x * share + side * 0.075, half - 0.2 + (y - half + 0.2) * share + 0.03, z)
            parts.append(piece("ellipsoid", (0.085, 0.06, 0.018), leaf, at, turn=(0.3, side * 0.4, side * 0.6 - lean)))
    return parts


def _grass(rng: np.random.Generator, half: float) -> list[Part]:
    plume = Material(colour=choose(rng, ((0.88, 0.76, 0.58), (0.93, 0.88, 0.80), (0.80, 0.58, 0.48))), pattern="fabric")
    parts = []
    for lean, x, y, z in _stems(rng, half, (-0.4, 0.02, 0.38), 0.5):
        parts.append(rod((0, half - 0.2, 0), (x, y, z), 0.012, Material(colour=(0.75, 0.63, 0.42))))
        parts.append(piece("lathe", (0.22, 0.03, 0.075, 0.06, 0.012), plume, (x, y, z), turn=(0, 0, -lean)))
    return parts


def clock(rng: np.random.Generator) -> Variant:
    """An alarm clock with twin bells and feet, or a quiet wooden or metal clock on a stand."""
    return _alarm_clock(rng) if chance(rng, 0.6) else _table_clock(rng)


def _dial(rng: np.random.Generator, wide: float, front: float, style: Look) -> list[Part]:
    face = PAPER if chance(rng, 0.75) or style.colour == "black" else Material(colour=(0.13, 0.13, 0.15), gloss=0.1)
    hand = INK if face is PAPER else PAPER
    parts = [piece("cylinder", (wide, 0.02), face, (0, 0, front), turn=(pi / 2, 0, 0))]
    for i in range(4):
        x, y = sin(i * pi / 2), cos(i * pi / 2)
        at = (x * wide * 0.8, y * wide * 0.8, front + 0.015)
        parts.append(piece("box", (0.014, 0.04, 0.012), hand, at, turn=(0, 0, -i * pi / 2)))
    for angle, length, thick in ((-1.0, 0.5, 0.024), (0.95, 0.72, 0.016)):
        angle += between(rng, -0.25, 0.25)
        tip = (sin(angle) * wide * length, cos(angle) * wide * length, front + 0.035)
        parts.append(rod((0, 0, front + 0.035), tip, thick, hand))
    accent = style.body if face is PAPER else BRASS
    return [*parts, piece("sphere", (0.035,), accent, (0, 0, front + 0.035))]


def _alarm_clock(rng: np.random.Generator) -> Variant:
    style = look(rng, ("steel", "aluminium", "plastic"))
    metal = choose(rng, (BRASS, CHROME, style.body))
    wide = 0.42
    parts = [
        piece("cylinder", (wide, 0.14), style.body, turn=(pi / 2, 0, 0), round=0.05),
        piece("torus", (wide - 0.03, 0.035), metal, (0, 0, 0.13), turn=(pi / 2, 0, 0)),
        *_dial(rng, wide - 0.055, 0.125, style),
    ]
    for side in (-1, 1):
        lean = side * 0.6
        x, y = sin(lean), cos(lean)
        parts.append(piece("dome", (0.155,), metal, (x * (wide + 0.04), y * (wide + 0.04), 0), turn=(0, 0, -lean)))
        parts.append(rod((side * 0.22, -0.32, 0), (side * 0.32, -0.5, 0), 0.035, metal))
    parts.append(piece("arc", (0.13, 0.02, 1.7), IRON, (0, wide + 0.09, 0)))
    return style.variant(parts, turn=between(rng, -0.4, 0.4))


def _table_clock(rng: np.random.Generator) -> Variant:
    style = look(rng, ("wood", "ceramic", "aluminium"))
    wide, arched = 0.44, chance(rng, 0.5)
    ring = style.body
    if arched:
        shell = [
            piece("arch", (wide, 0.46, 0.14), ring, (0, -0.46, 0), round=0.05),
            piece("box", (wide + 0.07, 0.035, 0.19), choose(rng, (BRASS, *WOODS)), (0, -0.48, 0), round=0.02),
        ]
    else:
        shell = [
            piece("cylinder", (wide, 0.12), ring, turn=(pi / 2, 0, 0), round=0.04),
            piece("box", (0.3, 0.06, 0.17), choose(rng, WOODS), (0, -wide - 0.02, 0), round=0.02),
        ]
    front = 0.125 if arched else 0.105
    bezel = piece("torus", (wide - 0.08, 0.025), choose(rng, METALS), (0, 0, front + 0.015), turn=(pi / 2, 0, 0))
    return style.variant([*shell, *_dial(rng, wide - 0.09, front + 0.01, style), bezel], turn=between(rng, -0.4, 0.4))
