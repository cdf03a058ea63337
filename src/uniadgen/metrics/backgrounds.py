"""Pictures whose backgrounds are known to be alike or not: held-out products of AdWorld in scenes of every style."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from PIL import Image, ImageFilter

from uniadgen.config import WorldConfig
from uniadgen.data.adworld import shop_of
from uniadgen.world.layouts import LAYOUTS
from uniadgen.world.palettes import PALETTES
from uniadgen.world.render import render
from uniadgen.world.scenes import LIGHTINGS, NUM_STYLES, Style, scene

# What a picture shows beside the first of its product; `swapped` is another product.
SHOWN = ("first", "same", "remade", "different", "near", "swapped")
PARTS = {"layout": tuple(LAYOUTS), "palette": tuple(PALETTES), "lighting": tuple(LIGHTINGS)}
Probe = dict[str, Image.Image]


def probes(world: WorldConfig, num_products: int, size: int, seed: int = 0) -> Iterator[Probe]:
    """Six pictures of each of `num_products` held-out products, rendered when asked for.

    `first`: in a style. `same`: in that style with other accidents of camera, props and patterns, which is the same
    background. `remade`: `same` as another hand would deliver it. `different`: in another style. `near`: in a style
    that differs in its layout, its palette or its lighting alone. `swapped`: the very scene of `first`, with another
    product in it. Raises `ValueError` for more products than there are.
    """
    shop = shop_of(world, held_out=True)
    if not 2 <= num_products <= shop.num_products:
        raise ValueError(f"got {num_products} products, expected 2 to {shop.num_products}")
    order = np.random.default_rng(seed).permutation(shop.num_products)[:num_products]
    for number, product_id in enumerate(int(i) for i in order):
        rng = np.random.default_rng([seed, number])
        solid = shop.product(product_id).variant.solid
        other = shop.product(int(order[number - 1])).variant.solid
        own = Style.from_index(int(rng.integers(NUM_STYLES)))
        far = Style.from_index((own.index + int(rng.integers(1, NUM_STYLES))) % NUM_STYLES)
        shown = {
            "first": (solid, own, 0),
            "same": (solid, own, 1),
            "different": (solid, far, 2),
            "near": (solid, _one_part_off(own, tuple(PARTS)[number % len(PARTS)], rng), 3),
            "swapped": (other, own, 0),
        }
        made = {
            name: Image.fromarray(render(thing, scene(style, np.random.default_rng([seed, number, accident])), size)[0])
            for name, (thing, style, accident) in shown.items()
        }
        made["remade"] = remade(made["same"], rng)
        yield {name: made[name] for name in SHOWN}


def remade(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A picture zoomed into, lighter or darker, warmer or cooler, and softer: each a little, its size kept."""
    zoom = rng.uniform(0.8, 1)
    left, top = (rng.uniform(0, 1 - zoom) * length for length in picture.size)
    box = left, top, left + zoom * picture.width, top + zoom * picture.height
    zoomed = picture.resize(picture.size, Image.Resampling.BICUBIC, box=box)
    soft = zoomed.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1) * picture.width / 144))
    gains = rng.uniform(0.88, 1.12) * rng.uniform(0.95, 1.05, 3)
    return Image.fromarray(np.clip(np.rint(np.asarray(soft) * gains), 0, 255).astype(np.uint8))


def _one_part_off(style: Style, part: str, rng: np.random.Generator) -> Style:
    others = [name for name in PARTS[part] if name != getattr(style, part)]
    return replace(style, **{part: str(rng.choice(others))})
