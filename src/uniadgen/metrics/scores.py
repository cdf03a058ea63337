"""A folder of pictures through picture metrics: one row for each picture, one column for each metric."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.table import Table

from uniadgen.data.cutout import read_picture
from uniadgen.metrics.pictures import PictureScore, similarity
from uniadgen.metrics.weights import Metric

ENDINGS = (".png", ".webp", ".jpg", ".jpeg")
NAMED = 5  # pictures that an error names at most


@dataclass(frozen=True)
class Work:
    """Pictures, and what they are compared with where metrics need it: other pictures, prompts."""

    pictures: tuple[Path, ...]
    counterparts: tuple[Path, ...] = ()
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """What one metric says of each picture, and how many prompts it did not read to their end."""

    values: tuple[float, ...]
    truncated: int = 0

    @property
    def mean(self) -> float:
        """Over all pictures."""
        return float(np.mean(self.values))


def read_work(folder: Path, beside: Path | None, prompts: Path | None) -> Work:
    """What there is to do, every picture decoded once, so that none fails after hours.

    Raises `ValueError` naming pictures that cannot be read or lack a counterpart or a prompt.
    """
    pictures = tuple(_listed(folder))
    others = () if beside is None else tuple(_counterparts(pictures, beside))
    words = () if prompts is None else tuple(_read_prompts(prompts, [path.name for path in pictures]))
    faults = [fault for path in (*pictures, *others) if (fault := _fault(path))]
    if faults:
        more = f"; and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
        raise ValueError(f"{len(faults)} pictures cannot be read: {'; '.join(faults[:NAMED])}{more}")
    return Work(pictures, others, words)


def _listed(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder, expected one of pictures")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
    if not paths:
        raise ValueError(f"{folder}: no pictures, expected files that end in {', '.join(ENDINGS)}")
    return paths


def _counterparts(pictures: Iterable[Path], folder: Path) -> Iterator[Path]:
    """The picture of the same name for each; its ending may be another."""
    known: dict[str, list[Path]] = {}
    for path in _listed(folder):
        known.setdefault(path.stem, []).append(path)
    for path in pictures:
        found = known.get(path.stem, [])
        if len(found) != 1:
            raise ValueError(f"{folder}: {len(found)} pictures are named {path.stem}, expected one beside {path}")
        yield found[0]


def _read_prompts(path: Path, names: Sequence[str]) -> list[str]:
    """Prompts in the order of `names` from lines of {"picture": name, "prompt": text}."""
    if not path.is_file():
        raise ValueError(f'{path}: no such file, expected lines of {{"picture": name, "prompt": text}}')
    found: dict[str, str] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name, prompt = entry["picture"], entry["prompt"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(f'{path}: line {number} is not {{"picture": name, "prompt": text}}: correct it') from None
        if not isinstance(name, str) or not isinstance(prompt, str) or not prompt.strip() or name in found:
            raise ValueError(f"{path}: line {number} has no text, or the picture of another line: correct it")
        found[name] = prompt
    lacking, strange = [name for name in names if name not in found], sorted(found.keys() - set(names))
    if lacking or strange:
        odd = f"no prompt for {lacking[0]}" if lacking else f"a prompt for {strange[0]}, which is not there"
        raise ValueError(f"{path}: {odd}, expected one for each picture of the folder")
    return [found[name] for name in names]


def _fault(path: Path) -> str:
    try:
        read_picture(path, "RGB")
    except ValueError as error:
        return str(error)
    return ""


def run(metric: Metric, work: Work, advance: Callable[[], None] = lambda: None) -> Column:
    """One metric over all pictures, which are read batch by batch; `advance` is called after each picture read."""
    if not isinstance(metric, PictureScore):
        values = similarity(metric, _read(work.pictures, advance), _read(work.counterparts, advance))
        return Column(tuple(values.tolist()))
    prompts = work.prompts if metric.needs_prompts else None
    values = metric(_read(work.pictures, advance), prompts)
    return Column(tuple(values.tolist()), int(metric.truncated(prompts or ()).sum()))


def _read(paths: Iterable[Path], advance: Callable[[], None]) -> Iterator[Image.Image]:
    for path in paths:
        yield read_picture(path, "RGB")
        advance()


def write_csv(path: Path, work: Work, columns: Mapping[str, Column]) -> None:
    """`picture`, then one column for each metric."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["picture", *columns])
        for row, picture in enumerate(work.pictures):
            writer.writerow([picture.name, *(f"{column.values[row]:.6f}" for column in columns.values())])


def table(columns: Mapping[str, Column]) -> Table:
    """Means for a terminal."""
    out = Table("metric", "mean", "pictures", "prompts cut short")
    for name, column in columns.items():
        out.add_row(name, f"{column.mean:.4f}", str(len(column.values)), str(column.truncated))
    return out
