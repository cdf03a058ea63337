"""How fast a model makes ads here: beside other ways to decode it, and beside what the memory's speed allows."""

import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from rich.table import Table
from torch import Tensor
from transformers import GenerationConfig

from uniadgen.config import Config, GenerateConfig
from uniadgen.data.batch import Batch, collate
from uniadgen.data.prompt import Layout
from uniadgen.engine.loop import Decoder
from uniadgen.engine.reference import Reference
from uniadgen.engine.released import ReleaseShaped
from uniadgen.model import weights
from uniadgen.model.uniadgen import UniAdGenForConditionalGeneration
from uniadgen.pipeline import AdGenerator
from uniadgen.records import Click, Example, Product

# Groups of lines; in each, ratios are to its first line.
AD, PICTURE, TOGETHER, HISTORY = "one ad", "its picture alone", "ads at once", "by clicks shown"


@dataclass(frozen=True)
class Line:
    """One line of the table: `seconds` is a median over turns, for so many ads."""

    group: str
    name: str
    ads: int
    seconds: float
    turns: tuple[float, ...]  # s, in the order measured


@dataclass(frozen=True)
class Way:
    """One way to make ads. What is asked for in a turn is made up before the time is taken."""

    group: str
    name: str
    ads: int
    asks: Callable[[int], list[Example]]
    make: Callable[[Sequence[Example], int], object]  # from those, in that turn


