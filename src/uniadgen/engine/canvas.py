"""Where pictures stand that are painted step after step, and who paints them with nothing decided in between."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from uniadgen.config import GenerateConfig
from uniadgen.engine.slots import Slots


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """Where R pictures stand, whose first cells are painted; all on the device. Rows are the slots', two for each ad.

    Beyond the cells that are painted, `codes` has drafts.
    """

    codes: Int[Tensor, "R W"]
    cell: Int[Tensor, "R"]  # the next one
    end: Int[Tensor, "R"]  # cells that are painted in this way, no more
    known: Int[Tensor, "R W"] | None  # codes of cells that are not sampled, -1 for others
    noise: Float[Tensor, "R depth Q"]  # of cell i at i modulo depth
    guidance: Float[Tensor, "R 1 1"]
    start: Int[Tensor, "rows 1"]  # a row's position at cell 0
    owner: Int[Tensor, "rows"]
    branches: Int[Tensor, "2 R"]  # the row that sees everything and the other one; where there is none, the same
    control: Float[Tensor, "rows K1 C"] | None  # with zeros after the last cell

    def copy_(self, other: "Canvas") -> None:
        """Takes over another's numbers."""
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if mine is not None:
                mine.copy_(theirs)

    def clone(self) -> "Canvas":
        """The same, elsewhere."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: None if part is None else part.clone() for name, part in parts.items()})


@runtime_checkable
class Painter(Protocol):
    """Takes steps of `count` cells for every picture. The same pictures come out, however many cells a step has.

    With more than one, the cells after the next are drafts: right are those up to the first that comes out otherwise.
    """

    unseen: int  # steps with drafts at a time, after which it is looked how many were right

    def paint(self, canvas: Canvas, slots: Sequence[Slots], count: int, steps: int, config: GenerateConfig) -> int:
        """At most so many steps; `canvas` is then further on. Returns how many."""
        ...
