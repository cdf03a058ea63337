"""What a store is made from, whichever form it came in: pictures and words by number, samples that refer to them."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from uniadgen.config import DatasetConfig
from uniadgen.data import pad1m
from uniadgen.data.clean import REASONS
from uniadgen.data.clicklog import open_parquet
from uniadgen.records import MAX_TEXT, click_entry

BATCH = 8192  # rows that are read at once
SPLITS = ("train", "validation", "test")
Batches = Callable[[], Iterator[pa.RecordBatch]]  # read anew, and in the same order, at each call

_CREATIVES = pa.schema({"image": pa.string(), "text": pa.string()})
_PRODUCTS = pa.schema({"image": pa.string(), "description": pa.string(), "selling_points": pa.list_(pa.string())})
_SCORES = pa.list_(pa.float64())
_SAMPLES = pa.schema({"target": pa.int32(), "product": pa.int32(), "history": pa.list_(pa.int32()), "scores": _SCORES})
_SAMPLES = _SAMPLES.append(pa.field("user", pa.string())).append(pa.field("titles", pa.list_(pa.string())))


@dataclass(frozen=True)
class Listing:
    """Tables in batches: creatives (image, text), products (image, description, selling_points), samples.

    A sample has the numbers of its target creative and of its product, and those of its history, oldest first;
    `scores`, if the input knows them, are the similarities of that history's titles; `user` is whose sample it is,
    where one user may have several; `titles` are all true titles of what is advertised, where the input has more than
    the target's. `read` gives the bytes of a creative's picture, `read_cutout` those of a product's transparent one;
    they raise `OSError` or `ValueError`.
    """

    num_creatives: int
    num_products: int
    num_samples: int
    creatives: Batches
    products: Batches
    samples: Batches
    read: Callable[[str], bytes]
    read_cutout: Callable[[str], bytes]
    min_clicks: int = 0  # of a sample, its target among them
    max_broken: float = 0.1  # share of pictures above which the encoding stops
    product_of: NDArray[np.integer] | None = None  # the product of every creative, where creatives have one


def read_listing(source: Path, pictures: Path | None = None, split: str = "train") -> Listing:
    """A dataset's folder (one split), JSON lines of examples, or PAd1M's JSON, told by what is there.

    `pictures`: the folder that picture paths are relative to: by default that of the file; a dataset needs it (its
    log's). Raises `ValueError` that says what was expected, or which line is wrong.
    """
    if source.is_dir() and (source / "manifest.json").is_file():
        if pictures is None:
            raise ValueError(f"{source}: a dataset, expected --pictures as well: the folder of its log")
        return _dataset(source, pictures, split)
    if source.is_file() and source.suffix == ".jsonl":
        return _in_memory(_examples(source), pictures or source.parent)
    if source.is_file() and source.suffix == ".json":
        return _in_memory(map(_entry_of, pad1m.read_records(source)), pictures or source.parent)
    raise ValueError(
        f"{source}: expected the folder of a finished dataset (`uniadgen data build`), JSON lines of examples "
        "(*.jsonl) or PAd1M's JSON (*.json)"
    )


# a dataset


def _dataset(folder: Path, log: Path, split: str) -> Listing:
    """One split of a dataset; where `data prepare` was run, without the targets that it left out, with its cut-outs.

    A cut-out is one of its target's picture, so every target is then a product of its own.
    """
    from uniadgen.data import prepare  # these need fsspec, which is for datasets only
    from uniadgen.data.pictures import Fault, fetch

    if split not in SPLITS:
        raise ValueError(f"got split {split!r}, expected {', '.join(SPLITS)}")
    config = DatasetConfig.of(json.loads((folder / "build.json").read_text())["config"], "build.json")
    product_of = pq.read_table(folder / "creatives", columns=["product"])["product"].to_numpy()
    prepared = prepare.is_prepared(folder)
    left_out = np.array(list(prepare.left_out(folder)) if prepared else [], np.int64)
    cutouts = prepare.cutouts(folder) if prepared else {}
    cut = np.array(sorted(cutouts), np.int64)

    def read(name: str) -> bytes:
        try:
            return fetch(name, log, config.build)
        except Fault as found:
            raise ValueError(REASONS[str(found)].meaning) from None

    def samples() -> Iterator[pa.RecordBatch]:
        for path in _files(folder / "samples"):
            scores = prepare.similarities(folder, path.name) if prepared else None
            start = 0
            for batch in open_parquet(path).iter_batches(BATCH, columns=["split", "target", "history"]):
                targets = batch["target"].to_numpy()
                products = np.searchsorted(cut, targets) if cutouts else product_of[targets]
                told = pa.nulls(len(batch), _SCORES) if scores is None else scores[start : start + len(batch)]
                unknown = [pa.nulls(len(batch), _SAMPLES.field(name).type) for name in ("user", "titles")]
                columns = [batch["target"], pa.array(products, pa.int32()), batch["history"], told.cast(_SCORES)]
                columns += unknown
                mine = (batch["split"].to_numpy(zero_copy_only=False) == split) & ~np.isin(targets, left_out)
                yield pa.record_batch(columns, schema=_SAMPLES).filter(pa.array(mine))
                start += len(batch)

    return Listing(
        len(product_of),
        len(cut) if cutouts else sum(open_parquet(path).metadata.num_rows for path in _files(folder / "products")),
        sum(len(batch) for batch in samples()),
        _batches(folder / "creatives", ["image", "text"]),
        partial(_cut, _words_of(folder, cut, product_of))
        if cutouts
        else _batches(folder / "products", _PRODUCTS.names),
        samples,
        read,
        (lambda name: cutouts[int(name)]) if cutouts else read,
        config.build.min_clicks,
        config.build.max_broken,
        product_of,
    )


def _words_of(folder: Path, targets: NDArray[np.integer], product_of: NDArray[np.integer]) -> pa.Table:
    """What is said of each target's product; `image` is the number of the target, for its cut-out."""
    told = pq.read_table(folder / "products", columns=["description", "selling_points"])
    told = told.take(pa.array(product_of[targets]))
    return told.add_column(0, "image", pa.array(targets).cast(pa.string())).cast(_PRODUCTS)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("[!.]*.parquet"))


