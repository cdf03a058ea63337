"""A start for the word preference: words that the same shoppers click begin alike."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from uniadgen.data.rows import Rows
from uniadgen.model.preference import WordPreference

ROWS = 4000  # histories that are counted, at most
MOST = 1.5  # bound of the mutual information, or words of one phrase would drown all else
FIRST_WEIGHT = 4.0  # of a perfect likeness, in the scores of the next word
APART = 0.02  # size of the random part of a word, which tells it from its like


def texts_clicked(rows: Rows) -> Iterable[NDArray[np.integer]]:
    """For each of the first rows, the token ids of all that its shopper clicked: the titles shown and the target."""
    train = rows.config.train
    for number in range(min(ROWS, train.steps * train.batch_size)):
        row, sample = rows.row(number, with_target=False), rows.source.sample(number)
        if row.click_ids:
            target = rows.layout.tokenizer.encode(sample.text, add_special_tokens=False)
            yield np.concatenate([*row.click_ids, np.asarray(target)])


def together(texts: Iterable[NDArray[np.integer]], vocab_size: int, width: int) -> NDArray[np.floating]:
    """(V, width) unit vectors of words; zeros for words that were not met.

    The main directions of the positive pointwise mutual information of two words standing in one shopper's clicks
    (Levy and Goldberg 2014, with shoppers for windows).
    """
    held = np.stack([np.bincount(ids, minlength=vocab_size) > 0 for ids in texts]).astype(np.float32)  # (shoppers, V)
    both = held.T @ held
    np.fill_diagonal(both, 0)
    alone = both.sum(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(both * both.sum() / (alone * alone.T))
    information = np.where(both >= 3, information.clip(0, MOST), 0.0)
    values, vectors = np.linalg.eigh(information)
    main = np.argsort(-values)[:width]
    words = vectors[:, main] * np.sqrt(values[main].clip(0))
    return words / np.maximum(np.linalg.norm(words, axis=1, keepdims=True), 1e-6)


@torch.no_grad()
def start(preference: WordPreference, rows: Rows) -> None:
    """Sets the vectors of all words, and the gate to count them a little everywhere."""
    words = preference.words.weight
    generator = torch.Generator().manual_seed(rows.config.train.seed)
    words.copy_(torch.from_numpy(together(texts_clicked(rows), *words.shape)))
    words += APART * torch.randn(words.shape, generator=generator).to(words)
    preference.gate.weight.zero_()
    preference.gate.bias.fill_(FIRST_WEIGHT)
