"""Fig. 2(d): how well metrics tell the same background from another one, on AdWorld's held-out products."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from rich.table import Table

from uniadgen.data.cutout import squash
from uniadgen.data.whole import write_whole
from uniadgen.metrics.backgrounds import SHOWN, Probe
from uniadgen.metrics.pbs import PBS
from uniadgen.metrics.pictures import PictureFeatures, cosines
from uniadgen.metrics.statistics import Interval, Statistic, auc_of, bootstrap
from uniadgen.metrics.trunk import Trunk, batches

Features = Callable[[Iterable[Image.Image]], NDArray[np.float32]]  # pictures -> (N, D)
PIXELS = 48  # px, side of the raw pixels that are compared
AT_ONCE = 64  # products whose pictures are in memory
KEPT = 6  # products whose pictures are kept to look at
BINS = 8  # of a colour histogram, along each of its three axes


@dataclass(frozen=True)
class Row:
    """A metric; intervals are 95 %, whole products resampled."""

    metric: str
    centred: bool  # the mean over all pictures was taken off its features
    same: float  # mean similarity: the same background,
    different: float  # another one,
    swapped: float  # and the same scene with another product in it
    gap: Interval  # same - different, the paper's number
    auc: Interval  # how often a same pair is more alike than a different one
    d: Interval  # Cohen's: the gap in standard deviations
    near: Interval  # AUC where the other background differs in its layout, palette or lighting alone
    hard: Interval  # as `near`, and the same background remade: zoomed, lighter or darker, warmer or cooler, softer
    leakage: Interval  # AUC of swapped against different: below 1, the product speaks louder than the background


@dataclass(frozen=True)
class Study:
    """What was measured, and the similarities behind it, for the plot."""

    products: int
    size: int  # px, of the pictures
    seed: int
    rows: tuple[Row, ...]
    similarities: dict[str, dict[str, NDArray[np.float32]]]  # metric -> kind of pair -> (products,), raw

    def as_dict(self) -> dict[str, Any]:
        """The figures for JSON."""
        rows = [
            {name: value._asdict() if isinstance(value, Interval) else value for name, value in vars(row).items()}
            for row in self.rows
        ]
        return {"products": self.products, "size": self.size, "seed": self.seed, "rows": rows}


# the metrics


def raw_pixels(pictures: Iterable[Image.Image]) -> NDArray[np.float32]:
    """The pixels themselves, shrunk."""
    return _stacked(np.asarray(squash(picture, PIXELS), np.float32).ravel() / 255 for picture in pictures)


def pixel_statistics(pictures: Iterable[Image.Image]) -> NDArray[np.float32]:
    """Mean and standard deviation of red, green and blue."""
    return _stacked(np.concatenate([p.mean((0, 1)), p.std((0, 1))]) for p in map(_pixels, pictures))


def colour_histogram(pictures: Iterable[Image.Image]) -> NDArray[np.float32]:
    """How many pixels fall into each of 512 colours."""
    powers = BINS ** np.arange(3)
    levels = ((np.minimum(_pixels(picture) * BINS, BINS - 1).astype(int) @ powers).ravel() for picture in pictures)
    return _stacked(np.bincount(found, minlength=BINS**3) / len(found) for found in levels)


def _pixels(picture: Image.Image) -> NDArray[np.float32]:
    return np.asarray(picture.convert("RGB"), np.float32) / np.float32(255)


def _stacked(rows: Iterable[NDArray[Any]]) -> NDArray[np.float32]:
    return np.stack(list(rows)).astype(np.float32)


def metrics(model: PBS, untrained: Trunk, others: Iterable[PictureFeatures]) -> dict[str, Features]:
    """What is compared, by name: PBS, its architecture with random weights, plain pixels, then the `others`."""
    return {
        "PBS": model.features,
        "untrained trunk": untrained.features,
        "raw pixels": raw_pixels,
        "pixel statistics": pixel_statistics,
        "colour histogram": colour_histogram,
        **{other.name: other.features for other in others},
    }


# the study


def study(
    probes: Iterable[Probe], measured: Mapping[str, Features], size: int, seed: int, resamples: int = 2000
) -> Study:
    """Compares the first picture of every probe with its others, by every metric, raw and centred.

    Pictures are looked at a batch of probes at a time and then let go.
    """
    found: dict[str, dict[str, list[NDArray[np.float32]]]] = {name: {kind: [] for kind in SHOWN} for name in measured}
    for batch in batches(probes, AT_ONCE):
        for kind in SHOWN:
            for name, features in measured.items():
                found[name][kind].append(features([probe[kind] for probe in batch]))
    rows: list[Row] = []
    similarities = {}
    for name, kinds in found.items():
        raw = {kind: np.concatenate(parts) for kind, parts in kinds.items()}
        mean = np.concatenate(list(raw.values())).mean(0)
        similarities[name] = _similarities(raw)
        rows.append(_row(name, False, similarities[name], seed, resamples))
        centred = {kind: features - mean for kind, features in raw.items()}
        rows.append(_row(name, True, _similarities(centred), seed, resamples))
    number = len(similarities[rows[0].metric]["same"])
    return Study(number, size, seed, tuple(rows), similarities)


def _similarities(features: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    first, *others = SHOWN
    return {kind: cosines(features[first], features[kind]) for kind in others}


def _row(metric: str, centred: bool, values: Mapping[str, NDArray[np.float32]], seed: int, resamples: int) -> Row:
    def interval(statistic: Callable[[NDArray[Any], NDArray[Any]], Statistic], one: str, other: str) -> Interval:
        """Of pairs of kind `one` against pairs of kind `other`."""
        scores = np.concatenate([values[one], values[other]])
        kind = np.repeat([True, False], len(values[one]))
        products = [*range(len(values[one]))] * 2
        return bootstrap(statistic(scores, kind), products, np.random.default_rng(seed), resamples=resamples)

    return Row(
        metric,
        centred,
        *(float(values[kind].mean()) for kind in ("same", "different", "swapped")),
        gap=interval(gap_of, "same", "different"),
        auc=interval(auc_of, "same", "different"),
        d=interval(cohens_d_of, "same", "different"),
        near=interval(auc_of, "same", "near"),
        hard=interval(auc_of, "remade", "near"),
        leakage=interval(auc_of, "swapped", "different"),
    )


def gap_of(scores: NDArray[Any], positive: NDArray[Any]) -> Statistic:
    """Mean of the positive ones of (n,) scores minus that of the others."""
    return lambda weights: _moments(scores, positive, weights)[0]


def cohens_d_of(scores: NDArray[Any], positive: NDArray[Any]) -> Statistic:
    """The gap, divided by the pooled standard deviation of both kinds; NaN where there is none."""

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        gap, spread = _moments(scores, positive, weights)
        return np.divide(gap, spread, out=np.full_like(gap, np.nan), where=spread > 0)

    return statistic


def _moments(
    scores: NDArray[Any], positive: NDArray[Any], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The gap and the pooled standard deviation, (R,) each, for (R, n) weights."""
    column = np.asarray(scores, np.float64)
    means, sums, counts = [], [], []
    for kind in (np.asarray(positive, bool), ~np.asarray(positive, bool)):
        own = weights * kind
        counts.append(own.sum(1))
        means.append(own @ column / counts[-1])
        sums.append((own * (column - means[-1][:, None]) ** 2).sum(1))
    pooled = np.sqrt((sums[0] + sums[1]) / np.maximum(counts[0] + counts[1] - 2, 1))
    return means[0] - means[1], pooled


