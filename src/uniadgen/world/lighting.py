"""Compiled light: what arrives at a surface, what it reflects, and how the studio looks in a mirror."""

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from uniadgen.world import distances, materials
from uniadgen.world.distances import FAR, Table, along_ray, around, field, local, march, normal
from uniadgen.world.materials import noise, ramp, surface

Colour3 = tuple[float, float, float]

# Where things stand in the array of light, in numbers from the start.
KEY: Final = 0
KEY_COLOUR: Final = 3
SKY: Final = 6
GROUND: Final = 9
FILL: Final = 12
FILL_COLOUR: Final = 15
RIM: Final = 18
RIM_COLOUR: Final = 21
ACROSS: Final = 24  # the key light's own x axis, then its y axis
UPWARD: Final = 27
DUSK: Final = 30
SOFTNESS: Final = 33
SPOT: Final = 34
EXPOSURE: Final = 35
VIGNETTE: Final = 36
GOBO: Final = 37
LIGHT_SIZE: Final = 38

# The array of the room: floor height, wall depth, cove radius, floor material, wall material, 1 if there is a room.
ROOM_SIZE: Final = 6

_MATERIAL: Final = distances.MATERIAL
_LONGEST: Final = distances.LONGEST
_GLOSS: Final = materials.GLOSS
_METAL: Final = materials.METAL
_GLOW: Final = materials.GLOW
_CLEAR: Final = materials.CLEAR
_PATTERN: Final = materials.PATTERN

_jit = njit(nogil=True, error_model="numpy")


@_jit
def _dot(a: Colour3, b: Table, at: int) -> float:
    return a[0] * b[at] + a[1] * b[at + 1] + a[2] * b[at + 2]


@_jit
def _mirror(d: Colour3, n: Colour3) -> Colour3:
    k = 2.0 * (d[0] * n[0] + d[1] * n[1] + d[2] * n[2])
    return d[0] - k * n[0], d[1] - k * n[1], d[2] - k * n[2]


@_jit
def _pool(p: Colour3, light: Table) -> float:
    """How much of a spot light reaches a point: 1 at the product, 0 far from it."""
    spot = light[SPOT]
    if spot <= 0.0:
        return 1.0
    u, v = _dot((p[0], p[1] - 0.35, p[2]), light, ACROSS), _dot((p[0], p[1] - 0.35, p[2]), light, UPWARD)
    q = (u * u + v * v) / (spot * spot)
    return 1.0 / (1.0 + q * q)


@_jit
def _mask(p: Colour3, light: Table) -> float:
    """The pattern cut into the key light."""
    kind = int(light[GOBO])
    if kind == 0:
        return 1.0
    u, v = _dot(p, light, ACROSS), _dot(p, light, UPWARD)
    if kind == 1:  # window
        u, v = (u + 0.16 * v) / 0.62 + 0.5, (v - 0.25) / 0.72
        a, b = abs(u - np.floor(u) - 0.5), abs(v - np.floor(v) - 0.5)
        inside = ramp(1.6, 1.5, abs(u - 0.5)) * ramp(1.6, 1.5, abs(v))
        return 0.3 + 0.7 * inside * ramp(0.45, 0.39, a) * ramp(0.46, 0.41, b)
    if kind == 2:  # blinds
        w = (v + 0.25 * u) / 0.3
        return 0.16 + 0.84 * ramp(0.34, 0.24, abs(w - np.floor(w) - 0.5))
    leaf = noise(2.4 * u + 7.0, 3.4 * v + 0.8 * u, 4.0) * 0.65 + noise(5.5 * u, 6.5 * v - 2.0 * u, 9.0) * 0.35
    return 0.3 + 0.7 * ramp(0.40, 0.56, leaf)