@dataclass(frozen=True)
class Report:
    """All that was measured, and on what."""

    machine: str
    model: str
    threads: int
    step: str  # what takes our steps: C++, numba or torch
    load: float  # of the machine, over the minute before; more than its cores: figures are of a busy machine
    gigabytes_a_second: float  # read, at best, from a buffer as large as the weights that one step reads
    limit: float  # s: weights, keys and values of all steps of an ad over that speed, with a token a step
    steps: int  # that it counts
    same_tokens: bool  # of all ways that claim to be lossless, in all turns
    lines: tuple[Line, ...]
    rows: tuple[float, ...]  # s from the request to each painted row, ours

    def save(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @property
    def cell(self) -> float:
        """Seconds to paint one, ours, from the first whole row of the picture to the last."""
        return (self.rows[-1] - self.rows[0]) / (len(self.rows) - 1) / len(self.rows)


class Otherwise(AdGenerator):
    """Makes ads by another decoder than the engine's, on a model whose weights lie as they were loaded."""

    def __init__(
        self, model: UniAdGenForConditionalGeneration, layout: Layout, config: Config, decoder: Callable[..., Decoder]
    ) -> None:
        super().__init__(model, layout, config)
        self.other = decoder

    def _decoder(self, config: GenerateConfig, seeds: Sequence[int], points: Sequence[Sequence[str]]) -> Decoder:
        return self.other(self.model, self.layout, config, seeds, points)

    def _encode(self, pixels: Float[Tensor, "B 3 H W"]) -> Int[np.ndarray, "B K"]:
        return torch.cat([self.model.encode_pictures(picture) for picture in pixels.split(1)]).numpy()


class ControlOnce(ReleaseShaped):
    """The release's loop with one thing set right: control once a picture."""

    control_every_step = False


class Bench:
    """Ways to make the same ads, from requests that no other turn has. They take turns, so they meet the same load."""

    def __init__(self, name: str, trained: str | None = None) -> None:
        """`trained`: weights that make other ads, in fewer steps, and are timed beside."""
        self.ours = AdGenerator.from_pretrained(name)
        loaded = weights.load(weights.find(name))
        self.others = {
            "release-shaped loop": Otherwise(*loaded, ReleaseShaped),
            "+ control once a picture": Otherwise(*loaded, ControlOnce),
            "+ one prefill for text and picture": Otherwise(*loaded, Decoder),
        }
        quick = {"in int8": in_int8(name)}
        if trained is not None:
            quick |= {trained: AdGenerator.from_pretrained(trained), f"{trained} in int8": in_int8(trained)}
        self.quick = {way: made for way, made in quick.items() if made is not None}  # of these the ads are others
        self.config = self.ours.config
        self.name = name
        self.made: dict[int, bytes] = {}  # turn -> the ad made of it
        self.agree = True  # all ways made the same ads

    def request(self, turn: int, num_clicks: int | None = None) -> Example:
        """One that no other turn has."""
        return request(self.config, turn, num_clicks)

    def ways(self) -> Iterator[Way]:
        """All that are compared, those of one group one after the other."""
        one, another = self._asking(0), self._asking(2000)
        for name, generator in self.others.items():
            yield Way(AD, name, 1, one, partial(self._ad, generator))
        yield Way(AD, "ours, a token a step", 1, one, self._without_drafts)
        yield Way(AD, "ours", 1, one, self._unseen)
        yield Way(AD, "ours, product and shopper seen before", 1, one, partial(self._ad, self.ours))
        for name, generator in self.quick.items():
            yield Way(AD, f"ours, {name}: other ads", 1, one, partial(self._other_ad, generator))
        loop = self.others["+ one prefill for text and picture"]
        yield Way(PICTURE, "transformers' Janus generate, no control", 1, another, partial(self._transformers, loop))
        for name, generator in {"ours": self.ours, **self.quick}.items():
            yield Way(PICTURE, name, 1, another, partial(self._picture, generator))
        for number in (1, 2, 4, 8):
            yield Way(TOGETHER, f"{number} different", number, self._asking(3000, number), self._different)
        yield Way(TOGETHER, "8 candidates of one request", 8, self._asking(4000), self._candidates)
        for clicks in sorted({0, 1, self.config.data.num_clicks // 2, self.config.data.num_clicks}):
            yield Way(HISTORY, f"{clicks} clicks", 1, self._asking(5000 + 100 * clicks, clicks=clicks), self._shown)

    def _asking(self, start: int, number: int = 1, clicks: int | None = None) -> Callable[[int], list[Example]]:
        """So many requests in every turn, made up from numbers beyond that one."""
        return lambda turn: [self.request(start + number * turn + i, clicks) for i in range(number)]

    def measure(self, turns: int, advance: Callable[[str], None] = lambda name: None) -> Report:
        """Every way `turns` times, and once before that does not count; the plain reference once."""
        seconds: dict[Way, list[float]] = {way: [] for way in self.ways()}
        speeds, rows = [], []
        step_bytes = self.ours.engine.num_bytes
        buffer = torch.ones(step_bytes // 4)
        for turn in range(turns + 1):
            speeds.append(step_bytes / timed(buffer.sum) / 1e9)
            for way, times in seconds.items():
                times.append(timed(partial(way.make, way.asks(turn), turn)))
                advance(way.name)
            rows.append(self._row_times(1000 + turn))
        speed = max(speeds)  # others may take the memory's time, but nobody makes it faster
        lines = [
            Line(way.group, way.name, way.ads, median(times[1:]), tuple(times[1:])) for way, times in seconds.items()
        ]
        once = self._reference()
        lines.insert(0, Line(AD, "plain reference, no cache (once)", 1, once, (once,)))
        steps, num_bytes = self.reads()
        return Report(
            machine(),
            self.name,
            torch.get_num_threads(),
            self.ours.engine.stepper,
            os.getloadavg()[0],
            speed,
            num_bytes / speed / 1e9,
            steps,
            self.agree,
            tuple(lines),
            tuple(median(times) for times in zip(*rows[1:], strict=True)),
        )

    def _reference(self) -> float:
        """Seconds of the plain reference, once, on the first turn's request; its tokens are compared as well."""
        example, generator = self.request(0), self.others["release-shaped loop"]
        shown = generator.choose(example.product, example.clicks, 0)
        rows = generator.rows([example], [shown], self.config.generate)
        began = time.perf_counter()
        made = Reference(generator.model, generator.layout, self.config.generate, rows, 0).make(
            example.product.selling_points
        )
        seconds = time.perf_counter() - began
        *_, ours = self._decode(self.ours, example, 0)
        self.agree &= made.words == ours.words[0] and list(made.codes) == ours.codes[0].tolist()
        return seconds

    def reads(self) -> tuple[int, float]:
        """Steps of the first turn's ad, and bytes of weights, keys and values they read; prompts and VQ come on top."""
        example = self.request(0)
        *_, last = self._decode(self.ours, example, 0)
        steps = len(last.words[0]) + 2 + last.codes.shape[1]
        prompts = self._laid_out(self.ours, example, 0).attend.sum(-1).tolist()
        model = self.config.model
        column = 2 * model.num_layers * model.hidden_size * self.ours.engine.codes.element_size()
        return steps, steps * (self.ours.engine.num_bytes + column * (sum(prompts) + len(prompts) * steps / 2))

    def _unseen(self, asked: Sequence[Example], turn: int) -> None:
        """By ours, which forgets what it remembers of the request from another way."""
        self.ours.forget()
        self._ad(self.ours, asked, turn)

    def _other_ad(self, generator: AdGenerator, asked: Sequence[Example], turn: int) -> None:
        generator.forget()
        generator.generate_batch(asked, [turn])

    def _without_drafts(self, asked: Sequence[Example], turn: int) -> None:
        engine = self.ours.engine
        before, engine.positions, engine.cells = (engine.positions, engine.cells), 1, 1
        self._unseen(asked, turn)
        engine.positions, engine.cells = before

    def _laid_out(self, generator: AdGenerator, example: Example, seed: int) -> Batch:
        shown = generator.choose(example.product, example.clicks, seed)
        return collate(generator.rows([example], [shown], self.config.generate), generator.layout.pad_id)

    def _decode(self, generator: AdGenerator, example: Example, seed: int) -> Iterator[Any]:
        decoder = generator._decoder(self.config.generate, [seed], [example.product.selling_points])
        return decoder.run(self._laid_out(generator, example, seed))

    def _ad(self, generator: AdGenerator, asked: Sequence[Example], turn: int) -> None:
        (ad,) = generator.generate_batch(asked, [turn])
        made = ad.painted.tobytes() + ad.text.encode()
        self.agree &= self.made.setdefault(turn, made) == made

    def _batch(self, generator: AdGenerator, asked: Sequence[Example]) -> Batch:
        shown = [list(range(len(example.clicks))) for example in asked]
        return collate(generator.rows(asked, shown, generator.config.generate), generator.layout.pad_id)

    def _picture(self, generator: AdGenerator, asked: Sequence[Example], turn: int) -> None:
        config = replace(generator.config.generate, image_top_k=0, connecting_words=())  # as transformers has it
        for _ in generator._decoder(config, [turn], [()]).run(self._batch(generator, asked), "image"):
            pass

    def _transformers(self, generator: AdGenerator, asked: Sequence[Example], turn: int) -> None:
        """Its prompt is token ids alone: neither product nor preference tokens come in, so it does less than ours."""
        layout, ids = generator.layout, self._batch(generator, asked).ids[:1]
        ids = ids.clamp(max=self.config.model.vocab_size - 1)
        bos = layout.tokenizer.bos_token_id
        settings = GenerationConfig(
            do_sample=True,
            guidance_scale=self.config.generate.guidance,
            bos_token_id=bos,
            pad_token_id=layout.pad_id,
            max_length=ids.shape[1] + self.config.cells,
            generation_kwargs={"boi_token_id": layout.start_image},
        )
        mask: Any = torch.ones_like(ids)
        with torch.random.fork_rng(), torch.no_grad():  # it draws from the global generator
            torch.manual_seed(turn)
            generator.model.generate(ids, attention_mask=mask, generation_config=settings, generation_mode="image")

    def _different(self, asked: Sequence[Example], turn: int) -> None:
        self.ours.generate_batch(asked, list(range(len(asked))))

    def _candidates(self, asked: Sequence[Example], turn: int) -> None:
        self.ours.generate(asked[0].product, asked[0].clicks, seed=turn, num_images=8)

    def _shown(self, asked: Sequence[Example], turn: int) -> None:
        self.ours.generate(asked[0].product, asked[0].clicks, seed=turn)

    def _row_times(self, turn: int) -> list[float]:
        example, times, side = self.request(turn), [], math.isqrt(self.config.cells)
        began = time.perf_counter()
        for progress in self._decode(self.ours, example, turn):
            new = progress.codes.shape[1] // side - len(times)  # with drafts, one step may end several
            times += [time.perf_counter() - began] * new
        return times


def in_int8(name: str) -> AdGenerator | None:
    """None where there is no int8."""
    generator = AdGenerator.from_pretrained(name, "cpu", "int8")
    try:
        return generator if generator.engine else None
    except ValueError:
        return None


def request(config: Config, number: int, num_clicks: int | None = None) -> Example:
    """A made-up one, of a product and a shopper of its own; with a full history by default."""
    rng = np.random.default_rng(number)
    side = 3 * config.data.image_size
    cutout = np.zeros((side, side, 4), np.uint8)
    cutout[side // 4 : -side // 4, side // 4 : -side // 4] = (*rng.integers(256, size=3), 255)
    points = ("dishwasher safe", "gift box included", "keeps warm for hours")
    product = Product(Image.fromarray(cutout), f"A mug for the kitchen, number {number}.", points)
    num_clicks = config.data.num_clicks if num_clicks is None else num_clicks
    pictures = rng.integers(256, size=(num_clicks, 6, 6, 3), dtype=np.uint8)
    clicks = (Click(Image.fromarray(p).resize((200, 200)), "a red kettle for the kitchen") for p in pictures)
    return Example(product, tuple(clicks))


def timed(make: Callable[[], object]) -> float:
    """Seconds that it took."""
    began = time.perf_counter()
    make()
    return time.perf_counter() - began


def machine() -> str:
    """Processor, cores, torch."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} cores, torch {torch.__version__}"


def table(report: Report) -> Table:
    """For a terminal."""
    title = (
        f"{report.model}: {report.machine}, {report.threads} threads, {report.step} step, load {report.load:.1f}; "
        f"limit {report.limit:.3f} s at {report.gigabytes_a_second:.1f} GB/s; "
        f"same tokens: {'yes' if report.same_tokens else 'NO'}"
    )
    share = report.limit / report.steps / report.cell
    caption = f"a cell of the picture takes {1e3 * report.cell:.2f} ms: {share:.0%} of the limit of a step"
    out = Table("", "way", "s", "s/ad", "ads/s", "x first", "of limit", title=title, caption=caption)
    first: dict[str, float] = {}
    for line in report.lines:
        each = line.seconds / line.ads
        start = first.setdefault(line.group, each)
        lossless = line.group == AD and "other ads" not in line.name
        of_limit = f"{report.limit / line.seconds:.0%}" if lossless else ""
        out.add_row(
            line.group,
            line.name,
            f"{line.seconds:.3f}",
            f"{each:.3f}",
            f"{1 / each:.2f}",
            f"{start / each:.1f}",
            of_limit,
        )
    return out


def plot(report: Report, path: Path) -> None:
    """Ads a second against ads at once, and seconds against rows painted."""
    from matplotlib.figure import Figure  # the extra `data`

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    together = [line for line in report.lines if line.group == TOGETHER]
    for named, style in (("different", "o-"), ("candidates", "s")):
        some = [line for line in together if named in line.name]
        left.plot([line.ads for line in some], [line.ads / line.seconds for line in some], style, label=named)
    left.set(xlabel="ads at once", ylabel="ads/s", ylim=(0, None))
    left.legend()
    right.plot(range(1, len(report.rows) + 1), report.rows, "o-")
    right.set(xlabel="rows of the picture painted", ylabel="s since the request", ylim=(0, None))
    figure.savefig(path, format="png")
