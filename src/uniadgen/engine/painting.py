"""Cells painted step after step on a GPU, with nothing decided on the host: a whole step is one CUDA graph."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from uniadgen.config import GenerateConfig
from uniadgen.engine.canvas import Canvas
from uniadgen.engine.graphed import Graph, GraphedStep
from uniadgen.engine.layers import Head
from uniadgen.engine.recent import Recent
from uniadgen.engine.sampling import sample, settle
from uniadgen.engine.slots import Places, Slots

KEPT = 4  # paintings used last: it takes a while to make one


class GraphedPainter:
    """The `Painter` of layers on a GPU."""

    unseen = 4

    def __init__(self, step: GraphedStep, codes: Float[Tensor, "Q D"], head: Head) -> None:
        self.step, self.codes, self.head = step, codes, head
        self.kept: Recent[Painting] = Recent(KEPT)

    def paint(self, canvas: Canvas, slots: Sequence[Slots], count: int, steps: int, config: GenerateConfig) -> int:
        """As `Painter`; the host does not wait for the steps."""
        self.painting(canvas, slots, count, config).run(canvas, slots, steps)
        return steps

    def painting(self, canvas: Canvas, slots: Sequence[Slots], count: int, config: GenerateConfig) -> "Painting":
        """One for canvases and slots of these sizes."""
        make = lambda: Painting(self, canvas, slots, count, config)  # noqa: E731
        if self.step.plain:  # it looks at these very slots
            return make()
        groups = tuple((len(group.owners), group.shared is not None) for group in slots)
        shapes = tuple(
            None if part is None else part.shape for part in (canvas.codes, canvas.known, canvas.noise, canvas.control)
        )
        settings = config.temperature, config.image_top_k
        return self.kept.get((groups, shapes, count, self.step.layers.angles[0].data_ptr(), settings), make)


class Painting:
    """Steps of `count` cells for pictures and slots of these sizes."""

    def __init__(
        self, painter: GraphedPainter, canvas: Canvas, slots: Sequence[Slots], count: int, config: GenerateConfig
    ) -> None:
        self.painter, self.step, self.count, self.config = painter, painter.step, count, config
        self.ahead = torch.arange(count, device=painter.codes.device)
        self.canvas = canvas.clone()
        self.attention: Any = self.step.attention(slots, count)
        self.graph = None
        if self.step.on_gpu:
            for layers in (self.step.layers, painter.head):
                layers.tune(len(canvas.owner) * count)
            cell = canvas.cell.minimum(canvas.end - 1)[canvas.owner, None]
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
        embeds = self.painter.codes[on.codes.gather(1, cell - 1)][on.owner]  # (rows, k, D)
        mine = cell[on.owner]
        control = None
        if on.control is not None:
            at = mine.clamp(max=on.control.shape[1] - 1)[..., None].expand(-1, -1, on.control.shape[-1])
            control = on.control.gather(1, at)
        hidden = self.step.forward(self.attention, embeds, Places.after(on.start + mine), control)
        logits = self.painter.head(hidden.flatten(0, 1)).float().unflatten(0, (-1, count))
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
