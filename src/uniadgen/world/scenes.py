"""What a picture is taken of and with: style, camera, light, room, and the scene that holds them together."""

from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from math import cos, sin
from typing import Final

import numpy as np

from uniadgen.world.layouts import LAYOUTS
from uniadgen.world.palettes import PALETTES
from uniadgen.world.solids import Colour, Material, Solid, Vector


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Looks at (0, height, 0) from `distance`; angles in radians, `reach` is half the picture's height there."""

    yaw: float = 0.0
    pitch: float = 0.19
    distance: float = 5.5
    height: float = 0.56
    reach: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Light:
    """Directions point towards the light; colours are linear light and may exceed 1."""

    key: Vector
    key_colour: Vector
    softness: float  # tangent of the key light's half angle: how wide its shadows blur
    sky: Vector
    ground: Vector
    fill: Vector
    fill_colour: Vector
    rim: Vector
    rim_colour: Vector
    spot: float = 0.0  # radius of the key light's pool around the product; 0 lights everything alike
    dusk: Vector = (1.0, 1.0, 1.0)  # what remains of the ambient light outside the pool
    exposure: float = 1.0
    vignette: float = 0.12
    gobo: str = "none"  # a pattern cut into the key light: see GOBOS


GOBOS: Final = ("none", "window", "blinds", "leaves")


@dataclass(frozen=True, kw_only=True)
class Room:
    """An endless floor at y = `floor_height` and back wall at z = `wall_depth`, joined by a quarter round."""

    floor: Material
    wall: Material
    floor_height: float = 0.0
    wall_depth: float = -1.7
    cove: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything but the product."""

    solids: tuple[Solid, ...]
    room: Room
    light: Light
    camera: Camera = field(default_factory=Camera)
    shift: float = 0.0  # moves the patterns of the materials


def camera(rng: np.random.Generator) -> Camera:
    """The standard view with a little jitter; it never depends on the style."""
    return Camera(
        yaw=float(rng.uniform(-0.06, 0.06)),
        pitch=float(rng.uniform(0.175, 0.225)),
        reach=float(rng.uniform(0.97, 1.04)),
    )


def _towards(turn: float, up: float) -> Vector:
    return sin(turn) * cos(up), sin(up), cos(turn) * cos(up)


def _times(colour: Colour, factor: float) -> Vector:
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


LIGHTINGS: Final[dict[str, Light]] = {
    "daylight": Light(
        key=_towards(-0.85, 0.85), key_colour=_times((1.0, 0.965, 0.91), 2.1), softness=0.16,
        sky=(0.52, 0.56, 0.62), ground=(0.30, 0.28, 0.26),
        fill=_towards(1.1, 0.25), fill_colour=_times((0.95, 0.97, 1.0), 0.22),
        rim=_towards(2.5, 0.5), rim_colour=_times((1.0, 1.0, 1.0), 0.35), vignette=0.08, exposure=0.57,
    ),
    "sunset": Light(
        key=_towards(1.05, 0.36), key_colour=_times((1.0, 0.60, 0.28), 3.1), softness=0.05,
        sky=(0.34, 0.30, 0.40), ground=(0.30, 0.20, 0.15),
        fill=_towards(-1.2, 0.3), fill_colour=_times((0.62, 0.52, 0.85), 0.28),
        rim=_towards(2.2, 0.35), rim_colour=_times((1.0, 0.62, 0.30), 0.9), vignette=0.16, exposure=0.56,
    ),
    "studio": Light(
        key=_towards(0.0, 1.02), key_colour=_times((0.88, 0.95, 1.0), 2.7), softness=0.24,
        sky=(0.30, 0.36, 0.46), ground=(0.17, 0.19, 0.23),
        fill=_towards(0.5, 0.3), fill_colour=_times((0.7, 0.85, 1.0), 0.30),
        rim=_towards(-2.4, 0.5), rim_colour=_times((0.75, 0.9, 1.0), 0.8),
        spot=1.35, dusk=(0.36, 0.39, 0.46), vignette=0.38, exposure=0.50,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Style:
    """A layout, a palette and a lighting by name; raises ValueError for unknown names."""

    layout: str
    palette: str
    lighting: str

    def __post_init__(self) -> None:
        _check("layout", self.layout, tuple(LAYOUTS))
        _check("palette", self.palette, tuple(PALETTES))
        _check("lighting", self.lighting, tuple(LIGHTINGS))

    @classmethod
    def from_index(cls, index: int) -> "Style":
        """The style with this number, 0 to `NUM_STYLES` - 1; the lighting varies fastest, the layout slowest."""
        if not 0 <= index < NUM_STYLES:
            raise ValueError(f"got style {index}, expected 0 to {NUM_STYLES - 1}, choose one in this range")
        rest, lighting = divmod(index, len(LIGHTINGS))
        layout, palette = divmod(rest, len(PALETTES))
        return cls(tuple(LAYOUTS)[layout], tuple(PALETTES)[palette], tuple(LIGHTINGS)[lighting])

    @property
    def index(self) -> int:
        """The number of this style, the inverse of `from_index`."""
        layout, palette = tuple(LAYOUTS).index(self.layout), tuple(PALETTES).index(self.palette)
        return (layout * len(PALETTES) + palette) * len(LIGHTINGS) + tuple(LIGHTINGS).index(self.lighting)


NUM_STYLES: Final = len(LAYOUTS) * len(PALETTES) * len(LIGHTINGS)


def scene(style: Style, rng: np.random.Generator) -> Scene:
    """A scene in this style; `rng` moves the camera, the props and the patterns a little.

    The camera is drawn first and never depends on the style: one seed gives the same view of every style.
    """
    view = camera(rng)
    built = LAYOUTS[style.layout](PALETTES[style.palette], rng)
    return Scene(
        solids=built.solids,
        room=Room(
            floor=built.floor, wall=built.wall, floor_height=built.floor_height, wall_depth=built.wall_depth,
            cove=built.cove,
        ),
        light=replace(LIGHTINGS[style.lighting], gobo=built.gobo),
        camera=view,
        shift=float(rng.uniform(0.0, 20.0)),
    )  # fmt: skip


def _check(what: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"got {what} {name!r}, {hint}expected one of {', '.join(known)}, use one of these")
