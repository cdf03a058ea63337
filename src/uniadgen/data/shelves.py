"""Shelves: rows kept once, found by their content, in shards that appear whole and are read through memory maps.

NAME-00000.npy, NAME-00000.arrow    a shard: codes as an array, blobs as Arrow IPC
NAME-00000.keys.npy                 the keys of its rows
NAME-00000.part-000032.*            rows of a shard that is being filled, from its row 32 on
NAME.index.npy                      all keys in ascending order, and the row of each
"""

import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from uniadgen.data.whole import write_whole

PAGE = 1 << 20  # bytes of a shard that one checksum stands for
KEY = np.dtype("S16")
INDEX = np.dtype([("key", KEY), ("row", np.uint32)])
Keys = NDArray[Any]  # of KEY
Index = NDArray[Any]  # of INDEX
Make = Callable[[Sequence[Any]], Any]  # things that were put on a shelf -> their rows
_SHARD = re.compile(r"-(\d{5})(?:\.part-(\d{6}))?\.\w+$")  # number of the shard, and first row of a part of it


def key_of(data: bytes) -> bytes:
    """16 bytes that name a content."""
    return blake2b(data, digest_size=16).digest()


class Shelf(ABC):
    """Where rows are put; one that is there is never made again.

    New things wait until there are `at_once` of them; `make` then turns them into rows, which are on disk as a part
    when that returns. Full shards are joined from their parts, so that where a run was killed leaves no trace.
    """

    ending: str
    per_shard: int

    def __init__(self, folder: Path, name: str, make: Make, at_once: int) -> None:
        self.folder, self.name, self.make, self.at_once = folder, name, make, at_once
        self._waiting: dict[bytes, Any] = {}
        self._recent: dict[bytes, int] = {}  # keys that are not yet in the index
        self.made = 0
        keys = self._find_rows()
        self._index, self._rows = np.zeros(0, INDEX), len(keys)
        self._enter(keys, 0)

    def _find_rows(self) -> Keys:
        """The keys of all rows that are whole; clears away what a killed run had no time to."""
        found: list[Keys] = [np.zeros(0, KEY)]
        rows = 0
        for path in sorted(self.folder.glob(f".{self.name}-*.partial*")):
            path.unlink()
        for path in sorted(self.folder.glob(f"{self.name}-[0-9]*{self.ending}")):
            if path.name.endswith(".keys.npy"):
                continue
            match = _SHARD.search(path.name)
            assert match, "the pattern above fits"
            start = int(match[1]) * self.per_shard + int(match[2] or 0)
            if start < rows and match[2]:  # a part that had been joined to its shard when the run was killed
                _remove(path)
                continue
            if start != rows:
                raise ValueError(
                    f"{path}: begins with row {start}, expected {rows}, so something before it is missing: delete "
                    f"{self.name}-* in that folder and encode again"
                )
            count = self._count(path)
            found.append(_load_keys(path)[:count])
            rows += count
        return np.concatenate(found)

    def _enter(self, keys: Keys, first: int) -> None:
        new = np.empty(len(keys), INDEX)
        new["key"], new["row"] = keys, np.arange(first, first + len(keys))
        new = new[np.argsort(new["key"])]
        self._index = np.insert(self._index, np.searchsorted(self._index["key"], new["key"]), new)

    def __len__(self) -> int:
        return self._rows + len(self._waiting)

    def find(self, key: bytes) -> int:
        """The row of a key; -1: it is not here."""
        row = self._recent.get(key, -1)
        return row if row >= 0 else find_row(self._index, key)

    def put(self, key: bytes, thing: Any) -> int:
        """The row that a thing has, or will have."""
        row = self.find(key)
        if row < 0:
            row = self._recent[key] = len(self)
            self._waiting[key] = thing
            if len(self._waiting) == self.at_once or (row + 1) % self.per_shard == 0:
                self.flush()
        return row

    def flush(self) -> None:
        """Makes what waits."""
        if not self._waiting:
            return
        rows, keys = self.make(list(self._waiting.values())), np.array(list(self._waiting), KEY)
        shard, start = divmod(self._rows, self.per_shard)
        path = self._path(shard, start)
        write_whole(_keys_of(path), lambda p: np.save(p, keys))
        write_whole(path, lambda p: self._write(p, rows))  # the mark that both are there
        self._rows += len(keys)
        self.made += len(keys)
        self._waiting = {}
        if self._rows % self.per_shard == 0:
            self._join(shard)
            self._enter(np.array(list(self._recent), KEY), self._rows - len(self._recent))
            self._recent = {}

    def _join(self, shard: int) -> None:
        """Joins the parts of a shard, and what it held when an earlier run was done, to one file."""
        parts, whole = self._parts(shard), self._path(shard)
        if not parts:
            return
        sources = ([whole] if whole.exists() else []) + parts
        keys = np.concatenate([_load_keys(path)[: self._count(path)] for path in sources])
        write_whole(_keys_of(whole), lambda p: np.save(p, keys))
        write_whole(whole, lambda p: self._write(p, self._read(sources)))
        for path in parts:
            _remove(path)

    def finish(self) -> list[Path]:
        """Joins what is in parts and writes the index; returns all files."""
        self.flush()
        for shard in range(-(-self._rows // self.per_shard)):  # a kill may have left a full one in parts
            self._join(shard)
        self._enter(np.array(list(self._recent), KEY), self._rows - len(self._recent))
        self._recent = {}
        index = self.folder / f"{self.name}.index.npy"
        write_whole(index, lambda p: np.save(p, self._index))
        shards = [self._path(shard) for shard in range(-(-self._rows // self.per_shard))]
        return [index, *(file for path in shards for file in (path, _keys_of(path)))]

    def keys(self) -> Keys:
        """The keys of all rows, in their order; after `finish`."""
        keys = np.empty(len(self._index), KEY)
        keys[self._index["row"]] = self._index["key"]
        return keys

    def _path(self, shard: int, start: int | None = None) -> Path:
        part = "" if start is None else f".part-{start:06d}"
        return self.folder / f"{self.name}-{shard:05d}{part}{self.ending}"

    def _parts(self, shard: int) -> list[Path]:
        found = self.folder.glob(f"{self.name}-{shard:05d}.part-*{self.ending}")
        return sorted(path for path in found if not path.name.endswith(".keys.npy"))

    @abstractmethod
    def _write(self, path: Path, rows: Any) -> None: ...

    @abstractmethod
    def _read(self, paths: Sequence[Path]) -> Any:
        """The rows of several files together."""

    @abstractmethod
    def _count(self, path: Path) -> int:
        """How many rows a file has; `ValueError` where it is damaged."""


class CodeShelf(Shelf):
    """Codes of pictures, (rows, K) uint16."""

    ending, per_shard = ".npy", 65_536

    def _write(self, path: Path, rows: NDArray[np.integer]) -> None:
        np.save(path, rows.astype(np.uint16, copy=False))

    def _read(self, paths: Sequence[Path]) -> NDArray[np.uint16]:
        return np.concatenate([np.load(path, mmap_mode="r") for path in paths])

    def _count(self, path: Path) -> int:
        return len(load_codes(path))


class BlobShelf(Shelf):
    """Files of pictures."""

    ending, per_shard = ".arrow", 1024

    def _write(self, path: Path, rows: "Sequence[bytes] | pa.Table") -> None:
        table = rows if isinstance(rows, pa.Table) else pa.table({"blob": pa.array(rows, pa.large_binary())})
        write_arrow(path, table)

    def _read(self, paths: Sequence[Path]) -> pa.Table:
        return pa.concat_tables([pa.Table.from_batches([read_arrow(path)]) for path in paths])

    def _count(self, path: Path) -> int:
        return read_arrow(path).num_rows


def _keys_of(path: Path) -> Path:
    return path.with_name(f"{path.name.removesuffix(path.suffix)}.keys.npy")


def _load_keys(path: Path) -> Keys:
    try:
        return np.load(_keys_of(path))
    except (ValueError, EOFError) as error:
        raise damaged(_keys_of(path), str(error)) from None


def _remove(part: Path) -> None:
    part.unlink()
    _keys_of(part).unlink(missing_ok=True)


def find_row(index: Index, key: bytes) -> int:
    """The row of a key in an `INDEX`; -1: none."""
    wanted = np.array([key], KEY)
    at = int(np.searchsorted(index["key"], wanted)[0])
    return int(index["row"][at]) if at < len(index) and index["key"][at : at + 1] == wanted else -1


def load_codes(path: Path) -> NDArray[np.uint16]:
    """The codes of a shard, memory-mapped; `ValueError` where it is damaged."""
    try:
        return np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise damaged(path, str(error)) from None


def write_arrow(path: Path, table: pa.Table) -> None:
    """A table as one record batch, so that its columns are whole in the memory map."""
    batches = table.combine_chunks().to_batches(max_chunksize=max(len(table), 1))
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_batch(batches[0] if batches else pa.RecordBatch.from_pylist([], table.schema))


def read_arrow(path: Path) -> pa.RecordBatch:
    """What `write_arrow` wrote, memory-mapped; `ValueError` where it is damaged."""
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    except pa.ArrowException as error:
        raise damaged(path, str(error)) from None


def damaged(path: Path, how: str) -> ValueError:
    """The error that names a damaged shard and says what to do."""
    kind = path.name.split("-")[0].split(".")[0]
    remedy = f"delete {kind}-* in that folder" if kind not in ("samples", "texts", "products") else "delete it"
    return ValueError(f"{path}: is damaged ({how}), expected it as it was written: {remedy} and encode again")


def checksums(path: Path) -> str:
    """The CRC-32 of every page of a file, 8 hexadecimal digits each."""
    with path.open("rb") as file:
        return "".join(f"{zlib.crc32(page):08x}" for page in iter(lambda: file.read(PAGE), b""))
