"""The catalogue's part of a build: which products and creatives stay, and the numbers that clicks know them by."""

from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from uniadgen.data import clean, clicklog, pictures
from uniadgen.data.clean import CODE, Codes
from uniadgen.data.clicklog import Ids, Piece, open_parquet
from uniadgen.data.executor import Execute
from uniadgen.data.plan import Plan, Progress, counted, list_dropped, refuse_if_broken, run_tasks, save, write_table
from uniadgen.data.whole import write_whole

Rows = NDArray[np.int32]
DROPPED, UNKNOWN = -1, -2  # in place of the number of a row
PICTURES_PER_TASK = 2_000


def keep_products(plan: Plan, execute: Execute, progress: Progress) -> None:
    """Products with an id, a description and selling points stay; denied categories go."""
    _keep_entries(plan, "products", execute, progress)


def keep_creatives(plan: Plan, execute: Execute, progress: Progress) -> None:
    """Advertising pictures with texts stay, where their product stays, and, if so wished, their picture is whole."""
    _keep_entries(plan, "creatives", execute, progress)


def _keep_entries(plan: Plan, table: str, execute: Execute, progress: Progress) -> None:
    pieces = plan.of(table)
    arguments, sizes = [(plan, piece) for piece in pieces], [piece.rows for piece in pieces]
    run_tasks(f"{table}: read", scan_task, arguments, sizes, execute, progress)
    if table == "creatives" and plan.config.build.pictures == "check":
        slices = [
            (plan, piece, start)
            for piece in pieces
            for start in range(0, _scan(plan, piece).metadata.num_rows, PICTURES_PER_TASK)
        ]
        run_tasks("pictures", picture_task, slices, [PICTURES_PER_TASK] * len(slices), execute, progress)
    if not plan.work(f"{table}.json").exists():
        _index(plan, table)
    refuse_if_broken(plan, table, [plan.work(f"{table}.json")])
    run_tasks(f"{table}: write", publish_task, arguments, sizes, execute, progress)


def scan_task(plan: Plan, piece: Piece) -> int:
    """Reads a piece of the catalogue: for every row its key, its place and what is wrong with it by itself."""
    path = plan.work(f"{piece.table}-{piece.number:05d}.scan.parquet")
    if path.exists():
        return piece.rows
    build = plan.config.build
    fields = {"key": pa.int64(), "place": pa.int64()} | ({"product": pa.int32()} if piece.table == "creatives" else {})
    pictured = piece.table == "creatives" and build.pictures == "check"
    schema = pa.schema(fields | ({"image": pa.string()} if pictured else {}) | {"code": pa.uint8()})
    found = [schema.empty_table()]
    for block in clicklog.read(piece, plan.config):
        entries = clean.clean_entries(block, piece.table, build)
        codes: Codes = entries.codes
        columns: dict[str, Any] = {"key": entries.keys, "place": block.places}
        if entries.products is not None:
            rows = find_rows(plan, "products", entries.products.keys)
            later = clean.first_reason(
                len(rows), ("unknown_product", rows == UNKNOWN), ("dropped_product", rows == DROPPED)
            )
            codes = np.where(codes == 0, later, codes)
            columns["product"] = rows
        if pictured:
            columns["image"] = block.columns["image"].cast(pa.string())
        found.append(pa.table(columns | {"code": codes}, schema=schema))
        if len(block.unreadable):
            size = len(block.unreadable)
            lost = {name: pa.nulls(size, schema.field(name).type) for name in schema.names} | {
                "place": block.unreadable
            }
            lost |= {"key": np.zeros(size, np.int64), "code": np.full(size, CODE["unreadable"], np.uint8)}
            found.append(pa.table(lost, schema=schema))
    write_table(path, pa.concat_tables(found))
    return piece.rows


def picture_task(plan: Plan, piece: Piece, start: int) -> int:
    """Decodes the pictures of some creatives; what is wrong with a picture is a reason to drop its creatives."""
    path = plan.work(f"pictures-{piece.number:05d}-{start:09d}.npy")
    if not path.exists():
        rows = _scan(plan, piece).read(["image", "code"], use_threads=False).slice(start, PICTURES_PER_TASK)
        codes = rows["code"].to_numpy().copy()
        names = rows["image"].to_pylist()
        wanted = dict.fromkeys(name for name, code in zip(names, codes, strict=True) if code == 0)
        found = {name: pictures.fault(name, plan.log, plan.config.build) for name in wanted}
        for row, name in enumerate(names):
            if codes[row] == 0 and (fault := found[name]):
                codes[row] = CODE[fault]
        write_whole(path, lambda file: np.save(file, codes))
    return PICTURES_PER_TASK