def _batches(folder: Path, columns: list[str]) -> Batches:
    def batches() -> Iterator[pa.RecordBatch]:
        for path in _files(folder):
            yield from open_parquet(path).iter_batches(BATCH, columns=columns, use_threads=False)

    return batches


# files that a person wrote, or PAd1M's


@dataclass(frozen=True)
class _Entry:
    product: tuple[str, str, tuple[str, ...]]  # cut-out, description, selling points
    target: tuple[str, str]  # picture, text
    clicks: tuple[tuple[str, str], ...]
    scores: tuple[float, ...] | None = None
    user: str | None = None
    titles: tuple[str, ...] | None = None


def _entry_of(record: pad1m.Record) -> _Entry:
    product = (record.cutout, record.description, record.selling_points)
    clicks = tuple(zip(record.pictures, record.titles, strict=True))
    return _Entry(product, (record.picture, record.texts[0]), clicks, record.similarities, titles=record.texts)


def _in_memory(entries: Iterable[_Entry], root: Path) -> Listing:
    """A listing in which everything equal has one number."""
    creatives: dict[tuple[str, str], int] = {}
    products: dict[tuple[str, str, tuple[str, ...]], int] = {}
    samples = [
        {
            "target": creatives.setdefault(entry.target, len(creatives)),
            "product": products.setdefault(entry.product, len(products)),
            "history": [creatives.setdefault(click, len(creatives)) for click in entry.clicks],
            "scores": entry.scores,
            "user": entry.user,
            "titles": entry.titles,
        }
        for entry in entries
    ]
    columns = list(zip(*creatives, strict=True)) or [(), ()]
    shown = pa.table(dict(zip(("image", "text"), columns, strict=True)), schema=_CREATIVES)
    columns = list(zip(*products, strict=True)) or [(), (), ()]
    told = pa.table(dict(zip(("image", "description", "selling_points"), columns, strict=True)), schema=_PRODUCTS)
    lines = pa.Table.from_pylist(samples, schema=_SAMPLES)

    def read(name: str) -> bytes:
        return (root / name).read_bytes()

    counts = len(creatives), len(products), len(samples)
    return Listing(*counts, partial(_cut, shown), partial(_cut, told), partial(_cut, lines), read, read)


def _cut(table: pa.Table) -> Iterator[pa.RecordBatch]:
    yield from table.to_batches(max_chunksize=BATCH)


def _examples(path: Path) -> Iterator[_Entry]:
    """Training data from JSON lines, an example each, pictures relative to the file.

    {"product": {"cutout": path, "description": ..., "selling_points": [...]},
     "clicks": [{"picture": path, "text": title}, ...], "target": {"picture": path, "text": title}}
    and, for `uniadgen evaluate`, "user" where one has several lines, "titles" that the product truly had.
    """
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _example(f"{path}: line {number}", line)


def _example(where: str, line: str) -> _Entry:
    try:
        entry = json.loads(line)
        product, clicks, target = entry["product"], list(entry["clicks"]), entry["target"]
        cutout, description, points = product["cutout"], product["description"], list(product["selling_points"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{where}: expected an object with product, clicks and target ({error!r})") from None
    if not points:
        raise ValueError(f"{where}: no selling point, expected at least one: the text may use nothing else")
    for name, text in (("cutout", cutout), ("description", description), *(("selling point", p) for p in points)):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{where}: a {name} is {text!r}, expected a text: add it or drop this line")
        if len(text) > MAX_TEXT:
            raise ValueError(f"{where}: a {name} has {len(text)} characters, expected at most {MAX_TEXT}: shorten it")
    user, titles = entry.get("user"), entry.get("titles")
    if not isinstance(user, str | None):
        raise ValueError(f"{where}: the user is {user!r}, expected a text: put it in quotes")
    if titles is not None and not (isinstance(titles, list) and all(isinstance(t, str) and t.strip() for t in titles)):
        raise ValueError(f"{where}: the titles are {titles!r}, expected a list of texts: correct it or leave it out")
    shown = tuple(click_entry(f"{where}, click {i}", click) for i, click in enumerate(clicks, start=1))
    known = None if titles is None else tuple(titles)
    said = (cutout, description, tuple(points))
    return _Entry(said, click_entry(f"{where}, target", target), shown, user=user, titles=known)
