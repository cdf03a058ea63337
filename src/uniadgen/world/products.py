"""The catalogue: every family of products, by department."""

from typing import Final

from uniadgen.world import beauty, electronics, fashion, kitchen, living, outdoor
from uniadgen.world.goods import COLOURS, FINISHES, Family, Variant

__all__ = ["COLOURS", "DEPARTMENTS", "FAMILIES", "FINISHES", "Family", "Variant"]

_SHELVES: Final = {
    "kitchen": (kitchen.mug, kitchen.kettle, kitchen.bowl, kitchen.pan),
    "beauty": (beauty.lipstick, beauty.serum, beauty.cream, beauty.perfume),
    "living": (living.lamp, living.sofa, living.vase, living.clock),
    "electronics": (electronics.speaker, electronics.headphones, electronics.camera, electronics.phone),
    "fashion": (fashion.handbag, fashion.sneaker, fashion.hat, fashion.watch),
    "outdoor": (outdoor.bottle, outdoor.tent, outdoor.backpack, outdoor.lantern),
}

DEPARTMENTS: Final[tuple[str, ...]] = tuple(_SHELVES)

# A family is named after the function that builds it.
FAMILIES: Final[dict[str, Family]] = {
    build.__name__: Family(name=build.__name__, department=department, build=build)
    for department, builds in _SHELVES.items()
    for build in builds
}
