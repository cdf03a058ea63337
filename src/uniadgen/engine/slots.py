"""Where rows keep their keys and values: in place, each at a position of its own, coming and going as they like."""

from collections.abc import Hashable, Sequence
from copy import copy
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from uniadgen.engine.layers import Layers, Prefix
from uniadgen.engine.precision import narrowed


class Places(NamedTuple):
    """Where the positions of a step stand: (rows, k) each."""

    position: Int[Tensor, "rows k"]  # after which they are rotated
    column: Int[Tensor, "rows k"]  # where their keys and values are kept
    seen: Int[Tensor, "rows k"]  # the columns before this one are seen

    @classmethod
    def after(cls, position: Int[Tensor, "rows k"]) -> "Places":
        """One after the other: the column is the position, and its own is the last one that is seen."""
        return cls(position, position, position + 1)

    def of(self, rows: slice) -> "Places":
        """Of some rows."""
        return Places(*(numbers[rows] for numbers in self))


class Slots:
    """Keys and values of a group of rows: (layers, capacity, heads, room, d) each, written in place.

    Positions stand in the order in which they are fed. So what lies beyond a row's newest position is never looked at,
    and it is written over when the row gets there: a draft that was wrong leaves nothing behind.
    Rows of one prompt may share it: then it stands in no column, and each row attends to it and to its own columns by
    one softmax over both. Rows in use are the first ones; when one leaves, the last one moves to its place.
    """

    def __init__(
        self, like: Prefix, capacity: int, room: int, shared: Prefix | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """As the prompt in its sizes and, unless it is to be another one, in its type."""
        layers, heads, _, width = like.keys.shape
        dtype = dtype or like.keys.dtype
        # Zeros, as what is barred must be a number all the same.
        self.keys, self.values = like.keys.new_zeros(2, layers, capacity, heads, room, width, dtype=dtype)
        self.shared = None if shared is None else Prefix(*(narrowed(numbers, dtype) for numbers in shared))
        self.skipped = 0 if shared is None else shared.keys.shape[2]  # positions that stand in no column
        self.owners: list[Any] = []  # of the rows in use
        self.chosen: list[int] | None = None  # numbers of rows, where these are some of another's

    def reserve(self, room: int) -> None:
        """Makes place for so many columns, and some more: what is here is copied, which should not happen often."""
        layers, capacity, heads, now, width = self.keys.shape
        if room > now:
            room = max(room, now + now // 4)
            keys, values = self.keys.new_zeros(2, layers, capacity, heads, room, width)
            keys[..., :now, :], values[..., :now, :] = self.keys, self.values
            self.keys, self.values = keys, values

    def join(self, owner: Hashable, prefix: Prefix) -> None:
        """One more row, which goes on from that prompt."""
        row, length = len(self.owners), prefix.keys.shape[2]
        if self.shared is None:
            for kept, read in zip((self.keys, self.values), prefix, strict=True):
                kept[:, row, :, :length] = narrowed(read, kept.dtype)
        self.owners.append(owner)

    def leave(self, owner: Hashable) -> None:
        """Frees its row."""
        row, last = self.owners.index(owner), len(self.owners) - 1
        if row != last:
            self.keys[:, row], self.values[:, row] = self.keys[:, last], self.values[:, last]
            self.owners[row] = self.owners[last]
        self.owners.pop()

    def some(self, owners: Sequence[Hashable]) -> "Slots":
        """The rows of these alone, or again, for who reads `rows`. Right until somebody joins or leaves.

        Nothing is copied.
        """
        if [*owners] == self.owners:
            return self
        part = copy(self)
        part.owners, part.chosen = [*owners], [self.owners.index(owner) for owner in owners]
        return part

    @property
    def rows(self) -> Sequence[int]:
        """Where each owner's keys and values are."""
        return range(len(self.owners)) if self.chosen is None else self.chosen

    def aim(self, at: Places, firsts: Sequence[int]) -> None:
        """The step is at these places of the rows; `firsts` are the first columns."""
        rows, count = at.column.shape
        heads, room = self.keys.shape[2:4]
        columns, seen = at.column - self.skipped, at.seen - self.skipped
        self.filled, self.count = max(firsts) - self.skipped + count, count
        starts = torch.arange(0, rows * heads * room, room, device=columns.device).view(rows, 1, heads)
        self.at = (starts + columns[..., None]).flatten()
        self.before = [
            here[:, :rows, :, : self.filled].unbind() for here in (self.keys, self.values)
        ]  # of every layer: slicing costs as much as a small product
        self.barred = None
        if count > 1 or min(firsts) < max(firsts):
            beyond = torch.arange(self.filled, device=columns.device) >= seen[:, None, :, None]
            self.barred = self.keys.new_zeros(rows, 1, count, self.filled).masked_fill(beyond, float("-inf"))

    def attend(self, number: int, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "L h d"]:
        """k positions of every row, row by row: they see what is before them."""
        size, heads, width = q.shape
        self.keys[number].view(-1, width).index_copy_(0, self.at, k.reshape(-1, width))
        self.values[number].view(-1, width).index_copy_(0, self.at, v.reshape(-1, width))
        keys, values = self.before[0][number], self.before[1][number]
        queries = q.view(-1, self.count, heads, width).transpose(1, 2)  # (n, h, k, d)
        if self.shared is None:
            found = F.scaled_dot_product_attention(queries, keys, values, attn_mask=self.barred)
        else:
            found = self._attend_to_both(number, queries, keys, values)
        return found.transpose(1, 2).reshape(size, heads, width)

    def _attend_to_both(self, number: int, queries: Tensor, keys: Tensor, values: Tensor) -> Float[Tensor, "n h k d"]:
        assert self.shared is not None, "only rows of one prompt"
        own = queries @ keys.transpose(-1, -2)  # (n, h, k, filled)
        if self.barred is not None:
            own = own + self.barred
        before = each(queries, self.shared.keys[number].transpose(-1, -2))
        chances = (torch.cat([before, own], dim=-1) * queries.shape[-1] ** -0.5).softmax(-1)
        first, second = chances.split([self.skipped, self.filled], dim=-1)
        return each(first, self.shared.values[number]) + second @ values


def each(rows: Float[Tensor, "n h k a"], shared: Float[Tensor, "h a b"]) -> Float[Tensor, "n h k b"]:
    """Every row by what all rows share, which is read once."""
    num, _, count, _ = rows.shape
    return (rows.transpose(0, 1).flatten(1, 2) @ shared).unflatten(1, (num, count)).transpose(0, 1)


def step(
    layers: Layers,
    slots: Sequence[Slots],
    x: Float[Tensor, "rows k D"],
    at: Places,
    control: Float[Tensor, "rows k C"] | None,
    firsts: Sequence[int],
) -> Float[Tensor, "rows k D"]:
    """k positions for every row of every group, groups one after the other.

    `firsts` are the rows' first columns, known without asking the device.
    """
    ends = [0, *accumulate(len(group.owners) for group in slots)]
    for group, (start, end) in zip(slots, pairwise(ends), strict=True):
        group.aim(at.of(slice(start, end)), firsts[start:end])
    count = x.shape[1]
    parts = [slice(start * count, end * count) for start, end in pairwise(ends)]

    def attend(number: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if len(slots) == 1:
            return slots[0].attend(number, q, k, v)
        found = [g.attend(number, q[part], k[part], v[part]) for g, part in zip(slots, parts, strict=True)]
        return torch.cat(found)

    flat = None if control is None else control.flatten(0, 1)
    return layers.forward(x.flatten(0, 1), at.position.flatten(), attend, flat).view_as(x)
