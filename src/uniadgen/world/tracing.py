"""One picture's pixels, compiled: rays through the camera, antialiased edges; one thread, no memory per ray."""

from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import numpy as np
from numba import njit
from numpy.typing import NDArray

from uniadgen.world import distances, lighting, materials
from uniadgen.world.distances import FAR, Table, along_ray, march, normal
from uniadgen.world.lighting import (
    EXPOSURE,
    VIGNETTE,
    Colour3,
    part_colour,
    room_colour,
    room_hit,
    room_normal,
    shade,
)
from uniadgen.world.materials import ramp

_MATERIAL = distances.MATERIAL

_jit = njit(nogil=True, error_model="numpy")


@_jit
def _film(x: float) -> float:
    """A film's curve: straight for most of the range, a soft shoulder to 1."""
    a = 0.55
    return x if x < a else a + (1.0 - a) * np.tanh((x - a) / (1.0 - a))


@_jit
def _screen(x: float) -> float:
    """Linear light to a screen value, 0..255."""
    x = min(max(x, 0.0), 1.0)
    x = 12.92 * x if x <= 0.0031308 else 1.055 * x ** (1.0 / 2.4) - 0.055
    return 255.0 * x


@_jit
def _ray(u: float, v: float, view: Table) -> tuple[Colour3, Colour3]:
    """Where the ray through (u, v) in -1..1 starts and its unit direction."""
    x, y = u * view[3], v * view[3]
    dx = view[4] + x * view[7] + y * view[10]
    dy = view[5] + x * view[8] + y * view[11]
    dz = view[6] + x * view[9] + y * view[12]
    size = 1.0 / np.sqrt(dx * dx + dy * dy + dz * dz)
    return (view[0], view[1], view[2]), (dx * size, dy * size, dz * size)


@_jit
def _product(
    o: Colour3, d: Colour3, num_product: int, parts: Table, active: NDArray[np.int64]
) -> tuple[float, int, int]:
    """How far along the ray the product is, the part hit or -1, and how many parts are listed."""
    count, start, end = along_ray(o, d, 0, num_product, 0.0, parts, active)
    if count == 0:
        return FAR, -1, 0
    t, part = march(o, d, start, end, 90, parts, active, count)
    return t, part, count


@_jit
def _hit(
    o: Colour3, d: Colour3, num_product: int, parts: Table, room: Table, active: NDArray[np.int64]
) -> tuple[float, int, int, float]:
    """What a ray meets: distance, part (-1 the room, -2 nothing), number of listed parts, angle on the cove.

    A product hit wins over any scene part, so that the product's outline cannot depend on the scene.
    """
    t, part, count = _product(o, d, num_product, parts, active)
    if part >= 0:
        return t, part, count, 0.0
    wall, round_ = room_hit(o, d, room)
    count, start, end = along_ray(o, d, num_product, parts.shape[0], 0.0, parts, active)
    if count > 0 and start < wall:
        t, part = march(o, d, start, min(end, wall), 90, parts, active, count)
    if part < 0:
        return wall, -1 if wall < FAR else -2, 0, round_
    return t, part, count, 0.0


@_jit
def _sample(
    u: float,
    v: float,
    num_product: int,
    view: Table,
    parts: Table,
    stuff: Table,
    light: Table,
    room: Table,
    active: NDArray[np.int64],
) -> tuple[float, float, float, int, float]:
    """One ray through the picture at (u, v) in -1..1: colour on film, the part hit as in `_hit`, its distance."""
    o, d = _ray(u, v, view)
    t, part, count, round_ = _hit(o, d, num_product, parts, room, active)
    if part == -2:
        return 0.0, 0.0, 0.0, part, t
    p = (o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2])
    if part >= 0:
        n = normal(p[0], p[1], p[2], parts, active, count)
        base, m = part_colour(p, n, part, parts, stuff), int(parts[part, _MATERIAL])
    else:
        n = room_normal(p, round_, room)
        base, m = room_colour(p, round_, stuff, room), int(room[3]) if round_ < 0.5 else int(room[4])
    r, g, b = shade(p, n, d, base, m, parts, stuff, light, room, active)
    k = light[EXPOSURE] * (1.0 - light[VIGNETTE] * ramp(0.55, 1.5, np.sqrt(u * u + v * v)))
    return _film(k * r), _film(k * g), _film(k * b), part, t


@_jit
def _edge_kind(i: int, j: int, num_product: int, pixels: Table, hits: NDArray[np.int64], depth: Table) -> int:
    """3 beside the product's outline, 2 where parts meet, 1 at a hard line within a part, 0 elsewhere."""
    size, hit, kind = hits.shape[0], hits[i, j], 0
    here = 0 <= hit < num_product
    for k in range(4):
        y, x = i + (k == 0) - (k == 1), j + (k == 2) - (k == 3)
        if y < 0 or x < 0 or y >= size or x >= size:
            continue
        if (0 <= hits[y, x] < num_product) != here:
            return 3
        change, bright = 0.0, 0.1
        for c in range(3):
            change = max(change, abs(pixels[y, x, c] - pixels[i, j, c]))
            bright += 0.5 * (pixels[y, x, c] + pixels[i, j, c])
        if hits[y, x] != hit or abs(depth[y, x] - depth[i, j]) > 0.12:
            kind = 2 if change > 0.03 * bright else kind
        elif change > 0.2 * bright:
            kind = max(kind, 1)
    return kind


