"""A click log becomes a dataset by the steps of paper section 3.1, in tasks that can be killed, repeated and spread.

Each task is a pure function of the plan and of files that earlier steps wrote. It writes its files aside and renames
them, the one that marks it as done last, and does nothing when that one is there. So it does not matter where tasks
run, how many at once, or how often the build was killed: the dataset has the same bytes.
"""

import fcntl
import importlib.metadata
import json
import os
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, fields
from hashlib import blake2b, file_digest
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from uniadgen.config import DatasetConfig
from uniadgen.data import card, clean, clicklog, executor, pictures
from uniadgen.data.clean import CODE, NAMES, REASONS, Codes
from uniadgen.data.clicklog import TABLES, Ids, Piece, open_parquet
from uniadgen.data.executor import Execute
from uniadgen.data.whole import write_whole
from uniadgen.world.counters import What, below, bits

SPLITS = ("train", "validation", "test")
PICTURES_PER_TASK = 2_000
PRODUCT_OF_CREATIVE = "product"  # column of creatives: row of the product


class Bar(Protocol):
    """What shows progress."""

    def advance(self, note: str = "", by: int = 1) -> None:
        """`by` more rows are done."""
        ...


Progress = Callable[[str, int], AbstractContextManager[Bar]]


@dataclass(frozen=True)
class Plan:
    """What all tasks of one build know; `secret` keys the pseudonyms of users and is written nowhere."""

    folder: Path
    log: Path
    config: DatasetConfig
    pieces: tuple[Piece, ...]
    num_buckets: int
    secret: bytes = field(repr=False)

    def work(self, name: str) -> Path:
        """A file that only building needs."""
        return self.folder / "work" / name

    def of(self, table: str) -> list[Piece]:
        """The pieces of a table."""
        return [piece for piece in self.pieces if piece.table == table]


def build(
    log: Path, folder: Path, config: DatasetConfig, secret: bytes, execute: Execute, progress: Progress
) -> dict[str, Any]:
    """Builds the dataset of a log in `folder`, or goes on with what was begun there; returns its manifest.

    Raises `ValueError` for a log that cannot be read, for a folder that holds another build or that another
    process builds in, and where more than `build.max_broken` of a table is malformed.
    """
    with locked(folder):
        plan = make_plan(log, folder, config, secret, execute, progress)
        for step in STEPS:
            step(plan, execute, progress)
        return finish(plan)


# the steps, in paper section 3.1's order


def keep_products(plan: Plan, execute: Execute, progress: Progress) -> None:
    """Products with an id, a description and selling points stay; denied categories go."""
    _keep_entries(plan, "products", execute, progress)


def keep_creatives(plan: Plan, execute: Execute, progress: Progress) -> None:
    """Advertising pictures with texts stay, where their product stays, and, if so wished, their picture is whole."""
    _keep_entries(plan, "creatives", execute, progress)


def partition_clicks(plan: Plan, execute: Execute, progress: Progress) -> None:
    """Impossible events go, users become pseudonyms, and the clicks of each user come together in one bucket."""
    pieces = plan.of("events")
    _run("clicks", partition_task, [(plan, piece) for piece in pieces], [p.rows for p in pieces], execute, progress)
    _refuse_if_broken(plan, "events", _marks(plan, "partition"))


def count_users(plan: Plan, execute: Execute, progress: Progress) -> None:
    """With `build.min_users` above 1: which creatives were clicked by so many users."""
    path = plan.work("frequent.npy")
    num_creatives = len(np.load(plan.work("creatives.key.npy"), mmap_mode="r"))
    if plan.config.build.min_users == 1:
        return
    arguments, sizes = _buckets(plan)
    _run("users per creative", count_task, arguments, sizes, execute, progress)
    counts = np.zeros(num_creatives, np.int64)
    for bucket in range(plan.num_buckets):
        rows, users = np.load(plan.work(f"count-{bucket:05d}.npy"))
        counts[rows] += users
    write_whole(path, lambda file: np.save(file, counts >= plan.config.build.min_users))


def select_samples(plan: Plan, execute: Execute, progress: Progress) -> None:
    """Inactive users go; of every other one, one random click is the target and the others are the history."""
    arguments, sizes = _buckets(plan)
    _run("samples", select_task, arguments, sizes, execute, progress)


