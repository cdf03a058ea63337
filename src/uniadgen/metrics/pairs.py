"""PBS of two folders of pictures, paired by file name, as a table that leaves nothing out."""

import csv
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from uniadgen.data.cutout import read_picture
from uniadgen.data.whole import write_whole
from uniadgen.metrics.pbs import PBS
from uniadgen.metrics.pictures import MAX_RATIO, cosines
from uniadgen.metrics.statistics import Interval, bootstrap, mean_of
from uniadgen.metrics.trunk import batches

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
AT_ONCE = 32  # pairs whose pictures are in memory
COLUMNS = ("name", "a", "b", "pbs", "problem")


class Pair(NamedTuple):
    """Two pictures of one name; None where a folder has none."""

    name: str
    a: Path | None
    b: Path | None


class Row(NamedTuple):
    """A line of the table: a similarity, or what stood against it."""

    pair: Pair
    similarity: float | None
    problem: str = ""


@dataclass
class Report:
    """What a person is told after all rows were written."""

    scores: list[float] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)  # names that only one folder has
    broken: list[str] = field(default_factory=list)  # names of which a picture cannot be read

    @property
    def mean(self) -> Interval:
        """With its 95 % bootstrap interval, pairs resampled."""
        numbers = range(len(self.scores))
        return bootstrap(mean_of(self.scores), numbers, np.random.default_rng(0), method="percentile")

    def lines(self) -> Iterator[str]:
        """The summary."""
        value, low, high = self.mean
        yield f"PBS {value:.4f} ({low:.4f} .. {high:.4f}), {len(self.scores):,} pairs"
        for names, what in ((self.alone, "in one folder only"), (self.broken, "cannot be read")):
            if names:
                yield f"{len(names):,} {what}: {', '.join(names)}"


def pair_up(a: Path, b: Path) -> list[Pair]:
    """All pictures of both folders by name, without its ending; `ValueError` where a folder has a name twice."""
    found = []
    for folder in (a, b):
        named: dict[str, Path] = {}
        for path in pictures_of(folder):
            if path.stem in named:
                raise ValueError(
                    f"{path}: has the name of {named[path.stem].name}, expected one picture of each name: "
                    "pairs are told by names without their endings"
                )
            named[path.stem] = path
        found.append(named)
    return [Pair(name, *(named.get(name) for named in found)) for name in sorted(found[0].keys() | found[1].keys())]


def pictures_of(folder: Path) -> list[Path]:
    """The pictures of a folder by name, told by their endings; folders in it are not entered."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder, expected one with pictures")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())


def compare(pairs: list[Pair], out: Path, model: PBS, advance: Callable[[int], None] = lambda _: None) -> Report:
    """Writes a row for every pair to the CSV file `out`, whole or not at all. `advance` is told of pairs done.

    A picture that cannot be read gives a row that says why. Raises `ValueError` where nothing could be compared; the
    table is there then, too.
    """
    report = Report()

    def write(path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for batch in batches(pairs, AT_ONCE):
                for row in compare_batch(batch, model):
                    pair, similarity, problem = row
                    value = "" if similarity is None else f"{similarity:.6f}"
                    writer.writerow((pair.name, pair.a or "", pair.b or "", value, problem))
                    _note(report, row)
                advance(len(batch))

    write_whole(out, write)
    if not report.scores:
        raise ValueError(f"none of {len(pairs)} names is a pair that can be read, expected some: {out} says why")
    return report


def _note(report: Report, row: Row) -> None:
    if row.similarity is not None:
        report.scores.append(row.similarity)
    elif row.pair.a is None or row.pair.b is None:
        report.alone.append(row.pair.name)
    else:
        report.broken.append(row.pair.name)


def compare_batch(pairs: list[Pair], model: PBS) -> Iterator[Row]:
    """The rows of some pairs, in order; their pictures are read in threads, and seen together."""
    with ThreadPoolExecutor() as pool:
        read = [list(pool.map(_read, paths)) for paths in ([pair.a for pair in pairs], [pair.b for pair in pairs])]
    both = [(a, b) for a, b in zip(*read, strict=True) if isinstance(a, Image.Image) and isinstance(b, Image.Image)]
    features = [model.features(pictures) for pictures in zip(*both, strict=True)]
    similarities = iter(cosines(*features).tolist() if both else ())
    for pair, *found in zip(pairs, *read, strict=True):
        problem = "; ".join(found for found in found if isinstance(found, str))
        yield Row(pair, None, problem) if problem else Row(pair, next(similarities))


def _read(path: Path | None) -> Image.Image | str:
    """The picture, or what is wrong with it."""
    if path is None:
        return "the other folder has no picture of this name"
    try:
        picture = read_picture(path, "RGB")
        if max(picture.size) > MAX_RATIO * min(picture.size):
            raise ValueError(f"{path}: {picture.width} x {picture.height} pixels, too long to see anything: crop it")
        return picture
    except (ValueError, OSError) as error:
        return " ".join(str(error).split())