@_jit
def _shadow(p: Colour3, n: Colour3, parts: Table, light: Table, active: NDArray[np.int64]) -> float:
    """1 in full key light, 0 in shadow, smooth between: the nearest miss relative to the distance.

    A ray that enters anything is dark: how deep it goes would not tell, since vessels have thin walls.
    """
    o = (p[0] + 0.006 * n[0], p[1] + 0.006 * n[1], p[2] + 0.006 * n[2])
    d = (light[KEY], light[KEY + 1], light[KEY + 2])
    width = 1.5 * light[SOFTNESS]
    count, start, end = along_ray(o, d, 0, parts.shape[0], width, parts, active)
    if count == 0:
        return 1.0
    t, lit, before, low, high, follow = max(start, 0.008), 1.0, 0.008, 0.008, 0.008, False
    for _ in range(80):
        if t > end:
            break
        e, _part = field(o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2], parts, active, count)
        if e < 0.0005:
            return 0.0
        ratio = e / (width * t + 0.004)
        if follow:
            high, follow = t, False
        if ratio < lit:
            lit, low, follow = ratio, before, True
        before = t
        t += min(max(0.8 * e, 0.006 + 0.006 * t), 0.4)
    if follow:
        high = min(t, end)
    if lit < 1.0:
        # The steps straddle the nearest miss; closing in on it keeps their rhythm out of the penumbra.
        for _ in range(5):
            third = (high - low) / 3.0
            t = low + third
            e, _part = field(o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2], parts, active, count)
            one = e / (width * t + 0.004)
            t = high - third
            e, _part = field(o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2], parts, active, count)
            other = e / (width * t + 0.004)
            lit = min(lit, one, other)
            if one < other:
                high -= third
            else:
                low += third
    lit = max(lit, 0.0)
    return lit * lit * (3.0 - 2.0 * lit)


@_jit
def _room_distance(p: Colour3, room: Table) -> float:
    if room[5] == 0.0:
        return FAR
    y, z, r = p[1] - room[0], p[2] - room[1], room[2]
    if y < r and z < r:
        return r - np.sqrt((r - y) * (r - y) + (r - z) * (r - z))
    return min(y, z)


@_jit
def _occlusion(
    p: Colour3, n: Colour3, parts: Table, stuff: Table, room: Table, active: NDArray[np.int64]
) -> tuple[float, float, float, float]:
    """Openness of the hemisphere, 0..1, and the colour that the nearby surfaces throw into the closed part."""
    count = around(p[0] + 0.3 * n[0], p[1] + 0.3 * n[1], p[2] + 0.3 * n[2], 0.63, parts, active)
    closed, weight, thrown, r, g, b = 0.0, 1.0, 1e-6, 0.0, 0.0, 0.0
    for k in range(5):
        h = 0.02 + 0.022 * k * (k + 1)
        q = (p[0] + h * n[0], p[1] + h * n[1], p[2] + h * n[2])
        e, part = field(q[0], q[1], q[2], parts, active, count)
        if part >= 0 and e < h:
            m, share = int(parts[part, _MATERIAL]), weight * (h - e) / h
            thrown += share
            r, g, b = r + share * stuff[m, 0], g + share * stuff[m, 1], b + share * stuff[m, 2]
        e = min(e, _room_distance(q, room))
        closed += weight * max(h - e, 0.0) / h
        weight *= 0.78
    # Weighting by closeness lets the thrown colour fade in where a second part comes near.
    share = min(thrown, 1.0) / thrown
    return max(1.0 - 0.34 * closed, 0.0), share * r, share * g, share * b