def finish(plan: Plan) -> dict[str, Any]:
    """Counts what was kept and dropped, describes it in a data card, and writes the manifest, which comes last."""
    marks = {
        "products": [plan.work("products.json")],
        "creatives": [plan.work("creatives.json")],
        "events": _marks(plan, "partition"),
    }
    selected = _marks(plan, "select")
    content = [0, 0]
    for mark in selected:
        for lane, digest in enumerate(_load(mark)["content"]):
            content[lane] = (content[lane] + digest) % 2**64
    dropped = {table: _count_all(plan, paths) for table, paths in marks.items()}
    dropped["events"].update(_count_all(plan, selected))
    began = _load(plan.folder / "build.json")
    manifest = {
        "format": 1,
        "samples": sum(_load(mark)["samples"] for mark in selected),
        "read": {table: sum(_load(path)["rows"] for path in paths) for table, paths in marks.items()},
        "dropped": {table: dict(sorted(counts.items())) for table, counts in dropped.items()},
        "inputs": {table: [entry["file"] for entry in began["inputs"] if entry["table"] == table] for table in TABLES},
        # equal for equal samples, however they lie in files and whatever wrote these
        "content": f"{content[0]:016x}{content[1]:016x}",
        "files": {str(path.relative_to(plan.folder)): _digest(path) for path in _tables(plan.folder)},
    }
    (plan.folder / "manifest.json").unlink(missing_ok=True)
    card.write_card(plan.folder, plan.config, manifest)
    _save(plan.folder / "manifest.json", manifest)
    return manifest


def _tables(folder: Path) -> list[Path]:
    return sorted(path for name in ("samples", *TABLES, "dropped") for path in (folder / name).glob("[!.]*.parquet"))


# the catalogue


def _keep_entries(plan: Plan, table: str, execute: Execute, progress: Progress) -> None:
    pieces = plan.of(table)
    arguments, sizes = [(plan, piece) for piece in pieces], [piece.rows for piece in pieces]
    _run(f"{table}: read", scan_task, arguments, sizes, execute, progress)
    if table == "creatives" and plan.config.build.pictures == "check":
        slices = [
            (plan, piece, start)
            for piece in pieces
            for start in range(0, _scan(plan, piece).metadata.num_rows, PICTURES_PER_TASK)
        ]
        _run("pictures", picture_task, slices, [PICTURES_PER_TASK] * len(slices), execute, progress)
    if not plan.work(f"{table}.json").exists():
        _index(plan, table)
    _refuse_if_broken(plan, table, [plan.work(f"{table}.json")])
    _run(f"{table}: write", publish_task, arguments, sizes, execute, progress)


def scan_task(plan: Plan, piece: Piece) -> int:
    """Reads a piece of the catalogue: for every row its key, its place and what is wrong with it by itself."""
    path = plan.work(f"{piece.table}-{piece.number:05d}.scan.parquet")
    if path.exists():
        return piece.rows
    build, found = plan.config.build, []
    pictured = piece.table == "creatives" and build.pictures == "check"
    for block in clicklog.read(piece, plan.config):
        entries = clean.clean_entries(block, piece.table, build)
        codes, columns = entries.codes, {"key": entries.keys, "place": block.places}
        if entries.products is not None:
            rows = find_rows(plan, "products", entries.products.keys)
            later = clean.first_reason(
                len(rows), ("unknown_product", rows == UNKNOWN), ("dropped_product", rows == DROPPED)
            )
            codes = np.where(codes == 0, later, codes)
            columns["product"] = rows
        if pictured:
            columns["image"] = block.columns["image"].cast(pa.string())
        found.append(pa.table(columns | {"code": codes}))
        if len(block.unreadable):
            lost = found[-1].schema.empty_table()
            nulls = {name: pa.nulls(len(block.unreadable), lost.schema.field(name).type) for name in lost.schema.names}
            nulls |= {"place": block.unreadable, "code": np.full(len(block.unreadable), CODE["unreadable"], np.uint8)}
            nulls |= {"key": np.zeros(len(block.unreadable), np.int64)}
            found.append(pa.table(nulls, schema=lost.schema))
    _write_table(path, pa.concat_tables(found) if found else pa.table({"key": pa.array([], pa.int64())}))
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
        _list_dropped(plan, f"{table}-{piece.number:05d}", piece.file, scan["place"].to_numpy(), own)
    _save(plan.work(f"{table}.json"), {"rows": len(every), "reasons": _count(every)})


