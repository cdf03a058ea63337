"""Fine-tunes a base on a store of examples (paper section 5.1): LoRA, foreground perception, preference extraction."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from PIL import Image
from torch import nn
from transformers import AutoTokenizer

from uniadgen.config import Config
from uniadgen.data.encode import Encode
from uniadgen.data.prompt import SPECIAL_TOKENS, Layout, token_id
from uniadgen.data.rows import WINDOW, Rows, Share
from uniadgen.data.store import Store
from uniadgen.model import adapters, vq, weights
from uniadgen.model.configuration import architecture
from uniadgen.model.uniadgen import UniAdGenForConditionalGeneration
from uniadgen.pipeline import to_pixels
from uniadgen.train.loop import keep_config, train, whole
from uniadgen.train.sheet import SampleSheet


def finetune(config: Config, base: Path, dinov2: Path, data: Path, folder: Path) -> Path:
    """Trains for `config.train.steps` steps, or what is left of them; returns the folder of the adapter.

    Started by torchrun or accelerate launch, it runs on all their processes. Raises `ValueError` for a base, a DINOv2
    or a store that is not the recipe's.
    """
    state = PartialState(cpu=not torch.cuda.is_available())
    share = Share(state.process_index, state.num_processes)
    if state.is_main_process:
        keep_config(config, folder)
    model, layout = prepare(config, base, dinov2)
    store = Store(data, config)
    if store.vq != vq.fingerprint(base):
        raise ValueError(f"{data}: was coded with the VQ of another base, expected that of {base}: code it again")
    rows = Rows(config, layout, store, share)
    sheet = SampleSheet(model, rows, folder / "model")
    train(
        model,
        rows.batches,
        config.train,
        folder / "model",
        what="model",
        window=WINDOW,
        sample=sheet.draw,
        numbers=rows.numbers,
    )
    values = {name: whole(p).detach().cpu() for name, p in model.named_parameters() if adapters.is_kept(name, p)}
    if state.is_main_process:
        adapters.save(folder / "adapter", model, layout, values, base)
    state.wait_for_everyone()
    state.destroy_process_group()
    return folder / "adapter"


def prepare(config: Config, base: Path, dinov2: Path) -> tuple[UniAdGenForConditionalGeneration, Layout]:
    """The model as it is before its first step, on every process alike, and its layout."""
    layout = layout_for(config, base)
    kind = torch.bfloat16 if config.train.bfloat16 else torch.float32
    sizes = architecture(config, layout.pad_id)
    with torch.random.fork_rng():  # transformers and peft initialise from the global generator
        torch.manual_seed(config.train.seed)
        model = UniAdGenForConditionalGeneration.from_base(sizes, base, dinov2, dtype=kind)
        adapters.add_trainables(model, config.model, [token_id(layout.tokenizer, token) for token in SPECIAL_TOKENS])
    drop_unused(model)
    return model, layout


def layout_for(config: Config, base: Path) -> Layout:
    """The layout of a base's own tokenizer, with our tokens added to it."""
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    return Layout(adapters.with_special_tokens(tokenizer, config.model.vocab_size), config)


def drop_unused(model: UniAdGenForConditionalGeneration) -> None:
    """SigLIP and its aligner are off our path, and pictures come as codes: training holds none of them."""
    for name in ("vision_model", "aligner"):
        setattr(model.model, name, nn.Identity())


def merge_into_base(adapter: Path, base: Path, out: Path) -> None:
    """One folder of weights, in bfloat16, of an adapter and its base."""
    config = adapters.trained_config(adapter)
    layout = Layout(weights.read_tokenizer(adapter), config)
    model = UniAdGenForConditionalGeneration.from_base(
        architecture(config, layout.pad_id), base, None, dtype=torch.bfloat16
    )
    adapters.merge(model, adapter, base)
    weights.save(out, model, layout, torch.bfloat16)


def encoder(config: Config, base: Path) -> Encode:
    """The VQ of a base as a function of pictures, which are squares of one size."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network: Any = vq.load(architecture(config, pad_id=0), base)
    network.to(device)

    @torch.no_grad()
    def codes(pictures: Sequence[Image.Image]) -> np.ndarray:
        pixels = to_pixels(np.stack([np.asarray(picture) for picture in pictures]))
        return vq.encode(network, pixels.to(device)).cpu().numpy()

    return codes
