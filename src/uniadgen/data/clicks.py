"""The clicks' part of a build: partition brings each user's clicks together, select draws targets and histories."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from uniadgen.data import clean, clicklog
from uniadgen.data.catalogue import DROPPED, UNKNOWN, find_rows
from uniadgen.data.clean import CODE
from uniadgen.data.clicklog import Ids, Piece, open_parquet
from uniadgen.data.executor import Execute
from uniadgen.data.plan import (
    Plan,
    Progress,
    counted,
    forgotten_users,
    list_dropped,
    load,
    mark_of,
    marks_of,
    refuse_if_broken,
    run_tasks,
    save,
    write_table,
)
from uniadgen.data.whole import write_whole
from uniadgen.world.counters import What, below, bits

SPLITS = ("train", "validation", "test")


def partition_clicks(plan: Plan, execute: Execute, progress: Progress) -> None:
    """Impossible events go, users become pseudonyms, and the clicks of each user come together in one bucket."""
    pieces = plan.of("events")
    run_tasks(
        "clicks", partition_task, [(plan, piece) for piece in pieces], [p.rows for p in pieces], execute, progress
    )
    refuse_if_broken(plan, "events", marks_of(plan, "partition"))


def forget_users(plan: Plan, execute: Execute, progress: Progress) -> None:
    """Users who were deleted from this dataset leave the clicks that were already partitioned."""
    path = plan.folder / "forgotten.json"
    if not path.exists() or load(path)["done"]:
        return
    users = forgotten_users(plan.folder)
    for bucket in set(bucket_of(users, plan.num_buckets).tolist()):
        plan.work(f"count-{bucket:05d}.npy").unlink(missing_ok=True)
    for mark in marks_of(plan, "partition"):
        entry = load(mark)
        gone = [_without(plan, part["name"], users)[1] for part in entry["parts"]]
        if not sum(map(len, gone)) and not _is_stale(plan, entry):
            continue
        name = f"events-{mark.stem.removeprefix('partition-')}"
        listed = pq.read_table(plan.folder / "dropped" / f"{name}.parquet")
        reasons = dict(zip(listed["place"].to_pylist(), listed["reason"].to_pylist(), strict=True))
        reasons |= dict.fromkeys(np.concatenate(gone).tolist(), "forgotten_user")
        codes = np.array([CODE[reason] for reason in reasons.values()], np.uint8)
        list_dropped(plan, name, entry["file"], np.array(list(reasons), np.int64), codes)
        for part in entry["parts"]:
            part |= _write_part(plan, part["name"], part["file"], _without(plan, part["name"], users)[0])
        save(mark, entry | {"reasons": counted(codes)})
    save(path, {"users": users.tolist(), "done": True})


def count_users(plan: Plan, execute: Execute, progress: Progress) -> None:
    """With `build.min_users` above 1: which creatives were clicked by so many users."""
    path = plan.work("frequent.npy")
    num_creatives = len(np.load(plan.work("creatives.key.npy"), mmap_mode="r"))
    if plan.config.build.min_users == 1:
        return
    arguments, sizes = _buckets(plan)
    run_tasks("users per creative", count_task, arguments, sizes, execute, progress)
    counts = np.zeros(num_creatives, np.int64)
    for bucket in range(plan.num_buckets):
        rows, users = np.load(plan.work(f"count-{bucket:05d}.npy"))
        counts[rows] += users
    write_whole(path, lambda file: np.save(file, counts >= plan.config.build.min_users))


def select_samples(plan: Plan, execute: Execute, progress: Progress) -> None:
    """Inactive users go; of every other one, one random click is the target and the others are the history."""
    arguments, sizes = _buckets(plan)
    run_tasks("samples", select_task, arguments, sizes, execute, progress)


_NONE, _NO_CODES = np.array([], np.int64), np.array([], np.uint8)


_CLICK_COLUMNS = ("user", "creative", "time", "place")


def partition_task(plan: Plan, piece: Piece) -> int:
    """Reads and cleans events, makes pseudonyms, and writes clicks clustered by bucket: one row group for each."""
    mark = mark_of(plan, "partition", piece.number)
    if mark.exists():
        return piece.rows
    forgotten = forgotten_users(plan.folder)
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
        clicks = (events.users[kept], rows[kept].astype(np.int64), events.times[kept], block.places[kept])
        parts.append(_write_part(plan, f"clicks-{piece.number:05d}-{number:03d}.parquet", piece.file, clicks))
    places, codes = (np.concatenate(columns) for columns in zip(*listed, strict=True)) if listed else (_NONE, _NO_CODES)
    list_dropped(plan, f"events-{piece.number:05d}", piece.file, places, codes)
    save(mark, {"file": piece.file, "rows": len(codes), "reasons": counted(codes), "parts": parts})
    return piece.rows


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
    return {"name": name, "file": file, "counts": counts.tolist(), "digests": [_content_of(group) for group in groups]}


def _write_groups(path: Path, tables: list[pa.Table]) -> None:
    """One row group for each table that has rows; pages carry checksums."""

    def write(partial: Path) -> None:
        with pq.ParquetWriter(partial, tables[0].schema, compression="zstd", write_page_checksum=True) as writer:
            for table in tables:
                if len(table):
                    writer.write_table(table, row_group_size=len(table))

    write_whole(path, write)


def _content_of(columns: list[Ids]) -> str:
    digest = blake2b(digest_size=16)
    for column in columns:
        digest.update(column.tobytes())
    return digest.hexdigest()


class _Part(NamedTuple):
    """One bucket's clicks of one part: a row group of a file of ours."""

    name: str
    file: int  # of the log
    group: int
    rows: int
    digest: str