# what a person sees


COLUMNS: Final = ("same", "different", "swapped", "gap", "auc", "d", "near", "hard", "leakage")


def table(found: Study) -> Table:
    """For a terminal."""
    out = Table(
        "metric", "same", "different", "swapped", "gap", "AUC", "Cohen's d", "AUC near", "AUC hard", "AUC leakage",
        title=f"Fig. 2(d) on AdWorld: {found.products} held-out products, 95 % intervals by product",
    )  # fmt: skip
    for row in found.rows:
        name = f"{row.metric}, centred" if row.centred else row.metric
        out.add_row(name, *(_shown(getattr(row, column)) for column in COLUMNS))
    return out


def _shown(value: float | Interval) -> str:
    if isinstance(value, Interval):
        return f"{value.value:.3f} ({value.low:.3f} .. {value.high:.3f})"
    return f"{value:.3f}"


def csv_rows(found: Study) -> list[list[str]]:
    """The same as lines of a table, the first with the names."""
    intervals = [name for name in COLUMNS if isinstance(getattr(found.rows[0], name), Interval)]
    ends = [f"{name}_{end}" for name in intervals for end in ("low", "high")]
    lines = [["metric", "centred", *COLUMNS, *ends]]
    for row in found.rows:
        values = [getattr(row, name) for name in COLUMNS]
        middle = [value.value if isinstance(value, Interval) else value for value in values]
        edges = [edge for name in intervals for edge in getattr(row, name)[1:]]
        lines.append([row.metric, str(row.centred).lower(), *(f"{x:.6f}" for x in (*middle, *edges))])
    return lines


