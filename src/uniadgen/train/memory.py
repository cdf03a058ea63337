"""What a run would train and how much memory it takes, before anything is loaded."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from rich.console import Group
from rich.table import Table
from torch import nn

from uniadgen.config import Config
from uniadgen.data.prompt import SPECIAL_TOKENS
from uniadgen.model import adapters
from uniadgen.model.configuration import architecture
from uniadgen.model.uniadgen import UniAdGenForConditionalGeneration
from uniadgen.train.loop import LAYERS

GPUS = (1, 2, 4, 8)
PARTS = {  # how a parameter's name begins -> what it is called
    "model.language_model": "language model",
    "lm_head": "language model",
    "model.generation": "image embeddings and head",
    "foreground": "foreground perception",
    "preference": "preference extraction",
    "model.vqmodel": "VQ",
    "model.vision_model": "SigLIP",
    "model.aligner": "SigLIP",
}


class Words(NamedTuple):
    """Tokens of a long request."""

    prompt: int = 300  # instruction, description, selling points
    text: int = 40  # the advertising text
    title: int | None = None  # of every click; None: as many as are shown at most


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU, by what they are for."""

    weights: float
    gradients: float
    optimizer: float
    gathered: float  # parameters in the precision and at the place where they are used
    activations: float

    @property
    def total(self) -> float:
        """All of it; the allocator's own needs, about a tenth, come on top."""
        return self.weights + self.gradients + self.optimizer + self.gathered + self.activations


def skeleton(config: Config) -> UniAdGenForConditionalGeneration:
    """The model that would be trained, without its numbers (meta device)."""
    with torch.device("meta"):
        model = UniAdGenForConditionalGeneration(architecture(config, pad_id=0))
        if config.train.bfloat16 and config.model.lora_rank:
            model.bfloat16()
        if config.model.lora_rank:
            adapters.add_trainables(model, config.model, range(len(SPECIAL_TOKENS)))
            for name in ("vision_model", "aligner", "vqmodel"):
                setattr(model.model, name, nn.Identity())
        else:
            model.model.vqmodel.requires_grad_(False)
    return model


def estimate(config: Config, model: nn.Module, num_gpus: int) -> Memory:
    """Bytes per GPU when `num_gpus` share a step and everything that is sharded (FSDP2)."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    used = 2 if config.train.bfloat16 else 4
    if num_gpus == 1:
        gathered = used * trained if config.train.bfloat16 else 0  # autocast's copies of float32 parameters
    else:
        layers = [module for module in model.modules() if isinstance(module, LAYERS)]
        sizes = [sum(p.numel() for p in layer.parameters()) for layer in layers]
        rest = sum(p.numel() for p in model.parameters()) - sum(sizes)
        gathered = used * (2 * max(sizes) + rest)  # a layer at work, the next one on its way, and what is in no layer
    return Memory(
        weights=weights / num_gpus,
        gradients=4 * trained / num_gpus,
        optimizer=8 * trained / num_gpus,
        gathered=gathered,
        activations=activations(config, num_gpus),
    )


def activations(config: Config, num_gpus: int = 1, request: Words = Words()) -> float:  # noqa: B008
    """Bytes that the forward pass keeps for the backward pass, for the rows that a GPU works on at once.

    Counted operation by operation for bfloat16 autocast (float32 without): see the terms. A frozen matrix keeps nothing
    of its input; LoRA keeps its own input three times over for q, k and v.
    """
    data, model, train = config.data, config.model, config.train
    own = max(train.batch_size // num_gpus, 1)
    rows = min(train.rows_at_once or own, own)
    half = 2 if train.bfloat16 else 4
    width, inner = model.hidden_size, model.intermediate_size
    title = data.click_words if request.title is None else request.title
    words, cells = data.num_clicks * title, data.num_clicks * config.click_cells
    share = model.keep_rate if model.compact else 1.0  # of the clicks' tokens, in the prompt
    places = request.prompt + request.text + share * (words + cells) + config.cells
    # Two norms in float32; LoRA's inputs of q, k, v, o; q, k, v and the attended; gate, its SiLU, up.
    layer = 2 * 4 * width + half * (4 * width + 4 * width + 3 * inner)
    if not model.lora_rank:
        layer += half * (3 * width + inner) + 2 * 4 * width  # inputs of gate, up, down, what the norms' weights scale
    kept = model.num_layers * layer
    if train.checkpointing:
        kept = model.num_layers * half * width + layer
    # A block of our preference modules: input, q, k, v, attended, projected; two norms; inner layer before and after.
    block = half * 20 * width + 2 * 4 * width
    blocks = (words + cells) * (block * (model.extractor_layers + model.fusion_layers) + half * 9 * width)
    # Logits, their float32 copy, and their logarithms.
    heads = request.text * model.vocab_size * (half + 4) + config.cells * (
        model.num_codes * (half + 4) + 3 * half * width
    )
    return rows * (places * kept + blocks + heads)


def report(config: Config) -> Group:
    """Two tables: trained parameters by part, and memory per GPU for 1, 2, 4 and 8 of them."""
    model = skeleton(config)
    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        part = next(label for start, label in PARTS.items() if name.startswith(start))
        part = "LoRA" if ".lora_" in name else "new tokens" if "trainable_tokens" in name else part
        held = counts.setdefault(part, [0, 0])
        held[0] += parameter.numel()
        held[1] += parameter.numel() * parameter.requires_grad
    parts = Table("part", "parameters", "trained", title=f"{config.name}: what is trained")
    for part, (held, trained) in counts.items():
        parts.add_row(part, f"{held:,}", f"{trained:,}")
    totals = [sum(column) for column in zip(*counts.values(), strict=True)]
    parts.add_section()
    parts.add_row("all", *(f"{total:,}" for total in totals))
    return Group(parts, _memory_table(config, model))


def _memory_table(config: Config, model: nn.Module) -> Table:
    train = config.train
    title = f"GB per GPU, estimated: {train.batch_size} rows a step, {train.rows_at_once or 'all'} at once"
    fields = ("weights", "gradients", "optimizer", "gathered", "activations", "total")
    table = Table("GPUs", *fields, title=title + (", checkpointing" if train.checkpointing else ""))
    for num_gpus in GPUS:
        memory = estimate(config, model, num_gpus)
        table.add_row(str(num_gpus), *(f"{getattr(memory, name) / 1e9:.1f}" for name in fields))
    return table
