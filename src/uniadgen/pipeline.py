"""AdGenerator: a Product and some Clicks become an Ad."""

import dataclasses
import hashlib
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from uniadgen.config import Config, GenerateConfig, override
from uniadgen.data import history
from uniadgen.data.batch import Batch, Row, collate
from uniadgen.data.pasting import Pasting
from uniadgen.data.prompt import Layout, Shown
from uniadgen.engine.engine import Engine
from uniadgen.engine.loop import Decoder, Progress
from uniadgen.engine.precision import Precision
from uniadgen.engine.recent import Recent
from uniadgen.engine.together import FastDecoder
from uniadgen.model.uniadgen import UniAdGenForConditionalGeneration
from uniadgen.model.weights import find, load
from uniadgen.records import Ad, Click, Example, Product

ENLARGE = 3  # the ad is this many times the size that the model paints; the product keeps its own detail
AT_ONCE = 8  # ads of one request that are made together; more only take more memory
CODED = 4096  # clicked pictures whose codes are kept: at most 64 codes each


@dataclass(frozen=True)
class Update:
    """Progress of one ad: the text so far, and the picture so far (rows not yet painted are grey)."""

    text: str
    picture: Image.Image | None
    done: bool
    ad: Ad | None = None


@dataclass(frozen=True)
class Asked:
    """Requests that are made together, and which clicks of each the model is shown."""

    examples: Sequence[Example]
    seeds: Sequence[int]
    config: GenerateConfig
    shown: Sequence[list[int]]


