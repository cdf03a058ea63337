"""Procedural materials: the table the kernel reads and the patterns, from value noise; smooth on purpose."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from uniadgen.world.distances import Table
from uniadgen.world.solids import PATTERNS, Colour, Material

# Columns of a material's row; colours are linear light.
COLOUR: Final = 0
ACCENT: Final = 3
PATTERN: Final = 6
SCALE: Final = 7
GLOSS: Final = 8
METAL: Final = 9
GLOW: Final = 10
CLEAR: Final = 11
SHIFT: Final = 12  # moves noise so that two parts of one material do not look alike
COLUMNS: Final = 13

_PATTERN_NUMBERS: Final = {name: number for number, name in enumerate(PATTERNS)}


def linear(colour: Colour) -> NDArray[np.float64]:
    """A screen colour (sRGB, 0..1) as linear light, (3,)."""
    c = np.clip(np.asarray(colour, dtype=np.float64), 0.0, 1.0)
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def rows(materials: Sequence[Material], shift: float = 0.0) -> Table:
    """Materials as a (count, `COLUMNS`) table."""
    out = np.zeros((len(materials), COLUMNS))
    for i, m in enumerate(materials):
        out[i, COLOUR : COLOUR + 3], out[i, ACCENT : ACCENT + 3] = linear(m.colour), linear(m.accent)
        out[i, PATTERN:] = (
            _PATTERN_NUMBERS[m.pattern], m.scale, m.gloss, m.metal, m.glow, m.clear, shift + 3.7 * (i % 7),
        )  # fmt: skip
    return out


@njit(nogil=True, error_model="numpy")
def _hash(x: int, y: int, z: int) -> float:
    n = (x * 374761393 + y * 668265263 + z * 2147483647) & 0xFFFFFFFF
    n = ((n ^ (n >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((n ^ (n >> 16)) & 0xFFFF) / 65535.0


@njit(nogil=True, error_model="numpy")
def noise(x: float, y: float, z: float) -> float:
    """Value noise in 0..1 with details of size 1."""
    fx, fy, fz = np.floor(x), np.floor(y), np.floor(z)
    i, j, k = int(fx), int(fy), int(fz)
    u, v, w = x - fx, y - fy, z - fz
    u, v, w = u * u * (3.0 - 2.0 * u), v * v * (3.0 - 2.0 * v), w * w * (3.0 - 2.0 * w)
    a = _hash(i, j, k) * (1.0 - u) + _hash(i + 1, j, k) * u
    b = _hash(i, j + 1, k) * (1.0 - u) + _hash(i + 1, j + 1, k) * u
    c = _hash(i, j, k + 1) * (1.0 - u) + _hash(i + 1, j, k + 1) * u
    d = _hash(i, j + 1, k + 1) * (1.0 - u) + _hash(i + 1, j + 1, k + 1) * u
    return (a * (1.0 - v) + b * v) * (1.0 - w) + (c * (1.0 - v) + d * v) * w


@njit(nogil=True, error_model="numpy")
def cloud(x: float, y: float, z: float) -> float:
    """Three octaves of noise, about 0..1."""
    total, weight = 0.0, 0.55
    for _ in range(3):
        total += weight * noise(x, y, z)
        x, y, z, weight = 2.03 * x + 5.1, 2.03 * y + 1.7, 2.03 * z + 3.3, 0.5 * weight
    return total / 0.9625


@njit(nogil=True, error_model="numpy")
def ramp(low: float, high: float, x: float) -> float:
    """Smooth step from 0 at `low` to 1 at `high`."""
    t = min(max((x - low) / (high - low), 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


@njit(nogil=True, error_model="numpy")
def _joints(u: float, v: float) -> float:
    """1 on the joints between unit squares, 0 inside."""
    a, b = abs(u - np.floor(u) - 0.5), abs(v - np.floor(v) - 0.5)
    return ramp(0.455, 0.49, max(a, b))


@njit(nogil=True, error_model="numpy")
def _chips(x: float, y: float, z: float) -> float:
    """Terrazzo: 1 inside a chip, from one jittered ball per cell."""
    fx, fy, fz, most = np.floor(x), np.floor(y), np.floor(z), 0.0
    for k in range(8):
        i = int(fx) + (k & 1) - (1 if x - fx < 0.5 else 0)
        j = int(fy) + ((k >> 1) & 1) - (1 if y - fy < 0.5 else 0)
        m = int(fz) + (k >> 2) - (1 if z - fz < 0.5 else 0)
        dx = x - i - 0.25 - 0.5 * _hash(i, j, m)
        dy = y - j - 0.25 - 0.5 * _hash(j, m, i + 9)
        dz = z - m - 0.25 - 0.5 * _hash(m, i, j + 5)
        size = 0.18 + 0.2 * _hash(i + 3, j, m)
        most = max(most, ramp(size, size - 0.12, np.sqrt(dx * dx + dy * dy + dz * dz)))
    return most


@njit(nogil=True, error_model="numpy")
def blend_of(
    pattern: int, x: float, y: float, z: float, along: float, s: float, shift: float, ny: float
) -> tuple[float, float]:
    """How much of the accent shows at a local point (0..1), and a brightness factor near 1.

    `along` is the coordinate along the part's longest axis; `ny` is the normal's height, to lay tiles flat.
    """
    if pattern == 1:  # wood
        across = y + z + x - along
        warp = noise(along / (16.0 * s) + shift, 0.5 * across / s, 0.5 * (y - z) / s)
        rings = 0.5 + 0.5 * np.sin(4.2 * (across / s + 1.1 * warp))
        return 0.42 * rings + 0.35 * warp, 1.0 + 0.05 * (noise(along / (4.0 * s), 3.0 * across / s, shift) - 0.5)
    if pattern == 2:  # marble
        warp = cloud(x / s + shift, y / s, z / s)
        vein = 1.0 - abs(np.sin(1.6 * (x + 0.7 * y + 0.5 * z) / s + 5.0 * warp))
        return 0.75 * vein * vein * vein + 0.12 * warp, 1.0
    if pattern == 3:  # fabric
        weave = np.sin(6.2832 * (x + y) / s) * np.sin(6.2832 * (y - x + z) / s)
        return 0.0, 0.985 + 0.035 * weave + 0.05 * (noise(2 * x / s, 2 * y / s, 2 * z / s + shift) - 0.5)
    if pattern == 4:  # terrazzo
        return _chips(x / s + shift, y / s, z / s), 1.0
    if pattern == 5:  # concrete
        return 0.0, 0.9 + 0.2 * cloud(x / s + shift, y / s, z / s)
    if pattern == 6:  # brushed
        return 0.0, 0.93 + 0.14 * noise(np.arctan2(x, z) + shift, 6.0 * y / s, 0.0)
    if pattern == 7:  # stripes
        return ramp(-0.08, 0.08, np.sin(np.pi * y / s)), 1.0
    if pattern == 8:  # bars
        return ramp(-0.08, 0.08, np.sin(np.pi * x / s)), 1.0
    v = z if abs(ny) > 0.7 else y
    if pattern == 9:  # tiles
        tone = _hash(int(np.floor(x / s)), int(np.floor(v / s)), 1)
        return _joints(x / s, v / s), 0.95 + 0.1 * tone
    if pattern == 10:  # checks
        return ramp(-0.03, 0.03, np.sin(np.pi * x / s) * np.sin(np.pi * v / s)), 1.0
    if pattern == 11:  # dots
        u, w = x / s - np.floor(x / s) - 0.5, v / s - np.floor(v / s) - 0.5
        return ramp(0.3, 0.24, np.sqrt(u * u + w * w)), 1.0
    if pattern == 12:  # leather
        return 0.0, 0.96 + 0.1 * noise(x / s, y / s, z / s + shift) - 0.03 * noise(3 * x / s, 3 * y / s, 3 * z / s)
    if pattern == 13:  # gradient
        return min(max(0.5 + 0.5 * y / s, 0.0), 1.0), 1.0
    if pattern == 14:  # planks
        line = np.floor(v / s)
        u = x / (3.2 * s) + 0.37 * line
        tone = _hash(int(np.floor(u)), int(line), 2)
        grain = noise(x / (2.5 * s) + 7.0 * tone, 5.0 * v / s, shift)
        return 0.55 * tone + 0.25 * grain, 1.0 - 0.35 * _joints(u, v / s)
    return 0.0, 1.0


@njit(nogil=True, error_model="numpy")
def surface(
    materials: Table, m: int, x: float, y: float, z: float, along: float, ny: float
) -> tuple[float, float, float]:
    """Colour of material m in linear light at a point of the part's own frame."""
    pattern = int(materials[m, PATTERN])
    if pattern == 0:
        return materials[m, COLOUR], materials[m, COLOUR + 1], materials[m, COLOUR + 2]
    a, bright = blend_of(pattern, x, y, z, along, materials[m, SCALE], materials[m, SHIFT], ny)
    b = (1.0 - a) * bright
    a = a * bright
    return (
        b * materials[m, COLOUR] + a * materials[m, ACCENT],
        b * materials[m, COLOUR + 1] + a * materials[m, ACCENT + 1],
        b * materials[m, COLOUR + 2] + a * materials[m, ACCENT + 2],
    )
