"""The layers' operations on a GPU, by kernels in Triton; products by whatever is fastest there."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import triton  # pyright: ignore[reportMissingImports] - where there is a GPU
from jaxtyping import Float
from torch import Tensor

from uniadgen.engine import eight, kernels_cuda, nvrtc, streaming
from uniadgen.engine.capturing import Graph
from uniadgen.engine.layers import Operations, Weight, size_of
from uniadgen.engine.precision import EIGHT_BIT, Scaled

kernels: Any = kernels_cuda  # which Triton makes of functions is not typed
FEW = 64  # rows that the product in Triton takes
MEMORY = 220_000  # bytes of an H100's shared memory that a program may take for what it has under way
UNCACHED = 160e6  # bytes of weights that are multiplied in turn when a way is timed: none is in the cache then
CHAIN = 24  # products that are timed at least
ENOUGH = 264  # programs of a product: two for each processor


class Tile(NamedTuple):
    """Outputs and inputs of a weight that a program takes together, stages ahead (1: no tensor cores), and warps."""

    outputs: int
    inputs: int
    stages: int
    warps: int


TILES = (Tile(32, 128, 4, 4), Tile(64, 128, 4, 4))
TILES_OF_TWO = (Tile(2, 1024, 1, 4), Tile(4, 512, 1, 4), Tile(4, 1024, 1, 4))


@dataclass(frozen=True)
class Task:
    """What a way is chosen for."""

    rows: int
    shape: tuple[int, int]  # of the weight
    dtype: torch.dtype  # of the weight
    normed: bool
    gated: bool

    @property
    def name(self) -> str:
        """For reports."""
        more = ", normed" * self.normed + ", gated" * self.gated
        return f"{self.rows} x {self.shape} {str(self.dtype).removeprefix('torch.')}{more}"


class Way(NamedTuple):
    """One way to multiply: (x, weight, add, norm, gated) -> product; and its name in reports."""

    name: str
    multiply: Callable[..., Tensor]


class FusedOperations(Operations):
    """What a layer is made of, in few kernels. The fastest way to multiply is found by `tune`, for every task."""

    def __init__(self, eps: float, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(eps)
        self.dtype = dtype  # of what is multiplied with weights
        self.arrived = torch.zeros(65536, dtype=torch.int32, device=device)  # programs of those that share outputs
        self.chosen: dict[Task, Way] = {}
        self.microseconds: dict[str, dict[str, float]] = {}  # of every way, by task: for reports

    def norm(self, x: Float[Tensor, "L D"], weight: Float[Tensor, "D"]) -> Float[Tensor, "L D"]:
        """Root mean square norm."""
        x = x.contiguous()
        out, width = torch.empty_like(x), x.shape[1]
        kernels.norm[(len(x),)](x, weight, out, width, self.eps, BLOCK=triton.next_power_of_2(width))
        return out

    def turn(
        self, heads: Float[Tensor, "L h d"], cos: Float[Tensor, "L 1 d"], sin: Float[Tensor, "L 1 d"]
    ) -> Float[Tensor, "L h d"]:
        """Rotates heads to where they stand; the first half of `sin` is negative."""
        length, number, size = heads.shape
        out, block = heads.new_empty(heads.shape), min(16, triton.next_power_of_2(number))
        grid = length, triton.cdiv(number, block)
        kernels.turn[grid](heads, cos, sin, out, heads.stride(0), number, SIZE=size, BLOCK=block)
        return out

    def gate(self, both: Float[Tensor, "L I2"]) -> Float[Tensor, "L I"]:
        """silu(gate) up"""
        length, inner = len(both), both.shape[1] // 2
        out = both.new_empty(length, inner)
        kernels.gate[length, triton.cdiv(inner, 1024)](both, out, inner, BLOCK=1024)
        return out

    def product(
        self,
        x: Float[Tensor, "L k"],
        weight: Weight,
        add: Float[Tensor, "..."] | None = None,
        norm: Float[Tensor, "k"] | None = None,
        gated: bool = False,
    ) -> Float[Tensor, "L out"]:
        """x W', and `add` to it; x is normed before, and the product gated, where that is asked for."""
        way = self.chosen.get(task_of(len(x), weight, norm, gated))
        if way is None and len(x) > FEW and isinstance(weight, Scaled) and multiplies(x, weight):
            return self.both_in_eight_bits(x, weight, add, norm, gated)
        return (way.multiply if way else super().product)(x, weight, add, norm, gated)

    def tune(
        self, rows: int, weights: Sequence[Weight], norm: Float[Tensor, "k"] | None = None, gated: bool = False
    ) -> None:
        """Finds the fastest way for so many rows by weights of one shape."""
        task = task_of(rows, weights[0], norm, gated)
        if task in self.chosen:
            return
        x = torch.randn(task.rows, task.shape[1], device=self.arrived.device, dtype=self.dtype)
        weights = enough(weights)
        times: dict[str, float] = {}
        best: tuple[float, Way] | None = None
        for way in self.ways(task):
            try:
                seconds = spent(partial(way.multiply, x, add=None, norm=norm, gated=gated), weights)
            except Exception as error:  # one that this GPU or this shape does not have
                times[f"{way.name}: {type(error).__name__}"] = float("nan")
                continue
            times[way.name] = seconds * 1e6
            if best is None or seconds < best[0]:
                best = seconds, way
        if best is None:
            raise RuntimeError(f"no way to multiply {task.name} works here, expected one: {list(times)}")
        self.chosen[task] = best[1]
        self.microseconds[task.name] = times

    def ways(self, task: Task) -> list[Way]:
        """All that can do it."""
        narrow = task.dtype == EIGHT_BIT
        found = [Way("restored" if narrow else "cublas", super().product)]
        if narrow:
            found.append(Way("scaled_mm", self.both_in_eight_bits))
        if task.rows > FEW:
            return found
        found += self._compiled_ways(task)
        if task.rows <= 2:  # each way takes its time to compile: only those are tried that were fastest somewhere
            return found + [Way(f"two {t.outputs}x{t.inputs}", partial(self.two_rows, tile=t)) for t in TILES_OF_TWO]
        for tile in TILES:
            if not task.normed and fits(task, tile):
                splits = splits_of(task, tile)
                name = f"few {tile.outputs}x{tile.inputs}" + f" / {splits}" * (splits > 1)
                found.append(Way(name, partial(self.few_rows, tile=tile, splits=splits)))
        return found

    def _compiled_ways(self, task: Task) -> list[Way]:
        """Those in CUDA C++."""
        device = self.arrived.device
        if self.dtype != torch.bfloat16 or not nvrtc.serves(device):
            return []
        known: dict[str, Any] = {"eps": self.eps, "arrived": self.arrived}
        ways = [Way("stream", partial(streaming.product, **known))] if streams(task) else []
        if task.dtype == EIGHT_BIT and nvrtc.is_hopper(device):
            outs, size = task.shape
            for what in eight.best(size, outs, task.rows, task.gated, nvrtc.processors(device.index or 0)):
                ways.append(Way(f"eight / {what.splits}", partial(eight.product, **known, splits=what.splits)))
        return ways

    def few_rows(
        self,
        x: Float[Tensor, "L k"],
        weight: Weight,
        add: Float[Tensor, "..."] | None,
        norm: Float[Tensor, "k"] | None,
        gated: bool,
        tile: Tile,
        splits: int = 1,
    ) -> Float[Tensor, "L out"]:
        """Reads the weights once, and turns those of eight bits into x's type only where they are multiplied."""
        x, out, add, settings = self._prepared(x, weight, add, norm, gated, tile)
        rows, scale = weight if isinstance(weight, Scaled) else (weight, x)
        size, places = rows.shape[1], max(16, triton.next_power_of_2(len(x)))
        parts = x.new_empty(splits * places * out.shape[1] if splits > 1 else 1, dtype=torch.float32)
        kernels.product[triton.cdiv(len(rows), tile.outputs), splits](
            x, x if norm is None else norm, rows, scale, add, out, parts, self.arrived,
            len(x), out.shape[1], size, 0 if add.dim() == 1 else add.shape[1], self.eps,
            SPLITS=splits, M=places, PRECISION=precision_of(x), num_stages=tile.stages, **settings,
        )  # fmt: skip
        return out

    def two_rows(
        self,
        x: Float[Tensor, "L k"],
        weight: Weight,
        add: Float[Tensor, "..."] | None,
        norm: Float[Tensor, "k"] | None,
        gated: bool,
        tile: Tile,
    ) -> Float[Tensor, "L out"]:
        """The same of at most two rows, without tensor cores."""
        x, out, add, settings = self._prepared(x, weight, add, norm, gated, tile)
        rows, scale = weight if isinstance(weight, Scaled) else (weight, x)
        kernels.product_of_two[(triton.cdiv(len(rows), tile.outputs),)](
            x, x if norm is None else norm, rows, scale, add, out,
            len(x), out.shape[1], rows.shape[1], 0 if add.dim() == 1 else add.shape[1], self.eps, **settings,
        )  # fmt: skip
        return out

    def _prepared(
        self, x: Tensor, weight: Weight, add: Tensor | None, norm: Tensor | None, gated: bool, tile: Tile
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        num_out = shape_of(weight)[0] // (2 if gated else 1)
        x, out = x.contiguous(), x.new_empty(len(x), num_out)
        settings = {
            "NORM": norm is not None,
            "GATED": gated,
            "SCALED": isinstance(weight, Scaled),
            "ADDS": add is not None,
            "N": tile.outputs,
            "K": tile.inputs,
            "num_warps": tile.warps,
        }
        return x, out, out if add is None else add.contiguous(), settings

    def both_in_eight_bits(
        self,
        x: Float[Tensor, "L k"],
        weight: Scaled,
        add: Float[Tensor, "..."] | None,
        norm: Float[Tensor, "k"] | None,
        gated: bool,
    ) -> Float[Tensor, "L out"]:
        """On the tensor cores of eight bits: x's rows are scaled as well."""
        x = x.contiguous() if norm is None else self.norm(x, norm)
        narrow, scale = torch.empty_like(x, dtype=EIGHT_BIT), x.new_empty(len(x), 1, dtype=torch.float32)
        kernels.narrow_rows[(len(x),)](x, narrow, scale, x.shape[1], BLOCK=triton.next_power_of_2(x.shape[1]))
        out = torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage] - there is no public name
            narrow, weight.rows.T, scale_a=scale, scale_b=weight.scale[None], out_dtype=x.dtype, use_fast_accum=True
        )
        out = self.gate(out) if gated else out
        return out if add is None else out + add


