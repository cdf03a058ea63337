"""A recipe from scratch on AdWorld: render the shop, train the VQ, code every picture once, train the model."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from uniadgen.config import Config
from uniadgen.data.adworld import Stock, all_texts, needed_pictures, render_stock, shop_of
from uniadgen.data.prompt import STYLE, TEMPLATES, Layout
from uniadgen.data.rows import WINDOW, Rows, Sample
from uniadgen.data.tokenizer import learn_tokenizer
from uniadgen.model import vq, weights
from uniadgen.model.shards import in_new_folder
from uniadgen.model.uniadgen import UniAdGenForConditionalGeneration
from uniadgen.pipeline import to_pictures, to_pixels
from uniadgen.train.distill import BranchRows, Distilled
from uniadgen.train.log import progress_bar
from uniadgen.train.loop import keep_config, train
from uniadgen.train.sheet import SampleSheet, grid
from uniadgen.train.words import start
from uniadgen.world.shoppers import Shop


class Given(NamedTuple):
    """What a recipe takes from elsewhere instead of making it."""

    stock: Path | None = None  # the folder of pictures, tokenizer and VQ: of several recipes, or of an earlier run
    parts: Path | None = None  # weights whose tokenizer and VQ are taken
    base: Path | None = None  # weights that training begins from, tokenizer and VQ included


def begun(config: Config, given: Given) -> Config:
    """The recipe with the mark of the weights that it begins from, so that no run is taken for one of others."""
    if given.base and given.parts:
        raise ValueError("got a base and parts, expected one: a base has a tokenizer and a VQ of its own")
    if given.base is None:
        if config.distilled:
            raise ValueError(f"recipe {config.name!r} learns a base's guided scores, expected --base, such as nano")
        return config
    left_out = Config.load(given.base / weights.RECIPE).generate.leave_out
    if config.distilled and left_out != "history":
        raise ValueError(f"{given.base}: guidance leaves out {left_out}, expected history: no other is distilled")
    return replace(config, base=weights.fingerprint(given.base))


def train_recipe(config: Config, folder: Path, given: Given = Given()) -> Path:  # noqa: B008 - frozen
    """Runs every stage that is not yet done; returns the folder of weights. Killed at any point, it goes on there.

    With a base all tensors begin as there. Of preference extraction, what the base lacks begins anew, what the recipe
    lacks is left out; a word preference that the base has is trained on with all else.
    Raises `ValueError` for a recipe that fine-tunes Janus-Pro, for a folder of another config, and for a base that is
    another model.
    """
    _check_scratch(config)
    config = begun(config, given)
    keep_config(config, folder)
    model, layout, source = make_stock(config, given.stock or folder, given.base or given.parts)
    if given.base:
        weights.load_weights(model, given.base, weights.OF_HISTORY)
    words = _learns_words(config, given.base)
    if words:
        model.word_preference.requires_grad_(False)  # learnt when all else is
    learner, rows, batches = _to_learn(config, model, layout, source, given)
    sheet = SampleSheet(model, rows, folder / "model")
    train(
        learner,
        batches,
        config.train,
        folder / "model",
        what="model",
        window=WINDOW,
        sample=sheet.draw,
        numbers=rows.numbers,
    )
    if words:
        _train_words(config, model, layout, source, folder / "words")
    weights.save(folder / "weights", model, layout, torch.float16)
    return folder / "weights"


def _learns_words(config: Config, base: Path | None) -> bool:
    """Whether the word preference is learnt, which a base may have done before."""
    learnt = base is not None and Config.load(base / weights.RECIPE).model.word_preference
    return bool(config.model.word_preference) and not learnt


def _to_learn(
    config: Config, model: UniAdGenForConditionalGeneration, layout: Layout, source: "AdWorldSource", given: Given
) -> tuple[nn.Module, Rows, Callable[[int], Sequence[Any]]]:
    """What is trained, the rows it is shown in sample sheets, and the batches of a step."""
    if not config.distilled:
        rows = Rows(config, layout, source)
        return model, rows, rows.batches
    assert given.base is not None, "`begun` refuses that"
    base, _, _ = weights.load(given.base)
    both = BranchRows(config, layout, source)
    return Distilled(model, base, config.distilled), both, both.branches


def make_stock(
    config: Config, folder: Path, parts: Path | None = None
) -> tuple[UniAdGenForConditionalGeneration, Layout, "AdWorldSource"]:
    """What recipes share: pictures, tokenizer, VQ and codes, made where they are not yet there; and an untrained model.

    Raises `ValueError` where the folder, or `parts`, are of other settings.
    """
    _check_scratch(config)
    _share(config, folder)
    if parts is not None:
        _check_parts(parts, config)
    stock = _render(config, folder / "stock")
    tokenizer = _tokenizer(config, folder / "tokenizer") if parts is None else weights.read_tokenizer(parts)
    model, layout = weights.build(config, tokenizer)
    found = _train_vq(config, model, stock, folder / "vq").vq if parts is None else vq.load(model.config, parts)
    model.model.vqmodel.load_state_dict(found.state_dict())
    model.model.vqmodel.requires_grad_(False)
    _start_codes(model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)  # pyright: ignore[reportArgumentType] - as transformers wraps it
    return model, layout, AdWorldSource(config, stock, *_code_stock(config, model, stock, folder / "stock"))


def _check_scratch(config: Config) -> None:
    if config.world is None or config.vq_train is None:
        raise ValueError(f"recipe {config.name!r} fine-tunes a base model, expected one that trains from scratch: nano")


_OF_STOCK = (
    "vocab_size",
    "num_codes",
    "code_size",
    "vq_patch",
    "vq_channels",
    "vq_multiplier",
    "vq_blocks",
    "vq_latent",
)


def _share(config: Config, folder: Path) -> None:
    """Takes a folder for what recipes share; `ValueError` where it holds that of others."""
    if not (folder / weights.RECIPE).exists():
        keep_config(config, folder)
    found = Config.load(folder / weights.RECIPE)
    if _stock_settings(found) != _stock_settings(config):
        raise ValueError(
            f"{folder} holds pictures, tokenizer and VQ of another config ({found.name}), expected those of "
            f"{config.name}: choose another folder"
        )


def _check_parts(folder: Path, config: Config) -> None:
    found = Config.load(folder / weights.RECIPE).model
    for name in _OF_STOCK:
        here, wanted = getattr(found, name), getattr(config.model, name)
        if here != wanted:
            raise ValueError(f"{folder}: model.{name} is {here}, expected {wanted} as in {config.name}: choose others")


def _stock_settings(config: Config) -> list[Any]:
    """All that pictures, tokenizer, VQ and codes depend on."""
    sizes = [getattr(config.model, name) for name in _OF_STOCK]
    return [config.world, config.vq_train, config.data.image_size, config.data.click_size, *sizes]


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
        with in_new_folder(folder) as partial:
            tokenizer.save_pretrained(partial)
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
            grid([*to_pictures(pixels), *to_pictures(painted)], 16).save(folder / f"sample-{step:06d}.png")

    train(trainer, lambda step: [batches.batch(step)], config.vq_train, folder, what="VQ", sample=sample)
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


def _train_words(
    config: Config, model: UniAdGenForConditionalGeneration, layout: Layout, source: "AdWorldSource", folder: Path
) -> None:
    """The word preference, on a model that stays as it is: its texts alone are read."""
    assert config.words_train is not None
    alone = replace(config, train=config.words_train, data=replace(config.data, modality="text"))
    rows = Rows(alone, Layout(layout.tokenizer, alone), source)
    start(model.word_preference, rows)
    model.requires_grad_(False)
    model.word_preference.requires_grad_(True)
    train(model, rows.batches, config.words_train, folder, what="words", window=WINDOW, numbers=rows.numbers)


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
    """Codes of all pictures as targets (pictures, K) and as clicks (pictures, P); made once for each VQ."""
    codebook = model.model.vqmodel.quantize.embedding.weight
    path = folder / f"codes-{blake2b(codebook.cpu().numpy().tobytes(), digest_size=6).hexdigest()}.npz"
    if not path.exists():
        targets, clicks = [], []
        with progress_bar("codes", len(stock.pictures)) as bar:
            for start in range(0, len(stock.pictures), 96):
                pictures = stock.pictures[start : start + 96]
                targets.append(model.encode_pictures(to_pixels(pictures)).numpy().astype(np.int16))
                small = to_pixels(shrink(pictures, config.data.click_size))
                clicks.append(model.encode_pictures(small).numpy().astype(np.int16))
                bar.advance(by=len(pictures))
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, targets=np.concatenate(targets), clicks=np.concatenate(clicks))
        os.replace(partial, path)
    with np.load(path) as arrays:
        return arrays["targets"], arrays["clicks"]


class AdWorldSource:
    """AdWorld's shoppers, without end: each with one request, its history and the click that happened."""

    def __init__(self, config: Config, stock: Stock, targets: np.ndarray, clicks: np.ndarray) -> None:
        assert config.world is not None
        self.world, self.stock = config.world, stock
        self.targets, self.clicks = targets, clicks
        self.shop: Shop = shop_of(config.world)

    def sample(self, number: int) -> Sample:
        """The visit of a shopper; every shopper is met once, or in turn where they are limited."""
        visit = self.shop.visit(number % (self.world.num_shoppers or 10**12))
        language = visit.shopper.language
        target, *history = (self.shop.creative(i) for i in (visit.target, *visit.history.creative_ids))
        place = self.stock.row(target.picture_id)
        return Sample(
            target.product.description(language),
            target.product.selling_points(language),
            tuple(click.text(language) for click in history),
            tuple(self.stock.row(click.picture_id) for click in history),
            target.text(language),
            place,
            place,
        )

    def cutout(self, product: int) -> np.ndarray:
        """The seller's transparent picture, (S, S, 4)."""
        return self.stock.cutouts[product]