DROPPED, UNKNOWN = -1, -2


def find_rows(plan: Plan, table: str, keys: Ids) -> Ids:
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
    scan = _scan(plan, piece).read(["place", "product"] if piece.table == "creatives" else ["place"], use_threads=False)
    stay = np.flatnonzero(codes == 0)
    places, kept = scan["place"].to_numpy()[stay], []
    for block in clicklog.read(piece, plan.config):
        mask = np.isin(block.places, places)
        columns = {name: column.filter(pa.array(mask)) for name, column in block.columns.items()}
        if piece.table == "products":
            columns["selling_points"] = clean.points_of(columns["selling_points"], plan.config.build.points_separator)
        kept.append(pa.table({n: c if n == "selling_points" else c.cast(pa.string()) for n, c in columns.items()}))
    whole = pa.concat_tables(kept) if kept else pa.table({})
    if piece.table == "creatives":
        whole = whole.append_column(PRODUCT_OF_CREATIVE, scan["product"].take(pa.array(stay)).cast(pa.int32()))
        whole = whole.drop_columns(["product_id"])
    _write_table(path, whole)
    return piece.rows


def _scan(plan: Plan, piece: Piece) -> pq.ParquetFile:
    return open_parquet(plan.work(f"{piece.table}-{piece.number:05d}.scan.parquet"))


# clicks: task 1, partition


def partition_task(plan: Plan, piece: Piece) -> int:
    """Reads and cleans events, makes pseudonyms, and writes clicks clustered by bucket: one row group for each."""
    mark = _mark(plan, "partition", piece.number)
    if mark.exists():
        return piece.rows
    forgotten = _forgotten(plan.folder)
    parts, listed = [], []
    for number, block in enumerate(clicklog.read(piece, plan.config)):
        events = clean.clean_events(block, plan.config.build, plan.secret)
        rows = find_rows(plan, "creatives", events.creatives)
        later = clean.first_reason(
            len(rows),
            ("forgotten_user", np.isin(events.users, forgotten)),
            ("unknown_creative", rows == UNKNOWN),
            ("dropped_creative", rows == DROPPED),
        )
        codes = np.where(events.codes == 0, later, events.codes)
        lost = np.full(len(block.unreadable), CODE["unreadable"], np.uint8)
        listed.append((np.append(block.places, block.unreadable), np.append(codes, lost)))
        kept = codes == 0
        clicks = (events.users[kept], rows[kept], events.times[kept], block.places[kept])
        parts.append(_write_part(plan, f"clicks-{piece.number:05d}-{number:03d}.parquet", piece.file, clicks))
    places, codes = (np.concatenate(columns) for columns in zip(*listed, strict=True)) if listed else (_NONE, _NO_CODES)
    _list_dropped(plan, f"events-{piece.number:05d}", piece.file, places, codes)
    _save(mark, {"file": piece.file, "rows": len(codes), "reasons": _count(codes), "parts": parts})
    return piece.rows


_NONE, _NO_CODES = np.array([], np.int64), np.array([], np.uint8)
_CLICK_COLUMNS = ("user", "creative", "time", "place")


def bucket_of(users: Ids, num_buckets: int) -> Ids:
    """The bucket of each pseudonym."""
    return below(users.view(np.uint64), num_buckets)


def _write_part(plan: Plan, name: str, file: int, clicks: tuple[Ids, ...]) -> dict[str, Any]:
    buckets = bucket_of(clicks[0], plan.num_buckets)
    order = np.argsort(buckets.astype(np.uint32), kind="stable")
    counts = np.bincount(buckets, minlength=plan.num_buckets)
    clustered = [column[order] for column in clicks]
    groups = [
        [column[end - count : end] for column in clustered] for end, count in zip(counts.cumsum(), counts, strict=True)
    ]
    _write_groups(plan.work(name), [pa.table(dict(zip(_CLICK_COLUMNS, group, strict=True))) for group in groups])
    return {"name": name, "file": file, "counts": counts.tolist(), "digests": [_digest_of(group) for group in groups]}


