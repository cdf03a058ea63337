"""Attention of a step in which no length is known to the host, in plain torch: what the GPU's kernels are held to."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from uniadgen.engine.precision import EIGHT_BIT, narrowed
from uniadgen.engine.slots import Places, Slots, each


class PlainAttention:
    """Rows of some groups, each at positions that are read on the device; looks at all columns that there are."""

    def __init__(self, slots: Sequence[Slots]) -> None:
        self.numbers: list[list[int]] = []
        self.place(slots)

    def place(self, slots: Sequence[Slots]) -> None:
        """From now on it is about these."""
        self.slots = slots
        numbers = [[*group.rows] for group in slots]
        if numbers != self.numbers:  # otherwise they stay where they are: a graph looks there
            self.numbers = numbers
            self.rows = [
                torch.tensor(rows, device=group.keys.device) for rows, group in zip(numbers, slots, strict=True)
            ]

    def aim(self, at: Places) -> None:
        """The step is at these places of the rows, groups one after the other."""
        ends = [0, *accumulate(len(group.owners) for group in self.slots)]
        self.columns = [
            (at.column[start:end] - group.skipped, at.seen[start:end] - group.skipped)
            for group, (start, end) in zip(self.slots, pairwise(ends), strict=True)
        ]

    def attend(self, number: int, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "L h d"]:
        """Keeps keys and values, and finds what the queries see: what is shared, and their own columns."""
        sizes = [columns.numel() for columns, _ in self.columns]
        parts = zip(*(tensor.split(sizes) for tensor in (q, k, v)), strict=True)
        found = [
            self._attend(group, number, rows, *places, *(part.unflatten(0, places[0].shape) for part in three))
            for group, rows, places, three in zip(self.slots, self.rows, self.columns, parts, strict=True)
        ]
        return torch.cat(found)

    @staticmethod
    def _attend(
        group: Slots,
        number: int,
        rows: Int[Tensor, "n"],
        columns: Int[Tensor, "n k"],
        seen: Int[Tensor, "n k"],
        q: Tensor,
        k: Tensor,
        v: Tensor,
    ) -> Float[Tensor, "L h d"]:
        for kept, new in ((group.keys[number], k), (group.values[number], v)):
            put(kept, rows, columns, narrowed(new, kept.dtype))
        here = slice(len(rows)) if group.chosen is None else rows  # nothing is copied then
        keys, values = group.keys[number, here].to(q.dtype), group.values[number, here].to(q.dtype)
        queries = q.transpose(1, 2)  # (n, h, k, d)
        beyond = torch.arange(keys.shape[2], device=q.device) >= seen[:, None, :, None]
        scores = (queries @ keys.transpose(-1, -2)).masked_fill(beyond, float("-inf"))
        if group.shared is not None:
            scores = torch.cat([each(queries, group.shared.keys[number].to(q.dtype).transpose(-1, -2)), scores], dim=-1)
        chances = (scores.float() * q.shape[-1] ** -0.5).softmax(-1).to(q.dtype)
        first, second = chances.split([group.skipped, keys.shape[2]], dim=-1)
        found = second @ values
        if group.shared is not None:
            found = found + each(first, group.shared.values[number].to(q.dtype))
        return found.transpose(1, 2).flatten(0, 1)


def put(
    kept: Float[Tensor, "capacity h room d"],
    rows: Int[Tensor, "n"],
    columns: Int[Tensor, "n k"],
    new: Float[Tensor, "n k h d"],
) -> None:
    """Writes new keys or values into the columns of these rows."""
    if kept.dtype == EIGHT_BIT:  # torch moves bytes, not numbers of eight bits
        kept, new = kept.view(torch.uint8), new.view(torch.uint8)
    kept[rows[:, None], :, columns] = new
