"""Small click logs for tests: written as Parquet in several files, with pictures of one colour."""

import functools
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from uniadgen.config import DatasetConfig, override
from uniadgen.data import build as building
from uniadgen.data.executor import processes
from uniadgen.train.log import progress_bar

KEY = b"0123456789abcdef"
START = 1_704_067_200
# Small tasks, so that a small log has many; a log without pictures.
SMALL = {"build.rows_per_task": 700, "build.rows_per_bucket": 500, "build.pictures": "skip"}
PROGRESS = functools.partial(progress_bar, unit="rows")


def dataset_config(**changes: Any) -> DatasetConfig:
    """`SMALL` with changes: `dataset_config(build__min_clicks=3)`."""
    return override(DatasetConfig(), SMALL | {name.replace("__", "."): value for name, value in changes.items()})


def events(
    num_clicks: int = 3000, num_users: int = 150, num_creatives: int = 400, seed: int = 0
) -> dict[str, np.ndarray]:
    """Random clicks: some users far more active than others, many seconds and creatives hit twice."""
    rng = np.random.default_rng(seed)
    users = (rng.random(num_clicks) ** 2 * num_users).astype(np.int64)
    creatives = (rng.random(num_clicks) ** 2 * num_creatives).astype(np.int64)
    times = START + rng.integers(0, 50 * num_clicks, num_clicks)
    kinds = np.where(rng.random(num_clicks) < 0.1, "impression", "click")
    return {"user_id": users, "creative_id": creatives, "timestamp": times, "event": kinds}


def write_log(
    log: Path, clicks: dict[str, Any], num_creatives: int = 400, num_files: int = 4, categories: bool = True
) -> Path:
    """The log of these clicks; creative c belongs to product c // 4."""
    creatives, products = np.arange(num_creatives), np.arange(-(-num_creatives // 4))
    write(log / "creatives.parquet", {
        "creative_id": creatives,
        "product_id": creatives // 4,
        "image": [f"pictures/{number}.png" for number in creatives],
        "text": [f"title {number} 家 😀" for number in creatives],
    })  # fmt: skip
    columns = {
        "product_id": products,
        "description": [f"product {number}" for number in products],
        "selling_points": [["light", f"point {number}"] for number in products],
    }
    kinds = {"category": [f"kind {number % 7}" for number in products]} if categories else {}
    write(log / "products.parquet", columns | kinds)
    edges = np.linspace(0, len(clicks["user_id"]), num_files + 1).astype(int)
    for number in range(num_files):
        piece = {name: column[edges[number] : edges[number + 1]] for name, column in clicks.items()}
        write(log / "events" / f"{number}.parquet", piece)
    return log


def write(path: Path, columns: dict[str, Any]) -> None:
    """One Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def write_pictures(log: Path, num_creatives: int) -> None:
    """A picture for every creative."""
    (log / "pictures").mkdir()
    for number in range(num_creatives):
        Image.new("RGB", (16, 16), (number % 256, 90, 20)).save(log / "pictures" / f"{number}.png")


def build(
    log: Path, folder: Path, config: DatasetConfig, number: int = 1, secret: bytes = KEY, card: bool = False
) -> dict[str, Any]:
    """Builds in this process, or in `number` of them. `card`: also draw the data card, which takes most of the time."""
    drawn = nullcontext() if card else patch.object(building.card, "write_card")
    with drawn, processes(number) as execute:
        return building.build(log, folder, config, secret, execute, PROGRESS)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but the lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def samples(folder: Path) -> list[tuple[str, int, list[int]]]:
    """All samples as (split, target, history), sorted."""
    table = pq.read_table(folder / "samples")
    return sorted((row["split"], row["target"], row["history"]) for row in table.to_pylist())