def _write_groups(path: Path, tables: list[pa.Table]) -> None:
    """One row group for each table that has rows; pages carry checksums."""

    def write(partial: Path) -> None:
        with pq.ParquetWriter(partial, tables[0].schema, compression="zstd", write_page_checksum=True) as writer:
            for table in tables:
                if len(table):
                    writer.write_table(table, row_group_size=len(table))

    write_whole(path, write)


def _digest_of(columns: list[Ids]) -> str:
    digest = blake2b(digest_size=16)
    for column in columns:
        digest.update(np.ascontiguousarray(column))
    return digest.hexdigest()


def _parts(plan: Plan) -> list[dict[str, Any]]:
    return [part for mark in _marks(plan, "partition") for part in _load(mark)["parts"]]


def _buckets(plan: Plan) -> tuple[list[tuple[Plan, int]], list[int]]:
    sizes = np.sum([part["counts"] for part in _parts(plan)] or [[0] * plan.num_buckets], axis=0)
    return [(plan, bucket) for bucket in range(plan.num_buckets)], sizes.tolist()


def read_bucket(plan: Plan, bucket: int) -> pa.Table:
    """The clicks of one bucket's users: user, creative (its row), time, place and file (where the log has them)."""
    tables = []
    for part in _parts(plan):
        if part["counts"][bucket]:
            group = sum(count > 0 for count in part["counts"][:bucket])
            table = open_parquet(plan.work(part["name"])).read_row_group(group, use_threads=False)
            tables.append(table.append_column("file", pa.array(np.full(len(table), part["file"], np.int64))))
    empty = pa.schema([(name, pa.int64()) for name in (*_CLICK_COLUMNS, "file")]).empty_table()
    return pa.concat_tables(tables, promote_options="permissive").combine_chunks() if tables else empty


def count_task(plan: Plan, bucket: int) -> int:
    """How many users of a bucket clicked each creative."""
    path = plan.work(f"count-{bucket:05d}.npy")
    clicks = read_bucket(plan, bucket)
    if not path.exists():
        pairs = np.unique(np.stack([clicks["creative"].to_numpy(), clicks["user"].to_numpy()]), axis=1)
        counts = np.stack(np.unique(pairs[0], return_counts=True)).astype(np.int64)
        write_whole(path, lambda file: np.save(file, counts))
    return len(clicks)


# clicks: task 2, select

# Integer keys only, and every ORDER BY is total: the outcome depends on no order in which rows arrive.
KERNEL = """
CREATE TEMP TABLE once AS
SELECT *, row_number() OVER same AS nth_click, lag(time) OVER same AS earlier
FROM clicks WINDOW same AS (PARTITION BY "user", key ORDER BY time, file, place);

CREATE TEMP TABLE kept AS
SELECT "user", creative, draw, key, file, place,
    count(*) OVER (PARTITION BY "user") AS num_clicks,
    row_number() OVER (PARTITION BY "user" ORDER BY time, key) AS nth
FROM once WHERE nth_click = 1 AND frequent;

CREATE TEMP TABLE targets AS
SELECT "user", nth FROM (
    SELECT "user", nth, row_number() OVER (PARTITION BY "user" ORDER BY draw, key) AS lot FROM kept
    WHERE CASE WHEN {before} THEN nth ELSE num_clicks END >= {min_clicks}
) WHERE lot = 1;

CREATE TEMP TABLE told AS
SELECT *, row_number() OVER (PARTITION BY "user", part ORDER BY nth DESC) AS recency FROM (
    SELECT k.*, CASE
        WHEN t.nth IS NULL THEN {inactive_user}
        WHEN {before} AND k.nth > t.nth THEN {after_target}
        WHEN k.nth = t.nth THEN {TARGET}
        ELSE {HISTORY} END AS part
    FROM kept k LEFT JOIN targets t ON k."user" = t."user"
);
"""
SAMPLES = """
SELECT "user", creative, key, part = {TARGET} AS target FROM told
WHERE part = {TARGET} OR part = {HISTORY} AND recency <= {max_history} ORDER BY "user", nth
"""
LOST = """
SELECT file, place, reason FROM (
    SELECT file, place, CASE WHEN time = earlier THEN {duplicate} ELSE {repeated} END AS reason
    FROM once WHERE nth_click > 1
    UNION ALL SELECT file, place, {rare_creative} FROM once WHERE nth_click = 1 AND NOT frequent
    UNION ALL SELECT file, place, CASE WHEN part = {HISTORY} THEN {older_than_history} ELSE part END
    FROM told WHERE part <> {TARGET} AND (part <> {HISTORY} OR recency > {max_history})
) ORDER BY file, place
"""
_PARTS = {"HISTORY": 0, "TARGET": -1}  # other parts are reasons


