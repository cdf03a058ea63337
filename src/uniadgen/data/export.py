"""A dataset's samples as PAd1M's records, with what `data prepare` made of them where it was run."""

import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from uniadgen.data import prepare
from uniadgen.data.clicklog import open_parquet
from uniadgen.data.history import similarity
from uniadgen.data.pad1m import Record
from uniadgen.data.stages import key_of
from uniadgen.data.whole import write_whole


def records_of(folder: Path, root: Path, split: str, cutouts: Path) -> Iterator[Record]:
    """The samples of one split as records; sizes are read from the pictures, whose paths are relative to `root`.

    Where the dataset was prepared, they are those that stayed, with its similarities and its cut-outs, which are
    written to the folder `cutouts`; else a product has its own transparent picture. Raises `ValueError` for a product
    without one, and for pictures that are no files of their own.
    """
    prepared = prepare.is_prepared(folder)
    lost = prepare.left_out(folder) if prepared else {}
    made = prepare.cutouts(folder) if prepared else {}
    creatives = pq.read_table(folder / "creatives", columns=["image", "text", "product"])
    products = pq.read_table(folder / "products", columns=["product_id", "description", "selling_points", "image"])
    for path in sorted((folder / "samples").glob("[!.]*.parquet")):
        samples = open_parquet(path).read(use_threads=False).to_pylist()
        scores = prepare.similarities(folder, path.name).to_pylist() if prepared else [None] * len(samples)
        for row, known in zip(samples, scores, strict=True):
            if row["split"] != split or row["target"] in lost:
                continue
            target, *history = creatives.take(pa.array([row["target"], *row["history"]])).to_pylist()
            product = products.slice(target["product"], 1).to_pylist()[0]
            cutout = _written(made[row["target"]], cutouts, root) if made else product["image"]
            if cutout is None:
                raise ValueError(
                    f"product {product['product_id']} has no image, expected its transparent picture: run "
                    "`uniadgen data prepare` with --set stages.cutout=grounded_sam, or add it to the log"
                )
            titles = tuple(click["text"] for click in history)
            with Image.open(root / _file(target["image"])) as picture:
                width, height = picture.size
            yield Record(
                picture=target["image"],
                cutout=cutout,
                width=width,
                height=height,
                caption="",
                description=product["description"],
                texts=(target["text"],),
                selling_points=tuple(product["selling_points"]),
                max_ratio=1.0,
                pictures=tuple(_file(click["image"]) for click in history),
                titles=titles,
                similarities=tuple(known or similarity(titles, product["description"])),
            )


def _file(name: str | None) -> str:
    if name is None or "://" in name:
        raise ValueError(f"got the picture {name!r}, expected files below --pictures: PAd1M names files alone")
    return name


def _written(data: bytes, cutouts: Path, root: Path) -> str:
    """The path, from `root`, of a file with these bytes; equal cut-outs are written once."""
    kind: Any = Image.open(BytesIO(data)).format
    path = cutouts / f"{key_of(data).hex()}.{kind.lower()}"
    if not path.exists():
        cutouts.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda partial: partial.write_bytes(data))
    return Path(os.path.relpath(path.resolve(), root.resolve())).as_posix()
