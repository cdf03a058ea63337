"""The store, what training reads: each picture once, as codes; words by number; samples as numbers of rows.

store.json                  settings, counts, a checksum of every page of every file, and a hash of the content
targets-*.npy, clicks-*.npy (pictures, K) codes of painted pictures, (pictures, P) codes of clicked ones
cutouts-*.arrow             transparent pictures, placed, as PNG
samples-*.arrow             rows of targets, texts, products; of the history rows of clicks, texts, and similarities
texts-*.arrow, products-*.arrow
dropped.parquet             pictures that could not be used and samples that went with them, and why
"""

import io
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from uniadgen.config import Config
from uniadgen.data.rows import Sample
from uniadgen.data.shelves import (
    PAGE,
    BlobShelf,
    CodeShelf,
    checksums,
    damaged,
    find_row,
    key_of,
    load_codes,
    read_arrow,
)

MANIFEST = "store.json"
FORMAT = 2
PER_TABLE = 65_536  # rows of a shard of samples, texts or products
PICTURES = {"targets": "target_pictures", "clicks": "click_pictures"}  # codes -> pictures, where they were kept


class Store:
    """A `Source` in a folder, memory-mapped; samples come in a new order every epoch.

    Which sample comes when depends on (seed, epoch) alone, so a run goes on in the middle of an epoch. Raises
    `ValueError` for an unfinished or cut store, and for one made for other sizes than the config's.
    """

    def __init__(self, folder: Path, config: Config) -> None:
        manifest = read_manifest(folder)
        for name, got in (("image_size", config.data.image_size), ("click_size", config.data.click_size)):
            if manifest[name] != got:
                raise ValueError(
                    f"{folder}: was coded with data.{name} {manifest[name]}, expected {got} as the recipe has it"
                )
        if not manifest["counts"]["samples"]:
            raise ValueError(f"{folder}: holds no sample, expected at least one")
        check_sizes(folder, manifest)
        self.folder, self.seed, self.vq, self.content = folder, config.train.seed, manifest["vq"], manifest["content"]
        self._length = manifest["counts"]["samples"]
        self.targets, self.clicks = (Codes(_paths(folder, manifest, name)) for name in PICTURES)
        self._blobs = {
            name: Table(_paths(folder, manifest, name), BlobShelf.per_shard) for name in ("cutouts", *PICTURES.values())
        }
        samples, self._texts, self._products = (
            Table(_paths(folder, manifest, name), PER_TABLE) for name in ("samples", "texts", "products")
        )
        self._samples = [_Samples(batch) for batch in samples.batches]
        self._order = lru_cache(maxsize=2)(self._shuffled)  # a window of rows may span two epochs

    def __len__(self) -> int:
        return self._length

    def _shuffled(self, epoch: int) -> NDArray[np.integer]:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self))

    def row_of(self, number: int) -> int:
        """Which row of the samples comes as the `number`-th of a run."""
        epoch, place_in_epoch = divmod(number, len(self))
        return int(self._order(epoch)[place_in_epoch])

    def sample(self, number: int) -> Sample:
        """The `number`-th sample of a run."""
        shard, row = divmod(self.row_of(number), PER_TABLE)
        samples = self._samples[shard]
        start, end = samples.ends[row], samples.ends[row + 1]
        product = int(samples.product[row])
        return Sample(
            self._products.text("description", product),
            tuple(self._products.column("selling_points", product).as_py()),
            _Titles(self._texts, samples.titles[start:end]),
            samples.pictures[start:end],
            self._texts.text("text", int(samples.text[row])),
            int(samples.target[row]),
            product,
            samples.scores[start:end],
        )

    def cutout(self, product: int) -> NDArray[np.uint8]:
        """A transparent picture, (S, S, 4)."""
        return np.asarray(Image.open(io.BytesIO(self.cutout_file(product))))

    def cutout_file(self, product: int) -> bytes:
        """The same as PNG."""
        return self._blobs["cutouts"].column("blob", self._products.column("cutout", product).as_py()).as_py()

    def find(self, kind: str, picture: bytes) -> int:
        """The row in targets, clicks or cutouts of a picture file with these bytes; -1: it is not here."""
        return find_row(np.load(self.folder / f"{kind}.index.npy", mmap_mode="r"), key_of(picture))

    def picture(self, kind: str, row: int) -> Image.Image:
        """The picture of a row of targets or clicks; `ValueError` where pictures were not kept."""
        name = PICTURES[kind]
        if not self._blobs[name].batches:
            raise ValueError(f"{self.folder}: pictures were not kept, expected them: encode with --keep-pictures")
        shard, place = divmod(row, CodeShelf.per_shard)
        key = np.load(self.folder / f"{kind}-{shard:05d}.keys.npy", mmap_mode="r")[place : place + 1].tobytes()
        found = find_row(np.load(self.folder / f"{name}.index.npy", mmap_mode="r"), key)
        return Image.open(io.BytesIO(self._blobs[name].column("blob", found).as_py()))


