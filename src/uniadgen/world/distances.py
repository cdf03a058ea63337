"""Signed distances to parts: a solid becomes rows of numbers, and small compiled functions read them."""

from math import pi
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from uniadgen.world.solids import SHAPES, VESSELS, Part, Solid, part_bounds, part_box, rotation

Table = NDArray[np.float64]

# Columns of a row.
SHAPE: Final = 0
MATERIAL: Final = 1
AT: Final = 2  # 3 numbers
ROWS: Final = 5  # 9 numbers: the transposed rotation, world to local
SIZE: Final = 14  # 8 numbers
ROUND: Final = 22
HOLLOW: Final = 23
BLEND: Final = 24
CUT: Final = 25
CENTRE: Final = 26  # 3 numbers, then the radius of the bounding sphere
RADIUS: Final = 29
GROUP: Final = 30  # parts of one solid share it: blends and cuts stay within a solid
OPEN: Final = 31  # 1 for a hollow vessel
COUNT: Final = 32  # number of sizes
SLOPE: Final = 33  # steepest slope of a lathe's outline
LONGEST: Final = 34  # the local axis along which the part is longest
MIDDLE: Final = 35  # 3 numbers: the middle of the local box
HALF: Final = 38  # 3 numbers: half its extent
COLUMNS: Final = 41

FAR: Final = 1e9
_SHAPE_NUMBERS: Final = {name: number for number, name in enumerate(SHAPES)}


def row(part: Part, group: int, material: int) -> Table:
    """One part as `COLUMNS` numbers for the kernel."""
    out = np.zeros(COLUMNS)
    out[SHAPE], out[MATERIAL], out[GROUP] = _SHAPE_NUMBERS[part.shape], material, group
    out[AT : AT + 3] = part.at
    out[ROWS : ROWS + 9] = rotation(part.turn).T.ravel()
    out[SIZE : SIZE + len(part.size)] = part.size
    out[ROUND], out[HOLLOW], out[BLEND], out[CUT] = part.round, part.hollow, part.blend, part.cut
    out[COUNT], out[OPEN] = len(part.size), part.hollow > 0 and part.shape in VESSELS
    low, high = part_bounds(part)
    local_low, local_high = part_box(part)
    out[CENTRE : CENTRE + 3] = (low + high) / 2
    # A round shape's box is tighter than its corner, a slanted one's local box tighter than its world box.
    out[RADIUS] = min(float(np.linalg.norm(high - low)), float(np.linalg.norm(local_high - local_low))) / 2
    if part.shape in ("sphere", "ellipsoid", "torus"):
        out[RADIUS] = float(np.max(local_high))
    out[RADIUS] += 1e-4
    out[LONGEST] = int(np.argmax(local_high - local_low))
    out[MIDDLE : MIDDLE + 3], out[HALF : HALF + 3] = (
        (local_low + local_high) / 2,
        (local_high - local_low) / 2,
    )
    if part.shape == "lathe":
        steps = np.abs(np.diff(part.size[1:])) * (len(part.size) - 2) / (2 * part.size[0])
        out[SLOPE] = float(steps.max())
    return out


def solid_rows(solid: Solid, group: int, first_material: int) -> Table:
    """A solid as a (parts, `COLUMNS`) table whose materials are numbered from `first_material`."""
    if not solid:
        return np.zeros((0, COLUMNS))
    return np.stack([row(part, group, first_material + i) for i, part in enumerate(solid)])


@njit(nogil=True, error_model="numpy")
def smooth_max(a: float, b: float, k: float) -> float:
    """The larger of two distances with the crease between them rounded over `k`; never less than either."""
    if k <= 0.0:
        return max(a, b)
    h = max(k - abs(a - b), 0.0) / k
    return max(a, b) + 0.25 * h * h * k


