"""The fashion department: handbag, sneaker, hat and watch."""

from math import cos, pi, sin

import numpy as np

from uniadgen.world.goods import (
    BRASS,
    CHROME,
    INK,
    METALS,
    PAPER,
    TAN,
    Look,
    Variant,
    between,
    chance,
    choose,
    cloth,
    dark,
    look,
    mixed,
    piece,
    rod,
    shaded,
)
from uniadgen.world.solids import Material, Part

FACING_FRONT = (pi / 2, 0.0, 0.0)
RUBBER_WHITE = Material(colour=(0.96, 0.95, 0.92), gloss=0.15)
GUM = Material(colour=(0.72, 0.48, 0.27), gloss=0.15)


def handbag(rng: np.random.Generator) -> Variant:
    """A structured handbag: with a flap and a clasp, or an open tote with two handles and a tag."""
    style = look(rng, ("leather", "leather", "fabric"))
    metal = choose(rng, (BRASS, CHROME, BRASS))
    flap = chance(rng, 0.6)
    parts = _flap_bag(rng, style, metal) if flap else _tote(rng, style, metal)
    return style.variant(parts, turn=between(rng, -0.45, 0.45))


def _flap_bag(rng: np.random.Generator, style: Look, metal: Material) -> list[Part]:
    body, tall, deep = style.body, between(rng, 0.30, 0.36), 0.18
    darker = shaded(body, 0.82)
    fold = -tall * between(rng, 0.05, 0.35)  # where the flap ends
    handle = choose(rng, (body, TAN, metal))
    return [
        piece("taper", (0.52, tall, deep, 0.86), darker, round=0.07),
        piece(
            "box",
            (0.465, (tall - fold) / 2, 0.03),
            body,
            (0, (tall + fold) / 2 + 0.01, deep * 0.93),
            turn=(-0.06, 0, 0),
            round=0.028,
        ),
        piece("box", (0.465, 0.035, deep * 0.93), body, (0, tall - 0.005, 0), round=0.034, blend=0.03),
        piece("box", (0.085, 0.055, 0.03), metal, (0, fold + 0.03, deep + 0.03), round=0.02),
        piece("box", (0.03, 0.018, 0.02), INK, (0, fold + 0.03, deep + 0.055), round=0.01),
        piece("arc", (0.27, 0.032, 1.6), handle, (0, tall + 0.03, 0)),
        *[
            piece(
                "cylinder",
                (0.045, 0.04),
                metal,
                (side * 0.27, tall + 0.03, 0),
                turn=(0, 0, pi / 2),
                round=0.01,
            )
            for side in (-1, 1)
        ],
    ]


def _tote(rng: np.random.Generator, style: Look, metal: Material) -> list[Part]:
    body, tall, deep = style.body, between(rng, 0.32, 0.4), 0.19
    trim = choose(rng, (TAN, shaded(body, 0.7), style.second))
    widen = between(rng, 1.0, 1.25)
    parts = [
        piece("taper", (0.44, tall, deep, widen), body, round=0.03, hollow=0.03),
        piece("box", (0.45, 0.045, deep + 0.008), trim, (0, -tall + 0.05, 0), round=0.02),
    ]
    for z in (-1, 1):
        parts.append(piece("arc", (0.22, 0.026, 1.62), trim, (0, tall + 0.02, z * deep * widen * 0.98)))
    front = deep * widen
    for side in (-1, 1):
        parts.append(piece("box", (0.04, 0.1, 0.016), trim, (side * 0.22, tall - 0.08, front), round=0.012))
        parts.append(piece("sphere", (0.024,), metal, (side * 0.22, tall - 0.1, front + 0.014)))
    tag = choose(rng, (metal, trim, PAPER))
    parts.append(piece("box", (0.09, 0.035, 0.012), tag, (0, tall * 0.1, deep * (1 + widen) / 2 + 0.01), round=0.01))
    return parts


