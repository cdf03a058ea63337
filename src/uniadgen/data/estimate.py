"""What a build will take: time, disk and memory, scaled up from builds of the log's first rows."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from uniadgen.config import BuildConfig, DatasetConfig, EventColumns
from uniadgen.data import clicklog, pictures
from uniadgen.data.build import build
from uniadgen.data.clicklog import TABLES, Piece
from uniadgen.data.executor import processes

ROWS = 100_000  # of each table in the sample
PICTURES = 200  # decoded in the sample
# Peaks of a build of 1 M clicks in one process (docs/data.md, "Measured"), rounded up.
_LIBRARIES, _BYTES_PER_ROW = 150e6, 350
_BYTES_PER_ENTRY = 40  # while the keys of a catalogue are sorted: keys, order, numbers


@dataclass(frozen=True)
class Estimate:
    """Of a whole build; rows are exact for Parquet and guessed from the size of files in CSV and JSONL."""

    rows: dict[str, int]  # of each table
    seconds: float
    disk: float  # bytes
    memory: float  # bytes, of all processes together

    def __str__(self) -> str:
        rows = ", ".join(f"{count:,} {table}" for table, count in self.rows.items())
        size = f"{_megabytes(self.disk)} of disk and {_megabytes(self.memory)} of memory"
        return f"about {rows}: about {self.seconds:,.0f} s, {size}; estimated from the first rows, nothing was written"


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"


def estimate(log: Path, config: DatasetConfig, number: int) -> Estimate:
    """Builds twice from the first rows in a temporary folder: the real catalogue, and the real events.

    In the second build every creative of an event is known, as it is in a log whose tables go together. Raises
    `ValueError` as the build itself would.
    """
    pieces = {table: clicklog.pieces_of(log, table, config) for table in TABLES}
    rows = {table: sum(piece.rows for piece in pieces[table]) for table in TABLES}
    heads = {table: _head(pieces[table][0], config) for table in TABLES}
    seconds, disk = _picture_seconds(log, heads["creatives"], config.build) * rows["creatives"], 0.0
    with TemporaryDirectory(prefix="uniadgen-estimate-") as folder:
        known = heads["events"]["creative_id"].cast(pa.string()).unique()
        stub = {"creative_id": known, "product_id": _all("p", known), "image": known, "text": _all("t", known)}
        points = pa.array([["p"]], pa.list_(pa.string()))
        product = {"product_id": ["p"], "description": ["d"], "selling_points": points}
        clicks = {"events": heads["events"], "creatives": pa.table(stub), "products": pa.table(product)}
        catalogue = heads | {"events": heads["events"].slice(0, 1)}
        for name, tables, counted in (("catalogue", catalogue, TABLES[:2]), ("clicks", clicks, TABLES[2:])):
            took, used = _build(Path(folder) / name, tables, config)
            for table in counted:
                scale = rows[table] / max(1, len(tables[table]))
                seconds, disk = seconds + took.get(table, 0) * scale, disk + used.get(table, 0) * scale
    return Estimate(rows, seconds / number, disk, _memory(rows, config.build, number))


def _picture_seconds(log: Path, creatives: pa.Table, build: BuildConfig) -> float:
    """Seconds that one creative's picture takes; 0 where pictures are not looked at."""
    names = creatives["image"].drop_null().slice(0, PICTURES).to_pylist() if build.pictures == "check" else []
    began = time.monotonic()
    for name in names:
        pictures.fault(name, log, build)
    return (time.monotonic() - began) / max(1, len(names))


def _head(piece: Piece, config: DatasetConfig) -> pa.Table:
    small = replace(config, build=replace(config.build, rows_per_task=ROWS))
    return pa.table(next(clicklog.read(piece, small)).columns)


def _all(text: str, like: Any) -> Any:
    return pa.array([text] * len(like))


def _build(
    folder: Path, tables: dict[str, pa.Table], config: DatasetConfig
) -> tuple[Mapping[str, float], Mapping[str, int]]:
    """Seconds spent on each table, and bytes that it left on disk."""
    folder.mkdir()
    for table in tables:
        pq.write_table(tables[table], folder / f"{table}.parquet")
    event = "event" if "event" in tables["events"].column_names else ""
    sample = replace(config.build, max_broken=1.0, pictures="skip", deny_categories=())
    plain = DatasetConfig(build=sample, events=EventColumns(event=event))
    took: dict[str, float] = defaultdict(float)

    @contextmanager
    def timed(what: str, total: int) -> Iterator[_Silent]:
        began = time.monotonic()
        yield _Silent()
        took[_owner(what)] += time.monotonic() - began

    with processes(1) as execute:
        build(folder, folder / "out", plain, b"a key for one look", execute, timed)
    used: Counter[str] = Counter()
    for path in (folder / "out").glob("*/*"):  # not what has one size, such as the card
        used[_owner(path.parent.name if path.parent.name in TABLES else path.name)] += path.stat().st_size
    return took, used


def _owner(name: str) -> str:
    """The table that a stage or a file belongs to."""
    return next((table for table in TABLES if name.startswith(table)), "events")


class _Silent:
    def advance(self, note: str = "", by: int = 1) -> None:
        """Nobody looks."""


def _memory(rows: dict[str, int], build: BuildConfig, number: int) -> float:
    """Every process holds its libraries and one block of rows; the keys of the catalogue are shared by all."""
    block = min(max(rows.values()), max(build.rows_per_task, build.rows_per_bucket))
    index = _BYTES_PER_ENTRY * (rows["creatives"] + rows["products"])
    return number * (_LIBRARIES + _BYTES_PER_ROW * block) + index