@njit(nogil=True, error_model="numpy")
def _box(dx: float, dy: float, dz: float, r: float) -> float:
    dx, dy, dz = dx + r, dy + r, dz + r
    ox, oy, oz = max(dx, 0.0), max(dy, 0.0), max(dz, 0.0)
    return np.sqrt(ox * ox + oy * oy + oz * oz) + min(max(dx, dy, dz), 0.0) - r


@njit(nogil=True, error_model="numpy")
def _lathe(rho: float, y: float, cap: float, parts: Table, i: int) -> float:
    hh, n = parts[i, SIZE], int(parts[i, COUNT]) - 1
    t = min(max((y + hh) / (2.0 * hh), 0.0), 1.0) * (n - 1)
    j = min(int(t), n - 2)
    f = t - j
    base = SIZE + 1 + j
    r1, r2 = parts[i, base], parts[i, base + 1]
    m1 = 0.5 * (r2 - parts[i, base - 1]) if j > 0 else r2 - r1
    m2 = 0.5 * (parts[i, base + 2] - r1) if j < n - 2 else r2 - r1
    c2, c3 = 3.0 * (r2 - r1) - 2.0 * m1 - m2, 2.0 * (r1 - r2) + m1 + m2
    radius = r1 + f * (m1 + f * (c2 + f * c3))
    slope = abs(m1 + f * (2.0 * c2 + 3.0 * f * c3)) * (n - 1) / (2.0 * hh)
    slope = max(slope, 0.6 * parts[i, SLOPE])
    return smooth_max((rho - max(radius, 0.0)) / np.sqrt(1.0 + slope * slope), cap, parts[i, ROUND])


@njit(nogil=True, error_model="numpy")
def _turned(shape: int, x: float, y: float, z: float, parts: Table, i: int, lid: bool) -> float:
    """Shapes around the y axis."""
    s0, s1, s2, r = parts[i, SIZE], parts[i, SIZE + 1], parts[i, SIZE + 2], parts[i, ROUND]
    rho = np.sqrt(x * x + z * z)
    if shape == 3:  # cylinder
        dx, dy = rho - s0 + r, (abs(y) if lid else -y) - s1 + r
        ox, oy = max(dx, 0.0), max(dy, 0.0)
        return np.sqrt(ox * ox + oy * oy) + min(max(dx, dy), 0.0) - r
    if shape == 4:  # cone
        t = min(max((y + s2) / (2.0 * s2), -0.2), 1.2)
        slope = (s0 - s1) / (2.0 * s2)
        side = (rho - s0 - (s1 - s0) * t) / np.sqrt(1.0 + slope * slope)
        return smooth_max(side, (abs(y) if lid else -y) - s2, r)
    if shape == 5:  # torus
        q = rho - s0
        return np.sqrt(q * q + y * y) - s1
    if shape == 6:  # capsule
        q = max(abs(y) - s1, 0.0)
        return np.sqrt(rho * rho + q * q) - s0
    if shape == 8:  # prism
        sector = 2.0 * pi / s2
        angle = np.arctan2(x, z)
        angle = abs(angle - sector * np.floor(angle / sector + 0.5))
        side = smooth_max(rho * np.cos(angle) - s0, rho * np.cos(sector - angle) - s0, r)
        return smooth_max(side, (abs(y) if lid else -y) - s1, r)
    if shape == 10:  # dome
        return smooth_max(np.sqrt(rho * rho + y * y) - s0, -y, r)
    if shape == 11:  # ring
        return _box(abs(rho - s0) - s1, abs(y) - s2, -r, r)
    return _lathe(rho, y, (abs(y) if lid else -y) - s0, parts, i)


