"""A dataset as Parquet with pictures in it, as `datasets` and its viewer read it: for people who want to look."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from uniadgen.data.listing import Listing
from uniadgen.data.whole import write_whole

ROWS = 100  # of a row group, so that a viewer can show some without reading all
PICTURE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
CLICK = pa.struct({"picture": PICTURE, "text": pa.string()})
_TEXT = {"dtype": "string", "_type": "Value"}
_FEATURES: dict[str, Any] = {
    "picture": {"_type": "Image"},
    "text": _TEXT,
    "cutout": {"_type": "Image"},
    "description": _TEXT,
    "selling_points": {"feature": _TEXT, "_type": "List"},
    "history": {"feature": {"picture": {"_type": "Image"}, "text": _TEXT}, "_type": "List"},
}
SCHEMA = pa.schema(
    {
        "picture": PICTURE,
        "text": pa.string(),
        "cutout": PICTURE,
        "description": pa.string(),
        "selling_points": pa.list_(pa.string()),
        "history": pa.list_(CLICK),
    },
    metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)


def write_gallery(path: Path, listing: Listing, most: int, advance: Callable[[int], None] = lambda _: None) -> int:
    """Writes the first `most` samples of a listing with the very files of their pictures; returns how many.

    A picture that cannot be read is null, with its path; the words of a shop's creatives are held in memory.
    """
    creatives, products = (pa.Table.from_batches(batches()) for batches in (listing.creatives, listing.products))
    written = 0

    def picture(name: str | None, read: Callable[[str], bytes] = listing.read) -> dict[str, Any]:
        try:
            return {"bytes": read(name) if name else None, "path": name}
        except (OSError, ValueError):
            return {"bytes": None, "path": name}

    def click(number: int) -> dict[str, Any]:
        row = creatives.slice(number, 1).to_pylist()[0]
        return {"picture": picture(row["image"]), "text": row["text"]}

    def rows() -> Iterator[dict[str, Any]]:
        for batch in listing.samples():
            for line in batch.to_pylist():
                product = products.slice(line["product"], 1).to_pylist()[0]
                told = {name: product[name] for name in ("description", "selling_points")}
                shown = {
                    "cutout": picture(product["image"], listing.read_cutout),
                    "history": [click(c) for c in line["history"]],
                }
                yield click(line["target"]) | told | shown

    def write(partial: Path) -> None:
        nonlocal written
        held: list[dict[str, Any]] = []
        with pq.ParquetWriter(partial, SCHEMA, compression="zstd", write_page_checksum=True) as writer:
            for row in rows():
                if written + len(held) == most:
                    break
                held.append(row)
                if len(held) == ROWS:
                    writer.write_table(pa.Table.from_pylist(held, schema=SCHEMA))
                    written, held = written + len(held), []
                    advance(ROWS)
            if held:
                writer.write_table(pa.Table.from_pylist(held, schema=SCHEMA))
                written += len(held)
                advance(len(held))

    write_whole(path, write)
    return written
