"""The paper's tables on AdWorld: each row's recipe is trained, all are measured alike, beside what the paper prints.

Other data and a much smaller model: the order of rows can be compared, the numbers cannot.
"""

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from rich.markup import escape
from rich.table import Table

from uniadgen.config import Config, nearest, override
from uniadgen.data.whole import write_whole
from uniadgen.evaluate.drawn import draw
from uniadgen.evaluate.harness import Seeds
from uniadgen.evaluate.measures import measure_of
from uniadgen.evaluate.paper import TABLES, PaperTable, Row
from uniadgen.evaluate.report import Report, markdown_of
from uniadgen.evaluate.run import Plan, evaluate, make_ads, render_requests
from uniadgen.evaluate.scorers import SCORERS
from uniadgen.evaluate.summary import Line, summarise
from uniadgen.model.weights import RECIPE
from uniadgen.recipes import nano, recipe
from uniadgen.train.log import progress_bar
from uniadgen.train.nano import Given, begun, make_stock, train_recipe


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """How a table is made again."""

    stock: Path | None = None  # pictures, tokenizer and VQ of an earlier run; None: made once, in the folder
    parts: Path | None = None  # weights whose tokenizer and VQ are taken instead
    base: Path | None = None  # weights that every row begins from, as the paper's begin from Janus-Pro
    at_once: int = 1  # models trained side by side, each in a process of its own
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


def reproduce(names: Sequence[str], folder: Path, how: Reproduction) -> list[Beside]:
    """Trains what is not yet in `folder`, measures all rows on the same requests, writes NAME.md and NAME.png of each.

    Tables share models, and what they made. Raises `ValueError` for a table that is not there, or a folder of other
    settings.
    """
    for name in names:
        if name not in TABLES:
            raise ValueError(f"unknown table {name!r}{nearest(name, [*TABLES, 'fig2d'])}")
    papers = {name: TABLES[name] for name in names}
    recipes = list(dict.fromkeys(row.recipe for paper in papers.values() for row in paper.ours))
    weights = dict(zip(recipes, _train_all(recipes, folder, how), strict=True))
    metrics = dict.fromkeys(metric for paper in papers.values() for metric in paper.metrics)
    plan = Plan(
        models=[f"{name}={path}" for name, path in weights.items()],
        baselines=(),
        metrics=[metric for metric in metrics if metric in SCORERS],
        requests=how.requests,
        seeds=how.seeds,
        reference=next(iter(papers.values())).recipe_of_reference,
        weights=how.weights,
    )
    measured = folder / "measured"
    if how.at_once > 1:
        _make_all(plan, measured, how.at_once)
    report = evaluate(plan, measured)
    found = []
    for name, paper in papers.items():
        configs = [Config.load(weights[row.recipe] / RECIPE) for row in paper.ours]
        own = _of_table(report, paper)
        found.append(side_by_side(paper, own, configs))
        draw(paper, own.lines, folder / f"{name}.png")
        page = found[-1].markdown()
        write_whole(folder / f"{name}.md", lambda path, page=page: path.write_text(page, encoding="utf-8"))
    return found


def _of_table(report: Report, paper: PaperTable) -> Report:
    """The rows of one table alone: its own reference, and its own family of tests."""
    roles = {row.recipe: "model" for row in paper.ours}
    settings = report.settings | {"reference": paper.recipe_of_reference}
    lines = summarise(report.measured, roles, paper.recipe_of_reference, report.settings["first_seed"])
    return replace(report, lines=tuple(lines), settings=settings)


def _train_all(names: Sequence[str], folder: Path, how: Reproduction) -> list[Path]:
    """The weights of all recipes; several are trained at once, their progress in `log.txt` of each run."""
    if how.at_once == 1 or len(names) == 1:
        return [trained(name, folder, how) for name in names]
    make_stock(_config(names[0], how), how.stock or folder / "stock", how.base or how.parts)
    found: dict[str, Path] = {}
    with (
        ProcessPoolExecutor(how.at_once, mp_context=multiprocessing.get_context("spawn")) as pool,
        progress_bar("models", len(names)) as bar,
    ):
        asked = {pool.submit(_trained_aside, name, folder, how): name for name in names}
        for done in as_completed(asked):
            found[asked[done]] = done.result()
            bar.advance(asked[done])
    return [found[name] for name in names]


def _make_all(plan: Plan, folder: Path, at_once: int) -> None:
    """The ads of all models, of several models at once, of the same requests."""
    render_requests(plan, folder)
    alone = [replace(plan, models=[model]) for model in plan.models]
    with (
        ProcessPoolExecutor(at_once, mp_context=multiprocessing.get_context("spawn")) as pool,
        progress_bar("ads of models", len(alone)) as bar,
    ):
        for done in as_completed(pool.submit(_made_aside, one, folder, at_once) for one in alone):
            done.result()
            bar.advance()


def _made_aside(plan: Plan, folder: Path, at_once: int) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // at_once))
    with open(os.devnull, "w", encoding="utf-8") as nobody, redirect_stderr(nobody):
        make_ads(plan, folder)


def _trained_aside(name: str, folder: Path, how: Reproduction) -> Path:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // how.at_once))
    log = folder / "runs" / name / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file, redirect_stderr(file):
        return trained(name, folder, how)


def _config(name: str, how: Reproduction) -> Config:
    config = begun(override(recipe(name), how.settings), Given(parts=how.parts, base=how.base))
    if how.steps is None:
        return config
    steps = {"train.steps": how.steps}
    if config.words_train is not None:
        steps["words_train.steps"] = min(how.steps, config.words_train.steps)
    return override(config, steps)


def trained(name: str, folder: Path, how: Reproduction) -> Path:
    """The weights of a recipe, trained unless they are there, or in the run that the stock is of; tables share them.

    Raises `ValueError` where the folder has those of other settings.
    """
    config, stock, run = _config(name, how), how.stock or folder / "stock", folder / "runs" / name
    for weights in (stock / "weights", run / "weights"):
        if (weights / RECIPE).is_file() and Config.load(weights / RECIPE) == config:
            return weights
    return train_recipe(config, run, Given(stock, how.parts, how.base))


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
    line = found.get((row.recipe, key))
    if line is None:
        return "–"
    form = measure_of(line.key).form.format
    star = "*" if line.difference is not None and line.difference.adjusted < 0.05 else ""
    return f"{form(line.value)}{star} ({form(line.low)} .. {form(line.high)})"


def _title(paper: PaperTable, report: Report, configs: Sequence[Config]) -> str:
    steps, full = sorted({config.train.steps for config in configs}), nano().train.steps
    of = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    if base := configs[0].base:
        shrunk = f", all from the same weights ({base[:8]})"
    else:
        shrunk = "" if steps == [full] else f", not the {full:,} of nano"
        shrunk += ": too few to judge the rows by" if steps[-1] < full / 2 else ""
    number, seeds = report.settings["requests"]["number"], report.settings["seeds"]
    return (
        f"Table {paper.number} of the paper and here. {paper.what} Here: AdWorld, models of nano's size trained for "
        f"{of} steps{shrunk}; {number} requests, {seeds} seed{'s' * (seeds > 1)} each; 95 % intervals by shopper; "
        f"* differs from {paper.reference} (p < 0.05, Holm). Other data, another model: compare the "
        "order of rows, not numbers."
    )
