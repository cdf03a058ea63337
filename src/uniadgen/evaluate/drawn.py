"""A table of the paper as a picture: our values with their intervals, and the paper's, each on its own scale."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uniadgen.data.whole import write_whole
from uniadgen.evaluate.measures import measure_of
from uniadgen.evaluate.paper import PaperTable
from uniadgen.evaluate.summary import Line

OURS, THEIRS = "#1c5d99", "#9a9a9a"


def draw(paper: PaperTable, lines: Sequence[Line], path: Path) -> None:
    """Writes a PNG: a panel for every measure made here, a line in it for every row that we have a recipe of."""
    found = {(line.generator, line.key): line for line in lines}
    keys = [key for key in (*(c.key for c in paper.columns), *paper.beside) if any(key == k for _, k in found)]
    figure = Figure(figsize=(1.6 + 1.7 * len(keys), 1.4 + 0.3 * len(paper.ours)), layout="constrained")
    panels = figure.subplots(1, len(keys), sharey=True, squeeze=False)[0]
    for panel, key in zip(panels, keys, strict=True):
        for y, row in enumerate(paper.ours):
            line = found.get((row.recipe, key))
            if line is not None:
                panel.plot([line.low, line.high], [y, y], color=OURS, linewidth=1.5)
                panel.plot(line.value, y, "o", color=OURS, markersize=5, label="here, 95 %" if y == 0 else None)
        panel.set_xlabel(fill(measure_of(key).name, 20), fontsize=8)
        panel.tick_params(labelsize=7)
        panel.grid(axis="x", color="#e6e6e6")
        panel.set_axisbelow(True)
        _add_theirs(panel, paper, key)
    panels[0].set_yticks(range(len(paper.ours)), [row.name for row in paper.ours], fontsize=8)
    panels[0].invert_yaxis()
    figure.suptitle(f"Table {paper.number}: here (blue, 95 % interval), the paper (grey, upper scale)", fontsize=9)
    write_whole(path, lambda partial: figure.savefig(partial, dpi=130))


def _add_theirs(panel: Axes, paper: PaperTable, key: str) -> None:
    """The paper's numbers on a scale of their own: other data, another model."""
    place = next((number for number, column in enumerate(paper.columns) if column.key == key), None)
    if place is None:
        return
    theirs = [(row.numbers[place], y) for y, row in enumerate(paper.ours) if row.numbers[place] is not None]
    if theirs:
        other = panel.twiny()
        other.plot(*zip(*theirs, strict=True), "D", color=THEIRS, markersize=4, markerfacecolor="none")
        other.margins(x=0.15)
        other.tick_params(labelsize=6, colors=THEIRS)
