"""Products of few rows on Hopper and later, by a kernel in CUDA C++ that reads a weight as fast as memory does."""

import ctypes
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, float32

from uniadgen.engine.nvrtc import compiled, processors
from uniadgen.engine.precision import EIGHT_BIT, Scaled

MEMORY = 226_000  # bytes of a processor that blocks share
MOST_ROWS = 32
DEPTH = 4  # pieces that a warp has under way, as in the source


@dataclass(frozen=True)
class Product:
    """What a kernel is compiled for: as the source says."""

    size: int  # inputs
    outs: int  # outputs
    rows: int  # at most: a power of two
    eight: bool
    norm: bool
    gated: bool
    adds: bool

    @property
    def line(self) -> int:
        """Inputs in 128 bytes of an output."""
        return 128 if self.eight else 64

    @property
    def fits(self) -> bool:
        """Whether the kernel can do it."""
        halves = 2 if self.gated else 1
        return self.rows <= MOST_ROWS and self.size % self.line == 0 and self.outs % (16 * halves) == 0

    @property
    def splits(self) -> int:
        """Parts of the inputs: so many that a part of x has room in the memory of a block."""
        return next(number for number in range(1, 65) if self.blocks * self.shared_memory(number) <= MEMORY)

    @property
    def warps(self) -> int:
        """Of a block."""
        return 8 if self.rows <= 8 else 16

    @property
    def team(self) -> int:
        """Warps that share a tile: so many that each has all its pieces under way."""
        part = self.size // self.line // self.splits
        return next((team for team in (16, 8) if team <= self.warps and part >= team * DEPTH), 4)

    @property
    def blocks(self) -> int:
        """Of a processor."""
        return 16 // self.warps

    def shared_memory(self, splits: int) -> int:
        """Bytes, as `Memory` in the source."""
        width = -(-self.size // self.line // splits) * self.line
        x, norm = 2 * self.rows * (width + (8 if self.eight else 32)), 2 * (width if self.norm else 8)
        sums = 4 * (1 if self.rows > 16 else 2) * self.warps * self.sums
        return x + norm + sums + 4 * self.rows * max(1, self.warps // self.rows) + 32

    @property
    def defines(self) -> tuple[tuple[str, int], ...]:
        """For the source."""
        names = "size", "outs", "rows", "splits", "warps", "team", "eight", "norm", "gated", "adds"
        return tuple((name.upper(), int(getattr(self, name))) for name in names)

    @property
    def sums(self) -> int:
        """Numbers of a tile."""
        return -(-self.rows // 8) * 128

    @property
    def tiles(self) -> int:
        """16 outputs each."""
        return self.outs // 16


class Arguments(ctypes.Structure):
    """Addresses, as in the source."""

    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in ("x", "norm", "weight", "scale", "add", "out", "parts", "squares", "arrived")
    )


def product(
    x: Float[Tensor, "L k"],
    weight: Tensor | Scaled,
    add: Float[Tensor, "..."] | None,
    norm: Float[Tensor, "k"] | None,
    gated: bool,
    eps: float,
    arrived: Tensor,
) -> Float[Tensor, "L out"]:
    """As `FusedOperations.product`, of x in bfloat16; `arrived`: zeros, one for each tile, and zeros afterwards."""
    rows, scale = weight if isinstance(weight, Scaled) else (weight, None)
    places = 1 << (len(x) - 1).bit_length()
    what = Product(
        rows.shape[1], rows.shape[0], places, rows.dtype == EIGHT_BIT, norm is not None, gated, add is not None
    )
    device = x.device.index or 0
    kernel = compiled("stream.cu", "product", what.defines, device, what.shared_memory(what.splits))
    x, out = x.contiguous(), x.new_empty(len(x), what.outs // (2 if gated else 1))
    add = None if add is None else add.contiguous()
    splits = what.splits
    kept = x.new_empty(splits * (what.tiles * what.sums + places) if splits > 1 else 0, dtype=float32)
    squares = kept[splits * what.tiles * what.sums :]
    given = (x, norm, rows, scale, add, out, kept, squares, arrived)
    addresses = Arguments(*(None if one is None else one.data_ptr() for one in given))
    stride = 0 if add is None or add.dim() == 1 else add.shape[1]
    teams = what.warps // what.team
    blocks = min(-(-what.tiles // teams), -(-what.blocks * processors(device) // splits))
    numbers = ctypes.c_int(len(x)), ctypes.c_int(stride), ctypes.c_float(eps)
    kernel.launch((blocks, splits, 1), 32 * what.warps, addresses, *numbers)
    return out
