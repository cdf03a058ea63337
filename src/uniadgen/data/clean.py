"""Which rows of a click log are kept, and why each of the others is not.

A row that is dropped gets the first of `REASONS` that fits; it is counted and listed, never repaired, never replaced.
"""

import datetime
import re
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from uniadgen.config import BuildConfig
from uniadgen.data.clicklog import Block, Ids
from uniadgen.world.counters import What, bits

pc: Any = pyarrow.compute  # makes its functions when it is imported, unseen by type checkers
Flags = NDArray[np.bool_]
Codes = NDArray[np.uint8]


class Reason(NamedTuple):
    """Why a row is dropped: the table and column at fault, what is wrong, and whether the file is to blame."""

    table: str
    column: str  # or id, words: `column_at_fault` tells the column of a table
    meaning: str
    broken: bool = False  # malformed, rather than merely not wanted


REASONS: dict[str, Reason] = {
    "unreadable": Reason("every table", "", "the line is no row: wrong number of fields, no JSON, not UTF-8", True),
    "no_user": Reason("events", "user_id", "missing", True),
    "fractional_user": Reason("events", "user_id", "a number that is not whole", True),
    "no_creative": Reason("events", "creative_id", "missing", True),
    "fractional_creative": Reason("events", "creative_id", "a number that is not whole", True),
    "no_time": Reason("events", "timestamp", "missing or no time", True),
    "impossible_time": Reason("events", "timestamp", "before build.earliest, or at or after build.latest", True),
    "not_a_click": Reason("events", "event", "another event than build.click_event"),
    "forgotten_user": Reason("events", "user_id", "a user who was deleted from this dataset"),
    "unknown_creative": Reason("events", "creative_id", "not in the table of creatives"),
    "dropped_creative": Reason("events", "creative_id", "in the table of creatives, but dropped there"),
    "duplicate": Reason("events", "", "the same user, creative and second once more"),
    "repeated": Reason("events", "", "a later click of the same user on the same creative: the first one counts"),
    "rare_creative": Reason("events", "creative_id", "clicked by fewer users than build.min_users"),
    "inactive_user": Reason("events", "user_id", "too few different creatives clicked: build.min_clicks"),
    "after_target": Reason("events", "timestamp", "later than the target (build.history_scope = before_target)"),
    "older_than_history": Reason("events", "timestamp", "beyond the build.max_history most recent clicks"),
    "no_id": Reason("creatives, products", "id", "missing", True),
    "fractional_id": Reason("creatives, products", "id", "a number that is not whole", True),
    "duplicate_id": Reason("creatives, products", "id", "the id of an earlier row, which stays", True),
    "no_product": Reason("creatives", "product_id", "missing or no whole number", True),
    "unknown_product": Reason("creatives", "product_id", "not in the table of products"),
    "dropped_product": Reason("creatives", "product_id", "in the table of products, but dropped there"),
    "no_text": Reason("creatives, products", "words", "missing or blank", True),
    "undecodable_text": Reason("creatives, products", "words", "not UTF-8", True),
    "long_text": Reason("creatives, products", "words", "longer than build.max_characters", True),
    "no_selling_points": Reason("products", "selling_points", "none that is not blank", True),
    "long_selling_point": Reason("products", "selling_points", "one is longer than build.max_characters", True),
    "denied_category": Reason("products", "category", "in build.deny_categories"),
    "no_picture": Reason("creatives", "image", "missing", True),
    "missing_picture": Reason("creatives", "image", "no such file, or it could not be fetched", True),
    "forbidden_picture": Reason(
        "creatives", "image", "outside the pictures' folder, or a host not in build.allow_hosts"
    ),
    "large_picture": Reason("creatives", "image", "more bytes than build.max_picture_bytes, or too many pixels", True),
    "damaged_picture": Reason("creatives", "image", "cut short, or no picture", True),
}
NAMES = ("kept", *REASONS)
CODE = {name: code for code, name in enumerate(NAMES)}


def column_at_fault(table: str, reason: str) -> str:
    """Our name of the column that a reason is about; empty where it is about the whole row."""
    column = REASONS[reason].column
    columns = {"products": ("product_id", "description"), "creatives": ("creative_id", "text")}
    return columns[table][column == "words"] if column in ("id", "words") else column


def first_reason(num_rows: int, *reasons: tuple[str, Flags]) -> Codes:
    """`CODE` of the first reason that fits each row; 0 where none does."""
    codes = np.zeros(num_rows, np.uint8)
    for name, fits in reversed(reasons):
        codes[fits] = CODE[name]
    return codes


class Identities(NamedTuple):
    """Ids as 64-bit keys; where one is missing or no whole number, its key means nothing."""

    keys: Ids
    missing: Flags
    fractional: Flags


