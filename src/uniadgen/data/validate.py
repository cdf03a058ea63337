"""What is wrong with a click log, column by column, and what a build will do about it: a build that is thrown away."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from uniadgen.config import DatasetConfig
from uniadgen.data import clicklog
from uniadgen.data.build import build
from uniadgen.data.catalogue import PICTURES_PER_TASK
from uniadgen.data.clean import REASONS, column_at_fault, pc
from uniadgen.data.clicklog import TABLES
from uniadgen.data.cutting import LOOKS, ReadPictures
from uniadgen.data.executor import Execute
from uniadgen.data.plan import Progress
from uniadgen.data.stages import Stage, fill, key_of, read_all

EXAMPLES = 3  # shown for each finding
_LONGEST = 40  # characters shown of a value
_Places = dict[int, dict[int, str]]  # file -> row or line -> reason


@dataclass(frozen=True)
class Finding:
    """One reason for which rows of a table are dropped."""

    table: str
    column: str  # our name; empty where the whole row is at fault
    reason: str
    rows: int
    of: int  # rows of the table
    examples: tuple[str, ...]  # file, row (Parquet) or line (CSV, JSONL), and the value there

    @property
    def meaning(self) -> str:
        """What is wrong, and what becomes of such rows."""
        kept = (self.table, self.column) == ("products", "image")
        does = "keeps it, `data prepare` leaves its targets out" if kept else "drops"
        return f"{does}: {self.reason}: {REASONS[self.reason].meaning}"


def findings(log: Path, config: DatasetConfig, execute: Execute, progress: Progress) -> list[Finding]:
    """Builds in a temporary folder, however much is malformed, and tells what was dropped; tables in their order.

    Raises `ValueError` where no build is possible: tables or columns missing, files damaged.
    """
    tolerant = replace(config, build=replace(config.build, max_broken=1.0))
    with TemporaryDirectory(prefix="uniadgen-validate-") as folder:
        manifest = build(log, Path(folder), tolerant, b"a key for one look", execute, progress)
        found = []
        for table in TABLES:
            examples = _examples(log, Path(folder) / "dropped", table, config)
            for reason, rows in sorted(manifest["dropped"][table].items(), key=lambda item: -item[1]):
                column, shown = column_at_fault(table, reason), tuple(examples.get(reason, ()))
                found.append(Finding(table, column, reason, rows, manifest["read"][table], shown))
            if table == "products" and config.build.pictures == "check":
                found += _cutouts(log, Path(folder), config, execute, progress)
    return found


def _cutouts(log: Path, folder: Path, config: DatasetConfig, execute: Execute, progress: Progress) -> list[Finding]:
    """What is wrong with the transparent pictures of products, which a build does not look at."""
    stage = Stage("products: pictures", folder / "cut-outs", LOOKS, ReadPictures(log, config.build), PICTURES_PER_TASK)
    fill(stage, {key_of(name): name for _, name in _own_pictures(log, config) if name}, execute, progress)
    read = {key: look["fault"] for key, look in read_all(stage.folder, "fault").items()}
    count, faults, examples = 0, Counter[str](), dict[str, list[str]]()
    for count, (place, name) in enumerate(_own_pictures(log, config), start=1):  # noqa: B007
        if name and (fault := read.get(key_of(name), "missing_picture")):
            faults[fault] += 1
            if faults[fault] <= EXAMPLES:
                examples.setdefault(fault, []).append(f"{place} {name!r}")
    return [
        Finding("products", "image", fault, rows, count, tuple(examples[fault])) for fault, rows in faults.most_common()
    ]


def _own_pictures(log: Path, config: DatasetConfig) -> Iterator[tuple[str, str | None]]:
    """Every product's place and the name of its picture, if it has one."""
    for piece in clicklog.pieces_of(log, "products", config):
        for block in clicklog.read(piece, config):
            images = block.columns["image"].cast(pa.string()).to_pylist() if "image" in block.columns else []
            for place, name in zip_longest(block.places.tolist(), images):
                yield f"{Path(piece.path).name}:{place}", name


def _examples(log: Path, dropped: Path, table: str, config: DatasetConfig) -> dict[str, list[str]]:
    wanted: _Places = {}
    counts: dict[str, int] = {}
    for path in sorted(dropped.glob(f"{table}-*")) + (sorted(dropped.glob("samples-*")) if table == "events" else []):
        listed = pq.read_table(path)
        for reason in listed["reason"].unique().to_pylist():
            for row in _first(listed, reason, EXAMPLES - counts.get(reason, 0)):
                wanted.setdefault(row["file"], {})[row["place"]] = reason
                counts[reason] = counts.get(reason, 0) + 1
    shown: dict[str, list[str]] = {}
    for piece in clicklog.pieces_of(log, table, config):
        for place, reason, value in _values(piece, wanted.get(piece.file, {}), table, config):
            text = "" if value is _ROW else f" {value!r}"
            text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
            shown.setdefault(reason, []).append(f"{Path(piece.path).name}:{place}{text}")
    return shown


_ROW = object()


def _first(listed: Any, reason: str, most: int) -> list[dict[str, Any]]:
    return (
        listed.filter(pc.equal(listed["reason"].cast(pa.string()), reason)).slice(0, most).to_pylist()
        if most > 0
        else []
    )


def _values(
    piece: clicklog.Piece, wanted: dict[int, str], table: str, config: DatasetConfig
) -> Iterator[tuple[int, str, Any]]:
    if not wanted:
        return
    for block in clicklog.read(piece, config):
        rows = {int(place): row for row, place in enumerate(block.places.tolist())} if wanted else {}
        for place in sorted(wanted.keys() & rows.keys()):
            column = column_at_fault(table, wanted[place])
            yield place, wanted[place], block.columns[column][rows[place]].as_py() if column else _ROW
        for place in sorted(wanted.keys() & set(block.unreadable.tolist())):
            yield place, wanted[place], _ROW


def table_of(found: list[Finding]) -> Table:
    """The findings for a terminal."""
    shown = Table()
    for name in ("column", "rows", "what build does", "examples (file:row or line, value)"):
        shown.add_column(name, overflow="fold")  # a narrow terminal hides nothing
    for finding in found:
        column = f"{finding.table}.{finding.column}".rstrip(".")
        rows = f"{finding.rows:,} ({finding.rows / max(1, finding.of):.2%})"
        shown.add_row(column, rows, finding.meaning, "\n".join(finding.examples))
    return shown
