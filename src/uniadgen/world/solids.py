"""The vocabulary in which products and scenes are written: materials, parts, and how to move and fit them.

World units: a product stands with its base at y = 0 around the origin, y up; the camera looks along -z from the
front, so +x is right and +z is towards the viewer. Sizes are half sizes, as in `SHAPES`; every shape is centred at
`Part.at` unless its line says otherwise.
"""

from dataclasses import dataclass, replace
from difflib import get_close_matches
from math import cos, pi, sin
from typing import Final

import numpy as np
from numpy.typing import NDArray

Colour = tuple[float, float, float]
Vector = tuple[float, float, float]

# Shape -> the names of its sizes. The order of the keys is the number the renderer's kernel knows the shape by.
SHAPES: Final[dict[str, tuple[str, ...]]] = {
    "sphere": ("radius",),
    "ellipsoid": ("radius x", "radius y", "radius z"),
    "box": ("half x", "half y", "half z"),
    "cylinder": ("radius", "half height"),  # axis y
    "cone": ("radius at the bottom", "radius at the top", "half height"),  # axis y, capped
    "torus": ("radius of the ring", "radius of the tube"),  # lies in the xz plane
    "capsule": ("radius", "half length"),  # axis y; the half length excludes the round ends
    # A bent tube in the xy plane, centred on +y: half angle pi/2 is an upper half ring, pi a whole ring.
    "arc": ("radius of the ring", "radius of the tube", "half angle"),
    "prism": ("apothem", "half height", "sides"),  # axis y, regular, 3 sides or more; a flat side faces +z
    # An upright slab with a half round top, extruded along z; its base is at y = 0 (height 0: a half disc).
    "arch": ("half width", "height of the straight part", "half depth"),
    "dome": ("radius",),  # the upper half ball; its flat base is at y = 0
    "ring": ("middle radius", "half width", "half height"),  # a flat washer, axis y
    "wedge": ("half x", "half y", "half z"),  # a roof: triangle in xy with its ridge at +y, extruded along z
    # A box whose top is `top` times its bottom (0 < top; 1 is a box, 0.3 nearly a pyramid).
    "taper": ("half x at the bottom", "half y", "half z at the bottom", "top"),
    # A turned body, axis y: 2 to 7 radii at equally spaced heights from the bottom to the top, joined smoothly.
    "lathe": (
        "half height",
        "radius 1",
        "radius 2",
        "radius 3",
        "radius 4",
        "radius 5",
        "radius 6",
        "radius 7",
    ),
    # A hanging sheet in the xy plane, wavy along x.
    "curtain": ("half x", "half y", "thickness", "depth of a wave", "wave length"),
    # A slab standing on y = 0 whose upper edge rolls like hills; phase shifts the hills along x.
    "hills": ("half x", "height", "half z", "height of a wave", "wave length", "phase"),
    "frame": ("half x", "half y", "half z", "bar"),  # a rectangular frame in the xy plane, bars of this width
}

# Shapes that become open vessels (no lid at +y) when `hollow` is set; the others stay closed shells.
VESSELS: Final = ("box", "cylinder", "cone", "prism", "taper", "lathe")

