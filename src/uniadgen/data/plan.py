"""What all tasks of one build know, how their files appear, and what holds a folder to one build."""

import fcntl
import importlib.metadata
import json
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from uniadgen.config import DatasetConfig
from uniadgen.data import clicklog
from uniadgen.data.clean import NAMES, REASONS, Codes
from uniadgen.data.clicklog import TABLES, Ids, Piece
from uniadgen.data.executor import Execute
from uniadgen.data.whole import write_whole
from uniadgen.world import counters


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
    _claim(folder)
    for name in ("work", "samples", "dropped", "products", "creatives"):
        (folder / name).mkdir(exist_ok=True)
    sizes = [path.stat().st_size for _, path in files]
    run_tasks("inputs (bytes)", hash_task, [(plan, str(path)) for _, path in files], sizes, execute, progress)
    inputs = [
        {"table": table, "file": str(path.relative_to(log)), **load(_hash_path(plan, str(path)))}
        for table, path in files
    ]
    now = {"config": json.loads(json.dumps(asdict(config))), "inputs": inputs, "num_buckets": num_buckets}
    now |= {"secret": check_of(secret), "code": _code(), "versions": _versions()}
    path = folder / "build.json"
    if path.exists():
        changed = _changes(load(path), now)
        if changed:
            raise ValueError(
                f"{folder} holds another build ({changed} changed): choose another folder, or delete this one"
            )
    else:
        save(path, now)
    return plan


def hash_task(plan: Plan, path: str) -> int:
    """Hashes an input file, anew in every build: a file that changed must not go unseen."""
    file = Path(path)
    save(_hash_path(plan, path), {"bytes": file.stat().st_size, "blake2b": digest_of(file)})
    return file.stat().st_size


def _hash_path(plan: Plan, path: str) -> Path:
    return plan.work(f"input-{blake2b(path.encode(), digest_size=8).hexdigest()}.json")


def _claim(folder: Path) -> None:
    """Removes what a killed build left half written. Raises `ValueError` for a folder of something else."""
    there = {path.name for path in folder.iterdir()} - {".lock"}
    if there - {"work"} and "build.json" not in there and not {"work", "samples", "dropped"} <= there:
        raise ValueError(f"{folder}: is not empty and holds no dataset: choose another folder")
    sweep(folder)


def sweep(folder: Path) -> None:
    """Removes what killed processes left half written; none of this build's may be running."""
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


def check_of(secret: bytes) -> str:
    return blake2b(b"which key", key=secret, digest_size=8).hexdigest()


def _code() -> str:
    here, world = Path(__file__).parent, Path(counters.__file__)
    sources = [
        here / f"{name}.py" for name in ("build", "card", "catalogue", "clean", "clicklog", "clicks", "pictures")
    ]
    return blake2b(
        b"".join(path.read_bytes() for path in [*sources, Path(__file__), world]), digest_size=16
    ).hexdigest()


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("duckdb", "matplotlib", "numpy", "pillow", "pyarrow")}


def run_tasks(
    what: str, task: Any, arguments: list[Any], sizes: list[int], execute: Execute, progress: Progress
) -> None:
    with progress(what, sum(sizes)) as bar:
        for done in execute(task, arguments):
            bar.advance(by=done)


def write_table(path: Path, table: pa.Table) -> None:
    write_whole(path, lambda p: pq.write_table(table, p, compression="zstd", write_page_checksum=True))


def list_dropped(plan: Plan, name: str, file: int | Any, places: Ids, codes: Codes) -> None:
    """Lists dropped rows: the number of the file in its table, the row or line in it, and the reason."""
    lost = np.flatnonzero(codes)
    lost = lost[np.argsort(places[lost], kind="stable")] if isinstance(file, int) else lost
    files = np.full(len(lost), file, np.int32) if isinstance(file, int) else file[lost].astype(np.int32)
    reasons = pa.DictionaryArray.from_arrays(pa.array(codes[lost].astype(np.int32)), pa.array(NAMES))
    listed = pa.table({"file": files, "place": places[lost], "reason": reasons})
    write_table(plan.folder / "dropped" / f"{name}.parquet", listed)


def counted(codes: Codes) -> dict[str, int]:
    counts = np.bincount(codes, minlength=len(NAMES))
    return {name: int(count) for name, count in zip(NAMES, counts, strict=True) if count and name != "kept"}


def count_all(marks: list[Path]) -> Counter[str]:
    total: Counter[str] = Counter()
    for mark in marks:
        total.update(load(mark)["reasons"])
    return total


def refuse_if_broken(plan: Plan, table: str, marks: list[Path]) -> None:
    """Stops where too many rows of a table are malformed: then more likely a column is mapped wrongly."""
    total, rows = count_all(marks), sum(load(mark)["rows"] for mark in marks)
    broken = {reason: count for reason, count in total.items() if REASONS[reason].broken}
    most = plan.config.build.max_broken
    if sum(broken.values()) > most * rows:
        found = ", ".join(f"{reason} {count:,}" for reason, count in sorted(broken.items(), key=lambda item: -item[1]))
        raise ValueError(
            f"{table}: {sum(broken.values()):,} of {rows:,} rows are malformed ({found}), expected at most {most:.0%}: "
            "see `uniadgen data validate`, map the columns, or raise build.max_broken in another folder"
        )


def mark_of(plan: Plan, step: str, number: int) -> Path:
    return plan.work(f"{step}-{number:05d}.json")


def marks_of(plan: Plan, step: str) -> list[Path]:
    return sorted(plan.work("").glob(f"{step}-*.json"))


def forgotten_users(folder: Path) -> Ids:
    path = folder / "forgotten.json"
    return np.array(load(path)["users"] if path.exists() else [], np.int64)


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, lambda: blake2b(digest_size=16)).hexdigest()


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def save(path: Path, values: Any) -> None:
    write_whole(path, lambda p: p.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8"))
