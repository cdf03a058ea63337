"""The data card of a dataset that was built: what is in it, what was dropped, and how it compares with PAd1M."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pyarrow.compute
import pyarrow.parquet as pq
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from uniadgen.config import DatasetConfig
from uniadgen.data.clean import REASONS
from uniadgen.data.whole import write_whole

pc: Any = pyarrow.compute  # makes its functions when it is imported, unseen by type checkers
Counts = NDArray[np.int64]

MOST_CATEGORIES = 40  # Fig. 2(c)
PAD1M = {"users": 1_145_371, "clicks": 18_923_555, "products": 8_500_000}  # paper section 3.1, 3.2
_INK, _PALE, _PAPER, _BAR = "#1d1d1f", "#adb5bd", "#fbfbfd", "#4c6ef5"
FEW = 30  # numbers that have a bar each


class Contents(NamedTuple):
    """What a dataset holds; a click is a target or an entry of a history."""

    splits: dict[str, int]
    clicks: Counts  # (users,) clicks of each
    per_creative: Counts  # (creatives,) users who clicked each, 0 for those in no sample
    products: Counts  # (products,) clicks of each
    categories: dict[str, int]  # samples by the category of the target, most first; empty without categories
    seen: float  # share of the test split's clicked creatives that the training split has, too


def contents_of(folder: Path) -> Contents:
    """Counts a dataset file by file; its words stay on disk, and no more than one file's samples are in memory."""
    product = pq.read_table(folder / "creatives", columns=["product"])["product"].to_numpy()
    num_products = sum(pq.read_metadata(path).num_rows for path in _files(folder / "products"))
    per_creative, products = np.zeros(len(product), np.int64), np.zeros(num_products, np.int64)
    splits, targets, clicks = Counter[str](), np.zeros(num_products, np.int64), [np.array([], np.int64)]
    in_split = {name: np.zeros(len(product), bool) for name in ("train", "test")}
    for path in _files(folder / "samples"):
        samples = pq.read_table(path, columns=["split", "target", "history"])
        target, history = samples["target"].to_numpy(), pc.list_flatten(samples["history"]).to_numpy()
        lengths = pc.list_value_length(samples["history"]).to_numpy().astype(np.int64)
        for creatives in (target, history):
            np.add.at(per_creative, creatives, 1)
            np.add.at(products, product[creatives], 1)
        np.add.at(targets, product[target], 1)
        splits.update({entry["values"]: entry["counts"] for entry in pc.value_counts(samples["split"]).to_pylist()})
        for name, used in in_split.items():
            chosen = np.asarray(pc.equal(samples["split"], name))
            used[target[chosen]] = True
            used[history[np.repeat(chosen, lengths)]] = True
        clicks.append(lengths + 1)
    return Contents(
        splits={split: splits[split] for split in ("train", "validation", "test")},
        clicks=np.concatenate(clicks),
        per_creative=per_creative,
        products=products,
        categories=_categories_of(folder, targets),
        seen=float((in_split["train"] & in_split["test"]).sum() / max(1, in_split["test"].sum())),
    )


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("[!.]*.parquet"))


def _categories_of(folder: Path, targets: Counts) -> dict[str, int]:
    """Samples by the category of the target's product, most first; empty where no product has one."""
    counts, any_named, start = Counter[str](), False, 0
    for path in _files(folder / "products"):
        column = pq.read_table(path, columns=["category"])["category"].combine_chunks()
        any_named |= column.null_count < len(column)
        codes = pc.fill_null(column, "(none)").dictionary_encode()
        sums = np.bincount(codes.indices.to_numpy(), targets[start : start + len(column)]).astype(np.int64).tolist()
        counts.update(dict(zip(codes.dictionary.to_pylist(), sums, strict=True)))
        start += len(column)
    found = {name: count for name, count in counts.items() if count}
    return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))) if any_named else {}


def write_card(folder: Path, config: DatasetConfig, manifest: dict[str, Any]) -> None:
    """Writes README.md and its pictures: histograms, the scale (Fig. 2(b)), the treemap of categories (Fig. 2(c))."""
    contents = contents_of(folder)
    for name, figure in (
        ("histograms.png", _histograms(contents)),
        ("scale.png", _scale(contents)),
        ("categories.png", _categories(contents)),
    ):
        if figure is not None:
            _save(folder / name, figure)
    text = _text(config, manifest, contents)
    write_whole(folder / "README.md", lambda path: path.write_text(text, encoding="utf-8"))


def _text(config: DatasetConfig, manifest: dict[str, Any], contents: Contents) -> str:
    parts = (_scale_text(contents), _how(config, contents), _dropped(manifest), _category_text(contents.categories))
    return "\n".join(line for part in (*parts, _privacy(config, contents, manifest["content"])) for line in (*part, ""))