@_jit
def _environment(d: Colour3, blur: float, light: Table) -> Colour3:
    """The studio seen in a mirror: dim surroundings, a soft box at the key light, a strip opposite."""
    up = ramp(-0.35, 0.6, d[1])
    r = light[GROUND] * (1.0 - up) + light[SKY] * up
    g = light[GROUND + 1] * (1.0 - up) + light[SKY + 1] * up
    b = light[GROUND + 2] * (1.0 - up) + light[SKY + 2] * up
    k = _dot(d, light, KEY)
    box = 0.0
    if k > 0.05:
        u, v = abs(_dot(d, light, ACROSS)) / k, abs(_dot(d, light, UPWARD)) / k
        box = ramp(0.55 + blur, 0.45 - 0.4 * blur, u) * ramp(0.65 + blur, 0.55 - 0.4 * blur, v) / (1.0 + 3.0 * blur)
    side = light[KEY] if abs(light[KEY]) > 0.2 else -0.6
    strip = ramp(0.25 + 0.5 * blur, 0.12 - 0.1 * blur, abs(d[0] + 0.8 * np.sign(side))) * ramp(-0.3, 0.1, d[1])
    strip *= ramp(-0.5, 0.3, d[2]) / (1.0 + 3.0 * blur)
    k1, k2 = 2.6 * box, 5.0 * strip
    return (
        r + k1 * light[KEY_COLOUR] + k2 * light[FILL_COLOUR],
        g + k1 * light[KEY_COLOUR + 1] + k2 * light[FILL_COLOUR + 1],
        b + k1 * light[KEY_COLOUR + 2] + k2 * light[FILL_COLOUR + 2],
    )


@_jit
def _diffuse(
    p: Colour3, n: Colour3, lit: float, open_: float, throw: Colour3, stuff: Table, light: Table, room: Table
) -> Colour3:
    """Light that arrives at a matt surface."""
    pool = _pool(p, light)
    key = max(_dot(n, light, KEY), 0.0) * lit * pool
    up = 0.5 + 0.5 * n[1]
    fill = (0.4 + 0.6 * max(_dot(n, light, FILL), 0.0)) * (0.35 + 0.65 * open_) * (0.4 + 0.6 * pool)
    bounce = 0.0
    floor = int(room[3])
    if room[5] > 0.0:
        bounce = 0.38 * (1.0 - up) * light[KEY + 1] * pool * open_ / (1.0 + max(p[1] - room[0], 0.0))
    out = (0.0, 0.0, 0.0)
    shut = 1.0 - open_
    r, g, b = out
    for c in range(3):
        dusk = light[DUSK + c] + (1.0 - light[DUSK + c]) * pool
        ambient = light[GROUND + c] * (1.0 - up) + light[SKY + c] * up
        tinted = open_ + 0.55 * shut * throw[c]
        value = light[KEY_COLOUR + c] * key + ambient * tinted * dusk + light[FILL_COLOUR + c] * fill
        if bounce > 0.0:
            value += bounce * light[KEY_COLOUR + c] * stuff[floor, c]
        if c == 0:
            r = value
        elif c == 1:
            g = value
        else:
            b = value
    return r, g, b


@_jit
def room_hit(o: Colour3, d: Colour3, room: Table) -> tuple[float, float]:
    """How far along the ray the room is, and the angle on the cove: 0 the floor, 1 the wall; `FAR` if not at all."""
    if room[5] == 0.0:
        return FAR, 0.0
    floor = (room[0] - o[1]) / d[1] if d[1] < -1e-9 else FAR
    wall = (room[1] - o[2]) / d[2] if d[2] < -1e-9 else FAR
    r = room[2]
    if r <= 0.0:
        return (floor, 0.0) if floor < wall else (wall, 1.0)
    if floor < FAR and o[2] + floor * d[2] >= room[1] + r:
        return floor, 0.0
    if wall < FAR and o[1] + wall * d[1] >= room[0] + r:
        return wall, 1.0
    y, z = o[1] - room[0] - r, o[2] - room[1] - r
    a, b, c = d[1] * d[1] + d[2] * d[2], y * d[1] + z * d[2], y * y + z * z - r * r
    root = b * b - a * c
    if root < 0.0 or a < 1e-12:
        return FAR, 0.0
    t = (-b + np.sqrt(root)) / a
    return (
        (t, min(max(np.arctan2(-(z + t * d[2]), -(y + t * d[1])) / (0.5 * np.pi), 0.0), 1.0)) if t > 0 else (FAR, 0.0)
    )