@njit(nogil=True, error_model="numpy")
def _sheet(shape: int, x: float, y: float, z: float, parts: Table, i: int) -> float:
    """Shapes drawn in the xy plane and given a depth along z."""
    s0, s1, s2, s3 = parts[i, SIZE], parts[i, SIZE + 1], parts[i, SIZE + 2], parts[i, SIZE + 3]
    r = parts[i, ROUND]
    if shape == 7:  # arc
        x, sine, cosine = abs(x), np.sin(s2), np.cos(s2)
        k = x * sine + y * cosine if cosine * x > sine * y else np.sqrt(x * x + y * y)
        return np.sqrt(max(x * x + y * y + z * z + s0 * s0 - 2.0 * s0 * k, 0.0)) - s1
    if shape == 9:  # arch
        side = abs(x) - s0 if y < s1 else np.sqrt(x * x + (y - s1) * (y - s1)) - s0
        return smooth_max(smooth_max(side, -y, r), abs(z) - s2, r)
    if shape == 12:  # wedge
        side = (np.sqrt(x * x + 0.25 * r * r) * 2.0 * s1 + (y - s1) * s0) / np.sqrt(4.0 * s1 * s1 + s0 * s0)
        return smooth_max(smooth_max(side, -y - s1, r), abs(z) - s2, r)
    if shape == 15:  # curtain
        wave = 2.0 * pi / parts[i, SIZE + 4]
        fold = s3 * (np.sin(x * wave) + 0.3 * np.sin(x * wave * 0.43 + 1.0)) / 1.3
        sheet = (abs(z - fold) - s2) / np.sqrt(1.0 + 0.7 * s3 * s3 * wave * wave)
        return max(sheet, abs(x) - s0, abs(y) - s1)
    if shape == 16:  # hills
        wave = 2.0 * pi / parts[i, SIZE + 4]
        u = x * wave + parts[i, SIZE + 5]
        top = s1 + s3 * (0.75 * np.sin(u) + 0.25 * np.sin(2.3 * u + 1.3))
        top = (y - top) / np.sqrt(1.0 + 0.8 * s3 * s3 * wave * wave)
        return smooth_max(max(top, -y, abs(x) - s0), abs(z) - s2, r)
    dx, dy = abs(x) - s0, abs(y) - s1  # frame
    edge = smooth_max(smooth_max(dx, dy, r), -max(dx + s3, dy + s3), r)
    return smooth_max(edge, abs(z) - s2, r)


@njit(nogil=True, error_model="numpy")
def _outside(x: float, y: float, z: float, parts: Table, i: int, lid: bool) -> float:
    shape = int(parts[i, SHAPE])
    s0, s1, s2, r = parts[i, SIZE], parts[i, SIZE + 1], parts[i, SIZE + 2], parts[i, ROUND]
    if shape == 0:
        return np.sqrt(x * x + y * y + z * z) - s0
    if shape == 1:
        qx, qy, qz = x / s0, y / s1, z / s2
        k0 = np.sqrt(qx * qx + qy * qy + qz * qz)
        qx, qy, qz = qx / s0, qy / s1, qz / s2
        k1 = np.sqrt(qx * qx + qy * qy + qz * qz)
        return k0 * (k0 - 1.0) / k1 if k1 > 1e-9 else -min(s0, s1, s2)
    if shape == 2:
        return _box(abs(x) - s0, (abs(y) if lid else -y) - s1, abs(z) - s2, r)
    if shape == 13:  # taper
        top = parts[i, SIZE + 3]
        grow = 1.0 + (top - 1.0) * min(max((y + s1) / (2.0 * s1), -0.2), 1.2)
        slope = max(s0, s2) * (1.0 - top) / (2.0 * s1)
        lean = 1.0 / np.sqrt(1.0 + slope * slope)
        side = smooth_max((abs(x) - s0 * grow) * lean, (abs(z) - s2 * grow) * lean, r)
        return smooth_max(side, (abs(y) if lid else -y) - s1, r)
    if shape == 7 or shape == 9 or shape == 12 or shape >= 15:
        return _sheet(shape, x, y, z, parts, i)
    return _turned(shape, x, y, z, parts, i, lid)


