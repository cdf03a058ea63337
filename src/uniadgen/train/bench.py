"""How fast a recipe trains here: rows and tokens per second, memory, utilisation, beside a plain loop."""

import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from rich.table import Table
from torch import nn

from uniadgen.config import Config, override
from uniadgen.data.batch import Batch, Kind, Row, collate
from uniadgen.data.prompt import SPECIAL_TOKENS
from uniadgen.model import adapters
from uniadgen.model.configuration import architecture
from uniadgen.model.uniadgen import UniAdGenForConditionalGeneration
from uniadgen.train.finetune import drop_unused
from uniadgen.train.loop import Trainer
from uniadgen.train.memory import Words

PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bfloat16 FLOP/s, from NVIDIA's data sheets
REQUEST = Words()


@dataclass(frozen=True)
class Speed:
    """One line of the table."""

    name: str
    seconds: float  # median of the steps
    rows: int
    tokens: int
    flops: float  # of the model, recomputation not counted
    gigabytes: float | None  # largest allocation on a GPU

    @property
    def utilisation(self) -> float | None:
        """Share of the device's peak, where it is known."""
        if not torch.cuda.is_available():
            return None
        name = torch.cuda.get_device_name()
        peak = next((value for part, value in PEAK.items() if part in name), None)
        return self.flops / self.seconds / peak if peak else None


def bench_training(config: Config, steps: int) -> list[Speed]:
    """Times steps on made-up rows in the recipe's true layout and on random weights: ours, its switches, a plain loop.

    The ways take turns, step by step, so that they meet the same load; the first turn is not counted. On a GPU each
    way runs alone, as memory allows.
    """
    alone = torch.cuda.is_available()
    ways = _ways(config)
    if not alone:
        made = {name: make() for name, make in ways.items()}
        times: dict[str, list[float]] = {name: [] for name in made}
        for turn in range(steps + 1):
            for name, step in made.items():
                times[name].append(_timed(step, turn))
        return [_speed(config, name, median(seconds[1:]), None) for name, seconds in times.items()]
    found = []
    for name, make in ways.items():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            step = make()
            seconds = [_timed(step, turn) for turn in range(steps + 1)][1:]
        except torch.cuda.OutOfMemoryError:
            found.append(Speed(f"{name}: out of memory", float("nan"), 0, 0, 0, None))
            continue
        found.append(_speed(config, name, median(seconds), torch.cuda.max_memory_allocated() / 1e9))
        del step
    return found


def _ways(config: Config) -> dict[str, Callable[[], Callable[[int], object]]]:
    """What is timed, by name; each is made when its turn comes."""
    ways: dict[str, Callable[[], Callable[[int], object]]] = {"ours": lambda: _ours(config)}
    if torch.cuda.is_available():
        other = not config.train.checkpointing
        named = "checkpointing" if other else "no checkpointing"
        ways[f"ours, {named}"] = lambda: _ours(override(config, {"train.checkpointing": other}))
        ways["ours, layers compiled"] = lambda: _ours(config, compiled=True)
    ways["plain loop, decoder alone"] = lambda: _plain(config)
    return ways


def _timed(step: Callable[[int], object], turn: int) -> float:
    began = time.perf_counter()
    step(turn)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _speed(config: Config, name: str, seconds: float, gigabytes: float | None) -> Speed:
    rows = config.train.batch_size
    return Speed(name, seconds, rows, rows * _places(config), rows * _flops(config), gigabytes)


def _ours(config: Config, compiled: bool = False) -> Callable[[int], object]:
    """A step of the loop that `uniadgen train` runs."""
    model = _model(config)
    if compiled:
        for layer in model.model.language_model.layers:
            layer.compile()
    trainer = Trainer(model, config.train, Path(tempfile.gettempdir()))
    at_once = config.train.rows_at_once or config.train.batch_size
    rows = [_row(config, number) for number in range(config.train.batch_size)]
    batches = [collate(rows[i : i + at_once], pad_id=0) for i in range(0, len(rows), at_once)]
    return lambda turn: trainer.step(batches, turn)


def _model(config: Config) -> UniAdGenForConditionalGeneration:
    """The recipe's model with random weights, as it is trained."""
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = UniAdGenForConditionalGeneration(architecture(config, pad_id=0))
    if config.model.lora_rank:
        if config.train.bfloat16:
            model.bfloat16()
        adapters.add_trainables(model, config.model, range(1, 1 + len(SPECIAL_TOKENS)))
        drop_unused(model)
    model.model.vqmodel.requires_grad_(False)
    return model


