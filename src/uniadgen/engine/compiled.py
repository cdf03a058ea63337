"""One decoding step on a CPU without the cost of starting operations: a thread takes some rows through all layers.

torch starts some 150 operations for a step of nano, and most of the time goes into that.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from uniadgen.engine.kernels import forward
from uniadgen.engine.layers import Layers, Slots


class CompiledStep:
    """One position for every row, as `layers.step`; for layers in float32 on a CPU, which `serves` tells."""

    def __init__(self, layers: Layers) -> None:
        self.layers = layers
        self.parameters = tuple(tuple(numbers(tensor) for tensor in layer[:6]) for layer in layers.layers)
        self.sites = np.array([-1 if layer.site is None else layer.site for layer in layers.layers])
        self.pool = ThreadPoolExecutor(cpu_count())

    @staticmethod
    def serves(layers: Layers) -> bool:
        """Whether layers can be taken through it."""
        norm = layers.norm
        return norm.device.type == "cpu" and norm.dtype == torch.float32 and len(norm) % 4 == 0

    def __call__(
        self,
        slots: Sequence[Slots],
        x: Float[Tensor, "rows D"],
        position: Int[Tensor, "rows"],
        control: Float[Tensor, "rows C"] | None,
    ) -> Float[Tensor, "rows D"]:
        """The slots have been advanced; groups stand one after the other in `x`."""
        x = x.clone()  # of embeddings that others may hold
        states, at = numbers(x), position.numpy()
        added = np.zeros((len(x), 0), np.float32) if control is None else numbers(control)
        sites = self.sites if control is not None else np.full_like(self.sites, -1)
        angles = tuple(numbers(table[:, 0]) for table in self.layers.angles)
        share = -(-len(x) // torch.get_num_threads())  # rows of a thread
        work, first = [], 0
        for group in slots:
            for start in range(0, group.rows, share):
                rows = np.arange(start, min(start + share, group.rows))
                here = slice(first + start, first + start + len(rows))
                held = held_by(group)
                work.append(
                    (states[here], rows, at[here], added[here], angles, sites, self.parameters, self.layers.eps, *held)
                )
            first += group.rows
        done = [self.pool.submit(forward, *part) for part in work[1:]]
        forward(*work[0])
        for other in done:
            other.result()
        return self.layers.rms(x, self.layers.norm)


def numbers(tensor: Tensor) -> NDArray[Any]:
    """The same memory for numba, contiguous."""
    return tensor.detach().contiguous().numpy()


def held_by(group: Slots) -> tuple[tuple[NDArray[Any], ...], int]:
    """Keys, values and bars of a group's rows, those of the prompt that they share, and how many columns are filled."""
    own = (group.keys.numpy(), group.values.numpy(), group.barred[:, 0, 0].numpy())
    if group.shared is None:
        none = group.keys[:, 0, :, :0]
        return (*own, numbers(none), numbers(none)), group.filled
    return (*own, numbers(group.shared.keys), numbers(group.shared.values)), group.filled
