"""CLIP: how alike two pictures are, and PickScore, how well a picture fits a prompt by people's choices."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoTokenizer, CLIPModel

from uniadgen.metrics.pictures import BATCH_SIZE, Encoder, Pixels, collected, with_prompts
from uniadgen.metrics.pixels import processor_of
from uniadgen.metrics.prompts import Reader, read_tokenizer
from uniadgen.model.bases import load_base


def read_clip(folder: Path, device: torch.device) -> CLIPModel:
    """A CLIP of Hugging Face's layout, in float32; `ValueError` names every tensor that is missing or too much."""
    model: Any = load_base(CLIPModel, folder, verdict="these are no CLIP's weights", dtype=torch.float32)
    return model.eval().to(device)


def clip_encoder(model: CLIPModel, pixels: Pixels, device: torch.device, batch_size: int, name: str) -> Encoder:
    """Pictures as CLIP's projected vectors, not normalised."""

    def network(seen: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        features: Any = model.get_image_features(pixel_values=seen)  # pyright: ignore[reportArgumentType]
        return features.pooler_output

    return Encoder(name, pixels, network, device, batch_size)


def load_clip(folder: Path, device: torch.device, batch_size: int = BATCH_SIZE) -> Encoder:
    """CLIP similarity: the cosine of projected vectors (Radford et al. 2021)."""
    model = read_clip(folder, device)
    return clip_encoder(model, processor_of(folder), device, batch_size, "clip")


@dataclass(frozen=True)
class PickScore:
    """exp(logit scale) times the cosine of prompt and picture, by a CLIP trained on choices (Kirstain et al. 2023).

    No softmax: scores of different pictures can be averaged. It reads English, 77 tokens of it.
    """

    model: CLIPModel
    encoder: Encoder
    reader: Reader
    name: str = "pickscore"
    needs_prompts: bool = True

    def __call__(
        self, pictures: Iterable[Image.Image], prompts: Iterable[str] | None = None
    ) -> Float32[np.ndarray, " N"]:
        """The score of each picture with its prompt; `ValueError` as `with_prompts` says."""
        batches = with_prompts(pictures, prompts, self.encoder.batch_size)
        return collected(self._score(batch, said) for batch, said in batches)

    @torch.inference_mode()
    def _score(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        model: Any = self.model
        features = model.get_text_features(**self.reader(prompts).to(self.encoder.device))
        words, seen = normalize(features.pooler_output, dim=-1), normalize(self.encoder.encode(pictures), dim=-1)
        return model.logit_scale.exp() * (words * seen).sum(-1)

    def truncated(self, prompts: Sequence[str]) -> Bool[np.ndarray, " N"]:
        """Which prompts are longer than CLIP reads."""
        return self.reader.truncated(prompts)


def load_pickscore(folder: Path, device: torch.device, batch_size: int = BATCH_SIZE) -> PickScore:
    """PickScore from its folder: model, tokenizer, preprocessing."""
    model = read_clip(folder, device)
    words: Any = model.config.text_config
    tokenizer = read_tokenizer(folder, AutoTokenizer, words.vocab_size)
    if words.eos_token_id not in (2, tokenizer.eos_token_id):  # 2 stands for "the highest id" in older checkpoints
        got, expected = words.eos_token_id, tokenizer.eos_token_id
        raise ValueError(
            f"{folder}: the text's end is token {got}, expected {expected}: config.json is another model's"
        )
    encoder = clip_encoder(model, processor_of(folder), device, batch_size, "pickscore")
    return PickScore(model, encoder, Reader(tokenizer, words.max_position_embeddings, "longest"))
