"""Sixteen sets to photograph a product on, built from a palette's materials; the stage's top is always y = 0."""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi, sin
from typing import Any, Final, Literal

import numpy as np

from uniadgen.world.palettes import Palette, marble, matt, metal, mixed, planks, wood
from uniadgen.world.solids import Material, Part, Solid, Vector


@dataclass(frozen=True, kw_only=True)
class Set:
    """What a layout builds: solids, and the room around them."""

    solids: tuple[Solid, ...]
    wall: Material
    floor: Material
    floor_height: float = 0.0
    wall_depth: float = -1.7
    cove: float = 0.0
    gobo: Literal["none", "window", "blinds", "leaves"] = "none"


Layout = Callable[[Palette, np.random.Generator], Set]


def _part(shape: str, size: tuple[float, ...], at: Vector, material: Material, **more: Any) -> Part:
    return Part(shape=shape, size=size, at=at, material=material, **more)


def _jitter(rng: np.random.Generator, width: float = 0.03) -> float:
    return float(rng.uniform(-width, width))


def _ball(radius: float, x: float, z: float, material: Material, ground: float = 0.0) -> Solid:
    return (_part("sphere", (radius,), (x, ground + radius, z), material),)


def podium(palette: Palette, rng: np.random.Generator) -> Set:
    """A round stage of two tiers with a ball and a drum beside it."""
    stage, top, low = matt(palette.stage, 0.3), matt(mixed(palette.stage, palette.accent2, 0.35), 0.3), -0.34
    return Set(
        solids=(
            (_part("cylinder", (0.74, 0.11), (0, -0.11, 0), top, round=0.025),),
            (_part("cylinder", (0.98, 0.11), (0, -0.29, 0), stage, round=0.025),),
            _ball(0.21, 1.16 + _jitter(rng), -0.5, metal(palette), low),
            _ball(0.12, 0.96 + _jitter(rng), 0.42, matt(palette.accent, 0.5), low),
            (_part("cylinder", (0.22, 0.44), (-1.12 + _jitter(rng), low + 0.40, -0.55), top, round=0.02),),
            _ball(0.13, -1.12, -0.55, matt(palette.accent, 0.5), low + 0.84),
        ),
        wall=matt(palette.wall), floor=matt(palette.floor, 0.2), floor_height=low, cove=0.45,
    )  # fmt: skip


def arch(palette: Palette, rng: np.random.Generator) -> Set:
    """A wide arch of three nested rings on the back wall, and half arches at the sides."""
    shades = (palette.accent, palette.stage, palette.accent2)
    rings = tuple(
        (_part("arch", (0.98 - 0.2 * i, 0.5, 0.10), (0, 0, -1.55 + 0.14 * i), matt(shade), round=0.02),
         _part("arch", (0.80 - 0.2 * i, 0.5, 0.30), (0, -0.01, -1.45 + 0.14 * i), matt(shade), cut=True))
        for i, shade in enumerate(shades)
    )  # fmt: skip
    side = matt(palette.stage, 0.2)
    return Set(
        solids=(
            *rings,
            (_part("arc", (0.24, 0.075, pi / 2), (1.02 + _jitter(rng), 0, -0.35), side, turn=(0, 0.5, 0)),),
            (_part("arc", (0.17, 0.06, pi / 2), (-1.0 + _jitter(rng), 0, -0.3), metal(palette), turn=(0, -0.6, 0)),),
            _ball(0.1, -0.82, 0.25, matt(palette.accent, 0.5)),
        ),
        wall=matt(palette.wall), floor=matt(palette.floor, 0.2),
    )  # fmt: skip


