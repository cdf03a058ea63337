"""The noise of pictures that are painted: drawn on the host a row of cells at a time, kept on the device."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from uniadgen.engine.making import Making
from uniadgen.engine.sampling import gumbel

Asked = TypeVar("Asked")
Drawn = TypeVar("Drawn")
THREADS = 8  # that draw for as many ads at once: torch lets others run meanwhile


class PictureNoise:
    """For every slot the noise of the cells that come next: of cell i at i modulo `depth`.

    As `sampling.draw` defines it; where the device is a GPU, its logarithms are the GPU's.
    """

    def __init__(self, num_slots: int, side: int, unseen: int, size: int, device: torch.device) -> None:
        """`unseen`: cells that may be asked for beyond the first that is not painted."""
        self.side, self.device = side, device
        self.depth = side * (1 + math.ceil((unseen - 1) / side))
        self.table: Float[Tensor, "slots depth Q"] = torch.zeros(num_slots, self.depth, size, device=device)
        self.threads, self.host = None, None
        if device.type == "cuda":  # a place on the host from which a GPU takes what was drawn when it gets there
            self.threads = ThreadPoolExecutor(THREADS) if num_slots > 1 else None
            self.host = torch.empty(num_slots, self.depth // side, side, size, pin_memory=True)
            self.taken = torch.cuda.Event()

    def draw_until(self, wanted: Sequence[tuple[Making, int]]) -> None:
        """Of whole rows of cells, so that all cells of an ad before the one named have theirs."""
        asked = [(ad, math.ceil(cell / self.side) - ad.drawn) for ad, cell in wanted]
        asked = [(ad, rows) for ad, rows in asked if rows > 0]
        if asked and self.host is not None:
            self.taken.synchronize()
        for (ad, rows), uniform in zip(asked, self.each(self._uniform, asked), strict=True):
            noise = gumbel(uniform.to(self.device, non_blocking=True))
            for row in range(rows):
                first = ad.drawn * self.side % self.depth
                self.table[ad.slot, first : first + self.side] = noise[row]
                ad.drawn += 1
        if asked and self.host is not None:
            self.taken.record()

    def each(self, draw: Callable[[Asked], Drawn], asked: Sequence[Asked]) -> list[Drawn]:
        """What is drawn for each ad, for some of them at once where a GPU would wait for it."""
        return list(self.threads.map(draw, asked) if self.threads else map(draw, asked))

    def ahead(self, draw: Callable[[Asked], Drawn], asked: Sequence[Asked]) -> None:
        """What each ad needs next, drawn while a GPU works; elsewhere it would take the same time later."""
        if self.host is not None:
            self.each(draw, asked)

    def _uniform(self, asked: tuple[Making, int]) -> Float[Tensor, "rows side Q"]:
        ad, rows = asked
        shape = rows, self.side, self.table.shape[-1]
        to = None if self.host is None else self.host[ad.slot, :rows]
        return torch.rand(shape, generator=ad.generator, out=to)