def _plain(config: Config) -> Callable[[int], object]:
    """What one writes with transformers and peft: AdamW, the whole batch at once, logits at every position.

    It has the decoder alone: neither foreground perception nor preference extraction, so it does less than ours.
    """
    model = _model(config).train()
    trained = [p for name, p in model.named_parameters() if p.requires_grad and not name.startswith(adapters.OURS)]
    device = trained[0].device
    batch = collate([_row(config, number) for number in range(config.train.batch_size)], pad_id=0).to(device)
    optimizer = torch.optim.AdamW(trained, lr=config.train.learning_rate)

    def step(_: int) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.train.bfloat16):
            loss = _plain_loss(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _plain_loss(model: UniAdGenForConditionalGeneration, batch: Batch) -> torch.Tensor:
    painted = (batch.kind == Kind.IMAGE) | (batch.kind == Kind.CLICK_IMAGE)
    words = model.get_input_embeddings()(batch.ids * ~painted)
    codes = model.prepare_embeddings_for_image_generation(batch.ids * painted)
    embeds = torch.where(painted[..., None], codes, words)
    hidden = model.model.language_model(inputs_embeds=embeds, attention_mask=batch.attend.long()).last_hidden_state
    total = hidden.new_zeros(())
    for logits, mask in ((model.lm_head(hidden), batch.text_loss), (model.image_logits(hidden), batch.image_loss)):
        targets = batch.ids.roll(-1, dims=1).masked_fill(~mask, -100)
        total = total + F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100)
    return total


def _row(config: Config, number: int) -> Row:
    """A row with everything in it: a long prompt, all clicks, a text, a picture; its ids are random."""
    rng, data, model = np.random.default_rng(number), config.data, config.model
    parts = (
        (Kind.PROMPT, REQUEST.prompt),
        (Kind.CLICK_TEXT, data.num_clicks * data.click_words),
        (Kind.CLICK_IMAGE, data.num_clicks * config.click_cells),
        (Kind.TEXT, REQUEST.text),
        (Kind.IMAGE, config.cells),
    )
    kind = np.concatenate([np.full(count, part, np.int64) for part, count in parts])
    ids = np.where(
        (kind == Kind.IMAGE) | (kind == Kind.CLICK_IMAGE),
        rng.integers(model.num_codes, size=len(kind)),
        rng.integers(1, model.vocab_size, size=len(kind)),
    )
    titles = tuple(rng.integers(1, model.vocab_size, size=data.click_words) for _ in range(data.num_clicks))
    codes = rng.integers(model.num_codes, size=(data.num_clicks, config.click_cells))
    cutout = rng.random((4, data.image_size, data.image_size), dtype=np.float32)
    return Row(ids, kind, titles, codes, cutout)


def _places(config: Config) -> int:
    """Positions of a row, as they are read."""
    kind, model = _row(config, 0).kind, config.model
    clicked = ((kind == Kind.CLICK_TEXT) | (kind == Kind.CLICK_IMAGE)).sum()
    return len(kind) - (round((1 - model.keep_rate) * int(clicked)) if model.compact else 0)


def _flops(config: Config) -> float:
    """Of one row, forward and backward: 2 per parameter and token forward, 2 for the gradient of what comes in, 2 for
    that of the parameter where it is trained; and the attention scores (Chowdhery et al. 2022, appendix B).
    """
    model, data = config.model, config.data
    width, places = model.hidden_size, _places(config)
    base = 4 if model.lora_rank else 6
    layer = 4 * width**2 + 3 * width * model.intermediate_size
    decoder = places * model.num_layers * (base * layer + 12 * width * places)
    heads = base * width * (REQUEST.text * model.vocab_size + config.cells * (model.num_codes + width))
    clicked = data.num_clicks * (data.click_words + config.click_cells)
    preference = 6 * clicked * ((model.extractor_layers + model.fusion_layers) * 12 + 9) * width**2
    foreground = 6 * config.cells * (12 * model.foreground_layers * model.foreground_size**2 + width**2)
    return decoder + heads + preference + foreground


def table(config: Config, speeds: list[Speed]) -> Table:
    """For a terminal; ratios are to the last line, the plain loop."""
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    load = os.getloadavg()[0]
    title = (
        f"{config.name}: {config.train.batch_size} rows of {_places(config)} tokens; "
        f"{where}, {torch.get_num_threads()} threads, load {load:.1f}"
    )
    out = Table("way", "s/step", "rows/s", "tokens/s", "x plain", "GB", "utilisation", title=title)
    plain = speeds[-1].seconds
    for speed in speeds:
        out.add_row(
            speed.name,
            f"{speed.seconds:.3f}",
            f"{speed.rows / speed.seconds:.2f}",
            f"{speed.tokens / speed.seconds:,.0f}",
            f"{plain / speed.seconds:.2f}",
            "" if speed.gigabytes is None else f"{speed.gigabytes:.1f}",
            "" if speed.utilisation is None else f"{speed.utilisation:.0%}",
        )
    return out
