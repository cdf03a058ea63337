"""What fine-tuning trains on top of a base, and its folder: LoRA in PEFT's layout, our modules whole, new tokens.

adapter_config.json, adapter_model.safetensors    LoRA and the rows of the new tokens, as PEFT has them
modules.safetensors                               foreground perception and preference extraction
base.json                                         which base they belong to
recipe.json, tokenizer files, README.md           the resolved config, the layout's tokenizer, a model card
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from peft import LoraConfig
from torch import Tensor
from transformers import AddedToken, PreTrainedTokenizerBase

from uniadgen.config import Config, ModelConfig
from uniadgen.data.prompt import SPECIAL_TOKENS, Layout
from uniadgen.model import shards
from uniadgen.model.official import merge_lora
from uniadgen.model.shards import check_tensors, in_new_folder, read, save_tensors, shapes_of
from uniadgen.model.uniadgen import UniAdGenForConditionalGeneration

# The language model's attention (paper section 5.1), and nothing of SigLIP and DINOv2, whose layers are named alike.
TARGETS = r"model\.language_model\.layers\.\d+\.self_attn\.[qkvo]_proj"
OURS = ("foreground.", "preference.", "preference_control.", "word_preference.")
ADAPTER, MODULES, BASE, RECIPE = "adapter_model.safetensors", "modules.safetensors", "base.json", "recipe.json"
_PREFIX = "base_model.model."
_LORA = re.compile(r"(?P<target>.+)\.lora_(?P<half>[AB])\.weight")
_ROWS = re.compile(r"(?P<target>.+)\.token_adapter\.trainable_tokens_delta")


def with_special_tokens(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> PreTrainedTokenizerBase:
    """A base's tokenizer with our tokens added; `ValueError` where the vocabulary has no rows left for them."""
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    if len(tokenizer) > vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens with ours, expected at most model.vocab_size = {vocab_size}"
        )
    return tokenizer


def add_trainables(model: UniAdGenForConditionalGeneration, config: ModelConfig, tokens: Sequence[int]) -> None:
    """Freezes the base and adds what is trained, in float32: LoRA, the rows of the new `tokens`, our modules whole."""
    model.requires_grad_(False)
    rows = sorted(tokens)
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules=TARGETS,
        trainable_token_indices={"embed_tokens": rows, "lm_head": rows},
    )
    model.add_adapter(lora)
    for name, parameter in model.named_parameters():
        if name.startswith(OURS):
            parameter.requires_grad_(not name.endswith("mask_token"))  # of DINOv2's own training; we mask nothing
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def is_kept(name: str, parameter: Tensor) -> bool:
    """Whether an adapter's folder holds a parameter: what was trained, and all of our modules."""
    return parameter.requires_grad or name.startswith(OURS)


def fingerprint(base: Path) -> str:
    """Tells one base from another."""
    return shards.fingerprint(base, ["model.language_model.norm.weight", "model.generation_embeddings.weight"])


def save(
    folder: Path,
    model: UniAdGenForConditionalGeneration,
    layout: Layout,
    values: Mapping[str, Tensor],
    base: Path,
) -> None:
    """Writes the folder of an adapter, whole or not at all. `values` are those of all parameters that `is_kept`."""
    lora = {_PREFIX + name.replace(".default", ""): t for name, t in values.items() if not name.startswith(OURS)}
    modules = {name: tensor for name, tensor in values.items() if name.startswith(OURS)}
    with in_new_folder(folder) as partial:
        model.peft_config["default"].save_pretrained(str(partial))
        save_tensors(lora, partial / ADAPTER)
        save_tensors(modules, partial / MODULES)
        (partial / BASE).write_text(json.dumps({"fingerprint": fingerprint(base)}) + "\n")
        layout.save(partial)
        layout.config.save(partial / RECIPE)
        (partial / "README.md").write_text(_card(layout.config, lora, modules), encoding="utf-8")


def _card(config: Config, lora: Mapping[str, Tensor], modules: Mapping[str, Tensor]) -> str:
    """The model card."""
    model, train = config.model, config.train
    added, own = (sum(tensor.numel() for tensor in tensors.values()) for tensors in (lora, modules))
    return f"""# {config.name}, fine-tuned with uniadgen

LoRA of rank {model.lora_rank} (alpha {model.lora_alpha}) on the language model's attention and the rows of
{len(SPECIAL_TOKENS)} new tokens: {added:,} parameters. Foreground perception and preference extraction: {own:,}.
Trained for {train.steps:,} steps of {train.batch_size} rows at a learning rate of {train.learning_rate}.
Everything else is in `{RECIPE}`.

It works with the base that it was trained on alone (`{BASE}`), whose licence holds for it too: the weights of
Janus-Pro come under the DeepSeek model licence. `uniadgen merge` makes one folder of both.
"""


def trained_config(folder: Path) -> Config:
    """The config of an adapter's folder; `ValueError` where the folder is none."""
    missing = [name for name in (ADAPTER, MODULES, BASE, RECIPE) if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder}: no {', '.join(missing)}, expected the folder of an adapter: fine-tune one first")
    return Config.load(folder / RECIPE)


def merge(model: UniAdGenForConditionalGeneration, folder: Path, base: Path) -> None:
    """Merges an adapter into the model of the base that it was trained on, in place.

    Raises `ValueError` for an adapter of another base, and naming what is missing, extra or of another shape.
    """
    if json.loads((folder / BASE).read_text())["fingerprint"] != fingerprint(base):
        raise ValueError(f"{folder}: this adapter was trained on another base than {base}, expected its own")
    _apply(model, folder, +1)


def unmerge(model: UniAdGenForConditionalGeneration, folder: Path) -> None:
    """Takes LoRA out of a merged model again (up to rounding); new tokens and our modules stay as they are."""
    _apply(model, folder, -1)


@torch.no_grad()
def _apply(model: UniAdGenForConditionalGeneration, folder: Path, sign: int) -> None:
    config = trained_config(folder)
    state = model.state_dict()
    rows = json.loads((folder / "adapter_config.json").read_text())["trainable_token_indices"]
    halves: dict[str, dict[str, Tensor]] = {}
    for name, tensor in _adapter(folder):
        if lora := _LORA.fullmatch(name):
            halves.setdefault(lora["target"], {})[lora["half"]] = tensor
        elif (row := _ROWS.fullmatch(name)) and sign > 0:
            target = state[f"{row['target']}.weight"]
            target[rows[row["target"].rpartition(".")[2]]] = tensor.to(target.dtype)
    expected = {name for name in state if re.fullmatch(TARGETS + r"\.weight", name)}
    if {f"{target}.weight" for target in halves} != expected or any(len(half) != 2 for half in halves.values()):
        raise ValueError(f"{folder / ADAPTER}: has LoRA for {len(halves)} matrices, expected {len(expected)}")
    for target, half in halves.items():
        weight = state[f"{target}.weight"]
        weight.copy_(merge_lora(weight, half["A"], half["B"], sign * config.model.lora_alpha))
    if sign > 0:
        ours = {name: tensor for name, tensor in state.items() if name.startswith(OURS)}
        found = dict(read(folder / MODULES))
        check_tensors(folder / MODULES, shapes_of(found), shapes_of(ours), "these modules are of another model")
        for name, tensor in found.items():
            ours[name].copy_(tensor)


def _adapter(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in read(folder / ADAPTER):
        yield name.removeprefix(_PREFIX), tensor
