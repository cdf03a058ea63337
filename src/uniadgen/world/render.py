"""Renders a product in a scene, or alone as a cutout, by sphere tracing; deterministic, one thread, no GPU."""

from math import cos, sin
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uniadgen.world import distances, lighting, materials, tracing
from uniadgen.world.distances import Table
from uniadgen.world.scenes import GOBOS, Camera, Light, Room, Scene
from uniadgen.world.solids import Solid


class Rendering(NamedTuple):
    """A picture and the product's exact, antialiased coverage of it."""

    picture: NDArray[np.uint8]  # (H, W, 3), sRGB
    alpha: NDArray[np.uint8]  # (H, W)


def render(product: Solid, scene: Scene, size: int = 144) -> Rendering:
    """A square picture of the product in the scene, `size` pixels wide.

    The alpha depends on the product, the camera and the size only. Raises ValueError for a size below 8.
    """
    _check(size)
    solids = (product, *scene.solids)
    first = np.cumsum([0, *map(len, solids)])
    parts = np.concatenate(
        [distances.solid_rows(solid, group, int(first[group])) for group, solid in enumerate(solids)]
    )
    stuff = [part.material for solid in solids for part in solid] + [scene.room.floor, scene.room.wall]
    table = materials.rows(stuff)
    table[len(product) :, materials.SHIFT] += scene.shift
    pixels = tracing.draw(
        size,
        len(product),
        _view(scene.camera),
        parts,
        table,
        _light(scene.light),
        _room(scene.room, len(stuff)),
    )
    return Rendering(pixels[..., :3], pixels[..., 3])


def cutout(product: Solid, camera: Camera, size: int = 144) -> NDArray[np.uint8]:
    """The product alone in neutral studio light: (H, W, 4) with straight (not premultiplied) alpha.

    Raises ValueError for a size below 8.
    """
    _check(size)
    parts = distances.solid_rows(product, 0, 0)
    table = materials.rows([part.material for part in product])
    room = np.zeros(lighting.ROOM_SIZE)
    return tracing.draw(size, len(product), _view(camera), parts, table, _light(NEUTRAL), room)


NEUTRAL: Final = Light(
    key=(-0.45, 0.75, 0.49), key_colour=(1.55, 1.55, 1.55), softness=0.2,
    sky=(0.60, 0.60, 0.60), ground=(0.42, 0.42, 0.42),
    fill=(0.8, 0.3, 0.5), fill_colour=(0.3, 0.3, 0.3),
    rim=(0.5, 0.4, -0.77), rim_colour=(0.4, 0.4, 0.4), vignette=0.0, exposure=0.58,
)  # fmt: skip


def _view(camera: Camera) -> Table:
    """Eye, half picture at distance 1, and the directions forward, right, up: 13 numbers."""
    cy, sy, cp, sp = cos(camera.yaw), sin(camera.yaw), cos(camera.pitch), sin(camera.pitch)
    forward = np.array([-sy * cp, -sp, -cy * cp])
    eye = np.array([0.0, camera.height, 0.0]) - camera.distance * forward
    right, up = np.array([cy, 0.0, -sy]), np.array([-sy * sp, cp, -cy * sp])
    return np.concatenate([eye, [camera.reach / camera.distance], forward, right, up])


def _light(light: Light) -> Table:
    out = np.zeros(lighting.LIGHT_SIZE)
    key = _unit(light.key)
    across = _unit(np.cross([0.0, 1.0, 0.0], key))
    vectors = (
        key, light.key_colour, light.sky, light.ground, _unit(light.fill), light.fill_colour,
        _unit(light.rim), light.rim_colour, across, np.cross(key, across), light.dusk,
    )  # fmt: skip
    out[: lighting.SOFTNESS] = np.concatenate(vectors)
    out[lighting.SOFTNESS :] = (
        light.softness, light.spot, light.exposure, light.vignette, GOBOS.index(light.gobo),
    )  # fmt: skip
    return out


def _room(room: Room, num_materials: int) -> Table:
    return np.array([room.floor_height, room.wall_depth, room.cove, num_materials - 2, num_materials - 1, 1.0])


def _unit(vector: object) -> NDArray[np.float64]:
    array = np.asarray(vector, dtype=np.float64)
    return array / np.linalg.norm(array)


def _check(size: int) -> None:
    if size < 8:
        raise ValueError(f"got size {size}, expected 8 or more, give the picture's width in pixels")
