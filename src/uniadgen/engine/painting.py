"""Cells painted step after step on a GPU, with nothing decided on the host: a whole step is one CUDA graph."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from uniadgen.config import GenerateConfig
from uniadgen.engine.engine import Engine
from uniadgen.engine.graphed import Graph, GraphedStep
from uniadgen.engine.sampling import sample, settle
from uniadgen.engine.slots import Places, Slots


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


class Painting:
    """Steps of `count` cells for every picture. The same pictures come out, however many cells a step has.

    With more than one, the cells after the next are drafts: right are those up to the first that comes out otherwise.
    """

    def __init__(
        self, engine: Engine, canvas: Canvas, slots: Sequence[Slots], count: int, cells: int, config: GenerateConfig
    ) -> None:
        assert isinstance(engine.step, GraphedStep), "an engine on a GPU"
        self.engine, self.step, self.config = engine, engine.step, config
        self.count, self.cells = count, cells
        self.ahead = torch.arange(count, device=engine.device)
        self.canvas = canvas.clone()
        self.attention: Any = self.step.attention(slots, count)
        self.graph = None
        if self.step.on_gpu:
            engine.tune(len(canvas.owner) * count)
            cell = canvas.cell.clamp(max=cells - 1)[canvas.owner, None]
            self.step.tune(self.attention, slots, Places.after(canvas.start + cell + self.ahead))
            self.graph = Graph(self._step)

    def run(self, canvas: Canvas, slots: Sequence[Slots], steps: int) -> None:
        """So many steps; `canvas` is then further on. The host does not wait for them."""
        self.canvas.copy_(canvas)
        self.attention.place(slots)
        for _ in range(steps):
            self.take_step()
        canvas.copy_(self.canvas)

    def take_step(self) -> None:
        """One more, from where the last one led."""
        if self.graph is None:
            self._step()
        else:
            self.graph.replay()

    def _step(self) -> None:
        on, count = self.canvas, self.count
        cell = on.cell.minimum(on.end - 1)[:, None] + self.ahead  # (R, k); where all is painted, the last one again
        embeds = self.engine.codes[on.codes.gather(1, cell - 1)][on.owner]  # (rows, k, D)
        mine = cell[on.owner]
        control = None
        if on.control is not None:
            at = mine.clamp(max=self.cells)[..., None].expand(-1, -1, on.control.shape[-1])
            control = on.control.gather(1, at)
        hidden = self.step.forward(self.attention, embeds, Places.after(on.start + mine), control)
        logits = self.engine.image_logits(hidden.flatten(0, 1)).float().unflatten(0, (-1, count))
        with_all, without = logits[on.branches[0]], logits[on.branches[1]]
        guided = without + on.guidance * (with_all - without)  # (R, k, Q)
        noise = None
        if self.config.temperature:
            at = (cell % on.noise.shape[1])[..., None].expand(-1, -1, on.noise.shape[-1])
            noise = on.noise.gather(1, at).flatten(0, 1)
        new = sample(guided.flatten(0, 1), self.config.temperature, self.config.image_top_k, noise).view_as(cell)
        new = self._settle(new, cell)
        right = 1 + (on.codes.gather(1, cell) == new)[:, :-1].long().cumprod(1).sum(1)
        on.codes.scatter_(1, cell, new)
        if count > 1:  # drafts of the cells that come next: as the last one
            on.codes.scatter_(1, cell + count, self._settle(new[:, -1:].expand(-1, count), cell + count))
        on.cell.copy_((cell[:, 0] + right).minimum(on.end))

    def _settle(self, codes: Int[Tensor, "R k"], cell: Int[Tensor, "R k"]) -> Int[Tensor, "R k"]:
        known = self.canvas.known
        return codes if known is None else settle(codes, known.gather(1, cell))


def painting(
    engine: Engine, canvas: Canvas, slots: Sequence[Slots], count: int, cells: int, config: GenerateConfig
) -> Painting:
    """One for canvases and slots of these sizes; those used last are kept, since it takes a while to make one."""
    make = lambda: Painting(engine, canvas, slots, count, cells, config)  # noqa: E731
    assert isinstance(engine.step, GraphedStep), "an engine on a GPU"
    if engine.step.plain:  # it looks at these very slots
        return make()
    groups = tuple((len(group.owners), group.shared is not None) for group in slots)
    shapes = tuple(
        None if part is None else part.shape for part in (canvas.codes, canvas.known, canvas.noise, canvas.control)
    )
    settings = config.temperature, config.image_top_k
    return engine.paintings.get((groups, shapes, count, engine.layers.angles[0].data_ptr(), settings), make)