class Codes:
    """Codes (pictures, K) in shards of one size, memory-mapped; `codes[row]`, `codes[rows]`."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.shards = [load_codes(path) for path in paths]

    def __len__(self) -> int:
        return sum(map(len, self.shards))

    def __getitem__(self, row: Any) -> NDArray[np.uint16]:
        if isinstance(row, int | np.integer):
            return self.shards[row // CodeShelf.per_shard][row % CodeShelf.per_shard]
        if len(self.shards) == 1:
            return self.shards[0][row]
        return np.stack([self[one] for one in np.asarray(row).tolist()])


class Table:
    """An Arrow table in shards of one size."""

    def __init__(self, paths: Sequence[Path], per_shard: int) -> None:
        self.batches, self.per_shard = [read_arrow(path) for path in paths], per_shard
        self._columns = [
            dict(zip(batch.schema.names, batch.columns, strict=True)) for batch in self.batches
        ]  # pyarrow makes a column anew at each access

    def column(self, name: str, row: int) -> Any:
        """One value, as a scalar of pyarrow."""
        return self._columns[row // self.per_shard][name][row % self.per_shard]

    def text(self, name: str, row: int) -> str:
        """One text."""
        return self.column(name, row).as_py()


class _Samples:
    """A shard of samples as arrays of the memory map; sample i's history lies from ends[i] to ends[i + 1]."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.target, self.text, self.product = (batch[name].to_numpy() for name in ("target", "text", "product"))
        self.ends = batch["pictures"].offsets.to_numpy()
        self.pictures, self.titles, self.scores = (
            batch[name].values.to_numpy() for name in ("pictures", "titles", "scores")
        )


class _Titles(Sequence[str]):
    """The titles of a history; only those that are shown are read."""

    def __init__(self, texts: Table, rows: NDArray[np.integer]) -> None:
        self.texts, self.rows = texts, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        return self.texts.text("text", int(self.rows[place]))


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a finished store says of itself; `ValueError` where there is none."""
    try:
        found = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        raise ValueError(
            f"{folder}: no {MANIFEST}, expected a finished store: make one with `uniadgen data encode`"
        ) from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"{folder / MANIFEST}: belongs to another version, expected format {FORMAT}: encode anew")
    return found


def check_sizes(folder: Path, manifest: dict[str, Any]) -> None:
    """The cheap part of `verify`, done whenever a store is opened."""
    for name, file in manifest["files"].items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            raise damaged(path, "it is missing")
        if size != file["bytes"]:
            raise damaged(path, f"{size:,} bytes where {file['bytes']:,} were written")


def verify(folder: Path) -> int:
    """Reads every page of a store; `ValueError` names the first file, and the bytes in it, that changed.

    Returns how many bytes were read.
    """
    manifest = read_manifest(folder)
    check_sizes(folder, manifest)
    for name, file in manifest["files"].items():
        found, wanted = checksums(folder / name), file["pages"]
        if found != wanted:
            page = next(i for i in range(0, len(wanted), 8) if found[i : i + 8] != wanted[i : i + 8]) // 8
            where = f"bytes {page * PAGE:,} to {min((page + 1) * PAGE, file['bytes']):,} changed"
            raise damaged(folder / name, where)
    return sum(file["bytes"] for file in manifest["files"].values())


def _paths(folder: Path, manifest: dict[str, Any], name: str) -> list[Path]:
    files = (file for file in manifest["files"] if file.startswith(f"{name}-") and not file.endswith(".keys.npy"))
    return [folder / file for file in sorted(files)]