class AdGenerator:
    """Makes ads with one loaded model. `AdGenerator.from_pretrained("nano").generate(product, clicks).picture`."""

    def __init__(
        self, model: UniAdGenForConditionalGeneration, layout: Layout, config: Config, precision: str = "model"
    ) -> None:
        self.model = model.eval()
        self.layout = layout
        self.config = config
        self.precision = precision
        self.codes: Recent[np.ndarray] = Recent(CODED)

    @cached_property
    def engine(self) -> Engine:
        """Made ready with the first ad; from then on the model stays where and as it is."""
        return Engine(self.model, precision=Precision.named(self.precision))

    def forget(self) -> None:
        """As if it had seen no request yet: codes of pictures and prompts that it keeps are gone."""
        self.codes.values.clear()
        self.engine.prefixes.values.clear()

    def with_settings(self, changes: Mapping[str, object]) -> "AdGenerator":
        """The same model on the same engine, sampling otherwise: `{"generate.guidance_until": 0.5}`.

        Raises `ValueError` for an unknown setting, one that does not fit, or one that belongs to the weights.
        """
        for name in changes:
            if not name.startswith("generate."):
                raise ValueError(f"got the setting {name}, expected one of generate.: the others belong to the weights")
        other = AdGenerator(self.model, self.layout, override(self.config, changes), self.precision)
        other.engine = self.engine
        return other

    def _decoder(
        self, config: GenerateConfig, seeds: Sequence[int], points: Sequence[Sequence[str]]
    ) -> Decoder | FastDecoder:
        return FastDecoder(self.engine, self.layout, config, seeds, points)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, device: torch.device | str | None = None, precision: str = "model"
    ) -> "AdGenerator":
        """Loads a folder of weights, or the shipped model by its name ("nano").

        `device`: by default a GPU, where torch sees one, or the CPU. `precision`: a name that `Precision` knows.
        Raises `ValueError` when there is no such folder, or when a tensor is missing, extra or of another shape.
        """
        model, layout, config = load(find(name))
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        model.to(device)  # pyright: ignore[reportArgumentType] - as transformers wraps it
        return cls(model, layout, config, precision)

    def generate(
        self,
        product: Product,
        history: Sequence[Click] = (),
        *,
        seed: int = 0,
        num_images: int = 1,
        guidance: float | None = None,
    ) -> Ad | list[Ad]:
        """Makes an ad, or a list of `num_images` (seeds seed, seed + 1, ...) when that is more than 1.

        The same request and seed give the same bytes on the same machine. `guidance` > 1 strengthens the history's
        influence; None takes the model's own setting. Several images share all that does not depend on the seed.
        """
        if num_images < 1:
            raise ValueError(f"num_images is {num_images}, expected 1 or more")
        example = Example(product, tuple(history))
        seeds, ads = range(seed, seed + num_images), []
        for start in range(0, num_images, AT_ONCE):
            some = seeds[start : start + AT_ONCE]
            ads += self.generate_batch([example] * len(some), some, guidance=guidance)
        return ads[0] if num_images == 1 else ads

    def generate_batch(
        self, examples: Sequence[Example], seeds: Sequence[int], *, guidance: float | None = None
    ) -> list[Ad]:
        """Makes the ads of several requests at once; histories may differ in length, or be empty."""
        if not examples:
            raise ValueError("got no requests, expected at least one")
        *_, last = self._run(examples, seeds, guidance)
        return last[1]

    def stream(
        self, product: Product, history: Sequence[Click] = (), *, seed: int = 0, guidance: float | None = None
    ) -> Iterator[Update]:
        """As `generate`, yielding an `Update` after every word and every painted row; the last one has the `ad`."""
        for progress, ads in self._run([Example(product, tuple(history))], [seed], guidance):
            if ads:
                yield Update(ads[0].text, ads[0].picture, True, ads[0])
            else:
                yield self.update(progress)

    def _run(
        self, examples: Sequence[Example], seeds: Sequence[int], guidance: float | None
    ) -> Iterator[tuple[Progress, list[Ad]]]:
        """Decoding progress; with the last step come the finished ads."""
        asked = self.ask(examples, seeds, guidance)
        points = [example.product.selling_points for example in examples]
        decoder = self._decoder(asked.config, seeds, points)
        texts = None
        *_, last = self.layout.passes
        for modality in self.layout.passes:
            for progress in decoder.run(self.lay_out(asked, texts), modality):
                finished = progress.done and modality == last
                yield progress, self.finish(asked, progress) if finished else []
            texts = [self.layout.text_of(words) for words in decoder.words]

    def ask(self, examples: Sequence[Example], seeds: Sequence[int], guidance: float | None = None) -> Asked:
        """Requests made ready; `ValueError` where a seed or the guidance is none."""
        for seed in seeds:
            if not 0 <= seed < 2**63:
                raise ValueError(f"seed is {seed}, expected 0 or more and less than 2^63: choose another")
        config = self.config.generate
        if guidance is not None:
            config = override(self.config, {"generate.guidance": guidance}).generate
        shown = [self.choose(e.product, e.clicks, seed) for e, seed in zip(examples, seeds, strict=True)]
        return Asked(examples, seeds, config, shown)

    def lay_out(self, asked: Asked, texts: Sequence[str] | None = None) -> Batch:
        """What the engine reads; `texts` are what an earlier pass wrote."""
        return collate(self.rows(asked.examples, asked.shown, asked.config, texts), self.layout.pad_id)

    def choose(self, product: Product, clicks: Sequence[Click], seed: int) -> list[int]:
        """Which clicks the model is shown (Eq. 6): their indices."""
        scores = history.similarity([click.text for click in clicks], product.description)
        sampler = history.SAMPLERS[self.config.data.sampler]
        return sampler(scores, self.config.data.num_clicks, np.random.default_rng(seed))

    def rows(
        self,
        examples: Sequence[Example],
        shown: Sequence[list[int]],
        config: GenerateConfig,
        texts: Sequence[str] | None = None,
    ) -> list[Row]:
        """The rows of the requests and, where guidance is on, as many of the branch that leaves something out.

        `texts` are what an earlier pass wrote.
        """
        rows, others = [], []
        products = {id(example.product): example.product for example in examples}
        controls = {key: self.layout.control(product.cutout) for key, product in products.items()}
        laid_out: dict[Hashable, tuple[Row, Row | None]] = {}  # candidates of one request have the same
        for example, chosen, text in zip(examples, shown, texts or [None] * len(examples), strict=True):
            key = id(example), tuple(chosen), text
            if key not in laid_out:
                product = example.product
                clicks = self.encode_clicks([example.clicks[i] for i in chosen])
                said = product.description, product.selling_points, controls[id(product)], clicks
                laid_out[key] = self.layout.branches(*said, config.leave_out, text)
            row, other = laid_out[key]
            rows.append(row)
            others.append(other)
        if config.guidance == 1 or all(other is None for other in others):
            return rows
        return [*rows, *(other or row for row, other in zip(rows, others, strict=True))]

    def encode_clicks(self, clicks: Sequence[Click]) -> list[Shown]:
        """Clicked pictures, squashed to the model's size, become codes. A picture seen lately is not coded again."""
        pictures = [np.asarray(self.layout.squash(click.picture)) for click in clicks]
        keys: list[Hashable] = [hashlib.blake2b(picture.tobytes()).digest() for picture in pictures]
        pixels = dict(zip(keys, pictures, strict=True))
        codes = self.codes.get_all(keys, lambda new: self._encode(to_pixels(np.stack([pixels[key] for key in new]))))
        return [Shown(click.text, code) for click, code in zip(clicks, codes, strict=True)]

    @torch.no_grad()
    def _encode(self, pixels: Float[Tensor, "B 3 H W"]) -> Int[np.ndarray, "B K"]:
        """Each picture has the codes that it has alone."""
        return self.engine.encode(pixels).numpy()

    @torch.no_grad()
    def finish(self, asked: Asked, progress: Progress) -> list[Ad]:
        """The ads, once all their words and codes are there."""
        side, number = self.config.data.image_size, len(asked.examples)
        pictures = [Image.new("RGB", (side, side), "white")] * number  # a text-only model paints nothing
        if progress.codes.shape[1]:
            painted = [self.model.decode_pictures(codes[None]) for codes in progress.codes]  # each alone, as above
            pictures = to_pictures(torch.cat(painted))
        ads = []
        products = {id(example.product): example.product for example in asked.examples}
        pastings = {
            key: Pasting(self.layout.place(product.cutout, ENLARGE * side), (side, side))
            for key, product in products.items()
        }
        parts = zip(asked.examples, pictures, progress.words, asked.seeds, asked.shown, strict=True)
        for example, painted, words, seed, chosen in parts:
            text = self.layout.text_of(words).strip()
            record = {"model": self.config.name, "precision": self.precision, "seed": seed, "shown": chosen}
            record |= dataclasses.asdict(asked.config)
            ad = pastings[id(example.product)].over(painted)
            ads.append(Ad(ad, painted, text, seed, MappingProxyType(record)))
        return ads

    def update(self, progress: Progress) -> Update:
        """How far one ad is."""
        return Update(self.layout.said(progress.words[0]).strip(), self._preview(progress), False)

    @torch.no_grad()
    def _preview(self, progress: Progress) -> Image.Image | None:
        """The painted rows; the codes of later rows repeat the last one and are covered in grey."""
        num = progress.codes.shape[1]
        if num == 0:
            return None
        cells, side = self.config.cells, math.isqrt(self.config.cells)
        codes = torch.cat([progress.codes, progress.codes[:, -1:].expand(-1, cells - num)], dim=1)
        pixels = self.model.decode_pictures(codes)
        pixels[:, :, num // side * self.config.model.downsample :] = 0
        return to_pictures(pixels)[0]


def to_pixels(pictures: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(pixels: Tensor) -> list[Image.Image]:
    """float (B, 3, H, W) in [-1, 1] -> pictures."""
    array = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(picture) for picture in array]