# How a material's colour varies. `accent` is the second colour and `scale` the size of a detail in world units.
PATTERNS: Final = (
    "plain",
    "wood",  # long grain along the part's longest direction (x); accent is the darker grain
    "marble",  # soft veins of the accent
    "fabric",  # a faint weave and a velvety rim
    "terrazzo",  # chips of the accent
    "concrete",  # cloudy, uneven
    "brushed",  # fine streaks around the y axis, for metal
    "stripes",  # horizontal bands along y, width `scale`
    "bars",  # vertical bands along x, width `scale`
    "tiles",  # square tiles of side `scale` in the xy plane with accent joints; on the floor in xz
    "checks",  # a chess board of side `scale`
    "dots",  # accent dots at distance `scale`
    "leather",  # fine, soft grain
    "gradient",  # from colour at y = -scale to accent at y = +scale
    "planks",  # tiles three times as long as wide, in alternating tones of the two colours
)


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a part is made of. Colours are 0..1 as one reads them on a screen (sRGB), not linear light.

    `gloss` 0 is chalk, 0.3 satin, 0.6 glazed ceramic, 1 lacquer; with `metal` it is 0.4 brushed, 1 mirror.
    `metal` 0..1 tints reflections with the colour. `glow` makes a lamp of it (1: as bright as white paper in light).
    `clear` 0..1 is tinted glass: the inside looks lit from behind; nothing behind it is traced.
    """

    colour: Colour
    pattern: str = "plain"
    accent: Colour = (0.5, 0.5, 0.5)
    scale: float = 0.1
    gloss: float = 0.15
    metal: float = 0.0
    glow: float = 0.0
    clear: float = 0.0

    def __post_init__(self) -> None:
        if self.pattern not in PATTERNS:
            raise ValueError(_unknown("pattern", self.pattern, PATTERNS))
        if self.scale <= 0:
            raise ValueError(f"got scale {self.scale}, expected more than 0, give the size of a detail")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One shape of a solid.

    `turn` is Euler angles in radians, applied about x, then y, then z, before moving to `at`. `round` rounds the
    edges without changing the outer size. `hollow` carves out the inside and leaves a wall of that thickness
    (`VESSELS` open at the top). `blend` joins the part smoothly with the parts before it over that radius; `cut`
    subtracts it from the parts before it (with `blend`, the edge of the cut is soft).
    """

    shape: str
    size: tuple[float, ...]
    material: Material
    at: Vector = (0.0, 0.0, 0.0)
    turn: Vector = (0.0, 0.0, 0.0)
    round: float = 0.0
    hollow: float = 0.0
    blend: float = 0.0
    cut: bool = False

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(_unknown("shape", self.shape, tuple(SHAPES)))
        most = len(SHAPES[self.shape])
        least = 3 if self.shape == "lathe" else most
        if not least <= len(self.size) <= most:
            names = ", ".join(SHAPES[self.shape])
            raise ValueError(f"got {len(self.size)} sizes for {self.shape}, expected {names}, give them in order")


Solid = tuple[Part, ...]