def _buckets(plan: Plan) -> tuple[list[tuple[Plan, int, tuple[_Part, ...]]], list[int]]:
    """The tasks of all buckets, and how many clicks each has; a task is told its parts, so marks are read just once."""
    inside: list[list[_Part]] = [[] for _ in range(plan.num_buckets)]
    for mark in marks_of(plan, "partition"):
        for part in load(mark)["parts"]:
            filled = np.flatnonzero(part["counts"]).tolist()
            for group, bucket in enumerate(filled):
                rows, digest = part["counts"][bucket], part["digests"][bucket]
                inside[bucket].append(_Part(part["name"], part["file"], group, rows, digest))
    arguments = [(plan, bucket, tuple(parts)) for bucket, parts in enumerate(inside)]
    return arguments, [sum(part.rows for part in parts) for parts in inside]


def read_bucket(plan: Plan, parts: tuple[_Part, ...]) -> pa.Table:
    """The clicks of one bucket's users: user, creative (its row), time, place and file (where the log has them)."""
    tables = []
    for part in parts:
        table = _read_group(plan.work(part.name), part.group)
        if _content_of([table[name].to_numpy() for name in _CLICK_COLUMNS]) != part.digest:
            raise ValueError(f"{plan.work(part.name)}: damaged since it was written: delete the folder and build again")
        tables.append(table.append_column("file", pa.array(np.full(len(table), part.file, np.int64))))
    empty = pa.schema([(name, pa.int64()) for name in (*_CLICK_COLUMNS, "file")]).empty_table()
    return pa.concat_tables(tables, promote_options="permissive").combine_chunks() if tables else empty


def _read_group(path: Path, group: int) -> pa.Table:
    try:
        return open_parquet(path).read_row_group(group, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: damaged since it was written ({error}): delete the folder and build again") from None


def count_task(plan: Plan, bucket: int, parts: tuple[_Part, ...]) -> int:
    """How many users of a bucket clicked each creative."""
    path = plan.work(f"count-{bucket:05d}.npy")
    if not path.exists():
        clicks = read_bucket(plan, parts)
        pairs = np.unique(np.stack([clicks["creative"].to_numpy(), clicks["user"].to_numpy()]), axis=1)
        counts = np.stack(np.unique(pairs[0], return_counts=True)).astype(np.int64)
        write_whole(path, lambda file: np.save(file, counts))
    return sum(part.rows for part in parts)


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


def select_task(plan: Plan, bucket: int, parts: tuple[_Part, ...]) -> int:
    """Draws one bucket's targets and histories. Its outcome is kept as long as the clicks it came from are the same."""
    mark, frequent = mark_of(plan, "select", bucket), None
    digest = blake2b(json.dumps([[part.name, part.digest] for part in parts]).encode())
    if plan.config.build.min_users > 1:
        frequent = np.load(plan.work("frequent.npy"), mmap_mode="r")
        digest.update(frequent)
    inputs = digest.hexdigest()
    num_clicks = sum(part.rows for part in parts)
    if mark.exists() and load(mark)["inputs"] == inputs:
        return num_clicks
    clicks, build = read_bucket(plan, parts), plan.config.build
    creatives = clicks["creative"].to_numpy()
    keys = np.load(plan.work("creatives.key.npy"), mmap_mode="r")[creatives]
    draws = bits(build.seed, What.DATASET_TARGET, clicks["user"].to_numpy(), keys).view(np.int64)
    columns = {"key": keys, "draw": draws}
    columns["frequent"] = np.ones(len(clicks), bool) if frequent is None else frequent[creatives]
    for name, column in columns.items():
        clicks = clicks.append_column(name, pa.array(column))
    samples, lost = _select(plan, clicks)
    users, chosen, content = _samples(samples, build.seed, build.validation_share, build.test_share)
    write_table(plan.folder / "samples" / f"{bucket:05d}.parquet", chosen)
    codes = lost["reason"].astype(np.uint8)
    list_dropped(plan, f"samples-{bucket:05d}", lost["file"], lost["place"], codes)
    save(mark, {"inputs": inputs, "samples": users, "reasons": counted(codes), "content": content})
    return num_clicks


def _select(plan: Plan, clicks: pa.Table) -> tuple[dict[str, Any], dict[str, Any]]:
    """The kernel's two answers as arrays: samples, one row for each click in them; and dropped clicks."""
    build = plan.config.build
    values = CODE | _PARTS | {"before": build.history_scope == "before_target", "min_clicks": build.min_clicks}
    values |= {"max_history": build.max_history or 2**62}
    with spilling(plan) as settings, duckdb.connect(":memory:", config=settings) as database:
        database.execute("SET enable_progress_bar = false")  # it would draw into our own
        database.register("clicks", clicks)
        try:
            database.execute(KERNEL.format(**values))
            samples, lost = (database.execute(query.format(**values)).fetchnumpy() for query in (SAMPLES, LOST))
        except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
            said = str(error).splitlines()[0]
            raise OSError(
                f"{plan.work('')}: {said}: free some disk, or raise build.memory_mb ({build.memory_mb})"
            ) from None
        return samples, lost


@contextmanager
def spilling(plan: Plan) -> Iterator[dict[str, Any]]:
    """DuckDB's settings: one thread, little memory, and a folder of its own to spill to."""
    folder = Path(tempfile.mkdtemp(prefix="spill-", dir=plan.work("")))
    try:
        limit = f"{plan.config.build.memory_mb}MB"
        yield {"threads": 1, "memory_limit": limit, "temp_directory": str(folder)}
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
        content.append(
            int(bits(lane, What.DATASET_CONTENT, keys[target], split, sums.view(np.int64)).sum(dtype=np.uint64))
        )
    return len(owners), pa.table(table), content


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
