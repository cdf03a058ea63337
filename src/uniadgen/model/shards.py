"""Checkpoints in shards: read tensor by tensor, whatever the file format, and written again in shards."""

import hashlib
import json
import pickle
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

NAMED = 5  # tensors that an error names at most
SHARD_BYTES = 2 * 10**9
STEMS = ("model.safetensors", "pytorch_model.bin")  # alone, or as shards with STEM.index.json


def shards(folder: Path) -> list[Path]:
    """The weight files of a folder, safetensors before pickles.

    Raises `ValueError` when there are none, or when a shard that the index names is missing.
    """
    for stem in STEMS:
        index = folder / f"{stem}.index.json"
        if index.is_file():
            names = sorted(set(_weight_map(index).values()))
            missing = [name for name in names if not (folder / name).is_file()]
            if missing:
                raise ValueError(f"{folder}: {', '.join(missing)} missing, expected all {len(names)} shards of {index}")
            return [folder / name for name in names]
        if (folder / stem).is_file():
            return [folder / stem]
    raise ValueError(f"{folder}: no weights, expected {' or '.join(STEMS)} or shards of them with an index")


def _weight_map(index: Path) -> dict[str, str]:
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {str(tensor): Path(str(file)).name for tensor, file in found.items()}  # never out of the folder
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index}: damaged, expected JSON with a weight_map ({error!r})") from None


def read(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of everything in one file; only the tensor at hand is in memory.

    Raises `ValueError` for a file that is cut short, or a pickle that holds anything but tensors: no code of it runs.
    """
    if path.suffix == ".safetensors":
        yield from _read_safetensors(path)
        return
    held = unpickle(path)
    if not isinstance(held, dict) or not all(isinstance(value, Tensor) for value in held.values()):
        raise ValueError(f"{path}: got a {type(held).__name__}, expected names and tensors only")
    while held:
        yield held.popitem()


def unpickle(path: Path) -> Any:
    """What a file of torch holds, its tensors mapped; `ValueError` as for `read`."""
    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: holds more than tensors, so it is not opened ({_first_line(error)})") from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path}: damaged or cut short ({_first_line(error)})") from None


def _read_safetensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dictionary
                yield name, file.get_tensor(name)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged or cut short ({_first_line(error)})") from None


def read_shapes(path: Path) -> Iterator[tuple[str, Tensor]]:
    """As `read`, with tensors of the meta device: names and shapes without a byte of the weights."""
    if path.suffix != ".safetensors":
        yield from ((name, tensor.to("meta")) for name, tensor in read(path))
        return
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dictionary
                yield name, torch.empty(file.get_slice(name).get_shape(), device="meta")
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged or cut short ({_first_line(error)})") from None


def fingerprint(folder: Path, names: Sequence[str]) -> str:
    """Tells the weights of one folder from those of another by some of their tensors; `ValueError` where one lacks."""
    found = {name: tensor for path in shards(folder) for name, tensor in read(path) if name in names}
    missing = sorted(set(names) - found.keys())
    if missing:
        raise ValueError(
            f"{folder}: no {', '.join(missing)}, expected Hugging Face's layout: `uniadgen convert janus` makes it"
        )
    digest = hashlib.blake2b(digest_size=16)
    for name in names:
        digest.update(found[name].float().numpy().tobytes())
    return digest.hexdigest()


def check_tensors(
    where: Path, found: Mapping[str, Sequence[int]], expected: Mapping[str, Sequence[int]], verdict: str
) -> None:
    """Compares names and shapes; `ValueError` names what is missing, not expected or of another shape."""
    refuse_tensors(
        where,
        expected.keys() - found.keys(),
        found.keys() - expected.keys(),
        [(name, found[name], expected[name]) for name in found.keys() & expected.keys()],
        verdict,
    )


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Names and shapes, as `check_tensors` compares them."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def refuse_tensors(
    where: Path,
    missing: Iterable[str],
    extra: Iterable[str],
    shapes: Iterable[tuple[str, Sequence[int], Sequence[int]]],
    verdict: str,
) -> None:
    """`ValueError` with the first problems and `verdict`, where there are any; `shapes` are name, got, expected."""
    problems = [f"{name} is missing" for name in sorted(missing)]
    problems += [f"{name} is not expected" for name in sorted(extra)]
    problems += [
        f"{name} has shape {tuple(got)}, expected {tuple(wanted)}"
        for name, got, wanted in sorted(shapes)
        if tuple(got) != tuple(wanted)
    ]
    if problems:
        more = f" and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        raise ValueError(f"{where}: {'; '.join(problems[:NAMED])}{more}: {verdict}")


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes a safetensors file, readable by whom the umask says; safetensors itself would keep it to its owner."""
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(dict(tensors), path, metadata={"format": "pt"})
    except SafetensorError as error:  # how safetensors reports a disk that is full
        raise OSError(f"{path} could not be written, is the disk full? ({_first_line(error)})") from error
    path.chmod(mode)


@contextmanager
def in_new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which appears under its name only when all is written."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]


class ShardWriter:
    """Writes tensors to model-00001-of-0000N.safetensors in a folder, with an index; `new_shards` makes one."""

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        self.held: dict[str, Tensor] = {}
        self.num_bytes, self.total = 0, 0
        self.where: dict[str, int] = {}  # tensor -> number of its shard
        self.num_shards = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Takes one tensor."""
        size = tensor.numel() * tensor.element_size()
        if self.held and self.num_bytes + size > self.shard_bytes:
            self._flush()
        self.held[name] = tensor.contiguous()
        self.num_bytes += size
        self.total += size

    def _flush(self) -> None:
        save_tensors(self.held, self.folder / f"{self.num_shards}.safetensors")
        self.where |= dict.fromkeys(self.held, self.num_shards)
        self.held, self.num_bytes = {}, 0
        self.num_shards += 1

    def finish(self) -> None:
        """Writes what is held and the index."""
        self._flush()
        names = [f"model-{n + 1:05d}-of-{self.num_shards:05d}.safetensors" for n in range(self.num_shards)]
        if self.num_shards == 1:
            names = [STEMS[0]]
        for number, name in enumerate(names):
            (self.folder / f"{number}.safetensors").rename(self.folder / name)
        if self.num_shards > 1:
            index = {
                "metadata": {"total_size": self.total},
                "weight_map": {tensor: names[number] for tensor, number in sorted(self.where.items())},
            }
            path = self.folder / f"{STEMS[0]}.index.json"
            path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


@contextmanager
def new_shards(folder: Path, shard_bytes: int = SHARD_BYTES) -> Iterator[ShardWriter]:
    """A writer of shards, of which at most `shard_bytes` are held (or one larger tensor).

    The folder appears under its name only when all is written.
    """
    with in_new_folder(folder) as partial:
        writer = ShardWriter(partial, shard_bytes)
        yield writer
        writer.finish()