def steps(palette: Palette, rng: np.random.Generator) -> Set:
    """Broad stairs that climb to the right, with a ball that seems to roll down."""
    flight = tuple(
        (
            _part(
                "box",
                (0.34, 0.15 * (i + 1), 0.62),
                (-1.1 + 0.62 * i, 0.15 * (i + 1), -1.05),
                stone,
                round=0.015,
            ),
        )
        for i, stone in enumerate(matt(mixed(palette.stage, palette.accent2, 0.75 - 0.25 * i), 0.2) for i in range(4))
    )
    low = tuple(
        (_part("box", (0.16, 0.11 * (3 - i), 0.3), (-1.22 + 0.3 * i, 0.11 * (3 - i) - 0.22, 0.3),
               matt(palette.accent, 0.2), round=0.012),)
        for i in range(2)
    )  # fmt: skip
    return Set(
        solids=(
            *flight, *low,
            _ball(0.16, -1.12 + _jitter(rng), -0.75, metal(palette), 0.30),
            _ball(0.13, 0.9 + _jitter(rng), -0.05, matt(palette.accent, 0.5)),
        ),
        wall=matt(palette.wall), floor=matt(palette.floor, 0.2),
    )  # fmt: skip


def window(palette: Palette, rng: np.random.Generator) -> Set:
    """Light through panes on the wall and floor, a window at the left, a low table of stone."""
    white, top = matt(palette.accent2, 0.3), marble(palette.floor, palette.accent)
    x = -0.92 + _jitter(rng)
    pane = Material(colour=mixed(palette.accent2, (0.85, 0.93, 1.0), 0.5), glow=0.75, gloss=0.3)
    return Set(
        solids=(
            (_part("frame", (0.42, 0.72, 0.07, 0.07), (x, 0.86, -1.62), white, round=0.015),
             _part("box", (0.03, 0.7, 0.05), (x, 0.86, -1.62), white),
             _part("box", (0.4, 0.03, 0.05), (x, 0.92, -1.62), white)),
            (_part("box", (0.40, 0.70, 0.01), (x, 0.86, -1.69), pane),),
            (_part("box", (0.5, 0.03, 0.13), (x, 0.11, -1.58), white, round=0.01),),
            (_part("box", (3.0, 0.05, 0.72), (0, -0.05, 0), top, round=0.02),),
            (_part("lathe", (0.2, 0.09, 0.16, 0.13, 0.06, 0.08), (1.0 + _jitter(rng), 0.2, -0.3),
                   matt(palette.accent, 0.5), hollow=0.02),),
        ),
        wall=matt(palette.wall), floor=matt(palette.floor), floor_height=-0.5, gobo="window",
    )  # fmt: skip


def shelf(palette: Palette, rng: np.random.Generator) -> Set:
    """Wooden shelves with books, vases and boxes on both sides."""
    board, low = wood(palette.stage), 0.0
    books = tuple(
        (_part("box", (0.035, 0.15 + 0.02 * ((3 * i) % 4), 0.12),
               (0.72 + 0.085 * i, 0.63 + 0.02 * ((3 * i) % 4), -1.5), matt(shade, 0.2), round=0.008),)
        for i, shade in enumerate((palette.accent, palette.accent2, palette.stage, palette.accent, palette.accent2))
    )  # fmt: skip
    return Set(
        solids=(
            (_part("box", (1.7, 0.035, 0.22), (0, 0.44, -1.5), board, round=0.01),),
            (_part("box", (1.7, 0.035, 0.22), (0, 1.18, -1.5), board, round=0.01),),
            *books,
            (_part("lathe", (0.24, 0.1, 0.18, 0.16, 0.06, 0.07, 0.09), (-0.98 + _jitter(rng), 0.715, -1.48),
                   matt(palette.accent2, 0.5), hollow=0.02),),
            _ball(0.12, -0.66, -1.48, metal(palette), 0.475),
            (_part("box", (0.17, 0.1, 0.14), (-0.8, 1.315, -1.48), matt(palette.accent), round=0.015),),
            _ball(0.11, 0.9 + _jitter(rng), -1.48, matt(palette.accent, 0.4), 1.215),
            (_part("cylinder", (0.13, 0.12), (0.98 + _jitter(rng), low + 0.12, -0.5), matt(palette.accent2, 0.3),
                   hollow=0.02, round=0.01),),
        ),
        wall=matt(palette.wall), floor=planks(palette.floor),
    )  # fmt: skip


