"""AdWorld's clicks in the form that `uniadgen data build` reads: three tables, and pictures if wanted."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from uniadgen.data.adworld import cutout_of, picture_of
from uniadgen.data.clean import pc
from uniadgen.data.clicklog import Ids
from uniadgen.data.whole import write_whole
from uniadgen.world.catalogue import NUM_TEXTS
from uniadgen.world.products import FAMILIES
from uniadgen.world.shoppers import EVENTS, Shop
from uniadgen.world.words import short_name

ROWS = 1_000_000  # of one file


def write_log(
    shop: Shop,
    folder: Path,
    num_clicks: int,
    *,
    language: str = "en",
    names_only: bool = False,
    picture_size: int = 0,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, int]:
    """Writes events, the creatives that were clicked, and all products of a shop; returns how many there are of each.

    `names_only`: texts are a product's short name with a number instead of sentences, for logs of millions of
    products. `picture_size`: side in pixels of the pictures and cut-outs to render; 0: none, `image` then names files
    that do not exist. `advance` is told how many events were written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clicked, met = np.zeros(shop.num_creatives, bool), np.zeros(num_clicks, bool)
    for number, chunk in enumerate(shop.click_log(num_clicks, chunk=ROWS)):
        columns = {"user_id": chunk.user_id, "creative_id": chunk.creative_id, "timestamp": chunk.timestamp}
        names = pa.DictionaryArray.from_arrays(pa.array(chunk.event.astype(np.int8)), pa.array(EVENTS))
        _write(folder / "events" / f"{number:05d}.parquet", pa.table(columns | {"event": names}))
        clicked[chunk.creative_id] = True
        met[chunk.user_id] = True
        advance(len(chunk.user_id))
    creatives = np.flatnonzero(clicked)
    for number, start in enumerate(range(0, len(creatives), ROWS)):
        table = _creatives(shop, creatives[start : start + ROWS], language, names_only)
        _write(folder / "creatives" / f"{number:05d}.parquet", table)
    for number, start in enumerate(range(0, shop.num_products, ROWS)):
        products = np.arange(start, min(start + ROWS, shop.num_products))
        _write(folder / "products" / f"{number:05d}.parquet", _products(shop, products, language, names_only))
    if picture_size:
        for name in ("pictures", "cutouts"):
            (folder / name).mkdir(exist_ok=True)
        for picture in np.unique(creatives // NUM_TEXTS).tolist():
            rendered = Image.fromarray(picture_of(shop, picture, picture_size).picture)
            rendered.save(folder / f"pictures/{picture}.jpg", quality=90)
        for product in range(shop.num_products):
            first = product * shop.pictures_per_product
            Image.fromarray(cutout_of(shop, first, picture_size)).save(folder / f"cutouts/{product}.png")
    counts = {"users": int(met.sum()), "creatives": len(creatives), "products": shop.num_products}
    return {"clicks": num_clicks} | counts


def repeat_log(
    log: Path, folder: Path, num_clicks: int, num_shoppers: int, advance: Callable[[int], None]
) -> dict[str, int]:
    """Writes a log of more clicks on the catalogue of a log: its clicks over and over, each time by other shoppers.

    `num_shoppers`: of the log, whose ids are below it. The catalogue's files are the same ones (hard links). Returns
    how many clicks, users, creatives and products there are.
    """
    counts = {}
    for table in ("creatives", "products"):
        (folder / table).mkdir(parents=True)
        for path in sorted((log / table).iterdir()):
            os.link(path, folder / table / path.name)
        counts[table] = sum(pq.read_metadata(path).num_rows for path in (log / table).iterdir())
    files, met = sorted((log / "events").iterdir()), np.zeros(num_clicks, bool)  # fewer shoppers than clicks
    rows = number = 0
    while rows < num_clicks:
        turn, place = divmod(number, len(files))
        events = pq.read_table(files[place], use_threads=False).slice(0, num_clicks - rows)
        users = events["user_id"].to_numpy() + turn * num_shoppers
        met[users] = True
        _write(folder / "events" / f"{number:05d}.parquet", events.set_column(0, "user_id", pa.array(users)))
        rows, number = rows + len(events), number + 1
        advance(len(events))
    return {"clicks": rows, "users": int(met.sum())} | counts


def _creatives(shop: Shop, creatives: Ids, language: str, names_only: bool) -> pa.Table:
    pictures = creatives // NUM_TEXTS
    products = shop.product_ids(pictures)
    if names_only:
        texts = _joined(_names(shop, products, language), " ", creatives)
    else:
        texts = pa.array([shop.creative(number).text(language) for number in creatives.tolist()])
    images = _joined("pictures/", pictures, ".jpg")
    return pa.table({"creative_id": creatives, "product_id": products, "image": images, "text": texts})


def _products(shop: Shop, products: Ids, language: str, names_only: bool) -> pa.Table:
    if names_only:
        names = _names(shop, products, language)
        descriptions = _joined(names, " ", products)
        points = pa.ListArray.from_arrays(np.arange(len(products) + 1, dtype=np.int32), names)
    else:
        descriptions = pa.array([shop.product(number).description(language) for number in products.tolist()])
        points = pa.array([list(shop.product(number).selling_points(language)) for number in products.tolist()])
    columns = {"product_id": products, "description": descriptions, "selling_points": points}
    families = pa.array(shop.families).take(pa.array(products // shop.num_variants))
    return pa.table(columns | {"image": _joined("cutouts/", products, ".png"), "category": families})


def _names(shop: Shop, products: Ids, language: str) -> Any:
    names = [short_name(family, FAMILIES[family].department, language) for family in shop.families]
    return pa.array(names).take(pa.array(products // shop.num_variants))


def _joined(*parts: Any) -> Any:
    """Texts row by row from texts, columns of texts and numbers."""
    columns = [pa.array(part).cast(pa.string()) if isinstance(part, np.ndarray) else part for part in parts]
    return pc.binary_join_element_wise(*columns, "")


def _write(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(exist_ok=True)
    write_whole(path, lambda partial: pq.write_table(table, partial))