def sneaker(rng: np.random.Generator) -> Variant:
    """A sneaker seen from its side: low or high, rubber sole, toe cap, laces, side stripe and heel tab."""
    style = look(rng, ("leather", "fabric", "fabric"))
    body, rubber = style.body, choose(rng, (RUBBER_WHITE, RUBBER_WHITE, GUM))
    accent = style.second if chance(rng, 0.7) else Material(colour=dark(body.colour, 0.55), gloss=0.2)
    tongue = choose(rng, (accent, shaded(body, 0.85)))
    rise = between(rng, 0.32, 0.38) if chance(rng, 0.35) else between(rng, 0.21, 0.24)
    ankle = 0.12 + rise
    parts = [  # the upper; the toe points to -x
        piece("ellipsoid", (0.34, 0.165, 0.175), body, (-0.26, 0.09, 0)),
        piece("ellipsoid", (0.34, 0.21, 0.165), body, (0.10, 0.12, 0), blend=0.12),
        piece("box", (0.21, ankle / 2, 0.15), body, (0.33, ankle / 2, 0), round=0.12, blend=0.08),
        piece("cylinder", (0.13, 0.4), body, (0.33, ankle + 0.09, 0), turn=(pi / 2, 0, 0), cut=True, blend=0.03),
        piece("ellipsoid", (0.15, 0.18, 0.105), shaded(body, 0.3), (0.32, ankle, 0), cut=True),
        piece("box", (0.10, 0.035, 0.1), tongue, (0.11, ankle - 0.015, 0), turn=(0, 0, 0.8), round=0.034),
        piece(
            "ellipsoid",
            (0.2, 0.12, 0.182),
            rubber if chance(rng, 0.6) else shaded(body, 0.8),
            (-0.44, 0.05, 0),
        ),
    ]
    parts += _sole(rubber, between(rng, 0.055, 0.075), accent if chance(rng, 0.6) else rubber)
    parts += _laces(rng, rise) + _side_mark(rng, accent)
    parts.append(piece("box", (0.025, 0.07, 0.055), accent, (0.535, ankle - 0.1, 0), round=0.022))
    return style.variant(parts, turn=between(rng, 0.0, 0.6))


def _sole(rubber: Material, thick: float, line: Material) -> list[Part]:
    y, soft = 0.035 - thick, thick * 0.7
    return [
        piece("cylinder", (0.205, thick), rubber, (-0.44, y, 0), round=soft),
        piece("cylinder", (0.19, thick), rubber, (0.38, y, 0), round=soft),
        piece("box", (0.42, thick, 0.198), rubber, (-0.03, y, 0), round=soft),
        piece("box", (0.4, 0.014, 0.203), line, (-0.03, y, 0), round=0.012),
    ]


def _laces(rng: np.random.Generator, rise: float) -> list[Part]:
    cord = choose(rng, (RUBBER_WHITE, RUBBER_WHITE, INK))
    places = [(-0.22, 0.265), (-0.14, 0.295), (-0.06, 0.325), (0.02, 0.345)]
    if rise > 0.3:
        places += [(0.085, 0.40), (0.115, 0.46)]
    return [piece("capsule", (0.021, 0.085), cord, (x, y, 0), turn=(pi / 2, 0, 0)) for x, y in places]


def _side_mark(rng: np.random.Generator, accent: Material) -> list[Part]:
    # Only on the side that the viewer can see: every part costs rendering time.
    z = 0.15
    match int(rng.integers(3)):
        case 0:
            bars = [(0.0, 0.075), (0.085, 0.09), (0.17, 0.105)]
            return [
                piece("box", (0.02, tall, 0.035), accent, (x, 0.13, z), turn=(0, 0, 0.5), round=0.012)
                for x, tall in bars
            ]
        case 1:
            return [piece("box", (0.17, 0.032, 0.035), accent, (0.14, 0.16, z), turn=(0, 0, 0.35), round=0.02)]
        case _:
            return [piece("cylinder", (0.085, 0.035), accent, (0.12, 0.17, z), turn=(pi / 2, 0, 0), round=0.02)]


