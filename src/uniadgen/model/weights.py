"""A folder of weights: model, tokenizer and recipe, written whole or not at all, read strictly."""

import json
from collections.abc import Sequence
from hashlib import blake2b, file_digest
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from uniadgen.config import Config, nearest
from uniadgen.data.prompt import Layout
from uniadgen.data.release import PROMPTS, Prompts, layout_of
from uniadgen.model.configuration import UniAdGenConfig, architecture
from uniadgen.model.shards import STEMS, check_tensors, new_shards, read, read_shapes, shapes_of, shards
from uniadgen.model.uniadgen import UniAdGenForConditionalGeneration

RECIPE, WEIGHTS = "recipe.json", STEMS[0]
OF_HISTORY = ("preference.", "preference_control.", "word_preference.")  # tensors of a model that extracts preferences
SHIPPED = Path(__file__).parents[1] / "weights"  # what comes with the package, a folder each


def find(name: str | Path) -> Path:
    """The folder of a shipped model ("nano"), or the folder of that name; `ValueError` where there is neither."""
    shipped = sorted(folder.name for folder in SHIPPED.iterdir()) if SHIPPED.is_dir() else []
    if name in shipped:
        return SHIPPED / name
    if not Path(name).is_dir():
        raise ValueError(f"{name}: no such folder of weights, and no shipped model{nearest(str(name), shipped)}")
    return Path(name)


def fingerprint(folder: Path) -> str:
    """A hash of all files of a folder of weights."""
    digest = blake2b(digest_size=16)
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as file:
            digest.update(f"{path.name} {file_digest(file, blake2b).hexdigest()}\n".encode())
    return digest.hexdigest()


def build(
    config: Config, tokenizer: PreTrainedTokenizerBase, prompts: Prompts | None = None
) -> tuple[UniAdGenForConditionalGeneration, Layout]:
    """A model of that config with new random weights, which its seed decides, and the layout of its tokenizer."""
    layout = layout_of(tokenizer, config, prompts)
    with torch.random.fork_rng():  # transformers initialises from the global generator
        torch.manual_seed(config.train.seed)
        return UniAdGenForConditionalGeneration(architecture(config, layout.pad_id)), layout


def save(folder: Path, model: UniAdGenForConditionalGeneration, layout: Layout, dtype: torch.dtype) -> None:
    """Writes a folder that `load` reads. A disk that fills up leaves no half-written folder behind."""
    with new_shards(folder) as writer:
        for name, tensor in model.state_dict().items():
            writer.add(name, tensor.to(dtype))
        save_settings(writer.folder, model.config, layout)


def save_settings(folder: Path, config: UniAdGenConfig, layout: Layout) -> None:
    """Writes what stands beside the tensors: architecture, tokenizer, recipe."""
    config.save_pretrained(folder)
    layout.save(folder)
    layout.config.save(folder / RECIPE)


def load(folder: Path) -> tuple[UniAdGenForConditionalGeneration, Layout, Config]:
    """Reads a folder that `save` wrote, in float32.

    Raises `ValueError` naming every tensor that is missing, extra or of another shape, or the file that is not there.
    """
    for name, beside in ((RECIPE, RECIPE), (WEIGHTS, f"{WEIGHTS}.index.json")):
        if not any((folder / file).is_file() for file in (name, beside)):
            raise ValueError(f"{folder}: no {name}, expected a folder of weights: train one with `uniadgen train`")
    try:
        config = Config.load(folder / RECIPE)
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / RECIPE}: not valid JSON ({error})") from None
    prompts = Prompts.load(folder / PROMPTS) if config.model.variant == "release" else None
    model, layout = build(config, read_tokenizer(folder), prompts)
    load_weights(model, folder)
    return model.eval(), layout, config


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder of weights; `ValueError` names the file of it that is missing or damaged."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        try:
            json.loads((folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{folder}: no {name}, expected a folder of weights: train one") from None
        except ValueError as error:
            raise ValueError(f"{folder / name}: damaged or cut short ({error})") from None
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def load_weights(model: torch.nn.Module, folder: Path, parts: Sequence[str] = ()) -> None:
    """Copies every tensor of a folder's safetensors files into the model, strictly.

    `parts` are beginnings of names: what is called so may be missing on either side; then the model's stays as it is.
    """
    files, expected = shards(folder), model.state_dict()
    found = {name: tensor for path in files for name, tensor in read_shapes(path)}
    found, wanted = (
        {name: tensor for name, tensor in one.items() if name in other or not name.startswith(tuple(parts))}
        for one, other in ((found, expected), (expected, found))
    )
    check_tensors(folder, shapes_of(found), shapes_of(wanted), "these weights are of another model")
    for path in files:
        for name, tensor in read(path):
            if name in wanted:
                expected[name].copy_(tensor)