_WHOLE, _AND_NOTHING = r"\A-?(?:0|[1-9][0-9]{0,17})(?:[.]0)?\z", r"[.]0\z"  # as RE2 spells them


def identities(column: Any, secret: bytes = b"") -> Identities:
    """Keys of an id column (Arrow): of users BLAKE2b keyed with `secret`, of creatives and products without one.

    42, 42.0 and "42" are the same id; any other text is an id as it is spelt. Raises `ValueError` for other types.
    """
    if pa.types.is_floating(column.type):
        values = column.to_numpy(zero_copy_only=False)
        missing = np.isnan(values)
        whole = np.isfinite(values) & (np.floor(values) == values) & (np.abs(values) < 2.0**53)
        column = pa.array(np.where(whole, values, 0).astype(np.int64))
        return Identities(identities(column, secret).keys, missing, ~whole & ~missing)
    num_rows = len(column)
    missing = np.asarray(pc.is_null(column))
    if pa.types.is_integer(column.type) and not secret:
        numbers = pc.fill_null(column, 0).to_numpy(zero_copy_only=False).astype(np.int64)
        return Identities(_mixed(numbers), missing, np.zeros(num_rows, bool))
    kinds = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string, pa.types.is_null)
    if not any(kind(column.type) for kind in kinds):
        raise ValueError(f"an id column has the type {column.type}, expected whole numbers or text")
    encoded = pc.dictionary_encode(column if pa.types.is_integer(column.type) else column.cast(pa.string()))
    texts = encoded.dictionary.cast(pa.string())
    keys = np.append(_keys(texts, secret), 0)  # what is missing has no place in the dictionary: the last
    blank = np.append(np.asarray(pc.equal(pc.utf8_trim_whitespace(texts), "")), True)
    places = pc.fill_null(encoded.indices, len(texts)).to_numpy(zero_copy_only=False)
    return Identities(keys[places], missing | blank[places], np.zeros(num_rows, bool))


def _keys(texts: Any, secret: bytes) -> Ids:
    whole = pc.match_substring_regex(texts, _WHOLE)
    canonical = pc.if_else(whole, pc.replace_substring_regex(texts, _AND_NOTHING, ""), texts)
    if secret:
        return _hashes(canonical.to_pylist(), secret)
    numbers = np.asarray(whole)
    keys = np.empty(len(texts), np.int64)
    keys[numbers] = _mixed(canonical.filter(whole).cast(pa.int64()).to_numpy())
    keys[~numbers] = _hashes(canonical.filter(pc.invert(whole)).to_pylist(), secret)
    return keys


def _hashes(texts: list[str], secret: bytes) -> Ids:
    digests = b"".join([blake2b(text.encode(), digest_size=8, key=secret).digest() for text in texts])
    return np.frombuffer(digests, np.int64)


def _mixed(numbers: Ids) -> Ids:
    return bits(0, What.DATASET_ID, numbers).view(np.int64)


_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000}


def seconds(column: Any, unit: str) -> tuple[Ids, Flags]:
    """Times of an Arrow column as Unix seconds, and where there is none.

    Takes Arrow's timestamps and dates, numbers in `unit`, and texts: numbers or ISO 8601, in UTC if they name no zone.
    """
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        column = column.cast(pa.timestamp("s", getattr(kind, "tz", None)), safe=False).cast(pa.int64())
        return pc.fill_null(column, 0).to_numpy(zero_copy_only=False), np.asarray(pc.is_null(column))
    if pa.types.is_integer(kind):
        values = pc.fill_null(column, 0).to_numpy(zero_copy_only=False).astype(np.int64)
        return values // _PER_SECOND[unit], np.asarray(pc.is_null(column))
    if pa.types.is_floating(kind):
        values = column.to_numpy(zero_copy_only=False) / _PER_SECOND[unit]
        good = np.abs(values) < 2.0**53  # also false for what is no number
        return np.floor(np.where(good, values, 0)).astype(np.int64), ~good
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ValueError(f"the timestamps have the type {kind}, expected times, numbers or text")
    times = [_second(text, unit) for text in column.to_pylist()]
    return np.array([time or 0 for time in times], np.int64), np.array([time is None for time in times], bool)


