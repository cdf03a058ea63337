"""A click log and its catalogue as they come: Parquet, CSV or JSONL, columns under any name, rows good or bad.

A log is a folder with three tables, each one file (`events.parquet`) or one folder of files (`events/*.parquet`):

    events     user_id, creative_id, timestamp, event
    creatives  creative_id, product_id, image, text
    products   product_id, description, selling_points, image?, category?

Reading tells rows from lines that are none; which rows are good is the business of `clean`.
"""

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from uniadgen.config import DatasetConfig, nearest

Ids = NDArray[np.int64]

TABLES = ("products", "creatives", "events")
ENDINGS = (".parquet", ".csv", ".jsonl")
OPTIONAL = (("products", "image"), ("products", "category"))
BLOCK = 100_000  # lines of a CSV or JSONL file that are turned into columns at once
BLOCK_BYTES = 64_000_000  # rows of a catalogue that are held at once, if these are fewer: titles may be very long
_NOWHERE = np.array([], np.int64)
LONGEST_LINE = 10_000_000  # characters; a longer line of CSV or JSONL is no row


@dataclass(frozen=True)
class Piece:
    """What one task reads: a file, or some row groups of a Parquet file (first <= group < last)."""

    table: str
    number: int  # in its table
    path: str
    file: int  # number of the file in its table
    first: int
    last: int
    before: int  # rows of the file before this piece
    rows: int  # in Parquet exact; in CSV and JSONL a guess from the file's size


class Block(NamedTuple):
    """Rows that were read: their columns under our names, and where each stands in its file."""

    places: Ids  # Parquet: row, from 0; CSV, JSONL: line, from 1
    columns: dict[str, pa.Array]
    unreadable: Ids  # places of lines that are no rows


def files_of(log: Path, table: str) -> list[Path]:
    """The files of one table, in order of their names. Raises `ValueError` when there are none or two tables."""
    found = [log / f"{table}{ending}" for ending in ENDINGS if (log / f"{table}{ending}").is_file()]
    if (log / table).is_dir():
        found.append(log / table)
    if len(found) != 1:
        names = ", ".join(str(path) for path in found) or "nothing"
        raise ValueError(f"{log}: got {names} for {table}, expected one of {table}.parquet, .csv, .jsonl or {table}/")
    if found[0].is_file():
        return found
    inside = sorted(path for path in found[0].rglob("*") if path.is_file() and path.name[0] not in "._")
    wrong = [path for path in inside if path.suffix not in ENDINGS]
    if wrong or not inside:
        raise ValueError(
            f"{wrong[0] if wrong else found[0]}: got no table, expected files ending in {', '.join(ENDINGS)}"
        )
    return inside


def columns_of(config: DatasetConfig, table: str) -> dict[str, str]:
    """Our name -> the log's own name, of the columns that are mapped."""
    mapped = getattr(config, table)
    return {field.name: getattr(mapped, field.name) for field in fields(mapped) if getattr(mapped, field.name)}


def present_columns(path: Path, table: str, config: DatasetConfig) -> dict[str, str]:
    """The mapped columns that a file has; `ValueError` names one that is missing and must not be."""
    wanted, there = columns_of(config, table), _names(path)
    for name, own in wanted.items():
        if own not in there and (table, name) not in OPTIONAL:
            hint = nearest(own, there)
            none = f" (or --set {table}.event= where every row is a click)" if name == "event" else ""
            raise ValueError(f"{path}: no column {own!r}{hint}: map it with --set {table}.{name}=...{none}")
    return {name: own for name, own in wanted.items() if own in there}


def _names(path: Path) -> list[str]:
    if path.suffix == ".parquet":
        return list(open_parquet(path).schema_arrow.names)
    if path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            return next(csv.reader(file), [])
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        row = _json_row(file.readline(LONGEST_LINE))
    return list(row) if row is not None else []


def open_parquet(path: Path) -> pq.ParquetFile:
    """Opens a Parquet file, whose page checksums are verified; `ValueError` when it is damaged."""
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except pa.ArrowException as error:
        raise ValueError(f"{path}: damaged, no Parquet file ({error}): write it again or take it out") from None


def pieces_of(log: Path, table: str, config: DatasetConfig) -> list[Piece]:
    """Cuts a table into pieces of about `build.rows_per_task` rows. Raises `ValueError` for missing columns."""
    pieces: list[Piece] = []
    for number, path in enumerate(files_of(log, table)):
        present_columns(path, table, config)
        if path.suffix != ".parquet":
            rows = path.stat().st_size // 64
            pieces.append(Piece(table, len(pieces), str(path), number, 0, 0, 0, rows))
            continue
        metadata = open_parquet(path).metadata
        first = before = rows = 0
        for group in range(metadata.num_row_groups):
            size = metadata.row_group(group).num_rows
            if rows and rows + size > config.build.rows_per_task:
                pieces.append(Piece(table, len(pieces), str(path), number, first, group, before, rows))
                first, before, rows = group, before + rows, 0
            rows += size
        pieces.append(Piece(table, len(pieces), str(path), number, first, metadata.num_row_groups, before, rows))
    return pieces


