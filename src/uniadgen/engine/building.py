"""Compiles step.cpp for this very machine, once, with its g++; there need not be one."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("step.cpp")
COMPILER = "g++"  # whose vectors step.cpp is written with; any other is refused by it, and numba serves
# -O3 takes twice as long to compile and is not faster: what counts is written with vectors.
OPTIONS = "-O2", "-march=native", "-std=c++20", "-shared", "-fPIC", "-pthread"


@cache
def library() -> ctypes.CDLL | None:
    """The compiled functions; None where there is no compiler, it cannot do it, or no folder can be written."""
    compiler = shutil.which(COMPILER)
    try:
        path = _kept() or (compiler and _build(compiler))
        return ctypes.CDLL(str(path)) if path else None
    except (OSError, subprocess.SubprocessError):
        return None


def folder() -> Path:
    """Where it is kept: a file for every version of the source and kind of processor."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uniadgen"


def _stem() -> str:
    """Of the file's name; a digest of what it holds follows, so that a damaged one is known."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    kind = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    sources = [path.read_bytes() for path in (SOURCE, *sorted(SOURCE.parent.glob("*.h")))]
    said = [*sources, *(part.encode() for part in (kind, platform.machine(), *OPTIONS))]
    return f"step-{_digest(b' '.join(said))}-"


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=12).hexdigest()


def _kept() -> Path | None:
    """What was compiled before and is whole."""
    found = folder().glob(f"{_stem()}*.so")
    return next((path for path in found if path.stem == _stem() + _digest(path.read_bytes())), None)


def _build(compiler: str) -> Path:
    """Aside, then put in its place at once: several processes may be at it."""
    folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder()) as aside:
        made = Path(aside) / "step.so"
        command = [compiler, *OPTIONS, "-o", str(made), str(SOURCE)]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        return made.rename(folder() / f"{_stem()}{_digest(made.read_bytes())}.so")