@_jit
def room_normal(p: Colour3, round_: float, room: Table) -> Colour3:
    angle = round_ * 0.5 * np.pi
    return 0.0, np.cos(angle), np.sin(angle)


@_jit
def room_colour(p: Colour3, round_: float, stuff: Table, room: Table) -> Colour3:
    a = surface(stuff, int(room[3]), p[0], p[1], p[2], p[0], 1.0) if round_ < 1.0 else (0.0, 0.0, 0.0)
    if round_ <= 0.0:
        return a
    b = surface(stuff, int(room[4]), p[0], p[1], p[2], p[1], 0.0)
    k = ramp(0.0, 1.0, round_)
    return a[0] + k * (b[0] - a[0]), a[1] + k * (b[1] - a[1]), a[2] + k * (b[2] - a[2])


@_jit
def part_colour(p: Colour3, n: Colour3, i: int, parts: Table, stuff: Table) -> Colour3:
    x, y, z = local(p[0], p[1], p[2], parts, i)
    longest = int(parts[i, _LONGEST])
    along = x if longest == 0 else (y if longest == 1 else z)
    return surface(stuff, int(parts[i, _MATERIAL]), x, y, z, along, n[1])


@_jit
def _seen(
    o: Colour3,
    d: Colour3,
    blur: float,
    parts: Table,
    stuff: Table,
    light: Table,
    room: Table,
    active: NDArray[np.int64],
) -> Colour3:
    """What a mirror ray sees, lit without shadows; the studio's environment where it sees nothing."""
    count, start, end = along_ray(o, d, 0, parts.shape[0], 0.0, parts, active)
    t, part = march(o, d, max(start, 0.01), end, 40, parts, active, count) if count > 0 else (FAR, -1)
    wall, round_ = room_hit(o, d, room)
    if part < 0 and wall >= 9.0:
        return _environment(d, blur, light)
    if t < wall:
        p = (o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2])
        n = normal(p[0], p[1], p[2], parts, active, count)
        base = part_colour(p, n, part, parts, stuff)
        glow = 1.0 + 2.0 * stuff[int(parts[part, _MATERIAL]), _GLOW]
    else:
        p = (o[0] + wall * d[0], o[1] + wall * d[1], o[2] + wall * d[2])
        n = room_normal(p, round_, room)
        base, glow = room_colour(p, round_, stuff, room), 1.0
    e = _diffuse(p, n, 0.75, 0.8, base, stuff, light, room)
    return base[0] * e[0] * glow, base[1] * e[1] * glow, base[2] * e[2] * glow


@_jit
def _glass(p: Colour3, n: Colour3, d: Colour3, base: Colour3, light: Table, stuff: Table, room: Table) -> Colour3:
    """The inside of tinted glass: the room seen through it, bent, and a bright body."""
    bend = (d[0] - 0.45 * n[0], d[1] - 0.45 * n[1], d[2] - 0.45 * n[2])
    size = np.sqrt(bend[0] * bend[0] + bend[1] * bend[1] + bend[2] * bend[2])
    bend = (bend[0] / size, bend[1] / size, bend[2] / size)
    wall, round_ = room_hit(p, bend, room)
    if wall < 9.0:
        q = (p[0] + wall * bend[0], p[1] + wall * bend[1], p[2] + wall * bend[2])
        back = room_colour(q, round_, stuff, room)
        e = _diffuse(q, room_normal(q, round_, room), 0.8, 0.9, back, stuff, light, room)
        back = (back[0] * e[0], back[1] * e[1], back[2] * e[2])
    else:
        back = _environment(bend, 0.5, light)
    ndv = abs(d[0] * n[0] + d[1] * n[1] + d[2] * n[2])
    dark = 0.55 + 0.45 * ndv
    return back[0] * base[0] * dark, back[1] * base[1] * dark, back[2] * base[2] * dark


