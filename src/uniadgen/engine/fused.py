"""The layers' operations and their attention on a GPU, by kernels in Triton; products by whatever is fastest there."""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import torch
import triton
from jaxtyping import Float, Int
from torch import Tensor

from uniadgen.engine import kernels_cuda as kernels
from uniadgen.engine.layers import Operations
from uniadgen.engine.precision import EIGHT_BIT, Scaled
from uniadgen.engine.slots import Slots

PROGRAMS = 1056  # that an attention starts at least: eight for each of an H100's 132 processors
MOST_SPLITS = 32
COLUMNS = 64  # that a program looks at together
QUERIES = 64  # of rows of one prompt that a program takes through it together
FEW = 64  # rows that the product in Triton takes
# Outputs and inputs of a weight that a program takes together, stages ahead and warps: tried on every shape.
TILES = ((16, 256, 4, 4), (32, 128, 4, 4), (32, 256, 3, 4), (64, 128, 4, 4))
Weight = Tensor | Scaled


class Way(NamedTuple):
    """One way to multiply, and its name in reports."""

    name: str
    multiply: Callable[[Tensor, Any, Tensor | None], Tensor]


class FusedOperations(Operations):
    """What a layer is made of, each one kernel. The fastest way to multiply is found by `tune`, for every shape."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype  # of what is multiplied with weights
        self.chosen: dict[tuple, Way] = {}
        self.microseconds: dict[str, dict[str, float]] = {}  # of every way, by shape: for reports

    def norm(self, x: Float[Tensor, "L D"], weight: Float[Tensor, "D"], eps: float) -> Float[Tensor, "L D"]:
        """Root mean square norm."""
        x = x.contiguous()
        out, width = torch.empty_like(x), x.shape[1]
        kernels.norm[(len(x),)](x, weight, out, width, eps, BLOCK=triton.next_power_of_2(width))
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
        self, x: Float[Tensor, "L k"], weight: Weight, add: Float[Tensor, "..."] | None = None
    ) -> Float[Tensor, "L out"]:
        """x W', and `add` to it."""
        way = self.chosen.get(key_of(len(x), weight))
        return way.multiply(x, weight, add) if way else super().product(x, weight, add)

    def tune(self, rows: int, weights: Sequence[Weight]) -> None:
        """Finds the fastest way for so many rows by weights of one shape: several, so that none is in the cache."""
        key = key_of(rows, weights[0])
        if key in self.chosen:
            return
        x = torch.randn(rows, shape_of(weights[0])[1], device=device_of(weights[0]), dtype=self.dtype)
        times: dict[str, float] = {}
        best: tuple[float, Way] | None = None
        for way in ways(rows, weights[0]):
            try:
                seconds = spent(partial(way.multiply, x, add=None), weights)
            except Exception as error:  # one that this GPU or this shape does not have
                times[f"{way.name}: {type(error).__name__}"] = float("nan")
                continue
            times[way.name] = seconds * 1e6
            if best is None or seconds < best[0]:
                best = seconds, way
        if best is None:
            raise RuntimeError(f"no way to multiply {rows} rows by {key[1:]} works here, expected one: {list(times)}")
        self.chosen[key] = best[1]
        self.microseconds[f"{rows} x {key[1]} {str(key[2]).removeprefix('torch.')}"] = times


def key_of(rows: int, weight: Weight) -> tuple:
    """Equal where the same way is to be taken."""
    return rows, tuple(shape_of(weight)), weight.rows.dtype if isinstance(weight, Scaled) else weight.dtype


def shape_of(weight: Weight) -> torch.Size:
    """(out, k)"""
    return weight.rows.shape if isinstance(weight, Scaled) else weight.shape


def device_of(weight: Weight) -> torch.device:
    """Where it is."""
    return weight.scale.device if isinstance(weight, Scaled) else weight.device


def ways(rows: int, weight: Weight) -> list[Way]:
    """All that can multiply so many rows by it."""
    few = [Way(f"triton {tile[0]}x{tile[1]}", partial(few_rows, tile=tile)) for tile in TILES] if rows <= FEW else []
    if isinstance(weight, Scaled):
        return [Way("scaled_mm", both_in_eight_bits), *few, *([] if few else [Way("restored", Operations().product)])]
    return [Way("cublas", Operations().product), *few]


def few_rows(
    x: Float[Tensor, "L k"],
    weight: Weight,
    add: Float[Tensor, "..."] | None,
    tile: tuple[int, int, int, int] = TILES[0],
) -> Float[Tensor, "L out"]:
    """Reads the weights once, and turns those of eight bits into x's type only where they are multiplied."""
    rows, scale = weight if isinstance(weight, Scaled) else (weight, x)
    num_out, size = rows.shape
    x, out = x.contiguous(), x.new_empty(len(x), num_out)
    outputs, inputs, stages, warps = tile
    kernels.product[(triton.cdiv(num_out, outputs),)](
        x,
        rows,
        scale,
        out if add is None else add.contiguous(),
        0 if add is None or add.dim() == 1 else num_out,
        out,
        len(x),
        num_out,
        size,
        SCALED=isinstance(weight, Scaled),
        ADDS=add is not None,
        PRECISION=precision_of(x),
        M=max(16, triton.next_power_of_2(len(x))),
        N=outputs,
        K=inputs,
        num_stages=stages,
        num_warps=warps,
    )
    return out