def plot(found: Study) -> Figure:
    """For every metric, the similarities of pairs with the same and with another background, as in the paper."""
    columns = min(4, len(found.similarities))
    lines = -(-len(found.similarities) // columns)
    figure = Figure(figsize=(3.1 * columns, 2.5 * lines), layout="constrained")
    for number, (name, kinds) in enumerate(found.similarities.items(), start=1):
        place = figure.add_subplot(lines, columns, number)
        values = np.concatenate([kinds["same"], kinds["different"]])
        edges = np.linspace(float(values.min()), max(1.0, float(values.max())), 31).tolist()
        for kind, colour in (("same", "#2b8a3e"), ("different", "#c92a2a")):
            place.hist(kinds[kind], edges, alpha=0.6, color=colour, label=f"{kind} background")
            place.axvline(float(kinds[kind].mean()), color=colour, linewidth=1)
        gap = float(kinds["same"].mean() - kinds["different"].mean())
        place.set(title=f"{name}: gap {gap:.3f}", xlabel="similarity", yticks=[])
    figure.axes[0].legend(frameon=False, fontsize=7)
    return figure


class Watched:
    """Passes probes on, tells of each, and keeps the first few to look at."""

    def __init__(self, probes: Iterable[Probe], advance: Callable[[], None]) -> None:
        self.probes, self.advance = probes, advance
        self.first: list[Probe] = []

    def __iter__(self) -> Iterator[Probe]:
        for probe in self.probes:
            if len(self.first) < KEPT:
                self.first.append(probe)
            yield probe
            self.advance()


def save(found: Study, shown: Sequence[Probe], folder: Path) -> None:
    """Writes fig2d.json, fig2d.csv, fig2d.png and fig2d-pictures.png, each whole or not at all."""
    figures = json.dumps(found.as_dict(), indent=2) + "\n"
    lines = "".join(",".join(line) + "\n" for line in csv_rows(found))
    write_whole(folder / "fig2d.json", lambda path: path.write_text(figures))
    write_whole(folder / "fig2d.csv", lambda path: path.write_text(lines))
    write_whole(folder / "fig2d.png", lambda path: plot(found).savefig(path, dpi=110))
    write_whole(folder / "fig2d-pictures.png", sheet(shown).save)


def sheet(probes: Sequence[Probe], side: int = 144) -> Image.Image:
    """The pictures themselves: products by rows; `SHOWN` by columns."""
    out = Image.new("RGB", (side * len(SHOWN), side * len(probes)))
    for y, probe in enumerate(probes):
        for x, kind in enumerate(SHOWN):
            out.paste(probe[kind].resize((side, side), Image.Resampling.LANCZOS), (side * x, side * y))
    return out
