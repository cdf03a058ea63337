"""Results that are made once: named by what they depend on, made in batches by tasks, kept in shards that are whole.

A result's key is a hash of all that it depends on: a picture's bytes or a text, the model's weights, the settings that
matter. A key that is in a shard is never made again; one that changed is made anew and the old result stays beside it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa

from uniadgen.data.clicklog import open_parquet
from uniadgen.data.executor import Execute
from uniadgen.data.plan import Progress, run_tasks, write_table

# Results of items, in their order; None: none this time, so that the next run tries again. Made in any process.
Make = Callable[[Sequence[Any]], Sequence[Mapping[str, Any] | None]]


@dataclass(frozen=True)
class Stage:
    """One kind of results: where they lie, what each one holds, how they are made, and how many a task makes."""

    name: str  # for the progress bar
    folder: Path
    columns: pa.Schema  # of a result, without its key
    make: Make
    per_task: int  # and so of one shard: a kill loses at most those of the tasks in flight


def key_of(*parts: str | bytes) -> bytes:
    """16 bytes that name what is made of these parts."""
    digest = blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()


def missing(stage: Stage, items: Mapping[bytes, Any]) -> list[list[tuple[bytes, Any]]]:
    """Keys and items without a result, in the parts that tasks make: the same ones after a kill as without it."""
    known, pairs = Results(stage.folder), list(items.items())
    parts = (pairs[start : start + stage.per_task] for start in range(0, len(pairs), stage.per_task))
    return [left for part in parts if (left := [(key, item) for key, item in part if key not in known])]


def fill(stage: Stage, items: Mapping[bytes, Any], execute: Execute, progress: Progress) -> None:
    """Makes the results of all items that have none."""
    stage.folder.mkdir(parents=True, exist_ok=True)
    if parts := missing(stage, items):
        run_tasks(stage.name, fill_task, [(stage, part) for part in parts], [len(p) for p in parts], execute, progress)


def fill_task(stage: Stage, part: list[tuple[bytes, Any]]) -> int:
    """Makes the results of some items and writes them as one shard, named by their keys."""
    results = stage.make([item for _, item in part])
    made = [(key, result) for (key, _), result in zip(part, results, strict=True) if result is not None]
    if made:
        schema = pa.schema([pa.field("key", pa.binary(16)), *stage.columns])
        table = pa.Table.from_pylist([{"key": key, **result} for key, result in made], schema=schema)
        write_table(stage.folder / f"{key_of(*(key for key, _ in made)).hex()}.parquet", table)
    return len(part)


class Results(Mapping[bytes, dict[str, Any]]):
    """The results in a folder by their keys; in memory are only the keys and the two shards read last."""

    def __init__(self, folder: Path) -> None:
        self._places: dict[bytes, tuple[Path, int]] = {}
        for path in sorted(folder.glob("[!.]*.parquet")):
            keys = open_parquet(path).read(["key"], use_threads=False)["key"].to_pylist()
            self._places.update({key: (path, row) for row, key in enumerate(keys)})

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._places)

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __getitem__(self, key: bytes) -> dict[str, Any]:
        path, row = self._places[key]
        return _shard(path).slice(row, 1).drop_columns("key").to_pylist()[0]


def read_all(folder: Path, *columns: str) -> dict[bytes, dict[str, Any]]:
    """All results in a folder by their keys; only these columns of them, if any are named."""
    found: dict[bytes, dict[str, Any]] = {}
    for path in sorted(folder.glob("[!.]*.parquet")):
        table = open_parquet(path).read(["key", *columns] if columns else None, use_threads=False)
        found |= zip(table["key"].to_pylist(), table.drop_columns("key").to_pylist(), strict=True)
    return found


@lru_cache(maxsize=2)
def _shard(path: Path) -> pa.Table:
    return open_parquet(path).read(use_threads=False)