@_jit
def shade(
    p: Colour3,
    n: Colour3,
    d: Colour3,
    base: Colour3,
    m: int,
    parts: Table,
    stuff: Table,
    light: Table,
    room: Table,
    active: NDArray[np.int64],
) -> Colour3:
    """Linear light from a surface point towards the eye."""
    key = _dot(n, light, KEY)
    lit = _shadow(p, n, parts, light, active) * _mask(p, light) if key > 0.0 else 0.0
    open_, tr, tg, tb = _occlusion(p, n, parts, stuff, room, active)
    e = _diffuse(p, n, lit, open_, (tr, tg, tb), stuff, light, room)
    gloss, metal, clear, glow = stuff[m, _GLOSS], stuff[m, _METAL], stuff[m, _CLEAR], stuff[m, _GLOW]
    ndv = max(-(d[0] * n[0] + d[1] * n[1] + d[2] * n[2]), 0.0)
    edge = (1.0 - ndv) ** 5
    body = (base[0] * e[0], base[1] * e[1], base[2] * e[2])
    if clear > 0.0:
        inside = _glass(p, n, d, base, light, stuff, room)
        body = (
            body[0] + clear * (inside[0] - body[0]),
            body[1] + clear * (inside[1] - body[1]),
            body[2] + clear * (inside[2] - body[2]),
        )
    blur = 1.0 - gloss
    mirror = _mirror(d, n)
    if gloss > 0.55 or (metal > 0.5 and gloss > 0.3):
        o = (p[0] + 0.01 * n[0], p[1] + 0.01 * n[1], p[2] + 0.01 * n[2])
        seen = _seen(o, mirror, blur, parts, stuff, light, room, active)
        soft = _environment(mirror, blur, light)
        # A traced hit has no blur of its own: mix it with the blurred studio by how rough the surface is.
        k = 0.75 * blur
        seen = (
            seen[0] + k * (soft[0] - seen[0]),
            seen[1] + k * (soft[1] - seen[1]),
            seen[2] + k * (soft[2] - seen[2]),
        )
    else:
        seen = _environment(mirror, blur, light)
    hx, hy, hz = light[KEY] - d[0], light[KEY + 1] - d[1], light[KEY + 2] - d[2]
    half = np.sqrt(hx * hx + hy * hy + hz * hz) + 1e-9
    ndh = max((hx * n[0] + hy * n[1] + hz * n[2]) / half, 0.0)
    power = 2.0 ** (3.0 + 6.5 * gloss)
    shine = gloss * (power + 8.0) / 60.0 * ndh**power * max(key, 0.0) * lit * _pool(p, light)
    back = (1.0 - ndv) ** 3 * max(_dot(n, light, RIM) + 0.3, 0.0) * open_ * (0.15 + 0.85 * gloss)
    velvet = 0.35 * (1.0 - ndv) ** 2 if stuff[m, _PATTERN] == 3.0 else 0.0
    plain = 0.02 + 0.07 * gloss + 0.7 * gloss * gloss * edge
    shade = (0.35 + 0.65 * open_) * (0.25 + 0.75 * gloss)
    r, g, b = 0.0, 0.0, 0.0
    for c in range(3):
        f0 = base[c] + (1.0 - base[c]) * edge
        reflect = metal * f0 * (0.45 + 0.55 * open_) + (1.0 - metal) * plain * shade
        spark = metal * f0 * 0.5 + (1.0 - metal) * 0.10
        value = body[c] * (1.0 - 0.92 * metal) * (1.0 + velvet) + seen[c] * reflect
        value += light[KEY_COLOUR + c] * shine * spark + light[RIM_COLOUR + c] * back * (0.12 + 0.5 * base[c])
        value += glow * base[c] * (1.15 - 0.35 * edge)
        if c == 0:
            r = value
        elif c == 1:
            g = value
        else:
            b = value
    return r, g, b
