"""Products of up to 64 rows in eight bits on Hopper, by a kernel in CUDA C++ that reads a weight as memory allows."""

import ctypes
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from uniadgen.engine.nvrtc import compiled, processors
from uniadgen.engine.precision import EIGHT_BIT, Scaled

MEMORY = 225_000  # bytes that a block may have
MOST_ROWS = 64
LINE = 128  # inputs that are multiplied together
TILE = 64  # outputs of a squad: four warps
SPLITS = (1, 2, 3, 4, 6, 8)
TRIED = 3  # numbers of splits
CACHE = 4  # times as fast as memory


@dataclass(frozen=True)
class Product:
    """What a kernel is compiled for: as the source says."""

    size: int  # inputs
    outs: int  # outputs
    rows: int  # at most: 8, 16, 32 or 64
    gated: bool
    processors: int  # of the GPU
    splits: int  # parts of the inputs

    @property
    def fits(self) -> bool:
        """Whether the kernel can do it: every part has inputs, and a block room for its own."""
        whole = self.rows <= MOST_ROWS and self.size % LINE == self.outs % TILE == 0
        return whole and (self.splits - 1) * self.lines < self.size // LINE and self.shared_memory <= MEMORY

    @property
    def lines(self) -> int:
        """Of a part: 128 inputs each."""
        return -(-(self.size // LINE) // self.splits)

    @property
    def tiles(self) -> int:
        """64 outputs each."""
        return self.outs // TILE

    @property
    def blocks(self) -> int:
        """Of each part: one for each processor in all."""
        return min(self.tiles, max(1, self.processors // self.splits))

    @property
    def turns(self) -> int:
        """Tiles that the busiest block takes."""
        return -(-self.tiles // self.blocks)

    @property
    def squads(self) -> int:
        """Of a block: so many that their sums have room in registers."""
        return 3 if self.rows == MOST_ROWS else 4

    @property
    def team(self) -> int:
        """Squads that share a tile: where a block has fewer tiles than squads."""
        return next((n for n in (self.squads, 2) if self.squads % n == 0 and n * self.turns <= self.squads), 1)

    @property
    def shared_memory(self) -> int:
        """Bytes, as `Memory` in the source."""
        return self.lines * self.rows * LINE + 4 * self.rows + 8

    @property
    def pieces(self) -> int:
        """Of which sums are added up."""
        return self.splits * self.team

    @property
    def moved(self) -> float:
        """Bytes of the busiest block: of the weight, of x, which the cache has, and sums, written and read again."""
        sums = 12 * self.turns * self.team * TILE * self.rows if self.pieces > 1 else 0
        return self.turns * self.lines * TILE * LINE + self.shared_memory / CACHE + sums

    @property
    def defines(self) -> tuple[tuple[str, int], ...]:
        """For the source."""
        names = "size", "outs", "rows", "splits", "squads", "team", "gated"
        return tuple((name.upper(), int(getattr(self, name))) for name in names)


def best(size: int, outs: int, rows: int, gated: bool, processors: int) -> list[Product]:
    """Those that should be done soonest; none where the kernel cannot do it."""
    ways = (Product(size, outs, places_of(rows), gated, processors, splits) for splits in SPLITS)
    return sorted((way for way in ways if way.fits), key=lambda way: way.moved)[:TRIED]


class Given(ctypes.Structure):
    """Addresses, as in narrow.cu."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("x", "norm", "out", "scales"))


class Arguments(ctypes.Structure):
    """Addresses, as in eight.cu."""

    _fields_ = tuple(
        (name, ctypes.c_void_p) for name in ("x", "scales", "weight", "scale", "add", "out", "parts", "arrived")
    )


def product(
    x: Float[Tensor, "L k"],
    weight: Scaled,
    add: Float[Tensor, "..."] | None,
    norm: Float[Tensor, "k"] | None,
    gated: bool,
    eps: float,
    arrived: Tensor,
    splits: int,
) -> Float[Tensor, "L out"]:
    """As `FusedOperations.product`, of x in bfloat16; `arrived`: zeros, one for 16 outputs, and zeros afterwards."""
    device, (outs, size) = x.device.index or 0, weight.rows.shape
    what = Product(size, outs, places_of(len(x)), gated, processors(device), splits)
    narrow, scales = narrowed(x.contiguous(), norm, what.rows, eps)
    out = x.new_empty(len(x), outs // (2 if gated else 1))
    add = None if add is None else add.contiguous()
    parts = scales.new_empty(what.pieces * outs * what.rows if what.pieces > 1 else 0)
    given = narrow, scales, weight.rows, weight.scale, add, out, parts, arrived
    addresses = Arguments(*(None if one is None else one.data_ptr() for one in given))
    stride = 0 if add is None or add.dim() == 1 else add.shape[1]
    kernel = compiled("eight.cu", "product", what.defines, device, what.shared_memory)
    numbers = ctypes.c_int(len(x)), ctypes.c_int(stride)
    kernel.launch((what.blocks, splits, 1), 128 * what.squads, addresses, *numbers)
    return out


def places_of(rows: int) -> int:
    """For how many rows the kernel of so many is compiled."""
    return max(8, 1 << (rows - 1).bit_length())


def narrowed(
    x: Float[Tensor, "L k"], norm: Float[Tensor, "k"] | None, places: int, eps: float
) -> tuple[Tensor, Float[Tensor, "L"]]:
    """x, normed where that is asked for, in e4m3 with a scale for each row, as the product wants it."""
    length, size = x.shape
    out = torch.empty(places * size, dtype=EIGHT_BIT, device=x.device)
    scales = torch.empty(length, dtype=torch.float32, device=x.device)
    defines = ("SIZE", size), ("ROWS", places), ("NORM", int(norm is not None))
    kernel = compiled("narrow.cu", "narrow", defines, x.device.index or 0)
    addresses = Given(*(None if one is None else one.data_ptr() for one in (x, norm, out, scales)))
    kernel.launch((length, 1, 1), 256, addresses, ctypes.c_float(eps))
    return out, scales