def select_task(plan: Plan, bucket: int) -> int:
    """Draws one bucket's targets and histories. Its outcome is kept as long as the clicks it came from are the same."""
    mark, frequent = _mark(plan, "select", bucket), None
    digest = blake2b(json.dumps([[part["name"], part["digests"][bucket]] for part in _parts(plan)]).encode())
    if plan.config.build.min_users > 1:
        frequent = np.load(plan.work("frequent.npy"), mmap_mode="r")
        digest.update(frequent)
    inputs = digest.hexdigest()
    num_clicks = sum(part["counts"][bucket] for part in _parts(plan))
    if mark.exists() and _load(mark)["inputs"] == inputs:
        return num_clicks
    clicks, build = read_bucket(plan, bucket), plan.config.build
    creatives = clicks["creative"].to_numpy()
    keys = np.load(plan.work("creatives.key.npy"), mmap_mode="r")[creatives]
    draws = bits(build.seed, What.DATASET_TARGET, clicks["user"].to_numpy(), keys).view(np.int64)
    columns = {"key": keys, "draw": draws}
    columns["frequent"] = np.ones(len(clicks), bool) if frequent is None else frequent[creatives]
    for name, column in columns.items():
        clicks = clicks.append_column(name, pa.array(column))
    samples, lost = _select(plan, clicks)
    users, chosen, content = _samples(samples, build.seed, build.validation_share, build.test_share)
    _write_table(plan.folder / "samples" / f"{bucket:05d}.parquet", chosen)
    codes = lost["reason"].astype(np.uint8)
    _list_dropped(plan, f"samples-{bucket:05d}", lost["file"], lost["place"], codes)
    _save(mark, {"inputs": inputs, "samples": users, "reasons": _count(codes), "content": content})
    return num_clicks


def _select(plan: Plan, clicks: pa.Table) -> tuple[dict[str, Any], dict[str, Any]]:
    """The kernel's two answers as arrays: samples, one row for each click in them; and dropped clicks."""
    build = plan.config.build
    values = CODE | _PARTS | {"before": build.history_scope == "before_target", "min_clicks": build.min_clicks}
    values |= {"max_history": build.max_history or 2**62}
    with spilling(plan) as settings, duckdb.connect(":memory:", config=settings) as database:
        database.register("clicks", clicks)
        database.execute(KERNEL.format(**values))
        return tuple(database.execute(query.format(**values)).fetchnumpy() for query in (SAMPLES, LOST))


@contextmanager
def spilling(plan: Plan) -> Iterator[dict[str, Any]]:
    """DuckDB's settings: one thread, little memory, and a folder of its own to spill to."""
    folder = Path(tempfile.mkdtemp(prefix="spill-", dir=plan.work("")))
    try:
        yield {"threads": 1, "memory_limit": f"{plan.config.build.memory_mb}MB", "temp_directory": str(folder)}
    finally:
        shutil.rmtree(folder)


