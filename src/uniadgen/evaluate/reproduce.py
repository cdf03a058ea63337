"""The paper's tables on AdWorld: each row's recipe is trained, all are measured alike, beside what the paper prints.

Other data and a much smaller model: the order of rows can be compared, the numbers cannot.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rich.markup import escape
from rich.table import Table

from uniadgen.config import Config, nearest, override
from uniadgen.data.whole import write_whole
from uniadgen.evaluate.harness import Seeds
from uniadgen.evaluate.measures import measure_of
from uniadgen.evaluate.paper import TABLES, PaperTable, Row
from uniadgen.evaluate.report import Report, markdown_of
from uniadgen.evaluate.run import Plan, evaluate
from uniadgen.evaluate.scorers import SCORERS
from uniadgen.evaluate.summary import Line
from uniadgen.model.weights import RECIPE
from uniadgen.recipes import nano, recipe
from uniadgen.train.nano import train_recipe


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """How a table is made again."""

    stock: Path | None = None  # pictures, tokenizer and VQ of an earlier run; None: made once, in the folder
    steps: int | None = None  # of every model's training, instead of its recipe's
    requests: int = 200
    seeds: Seeds = Seeds()  # noqa: RUF009
    weights: Mapping[str, str] = field(default_factory=dict)  # of published picture metrics, as in `Setting`
    settings: Mapping[str, str] = field(default_factory=dict)  # knobs changed in every recipe, as by --set


class Beside(NamedTuple):
    """The paper's table beside ours: a header and rows of cells, and what has to be said about it."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def markdown(self) -> str:
        """As a page."""
        return f"{self.title}\n\n{markdown_of([self.header, *self.rows])}"

    def table(self) -> Table:
        """For a terminal."""
        out = Table(*map(escape, self.header), title=escape(self.title))
        for row in self.rows:
            out.add_row(*map(escape, row))
        return out


def reproduce(name: str, folder: Path, how: Reproduction) -> Beside:
    """Trains what is not yet in `folder`, measures all rows on the same requests, and writes NAME and NAME.md there.

    Raises `ValueError` for a table that is not there, or a folder of other settings.
    """
    if name not in TABLES:
        raise ValueError(f"unknown table {name!r}{nearest(name, [*TABLES, 'fig2d'])}")
    paper = TABLES[name]
    ours = [row for row in paper.rows if row.recipe]
    weights = [trained(row.recipe, folder, how) for row in ours]
    plan = Plan(
        models=[f"{row.name}={path}" for row, path in zip(ours, weights, strict=True)],
        baselines=(),
        metrics=[metric for metric in paper.metrics if metric in SCORERS],
        requests=how.requests,
        seeds=how.seeds,
        reference=paper.reference,
        weights=how.weights,
    )
    report = evaluate(plan, folder / name)
    beside = side_by_side(paper, report, [Config.load(path / RECIPE) for path in weights])
    write_whole(folder / f"{name}.md", lambda path: path.write_text(beside.markdown(), encoding="utf-8"))
    return beside


def trained(name: str, folder: Path, how: Reproduction) -> Path:
    """The weights of a recipe, trained unless they are there, or in the run that the stock is of; tables share them.

    Raises `ValueError` where the folder has those of other settings.
    """
    config = override(recipe(name), how.settings)
    if how.steps is not None:
        config = override(config, {"train.steps": how.steps})
        if config.words_train is not None:
            config = override(config, {"words_train.steps": min(how.steps, config.words_train.steps)})
    stock, run = how.stock or folder / "stock", folder / "runs" / name
    for weights in (stock / "weights", run / "weights"):
        if (weights / RECIPE).is_file() and Config.load(weights / RECIPE) == config:
            return weights
    return train_recipe(config, run, stock)


def side_by_side(paper: PaperTable, report: Report, configs: Sequence[Config]) -> Beside:
    """Every measure that the paper prints, theirs and ours; then what AdWorld tells besides."""
    found = {(line.generator, line.key): line for line in report.lines}
    known = {key for _, key in found}
    shown = [key for key in paper.beside if key in known]
    header = ["row"]
    for column in paper.columns:
        header += [f"{column.name}, paper", *([f"{column.name}, here"] if column.key in known else [])]
    header += [measure_of(key).name for key in shown]
    rows = []
    for row in paper.rows:
        cells = [row.name]
        for number, column in zip(row.numbers, paper.columns, strict=True):
            cells.append("–" if number is None else f"{number:.{column.digits}f}")
            cells += [_cell(found, row, column.key)] if column.key in known else []
        rows.append((*cells, *(_cell(found, row, key) for key in shown)))
    return Beside(_title(paper, report, configs), tuple(header), rows)


def _cell(found: Mapping[tuple[str, str], Line], row: Row, key: str) -> str:
    line = found.get((row.name, key))
    if line is None:
        return "–"
    form = measure_of(line.key).form.format
    star = "*" if line.difference is not None and line.difference.adjusted < 0.05 else ""
    return f"{form(line.value)}{star} ({form(line.low)} .. {form(line.high)})"


def _title(paper: PaperTable, report: Report, configs: Sequence[Config]) -> str:
    steps, full = sorted({config.train.steps for config in configs}), nano().train.steps
    of = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    shrunk = "" if steps == [full] else f", not the {full:,} of nano: too few to judge the rows by"
    number, seeds = report.settings["requests"]["number"], report.settings["seeds"]
    return (
        f"Table {paper.number} of the paper and here. {paper.what} Here: AdWorld, models of nano's size trained for "
        f"{of} steps{shrunk}; {number} requests, {seeds} seed{'s' * (seeds > 1)} each; 95 % intervals by shopper; "
        f"* differs from {report.settings['reference']} (p < 0.05, Holm). Other data, another model: compare the "
        "order of rows, not numbers."
    )