def rotation(turn: Vector) -> NDArray[np.float64]:
    """The (3, 3) matrix of Euler angles in radians, applied about x, then y, then z."""
    a, b, c = turn
    about_x = np.array([[1, 0, 0], [0, cos(a), -sin(a)], [0, sin(a), cos(a)]])
    about_y = np.array([[cos(b), 0, sin(b)], [0, 1, 0], [-sin(b), 0, cos(b)]])
    about_z = np.array([[cos(c), -sin(c), 0], [sin(c), cos(c), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def part_box(part: Part) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The part's box in its own frame, before `turn` and `at`: (3,) lowest and (3,) highest corner."""
    s = part.size
    match part.shape:
        case "sphere":
            high = np.full(3, s[0])
        case "ellipsoid" | "box" | "wedge" | "frame":
            high = np.array(s[:3])
        case "cylinder":
            high = np.array([s[0], s[1], s[0]])
        case "cone":
            widest = max(s[0], s[1])
            high = np.array([widest, s[2], widest])
        case "torus":
            high = np.array([s[0] + s[1], s[1], s[0] + s[1]])
        case "capsule":
            high = np.array([s[0], s[0] + s[1], s[0]])
        case "arc":
            side = s[0] * (sin(s[2]) if s[2] < pi / 2 else 1.0) + s[1]
            return np.array([-side, s[0] * cos(s[2]) - s[1], -s[1]]), np.array([side, s[0] + s[1], s[1]])
        case "prism":
            corner = s[0] / cos(pi / s[2])
            high = np.array([corner, s[1], corner])
        case "arch":
            return np.array([-s[0], 0.0, -s[2]]), np.array([s[0], s[1] + s[0], s[2]])
        case "dome":
            return np.array([-s[0], 0.0, -s[0]]), np.full(3, s[0])
        case "ring":
            high = np.array([s[0] + s[1], s[2], s[0] + s[1]])
        case "taper":
            widest = max(1.0, s[3])
            high = np.array([s[0] * widest, s[1], s[2] * widest])
        case "lathe":
            widest = max(s[1:])
            high = np.array([widest, s[0], widest])
        case "curtain":
            high = np.array([s[0], s[1], s[2] + s[3]])
        case "hills":
            return np.array([-s[0], 0.0, -s[2]]), np.array([s[0], s[1] + s[3], s[2]])
        case _:
            raise AssertionError(part.shape)
    return -high, high


def part_bounds(part: Part) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The part's axis-aligned box in the world, (3,) and (3,); tight for round shapes, also when turned."""
    low, high = part_box(part)
    turned = rotation(part.turn)
    s, axis = part.size, turned[:, 1]
    across = np.sqrt(np.clip(1.0 - axis**2, 0.0, 1.0))
    match part.shape:
        case "sphere":
            reach = np.full(3, s[0])
        case "ellipsoid":
            reach = np.sqrt(((turned * np.array(s)) ** 2).sum(axis=1))
        case "cylinder" | "cone" | "lathe" | "ring":
            reach = np.abs(axis) * high[1] + across * high[0]
        case "torus":
            reach = across * s[0] + s[1]
        case "capsule":
            reach = np.abs(axis) * s[1] + s[0]
        case _:
            reach = np.abs(turned) @ ((high - low) / 2)
    middle = turned @ ((high + low) / 2) + np.array(part.at)
    return middle - reach, middle + reach


def bounds(solid: Solid) -> tuple[Vector, Vector]:
    """The solid's approximate axis-aligned box, lowest and highest corner; cuts and blends are ignored."""
    boxes = [part_bounds(part) for part in solid if not part.cut]
    if not boxes:
        raise ValueError("got a solid without parts, expected one or more that are not cuts, add a part")
    low = np.min([low for low, _ in boxes], axis=0)
    high = np.max([high for _, high in boxes], axis=0)
    return (float(low[0]), float(low[1]), float(low[2])), (float(high[0]), float(high[1]), float(high[2]))


def moved(solid: Solid, by: Vector) -> Solid:
    """The solid shifted by a vector in world units."""
    return tuple(replace(part, at=_added(part.at, by)) for part in solid)


def scaled(solid: Solid, factor: float) -> Solid:
    """The solid made `factor` times as large about the origin; patterns keep their size relative to the parts."""
    return tuple(_scaled_part(part, factor) for part in solid)


def turned(solid: Solid, angle: float) -> Solid:
    """The solid turned about the y axis through the origin by `angle` radians (positive: its front to the right)."""
    spin = rotation((0.0, angle, 0.0))
    return tuple(
        replace(part, at=_vector(spin @ np.array(part.at)), turn=_euler(spin @ rotation(part.turn))) for part in solid
    )


def fitted(solid: Solid, width: float = 1.2, height: float = 1.0, depth: float = 1.0) -> Solid:
    """The solid scaled and moved to fill a box of this size standing centred on the origin, base at y = 0."""
    low, high = bounds(solid)
    extent = np.array(high) - np.array(low)
    factor = float(np.min(np.array([width, height, depth]) / np.maximum(extent, 1e-9)))
    middle = (-(low[0] + high[0]) / 2, -low[1], -(low[2] + high[2]) / 2)
    return scaled(moved(solid, middle), factor)


# Sizes that are not lengths and so must not be scaled: an angle, a number of sides, a ratio, a phase in radians.
_NOT_LENGTHS: Final = {"arc": (2,), "prism": (2,), "taper": (3,), "hills": (5,)}


def _scaled_part(part: Part, factor: float) -> Part:
    keep = _NOT_LENGTHS.get(part.shape, ())
    return replace(
        part,
        size=tuple(value if i in keep else value * factor for i, value in enumerate(part.size)),
        at=(part.at[0] * factor, part.at[1] * factor, part.at[2] * factor),
        round=part.round * factor,
        hollow=part.hollow * factor,
        blend=part.blend * factor,
        material=replace(part.material, scale=part.material.scale * factor),
    )


def _euler(matrix: NDArray[np.float64]) -> Vector:
    b = float(np.arcsin(np.clip(-matrix[2, 0], -1.0, 1.0)))
    if abs(matrix[2, 0]) < 1.0 - 1e-9:
        a = float(np.arctan2(matrix[2, 1], matrix[2, 2]))
        return a, b, float(np.arctan2(matrix[1, 0], matrix[0, 0]))
    return float(np.arctan2(-matrix[1, 2], matrix[1, 1])), b, 0.0


def _added(one: Vector, other: Vector) -> Vector:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


def _vector(values: NDArray[np.float64]) -> Vector:
    return float(values[0]), float(values[1]), float(values[2])


def _unknown(what: str, name: str, known: tuple[str, ...]) -> str:
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"got {what} {name!r}, {hint}expected one of {', '.join(known)}, use one of these"
