"""The batch: what the model reads, with its shapes.

Legend, for the whole package:
    B batch · S positions · D width · V text vocabulary · Q image codes · N clicks shown · P tokens per clicked
    picture · T tokens per clicked text · K image cells · C control entries (D for every controlled site) · H W pixels

    [ instruction · description · selling points · text style ⟨≤N×T⟩ · image style ⟨N×P⟩ ]
      PROMPT ───────────────────────────────────── CLICK_TEXT ──────── CLICK_IMAGE ─────
    <text> words </text> <image> K codes </image>
    PROMPT TEXT ──────── PROMPT  IMAGE── PROMPT
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

LENGTHS = 32  # in training, sequences are multiples of it: for every new length a GPU has to find its kernels anew


class Kind(IntEnum):
    """What stands at a position. IMAGE ids are codes of the image vocabulary, all others ids of the tokenizer."""

    PAD = 0
    PROMPT = 1
    CLICK_TEXT = 2
    CLICK_IMAGE = 3
    TEXT = 4
    IMAGE = 5


@dataclass(frozen=True)
class Row:
    """One example after `prompt.lay_out`: plain arrays, not yet padded.

    `ids` and `kind` (S); `click_ids`, one array of token ids per click; `click_codes` (N, P); `cutout` (4, H, W) in
    [0, 1], premultiplied by alpha.
    """

    ids: np.ndarray
    kind: np.ndarray
    click_ids: tuple[np.ndarray, ...]
    click_codes: np.ndarray
    cutout: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Rows padded on the left. Shoppers may have histories of different lengths, or none."""

    ids: Int[Tensor, "B S"]
    kind: Int[Tensor, "B S"]
    click_ids: Int[Tensor, "B N T"]
    click_words: Bool[Tensor, "B N T"]  # False: padding of click_ids
    click_codes: Int[Tensor, "B N P"]
    clicked: Bool[Tensor, "B N"]  # False: padding of a shorter history
    cutout: Float[Tensor, "B 4 H W"]

    @property
    def attend(self) -> Bool[Tensor, "B S"]:
        """Positions that may be looked at."""
        return self.kind != Kind.PAD

    @property
    def position(self) -> Int[Tensor, "B S"]:
        """Position numbers that do not count padding."""
        return (self.attend.long().cumsum(-1) - 1).clamp(min=0)

    @property
    def text_loss(self) -> Bool[Tensor, "B S"]:
        """Positions whose NEXT token is a word of the text or `</text>` (Eq. 2)."""
        return torch.nn.functional.pad(self.kind[:, 1:] == Kind.TEXT, (0, 1))

    @property
    def image_loss(self) -> Bool[Tensor, "B S"]:
        """Positions whose NEXT token is an image code (Eq. 3): the `<image>` token and all codes but the last."""
        return torch.nn.functional.pad(self.kind[:, 1:] == Kind.IMAGE, (0, 1))

    def only(self, stays: Bool[Tensor, "B S"], multiple: int = 1) -> "Batch":
        """Without the other positions, as if they had never been there: rows are padded anew, to a multiple."""
        length = -(-int(stays.sum(-1).max()) // multiple) * multiple
        order = stays.long().argsort(dim=1, stable=True)[:, -length:]
        ids, kind = self.ids.masked_fill(~stays, 0), self.kind.masked_fill(~stays, Kind.PAD)
        return replace(self, ids=ids.gather(1, order), kind=kind.gather(1, order))

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def collate(rows: Sequence[Row], pad_id: int, multiple: int = 1) -> Batch:
    """Pads rows to one batch: sequences on the left, to a multiple, clicks and their words on the right."""
    length = -(-max(len(row.ids) for row in rows) // multiple) * multiple
    num_clicks = max(len(row.click_ids) for row in rows)
    num_words = max((len(ids) for row in rows for ids in row.click_ids), default=0)
    shown = next((row for row in rows if len(row.click_ids)), rows[0])
    num_codes = shown.click_codes.shape[1]  # none where histories are titles alone
    size = len(rows)
    ids = np.full((size, length), pad_id, dtype=np.int64)
    kind = np.zeros((size, length), dtype=np.int64)
    click_ids = np.full((size, num_clicks, num_words), pad_id, dtype=np.int64)
    click_words = np.zeros((size, num_clicks, num_words), dtype=bool)
    click_codes = np.zeros((size, num_clicks, num_codes), dtype=np.int64)
    clicked = np.zeros((size, num_clicks), dtype=bool)
    for b, row in enumerate(rows):
        ids[b, length - len(row.ids) :] = row.ids
        kind[b, length - len(row.kind) :] = row.kind
        for n, words in enumerate(row.click_ids):
            click_ids[b, n, : len(words)] = words
            click_words[b, n, : len(words)] = True
        if len(row.click_ids):
            click_codes[b, : len(row.click_codes)] = row.click_codes
        clicked[b, : len(row.click_ids)] = True
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(kind),
        torch.from_numpy(click_ids),
        torch.from_numpy(click_words),
        torch.from_numpy(click_codes),
        torch.from_numpy(clicked),
        torch.from_numpy(np.stack([row.cutout for row in rows])).float(),
    )