def _samples(rows: dict[str, Any], seed: int, validation: float, test: float) -> tuple[int, pa.Table, list[int]]:
    """How many samples there are, their table, and two sums over their content that depend on no order."""
    users, target, keys = rows["user"], rows["target"], rows["key"]
    owners, first = np.unique(users, return_index=True)
    lot = bits(seed, What.DATASET_SPLIT, owners) % np.uint64(10_000)
    split = np.searchsorted(np.round(np.array([test, test + validation]) * 10_000), lot, side="right")
    sizes = np.diff(np.append(first, len(users))) - 1
    offsets = np.append(0, np.cumsum(sizes)).astype(np.int32)
    history = pa.ListArray.from_arrays(pa.array(offsets), pa.array(rows["creative"][~target].astype(np.int32)))
    names = pa.array([SPLITS[2 - number] for number in split], pa.string())
    table = {"split": names, "target": rows["creative"][target].astype(np.int32), "history": history}
    content = []
    for lane in range(2):
        steps = np.arange(len(keys[~target])) - np.repeat(offsets[:-1], sizes)
        clicked = bits(lane, What.DATASET_CONTENT, keys[~target], steps)
        sums = np.add.reduceat(np.append(clicked, np.uint64(0)), offsets[:-1]) if len(owners) else clicked
        content.append(int(bits(lane, What.DATASET_CONTENT, keys[target], split, sums).sum(dtype=np.uint64)))
    return len(owners), pa.table(table), content


# deletion


def forget(folder: Path, users: list[str], secret: bytes, execute: Execute, progress: Progress) -> dict[str, Any]:
    """Deletes users from a finished dataset: only their partitions are made again. Returns the new manifest.

    `users`: ids as the log has them. They stay out when the build is run again in this folder. Raises `ValueError`
    where `folder` holds no finished dataset, or the secret is another one.
    """
    if not (folder / "manifest.json").exists():
        raise ValueError(f"{folder}: no finished dataset, expected the folder of one: finish the build first")
    with locked(folder):
        began = _load(folder / "build.json")
        if began["secret"] != _check_of(secret):
            raise ValueError(f"{folder} was built with another key: use the one it was built with")
        config = dataset_config(began["config"])
        plan = Plan(folder, folder, config, (), began["num_buckets"], secret)
        pseudonyms = clean.identities(pa.array(users, pa.string()), secret).keys
        everyone = sorted({*_forgotten(folder).tolist(), *pseudonyms.tolist()})
        _save(folder / "forgotten.json", {"users": everyone, "done": False})
        for step in STEPS[STEPS.index(forget_users) :]:
            step(plan, execute, progress)
        return finish(plan)


def forget_users(plan: Plan, execute: Execute, progress: Progress) -> None:
    """Users who were deleted from this dataset leave the clicks that were already partitioned."""
    path = plan.folder / "forgotten.json"
    if not path.exists() or _load(path)["done"]:
        return
    users = _forgotten(plan.folder)
    for bucket in set(bucket_of(users, plan.num_buckets).tolist()):
        plan.work(f"count-{bucket:05d}.npy").unlink(missing_ok=True)
    for mark in _marks(plan, "partition"):
        entry = _load(mark)
        gone = [_without(plan, part["name"], users)[1] for part in entry["parts"]]
        if not sum(map(len, gone)) and not _is_stale(plan, entry):
            continue
        name = f"events-{mark.stem.removeprefix('partition-')}"
        listed = pq.read_table(plan.folder / "dropped" / f"{name}.parquet")
        reasons = dict(zip(listed["place"].to_pylist(), listed["reason"].to_pylist(), strict=True))
        reasons |= dict.fromkeys(np.concatenate(gone).tolist(), "forgotten_user")
        codes = np.array([CODE[reason] for reason in reasons.values()], np.uint8)
        _list_dropped(plan, name, entry["file"], np.array(list(reasons), np.int64), codes)
        for part in entry["parts"]:
            part |= _write_part(plan, part["name"], part["file"], _without(plan, part["name"], users)[0])
        _save(mark, entry | {"reasons": _count(codes)})
    _save(path, {"users": users.tolist(), "done": True})


def _without(plan: Plan, name: str, users: Ids) -> tuple[tuple[Ids, ...], Ids]:
    """The clicks of a part without those of some users, and the places of theirs."""
    table = open_parquet(plan.work(name)).read(use_threads=False)
    columns = tuple(table[column].to_numpy() for column in _CLICK_COLUMNS)
    theirs = np.isin(columns[0], users)
    return tuple(column[~theirs] for column in columns), columns[3][theirs]


def _is_stale(plan: Plan, entry: dict[str, Any]) -> bool:
    """Whether a deletion was killed after it had rewritten a part and before it could say so."""
    counts = [(plan.work(part["name"]), sum(part["counts"])) for part in entry["parts"]]
    return any(open_parquet(path).metadata.num_rows != count for path, count in counts)