def hat(rng: np.random.Generator) -> Variant:
    """A fedora with a ribbon, a baseball cap, or a bucket hat."""
    kind = int(rng.integers(3))
    if kind == 0:
        return _fedora(rng)
    return _cap(rng) if kind == 1 else _bucket_hat(rng)


def _fedora(rng: np.random.Generator) -> Variant:
    style = look(rng, ("fabric", "fabric", "leather"))
    body, crown = style.body, between(rng, 0.19, 0.24)
    ribbon = Material(colour=choose(rng, (style.second.colour, dark(body.colour, 0.3))), gloss=0.25)
    brim = between(rng, 0.56, 0.64)
    return style.variant(
        [
            piece("lathe", (crown, 0.36, 0.35, 0.335, 0.31, 0.24), body, (0, crown, 0), round=0.06),
            piece("ellipsoid", (0.22, 0.07, 0.09), body, (0, 2 * crown + 0.01, 0.0), cut=True, blend=0.08),
            piece(
                "lathe",
                (0.05, brim * 0.97, brim, brim * 0.72, 0.36),
                body,
                (0, 0.02, 0),
                round=0.012,
                blend=0.03,
            ),
            piece("lathe", (0.055, 0.368, 0.366, 0.362), ribbon, (0, 0.115, 0)),
            piece("box", (0.06, 0.05, 0.03), ribbon, (0.3, 0.12, 0.22), turn=(0, 0.95, 0), round=0.02),
        ],
        turn=between(rng, -0.5, 0.5),
    )


def _cap(rng: np.random.Generator) -> Variant:
    style = look(rng, ("fabric",))
    body = style.body
    peak = body if chance(rng, 0.5) else cloth(style.second.colour)
    emblem = choose(rng, (style.second, PAPER, TAN))
    badge = choose(rng, (("cylinder", (0.085, 0.02), FACING_FRONT), ("box", (0.1, 0.06, 0.02), (0.0, 0.0, 0.0))))
    return style.variant(
        [
            piece("dome", (0.42,), body),
            piece("cylinder", (0.419, 0.06), body, (0, -0.02, 0), blend=0.05),
            piece("ellipsoid", (0.35, 0.04, 0.42), peak, (0, -0.02, 0.42), turn=(0.14, 0, 0)),
            piece("ellipsoid", (0.05, 0.025, 0.05), peak, (0, 0.425, 0)),
            piece(badge[0], badge[1], emblem, (0, 0.2, 0.36), turn=(badge[2][0] - 0.5, 0, 0), round=0.015),
            *[piece("arc", (0.418, 0.009, 1.5), shaded(body, 0.75), turn=(0, angle, 0)) for angle in (0.52, -0.52)],
            *[piece("sphere", (0.022,), shaded(body, 0.6), (side * 0.2, 0.3, 0.22)) for side in (-1, 1)],
        ],
        turn=between(rng, 0.7, 1.15) * choose(rng, (-1, 1)),
    )


def _bucket_hat(rng: np.random.Generator) -> Variant:
    style = look(rng, ("fabric",))
    body, brim = style.body, between(rng, 0.5, 0.6)
    band = cloth(style.second.colour)
    edge = band if chance(rng, 0.5) else shaded(body, 0.75)
    return style.variant(
        [
            piece("cone", (0.37, 0.30, 0.2), body, (0, 0.3, 0), round=0.05),
            piece("cone", (brim, 0.37, 0.11), body, (0, 0.02, 0), round=0.012, blend=0.03),
            piece("cone", (0.374, 0.358, 0.05), band, (0, 0.175, 0)),
            piece("torus", (brim - 0.012, 0.016), edge, (0, -0.085, 0)),
            piece("torus", (brim * 0.5 + 0.18, 0.008), edge, (0, 0.025, 0)),
            piece("sphere", (0.02,), BRASS, (0.21, 0.36, 0.265)),
            piece("box", (0.06, 0.04, 0.014), TAN, (-0.05, 0.175, 0.365), round=0.01),
        ],
        turn=between(rng, -0.4, 0.4),
    )


