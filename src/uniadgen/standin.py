"""Models of the paper's sizes and requests for them, all of random numbers, and the check that a GPU steps rightly."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from uniadgen.config import Config, override, replace_in
from uniadgen.data.batch import Batch, Kind
from uniadgen.data.prompt import Layout
from uniadgen.data.tokenizer import learn_tokenizer
from uniadgen.engine.engine import Engine
from uniadgen.engine.precision import Precision
from uniadgen.engine.reading import take
from uniadgen.engine.scheduler import Scheduler
from uniadgen.engine.slots import Places, Slots, step
from uniadgen.model.configuration import architecture
from uniadgen.model.uniadgen import UniAdGenForConditionalGeneration
from uniadgen.recipes import nano, paper_1b, paper_7b

WORDS = 30  # of a text
BOUNDS = {"bf16": 0.03, "cache": 0.06, "fp8": 0.12}  # of hidden states, relative to float32


def tiny() -> Config:
    """nano's architecture, as small as can be: the whole bench in seconds on a CPU."""
    small = {"hidden_size": 256, "num_layers": 4, "num_heads": 2, "intermediate_size": 256, "num_codes": 64}
    small |= {"vq_patch": 8, "vq_channels": 32, "vq_blocks": 1, "vq_latent": 16, "foreground_size": 48}
    model = {f"model__{name}": value for name, value in small.items()} | {"model__word_preference": 0}
    sizes = {"data__image_size": 32, "data__click_size": 16, "data__num_clicks": 2, "data__click_words": 4}
    return replace(replace_in(nano(), name="tiny", generate__connecting_words=(), **model, **sizes), words_train=None)


SHAPES: dict[str, Callable[[], Config]] = {"1b": paper_1b, "7b": paper_7b, "tiny": tiny}


def build(config: Config, device: torch.device, dtype: torch.dtype) -> tuple[UniAdGenForConditionalGeneration, Layout]:
    """A model with random weights, made where it is to be, and a layout."""
    config = replace_in(config, generate__max_words=WORDS)
    layout = Layout(learn_tokenizer(["a mug for the kitchen"], 400), config)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = UniAdGenForConditionalGeneration(architecture(config, layout.pad_id))
    finally:
        torch.set_default_dtype(before)
    return model.requires_grad_(False).eval(), layout


def requests(config: Config, number: int, device: torch.device, seed: int = 0, same: bool = False) -> Batch:
    """Rows of the true layout with random words and codes: full histories, and after them the rows without."""
    data, model = config.data, config.model
    clicks, words, cells = data.num_clicks, data.click_words, config.click_cells
    large = model.hidden_size > 1024
    said, other = (1400 - clicks * (words + cells), 110) if large else (20, 11)
    length = said + clicks * (words + cells)
    generator = torch.Generator().manual_seed(seed)
    one = partial(torch.randint, generator=generator)
    ids = one(model.vocab_size, (number, length))
    kind = torch.tensor([Kind.PROMPT] * said + [Kind.CLICK_TEXT] * clicks * words + [Kind.CLICK_IMAGE] * clicks * cells)
    without = torch.tensor([Kind.PAD] * (length - other) + [Kind.PROMPT] * other)
    side = data.image_size
    whole = Batch(
        ids=torch.cat([ids, ids]),
        kind=torch.stack([kind] * number + [without] * number),
        click_ids=one(model.vocab_size, (number, clicks, words)).repeat(2, 1, 1),
        click_words=torch.ones(2 * number, clicks, words, dtype=torch.bool),
        click_codes=one(model.num_codes, (number, clicks, cells)).repeat(2, 1, 1),
        clicked=torch.tensor([True] * number + [False] * number)[:, None].expand(-1, clicks).contiguous(),
        cutout=torch.rand(number, 4, side, side, generator=generator).repeat(2, 1, 1, 1),
    )
    rows = [0] * number + [number] * number if same else list(range(2 * number))
    return take(whole, rows).to(device)


@torch.no_grad()
def checked(device: torch.device) -> dict[str, str]:
    """A tiny model: the tokens of torch's own steps in float32, and hidden states in fewer bits."""
    plain = device.type != "cuda"
    results = {}
    for lag, ways in ((0, ("one cell a step", "16 cells a step")), (2, ("staggered rows",))):
        expected = tokens(device, "torch", lag)
        for way in ways:
            results[f"float32, {way}"] = "same tokens" if tokens(device, way, lag) == expected else "OTHER TOKENS"
    exact = hidden(device, torch.float32, Precision(), True)
    tried = {"bf16": Precision(), "cache": Precision(cache="fp8"), "fp8": Precision(weights="fp8", cache="fp8")}
    for name, precision in tried.items():
        try:
            off = float((hidden(device, torch.bfloat16, precision, plain) - exact).norm() / exact.norm())
        except Exception as error:
            results[name] = told(error)
            continue
        verdict = "within" if off < BOUNDS[name] else "NOT WITHIN"
        results[f"hidden states, {name}"] = f"{off:.4f} off, {verdict} {BOUNDS[name]}"
    return results


def tokens(device: torch.device, way: str, lag: int) -> tuple[tuple[tuple[int, ...], ...], list[list[int]]]:
    """Of one ad, words and codes: `torch` takes its steps one by one, and all other ways paint on the device."""
    model, layout = seeded(device, torch.float32)
    model.config.row_lag = lag
    layout = Layout(layout.tokenizer, override(layout.config, {"model.row_lag": lag}))
    engine = Engine(model, 16 if way.startswith("16") else 1, plain_torch=device.type != "cuda" or way == "torch")
    if way == "torch":
        engine.step, engine.painter = partial(step, engine.layers), None
    scheduler = Scheduler(engine, layout, layout.config.generate, 1, 1)
    (ticket,) = scheduler.submit(requests(layout.config, 1, device), [torch.Generator().manual_seed(0)], [()])
    while scheduler.step():
        pass
    if ticket.error is not None:
        raise ticket.error
    return ticket.latest.words, ticket.latest.codes.tolist()


def seeded(device: torch.device, dtype: torch.dtype) -> tuple[UniAdGenForConditionalGeneration, Layout]:
    """The tiny model, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, layout = build(tiny(), torch.device("cpu"), torch.float32)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model.to(device, dtype), layout  # pyright: ignore[reportArgumentType] - as transformers wraps it


def hidden(device: torch.device, dtype: torch.dtype, precision: Precision, plain: bool) -> torch.Tensor:
    """Of three steps of two rows with prompts of different lengths, the last one a few positions wide."""
    model, _ = seeded(device, dtype)
    engine = Engine(model, 1, precision, plain)
    generator, width = torch.Generator().manual_seed(0), engine.codes.shape[1]
    lengths, outs = (150, 33), []
    read = [engine.layers.read(torch.randn(n, width, generator=generator).to(device, dtype)) for n in lengths]
    slots = Slots(read[0], 2, 200, dtype=engine.cache_dtype)
    for number, prefix in enumerate(read):
        slots.join(number, prefix)
    for number in range(6):
        x = torch.randn(2, 3, width, generator=generator).to(device, dtype)
        position = (torch.tensor(lengths)[:, None] + 3 * number + torch.arange(3)).to(device)
        outs.append(
            engine.step([slots], x, Places.after(position), None, [n + 3 * number for n in lengths]).float().clone()
        )
    return torch.cat(outs)


def told(error: Exception) -> str:
    """In one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
