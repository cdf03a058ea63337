"""A recipe from scratch on AdWorld: render the shop, train the VQ, code every picture once, train the model."""

import math
import os
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from uniadgen.config import Config
from uniadgen.data.adworld import Stock, all_texts, needed_pictures, render_stock, shop_of
from uniadgen.data.batch import Batch, Row, collate
from uniadgen.data.cutout import premultiplied
from uniadgen.data.history import SAMPLERS, similarity
from uniadgen.data.prompt import STYLE, TEMPLATES, Layout, Shown, Target
from uniadgen.data.tokenizer import learn_tokenizer
from uniadgen.engine.reference import Decoder
from uniadgen.model import vq, weights
from uniadgen.model.uniadgen import UniAdGenForConditionalGeneration
from uniadgen.pipeline import to_pictures, to_pixels
from uniadgen.train.log import progress_bar
from uniadgen.train.loop import train
from uniadgen.world.shoppers import Shop, Visit


def train_recipe(config: Config, folder: Path) -> Path:
    """Runs every stage that is not yet done; returns the folder of weights. Killed at any point, it goes on there.

    Raises `ValueError` for a recipe that starts from a base model, and for a folder of another config.
    """
    if config.world is None or config.vq_train is None:
        raise ValueError(f"recipe {config.name!r} fine-tunes a base model, expected one that trains from scratch: nano")
    folder.mkdir(parents=True, exist_ok=True)
    _keep_config(config, folder)
    stock = _render(config, folder / "stock")
    tokenizer = _tokenizer(config, folder / "tokenizer")
    model, layout = weights.build(config, tokenizer)
    trained_vq = _train_vq(config, model, stock, folder / "vq")
    model.model.vqmodel.load_state_dict(trained_vq.vq.state_dict())
    model.model.vqmodel.requires_grad_(False)
    _start_codes(model)
    codes = _code_stock(config, model, stock, folder / "stock")
    rows = AdWorldRows(config, layout, stock, *codes)
    sheet = SampleSheet(model, layout, config, rows, folder / "model")
    train(model, rows.batch, config.train, folder / "model", what="model", sample=sheet.draw)
    weights.save(folder / "weights", model, layout, torch.float16)
    return folder / "weights"


def _keep_config(config: Config, folder: Path) -> None:
    path = folder / "recipe.json"
    if path.exists() and Config.load(path) != config:
        raise ValueError(
            f"{folder} holds a run of another config, expected the same: choose another --out or delete it"
        )
    config.save(path)


def _render(config: Config, folder: Path) -> Stock:
    assert config.world is not None
    with progress_bar("render", len(needed_pictures(config.world))) as bar:
        return render_stock(
            config.world, folder, config.data.image_size, os.cpu_count() or 1, lambda n: bar.advance(by=n)
        )


