"""The layers' attention on a GPU, by kernels in Triton: columns split among programs as is fastest there."""

import ctypes
import logging
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch
import triton  # pyright: ignore[reportMissingImports] - where there is a GPU
from jaxtyping import Float
from torch import Tensor

from uniadgen.engine import kernels_cuda, nvrtc
from uniadgen.engine.capturing import Graph
from uniadgen.engine.fused import precision_of
from uniadgen.engine.precision import EIGHT_BIT
from uniadgen.engine.sizes import Sizes, power
from uniadgen.engine.slots import Places, Slots

log = logging.getLogger(__name__)
kernels: Any = kernels_cuda  # which Triton makes of functions is not typed
MOST_SPLITS = 32
QUERIES = 64  # of rows of one prompt that a program takes through it together
HEAD, MOST_QUERIES = 128, 16  # the size of heads, and queries of a row, that attend.cu takes
MERGED = 8192  # numbers that a program has in hand when it makes one softmax of some


class Plan(NamedTuple):
    """How many programs are started at least, the columns that one looks at together, stages ahead, and warps."""

    programs: int
    columns: int
    stages: int
    warps: int
    ours: bool = False  # by attend.cu, which has warps and stages of its own

    def splits(self, others: int) -> int:
        """Among how many programs columns are split where there are so many others."""
        return min(MOST_SPLITS, -(-self.programs // others))


PLANS = (Plan(512, 64, 3, 4), Plan(256, 64, 3, 4), Plan(1024, 64, 3, 4), Plan(512, 128, 2, 8))
PLANS_OF_OURS = tuple(Plan(programs, 64, 3, 4, True) for programs in (512, 256, 640, 1024))


class Arguments(ctypes.Structure):
    """Addresses, as in attend.cu."""

    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in ("qkv", "cos", "sin", "position", "column", "seen", "table", "found", "sums", "arrived", "out")
    )


class FusedAttention:
    """Rows of some groups, each at positions that are read on the device: columns split among programs, then merged.

    Where everybody's keys and values lie is a table on the device, so what has been captured stays right when slots
    are laid out anew, or are others of the same `Sizes`: `place` writes the table, outside of what is captured.
    """

    def __init__(self, slots: Sequence[Slots], count: int, angles: tuple[Tensor, Tensor]) -> None:
        """`angles`: cosines and sines of all positions."""
        self.cos, self.sin = angles
        first = slots[0].keys
        self.layers, _, self.heads, _, self.size = first.shape
        self.count, self.like = count, first.new_empty(1)
        self.rows, self.groups, longest = Sizes.of(slots)
        self.longest = longest * count  # queries of one group
        self.own = torch.zeros(self.rows, kernels.TABLE.value, dtype=torch.long, device=first.device)
        self.shared = torch.zeros(max(self.groups, 1), kernels.SHARED.value, dtype=torch.long, device=first.device)
        self.blocks = -(-self.longest // QUERIES)
        self.arrived = torch.zeros(self.rows * self.heads, dtype=torch.int32, device=first.device)
        self.plans, self.kernel = PLANS, None
        if (
            nvrtc.serves(first.device)
            and (self.cos.dtype, self.size) == (torch.bfloat16, HEAD)
            and first.dtype in (torch.bfloat16, EIGHT_BIT)
            and count <= MOST_QUERIES
        ):
            defines = ("GROUPS", -(-count // 8)), ("EIGHT", int(first.dtype == EIGHT_BIT))
            self.kernel = nvrtc.compiled("attend.cu", "attend", defines, first.device.index or 0)
            self.plans = PLANS_OF_OURS + PLANS
        self.follow(self.plans[0], slots)

    def follow(self, plan: Plan, slots: Sequence[Slots]) -> None:
        """Splits columns like that from now on."""
        self.plan, self.splits = plan, plan.splits(self.rows * self.heads)
        self.shared_splits = plan.splits(self.groups * self.heads * self.blocks) if self.groups else 0
        self.parts = self.splits + self.shared_splits
        places, device = self.rows * self.count, self.own.device
        self.found = torch.zeros(places, self.heads, self.parts, self.size, device=device)
        self.sums = torch.full((places, self.heads, self.parts), float("-inf"), device=device)
        self.placed: list[list[int]] | None = None
        self.place(slots)

    def tune(self, slots: Sequence[Slots], at: Places, chosen: dict[Hashable, Plan]) -> None:
        """Follows the plan that is fastest at these places, whose columns it spoils; `chosen` has those found.

        All layers are looked through in turn, so that the cache holds nothing of what the next one reads. What was
        found serves all numbers of rows up to a power of two: ads come and go.
        """
        key = power(self.rows), self.heads, self.count, self.groups, self.longest, self.like.dtype, self.cos.dtype
        if key not in chosen:
            self.aim(at)
            times = {}
            for plan in {self._does(plan): plan for plan in reversed(self.plans)}.values():
                self.follow(plan, slots)
                try:
                    graph = Graph(self._all_layers, logging.DEBUG)
                except Exception as error:  # it asks for more than this GPU has
                    log.debug("%s: %s", plan, error)
                    continue
                if graph.graph is not None:
                    times[plan] = min(graph.seconds() for _ in range(3))
            chosen[key] = min(times, key=times.__getitem__) if times else self.plans[0]
            self.arrived.zero_()
        self.follow(chosen[key], slots)

    def _does(self, plan: Plan) -> Hashable:
        """Equal where the same would be started."""
        shared = plan.splits(self.groups * self.heads * self.blocks) if self.groups else 0
        return plan.splits(self.rows * self.heads), shared, *plan[1:]

    def _all_layers(self) -> None:
        shape = self.rows * self.count, 3 * self.heads, self.size
        q, k, v = torch.zeros(shape, dtype=self.cos.dtype, device=self.own.device).split(self.heads, 1)
        for number in range(self.layers):
            self.attend(number, q, k, v)

    def place(self, slots: Sequence[Slots]) -> None:
        """Where everything lies now."""
        own, shared = [], []
        share = -(-max(group.keys.shape[3] for group in slots) // self.splits)
        share = -(-share // self.plan.columns) * self.plan.columns  # columns that a program takes
        for group in slots:
            keys, values = group.keys, group.values
            step = keys.stride(1) * keys.element_size()
            start, same = len(own), [keys.stride(0), keys.stride(2), group.skipped, share]
            own += [[keys.data_ptr() + row * step, values.data_ptr() + row * step, *same] for row in group.rows]
            if group.shared is not None:
                k, v = group.shared
                queries = [start * self.count, len(group.owners) * self.count]
                shared.append([k.data_ptr(), v.data_ptr(), k.stride(0), k.stride(1), k.shape[2], *queries])
        shared += [[*shared[0][:4], 0, 0, 0] for _ in range(self.groups - len(shared))]  # no columns, no queries
        if self.placed != own + shared:
            self.own.copy_(torch.tensor(own))
            if shared:
                self.shared.copy_(torch.tensor(shared))
                self.sums.fill_(float("-inf"))  # of rows that shared a prompt then, and share none now
            self.placed = own + shared

    def aim(self, at: Places) -> None:
        """The step is at these places of the rows, groups one after the other."""
        self.position, self.column, self.seen = (numbers.contiguous() for numbers in at)

    def attend(self, number: int, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "L h d"]:
        """Rotates queries and keys, keeps keys and values, and finds what the queries see.

        They see what is shared, and those columns of their row that they may. q, k and v are parts of one tensor
        (L, 3 h, d).
        """
        assert v.data_ptr() - k.data_ptr() == k.data_ptr() - q.data_ptr() == self.heads * self.size * q.element_size()
        out, scale = q.new_empty(q.shape), self.size**-0.5 * 1.4426950408889634  # log2(e): powers are of 2
        settings: dict[str, Any] = {
            "SIZE": self.size,
            "N": self.plan.columns,
            "PRECISION": precision_of(q),
            "num_stages": self.plan.stages,
            "num_warps": self.plan.warps,
        }
        if self.groups:
            kernels.attend_shared[self.groups, self.heads, self.shared_splits * self.blocks](
                q, self.cos, self.sin, self.position, self.shared, self.like, self.found, self.sums,
                number, self.heads, self.shared_splits, self.splits, self.parts, scale,
                M=max(16, min(QUERIES, triton.next_power_of_2(self.longest))), **settings,
            )  # fmt: skip
        if self.plan.ours:
            self._attend_own(number, q, out, scale)
            return out
        block = 1 if self.parts == 1 else max(8, triton.next_power_of_2(self.parts))
        queries = triton.next_power_of_2(self.count)
        kernels.attend_own[self.rows, self.heads, self.splits](
            q, self.cos, self.sin, self.position, self.column, self.seen, self.own, self.like, self.found, self.sums,
            self.arrived, out, number, self.count, self.heads, self.splits, self.parts, scale,
            M=max(16, queries), BLOCK=block, TOGETHER=min(queries, max(1, MERGED // (block * self.size))), **settings,
        )  # fmt: skip
        return out

    def _attend_own(self, number: int, qkv: Tensor, out: Tensor, scale: float) -> None:
        """By our own kernel."""
        assert self.kernel is not None
        given = (qkv, self.cos, self.sin, self.position, self.column, self.seen, self.own, self.found, self.sums)
        addresses = Arguments(*(one.data_ptr() for one in (*given, self.arrived, out)))
        sizes = number, self.count, self.heads, self.splits, self.parts
        numbers = *map(ctypes.c_int, sizes), ctypes.c_float(scale)
        self.kernel.launch((self.rows, self.heads, self.splits), 128, addresses, *numbers)
