"""The prompt that a score compares a picture with: which of the ad's words it is, and how much of it is read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Bool
from transformers import BatchEncoding, PreTrainedTokenizerBase

from uniadgen.config import nearest
from uniadgen.records import Ad, Example


def _clicked(example: Example) -> str:
    if example.target is None:
        raise ValueError("got a request without a target, expected the title that was clicked: choose another prompt")
    return example.target.text


# The paper does not say which text its PickScore and ImageReward see, so every table names its choice.
PROMPTS: Final[dict[str, Callable[[Example, Ad], str]]] = {
    "description": lambda example, _: example.product.description,  # the same for every method and shopper
    "points": lambda example, _: ", ".join(example.product.selling_points),
    "text": lambda _, ad: ad.text,  # the text made with the picture: another one for every method
    "target": lambda example, _: _clicked(example),
}


def prompts_of(examples: Sequence[Example], ads: Sequence[Ad], choice: str) -> list[str]:
    """The prompt of each ad, by its name in `PROMPTS`; write the choice into every result.

    Raises `ValueError` for an unknown choice, or unless there are as many examples as ads.
    """
    if choice not in PROMPTS:
        raise ValueError(f"got the prompt {choice!r}{nearest(choice, list(PROMPTS))}")
    if len(examples) != len(ads):
        raise ValueError(f"got {len(examples)} examples and {len(ads)} ads, expected one ad for each")
    return [PROMPTS[choice](example, ad) for example, ad in zip(examples, ads, strict=True)]


@dataclass(frozen=True)
class Reader:
    """A tokenizer, and how many tokens of a prompt its model reads."""

    tokenizer: PreTrainedTokenizerBase
    most: int
    padding: str  # "longest" prompt of the batch, or "max_length"

    def __call__(self, prompts: Sequence[str]) -> BatchEncoding:
        """Token ids and attention mask as tensors; what is too long is cut off at its end."""
        return self.tokenizer(
            list(prompts), padding=self.padding, truncation=True, max_length=self.most, return_tensors="pt"
        )

    def truncated(self, prompts: Sequence[str]) -> Bool[np.ndarray, " N"]:
        """Which prompts are too long."""
        whole: Any = self.tokenizer(list(prompts), verbose=False) if prompts else {"input_ids": []}
        return np.array([len(ids) > self.most for ids in whole["input_ids"]], dtype=bool)


def read_tokenizer(folder: Path, kind: Any, entries: int, **special: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, of a class of transformers, with special tokens added.

    Raises `ValueError` for a damaged one, or another number of entries than its model has: where files are missing,
    transformers makes a tokenizer of its own.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # what tokenizers raises has no class of its own
        raise ValueError(f"{folder}: the tokenizer is damaged ({' '.join(str(error).split())})") from None
    tokenizer.add_special_tokens(special)
    if len(tokenizer) != entries:
        raise ValueError(
            f"{folder}: got a tokenizer of {len(tokenizer):,} entries, expected {entries:,}: it is another model's"
        )
    return tokenizer