@_jit
def _twin(i: int, j: int, part: int, t: float, hits: NDArray[np.int64], depth: Table) -> int:
    """Which of the 3 x 3 pixels around (i, j), counted in rows, already shows this part at this distance, or -1."""
    size = hits.shape[0]
    for k in (4, 1, 3, 5, 7, 0, 2, 6, 8):
        y, x = i + k // 3 - 1, j + k % 3 - 1
        if 0 <= y < size and 0 <= x < size and hits[y, x] == part and abs(depth[y, x] - t) < 0.12:
            return k
    return -1


@_jit
def _draw(
    size: int, num_product: int, view: Table, parts: Table, stuff: Table, light: Table, room: Table
) -> NDArray[np.uint8]:
    """A (size, size, 4) picture; its fourth channel is the product's coverage. Without a room, straight alpha.

    One ray per pixel, then the edges again. The outline's coverage comes from 4 x 4 rays that meet the product
    alone; its colour is mixed from up to two rays on either side. Where parts meet, four rays are traced but
    take their colour from a neighbour that shows the same part; a hard line within a part is shaded four times.
    """
    active = np.empty(max(parts.shape[0], 1), np.int64)
    pixels = np.zeros((size, size, 3))
    hits = np.full((size, size), -1, np.int64)
    depth = np.zeros((size, size))
    out = np.zeros((size, size, 4), np.uint8)
    colour = np.zeros((2, 3))  # sums of the background's and the product's rays
    counts = np.zeros(2)
    step = 2.0 / size
    for i in range(size):
        for j in range(size):
            u, v = (j + 0.5) * step - 1.0, 1.0 - (i + 0.5) * step
            r, g, b, hit, t = _sample(u, v, num_product, view, parts, stuff, light, room, active)
            pixels[i, j, 0], pixels[i, j, 1], pixels[i, j, 2], hits[i, j], depth[i, j] = r, g, b, hit, t
    for i in range(size):
        for j in range(size):
            kind = _edge_kind(i, j, num_product, pixels, hits, depth)
            own = 1 if 0 <= hits[i, j] < num_product else 0
            colour[:], counts[:], covered = 0.0, 0.0, 0.0
            colour[own, 0], colour[own, 1], colour[own, 2] = pixels[i, j, 0], pixels[i, j, 1], pixels[i, j, 2]
            counts[own] = 1.0
            for k in range((0, 4, 4, 16)[kind]):
                if kind == 3:
                    n = (7 * k) % 16
                    x, y = (n % 4 + 0.5) / 4.0, (n // 4 + 0.5) / 4.0
                else:
                    x, y = (0.375, 0.875, 0.125, 0.625)[k], (0.125, 0.375, 0.625, 0.875)[k]
                u, v, side, twin = (j + x) * step - 1.0, 1.0 - (i + y) * step, own, -1
                o, d = _ray(u, v, view)
                if kind == 3:
                    _t, part, _count = _product(o, d, num_product, parts, active)
                    side = 1 if part >= 0 else 0
                    covered += side
                    if counts[side] >= 2.0:
                        continue
                elif kind == 2:
                    t, part, _count, _round = _hit(o, d, num_product, parts, room, active)
                    twin = _twin(i, j, part, t, hits, depth)
                if twin >= 0:
                    row, column = i + twin // 3 - 1, j + twin % 3 - 1
                    r, g, b = pixels[row, column, 0], pixels[row, column, 1], pixels[row, column, 2]
                else:
                    r, g, b, _part, _t = _sample(u, v, num_product, view, parts, stuff, light, room, active)
                colour[side, 0] += r
                colour[side, 1] += g
                colour[side, 2] += b
                counts[side] += 1.0
            alpha = covered / 16.0 if kind == 3 else 1.0 * own
            share = alpha if room[5] > 0.0 else 1.0 * (counts[1] > 0.0)
            for c in range(3):
                value = share * colour[1, c] / max(counts[1], 1.0) + (1.0 - share) * colour[0, c] / max(counts[0], 1.0)
                out[i, j, c] = round(_screen(value))
            out[i, j, 3] = round(255.0 * alpha)
    return out


Draw = Callable[[int, int, Table, Table, Table, Table, Table], NDArray[np.uint8]]


def _compiled(sources: int) -> Draw:
    """`_draw`, kept on disk between runs.

    The cache of numba looks at one source file only and would run old code after a change in another one. A number
    that the function closes over is part of its key, so the checksum of all the sources goes there.
    """

    @njit(cache=True, nogil=True, error_model="numpy")
    def draw(
        size: int, num_product: int, view: Table, parts: Table, stuff: Table, light: Table, room: Table
    ) -> NDArray[np.uint8]:
        assert sources >= 0
        return _draw(size, num_product, view, parts, stuff, light, room)

    return draw


_SOURCES = [Path(name) for name in (distances.__file__, materials.__file__, lighting.__file__, __file__) if name]

draw: Draw = _compiled(crc32(b"".join(path.read_bytes() for path in _SOURCES)))
