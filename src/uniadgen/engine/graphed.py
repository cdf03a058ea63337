"""One decoding step on a GPU without the cost of starting operations: all layers are one CUDA graph, replayed."""

from collections import Counter, OrderedDict
from collections.abc import Hashable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from uniadgen.engine.attention import PlainAttention
from uniadgen.engine.capturing import Graph
from uniadgen.engine.layers import Layers
from uniadgen.engine.sizes import Sizes
from uniadgen.engine.slots import Places, Slots

GRAPHS = 32  # that are kept, one for each size and number of positions met often; each has what a step has in hand
SEEN = 2  # steps of a kind before it is captured
RESERVED = 4096  # positions whose rotations are made ahead: a graph looks into the table that it was captured with


class GraphedStep:
    """One position or several for every row, as `slots.step`; for layers on a GPU, which `serves` tells.

    What a step consists of is Triton's kernels, or, where `plain`, torch's own operations, which need no Triton and are
    slower. On a CPU it is the same without graphs: for tests.
    """

    def __init__(self, layers: Layers, plain: bool = False) -> None:
        self.layers, self.plain = layers, plain
        self.on_gpu = layers.norm.device.type == "cuda"
        self.graphs: OrderedDict[Hashable, Captured] = OrderedDict()
        self.seen: Counter[Hashable] = Counter()
        self.plans: dict[Hashable, Any] = {}  # how attention is split, by what it is of
        layers.reserve(RESERVED)
        if not plain:
            if find_spec("triton") is None:
                raise ValueError(
                    "no triton, expected it for a GPU: pip install triton, or GraphedStep(layers, plain=True)"
                )
            from uniadgen.engine.fused import FusedOperations

            self.fused = FusedOperations(layers.operations.eps, layers.norm.dtype, layers.norm.device)
            layers.operations = self.fused

    @staticmethod
    def serves(layers: Layers) -> bool:
        """Whether layers are on a GPU."""
        return layers.norm.device.type == "cuda"

    def attention(self, slots: Sequence[Slots], count: int) -> Any:
        """For `count` positions of every row: `aim`, then `attend` in every layer."""
        if self.plain:
            return PlainAttention(slots)
        from uniadgen.engine.attending import FusedAttention

        return FusedAttention(slots, count, self.layers.angles)

    def kind(self, slots: Sequence[Slots]) -> Hashable:
        """Equal where what was captured for some groups of rows serves others, once its attention has been placed."""
        if not self.plain:
            return Sizes.of(slots)
        shared = [group.shared and group.shared.keys.data_ptr() for group in slots]
        return tuple((group.keys.data_ptr(), *group.rows) for group in slots), *shared

    def tune(self, attention: Any, slots: Sequence[Slots], at: Places) -> None:
        """Splits the attention as is fastest on this GPU, found out where a step is about to be taken."""
        if self.on_gpu and not self.plain:
            attention.tune(slots, at, self.plans)

    def forward(
        self,
        attention: Any,
        x: Float[Tensor, "rows k D"],
        at: Places,
        control: Float[Tensor, "rows k C"] | None,
    ) -> Float[Tensor, "rows k D"]:
        """All layers, from what is on the device alone: it can be captured."""
        attention.aim(at)
        flat = None if control is None else control.flatten(0, 1)
        found = self.layers.forward(x.flatten(0, 1), at.position.flatten(), attention.attend, flat, turns=self.plain)
        return found.view_as(x)

    def __call__(
        self,
        slots: Sequence[Slots],
        x: Float[Tensor, "rows k D"],
        at: Places,
        control: Float[Tensor, "rows k C"] | None,
        firsts: Sequence[int],
    ) -> Float[Tensor, "rows k D"]:
        """As `slots.step`. What it returns is written over by the next step."""
        key = self.kind(slots), x.shape[1], control is not None, self.layers.angles[0].data_ptr()
        if key not in self.graphs:
            self.seen[key] += 1
            if self.seen[key] <= SEEN or not self.on_gpu:
                return self.forward(self.attention(slots, x.shape[1]), x, at, control)
            self.layers.tune(x.shape[0] * x.shape[1])
            attention = self.attention(slots, x.shape[1])
            self.tune(attention, slots, at)
            inputs = [x.clone(), *(numbers.clone() for numbers in at), None if control is None else control.clone()]
            graph = Graph(partial(self.forward, attention, inputs[0], Places(*inputs[1:4]), inputs[4]))
            self.graphs[key] = Captured(graph, attention, inputs)
            if len(self.graphs) > GRAPHS:
                self.graphs.popitem(last=False)
        graph, attention, inputs = self.graphs[key]
        self.graphs.move_to_end(key)
        attention.place(slots)
        for kept, new in zip(inputs, (x, *at, control), strict=True):
            if kept is not None and new is not None:
                kept.copy_(new)
        return graph.replay()


class Captured(NamedTuple):
    """A step and what is to be filled in before it is replayed."""

    graph: Graph
    attention: Any
    inputs: list[Tensor | None]