def task_of(rows: int, weight: Weight, norm: Tensor | None, gated: bool) -> Task:
    """Equal where the same way is to be taken: for all numbers of rows up to a power of two."""
    out, size = shape_of(weight)
    rows = triton.next_power_of_2(rows)
    dtype = weight.rows.dtype if isinstance(weight, Scaled) else weight.dtype
    return Task(rows, (out, size), dtype, norm is not None, gated)


def shape_of(weight: Weight) -> torch.Size:
    """(out, k)"""
    return weight.rows.shape if isinstance(weight, Scaled) else weight.shape


def streams(task: Task) -> bool:
    """Whether `streaming` can do it."""
    outs, size = task.shape
    eight = task.dtype == EIGHT_BIT
    return streaming.Product(size, outs, task.rows, eight, task.normed, task.gated, adds=False).fits


def fits(task: Task, tile: Tile) -> bool:
    """Whether what a program has under way has room there."""
    rows = max(16, triton.next_power_of_2(task.rows))
    of_x = task.dtype.itemsize if task.dtype != EIGHT_BIT else 2
    return tile.stages * tile.inputs * (tile.outputs * task.dtype.itemsize + rows * of_x) <= MEMORY


def splits_of(task: Task, tile: Tile) -> int:
    """Among how many programs the inputs of an output are split, so that there are enough; where x needs no norm."""
    splits = min(8, triton.next_power_of_2(-(-ENOUGH * tile.outputs // task.shape[0])), task.shape[1] // tile.inputs)
    return 1 if task.normed else max(1, splits)


def multiplies(x: Tensor, weight: Scaled) -> bool:
    """Whether there is a product in eight bits of these, with a scale for each row."""
    return x.is_cuda and x.dtype == torch.bfloat16 and not any(side % 16 for side in weight.rows.shape)


def precision_of(x: Tensor) -> str:
    """How `tl.dot` multiplies: float32 as it is, not rounded."""
    return "ieee" if x.dtype == torch.float32 else "tf32"


def enough(weights: Sequence[Weight]) -> list[Weight]:
    """So many of them, or copies, that the cache holds none when it is its turn again."""
    wanted = max(4, -(-UNCACHED // size_of(weights[0])))
    chosen = list(weights[: int(wanted)])
    while len(chosen) < wanted:
        first = weights[0]
        chosen.append(Scaled(first.rows.clone(), first.scale) if isinstance(first, Scaled) else first.clone())
    return chosen


def spent(multiply: Callable[..., Tensor], weights: Sequence[Weight]) -> float:
    """Seconds of one product: some turns through the weights as a CUDA graph, so that the host's time does not count.

    So many products that starting the graph does not count either, and that those overlap which can.
    """
    in_turn = [*weights] * -(-CHAIN // len(weights))
    graph = Graph(lambda: [multiply(weight=weight) for weight in in_turn], logging.DEBUG)
    if graph.graph is None:
        raise RuntimeError("it cannot be captured")
    return min(graph.seconds() for _ in range(3)) / len(in_turn)
