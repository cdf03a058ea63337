"""Products of few rows on Hopper and later, by a kernel in CUDA C++ that reads the weight as fast as memory gives it."""

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from uniadgen.engine.precision import EIGHT_BIT, Scaled

SOURCE = Path(__file__).with_name("stream.cu")
WARPS, BLOCKS = 8, 2  # of a block, and blocks of a processor: as the source has them
CAPABILITY = (9, 0)  # where kernels may begin before the one ahead has ended
MEMORY = 113_000  # bytes that each of two blocks of a processor may share
MOST_ROWS = 32


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
        return next(number for number in range(1, 65) if self.shared_memory(number) <= MEMORY)

    def shared_memory(self, splits: int) -> int:
        """Bytes, as `Memory` in the source."""
        width = -(-self.size // self.line // splits) * self.line
        x = 2 * self.rows * (width + (8 if self.eight else 32))
        sums = 2 * WARPS * 4 * self.sums
        return x + sums + 4 * self.rows * max(1, WARPS // self.rows) + 16

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
    """As `FusedOperations.product`, of x in bfloat16; `arrived`: zeros, one for each tile, that are zeros afterwards."""
    rows, scale = weight if isinstance(weight, Scaled) else (weight, None)
    places = 1 << (len(x) - 1).bit_length()
    what = Product(
        rows.shape[1], rows.shape[0], places, rows.dtype == EIGHT_BIT, norm is not None, gated, add is not None
    )
    kernel = compiled(what, x.device.index or 0)
    x, out = x.contiguous(), x.new_empty(len(x), what.outs // (2 if gated else 1))
    add = None if add is None else add.contiguous()
    splits = what.splits
    kept = x.new_empty(splits * (what.tiles * what.sums + places) if splits > 1 else 0, dtype=torch.float32)
    squares = kept[splits * what.tiles * what.sums :]
    given = (x, norm, rows, scale, add, out, kept, squares, arrived)
    addresses = Arguments(*(None if one is None else one.data_ptr() for one in given))
    stride = 0 if add is None or add.dim() == 1 else add.shape[1]
    blocks = min(what.tiles, -(-BLOCKS * processors(x.device.index or 0) // splits))
    kernel.launch((blocks, splits), (addresses, len(x), stride, eps))
    return out


@cache
def processors(device: int) -> int:
    """Of a GPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count


class Kernel:
    """A compiled product."""

    def __init__(self, function: Any, shared_memory: int) -> None:
        self.function, self.shared_memory = function, shared_memory

    def launch(self, grid: tuple[int, int], arguments: tuple[Arguments, int, int, float]) -> None:
        """On torch's stream; it may begin before the kernel ahead has ended, for whose results it waits inside."""
        from cuda.bindings import driver

        attribute = driver.CUlaunchAttribute()
        attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        attribute.value.programmaticStreamSerializationAllowed = 1
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = *grid, 1
        config.blockDimX, config.blockDimY, config.blockDimZ = 32 * WARPS, 1, 1
        config.sharedMemBytes = self.shared_memory
        config.hStream = torch.cuda.current_stream().cuda_stream
        config.attrs, config.numAttrs = [attribute], 1
        of, rows, stride, eps = arguments
        values = of, ctypes.c_int(rows), ctypes.c_int(stride), ctypes.c_float(eps)
        places = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        checked(driver.cuLaunchKernelEx(config, self.function, ctypes.addressof(places), 0))


@cache
def compiled(what: Product, device: int) -> Kernel:
    """For one GPU; takes some tenths of a second."""
    from cuda.bindings import driver, nvrtc

    splits = what.splits
    given = {name: int(getattr(what, name)) for name in ("size", "outs", "rows", "eight", "norm", "gated", "adds")}
    major, minor = torch.cuda.get_device_capability(device)
    options = [f"--gpu-architecture=sm_{major}{minor}", "--std=c++17"]
    options += [f"-D{name.upper()}={number}" for name, number in (given | {"splits": splits}).items()]
    program = checked(nvrtc.nvrtcCreateProgram(SOURCE.read_bytes(), SOURCE.name.encode(), 0, [], []))
    words = [option.encode() for option in options]
    (result,) = nvrtc.nvrtcCompileProgram(program, len(words), words)
    if result != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        log = bytes(checked(nvrtc.nvrtcGetProgramLogSize(program)))
        checked(nvrtc.nvrtcGetProgramLog(program, log))
        raise RuntimeError(f"{SOURCE.name} does not compile with {' '.join(options)}: {log.decode(errors='replace')}")
    code = bytes(checked(nvrtc.nvrtcGetCUBINSize(program)))
    checked(nvrtc.nvrtcGetCUBIN(program, code))
    checked(nvrtc.nvrtcDestroyProgram(program))
    torch.cuda.current_stream().synchronize()  # that there is a context
    module = checked(driver.cuModuleLoadData(code))
    function = checked(driver.cuModuleGetFunction(module, b"product"))
    room = what.shared_memory(splits)
    limit = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    checked(driver.cuFuncSetAttribute(function, limit, room))
    return Kernel(function, room)


def checked(returned: tuple[Any, ...]) -> Any:
    """What a call of the driver or compiler returned beside its result; raises where that is an error."""
    result, *rest = returned
    if int(result):
        raise RuntimeError(f"CUDA: {result}, expected success")
    return rest[0] if rest else None