@lru_cache(maxsize=100_000)
def _second(text: str | None, unit: str) -> int | None:
    try:
        if text is None:
            return None
        if re.fullmatch(r"-?[0-9]{1,18}([.][0-9]*)?", text):
            return int(float(text) // _PER_SECOND[unit]) if "." in text else int(text) // _PER_SECOND[unit]
        time = datetime.datetime.fromisoformat(text)
        return int((time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).timestamp() // 1)
    except (ValueError, OverflowError):
        return None


class Events(NamedTuple):
    """Cleaned events: keys and Unix seconds of every row, and why a row is dropped (0: it is kept)."""

    users: Ids
    creatives: Ids
    times: Ids
    codes: Codes


def clean_events(block: Block, build: BuildConfig, secret: bytes) -> Events:
    """Which events are clicks, of a user, on a creative, at a possible time."""
    columns, num_rows = block.columns, len(block.places)
    users = identities(columns["user_id"], secret)
    creatives = identities(columns["creative_id"])
    times, timeless = seconds(columns["timestamp"], build.time_unit)
    first, end = (_midnight(day) for day in (build.earliest, build.latest))
    other = np.zeros(num_rows, bool)
    if "event" in columns:
        other = ~np.asarray(pc.fill_null(pc.equal(columns["event"].cast(pa.string()), build.click_event), False))
    codes = first_reason(
        num_rows,
        ("no_user", users.missing),
        ("fractional_user", users.fractional),
        ("no_creative", creatives.missing),
        ("fractional_creative", creatives.fractional),
        ("no_time", timeless),
        ("impossible_time", (times < first) | (times >= end)),
        ("not_a_click", other),
    )
    return Events(users.keys, creatives.keys, times, codes)


def _midnight(day: str) -> int:
    return int(datetime.datetime.fromisoformat(day).replace(tzinfo=datetime.UTC).timestamp())


class Entries(NamedTuple):
    """Cleaned rows of a catalogue table: keys, why a row is dropped, and, of creatives, their products' keys."""

    keys: Ids
    codes: Codes
    products: Identities | None


def clean_entries(block: Block, table: str, build: BuildConfig) -> Entries:
    """Which products or creatives have an id and usable words; what needs the whole table comes later."""
    columns, num_rows = block.columns, len(block.places)
    ids = identities(columns["product_id" if table == "products" else "creative_id"])
    words = _Words.of(columns["description" if table == "products" else "text"], build.max_characters)
    faults = [("no_id", ids.missing), ("fractional_id", ids.fractional)]
    faults += [("undecodable_text", words.undecodable), ("no_text", words.blank), ("long_text", words.long)]
    if table == "creatives":
        products = identities(columns["product_id"])
        faults += [("no_product", products.missing | products.fractional)]
        if build.pictures == "check":
            faults += [("no_picture", _Words.of(columns["image"], 2**31 - 1).blank)]
        return Entries(ids.keys, first_reason(num_rows, *faults), products)
    points = points_of(columns["selling_points"], build.points_separator)
    counts = np.asarray(pc.fill_null(pc.list_value_length(points), 0))
    inner = _Words.of(pc.list_flatten(points), build.max_characters)
    owners = np.asarray(pc.list_parent_indices(points))
    faults += [("undecodable_text", _any_of(owners[inner.undecodable], num_rows)), ("no_selling_points", counts == 0)]
    faults += [("long_selling_point", _any_of(owners[inner.long], num_rows))]
    if build.deny_categories:
        denied = pc.is_in(columns["category"].cast(pa.string()), value_set=pa.array(build.deny_categories, pa.string()))
        faults += [("denied_category", np.asarray(denied))]
    return Entries(ids.keys, first_reason(num_rows, *faults), None)


def points_of(column: Any, separator: str) -> Any:
    """Selling points as an Arrow list column: texts are split at `separator`; blank points are left out."""
    if not pa.types.is_list(column.type) and not pa.types.is_large_list(column.type):
        column = pc.split_pattern(column.cast(pa.string()), separator)
    column = column.cast(pa.list_(pa.string()))
    flat = pc.list_flatten(column)
    blank = _Words.of(flat, 2**31 - 1).blank
    if not blank.any():
        return column
    kept = np.bincount(np.asarray(pc.list_parent_indices(column))[~blank], minlength=len(column))
    return pa.ListArray.from_arrays(np.append(0, np.cumsum(kept)).astype(np.int32), flat.filter(pa.array(~blank)))


class _Words(NamedTuple):
    """What may be wrong with texts, row by row."""

    undecodable: Flags
    blank: Flags
    long: Flags

    @staticmethod
    def of(column: Any, most: int) -> "_Words":
        if not any(kind(column.type) for kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_null)):
            raise ValueError(f"a column of texts has the type {column.type}, expected text")
        column = column.cast(pa.string())
        undecodable = np.zeros(len(column), bool)
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            raw = column.cast(pa.binary()).to_pylist()
            undecodable = np.array([text is not None and not _is_utf8(text) for text in raw], bool)
            column = pc.if_else(pa.array(undecodable), pa.scalar("", pa.string()), column)
        trimmed = pc.fill_null(pc.utf8_length(pc.utf8_trim_whitespace(column)), 0)
        long = pc.fill_null(pc.greater(pc.utf8_length(column), most), False)
        return _Words(undecodable, np.asarray(trimmed) == 0, np.asarray(long))


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _any_of(owners: Ids, num_rows: int) -> Flags:
    found = np.zeros(num_rows, bool)
    found[owners] = True
    return found
