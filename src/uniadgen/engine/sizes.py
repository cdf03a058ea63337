"""Sizes for which a step on a GPU is captured: few, so that one serves ads who come and go."""

from collections.abc import Sequence
from typing import NamedTuple

from uniadgen.engine.slots import Slots


def padded(number: int) -> int:
    """The next size: all up to 8, then four between powers of two, so that less than a quarter is added."""
    step = max(1, power(number) // 8)
    return -(-number // step) * step


def power(number: int) -> int:
    """The next power of two; of nothing, nothing."""
    return 1 << (number - 1).bit_length() if number else 0


class Sizes(NamedTuple):
    """What the starting of a step's attention depends on: where everything lies is read on the device."""

    rows: int
    shared: int  # groups that share a prompt: at most
    longest: int  # rows of one of them: at most

    @classmethod
    def of(cls, slots: Sequence[Slots]) -> "Sizes":
        """Of these groups of rows."""
        numbers = [len(group.owners) for group in slots]
        shared = [number for number, group in zip(numbers, slots, strict=True) if group.shared is not None]
        return cls(sum(numbers), power(len(shared)), power(max(shared, default=0)))
