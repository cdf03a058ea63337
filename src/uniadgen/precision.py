"""What eight bits cost and gain: the same ads in both precisions, how far they differ, and what is right in them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor

from uniadgen.engine.reading import read
from uniadgen.engine.slots import Places, Slots
from uniadgen.evaluate.measures import Setting
from uniadgen.evaluate.requests import Request, WorldRequests
from uniadgen.evaluate.truth import StyleScorer, WordsScorer
from uniadgen.pipeline import AdGenerator
from uniadgen.records import Ad
from uniadgen.speed import machine


@dataclass(frozen=True)
class Line:
    """One precision: what an ad takes, and the share of ads whose text and style are right, measure by measure."""

    precision: str
    seconds: float  # median
    turns: tuple[float, ...]
    truth: dict[str, float]


@dataclass(frozen=True)
class Report:
    """Both, and how far the second is from the first."""

    machine: str
    model: str
    threads: int
    requests: int
    same_texts: float  # share of the ads
    same_codes: float  # share of the cells
    word_error: float  # of logits after the same words: root mean square, in standard deviations of the logits
    code_error: float
    same_choice: float  # share of cells whose likeliest code, after the same ones, is the same
    picture_error: float  # of pixels painted from the same codes: root mean square, in steps of 255
    lines: tuple[Line, ...]

    def save(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


class Precisions:
    """One model in its own precision and in another one, and AdWorld's held-out shoppers."""

    def __init__(self, name: str, requests: int, other: str = "int8") -> None:
        """`other`: int8, or fp8, which a CPU emulates slowly. Raises `ValueError` where it cannot be had."""
        self.name, self.precisions = name, ("model", other)
        device = "cpu" if other == "int8" else None
        self.generators = [AdGenerator.from_pretrained(name, device, precision) for precision in self.precisions]
        config = self.generators[0].config
        if config.world is None:
            raise ValueError(
                f"{name} was not trained on AdWorld, expected a model that was: its requests are from there"
            )
        self.engines = [generator.engine for generator in self.generators]  # says now where it cannot be had
        setting = Setting(config.world)
        self.style, self.said = StyleScorer(setting), WordsScorer(setting)
        with TemporaryDirectory() as folder:
            asked = WorldRequests(config.world, config.data.image_size, requests, 0, Path(folder))
            self.requests = asked.load(range(requests))

    def measure(self, advance: Callable[[str], None] = lambda name: None) -> Report:
        """Every ad in both, taking turns; the first one once more, as that does not count."""
        made: list[list[Made]] = [[], []]
        for request in [self.requests[0], *self.requests]:
            for ads, generator in zip(made, self.generators, strict=True):
                ads.append(make(generator, request))
            advance("ads")
        pairs = list(zip(*(ads[1:] for ads in made), strict=True))
        logits = zip(self.requests, (one for one, _ in pairs), strict=True)
        errors = np.array([self._errors(request, one) for request, one in logits]).mean(0)
        lines = [self._line(precision, ads[1:]) for precision, ads in zip(self.precisions, made, strict=True)]
        return Report(
            machine(),
            self.name,
            torch.get_num_threads(),
            len(self.requests),
            float(np.mean([one.words == other.words for one, other in pairs])),
            float(torch.cat([(one.codes == other.codes).float() for one, other in pairs]).mean()),
            word_error=float(errors[0]),
            code_error=float(errors[1]),
            same_choice=float(errors[2]),
            picture_error=float(errors[3]),
            lines=tuple(lines),
        )

    def _line(self, precision: str, ads: Sequence["Made"]) -> Line:
        seconds, values = tuple(made.seconds for made in ads), {}
        for scorer in (self.style, self.said):
            values |= scorer.score([made.ad for made in ads], self.requests)
        return Line(precision, median(seconds), seconds, {name: float(np.nanmean(v)) for name, v in values.items()})

    @torch.no_grad()
    def _errors(self, request: Request, made: "Made") -> tuple[float, float, float, float]:
        """Of words, of codes, the share of equal choices, and of pixels, all of the words and codes of one ad."""
        (words, codes), (words8, codes8) = (logits_of(generator, request, made) for generator in self.generators)
        same = float((codes.argmax(-1) == codes8.argmax(-1)).float().mean())
        pixels, pixels8 = (generator.model.decode_pictures(made.codes[None]) for generator in self.generators)
        painted = float((pixels8 - pixels).pow(2).mean().sqrt() * 127.5)
        return error_of(words8, words), error_of(codes8, codes), same, painted


def error_of(found: Tensor, right: Tensor) -> float:
    """Root mean square, in standard deviations of what is right."""
    return float((found - right).pow(2).mean().sqrt() / right.std())


class Made(NamedTuple):
    """One ad, and how long it took."""

    ad: Ad
    words: tuple[int, ...]
    codes: Tensor
    seconds: float


def make(generator: AdGenerator, request: Request) -> Made:
    """From a request that has not been seen before; its number is the seed."""
    generator.forget()
    began = perf_counter()
    asked = generator.ask([request.example], [request.number])
    decoder = generator._decoder(asked.config, asked.seeds, [request.example.product.selling_points])
    *_, progress = decoder.run(generator.lay_out(asked))
    (ad,) = generator.finish(asked, progress)
    return Made(ad, progress.words[0], progress.codes[0], perf_counter() - began)


def logits_of(generator: AdGenerator, request: Request, made: Made) -> tuple[Tensor, Tensor]:
    """Logits of the words (n, V) and of the codes (K, Q) of an ad, each after what came before it; not guided."""
    engine, layout, model = generator.engine, generator.layout, generator.model
    asked = generator.ask([request.example], [request.number])
    noise = [torch.Generator().manual_seed(request.number)]
    found = read(engine, generator.lay_out(asked), noise, asked.config, True)
    ids = torch.tensor([layout.start_text, *made.words, layout.end_text, layout.start_image])
    embeds = torch.cat([model.get_input_embeddings()(ids), engine.codes[made.codes[:-1]]])
    assert found.control is not None, "a picture is to be painted"
    control = F.pad(found.control[0], (0, 0, len(embeds) - len(made.codes), 0))
    prefix = found.prefixes[0]
    length = prefix.keys.shape[2]
    slots = Slots(prefix, 1, length + len(embeds), dtype=engine.cache_dtype)
    slots.join(request, prefix)
    engine.layers.reserve(length + len(embeds))
    at = length + torch.arange(len(embeds))
    hidden = engine.step([slots], embeds[None], Places.after(at[None]), control[None], [length])[0]
    words = model.text_logits(hidden[: len(made.words) + 1], None, engine.words)
    return words, engine.image_logits(hidden[-len(made.codes) :])


def table(report: Report) -> Table:
    """For a terminal."""
    title = (
        f"{report.model}: {report.machine}, {report.threads} threads; {report.requests} shoppers; "
        f"same texts {report.same_texts:.0%}, same codes {report.same_codes:.0%}, likeliest code the same "
        f"{report.same_choice:.0%}; error of logits {report.word_error:.3f} (words), {report.code_error:.3f} (codes), "
        f"of pixels {report.picture_error:.1f} of 255"
    )
    names = list(report.lines[0].truth)
    out = Table("precision", "s/ad", "x first", *names, title=title)
    for line in report.lines:
        ratio = report.lines[0].seconds / line.seconds
        shares = (f"{line.truth[name]:.2f}" for name in names)
        out.add_row(line.precision, f"{line.seconds:.3f}", f"{ratio:.2f}", *shares)
    return out