def _scale_text(contents: Contents) -> list[str]:
    users, clicks = len(contents.clicks), int(contents.clicks.sum())
    quarters = np.quantile(contents.clicks, [0, 0.25, 0.5, 0.75, 1], method="lower") if users else np.zeros(5)
    least, *middle, most = (f"{int(value):,}" for value in quarters)
    return [
        "# Data card",
        "",
        "Users with a target click, their other clicks, and what the seller says of the target's product: the form of",
        "the PAd1M dataset (paper section 3), built by `uniadgen data build` from a click log.",
        "",
        "| | here | PAd1M (paper) |",
        "|---|---|---|",
        f"| users, one sample each | {users:,} | {PAD1M['users']:,} |",
        f"| clicks in samples | {clicks:,} | {PAD1M['clicks']:,} |",
        f"| clicks per user | {clicks / max(1, users):.1f} | {PAD1M['clicks'] / PAD1M['users']:.1f} |",
        f"| products clicked | {int((contents.products > 0).sum()):,} | {PAD1M['products']:,} (in the dataset) |",
        f"| creatives clicked | {int((contents.per_creative > 0).sum()):,} | |",
        "",
        f"Clicks per user: from {least} to {most}; quartiles {', '.join(middle)}.",
        "",
        "![clicks per user and users per creative](histograms.png) ![scale](scale.png)",
    ]


def _how(config: DatasetConfig, contents: Contents) -> list[str]:
    build = config.build
    scope = "all other clicks" if build.history_scope == "all" else "the clicks before the target"
    checked = "each one was decoded to its end" if build.pictures == "check" else "not looked at"
    most = f"at most {build.max_history} of the most recent" if build.max_history else "however many there are"
    return [
        "## How it was built",
        "",
        f"* A user has clicked at least {build.min_clicks} different creatives. One random click is the target (seed",
        f"  {build.seed}).",
        f"* The history is {scope}, never the target's creative, {most}, oldest first.",
        f"* Splits by user: {', '.join(f'{name} {count:,}' for name, count in contents.splits.items())}.",
        f"  Of the creatives in the test split, {contents.seen:.1%} are in the training split, too.",
        f"* Pictures: {checked}.",
    ]


def _dropped(manifest: dict[str, Any]) -> list[str]:
    lines = [
        "## What was dropped",
        "",
        "`dropped/` lists each dropped row: its file, its row (Parquet, from 0) or line (CSV, JSONL, from 1), and why.",
        "",
        "| table | rows read | reason | rows dropped | share | meaning |",
        "|---|---|---|---|---|---|",
    ]
    for table, counts in manifest["dropped"].items():
        rows = manifest["read"][table]
        for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            share, meaning = count / max(1, rows), REASONS[reason].meaning
            lines.append(f"| {table} | {rows:,} | {reason} | {count:,} | {share:.2%} | {meaning} |")
        lines += [] if counts else [f"| {table} | {rows:,} | | 0 | | |"]
    return lines


def _category_text(categories: dict[str, int]) -> list[str]:
    if not categories:
        return ["## Categories", "", "The products came without categories, or there is no sample."]
    top = list(categories.items())[:MOST_CATEGORIES]
    return [
        "## Categories",
        "",
        f"{len(categories):,} categories of targets; the {len(top)} most frequent:",
        "",
        "![treemap of categories](categories.png)",
        "",
        "| | category | samples |",
        "|---|---|---|",
        *(f"| {n} | {name.replace('|', '/')} | {count:,} |" for n, (name, count) in enumerate(top, start=1)),
    ]


def _privacy(config: DatasetConfig, contents: Contents, content: str) -> list[str]:
    kept = contents.per_creative[contents.per_creative > 0]
    build = config.build
    return [
        "## Privacy",
        "",
        "Samples hold neither user ids nor times, only the order of clicks. The folder `work` holds both, the ids as",
        "keyed hashes: it stays with the owner of the log and is never part of what is passed on. Pseudonymous is not",
        "anonymous: a long history can tell who a person is.",
        "",
        "| creatives clicked by fewer users than | share of creatives in samples |",
        "|---|---|",
        *(f"| {k} | {float((kept < k).sum()) / max(1, len(kept)):.1%} |" for k in (2, 5, 10)),
        "",
        f"`build.min_users` is {build.min_users}. Denied categories: {', '.join(build.deny_categories) or 'none'}.",
        "",
        f"Content hash: `{content}` (equal for equal samples, however they lie in files).",
    ]


# pictures


def _figure(width: float, height: float, parts: int = 1) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), facecolor=_PAPER)
    axes = figure.subplots(1, parts)
    figure.subplots_adjust(0.8 / width, 0.6 / height, 1 - 0.2 / width, 1 - 0.25 / height, wspace=0.25)
    for axis in np.atleast_1d(axes):
        axis.set_facecolor(_PAPER)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(_PALE)
        axis.tick_params(color=_PALE, labelcolor=_INK)
        axis.grid(color=_PALE, alpha=0.4, linewidth=0.6)
        axis.set_axisbelow(True)
    return figure, axes


