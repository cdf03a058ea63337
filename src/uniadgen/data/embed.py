"""Sentences as unit vectors, by any encoder that transformers can load: the mean of its words' vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from uniadgen.data.checkpoints import device

MOST_TOKENS = 128  # of a sentence; the rest is cut off


@dataclass(frozen=True)
class Encoder:
    """A sentence encoder in a folder of Hugging Face's layout."""

    folder: str
    batch_size: int

    def __call__(self, texts: Sequence[str]) -> list[Mapping[str, Any]]:
        """`vector` of every text: float16 (D,), of length 1, so that a dot product is a cosine."""
        tokenizer, model = _loaded(self.folder)
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))  # little is then padding
        vectors: dict[int, np.ndarray] = {}
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            words = tokenizer(
                [texts[number] for number in batch],
                padding=True,
                truncation=True,
                max_length=MOST_TOKENS,
                return_tensors="pt",
            ).to(model.device)
            with torch.inference_mode():
                states = model(**words).last_hidden_state.float()  # (B, T, D)
            mask = words["attention_mask"][..., None]
            means = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
            vectors |= dict(zip(batch, means.half().cpu().numpy(), strict=True))
        return [{"vector": vectors[number]} for number in range(len(texts))]


@lru_cache(maxsize=1)  # loaded once in each process
def _loaded(folder: str) -> tuple[Any, Any]:
    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval().to(device())