STEPS = (keep_products, keep_creatives, partition_clicks, forget_users, count_users, select_samples)


# what all of it rests on


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a dataset's folder; `ValueError` when another process does. The lock goes when its process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{folder}: another build is running here: wait for it, or choose another folder"
            ) from None
        yield


def where(processes: int, ray: str | None) -> AbstractContextManager[Execute]:
    """The executor: processes of this machine, or a Ray cluster."""
    return executor.on_ray(ray) if ray else executor.processes(processes)


def read_key(path: Path | None, folder: Path, make: bool = True) -> bytes:
    """The key of a file, by default of the one beside the dataset's folder, which is made if there is none.

    Raises `ValueError` for a key of fewer than 16 or more than 64 bytes, or none.
    """
    file = path or folder.absolute().with_name(f"{folder.absolute().name}.key")
    if not file.exists() and path is None and make:
        file.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new:
            new.write(secrets.token_hex(32) + "\n")
    if not file.is_file():
        raise ValueError(f"{file}: no such file, expected the key that makes pseudonyms of users: name it with --key")
    key = file.read_bytes().strip()
    if not 16 <= len(key) <= 64:
        raise ValueError(f"{file}: a key of {len(key)} bytes, expected 16 to 64: make one with `openssl rand -hex 32`")
    return key


