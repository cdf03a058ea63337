"""PAd1M's published JSON, read as it is and written alike; the published data are for academic use only.

Our words for its fields stand in `FIELDS`. Lists that it joins into one text are tuples here. Fields that nobody uses
are kept as they are, so that reading and writing is the identity (but for `url`, which is always written: the loader
of the authors reads it though their description leaves it out).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from uniadgen.data.cutout import read_picture
from uniadgen.data.whole import write_whole
from uniadgen.records import Click, Example, Product

LEAST_HISTORY = 5  # clicks; with fewer, the authors' sampler of 10 crashes, so a user needs 6 clicks
TITLE_SPLIT = "<title_split>"
POINT_SPLIT = ","

# our name -> theirs, of what both sides hold in one value
FIELDS = {
    "picture": "f_path",
    "cutout": "f_path_trans",
    "width": "width",
    "height": "height",
    "caption": "caption",
    "description": "sku_title_cn",
    "max_ratio": "max_ratio",
    "url": "url",
}
_JOINED = {"texts": ("gt_title_cn", TITLE_SPLIT), "selling_points": ("word_list", POINT_SPLIT)}
_HISTORY = {"pictures": "history_images", "titles": "history_titles", "similarities": "text_similarity"}
_NUMBERS = ("width", "height", "max_ratio")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One user: the target advertisement, its product, and the history, whose three tuples go together."""

    picture: str  # path of the target picture
    cutout: str  # path of the transparent picture
    width: float  # px
    height: float
    caption: str
    description: str
    texts: tuple[str, ...]  # of the target
    selling_points: tuple[str, ...]
    max_ratio: float  # scale of the product on the canvas
    pictures: tuple[str, ...]  # of the history
    titles: tuple[str, ...]
    similarities: tuple[float, ...]  # of each title to the description
    url: str = ""
    other: Mapping[str, Any] = field(default_factory=dict)  # what nobody uses
    # In which their fields stood; those that it leaves out come last.
    order: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        lengths = {len(self.pictures), len(self.titles), len(self.similarities)}
        if len(lengths) > 1:
            raise ValueError(
                f"got {len(self.pictures)} history pictures, {len(self.titles)} titles and {len(self.similarities)} "
                "similarities, expected as many of each"
            )

    def example(self, root: Path) -> Example:
        """The request with its target, pictures read from below `root`. Raises `ValueError` for one that is broken."""
        product = Product(read_picture(root / self.cutout, "RGBA"), self.description, self.selling_points)
        shown = zip((self.picture, *self.pictures), (self.texts[0], *self.titles), strict=True)
        target, *clicks = (Click(read_picture(root / picture, "RGB"), text) for picture, text in shown)
        return Example(product, tuple(clicks), target)


def read_records(path: Path) -> list[Record]:
    """All records of a file; `ValueError` names the entry and the field that are wrong."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(entries, list):
        raise ValueError(f"{path}: got a JSON {type(entries).__name__}, expected a list of objects")
    return [_record(f"{path}: entry {number}", entry) for number, entry in enumerate(entries)]


def _record(where: str, entry: Any) -> Record:
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is {entry!r}, expected an object")
    order = tuple(entry)
    entry = {"url": ""} | entry
    names = [*FIELDS.values(), *(name for name, _ in _JOINED.values()), *_HISTORY.values()]
    for name in names:
        kind, said = (list, "a list") if name in _HISTORY.values() else (str, "a text")
        kind, said = ((int, float), "a number") if name in _NUMBERS else (kind, said)
        if not isinstance(entry.get(name), kind):
            raise ValueError(f"{where}: {name} is {entry.get(name)!r}, expected {said}")
    for name in _HISTORY.values():
        kind, said = ((int, float), "numbers") if name == "text_similarity" else (str, "texts")
        if wrong := [value for value in entry[name] if not isinstance(value, kind)]:
            raise ValueError(f"{where}: {name} holds {wrong[0]!r}, expected {said} alone")
    values: dict[str, Any] = {ours: entry[theirs] for ours, theirs in FIELDS.items()}
    values.update({ours: tuple(entry[theirs].split(split)) for ours, (theirs, split) in _JOINED.items()})
    values.update({ours: tuple(entry[theirs]) for ours, theirs in _HISTORY.items()})
    try:
        other = {name: value for name, value in entry.items() if name not in names}
        return Record(**values, other=other, order=order)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def write_records(path: Path, records: Iterable[Record], least_history: int = LEAST_HISTORY) -> int:
    """Writes a file that the authors' loader reads, whole or not at all; returns how many records it has.

    Raises `ValueError` for a history that is shorter than `least_history`, and for texts that hold what joins them.
    """
    written = 0

    def write(partial: Path) -> None:
        nonlocal written
        with partial.open("w", encoding="utf-8") as file:
            for record in records:
                file.write("[\n" if written == 0 else ",\n")
                file.write(json.dumps(_entry(f"{path}: entry {written}", record, least_history), ensure_ascii=False))
                written += 1
            file.write("\n]\n" if written else "[]\n")

    write_whole(path, write)
    return written


def _entry(where: str, record: Record, least_history: int) -> dict[str, Any]:
    if len(record.pictures) < least_history:
        raise ValueError(
            f"{where} has a history of {len(record.pictures)} clicks, expected at least {least_history}, or the "
            "authors' loader crashes: build with build.min_clicks=6 or more"
        )
    entry = {theirs: getattr(record, ours) for ours, theirs in FIELDS.items()}
    for ours, (theirs, split) in _JOINED.items():
        parts = getattr(record, ours)
        if any(split in part for part in parts):
            raise ValueError(f"{where}: {ours} are {parts!r}, expected none with {split!r}, their joint in PAd1M")
        entry[theirs] = split.join(parts)
    entry |= {theirs: list(getattr(record, ours)) for ours, theirs in _HISTORY.items()} | dict(record.other)
    return {name: entry[name] for name in record.order} | entry


def remap(record: Record, folders: Mapping[str, str]) -> Record:
    """The record with the first of `folders` (old beginning of a path -> new one) that fits put in every path."""

    def moved(path: str) -> str:
        old = next((old for old in folders if path.startswith(old)), "")
        return folders.get(old, "") + path[len(old) :]

    pictures = tuple(map(moved, record.pictures))
    return replace(record, picture=moved(record.picture), cutout=moved(record.cutout), pictures=pictures)
