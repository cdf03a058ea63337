"""One decoding step on a CPU without the cost of starting operations: a thread takes some rows through all layers.

torch starts some 150 operations for a step of nano, and most of the time goes into that.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from uniadgen.engine.kernels import forward
from uniadgen.engine.layers import Layer, Layers, as_held
from uniadgen.engine.slots import Places, Slots


class CompiledStep:
    """One position for every row, as `layers.step`; for layers in float32 on a CPU, which `serves` tells."""

    def __init__(self, layers: Layers) -> None:
        self.layers = layers
        self.parameters = tuple(
            tuple(map(numbers, (one.norm, *split[:2], one.second_norm, *split[2:])))
            for one, split in ((layer, weights_of(layer)) for layer in layers.layers)
        )
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
        x: Float[Tensor, "rows k D"],
        at: Places,
        control: Float[Tensor, "rows k C"] | None,
        firsts: Sequence[int],
    ) -> Float[Tensor, "rows k D"]:
        """As `slots.step`; where a row stands is read from `at`, which is here at hand."""
        count, flat = x.shape[1], x.flatten(0, 1).clone()  # of embeddings that others may hold
        states, (position, column, seen) = numbers(flat), (part.flatten().numpy() for part in at)
        added = np.zeros((len(flat), 0), np.float32) if control is None else numbers(control.flatten(0, 1))
        sites = self.sites if control is not None else np.full_like(self.sites, -1)
        angles = tuple(numbers(table[:, 0]) for table in self.layers.angles)
        share = -(-len(x) // torch.get_num_threads())  # rows of a thread
        work, first = [], 0
        for group in slots:
            num = len(group.owners)
            for start in range(0, num, share):
                end = min(start + share, num)
                here = slice((first + start) * count, (first + end) * count)
                columns = column[here] - group.skipped, seen[here] - group.skipped
                places = np.arange(start, end).repeat(count), *columns, position[here]
                settings = angles, sites, self.parameters, self.layers.operations.eps
                work.append((states[here], *places, added[here], *settings, held_by(group)))
            first += num
        done = [self.pool.submit(forward, *part) for part in work[1:]]
        forward(*work[0])
        for other in done:
            other.result()
        return self.layers.operations.norm(flat, self.layers.norm).view_as(x)


def weights_of(layer: Layer) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """qkv and gate_up by columns, the other two by rows: as the kernels read them."""
    qkv, out, gate_up, down = map(as_held, (layer.qkv, layer.out, layer.gate_up, layer.down))
    return qkv.T, out, gate_up.T, down


def numbers(tensor: Tensor) -> NDArray[Any]:
    """The same memory for numba, contiguous."""
    return tensor.detach().contiguous().numpy()


def held_by(group: Slots) -> tuple[NDArray[Any], ...]:
    """Keys and values of a group's rows, and of the prompt that they share."""
    if group.shared is None:
        none = numbers(group.keys[:, 0, :, :0])
        return group.keys.numpy(), group.values.numpy(), none, none
    return group.keys.numpy(), group.values.numpy(), numbers(group.shared.keys), numbers(group.shared.values)