def make_plan(
    log: Path, folder: Path, config: DatasetConfig, secret: bytes, execute: Execute, progress: Progress
) -> Plan:
    """Cuts the log into pieces, and holds the folder to one log, one config, one key and one version of the code."""
    files = [(table, path) for table in TABLES for path in clicklog.files_of(log, table)]
    pieces = tuple(piece for table in TABLES for piece in clicklog.pieces_of(log, table, config))
    denied, columns = config.build.deny_categories, clicklog.present_columns
    if denied and any(t == "products" and "category" not in columns(path, t, config) for t, path in files):
        raise ValueError(
            f"build.deny_categories is {denied}, expected a column {config.products.category!r} of products"
        )
    clicks = sum(piece.rows for piece in pieces if piece.table == "events")
    num_buckets = max(1, -(-clicks // config.build.rows_per_bucket))
    plan = Plan(folder, log, config, pieces, num_buckets, secret)
    _sweep(folder)
    for name in ("work", "samples", "dropped", "products", "creatives"):
        (folder / name).mkdir(exist_ok=True)
    sizes = [path.stat().st_size for _, path in files]
    _run("inputs (bytes)", hash_task, [(plan, str(path)) for _, path in files], sizes, execute, progress)
    inputs = [
        {"table": table, "file": str(path.relative_to(log)), **_load(_hash_path(plan, str(path)))}
        for table, path in files
    ]
    now = {"config": json.loads(json.dumps(asdict(config))), "inputs": inputs, "num_buckets": num_buckets}
    now |= {"secret": _check_of(secret), "code": _code(), "versions": _versions()}
    path = folder / "build.json"
    if path.exists():
        changed = _changes(_load(path), now)
        if changed:
            raise ValueError(
                f"{folder} holds another build ({changed} changed): choose another folder, or delete this one"
            )
    else:
        _save(path, now)
    return plan


def hash_task(plan: Plan, path: str) -> int:
    """Hashes an input file, anew in every build: a file that changed must not go unseen."""
    file = Path(path)
    _save(_hash_path(plan, path), {"bytes": file.stat().st_size, "blake2b": _digest(file)})
    return file.stat().st_size


def _hash_path(plan: Plan, path: str) -> Path:
    return plan.work(f"input-{blake2b(path.encode(), digest_size=8).hexdigest()}.json")


def _sweep(folder: Path) -> None:
    """Removes what a killed build left half written. Raises `ValueError` for a folder of something else."""
    there = {path.name for path in folder.iterdir()} - {".lock"}
    if there - {"work"} and "build.json" not in there and not {"work", "samples", "dropped"} <= there:
        raise ValueError(f"{folder}: is not empty and holds no dataset: choose another folder")
    for path in [*folder.rglob(".*.partial*"), *folder.glob("work/spill-*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _changes(old: dict[str, Any], new: dict[str, Any]) -> str:
    names = [
        f"{group}.{name}"
        for group, values in new["config"].items()
        for name in values
        if old["config"].get(group, {}).get(name) != values[name]
    ]
    files = {entry["file"]: entry for entry in old["inputs"]}
    names += [entry["file"] for entry in new["inputs"] if files.pop(entry["file"], None) != entry] + list(files)
    what = {"secret": "the key", "code": "uniadgen's code", "versions": "the version of a library"}
    return ", ".join(names + [said for name, said in what.items() if old[name] != new[name]])


def _check_of(secret: bytes) -> str:
    return blake2b(b"which key", key=secret, digest_size=8).hexdigest()


def _code() -> str:
    sources = [Path(module.__file__) for module in (card, clean, clicklog, pictures)] + [Path(__file__)]
    return blake2b(b"".join(path.read_bytes() for path in sources), digest_size=16).hexdigest()


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("duckdb", "matplotlib", "numpy", "pillow", "pyarrow")}


def dataset_config(values: dict[str, Any]) -> DatasetConfig:
    """The config that a build wrote down."""
    return DatasetConfig(
        **{
            part.name: part.default_factory(
                **{n: tuple(v) if isinstance(v, list) else v for n, v in values[part.name].items()}
            )
            for part in fields(DatasetConfig)
        }
    )


def _run(what: str, task: Any, arguments: list[Any], sizes: list[int], execute: Execute, progress: Progress) -> None:
    with progress(what, sum(sizes)) as bar:
        for done in execute(task, arguments):
            bar.advance(by=done)


def _write_table(path: Path, table: pa.Table) -> None:
    write_whole(path, lambda p: pq.write_table(table, p, compression="zstd", write_page_checksum=True))


def _list_dropped(plan: Plan, name: str, file: int | Any, places: Ids, codes: Codes) -> None:
    """Lists dropped rows: the number of the file in its table, the row or line in it, and the reason."""
    lost = np.flatnonzero(codes)
    lost = lost[np.argsort(places[lost], kind="stable")] if isinstance(file, int) else lost
    files = np.full(len(lost), file, np.int32) if isinstance(file, int) else file[lost].astype(np.int32)
    reasons = pa.DictionaryArray.from_arrays(pa.array(codes[lost].astype(np.int32)), pa.array(NAMES))
    listed = pa.table({"file": files, "place": places[lost], "reason": reasons})
    _write_table(plan.folder / "dropped" / f"{name}.parquet", listed)


def _count(codes: Codes) -> dict[str, int]:
    counts = np.bincount(codes, minlength=len(NAMES))
    return {name: int(count) for name, count in zip(NAMES, counts, strict=True) if count and name != "kept"}


def _count_all(plan: Plan, marks: list[Path]) -> Counter[str]:
    total: Counter[str] = Counter()
    for mark in marks:
        total.update(_load(mark)["reasons"])
    return total


def _refuse_if_broken(plan: Plan, table: str, marks: list[Path]) -> None:
    """Stops where too many rows of a table are malformed: then more likely a column is mapped wrongly."""
    total, rows = _count_all(plan, marks), sum(_load(mark)["rows"] for mark in marks)
    broken = {reason: count for reason, count in total.items() if REASONS[reason].broken}
    most = plan.config.build.max_broken
    if sum(broken.values()) > most * rows:
        found = ", ".join(f"{reason} {count:,}" for reason, count in sorted(broken.items(), key=lambda item: -item[1]))
        raise ValueError(
            f"{table}: {sum(broken.values()):,} of {rows:,} rows are malformed ({found}), expected at most {most:.0%}: "
            "see `uniadgen data validate`, map the columns, or raise build.max_broken in another folder"
        )


def _mark(plan: Plan, step: str, number: int) -> Path:
    return plan.work(f"{step}-{number:05d}.json")


def _marks(plan: Plan, step: str) -> list[Path]:
    return sorted(plan.work("").glob(f"{step}-*.json"))


def _forgotten(folder: Path) -> Ids:
    path = folder / "forgotten.json"
    return np.array(_load(path)["users"] if path.exists() else [], np.int64)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, lambda: blake2b(digest_size=16)).hexdigest()


def _load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _save(path: Path, values: Any) -> None:
    write_whole(path, lambda p: p.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8"))