def _plant(x: float, z: float, tall: float, leaf: Material, pot: Material, rng: np.random.Generator) -> list[Solid]:
    leaves: list[Part] = []
    for i in range(7):
        lean = (i - 3) * 0.30 + _jitter(rng, 0.05)
        reach = tall * (0.42 - 0.022 * abs(i - 3))
        spin = (0.5, -0.7, 0.35)[i % 3]
        middle = (x + 1.05 * reach * sin(lean), 0.26 + 1.05 * reach * cos(lean), z + 0.12 * spin)
        leaves.append(
            _part(
                "ellipsoid",
                (0.105 * (0.7 + 0.3 * tall), reach, 0.03),
                middle,
                leaf,
                turn=(0.15 * spin, spin, -lean),
            )
        )
    return [
        tuple(leaves),
        (_part("cone", (0.13, 0.18, 0.15), (x, 0.15, z), pot, round=0.02, hollow=0.025),),
    ]


def plants(palette: Palette, rng: np.random.Generator) -> Set:
    """Potted plants left and right; leaves throw their shade on the wall."""
    green = matt(mixed(palette.accent, (0.16, 0.42, 0.20), 0.75), 0.35)
    light = matt(mixed(palette.accent, (0.42, 0.62, 0.28), 0.75), 0.35)
    pot, other = matt(palette.accent2, 0.3), matt(palette.stage, 0.2)
    return Set(
        solids=(
            *_plant(-1.02, -0.75, 1.25, green, pot, rng),
            *_plant(1.05, -0.9, 1.5, light, other, rng),
            *_plant(-0.86, 0.28, 0.55, light, metal(palette, 0.6), rng),
        ),
        wall=matt(palette.wall), floor=matt(palette.floor, 0.2), cove=0.0, gobo="leaves",
    )  # fmt: skip


def columns(palette: Palette, rng: np.random.Generator) -> Set:
    """Four classical columns on plinths and a marble floor."""
    stone = marble(palette.accent2, palette.stage, 0.7)
    out: list[Solid] = []
    for x, z in ((-0.86, -0.75), (0.86, -0.75), (-1.42, -0.1), (1.42, -0.1)):
        x = x + _jitter(rng, 0.015)
        out += [
            (_part("prism", (0.145, 0.75, 14), (x, 0.79, z), stone, round=0.01),),
            (_part("box", (0.21, 0.045, 0.21), (x, 0.045, z), stone, round=0.012),
             _part("torus", (0.15, 0.035), (x, 0.12, z), stone),
             _part("torus", (0.15, 0.035), (x, 1.34, z), stone),
             _part("box", (0.21, 0.045, 0.21), (x, 1.42, z), stone, round=0.012)),
        ]  # fmt: skip
    floor = Material(
        colour=palette.floor,
        accent=mixed(palette.floor, palette.stage, 0.45),
        pattern="checks",
        scale=0.62,
        gloss=0.5,
    )
    return Set(solids=tuple(out), wall=matt(palette.wall), floor=floor, wall_depth=-1.9)


def spheres(palette: Palette, rng: np.random.Generator) -> Set:
    """Balls of all sizes, matt, glazed and metal, around the product."""
    looks = (
        matt(palette.accent, 0.55), matt(palette.stage, 0.3), metal(palette), matt(palette.accent2, 0.5),
    )  # fmt: skip
    places = (
        (-1.0, -0.85, 0.42, 0), (1.12, -0.95, 0.52, 1), (0.62, -1.25, 0.26, 3), (-0.52, -1.3, 0.22, 2),
        (-0.92, 0.0, 0.16, 3), (0.92, -0.02, 0.2, 2), (0.72, 0.5, 0.09, 0), (-0.66, 0.62, 0.11, 1),
        (-1.3, 0.1, 0.12, 2), (1.18, 0.35, 0.12, 3),
    )  # fmt: skip
    balls = tuple(_ball(r, x + _jitter(rng), z, looks[look]) for x, z, r, look in places)
    return Set(solids=balls, wall=matt(palette.wall), floor=matt(palette.floor, 0.35), cove=0.6)


