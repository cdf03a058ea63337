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
SHARD = 2_000_000  # keys that are sorted at once


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
        slices, lengths = [], []
        for piece in pieces:
            rows = _scan(plan, piece).metadata.num_rows
            for start in range(0, rows, PICTURES_PER_TASK):
                slices.append((plan, piece, start, min(PICTURES_PER_TASK, rows - start)))
                lengths.append(slices[-1][-1])
        run_tasks("pictures", picture_task, slices, lengths, execute, progress)
    run_tasks(f"{table}: join", join_task, [(plan, table)], [sum(sizes)], execute, progress)
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


def picture_task(plan: Plan, piece: Piece, start: int, length: int) -> int:
    """Decodes the pictures of `length` creatives; what is wrong with a picture is a reason to drop its creatives."""
    path = plan.work(f"pictures-{piece.number:05d}-{start:09d}.npy")
    if not path.exists():
        rows = _scan(plan, piece).read(["image", "code"], use_threads=False).slice(start, length)
        codes = rows["code"].to_numpy().copy()
        names = rows["image"].to_pylist()
        wanted = dict.fromkeys(name for name, code in zip(names, codes, strict=True) if code == 0)
        found = {name: pictures.fault(name, plan.log, plan.config.build) for name in wanted}
        for row, name in enumerate(names):
            if codes[row] == 0 and (fault := found[name]):
                codes[row] = CODE[fault]
        write_whole(path, lambda file: np.save(file, codes))
    return length


def join_task(plan: Plan, table: str) -> int:
    """Joins all scans of a table: the first of several rows with one id stays, and rows that stay get their numbers."""
    pieces, mark = plan.of(table), plan.work(f"{table}.json")
    if mark.exists():
        return sum(piece.rows for piece in pieces)
    ends = np.cumsum([0, *(_scan(plan, piece).metadata.num_rows for piece in pieces)])
    keys, every = np.empty(ends[-1], np.int64), np.empty(ends[-1], np.uint8)
    for piece, (start, end) in zip(pieces, pairwise(ends), strict=True):
        keys[start:end], every[start:end] = _read_scan(plan, piece)
    known, first = _first_rows(keys, every)
    _save_array(plan, f"{table}.known", known)
    del known
    numbers = np.cumsum(every == 0, dtype=np.int32) - np.int32(1)
    for start in range(0, len(first), SHARD):
        part = first[start : start + SHARD]
        part[:] = np.where(part == DROPPED, np.int32(DROPPED), numbers[part])
    _save_array(plan, f"{table}.row", first)
    del first, numbers
    _save_array(plan, f"{table}.key", keys if not every.any() else keys[every == 0])
    del keys
    for piece, (start, end) in zip(pieces, pairwise(ends), strict=True):
        own = every[start:end]
        _save_array(plan, f"{table}-{piece.number:05d}.code", own)
        places = _scan(plan, piece).read(["place"], use_threads=False)["place"].to_numpy()
        list_dropped(plan, f"{table}-{piece.number:05d}", piece.file, places, own)
    save(mark, {"rows": len(every), "reasons": counted(every)})
    return sum(piece.rows for piece in pieces)


def _read_scan(plan: Plan, piece: Piece) -> tuple[Ids, Codes]:
    """Keys of a piece's rows, and what is wrong with each by itself."""
    scan = _scan(plan, piece).read(["key", "code"], use_threads=False)
    checked = sorted(plan.work("").glob(f"pictures-{piece.number:05d}-*.npy")) if piece.table == "creatives" else []
    codes = np.concatenate([np.load(path) for path in checked]) if checked else scan["code"].to_numpy()
    return scan["key"].to_numpy(), codes


def _first_rows(keys: Ids, codes: Codes) -> tuple[Ids, Rows]:
    """The keys that a table knows, sorted, and for each the first row that may stay, or `DROPPED`.

    Later rows that might have stayed get the code of a duplicate. Works through ranges of keys, which are hashes and so
    are spread evenly: to sort all of them at once would take several times their memory.
    """
    named = ~np.isin(codes, [CODE[name] for name in ("unreadable", "no_id", "fractional_id")])
    good, bad = codes == 0, named & (codes != 0)
    known, first, count = np.empty(len(keys), np.int64), np.empty(len(keys), np.int32), 0
    edges = np.linspace(-(2.0**63), 2.0**63, max(1, -(-len(keys) // SHARD)) + 1).tolist()
    for low, high in pairwise(map(int, edges)):
        inside = (keys >= low) & (keys <= high - 1)
        rows = np.concatenate([np.flatnonzero(inside & good), np.flatnonzero(inside & bad)])
        rows = rows[np.argsort(keys[rows], kind="stable")]  # of one key first those that may stay, in their order
        own, stays = keys[rows], good[rows]
        again = np.zeros(len(rows), bool)
        again[1:] = own[1:] == own[:-1]
        codes[rows[again & stays]] = CODE["duplicate_id"]
        end = count + len(rows) - int(again.sum())
        known[count:end], first[count:end] = own[~again], np.where(stays, rows, DROPPED)[~again]
        count = end
    return known[:count], first[:count]


def _save_array(plan: Plan, name: str, array: Any) -> None:
    write_whole(plan.work(f"{name}.npy"), lambda file: np.save(file, array))


def find_rows(plan: Plan, table: str, keys: Ids) -> Rows:
    """Numbers of the rows that have these keys; `DROPPED` where the row was dropped, `UNKNOWN` where there is none."""
    known, rows = (np.load(plan.work(f"{table}.{name}.npy"), mmap_mode="r") for name in ("known", "row"))
    if not len(known):
        return np.full(len(keys), UNKNOWN, np.int32)
    order = np.argsort(keys)  # neighbours are found near each other: much faster in a long table
    wanted = keys[order]
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    found = np.empty(len(keys), np.int32)
    found[order] = np.where(known[at] == wanted, rows[at], np.int32(UNKNOWN))
    return found


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