def read(piece: Piece, config: DatasetConfig, only: Sequence[str] = ()) -> Iterator[Block]:
    """The rows of a piece in blocks of at most `build.rows_per_task`; `only`: our names of the columns wanted.

    Raises `ValueError` for a file that is damaged.
    """
    path = Path(piece.path)
    columns = present_columns(path, piece.table, config)
    if only:
        columns = {name: own for name, own in columns.items() if name in only}
    if path.suffix == ".parquet":
        blocks = _read_parquet(piece, columns, config.build.rows_per_task)
    else:
        lines = _csv_rows(path) if path.suffix == ".csv" else _json_rows(path)
        blocks = _read_lines(lines, columns, min(BLOCK, config.build.rows_per_task), config.build.points_separator)
    empty = Block(_NOWHERE, {name: pa.array([], pa.string()) for name in columns}, _NOWHERE)
    yield from chain([next(blocks, empty)], blocks)


def _read_parquet(piece: Piece, columns: Mapping[str, str], size: int) -> Iterator[Block]:
    file, start = open_parquet(Path(piece.path)), piece.before
    groups = list(range(piece.first, piece.last))
    if piece.table != "events":
        width = sum(file.metadata.row_group(group).total_byte_size for group in groups) // max(1, piece.rows)
        size = max(1, min(size, BLOCK_BYTES // max(1, width)))
    try:
        for batch in file.iter_batches(size, row_groups=groups, columns=list(columns.values()), use_threads=False):
            places = np.arange(start, start + batch.num_rows)
            start += batch.num_rows
            arrays = {name: _decoded(batch.column(own)) for name, own in columns.items()}
            yield Block(places, arrays, _NOWHERE)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{piece.path}: damaged after row {start} ({error}): write it again or take it out") from None


def _decoded(column: Any) -> Any:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


_Line = tuple[int, dict[str, Any] | None]


def _csv_rows(path: Path) -> Iterator[_Line]:
    csv.field_size_limit(LONGEST_LINE)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        names = next(reader, [])
        while True:
            line = reader.line_num + 1  # a quoted field may go on over several lines
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error:
                yield line, None
                continue
            if values:  # an empty line is no row and no fault
                good = len(values) == len(names) and _is_unicode("".join(values))
                yield line, dict(zip(names, values, strict=True)) if good else None


def _json_rows(path: Path) -> Iterator[_Line]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for line, text in enumerate(iter(lambda: file.readline(LONGEST_LINE), ""), start=1):
            if text.strip():
                yield line, _json_row(text)


def _json_row(text: str) -> dict[str, Any] | None:
    try:
        row = json.loads(text) if _is_unicode(text) else None
    except (json.JSONDecodeError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_lines(lines: Iterator[_Line], columns: Mapping[str, str], size: int, separator: str) -> Iterator[Block]:
    while True:
        places, unreadable, values, room = [], [], {name: [] for name in columns}, BLOCK_BYTES
        for place, row in lines:
            cells = None if row is None else {name: _cell(name, row.get(own)) for name, own in columns.items()}
            if cells is None or any(cell is _WRONG for cell in cells.values()):
                unreadable.append(place)
            else:
                places.append(place)
                for name, cell in cells.items():
                    values[name].append(cell)
                    room -= len(cell or "")
            if len(places) + len(unreadable) == size or room < 0:
                break
        if not places and not unreadable:
            return
        columns_read = {
            name: pa.array(cells, pa.string()) for name, cells in values.items() if name != "selling_points"
        }
        if "selling_points" in values:
            points = [cell.split(separator) if isinstance(cell, str) else cell for cell in values["selling_points"]]
            columns_read["selling_points"] = pa.array(points, pa.list_(pa.string()))
        yield Block(np.array(places, np.int64), columns_read, np.array(unreadable, np.int64))


_WRONG = object()


def _cell(name: str, value: Any) -> Any:
    """A cell of a CSV or JSONL row as text (selling points: also as a list of texts); empty is missing."""
    if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if name == "selling_points" and isinstance(value, list):
        return value if all(isinstance(point, str) and _is_unicode(point) for point in value) else _WRONG
    if isinstance(value, str):
        return value if _is_unicode(value) else _WRONG
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else _WRONG
