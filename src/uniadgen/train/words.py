"""A start for word embeddings without language pretraining: words that the same shoppers click begin alike."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uniadgen.data.rows import Rows

ROWS = 4000  # histories that are counted, at most
DIRECTIONS = 48
MOST = 1.5  # bound of the mutual information, or words of one phrase would drown all else
OWN = 0.3  # share of its random start that a word keeps, to be told from its like


def texts_clicked(rows: Rows) -> Iterable[NDArray[np.integer]]:
    """For each of the first rows, the token ids of all that its shopper clicked: the titles shown and the target."""
    train = rows.config.train
    for number in range(min(ROWS, train.steps * train.batch_size)):
        row, sample = rows.row(number, with_target=False), rows.source.sample(number)
        if row.click_ids:
            target = rows.layout.tokenizer.encode(sample.text, add_special_tokens=False)
            yield np.concatenate([*row.click_ids, np.asarray(target)])


def together(texts: Iterable[NDArray[np.integer]], vocab_size: int) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """(V, DIRECTIONS) unit vectors of words, and which words were met.

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
    main = np.argsort(-values)[:DIRECTIONS]
    words = vectors[:, main] * np.sqrt(values[main].clip(0))
    length = np.linalg.norm(words, axis=1, keepdims=True)
    return words / np.maximum(length, 1e-6), length[:, 0] > 0


@torch.no_grad()
def start_words(embedding: Tensor, rows: Rows) -> None:
    """Sets the (V, D) embedding of every word that was met; directions become random orthogonal ones of D."""
    words, met = together(texts_clicked(rows), len(embedding))
    generator = torch.Generator().manual_seed(rows.config.train.seed)
    basis, _ = torch.linalg.qr(torch.randn(embedding.shape[1], words.shape[1], generator=generator))
    alike = torch.from_numpy(words).float() @ basis.T * embedding.norm(dim=1).mean()
    known = torch.from_numpy(met)
    embedding[known] = alike[known] + OWN * embedding[known]