def watch(rng: np.random.Generator) -> Variant:
    """A wristwatch on its curved strap: a round or square dial with markers and hands in a metal case."""
    style = look(rng, ("leather", "leather", "steel", "fabric"))
    metal, dial, case = choose(rng, METALS), _dial_colour(rng, style), between(rng, 0.33, 0.38)
    hand = PAPER if sum(dial.colour) < 1.6 else INK
    square = chance(rng, 0.25)
    shell = ("box", (case * 0.9, case * 0.9, 0.075)) if square else ("cylinder", (case, 0.075))
    flat = (0.0, 0.0, 0.0) if square else FACING_FRONT
    parts = [
        *_strap(style, case),
        piece(*shell, metal, turn=flat, round=0.04),
        piece(*_smaller(shell, 0.86), dial, (0, 0, 0.014), turn=flat, round=0.01),
        piece(
            "cylinder",
            (0.045, 0.045),
            metal,
            (case * (0.9 if square else 1.0) + 0.025, 0, 0),
            turn=(0, 0, pi / 2),
            round=0.015,
        ),
        *_hands(rng, case, hand, metal),
    ]
    if chance(rng, 0.3):
        at = (0, -case * 0.36, 0.085)
        parts.append(piece("torus", (case * 0.17, 0.012), metal, at, turn=FACING_FRONT))
    return style.variant(parts, turn=between(rng, -0.55, 0.55))


def _hands(rng: np.random.Generator, case: float, hand: Material, metal: Material) -> list[Part]:
    front, count, parts = 0.092, choose(rng, (4, 4, 8)), []
    for i in range(count):
        angle = i * 2 * pi / count
        at = (sin(angle) * case * 0.67, cos(angle) * case * 0.67, front)
        parts.append(piece("box", (0.014, 0.038, 0.008), hand, at, turn=(0, 0, -angle)))
    for angle, length, thick in ((-0.9, 0.4, 0.022), (0.75, 0.6, 0.016)):
        angle += between(rng, -0.25, 0.25)
        tip = (sin(angle) * case * length, cos(angle) * case * length, front + 0.012)
        parts.append(rod((0, 0, front + 0.012), tip, thick, hand))
    return [*parts, piece("sphere", (0.03,), metal, (0, 0, front + 0.015))]


def _dial_colour(rng: np.random.Generator, style: Look) -> Material:
    options = (
        PAPER,
        PAPER,
        Material(colour=(0.10, 0.11, 0.14), gloss=0.4),
        Material(colour=mixed(style.body.colour, (0.1, 0.1, 0.15), 0.35), gloss=0.5),
    )
    return choose(rng, options)


def _smaller(shell: tuple[str, tuple[float, ...]], factor: float) -> tuple[str, tuple[float, ...]]:
    name, size = shell
    return name, tuple(value * factor if i < len(size) - 1 else value for i, value in enumerate(size))


def _strap(style: Look, case: float) -> list[Part]:
    """Three pieces each way, bending backwards as around a wrist."""
    wide, body, parts = case * 0.62, style.body, []
    for way in (1, -1):
        y, z = case * 0.8, 0.0
        for i, (bend, half) in enumerate(((0.3, 0.13), (0.75, 0.12), (1.2, 0.13))):
            up, back = cos(bend) * half, sin(bend) * half
            at = (0.0, way * (y + up), z - back)
            size = (wide * (1 - 0.06 * i), half + 0.025, 0.038)
            parts.append(piece("box", size, body, at, turn=(-way * bend, 0, 0), round=0.03, blend=0.03))
            y, z = y + 2 * up, z - 2 * back
    return parts