def _tokenizer(config: Config, folder: Path) -> PreTrainedTokenizerBase:
    assert config.world is not None
    if not folder.exists():
        templates = [text for pool in TEMPLATES.values() for text in pool] + list(STYLE.values())
        tokenizer = learn_tokenizer([*all_texts(shop_of(config.world)), *templates * 100], config.model.vocab_size)
        partial = folder.with_name(folder.name + ".partial")
        tokenizer.save_pretrained(partial)
        partial.rename(folder)
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _train_vq(config: Config, model: UniAdGenForConditionalGeneration, stock: Stock, folder: Path) -> vq.VQTrainer:
    assert config.vq_train is not None
    with torch.random.fork_rng():
        torch.manual_seed(config.vq_train.seed)
        trainer = vq.VQTrainer(model.config)
    batches = PictureBatches(stock.pictures, config)

    def sample(step: int) -> None:
        with torch.no_grad():
            pixels = to_pixels(stock.pictures[:: max(len(stock.pictures) // 16, 1)][:16])
            painted = vq.decode(trainer.vq, vq.encode(trainer.vq, pixels))
            _grid([*to_pictures(pixels), *to_pictures(painted)], 16).save(folder / f"sample-{step:06d}.png")

    train(trainer, batches.batch, config.vq_train, folder, what="VQ", sample=sample)
    return trainer


def _start_codes(model: UniAdGenForConditionalGeneration) -> None:
    """The model's own code embeddings begin as the VQ's codebook, near codes alike, and as large as words are."""
    codebook = torch.nn.functional.normalize(model.model.vqmodel.quantize.embedding.weight, dim=-1)
    with torch.no_grad():
        model.model.generation_embeddings.weight.copy_(codebook)
        codes = model.prepare_embeddings_for_image_generation(torch.arange(len(codebook)))
        last = model.model.generation_aligner.hidden_layers[-1]
        assert isinstance(last, torch.nn.Linear)
        words = model.get_input_embeddings().weight
        assert isinstance(words, Tensor)
        last.weight.mul_(words.std() / codes.std())


WINDOW = 8  # steps whose rows are sorted by length together


class PictureBatches:
    """Batches for the VQ: pictures as painted; in every fourth batch the sizes in which clicks are shown."""

    def __init__(self, pictures: np.ndarray, config: Config) -> None:
        assert config.vq_train is not None
        self.pictures = pictures
        self.seed, self.size = config.vq_train.seed, config.vq_train.batch_size
        self.sides = config.data.image_size, config.data.click_size

    def batch(self, step: int) -> Tensor:
        """(B, 3, H, W) in [-1, 1], a pure function of the step."""
        rng = np.random.default_rng([self.seed, step])
        large, small = self.sides
        if step % 4 == 3 and small < large:
            chosen = rng.integers(len(self.pictures), size=self.size * (large // small) ** 2 // 2)
            return to_pixels(shrink(self.pictures[np.sort(chosen)], small))
        chosen = rng.integers(len(self.pictures), size=self.size)
        return to_pixels(self.pictures[np.sort(chosen)])


def shrink(pictures: np.ndarray, side: int) -> np.ndarray:
    """(B, H, W, 3) to (B, side, side, 3), as the pipeline shrinks a click's picture."""
    size = (side, side)
    return np.stack([np.asarray(Image.fromarray(p).resize(size, Image.Resampling.BOX)) for p in pictures])


@torch.no_grad()
def _code_stock(
    config: Config, model: UniAdGenForConditionalGeneration, stock: Stock, folder: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Codes of all pictures as targets (pictures, K) and as clicks (pictures, P); made once."""
    path = folder / "codes.npz"
    if not path.exists():
        targets, clicks = [], []
        with progress_bar("codes", len(stock.pictures)) as bar:
            for start in range(0, len(stock.pictures), 96):
                pictures = stock.pictures[start : start + 96]
                targets.append(model.encode_pictures(to_pixels(pictures)).numpy().astype(np.int16))
                small = to_pixels(shrink(pictures, config.data.click_size))
                clicks.append(model.encode_pictures(small).numpy().astype(np.int16))
                bar.advance(by=len(pictures))
        partial = folder / "partial.npz"
        np.savez(partial, targets=np.concatenate(targets), clicks=np.concatenate(clicks))
        os.replace(partial, path)
    with np.load(path) as arrays:
        return arrays["targets"], arrays["clicks"]


class AdWorldRows:
    """Training rows: shoppers without end, each with one request, its history and the click that happened."""

    def __init__(self, config: Config, layout: Layout, stock: Stock, targets: np.ndarray, clicks: np.ndarray) -> None:
        assert config.world is not None
        self.config, self.layout, self.stock = config, layout, stock
        self.targets, self.clicks = targets, clicks
        self.shop: Shop = shop_of(config.world)
        self.sampler = SAMPLERS[config.data.sampler]
        self._window = lru_cache(maxsize=1)(self._sorted_rows)  # of this object: it dies with its stock

    def batch(self, step: int) -> Batch:
        """The batch of a step, a pure function of it: every shopper is met once (or in turn, where they are limited).

        The rows of `WINDOW` steps are sorted by length before they are dealt out, so that little is padding.
        """
        window, place = divmod(step, WINDOW)
        order = np.random.default_rng([self.config.train.seed, window]).permutation(WINDOW)
        size = self.config.train.batch_size
        start = int(order[place]) * size
        return collate(self._window(window)[start : start + size], self.layout.pad_id)

    def _sorted_rows(self, window: int) -> list[Row]:
        size = WINDOW * self.config.train.batch_size
        return sorted((self.row(window * size + i) for i in range(size)), key=lambda row: len(row.ids))

    def row(self, number: int, *, with_history: bool = True, with_target: bool = True) -> Row:
        """One row; template, sampled clicks and history dropout are drawn from its number."""
        rng = np.random.default_rng([self.config.train.seed, number])
        visit = self.visit(number)
        language = visit.shopper.language
        target = self.shop.creative(visit.target)
        description = target.product.description(language)
        history = [self.shop.creative(i) for i in visit.history.creative_ids]
        shown: list[Shown] = []
        if rng.random() >= self.config.data.history_dropout and with_history:
            titles = [click.text(language) for click in history]
            chosen = self.sampler(similarity(titles, description), self.config.data.num_clicks, rng)
            shown = [Shown(titles[i], self.clicks[self.stock.row(history[i].picture_id)]) for i in chosen]
        points = target.product.selling_points(language)
        place = self.stock.row(target.picture_id)
        answer = Target(target.text(language), self.targets[place]) if with_target else None
        cutout = premultiplied(self.stock.cutouts[place])
        template = int(rng.integers(1000))
        return self.layout.lay_out(description, points, cutout, shown, template=template, target=answer)

    def visit(self, number: int) -> Visit:
        """The visit behind a row."""
        assert self.config.world is not None
        return self.shop.visit(number % (self.config.world.num_shoppers or 10**12))


class SampleSheet:
    """Now and then during training: six shoppers' true clicks, above what the model makes of them, and the texts."""

    def __init__(
        self,
        model: UniAdGenForConditionalGeneration,
        layout: Layout,
        config: Config,
        rows: AdWorldRows,
        folder: Path,
    ) -> None:
        self.model, self.layout, self.config, self.rows, self.folder = model, layout, config, rows, folder
        self.numbers = range(10**9, 10**9 + 6)  # far beyond the rows of training

    @torch.no_grad()
    def draw(self, step: int) -> None:
        """Writes sample-STEP.png (truth, guided, without history) and sample-STEP.txt."""
        make: Callable[[bool], list[Row]] = lambda known: [  # noqa: E731
            self.rows.row(i, with_history=known, with_target=False) for i in self.numbers
        ]
        rows = [*make(True), *make(False)]
        visits = [self.rows.visit(i) for i in self.numbers]
        truth = [self.rows.shop.creative(visit.target) for visit in visits]
        points = [c.product.selling_points(v.shopper.language) for c, v in zip(truth, visits, strict=True)]
        unbound = replace(self.config.generate, connecting_words=())  # shows what the model itself has learnt
        decoder = Decoder(self.model, self.layout, unbound, list(self.numbers), points)
        *_, guided = decoder.run(collate(rows, self.layout.pad_id))
        stock = self.rows.stock
        pictures = [Image.fromarray(stock.pictures[stock.row(creative.picture_id)]) for creative in truth]
        if guided.codes.shape[1]:
            pictures += to_pictures(self.model.decode_pictures(guided.codes))
        _grid(pictures, len(truth)).save(self.folder / f"sample-{step:06d}.png")
        lines = [
            f"true: {creative.text(visit.shopper.language)}\nmade: {self.layout.tokenizer.decode(list(words))}\n"
            for creative, visit, words in zip(truth, visits, guided.words, strict=True)
        ]
        (self.folder / f"sample-{step:06d}.txt").write_text("\n".join(lines), encoding="utf-8")


def _grid(pictures: list[Image.Image], columns: int) -> Image.Image:
    side = pictures[0].width
    sheet = Image.new("RGB", (columns * side, math.ceil(len(pictures) / columns) * side), "white")
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number % columns * side, number // columns * side))
    return sheet
