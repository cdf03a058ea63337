"""Outputs that appear whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a file beside `path` and renames it: a full disk or a kill leaves no half-written output."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial{path.suffix}")
    try:
        write(partial)
        os.replace(partial, path)
    except OSError as error:
        if error.filename is None and error.errno is not None:  # a full disk does not say which file it was
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        if error.errno is None:  # nor does NumPy say why
            raise OSError(f"{path}: could not be written ({error}): is the disk full?") from error
        raise
    finally:
        partial.unlink(missing_ok=True)