def curtain(palette: Palette, rng: np.random.Generator) -> Set:
    """Heavy folds of cloth across the back, parted by a lighter cloth on the right."""
    cloth = Material(colour=palette.stage, pattern="fabric", scale=0.16, gloss=0.1)
    sheer = Material(colour=mixed(palette.accent2, palette.wall, 0.65), pattern="fabric", scale=0.16, gloss=0.1)
    slide = _jitter(rng, 0.04)
    stool = matt(palette.accent, 0.3)
    return Set(
        solids=(
            (_part("curtain", (0.95, 1.2, 0.02, 0.08, 0.46), (-0.86 + slide, 0.9, -1.25), cloth),),
            (_part("curtain", (0.85, 1.2, 0.02, 0.06, 0.4), (0.9 + slide, 0.9, -1.4), sheer),),
            (_part("cylinder", (0.8, 0.08), (0, -0.08, 0), stool, round=0.03),),
        ),
        wall=matt(palette.wall), floor=planks(palette.floor), floor_height=-0.12,
    )  # fmt: skip


def tiles(palette: Palette, rng: np.random.Generator) -> Set:
    """A tiled wall, a thick marble worktop, a board and jars."""
    wall = Material(
        colour=palette.wall,
        accent=mixed(palette.wall, palette.accent2, 0.8),
        pattern="tiles",
        scale=0.34,
        gloss=0.45,
    )
    top = marble(mixed(palette.floor, palette.accent2, 0.4), palette.stage, 0.6)
    jar = matt(palette.accent, 0.55)
    return Set(
        solids=(
            (_part("box", (3.0, 0.09, 1.1), (0, -0.09, -0.3), top, round=0.02),),
            (_part("arch", (0.26, 0.5, 0.025), (-1.0 + _jitter(rng), 0.0, -1.15), wood(palette.stage),
                   turn=(-0.12, 0.1, 0), round=0.015),),
            (_part("cylinder", (0.16, 0.2), (0.92 + _jitter(rng), 0.2, -0.85), jar, round=0.03),
             _part("cylinder", (0.165, 0.03), (0.92, 0.43, -0.85), wood(palette.stage), round=0.01)),
            (_part("cylinder", (0.12, 0.14), (1.22, 0.14, -0.6), matt(palette.accent2, 0.55), round=0.03),
             _part("cylinder", (0.125, 0.025), (1.22, 0.3, -0.6), wood(palette.stage), round=0.01)),
        ),
        wall=wall, floor=matt(palette.stage), floor_height=-0.9, wall_depth=-1.4,
    )  # fmt: skip


def disc(palette: Palette, rng: np.random.Generator) -> Set:
    """A great disc like a setting sun behind the product, with a thin metal ring around it."""
    sun = matt(palette.accent, 0.15)
    x = _jitter(rng, 0.04)
    return Set(
        solids=(
            (_part("cylinder", (0.84, 0.04), (x, 0.74, -1.5), sun, turn=(pi / 2, 0, 0), round=0.02),),
            (_part("torus", (1.0, 0.03), (x, 0.74, -1.42), metal(palette), turn=(pi / 2, 0, 0)),),
            (_part("cylinder", (0.95, 0.07), (0, -0.07, 0), matt(palette.accent2, 0.35), round=0.02),),
            _ball(0.13, 1.1 + _jitter(rng), -0.3, matt(palette.stage, 0.5), -0.1),
        ),
        wall=matt(palette.wall), floor=matt(palette.floor, 0.25), floor_height=-0.1, cove=0.3,
    )  # fmt: skip


