"""AdWorld as data: its visits become examples, its pictures are rendered once and kept."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from uniadgen.config import WorldConfig
from uniadgen.records import Click, Example, Product
from uniadgen.world.render import Rendering, cutout, render
from uniadgen.world.scenes import Scene, Style, scene
from uniadgen.world.shoppers import Noise, Shop, Visit
from uniadgen.world.solids import Solid

CHUNK = 120  # pictures rendered between two marks of progress


def shop_of(world: WorldConfig, held_out: bool = False) -> Shop:
    """The shop of a config; the held-out one has other products (of the same families) and other shoppers."""
    noise = Noise(
        sample=world.sample_noise,
        image_only=world.image_only,
        text_only=world.text_only,
        home_share=world.home_share,
        length=world.history_length,
    )
    return Shop(
        world.held_out_seed if held_out else world.seed,
        num_variants=world.num_variants,
        pictures_per_product=world.pictures_per_product,
        noise=noise,
        languages=world.languages,
    )


def scene_of(shop: Shop, picture_id: int, style: Style | None = None) -> tuple[Solid, Scene]:
    """What one picture of the shop shows: the product's solid, and the scene of its own style or of another."""
    own = Style.from_index(int(shop.style_indices(np.array(picture_id))))
    product = shop.product(int(shop.product_ids(np.array(picture_id))))
    return product.variant.solid, scene(style or own, shop.scene_generator(picture_id))


def picture_of(shop: Shop, picture_id: int, size: int) -> Rendering:
    """Renders one picture of the shop, always alike."""
    return render(*scene_of(shop, picture_id), size)


def cutout_of(shop: Shop, picture_id: int, size: int) -> NDArray[np.uint8]:
    """The seller's transparent picture: neutral light, placed as in that picture; (size, size, 4)."""
    solid, in_scene = scene_of(shop, picture_id)
    return cutout(solid, in_scene.camera, size)


def example_of(
    shop: Shop, visit: Visit, size: int, cutout_size: int, drawn: dict[str, NDArray[np.uint8]] | None = None
) -> Example:
    """A visit with its pictures rendered: the request, and the click that really happened as the target.

    What is `drawn` already is taken from there, and what is not is put there.
    """
    drawn = {} if drawn is None else drawn
    language = visit.shopper.language
    target, *history = (shop.creative(i) for i in (visit.target, *visit.history.creative_ids))
    picture_ids = {creative.picture_id for creative in (target, *history)}
    for picture_id in picture_ids:  # a shopper comes back to some pictures: each is rendered once
        if str(picture_id) not in drawn:
            drawn[str(picture_id)] = picture_of(shop, picture_id, size).picture
    if "cutout" not in drawn:
        drawn["cutout"] = cutout_of(shop, target.picture_id, cutout_size)
    pictures = {picture_id: Image.fromarray(drawn[str(picture_id)]) for picture_id in picture_ids}
    product = Product(
        Image.fromarray(drawn["cutout"]),
        target.product.description(language),
        target.product.selling_points(language),
    )
    shown, *clicks = (Click(pictures[c.picture_id], c.text(language)) for c in (target, *history))
    return Example(product, tuple(clicks), shown)


def all_texts(shop: Shop) -> Iterator[str]:
    """Every description, selling point and a text of each kind and manner, in both languages."""
    for product_id in range(shop.num_products):
        product = shop.product(product_id)
        first = shop.creative_id(product_id * shop.pictures_per_product, "value", "plain")
        for language in ("en", "zh"):
            yield product.description(language)
            yield from product.selling_points(language)
            for text in range(20):
                yield shop.creative(first + text).text(language)


@dataclass(frozen=True)
class Stock:
    """The pictures that training needs, rendered once: memory-mapped uint8, row i shows `picture_ids[i]`."""

    picture_ids: NDArray[np.int64]  # (P), ascending
    pictures: NDArray[np.uint8]  # (P, S, S, 3)
    cutouts: NDArray[np.uint8]  # (P, S, S, 4)

    def row(self, picture_id: int) -> int:
        """Where a picture of the shop stands here."""
        row = int(np.searchsorted(self.picture_ids, picture_id))
        assert self.picture_ids[min(row, len(self.picture_ids) - 1)] == picture_id, (
            f"picture {picture_id} is not in stock"
        )
        return row


def needed_pictures(world: WorldConfig) -> NDArray[np.int64]:
    """All pictures of the shop, or, with a limited number of shoppers, those that these clicked."""
    shop = shop_of(world)
    if not world.num_shoppers:
        return np.arange(shop.num_pictures)
    visits = [shop.visit(i) for i in range(world.num_shoppers)]
    return np.unique([shop.creative(c).picture_id for v in visits for c in (v.target, *v.history.creative_ids)])


def render_stock(
    world: WorldConfig, folder: Path, size: int, processes: int, advance: Callable[[int], None] = lambda _: None
) -> Stock:
    """Renders what is not yet in `folder`, in parallel, and opens it. A run that was killed goes on.

    `advance` is told how many pictures have become ready.
    """
    folder.mkdir(parents=True, exist_ok=True)
    picture_ids = needed_pictures(world)
    for name, channels in _ARRAYS.items():
        if not (folder / name).exists():
            shape = (len(picture_ids), size, size, channels)
            np.lib.format.open_memmap(folder / name, "w+", np.uint8, shape).flush()
    chunks = [range(i, min(i + CHUNK, len(picture_ids))) for i in range(0, len(picture_ids), CHUNK)]
    missing = [chunk for chunk in chunks if not _mark(folder, chunk).exists()]
    advance(len(picture_ids) - sum(map(len, missing)))
    if missing:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            for done in as_completed(pool.submit(_render_chunk, world, folder, size, chunk) for chunk in missing):
                advance(done.result())
    return Stock(picture_ids, *(np.load(folder / name, mmap_mode="r") for name in _ARRAYS))


_ARRAYS = {"pictures.npy": 3, "cutouts.npy": 4}


def _mark(folder: Path, chunk: range) -> Path:
    return folder / f"done-{chunk.start}"


def _render_chunk(world: WorldConfig, folder: Path, size: int, chunk: range) -> int:
    shop, picture_ids = _shop_and_pictures(world)
    pictures, cutouts = (np.load(folder / name, mmap_mode="r+") for name in _ARRAYS)
    for row in chunk:
        pictures[row] = picture_of(shop, int(picture_ids[row]), size).picture
        cutouts[row] = cutout_of(shop, int(picture_ids[row]), size)
    pictures.flush()
    cutouts.flush()
    _mark(folder, chunk).touch()
    return len(chunk)


@lru_cache(maxsize=1)  # once per worker process
def _shop_and_pictures(world: WorldConfig) -> tuple[Shop, NDArray[np.int64]]:
    return shop_of(world), needed_pictures(world)
