"""The words and samples of a store, written once all pictures have their rows on shelves."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from uniadgen.data.history import similarity
from uniadgen.data.listing import Listing
from uniadgen.data.shelves import Keys, write_arrow
from uniadgen.data.store import PER_TABLE, Table
from uniadgen.data.whole import write_whole

Rows = NDArray[np.int32]
TABLES = ("samples", "texts", "products")
ABSENT, BROKEN = -1, -2  # instead of a row
_TEXTS = pa.schema({"text": pa.string()})
_PRODUCTS = pa.schema({"description": pa.string(), "selling_points": pa.list_(pa.string()), "cutout": pa.int32()})
_SAMPLES = pa.schema(dict.fromkeys(("target", "text", "product"), pa.int32()))
for _name, _type in (("pictures", pa.int32()), ("titles", pa.int32()), ("scores", pa.float64())):
    _SAMPLES = _SAMPLES.append(pa.field(_name, pa.list_(_type)))


class TableWriter:
    """Writes texts, products and samples; `rows` and `cutouts` say where a creative's or product's picture stands.

    A click whose picture is missing leaves its history; a sample goes whose target, cut-out or least number of clicks
    is missing.
    """

    def __init__(
        self,
        folder: Path,
        listing: Listing,
        rows: Mapping[str, Rows],
        cutouts: Rows,
    ) -> None:
        self.folder, self.listing = folder, listing
        self.rows, self.cutouts = rows, cutouts
        self._keys: Mapping[str, Keys] = {}
        self._text_rows = _numbered((rows["targets"] >= 0) | (rows["clicks"] >= 0))
        self._product_rows = _numbered(cutouts >= 0)
        self.files: list[Path] = []
        self.counts: dict[str, int] = {}
        self.dropped: list[tuple[str, str, str]] = []
        self._sum = 0  # of the hashes of all samples: no order changes it

    def write(self, keys: Mapping[str, Keys], advance: Callable[[int], None]) -> None:
        """Writes all three; `keys` of all rows of every shelf; `advance` counts samples."""
        self._keys = keys
        for name in TABLES:
            for path in self.folder.glob(f"{name}-*.arrow"):
                path.unlink()
        self.texts = self._write("texts", _kept(self.listing.creatives(), self._text_rows, _TEXTS))
        self.products = self._write("products", self._numbered_products())
        self._write("samples", self._samples(advance))

    def content(self, *settings: object) -> str:
        """A hash of all samples, whatever their order, and of what their pictures were coded with."""
        return blake2b(json.dumps([f"{self._sum:032x}", *settings]).encode(), digest_size=16).hexdigest()

    def _write(self, name: str, batches: Iterable[pa.RecordBatch]) -> Table:
        """A table in shards of `PER_TABLE` rows."""
        held: list[pa.RecordBatch] = []
        paths: list[Path] = []

        def save(table: pa.Table) -> None:
            paths.append(self.folder / f"{name}-{len(paths):05d}.arrow")
            write_whole(paths[-1], lambda p: write_arrow(p, table))

        for batch in batches:
            held.append(batch)
            while sum(map(len, held)) >= PER_TABLE:
                table = pa.Table.from_batches(held)
                save(table.slice(0, PER_TABLE))
                held = table.slice(PER_TABLE).to_batches()
        if any(map(len, held)):
            save(pa.Table.from_batches(held))
        self.counts[name] = (len(paths) - 1) * PER_TABLE + (sum(map(len, held)) or PER_TABLE) if paths else 0
        self.files += paths
        return Table(paths, PER_TABLE)

    def _numbered_products(self) -> Iterator[pa.RecordBatch]:
        start = 0
        for batch in self.listing.products():
            cutouts = self.cutouts[start : start + len(batch)]
            columns = [batch["description"], batch["selling_points"], pa.array(cutouts)]
            yield pa.record_batch(columns, schema=_PRODUCTS).filter(pa.array(cutouts >= 0))
            start += len(batch)

    def _samples(self, advance: Callable[[int], None]) -> Iterator[pa.RecordBatch]:
        number = 0
        for batch in self.listing.samples():
            lines = batch.to_pylist()
            made = [self._sample(number + place, line) for place, line in enumerate(lines)]
            yield pa.RecordBatch.from_pylist([line for line in made if line is not None], schema=_SAMPLES)
            number += len(lines)
            advance(len(lines))

    def _sample(self, number: int, line: dict[str, Any]) -> dict[str, Any] | None:
        target, product, history = line["target"], line["product"], line["history"]
        kept = [place for place, click in enumerate(history) if self.rows["clicks"][click] >= 0]
        lost = "its target" if self.rows["targets"][target] < 0 else ""
        lost = lost or ("its transparent picture" if self.cutouts[product] < 0 else "")
        if not lost and len(kept) < len(history) and len(kept) + 1 < self.listing.min_clicks:
            lost = "too many of its clicks"
        if lost:
            self.dropped.append(("sample", str(number), f"{lost} cannot be used"))
            return None
        clicks = np.array([history[place] for place in kept], np.int64)
        sample = {
            "target": int(self.rows["targets"][target]),
            "text": int(self._text_rows[target]),
            "product": int(self._product_rows[product]),
            "pictures": self.rows["clicks"][clicks],
            "titles": self._text_rows[clicks],
        }
        description = self.products.column("description", sample["product"]).as_py()
        titles = [self.texts.column("text", row).as_py() for row in sample["titles"].tolist()]
        scores = line["scores"]
        sample["scores"] = similarity(titles, description) if scores is None else [scores[i] for i in kept]
        points = self.products.column("selling_points", sample["product"]).as_py()
        words = [description, points, self.texts.column("text", sample["text"]).as_py(), titles, list(sample["scores"])]
        self._sum = (self._sum + self._hash(words, sample, product)) % 2**128
        return sample

    def _hash(self, words: list[Any], sample: dict[str, Any], product: int) -> int:
        digest = blake2b(json.dumps(words).encode(), digest_size=16)
        cutout = int(self.cutouts[product])
        shown = (("targets", [sample["target"]]), ("cutouts", [cutout]), ("clicks", sample["pictures"]))
        for kind, rows in shown:
            digest.update(self._keys[kind][rows].tobytes())
        return int.from_bytes(digest.digest(), "little")


def _numbered(good: NDArray[np.bool_]) -> Rows:
    return np.where(good, np.cumsum(good) - 1, ABSENT).astype(np.int32)


def _kept(batches: Iterator[pa.RecordBatch], rows: Rows, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows that have a number, with the columns of the schema."""
    start = 0
    for batch in batches:
        yield batch.select(schema.names).filter(pa.array(rows[start : start + len(batch)] >= 0)).cast(schema)
        start += len(batch)