@njit(nogil=True, error_model="numpy")
def local(px: float, py: float, pz: float, parts: Table, i: int) -> tuple[float, float, float]:
    """A world point in part i's own frame."""
    x, y, z = px - parts[i, AT], py - parts[i, AT + 1], pz - parts[i, AT + 2]
    return (
        parts[i, ROWS] * x + parts[i, ROWS + 1] * y + parts[i, ROWS + 2] * z,
        parts[i, ROWS + 3] * x + parts[i, ROWS + 4] * y + parts[i, ROWS + 5] * z,
        parts[i, ROWS + 6] * x + parts[i, ROWS + 7] * y + parts[i, ROWS + 8] * z,
    )


@njit(nogil=True, error_model="numpy")
def part_distance(px: float, py: float, pz: float, parts: Table, i: int) -> float:
    """Signed distance from a world point to part i alone (a safe lower bound for slanted outlines)."""
    x, y, z = local(px, py, pz, parts, i)
    d = _outside(x, y, z, parts, i, True)
    wall = parts[i, HOLLOW]
    if wall > 0.0 and d < wall:
        inside = _outside(x, y, z, parts, i, False) if parts[i, OPEN] > 0.0 else d
        d = smooth_max(d, -(inside + wall), 0.5 * wall)
    return d


@njit(nogil=True, error_model="numpy")
def field(px: float, py: float, pz: float, parts: Table, active: NDArray[np.int64], count: int) -> tuple[float, int]:
    """Signed distance to the listed parts (in order, solid by solid) and the part that is nearest, or -1."""
    total, total_part, d, part, group = FAR, -1, FAR, -1, -1.0
    for k in range(count):
        i = active[k]
        if parts[i, GROUP] != group:
            if d < total:
                total, total_part = d, part
            d, part, group = FAR, -1, parts[i, GROUP]
        x, y, z = px - parts[i, CENTRE], py - parts[i, CENTRE + 1], pz - parts[i, CENTRE + 2]
        away, blend = x * x + y * y + z * z, parts[i, BLEND]
        if parts[i, CUT] > 0.0:
            limit = max(parts[i, RADIUS] + blend - d, 0.0)
            if away > limit * limit:
                continue
            e = -part_distance(px, py, pz, parts, i)
            if e > d:
                part = i
            d = smooth_max(d, e, blend)
        else:
            # The bounding sphere says that the part is too far to matter.
            limit = parts[i, RADIUS] + blend + min(d, total)
            if limit <= 0.0 or away > limit * limit:
                continue
            e = part_distance(px, py, pz, parts, i)
            if e < d:
                part = i
            d = -smooth_max(-d, -e, blend) if d < FAR else e
            if part < 0:
                part = i
    if d < total:
        total, total_part = d, part
    return total, total_part


@njit(nogil=True, error_model="numpy")
def _through_box(
    o: tuple[float, float, float], d: tuple[float, float, float], slack: float, parts: Table, i: int
) -> tuple[float, float]:
    """Where a ray enters and leaves part i's own box, grown by `slack`; enters after it leaves when it misses."""
    x, y, z = o[0] - parts[i, AT], o[1] - parts[i, AT + 1], o[2] - parts[i, AT + 2]
    enter, leave = -FAR, FAR
    for axis in range(3):
        k = ROWS + 3 * axis
        a = parts[i, k] * x + parts[i, k + 1] * y + parts[i, k + 2] * z - parts[i, MIDDLE + axis]
        b = parts[i, k] * d[0] + parts[i, k + 1] * d[1] + parts[i, k + 2] * d[2]
        half = parts[i, HALF + axis] + slack + 1e-4
        if abs(b) < 1e-9:
            if abs(a) > half:
                return FAR, -FAR
            continue
        near, far = (-half - a) / b, (half - a) / b
        enter, leave = max(enter, min(near, far)), min(leave, max(near, far))
    return enter, leave


