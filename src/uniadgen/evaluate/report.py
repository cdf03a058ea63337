"""What an evaluation found, for people and programs: terminal, Markdown, CSV, JSON, every value, a sheet of ads."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from rich.markup import escape
from rich.table import Table

from uniadgen.data.whole import write_whole
from uniadgen.evaluate.harness import Measured
from uniadgen.evaluate.measures import measure_of
from uniadgen.evaluate.summary import Line

COLUMNS = ("measure", "generator", "value", "95 %", "n", "target", "met", "against the reference", "p")
SIDE = 144  # px of a picture on the sheet


@dataclass(frozen=True)
class Report:
    """The lines, every value behind them, and the settings that led to them."""

    lines: tuple[Line, ...]
    measured: Measured
    settings: dict[str, Any]  # reference, seeds, generators, requests, scorers, machine

    @property
    def title(self) -> str:
        """What the table is of."""
        settings = self.settings
        ads = f", {settings['seeds']} seeds each" if settings["seeds"] > 1 else ""
        return f"{settings['requests']['number']} requests{ads}; reference: {settings['reference']}"

    def save(self, folder: Path) -> None:
        """Writes report.json, table.csv, table.md, values.csv and sheet.png."""
        told = json.dumps(clean(self.as_dict()), indent=2, ensure_ascii=False)
        for name, text in (
            ("report.json", told + "\n"),
            ("table.csv", as_csv(self.lines)),
            ("table.md", as_markdown(self.lines)),
            ("values.csv", values_as_csv(self.measured)),
        ):
            write_whole(folder / name, lambda path, text=text: path.write_text(text, encoding="utf-8"))
        write_whole(folder / "sheet.png", sheet(self.measured.drawn).save)

    def as_dict(self) -> dict[str, Any]:
        """All but the single values, for JSON."""
        missing = [found._asdict() for found in self.measured.missing]
        return self.settings | {"not_measured": missing, "lines": [asdict(line) for line in self.lines]}


def clean(value: Any) -> Any:
    """The same, with None for what is no number: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: clean(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [clean(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cells(line: Line) -> tuple[str, ...]:
    """A line as the tables for people show it."""
    form = measure_of(line.key).form.format
    met = {None: "", True: "yes", False: "NO"}[line.met]
    against = p = ""
    if line.difference is not None:
        d = line.difference
        signed = measure_of(line.key).form.replace("{:", "{:+").format
        against, p = f"{signed(d.value)} ({signed(d.low)} .. {signed(d.high)})", _p(d.adjusted)
    interval = f"{form(line.low)} .. {form(line.high)}"
    return line.measure, line.generator, form(line.value), interval, str(line.n), line.target, met, against, p


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def table(report: Report) -> Table:
    """For a terminal, a section for each measure; p is Holm's, over the generators compared on a measure."""
    out = Table("", "value", "95 %", "target", "against the reference", "p", title=escape(report.title))
    last = ""
    for line in report.lines:
        measure, generator, value, interval, _, target, met, against, p = map(escape, cells(line))
        if line.key != last:
            out.add_section()
            out.add_row(f"[bold]{measure}[/]")
        out.add_row(f"  {generator}", value, interval, f"{target} {met}".strip(), against, p)
        last = line.key
    return out


def as_markdown(lines: Sequence[Line]) -> str:
    """The same table."""
    return markdown_of([COLUMNS, *map(cells, lines)])


def markdown_of(rows: Sequence[Sequence[str]]) -> str:
    """Cells as a table; the first row is its header."""
    header, *others = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |\n" for row in rows]
    return header + "|" + "---|" * len(rows[0]) + "\n" + "".join(others)


def as_csv(lines: Sequence[Line]) -> str:
    """The lines in full precision."""
    names = ["value", "low", "high", "test", "p", "adjusted", "n"]
    plain = [name for name in Line.__dataclass_fields__ if name != "difference"]
    header = [*plain, *(f"difference_{name}" for name in names)]
    rows = []
    for line in lines:
        told = asdict(line)
        rows.append([told[name] for name in plain] + [(told["difference"] or {}).get(name, "") for name in names])
    return _csv([header, *rows])


def values_as_csv(measured: Measured) -> str:
    """Every value: a row for each ad, empty where a measure is not defined."""
    header = ["generator", "request", "shopper", "seed", *measured.measures]
    rows = [
        [generator, *row, *(_number(found[name][place]) if name in found else "" for name in measured.measures)]
        for generator, found in measured.values.items()
        for place, row in enumerate(measured.rows)
    ]
    return _csv([header, *rows])


def _number(value: float) -> str:
    return "" if math.isnan(value) else repr(float(value))


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    held = io.StringIO()
    csv.writer(held, lineterminator="\n").writerows(rows)
    return held.getvalue()


def sheet(drawn: dict[str, list[Image.Image]]) -> Image.Image:
    """Columns: the first requests. Rows: the true picture, then each generator's, in the order of the table."""
    columns = max(map(len, drawn.values()), default=1)
    out = Image.new("RGB", (max(columns, 1) * SIDE, max(len(drawn), 1) * SIDE), "white")
    for row, pictures in enumerate(drawn.values()):
        for column, picture in enumerate(pictures):
            small = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            out.paste(small, (column * SIDE, row * SIDE))
    return out
