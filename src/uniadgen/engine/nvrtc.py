"""Kernels in CUDA C++, compiled where they run and when they are first needed: by NVRTC, which comes with torch."""

import ctypes
import logging
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)
SHARED = "kernels.cuh"  # with which every source begins
CAPABILITY = (9, 0)  # Hopper, from which on kernels may begin before the one ahead has ended


@cache
def serves(device: torch.device) -> bool:
    """Whether kernels can be compiled and run there: a Hopper GPU or a later one, and NVIDIA's own bindings."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < CAPABILITY:
        return False
    if find_spec("cuda") is not None and find_spec("cuda.bindings") is not None:
        return True
    log.warning("no cuda-bindings, so steps are slower than they can be: pip install cuda-bindings, of your CUDA")
    return False


def is_hopper(device: torch.device) -> bool:
    """Whether it has the tensor cores of Hopper, for four warps at once, which later GPUs have not."""
    return torch.cuda.get_device_capability(device) == CAPABILITY


@cache
def processors(device: int) -> int:
    """Of a GPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count


class Kernel:
    """A compiled function of CUDA C++."""

    def __init__(self, function: Any, shared_memory: int) -> None:
        """`shared_memory`: bytes of each block, beside what the source itself asks for."""
        self.function, self.shared_memory = function, shared_memory

    def launch(self, grid: tuple[int, int, int], threads: int, *arguments: Any) -> None:
        """On torch's stream; it may begin before the kernel ahead has ended, for whose results it waits inside.

        `arguments` are of ctypes.
        """
        from cuda.bindings import driver  # pyright: ignore[reportMissingImports] - where there is a GPU

        attribute = driver.CUlaunchAttribute()
        attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        attribute.value.programmaticStreamSerializationAllowed = 1
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = grid
        config.blockDimX, config.blockDimY, config.blockDimZ = threads, 1, 1
        config.sharedMemBytes = self.shared_memory
        config.hStream = torch.cuda.current_stream().cuda_stream
        config.attrs, config.numAttrs = [attribute], 1
        places = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(one) for one in arguments))
        checked(driver.cuLaunchKernelEx(config, self.function, ctypes.addressof(places), 0))


@cache
def compiled(file: str, name: str, defines: tuple[tuple[str, int], ...], device: int, shared_memory: int = 0) -> Kernel:
    """A function of a file beside this one; takes some tenths of a second, and not while a graph is captured."""
    from cuda.bindings import driver, nvrtc  # pyright: ignore[reportMissingImports] - where there is a GPU

    major, minor = torch.cuda.get_device_capability(device)
    options = [f"--gpu-architecture=sm_{major}{minor}a", "--std=c++17", *(f"-D{key}={value}" for key, value in defines)]
    made = code(nvrtc, file, options)
    with torch.cuda.device(device):
        torch.cuda.synchronize()  # from then on it has a context, into which modules are loaded
        module = checked(driver.cuModuleLoadData(made))
    function = checked(driver.cuModuleGetFunction(module, name.encode()))
    limit = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    checked(driver.cuFuncSetAttribute(function, limit, shared_memory))
    return Kernel(function, shared_memory)


def code(nvrtc: Any, file: str, options: Sequence[str]) -> bytes:
    """What the compiler makes of a file beside this one."""
    source = b"".join(Path(__file__).with_name(name).read_bytes() for name in (SHARED, file))
    program = checked(nvrtc.nvrtcCreateProgram(source, file.encode(), 0, [], []))
    (result,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
    if int(result):
        said = bytes(checked(nvrtc.nvrtcGetProgramLogSize(program)))
        checked(nvrtc.nvrtcGetProgramLog(program, said))
        raise RuntimeError(f"{file} does not compile with {' '.join(options)}: {said.decode(errors='replace')}")
    made = bytes(checked(nvrtc.nvrtcGetCUBINSize(program)))
    checked(nvrtc.nvrtcGetCUBIN(program, made))
    checked(nvrtc.nvrtcDestroyProgram(program))
    return made


def checked(returned: tuple[Any, ...]) -> Any:
    """What a call of the driver or compiler returned beside its result; raises where that is an error."""
    result, *rest = returned
    if int(result):
        raise RuntimeError(f"CUDA: {result}, expected success")
    return rest[0] if rest else None
