"""How fast PBS compares two folders here, beside one picture at a time, and that memory does not grow with them."""

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.table import Table

from uniadgen.config import WorldConfig
from uniadgen.data.bench import machine
from uniadgen.data.cutout import read_picture
from uniadgen.metrics.backgrounds import probes
from uniadgen.metrics.pairs import Pair, compare, pair_up
from uniadgen.metrics.pbs import PBS
from uniadgen.metrics.pictures import cosines

RENDERED = 8  # different pairs; more are the same pictures under other names
MORE = 4  # times as many pairs, to see whether memory grows


@dataclass(frozen=True)
class Speed:
    """What was measured; seconds are from files to similarities, peaks are of a process of its own."""

    pairs: int
    size: int  # px, of the pictures
    batched: float  # s
    one_at_a_time: float  # s
    difference: float  # the largest between the two ways' similarities
    peak: int  # bytes, with as many pairs
    peak_of_more: int  # bytes, with `MORE` times as many

    @property
    def ratio(self) -> float:
        """How many times as fast as one picture at a time."""
        return self.one_at_a_time / self.batched


def make_folders(folder: Path, num_pairs: int, size: int) -> tuple[Path, Path]:
    """Two folders with PNGs of AdWorld, the same product on two backgrounds."""
    rendered = list(probes(WorldConfig(), RENDERED, size))
    for name, kind in (("a", "first"), ("b", "different")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(num_pairs):
            path = folder / name / f"{number:07d}.png"
            if number < RENDERED:
                rendered[number][kind].save(path)
            elif not path.exists():
                path.symlink_to(f"{number % RENDERED:07d}.png")
    return folder / "a", folder / "b"


def bench_pairs(name: str, work: Path, num_pairs: int, size: int, advance: Callable[[str], None]) -> Speed:
    """Times both ways on pictures of `size` pixels, after a first pass that does not count."""
    model = PBS.from_pretrained(name)
    few = make_folders(work / "few", num_pairs, size)
    pairs = pair_up(*few)
    many = make_folders(work / "many", MORE * num_pairs, size)
    advance("pictures")
    for warm in (_batched, _one_at_a_time):
        warm(pairs[:RENDERED], work, model)
    began = time.perf_counter()
    together = _batched(pairs, work, model)
    between = time.perf_counter()
    advance("batched")
    alone = _one_at_a_time(pairs, work, model)
    ended = time.perf_counter()
    advance("one at a time")
    peaks = []
    for folders in (few, many):
        peaks.append(_peak(name, folders, work / "memory.csv"))
        advance("memory")
    difference = max(abs(one - other) for one, other in zip(together, alone, strict=True))
    return Speed(num_pairs, size, between - began, ended - between, difference, *peaks)


def _batched(pairs: list[Pair], work: Path, model: PBS) -> list[float]:
    return compare(pairs, work / "pbs.csv", model).scores


@torch.inference_mode()
def _one_at_a_time(pairs: list[Pair], work: Path, model: PBS) -> list[float]:
    """The plain way: read a picture, look at it, go on."""

    def features(path: Path | None):
        assert path is not None, "both folders have it"
        return model.features([read_picture(path, "RGB")])

    return [float(cosines(features(pair.a), features(pair.b))[0]) for pair in pairs]


def _peak(name: str, folders: tuple[Path, Path], out: Path) -> int:
    """Largest resident memory of a new process that compares two folders, in bytes."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(compare_alone, name, folders, out).result()


def compare_alone(name: str, folders: tuple[Path, Path], out: Path) -> int:
    """Compares two folders and returns the largest resident memory of this process so far, in bytes."""
    compare(pair_up(*folders), out, PBS.from_pretrained(name))
    status = Path("/proc/self/status").read_text()  # what getrusage tells may be the memory of who started this
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def table(found: Speed) -> Table:
    """For a terminal."""
    out = Table(
        "pairs", "way", "s", "pairs/s", "x",
        title=f"PBS, {found.size} px PNGs; {machine()}, {torch.get_num_threads()} threads",
        caption=f"largest difference of a similarity: {found.difference:.1e}; peak memory: "
        f"{found.peak / 1e6:,.0f} MB, {MORE} x the pairs: {found.peak_of_more / 1e6:,.0f} MB",
    )  # fmt: skip
    for way, seconds in (("one picture at a time", found.one_at_a_time), ("batched", found.batched)):
        ratio = found.one_at_a_time / seconds
        out.add_row(f"{found.pairs:,}", way, f"{seconds:.2f}", f"{found.pairs / seconds:,.1f}", f"{ratio:.2f}")
    return out