@njit(nogil=True, error_model="numpy")
def along_ray(
    o: tuple[float, float, float],
    d: tuple[float, float, float],
    first: int,
    last: int,
    spread: float,
    parts: Table,
    active: NDArray[np.int64],
) -> tuple[int, float, float]:
    """List the parts that a ray, widening by `spread` per unit, can touch: how many, and from where to where."""
    count, start, end = 0, FAR, 0.0
    for i in range(first, last):
        x, y, z = parts[i, CENTRE] - o[0], parts[i, CENTRE + 1] - o[1], parts[i, CENTRE + 2] - o[2]
        t = x * d[0] + y * d[1] + z * d[2]
        reach = parts[i, RADIUS] + parts[i, BLEND]
        if t < -reach:
            continue
        reach += spread * max(t, 0.0)
        gap = reach * reach - (x * x + y * y + z * z - t * t)
        if gap <= 0.0:
            continue
        half = np.sqrt(gap)
        enter, leave = _through_box(o, d, parts[i, BLEND] + spread * (max(t, 0.0) + half), parts, i)
        if enter > leave or leave < 0.0:
            continue
        active[count] = i
        count += 1
        if parts[i, CUT] == 0.0:
            start, end = min(start, max(t - half, enter)), max(end, min(t + half, leave))
    return count, max(start, 0.0), end


@njit(nogil=True, error_model="numpy")
def _in_box(px: float, py: float, pz: float, slack: float, parts: Table, i: int) -> bool:
    x, y, z = local(px, py, pz, parts, i)
    return (
        abs(x - parts[i, MIDDLE]) < parts[i, HALF] + slack
        and abs(y - parts[i, MIDDLE + 1]) < parts[i, HALF + 1] + slack
        and abs(z - parts[i, MIDDLE + 2]) < parts[i, HALF + 2] + slack
    )


@njit(nogil=True, error_model="numpy")
def around(px: float, py: float, pz: float, reach: float, parts: Table, active: NDArray[np.int64]) -> int:
    """List the parts within `reach` of a point."""
    count = 0
    for i in range(parts.shape[0]):
        x, y, z = parts[i, CENTRE] - px, parts[i, CENTRE + 1] - py, parts[i, CENTRE + 2] - pz
        limit = parts[i, RADIUS] + reach
        if x * x + y * y + z * z < limit * limit and _in_box(px, py, pz, reach, parts, i):
            active[count] = i
            count += 1
    return count


@njit(nogil=True, error_model="numpy")
def march(
    o: tuple[float, float, float],
    d: tuple[float, float, float],
    start: float,
    end: float,
    steps: int,
    parts: Table,
    active: NDArray[np.int64],
    count: int,
) -> tuple[float, int]:
    """Sphere tracing: how far along the ray the listed parts are hit and which part, or (`FAR`, -1)."""
    t, e, part = start, FAR, -1
    for _ in range(steps):
        e, part = field(o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2], parts, active, count)
        if e < 0.0004 + 0.0001 * t:
            return t, part
        t += 0.93 * e
        if t > end:
            return FAR, -1
    # A grazing ray that ran out of steps: it is as good as a hit when it is within half a pixel.
    return (t, part) if e < 0.004 else (FAR, -1)


@njit(nogil=True, error_model="numpy")
def normal(
    px: float, py: float, pz: float, parts: Table, active: NDArray[np.int64], count: int
) -> tuple[float, float, float]:
    """Unit normal of the listed parts at a surface point, from four distances."""
    h = 0.0007
    a, _ = field(px + h, py - h, pz - h, parts, active, count)
    b, _ = field(px - h, py - h, pz + h, parts, active, count)
    c, _ = field(px - h, py + h, pz - h, parts, active, count)
    e, _ = field(px + h, py + h, pz + h, parts, active, count)
    x, y, z = a - b - c + e, -a - b + c + e, -a + b - c + e
    length = np.sqrt(x * x + y * y + z * z) + 1e-20
    return x / length, y / length, z / length