def both_in_eight_bits(
    x: Float[Tensor, "L k"], weight: Scaled, add: Float[Tensor, "..."] | None
) -> Float[Tensor, "L out"]:
    """On the tensor cores of eight bits: x's rows are scaled as well."""
    x = x.contiguous()
    narrow, scale = torch.empty_like(x, dtype=EIGHT_BIT), x.new_empty(len(x), 1, dtype=torch.float32)
    kernels.narrow_rows[(len(x),)](x, narrow, scale, x.shape[1], BLOCK=triton.next_power_of_2(x.shape[1]))
    out = torch._scaled_mm(
        narrow, weight.rows.T, scale_a=scale, scale_b=weight.scale[None], out_dtype=x.dtype, use_fast_accum=True
    )
    return out if add is None else out + add


def precision_of(x: Tensor) -> str:
    """How `tl.dot` multiplies: float32 as it is, not rounded."""
    return "ieee" if x.dtype == torch.float32 else "tf32"


def spent(multiply: Callable[..., Tensor], weights: Sequence[Weight], turns: int = 3) -> float:
    """Seconds of one product: the median of a few turns through the weights, on the GPU's own clock."""
    multiply(weight=weights[0])
    times = []
    for _ in range(turns):
        began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        began.record()
        for weight in weights:
            multiply(weight=weight)
        ended.record()
        ended.synchronize()
        times.append(began.elapsed_time(ended) / 1e3 / len(weights))
    return median(times)


class FusedAttention:
    """Rows of some groups, each at positions that are read on the device: columns split among programs, then merged.

    Where everybody's keys and values lie is a table on the device, so what has been captured stays right when slots
    are laid out anew: `place` writes the table, outside of what is captured.
    """

    def __init__(self, slots: Sequence[Slots], count: int) -> None:
        first = slots[0].keys
        self.heads, self.size = first.shape[2], first.shape[4]
        self.count, self.like = count, first.new_empty(1)
        self.rows = sum(len(group.owners) for group in slots)
        shared = [group for group in slots if group.shared is not None]
        self.groups = len(shared)
        self.longest = max((len(group.owners) * count for group in shared), default=0)  # queries of one group
        self.own = torch.zeros(self.rows, kernels.TABLE.value, dtype=torch.long, device=first.device)
        self.shared = torch.zeros(max(self.groups, 1), kernels.SHARED.value, dtype=torch.long, device=first.device)
        self.splits = splits(self.rows * self.heads)
        self.blocks = -(-self.longest // QUERIES)
        self.shared_splits = splits(self.groups * self.heads * self.blocks) if shared else 0
        self.parts = self.splits + self.shared_splits
        places = self.rows * count
        self.found = torch.zeros(places, self.heads, self.parts, self.size, device=first.device)
        self.sums = torch.full((places, self.heads, self.parts), float("-inf"), device=first.device)
        self.placed: list[list[int]] | None = None
        self.place(slots)

    def place(self, slots: Sequence[Slots]) -> None:
        """Where everything lies now."""
        own, shared = [], []
        for group in slots:
            keys, values = group.keys, group.values
            step = keys.stride(1) * keys.element_size()
            start, same = len(own), [keys.stride(0), keys.stride(2), group.skipped]
            own += [
                [keys.data_ptr() + row * step, values.data_ptr() + row * step, *same]
                for row in range(len(group.owners))
            ]
            if group.shared is not None:
                k, v = group.shared
                queries = [start * self.count, len(group.owners) * self.count]
                shared.append([k.data_ptr(), v.data_ptr(), k.stride(0), k.stride(1), k.shape[2], *queries])
        if self.placed != own + shared:
            self.own.copy_(torch.tensor(own))
            if shared:
                self.shared.copy_(torch.tensor(shared))
            self.placed = own + shared

    def aim(self, position: Int[Tensor, "rows k"]) -> None:
        """The step is at these positions of the rows, groups one after the other."""
        self.position = position.contiguous()

    def attend(self, number: int, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "L h d"]:
        """Keeps keys and values, and finds what the queries see: what is shared, and columns up to their own."""
        places, block = len(q), min(16, triton.next_power_of_2(self.heads))
        kernels.keep[places, triton.cdiv(self.heads, block)](
            k,
            v,
            self.position,
            self.own,
            self.like,
            number,
            self.count,
            k.stride(0),
            v.stride(0),
            self.heads,
            SIZE=self.size,
            BLOCK=block,
        )
        out, scale = q.new_empty(q.shape), self.size**-0.5 * 1.4426950408889634  # log2(e): powers are of 2
        settings: dict[str, Any] = {
            "SIZE": self.size,
            "N": COLUMNS,
            "PARTS": self.parts,
            "PRECISION": precision_of(q),
            "num_warps": 4,
        }
        kernels.attend_own[self.rows, self.heads, self.splits](
            q,
            self.position,
            self.own,
            self.like,
            self.found,
            self.sums,
            number,
            self.count,
            q.stride(0),
            self.heads,
            scale,
            M=max(16, triton.next_power_of_2(self.count)),
            SPLITS=self.splits,
            **settings,
        )
        if self.groups:
            kernels.attend_shared[self.groups, self.heads, self.shared_splits * self.blocks](
                q,
                self.shared,
                self.like,
                self.found,
                self.sums,
                number,
                q.stride(0),
                self.heads,
                scale,
                M=max(16, min(QUERIES, triton.next_power_of_2(self.longest))),
                SPLITS=self.shared_splits,
                OWN=self.splits,
                **settings,
            )
        kernels.merge[places, self.heads](
            self.found,
            self.sums,
            out,
            self.heads,
            SIZE=self.size,
            PARTS=self.parts,
            BLOCK=triton.next_power_of_2(self.parts),
        )
        return out


def splits(programs: int) -> int:
    """Among how many programs columns are split, so that there are enough of them."""
    return min(MOST_SPLITS, triton.next_power_of_2(-(-PROGRAMS // programs)))
