"""What options that change an ad are worth: seconds and steps beside the default's, and what becomes of its quality."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from rich.markup import escape
from rich.table import Table

from uniadgen.ahead import make
from uniadgen.data.whole import write_whole
from uniadgen.evaluate.contenders import contender_of, world_of
from uniadgen.evaluate.harness import Seeds, measure
from uniadgen.evaluate.measures import Setting, measure_of
from uniadgen.evaluate.report import clean, markdown_of
from uniadgen.evaluate.requests import WorldRequests
from uniadgen.evaluate.scorers import scorers_of
from uniadgen.evaluate.summary import Line, summarise
from uniadgen.pipeline import AdGenerator
from uniadgen.records import Example
from uniadgen.speed import machine
from uniadgen.train.log import progress_bar

DEFAULT, COMPACT, DISTILLED, STAGGERED = "default", "compact prompt", "guidance distilled", "rows staggered"
OPTIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "guidance until 3/4": {"generate.guidance_until": 0.75},
    "guidance until 1/2": {"generate.guidance_until": 0.5},
    "guidance until 1/4": {"generate.guidance_until": 0.25},
    "product skipped": {"generate.skip_product": True},
    "product skipped, margin 1": {"generate.skip_product": True, "generate.skip_margin": 1},
}
SCORERS: Final = ("style", "words", "pbs", "text", "product")
MEASURES: Final = {  # what is shown of them: key -> the head of its column
    "liked": "liked points",
    "palette": "palette",
    "layout": "layout",
    "manner": "manner",
    "pbs": "PBS",
    "bleu": "BLEU",
    "rouge_l": "ROUGE-L",
    "product_psnr": "product, dB",
}


@dataclass(frozen=True)
class Option:
    """One line of the table. `lines` are evaluate's, with 95 % intervals and differences to the default."""

    name: str
    changes: Mapping[str, Any]
    seconds: float  # an ad, median of the turns
    faster: float  # median over the turns of the default's seconds over these
    steps: float  # an ad, mean
    turns: tuple[float, ...]  # s
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Report:
    """All that was measured, and on what."""

    machine: str
    model: str
    trained: Mapping[str, str]  # options that a model has to be trained for -> weights that were
    threads: int
    requests: int
    options: tuple[Option, ...]

    def save(self, folder: Path) -> None:
        """options.json with everything, options.md with the table."""
        told = json.dumps(clean(asdict(self)), indent=2, ensure_ascii=False) + "\n"
        for name, text in (("options.json", told), ("options.md", markdown_of([HEADER, *rows(self)]))):
            write_whole(folder / name, lambda path, text=text: path.write_text(text, encoding="utf-8"))


class Bench:
    """A model with each of the options, for AdWorld's held-out shoppers. Ads are kept in a folder, as evaluate does."""

    def __init__(self, folder: Path, name: str, trained: Sequence[str] = (), number: int = 100) -> None:
        self.folder, self.name = folder, name
        default = AdGenerator.from_pretrained(name)
        self.generators = {DEFAULT: default}
        self.generators |= {option: default.with_settings(changes) for option, changes in OPTIONS.items()}
        made = {weights: AdGenerator.from_pretrained(weights) for weights in trained}
        self.trained = {option_of(weights, generator): weights for weights, generator in made.items()}
        self.generators |= {option: made[weights] for option, weights in self.trained.items()}
        side = default.config.data.image_size
        self.world = world_of({name: default} | made)
        self.requests = WorldRequests(self.world, side, number, 0, folder / "requests")

    def measure(self, turns: int) -> Report:
        """Every option makes `turns` ads, and one before that does not count; then all ads are made and scored."""
        seconds, steps = self._time(turns)
        lines = self._judge()
        options = []
        for name in self.generators:
            mine, first = seconds[name][1:], seconds[DEFAULT][1:]
            faster = median(other / own for own, other in zip(mine, first, strict=True))
            mean = sum(steps[name][1:]) / turns
            own = tuple(line for line in lines if line.generator == name)
            options.append(Option(name, OPTIONS.get(name, {}), median(mine), faster, mean, tuple(mine), own))
        threads = torch.get_num_threads()
        return Report(machine(), self.name, self.trained, threads, len(self.requests), tuple(options))

    def _time(self, turns: int) -> tuple[dict[str, list[float]], dict[str, list[int]]]:
        """Seconds and steps of each option's ads; they take turns on the same requests, so they meet the same load."""
        seconds: dict[str, list[float]] = {name: [] for name in self.generators}
        steps: dict[str, list[int]] = {name: [] for name in self.generators}
        asked = self.requests.load(range(min(turns + 1, len(self.requests))))
        with progress_bar("turns", (turns + 1) * len(self.generators)) as bar:
            for turn in range(turns + 1):
                for name, generator in self.generators.items():
                    began = time.perf_counter()
                    steps[name].append(steps_of(generator, asked[turn % len(asked)].example, turn))
                    seconds[name].append(time.perf_counter() - began)
                    bar.advance(name)
        return seconds, steps

    def _judge(self) -> list[Line]:
        """What evaluate says of every option, with the default as the reference."""
        contenders = []
        for name, generator in self.generators.items():
            contenders.append(contender_of(name, generator, self.trained.get(name, self.name)))
        scorers = scorers_of(SCORERS, Setting(self.world))
        measured = measure(contenders, self.requests, scorers, self.folder / "ads", Seeds())
        return summarise(measured, dict.fromkeys(self.generators, "model"), DEFAULT)


def option_of(name: str, generator: AdGenerator) -> str:
    """What these weights were trained for; `ValueError` where that is none of the options."""
    model = generator.config.model
    has = {COMPACT: model.compact, DISTILLED: generator.config.distilled > 0, STAGGERED: model.row_lag > 0}
    if not any(has.values()):
        raise ValueError(
            f"{name} was trained for no option, expected weights that were: uniadgen train nano_compact, or "
            "uniadgen train nano_distilled --base nano, or uniadgen train nano_parallel --base nano"
        )
    return ", ".join(option for option, there in has.items() if there)


def steps_of(generator: AdGenerator, example: Example, seed: int) -> int:
    """Makes an ad whole, from a request of which nothing is remembered; in how many steps."""
    generator.forget()
    asked = generator.ask([example], [seed])
    (made,), counts = make(generator, asked)
    generator.finish(asked, made)
    return int(sum(steps for steps, _ in counts.values()))


HEADER: Final = ("option", "s/ad", "x default", "steps/ad", *MEASURES.values())


def rows(report: Report) -> list[tuple[str, ...]]:
    """The table's lines: every measure with its 95 % interval."""
    found = []
    for option in report.options:
        judged = {line.key: line for line in option.lines}
        speeds = f"{option.seconds:.3f}", f"{option.faster:.2f}", f"{option.steps:.1f}"
        found.append((option.name, *speeds, *(_cell(judged.get(key)) for key in MEASURES)))
    return found


def _cell(line: Line | None) -> str:
    if line is None:
        return ""
    form = measure_of(line.key).form.format
    return f"{form(line.value)} ({form(line.low)} .. {form(line.high)})"


def table(report: Report) -> Table:
    """For a terminal."""
    title = f"{report.model}: {report.machine}, {report.threads} threads; {report.requests} requests, 95 % intervals"
    out = Table(*HEADER, title=escape(title))
    for row in rows(report):
        out.add_row(*(escape(cell).replace(" (", "\n(") for cell in row))
    return out