def slats(palette: Palette, rng: np.random.Generator) -> Set:
    """A wall of upright wooden slats and a bench in front."""
    timber, dark = wood(palette.wall, 0.09, 0.06), matt(palette.stage)
    start = _jitter(rng, 0.02)
    bars = tuple(
        (_part("box", (0.148, 1.4, 0.06), (-1.8 + 0.36 * i + start, 1.0, -1.3), timber, round=0.03),) for i in range(11)
    )
    return Set(
        solids=(
            *bars,
            (_part("box", (1.02, 0.05, 0.62), (0, -0.05, 0.0), wood(palette.floor, 0.08, 0.15), round=0.02),),
            (_part("box", (0.05, 0.14, 0.5), (-0.82, -0.22, 0.0), dark),),
            (_part("box", (0.05, 0.14, 0.5), (0.82, -0.22, 0.0), dark),),
        ),
        wall=dark, floor=matt(palette.floor, 0.2), floor_height=-0.34, wall_depth=-1.4,
    )  # fmt: skip


def rocks(palette: Palette, rng: np.random.Generator) -> Set:
    """Boulders and pebbles around a flat slab on sand."""
    stone = Material(colour=mixed(palette.stage, palette.wall, 0.35), pattern="concrete", scale=0.3, gloss=0.1)
    pale = Material(colour=mixed(palette.accent2, palette.floor, 0.4), pattern="concrete", scale=0.25, gloss=0.15)
    dark = Material(colour=palette.accent, pattern="concrete", scale=0.22, gloss=0.2)
    t = _jitter(rng, 0.15)
    return Set(
        solids=(
            (_part("ellipsoid", (0.42, 0.46, 0.36), (-1.12, 0.0, -0.8), stone, turn=(0.2, 0.4 + t, 0.3)),
             _part("ellipsoid", (0.34, 0.26, 0.3), (-0.86, -0.12, -0.5), stone, turn=(0.1, 0.2, -0.4), blend=0.06)),
            (_part("ellipsoid", (0.40, 0.68, 0.34), (1.16, 0.1, -1.0), dark, turn=(0.1, t, -0.22)),
             _part("ellipsoid", (0.28, 0.3, 0.26), (0.86, -0.05, -0.72), dark, turn=(0.3, 0.5, 0.4), blend=0.05)),
            (_part("ellipsoid", (0.2, 0.12, 0.16), (1.02, -0.1, 0.22), pale, turn=(0.1, 0.6 + t, 0.1)),),
            (_part("ellipsoid", (0.14, 0.09, 0.12), (-0.98, -0.12, 0.42), dark, turn=(0, 0.3 + t, 0.1)),),
            (_part("prism", (0.78, 0.11, 7), (0, -0.11, 0), pale, turn=(0, 0.3 + t, 0), round=0.03),),
        ),
        wall=Material(colour=palette.wall, pattern="concrete", scale=0.8, gloss=0.08),
        floor=Material(colour=palette.floor, pattern="concrete", scale=0.35, gloss=0.08), floor_height=-0.16, cove=0.5,
    )  # fmt: skip


def niche(palette: Palette, rng: np.random.Generator) -> Set:
    """A lit alcove in the wall: a deep frame, a warm strip of light above, darker inside."""
    shell = matt(mixed(palette.accent2, palette.floor, 0.6), 0.15)
    inside = matt(mixed(palette.stage, palette.accent, 0.25), 0.12)
    glow = Material(colour=mixed(palette.accent2, (1.0, 0.95, 0.85), 0.6), glow=1.0)
    x = _jitter(rng, 0.02)
    return Set(
        solids=(
            (_part("frame", (1.02, 0.86, 0.42, 0.14), (x, 0.62, -0.9), shell, round=0.015),),
            (_part("box", (0.92, 0.76, 0.03), (x, 0.62, -1.25), inside),),
            (_part("box", (0.84, 0.018, 0.02), (x, 1.30, -0.62), glow),),
            (_part("box", (0.018, 0.66, 0.02), (x - 0.85, 0.62, -0.62), glow),),
            (_part("box", (0.018, 0.66, 0.02), (x + 0.85, 0.62, -0.62), glow),),
            (_part("box", (0.86, 0.06, 0.5), (0, -0.06, 0), shell, round=0.015),),
        ),
        wall=matt(palette.wall), floor=matt(palette.floor, 0.25), floor_height=-0.24,
    )  # fmt: skip


