"""Where pictures stand that are painted step after step, and who paints them with nothing decided in between."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import accumulate
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from uniadgen.config import GenerateConfig
from uniadgen.data.waves import Wave
from uniadgen.engine.slots import Slots
from uniadgen.engine.ticket import Bell


@dataclass(frozen=True, kw_only=True)
class Staggered:
    """What the S steps of a picture with staggered rows feed and paint, as `waves` has it; padded to the widest one."""

    cells: int  # of the picture
    begin: Float[Tensor, "D"]  # embedded `<image>`, with which a row begins
    first: Int[Tensor, "S1"]  # positions fed before a step, and before the end
    paints: Int[Tensor, "S"]
    fed: Int[Tensor, "S n"]  # cells whose codes are fed, or NOTHING
    place: Int[Tensor, "S n"]  # where they stand; the first ones predict the cell of that number

    @classmethod
    def of(cls, steps: Sequence[Wave], begin: Float[Tensor, "D"]) -> "Staggered":
        """On the device of `begin`."""
        place = partial(torch.tensor, device=begin.device)
        widest = max(len(wave.fed) for wave in steps)
        padded = [[*part, *[part[-1]] * (widest - len(part))] for wave in steps for part in (wave.fed, wave.places)]
        return cls(
            cells=sum(len(wave.painted) for wave in steps),
            begin=begin,
            first=place([0, *accumulate(len(wave.fed) for wave in steps)]),
            paints=place([len(wave.painted) for wave in steps]),
            fed=place(padded[::2]),
            place=place(padded[1::2]),
        )


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """Where R pictures stand, whose first cells are painted; all on the device. Rows are the slots', two for each ad.

    Beyond the cells that are painted, `codes` has drafts. Where rows of cells are staggered, `cell` and `end` count
    steps.
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
    staggered: Staggered | None = None

    def copy_(self, other: "Canvas") -> None:
        """Takes over another's numbers."""
        for name, mine in self.tensors().items():
            mine.copy_(getattr(other, name))

    def tensors(self) -> dict[str, Tensor]:
        """All that changes from step to step, or from picture to picture."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: part for name, part in parts.items() if isinstance(part, Tensor)}


class Easel:
    """The memory of canvases of which one at a time is painted: each stands where all the others stand."""

    def __init__(self) -> None:
        self.parts: dict[str, Tensor] = {}

    def holds(self, canvas: Canvas) -> bool:
        """Whether there is room for it."""
        return all(part.numel() <= self._room(name) for name, part in canvas.tensors().items())

    def grow(self, canvas: Canvas) -> None:
        """Makes room for it, and some more, as this should not happen often; where that is needed."""
        for name, part in canvas.tensors().items():
            room = self._room(name)
            if room < part.numel():
                self.parts.pop(name, None)  # before the new one is there
                self.parts[name] = part.new_empty(max(part.numel(), 2 * room))

    def put(self, canvas: Canvas) -> Canvas:
        """A copy of it, in place of whichever stood there."""
        parts = {name: self.parts[name][: part.numel()].view(part.shape) for name, part in canvas.tensors().items()}
        copy = replace(canvas, **parts)
        copy.copy_(canvas)
        return copy

    def _room(self, name: str) -> int:
        return len(self.parts[name]) if name in self.parts else 0


@runtime_checkable
class Painter(Protocol):
    """Takes steps of `count` cells for every picture. The same pictures come out, however many cells a step has.

    With more than one, the cells after the next are drafts: right are those up to the first that comes out otherwise.
    Where rows are staggered, a step paints a cell of every row that has begun.
    """

    unseen: int  # steps with drafts at a time, after which it is looked how many were right
    picks: bool  # whether it, and the step beside it, take some rows of a group alone
    waits: bool  # whether all is painted when it returns, or only under way

    def padded(self, number: int) -> int:
        """How many ads, or rows, it is to be given where there are so many: some of them again."""
        ...

    def paint(
        self, canvas: Canvas, slots: Sequence[Slots], count: int, steps: int, config: GenerateConfig, bell: Bell
    ) -> int:
        """At most so many steps, fewer where the bell rings; `canvas` is then further on. Returns how many."""
        ...
