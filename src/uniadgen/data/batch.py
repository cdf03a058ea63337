"""The batch: what the model reads, with its shapes.

Legend, for the whole package:
    B batch · S positions · D width · V text vocabulary · Q image codes · N clicks shown · P tokens per clicked
    picture · T tokens per clicked text · K image cells · C control entries (D for every controlled site) · H W pixels

    [ instruction · description · selling points · text style ⟨≤N×T⟩ · image style ⟨N×P⟩ ]
      PROMPT ───────────────────────────────────── CLICK_TEXT ──────── CLICK_IMAGE ─────
    <text> words </text> <image> K codes </image>
    PROMPT TEXT ──────── PROMPT  IMAGE── PROMPT

Where rows of cells are staggered (`waves.py`), `<image>` stands before each of them:

    <image> codes of a row  <image> codes of a row ... </image>
    PROMPT  IMAGE ────────  ROW     IMAGE ────────     PROMPT
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from uniadgen.data.waves import step_of

LENGTHS = 32  # in training, sequences are multiples of it: for every new length a GPU has to find its kernels anew


class Kind(IntEnum):
    """What stands at a position. IMAGE ids are codes of the image vocabulary, all others ids of the tokenizer."""

    PAD = 0
    PROMPT = 1
    CLICK_TEXT = 2
    CLICK_IMAGE = 3
    TEXT = 4
    IMAGE = 5
    ROW = 6  # `<image>` again, where another row of cells begins and rows are painted at once


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
        """Position numbers that do not count padding; where a row begins, that of the code before it."""
        return ((self.attend & (self.kind != Kind.ROW)).long().cumsum(-1) - 1).clamp(min=0)

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

    def with_rows(self) -> "Batch":
        """With `<image>` before every row of cells, which is then no continuation of the one above it.

        Where there are pictures, all rows end with one; a batch without stays as it is.
        """
        cells = int((self.kind[0] == Kind.IMAGE).sum())
        side, start = math.isqrt(cells), -cells - 2  # where `<image>` stands

        def begun(numbers: Tensor, begin: Tensor) -> Tensor:
            rows = numbers[:, start + 1 : -1].unflatten(1, (side, side))
            rows = torch.cat([begin[:, None].expand(-1, side, 1), rows], dim=2).flatten(1)
            return torch.cat([numbers[:, : start + 1], rows[:, 1:], numbers[:, -1:]], dim=1)

        if not cells:
            return self
        first = self.ids[:, start, None]
        return replace(self, ids=begun(self.ids, first), kind=begun(self.kind, torch.full_like(first, Kind.ROW)))

    def order(self, lag: int) -> Int[Tensor, "S"] | None:
        """When every position is fed, where `with_rows` began rows; None: one after the other."""
        begun = int((self.kind[0] == Kind.ROW).sum())
        if not begun:
            return None
        side = begun + 1
        order = torch.arange(len(self.kind[0]), device=self.kind.device)
        steps = [step_of(place, side, lag) for place in range(side * (side + 1))]
        order[-len(steps) - 1 : -1] = order[-len(steps) - 1] + torch.tensor(steps, device=order.device)
        order[-1] = order.max() + 1
        return order

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
