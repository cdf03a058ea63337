"""A folder of weights: model, tokenizer and recipe, written whole or not at all, read strictly."""

import json
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from uniadgen.config import Config
from uniadgen.data.prompt import Layout
from uniadgen.model.configuration import architecture
from uniadgen.model.uniadgen import UniAdGenForConditionalGeneration

RECIPE, WEIGHTS = "recipe.json", "model.safetensors"


def build(config: Config, tokenizer: PreTrainedTokenizerBase) -> tuple[UniAdGenForConditionalGeneration, Layout]:
    """A model of that config with new random weights, which its seed decides, and the layout of its tokenizer."""
    layout = Layout(tokenizer, config)
    with torch.random.fork_rng():  # transformers initialises from the global generator
        torch.manual_seed(config.train.seed)
        return UniAdGenForConditionalGeneration(architecture(config, layout.pad_id)), layout


def save(folder: Path, model: UniAdGenForConditionalGeneration, layout: Layout, dtype: torch.dtype) -> None:
    """Writes a folder that `load` reads. A disk that fills up leaves no half-written folder behind."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        tensors = {name: tensor.to(dtype).contiguous() for name, tensor in model.state_dict().items()}
        try:
            save_file(tensors, partial / WEIGHTS, metadata={"format": "pt"})
        except SafetensorError as error:  # how safetensors reports a disk that is full
            raise OSError(f"{partial / WEIGHTS} could not be written, is the disk full? ({error})") from error
        model.config.save_pretrained(partial)
        layout.tokenizer.save_pretrained(partial)
        layout.config.save(partial / RECIPE)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load(folder: Path) -> tuple[UniAdGenForConditionalGeneration, Layout, Config]:
    """Reads a folder that `save` wrote, in float32.

    Raises `ValueError` naming every tensor that is missing, extra or of another shape, or the file that is not there.
    """
    for name in (RECIPE, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: no {name}, expected a folder of weights: train one with `uniadgen train`")
    try:
        config = Config.load(folder / RECIPE)
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / RECIPE}: not valid JSON ({error})") from None
    model, layout = build(config, _tokenizer(folder))
    load_weights(model, folder / WEIGHTS)
    return model.eval(), layout, config


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        try:
            json.loads((folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{folder}: no {name}, expected a folder of weights: train one") from None
        except ValueError as error:
            raise ValueError(f"{folder / name}: damaged or cut short ({error})") from None
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Copies every tensor of a safetensors file into the model, strictly."""
    expected = model.state_dict()
    try:
        with safe_open(path, framework="pt") as file:
            found = set(file.keys())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in found}
            problems = [f"{name} is missing" for name in sorted(expected.keys() - found)]
            problems += [f"{name} is not expected" for name in sorted(found - expected.keys())]
            problems += [
                f"{name} has shape {shapes[name]}, expected {tuple(expected[name].shape)}"
                for name in sorted(found & expected.keys())
                if shapes[name] != tuple(expected[name].shape)
            ]
            if problems:
                more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
                raise ValueError(f"{path}: {'; '.join(problems[:5])}{more}: these weights are of another model")
            for name, tensor in expected.items():
                tensor.copy_(file.get_tensor(name))
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged or cut short ({error})") from None
