"""PBS is trained: on AdWorld, whose pictures are rendered first, or on one's own products' pictures."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from uniadgen.config import PBSConfig, WorldConfig
from uniadgen.data.adworld import Stock, needed_pictures, render_stock, shop_of
from uniadgen.data.cutout import read_picture
from uniadgen.metrics.contrast import Contrast, Views
from uniadgen.metrics.pairs import pictures_of
from uniadgen.metrics.pbs import PBS
from uniadgen.metrics.pixels import IMAGENET_CROP, standardised
from uniadgen.metrics.trunk import Trunk
from uniadgen.metrics.views import random_view
from uniadgen.train.log import progress_bar
from uniadgen.train.loop import keep_config, train
from uniadgen.world.products import DEPARTMENTS


class Same(NamedTuple):
    """Two pictures with the same background, of which the views are made: mostly one picture, twice."""

    first: Image.Image
    second: Image.Image


@runtime_checkable
class Source(Protocol):
    """Products, each with pictures on different backgrounds."""

    def group(self, number: int, rng: np.random.Generator) -> list[Same]:
        """`number` pictures of one product, drawn at random."""
        ...


def train_pbs(config: PBSConfig, folder: Path, base: Path | None = None, data: Path | None = None) -> Path:
    """Trains PBS and returns the folder of its weights, `folder/weights`. Killed at any point, it goes on there.

    `base`: a checkpoint of MoCo v3 whose trunk is the start. `data`: a folder with a folder of pictures for every
    product; AdWorld, if the config has a world, needs none. Raises `ValueError` where what is needed is not there.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("PBS was started as one of several processes, expected one alone: start it without torchrun")
    if config.world is None and data is None:
        raise ValueError(f"recipe {config.name} has no pictures of its own, expected --data: a folder for each product")
    if data is not None and config.contrast.other_product > 0:
        raise ValueError(
            f"contrast.other_product is {config.contrast.other_product}, expected 0 with --data, where no other "
            "product's background is known to be the same: --set contrast.other_product=0"
        )
    if not config.contrast.train_trunk and base is None:
        raise ValueError(f"recipe {config.name} trains no trunk, expected --base: a checkpoint of MoCo v3")
    start = None if base is None else Trunk.from_moco(base, config.model.num_heads)
    keep_config(config, folder)
    source = Folders(data, config.contrast.pair_num) if data else AdWorldPairs(config, folder / "stock")
    model = new_contrast(config, start)
    batches = Batches(config, source)
    train(model, lambda step: [batches.batch(step)], config.train, folder / "model", what="PBS")
    model.pbs.save(folder / "weights", torch.float16)
    config.save(folder / "weights" / "recipe.json")
    return folder / "weights"


def new_contrast(config: PBSConfig, start: Trunk | None = None) -> Contrast:
    """Networks with new random weights, which the seed decides, and the trunk of `start`."""
    with torch.random.fork_rng():  # torch initialises from the global generator
        torch.manual_seed(config.train.seed)
        pbs = PBS(config.model)
        if start is not None:
            if start.config != replace(config.model, features=start.config.features):
                raise ValueError(f"the base is {start.config}, expected the config's own, {config.model}")
            pbs.vit.load_state_dict(start.vit.state_dict())
        return Contrast(pbs, config.contrast)


class AdWorldPairs:
    """AdWorld's products: each has as many pictures as the shop makes of it, every one in another style."""

    def __init__(self, config: PBSConfig, folder: Path) -> None:
        assert config.world is not None
        self.stock = _render(config.world, folder, config.picture_size)
        self.shop = shop_of(config.world)
        self.other_product = config.contrast.other_product
        if self.shop.pictures_per_product < config.contrast.pair_num:
            each = self.shop.pictures_per_product
            raise ValueError(f"world.pictures_per_product is {each}, expected at least contrast.pair_num")

    def group(self, number: int, rng: np.random.Generator) -> list[Same]:
        """`number` pictures of one product; a share has another product's beside it, in the same style."""
        first = self.draw(number, rng)
        second = [self.other(picture, rng) if rng.random() < self.other_product else picture for picture in first]
        return [Same(self._picture(one), self._picture(other)) for one, other in zip(first, second, strict=True)]

    def draw(self, number: int, rng: np.random.Generator) -> list[int]:
        """Numbers of pictures of one product."""
        each = self.shop.pictures_per_product
        start = int(rng.integers(self.shop.num_products)) * each
        return (start + rng.choice(each, number, replace=False)).tolist()

    def other(self, picture_id: int, rng: np.random.Generator) -> int:
        """The number of a picture in the same style, of any department."""
        department = str(rng.choice(DEPARTMENTS))
        alike = self.shop.pictures_of(department, int(self.shop.style_indices(np.array(picture_id))))
        return int(rng.choice(alike))

    def _picture(self, picture_id: int) -> Image.Image:
        return Image.fromarray(self.stock.pictures[self.stock.row(picture_id)])


def _render(world: WorldConfig, folder: Path, size: int) -> Stock:
    with progress_bar("render", len(needed_pictures(world))) as bar:
        return render_stock(world, folder, size, os.cpu_count() or 1, lambda number: bar.advance(by=number))


class Folders:
    """One's own products: a folder of pictures each, on different backgrounds."""

    def __init__(self, folder: Path, pair_num: int) -> None:
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder, expected one with a folder of pictures for every product")
        found = [pictures_of(path) for path in sorted(folder.iterdir()) if path.is_dir()]
        self.products = [paths for paths in found if len(paths) >= pair_num]
        if not self.products:
            raise ValueError(
                f"{folder}: none of {len(found)} folders has {pair_num} pictures, expected a folder for each product"
            )

    def group(self, number: int, rng: np.random.Generator) -> list[Same]:
        """`number` pictures of one product."""
        paths = self.products[int(rng.integers(len(self.products)))]
        chosen = rng.choice(len(paths), number, replace=False)
        return [Same(*[read_picture(paths[int(place)], "RGB")] * 2) for place in chosen]


class Batches:
    """Batches of views, each a pure function of the step; groups are made in threads."""

    def __init__(self, config: PBSConfig, source: Source) -> None:
        self.config, self.source = config, source

    def batch(self, step: int) -> Views:
        """`train.batch_size` pictures in groups of `contrast.pair_num`."""
        number = self.config.train.batch_size // self.config.contrast.pair_num
        generators = np.random.default_rng([self.config.train.seed, step]).spawn(number)
        with ThreadPoolExecutor() as pool:
            seen = [views for group in pool.map(self._group, generators) for views in group]
        return Views(*(_pixels(np.stack(views)) for views in zip(*seen, strict=True)))

    def _group(self, rng: np.random.Generator) -> list[list[UInt8[np.ndarray, "S S 3"]]]:
        """Both views of every picture of a group."""
        config, side = self.config.contrast, self.config.model.image_size
        return [
            [random_view(picture, side, config, number, rng) for number, picture in enumerate(same)]
            for same in self.source.group(config.pair_num, rng)
        ]


def _pixels(views: UInt8[np.ndarray, "B S S 3"]) -> Float[torch.Tensor, "B 3 S S"]:
    scaled = torch.from_numpy(views).permute(0, 3, 1, 2) / 255
    return standardised(scaled, IMAGENET_CROP.mean, IMAGENET_CROP.std).contiguous()