def _logarithmic(axis: Any) -> None:
    axis.set(xscale="log", yscale="log")
    axis.minorticks_off()
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(EngFormatter(sep=""))


def _save(path: Path, figure: Figure) -> None:
    with mpl.rc_context({"font.family": "sans-serif", "text.color": _INK}):
        write_whole(path, lambda partial: figure.savefig(partial, format="png", dpi=160))


def _histograms(contents: Contents) -> Figure:
    figure, (left, right) = _figure(9, 3, 2)
    for axis, values, what, who in (
        (left, contents.clicks, "clicks of a user", "users"),
        (right, contents.per_creative[contents.per_creative > 0], "users of a creative", "creatives"),
    ):
        most = int(values.max(initial=1))
        edges = np.arange(1, most + 2) if most <= FEW else np.unique(np.geomspace(1, most + 1, 30).astype(int))
        counts = np.bincount(values)  # far fewer than values
        held, _ = np.histogram(np.arange(len(counts)), edges, weights=counts)
        axis.set(xlabel=what, ylabel=who)
        if most <= FEW:  # a bar for each number
            axis.bar(edges[:-1], held, width=0.8, color=_BAR)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axis.yaxis.set_major_formatter(EngFormatter(sep=""))
        else:
            axis.stairs(held, edges, fill=True, color=_BAR)
            _logarithmic(axis)
            axis.set_ylim(bottom=0.5)  # one user can be seen
    return figure


def _scale(contents: Contents) -> Figure:
    figure, axis = _figure(5, 3)
    for name, users, samples, colour in (
        ("PAd1M (paper)", PAD1M["users"], PAD1M["clicks"], "#868e96"),
        ("this dataset", len(contents.clicks), int(contents.clicks.sum()), _BAR),
    ):
        axis.scatter([max(1, users)], [max(1, samples)], s=90, color=colour)
        axis.annotate(name, (max(1, users), max(1, samples)), (0, 9), textcoords="offset points", ha="center")
    axis.set(xlabel="users", ylabel="clicked image-texts")
    _logarithmic(axis)
    axis.margins(0.3)
    return figure


def _categories(contents: Contents) -> Figure | None:
    if not contents.categories:
        return None
    names, sizes = zip(*list(contents.categories.items())[:MOST_CATEGORIES], strict=True)
    figure, axis = _figure(9, 5)
    figure.subplots_adjust(0, 0, 1, 1)
    shades = LinearSegmentedColormap.from_list("shades", ["#dbe4ff", _BAR])
    total = sum(contents.categories.values())
    for number, (name, size, (x, y, width, height)) in enumerate(zip(names, sizes, treemap(sizes, 9, 5), strict=True)):
        strength = size / sizes[0]
        axis.add_patch(Rectangle((x, y), width, height, facecolor=shades(strength), edgecolor=_PAPER, linewidth=2))
        points = min(13.0, 5 + 6 * min(width, height))
        letters = int(width * 115 / points)  # of this size, side by side in that width
        label = name if len(name) <= letters else f"{name[: letters - 3]}..."
        label = label if label.isascii() else f"no. {number + 1}"  # matplotlib's own font knows no Chinese
        label += f"\n{size / total:.1%}" if height > 0.45 else ""
        if letters > 4 and height > 0.2:
            colour = "white" if strength > 0.6 else _INK
            axis.text(x + width / 2, y + height / 2, label, ha="center", va="center", fontsize=points, color=colour)
    axis.set(xlim=(0, 9), ylim=(5, 0))  # the most frequent stand in the corner where one begins to read
    axis.axis("off")
    return figure


def treemap(sizes: Sequence[int], width: float, height: float) -> list[tuple[float, float, float, float]]:
    """Rectangles (x, y, width, height) that fill a field, their areas as `sizes`, which fall and are above 0.

    Squarified: each row along the shorter side takes entries while that makes its worst aspect ratio better.
    """
    scale = width * height / sum(sizes)
    areas, placed = [size * scale for size in sizes], []
    x, y = 0.0, 0.0
    while areas:
        side = min(width, height)
        count = 1
        while count < len(areas) and _worst(areas[: count + 1], side) <= _worst(areas[:count], side):
            count += 1
        thickness, along = sum(areas[:count]) / side, 0.0
        for area in areas[:count]:
            length = area / thickness
            placed.append((x + along, y, length, thickness) if width <= height else (x, y + along, thickness, length))
            along += length
        if width <= height:
            y, height = y + thickness, height - thickness
        else:
            x, width = x + thickness, width - thickness
        areas = areas[count:]
    return placed


def _worst(areas: Sequence[float], side: float) -> float:
    thickness = sum(areas) / side
    return max(max(area / thickness**2, thickness**2 / area) for area in areas) if side > 0 else math.inf