def pool(palette: Palette, rng: np.random.Generator) -> Set:
    """Still water that mirrors the set, stepping stones, a ring rising from it."""
    water = Material(colour=mixed(palette.stage, palette.accent, 0.35), gloss=0.93)
    stone = marble(palette.accent2, palette.stage, 0.5)
    x = _jitter(rng, 0.04)
    return Set(
        solids=(
            (_part("cylinder", (0.72, 0.08), (0, -0.08, 0), stone, round=0.025),),
            (_part("cylinder", (0.3, 0.06), (1.06 + x, -0.08, 0.12), stone, round=0.025),),
            (_part("cylinder", (0.24, 0.06), (-1.0 + x, -0.08, -0.35), stone, round=0.025),),
            (_part("torus", (0.78, 0.07), (x, 0.42, -1.15), metal(palette, 0.6), turn=(pi / 2, 0, 0)),),
            _ball(0.15, 1.06 + x, 0.12, matt(palette.accent2, 0.55), -0.02),
        ),
        wall=Material(
            colour=mixed(palette.wall, palette.accent2, 0.25), accent=palette.wall, pattern="gradient", scale=1.4
        ),
        floor=water, floor_height=-0.1, wall_depth=-2.6,
    )  # fmt: skip


def mountains(palette: Palette, rng: np.random.Generator) -> Set:
    """Layers of cut paper: three ranges of hills, a sun and two clouds."""
    shift = _jitter(rng, 0.25)
    shades = [matt(mixed(palette.stage, palette.wall, k), 0.05) for k in (0.6, 0.25)] + [matt(palette.accent, 0.05)]
    ranges = tuple(
        (_part("hills", (2.2, 0.80 - 0.24 * i, 0.03, 0.20 - 0.035 * i, 1.5 - 0.22 * i, 0.9 + 2.1 * i + shift),
               (0, 0, -1.5 + 0.24 * i), shade, round=0.01),)
        for i, shade in enumerate(shades)
    )  # fmt: skip
    paper = matt(palette.accent2, 0.05)
    clouds = tuple(
        (_part("capsule", (0.085, 0.2), (x, y, -1.3), paper, turn=(0, 0, pi / 2)),
         _part("sphere", (0.12,), (x + 0.05, y + 0.07, -1.3), paper, blend=0.04))
        for x, y in ((-0.98 + shift * 0.2, 1.22), (0.62 + shift * 0.2, 1.36))
    )  # fmt: skip
    return Set(
        solids=(
            *ranges, *clouds,
            (_part("cylinder", (0.24, 0.02), (0.98, 1.02, -1.6), matt(palette.metal, 0.1), turn=(pi / 2, 0, 0)),),
            (_part("cylinder", (0.8, 0.07), (0, -0.07, 0), matt(palette.stage, 0.2), round=0.02),),
        ),
        wall=matt(palette.wall), floor=matt(palette.floor, 0.15), floor_height=-0.1,
    )  # fmt: skip


LAYOUTS: Final[dict[str, Layout]] = {
    build.__name__: build
    for build in (
        podium, arch, steps, window, shelf, plants, columns, spheres,
        curtain, tiles, disc, slats, rocks, niche, pool, mountains,
    )
}  # fmt: skip
