"""Cells painted step after step on a GPU, with nothing decided on the host: a whole step is one CUDA graph."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from uniadgen.config import GenerateConfig
from uniadgen.data.waves import NOTHING
from uniadgen.engine.canvas import Canvas, Easel, Staggered
from uniadgen.engine.graphed import Graph, GraphedStep
from uniadgen.engine.layers import Head
from uniadgen.engine.recent import Recent
from uniadgen.engine.sampling import sample, settle
from uniadgen.engine.sizes import padded
from uniadgen.engine.slots import Places, Slots
from uniadgen.engine.ticket import Bell

KEPT = 24  # paintings used last: it takes a while to make one, and each has what a step has in hand, but no canvas


class GraphedPainter:
    """The `Painter` of layers on a GPU."""

    unseen, picks, waits = 4, False, False

    def __init__(self, step: GraphedStep, codes: Float[Tensor, "Q D"], head: Head) -> None:
        self.step, self.codes, self.head = step, codes, head
        self.kept: Recent[Painting] = Recent(KEPT)
        self.easel = Easel()

    def padded(self, number: int) -> int:
        """As `Painter`: a graph serves one size, and there are few."""
        return padded(number)

    def paint(
        self, canvas: Canvas, slots: Sequence[Slots], count: int, steps: int, config: GenerateConfig, bell: Bell
    ) -> int:
        """As `Painter`; the host does not wait for the steps, and nobody for the host: the bell is not heard."""
        self.painting(canvas, slots, count, config).run(canvas, slots, steps)
        return steps

    def painting(self, canvas: Canvas, slots: Sequence[Slots], count: int, config: GenerateConfig) -> "Painting":
        """One for canvases and slots of these sizes."""
        make = lambda: Painting(self, canvas, slots, count, config)  # noqa: E731
        if self.step.plain:  # it looks at these very slots
            return make()
        order = canvas.staggered and canvas.staggered.first
        parts = canvas.codes, canvas.known, canvas.noise, canvas.control, order
        shapes = tuple(None if part is None else part.shape for part in parts)
        settings = config.temperature, config.image_top_k
        kind = self.step.kind(slots)
        return self.kept.get((kind, shapes, count, self.step.layers.angles[0].data_ptr(), settings), make)

    def put(self, canvas: Canvas) -> Canvas:
        """A copy of it, where the canvases of all paintings are: none has its numbers longer than it is painted."""
        if not self.easel.holds(canvas):
            self.kept.clear()  # they look to where nothing will be
            self.easel.grow(canvas)
        return self.easel.put(canvas)


class Painting:
    """Steps of `count` cells, or of staggered rows, for pictures and slots of these sizes."""

    def __init__(
        self, painter: GraphedPainter, canvas: Canvas, slots: Sequence[Slots], count: int, config: GenerateConfig
    ) -> None:
        self.painter, self.step, self.config = painter, painter.step, config
        self.count = count if canvas.staggered is None else canvas.staggered.fed.shape[1]
        self.ahead = torch.arange(self.count, device=painter.codes.device)
        self.canvas = painter.put(canvas)
        self.attention: Any = self.step.attention(slots, self.count)
        self.graph = None
        if self.step.on_gpu:
            for layers in (self.step.layers, painter.head):
                layers.tune(len(canvas.owner) * self.count)
            at = self._in_turn() if canvas.staggered is None else self._together(canvas.staggered)
            self.step.tune(self.attention, slots, at.places)
            self.graph = Graph(self._step)

    def run(self, canvas: Canvas, slots: Sequence[Slots], steps: int) -> None:
        """So many steps; `canvas` is then further on. The host does not wait for them."""
        self.canvas.copy_(canvas)
        self.attention.place(slots)
        for _ in range(steps):
            self.take_step()
        canvas.codes.copy_(self.canvas.codes)
        canvas.cell.copy_(self.canvas.cell)

    def take_step(self) -> None:
        """One more, from where the last one led."""
        if self.graph is None:
            self._step()
        else:
            self.graph.replay()

    def _step(self) -> None:
        on = self.canvas
        if on.staggered is not None:
            at = self._together(on.staggered)
            self._keep(at.cell, self._paint(at))
            on.cell.copy_((on.cell + 1).minimum(on.end))
            return
        at = self._in_turn()
        new, cell, count = self._paint(at), at.cell, self.count
        right = 1 + (on.codes.gather(1, cell) == new)[:, :-1].long().cumprod(1).sum(1)
        self._keep(cell, new)
        if count > 1:  # drafts of the cells that come next: as the last one
            self._keep(cell + count, self._settle(new[:, -1:].expand(-1, count), cell + count))
        on.cell.copy_((cell[:, 0] + right).minimum(on.end))

    def _in_turn(self) -> "Feed":
        """One cell after the other; where all is painted, the last one again."""
        on = self.canvas
        cell = on.cell.minimum(on.end - 1)[:, None] + self.ahead  # (R, k)
        return Feed(self.painter.codes[on.codes.gather(1, cell - 1)], Places.after(on.start + cell[on.owner]), cell)

    def _together(self, steps: Staggered) -> "Feed":
        """A cell of every row that has begun; nobody looks at what pads it, whose codes go behind the picture."""
        on = self.canvas
        step = on.cell.minimum(on.end - 1)
        fed, place = steps.fed[step], steps.place[step]  # (R, k)
        codes = self.painter.codes[on.codes.gather(1, fed.clamp(min=0))]
        embeds = torch.where((fed == NOTHING)[..., None], steps.begin, codes)
        first = steps.first[step][:, None]
        seen = steps.first[step + 1][:, None].expand_as(fed)
        places = Places(*(on.start + numbers[on.owner] for numbers in (place, first + self.ahead, seen)))
        cell = place.masked_fill(self.ahead >= steps.paints[step][:, None], steps.cells)
        return Feed(embeds, places, cell)

    def _paint(self, at: "Feed") -> Int[Tensor, "R k"]:
        """The codes of the cells of a step."""
        on = self.canvas
        control = None
        if on.control is not None:
            mine = at.cell[on.owner].clamp(max=on.control.shape[1] - 1)
            control = on.control.gather(1, mine[..., None].expand(-1, -1, on.control.shape[-1]))
        hidden = self.step.forward(self.attention, at.embeds[on.owner], at.places, control)
        logits = self.painter.head(hidden.flatten(0, 1)).float().unflatten(0, (-1, self.count))
        with_all, without = logits[on.branches[0]], logits[on.branches[1]]
        guided = without + on.guidance * (with_all - without)  # (R, k, Q)
        noise = None
        if self.config.temperature:
            here = (at.cell % on.noise.shape[1])[..., None].expand(-1, -1, on.noise.shape[-1])
            noise = on.noise.gather(1, here).flatten(0, 1)
        new = sample(guided.flatten(0, 1), self.config.temperature, self.config.image_top_k, noise).view_as(at.cell)
        return self._settle(new, at.cell)

    def _keep(self, cell: Int[Tensor, "R k"], codes: Int[Tensor, "R k"]) -> None:
        self.canvas.codes.scatter_(1, cell, codes)

    def _settle(self, codes: Int[Tensor, "R k"], cell: Int[Tensor, "R k"]) -> Int[Tensor, "R k"]:
        known = self.canvas.known
        return codes if known is None else settle(codes, known.gather(1, cell))


class Feed(NamedTuple):
    """What a step feeds for R pictures, where, and which cells it paints."""

    embeds: Float[Tensor, "R k D"]
    places: Places  # of all rows
    cell: Int[Tensor, "R k"]