def _index(plan: Plan, table: str) -> None:
    """Joins all scans of a table: the first of several rows with one id stays, and rows that stay get their numbers."""
    pieces, scans, codes = plan.of(table), [], []
    for piece in pieces:
        scans.append(_scan(plan, piece).read(["key", "code", "place"], use_threads=False))
        checked = sorted(plan.work("").glob(f"pictures-{piece.number:05d}-*.npy")) if table == "creatives" else []
        codes.append(np.concatenate([np.load(path) for path in checked]) if checked else scans[-1]["code"].to_numpy())
    keys, every = np.concatenate([scan["key"].to_numpy() for scan in scans]), np.concatenate(codes).copy()
    good = np.flatnonzero(every == 0)
    order = good[np.argsort(keys[good], kind="stable")]
    again = np.zeros(len(order), bool)
    again[1:] = keys[order[1:]] == keys[order[:-1]]
    every[order[again]] = CODE["duplicate_id"]
    order = order[~again]
    numbers = np.cumsum(every == 0, dtype=np.int64) - 1
    nameless = np.isin(every, [CODE[name] for name in ("unreadable", "no_id", "fractional_id", "duplicate_id")])
    bad = np.setdiff1d(keys[(every != 0) & ~nameless], keys[order])
    known = np.concatenate([keys[order], bad])
    rows = np.concatenate([numbers[order], np.full(len(bad), DROPPED)]).astype(np.int32)
    sort = np.argsort(known, kind="stable")
    for name, array in (("known", known[sort]), ("row", rows[sort]), ("key", keys[every == 0])):
        write_whole(plan.work(f"{table}.{name}.npy"), lambda file, array=array: np.save(file, array))
    ends = np.cumsum([0, *(len(scan) for scan in scans)])
    for piece, scan, (start, end) in zip(pieces, scans, pairwise(ends), strict=True):
        own = every[start:end]
        write_whole(plan.work(f"{table}-{piece.number:05d}.code.npy"), lambda file, own=own: np.save(file, own))
        list_dropped(plan, f"{table}-{piece.number:05d}", piece.file, scan["place"].to_numpy(), own)
    save(plan.work(f"{table}.json"), {"rows": len(every), "reasons": counted(every)})


def find_rows(plan: Plan, table: str, keys: Ids) -> Rows:
    """Numbers of the rows that have these keys; `DROPPED` where the row was dropped, `UNKNOWN` where there is none."""
    known, rows = (np.load(plan.work(f"{table}.{name}.npy"), mmap_mode="r") for name in ("known", "row"))
    if not len(known):
        return np.full(len(keys), UNKNOWN, np.int32)
    at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[at] == keys, rows[at], np.int32(UNKNOWN))


def publish_task(plan: Plan, piece: Piece) -> int:
    """Writes the rows of a piece that stay, with their words; the number of a row is its place in the whole table."""
    path = plan.folder / piece.table / f"{piece.number:05d}.parquet"
    if path.exists():
        return piece.rows
    codes = np.load(plan.work(f"{piece.table}-{piece.number:05d}.code.npy"))
    stay = np.flatnonzero(codes == 0)
    scan = _scan(plan, piece).read(use_threads=False).take(pa.array(stay))
    write_whole(path, lambda partial: _write_kept(partial, plan, piece, scan))
    return piece.rows


def _write_kept(path: Path, plan: Plan, piece: Piece, kept: pa.Table) -> None:
    """Reads a piece once more and writes those rows that are in `kept`, block by block."""
    places, done = kept["place"].to_numpy(), 0
    with ExitStack() as stack:
        writer = None
        for block in clicklog.read(piece, plan.config):
            mask = pa.array(np.isin(block.places, places))
            columns = {name: column.filter(mask) for name, column in block.columns.items()}
            points = columns.pop("selling_points", None)
            columns = {name: column.cast(pa.string()) for name, column in columns.items()}
            if points is not None:
                columns["selling_points"] = clean.points_of(points, plan.config.build.points_separator)
            for _, name in (column for column in clicklog.OPTIONAL if column[0] == piece.table):
                columns.setdefault(name, pa.nulls(mask.true_count, pa.string()))
            if piece.table == "creatives":
                del columns["product_id"]
                columns["product"] = kept["product"].slice(done, len(columns["text"])).combine_chunks()
            table = pa.table(columns)
            done += len(table)
            if writer is None:
                writer = pq.ParquetWriter(path, table.schema, compression="zstd", write_page_checksum=True)
                stack.enter_context(writer)
            writer.write_table(table)


def _scan(plan: Plan, piece: Piece) -> pq.ParquetFile:
    return open_parquet(plan.work(f"{piece.table}-{piece.number:05d}.scan.parquet"))
