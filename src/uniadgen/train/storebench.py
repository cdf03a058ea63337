"""How fast samples come out of a store: a made-up one, from the disk and from memory, in one process and in several."""

import io
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw
from rich.table import Table

from uniadgen.config import Config
from uniadgen.data.encode import Making, finish_store
from uniadgen.data.listing import BATCH, Listing
from uniadgen.data.plan import Progress
from uniadgen.data.prompt import Layout
from uniadgen.data.rows import Rows
from uniadgen.data.shelves import BlobShelf, CodeShelf, Shelf, key_of
from uniadgen.data.store import Store
from uniadgen.data.tables import TableWriter
from uniadgen.model.weights import SHIPPED, read_tokenizer

HISTORY = 17  # clicks of a sample: PAd1M's mean
WORDS = ("light", "red", "blue", "warm", "mug", "lamp", "chair", "safe", "gift box", "kitchen", "oak", "steel", "glass")
AT_ONCE = 4096


class Rate(NamedTuple):
    """One line of the table: samples of all processes together."""

    what: str  # "samples": codes, words, PNG bytes; "rows": what the model takes
    disk: str  # cold, or warm
    processes: int
    per_second: float
    per_cpu_second: float  # of one process: what the machine's other load takes no part in


def make_store(folder: Path, config: Config, num_pictures: int, progress: Progress) -> None:
    """A store of so many clicked pictures, and a tenth as many targets and samples; codes and words are random."""
    rng = np.random.default_rng(0)
    numbers = {"clicks": num_pictures, "targets": max(num_pictures // 10, 1), "cutouts": max(num_pictures // 100, 1)}
    cells = {"clicks": config.click_cells, "targets": config.cells}

    def codes(count: int, things: Sequence[Any]) -> np.ndarray:
        return rng.integers(config.model.num_codes, size=(len(things), count))

    shelves: dict[str, Shelf] = {
        name: CodeShelf(folder, name, partial(codes, count), AT_ONCE) for name, count in cells.items()
    }
    shelves["cutouts"] = BlobShelf(folder, "cutouts", list, AT_ONCE)
    drawn = [_cutout(config.data.image_size, rng) for _ in range(64)]
    with progress("pictures", sum(numbers.values())) as bar:
        for name, number in numbers.items():
            for row in range(number):
                shelves[name].put(key_of(f"{name} {row}".encode()), drawn[row % 64])
            shelves[name].flush()
            bar.advance(by=number)
    rows = {name: np.arange(num_pictures, dtype=np.int32) for name in cells}
    rows["targets"] = np.where(rows["targets"] < numbers["targets"], rows["targets"], np.int32(-1))
    cutouts = np.arange(numbers["cutouts"], dtype=np.int32)
    listing = _listing(num_pictures, numbers["cutouts"], numbers["targets"])
    tables = TableWriter(folder, listing, rows, cutouts)
    making = Making(config, lambda pictures: np.zeros((0, 0), np.uint16), "random")
    finish_store(folder, making, shelves, tables, [], progress)


def _cutout(side: int, rng: np.random.Generator) -> bytes:
    """A product with some texture, as PNG."""
    canvas, held = Image.new("RGBA", (side, side)), io.BytesIO()
    box = (side // 4, side // 4, side - side // 4, side - side // 5)
    ImageDraw.Draw(canvas).ellipse(box, fill=(*rng.integers(40, 200, 3).tolist(), 255))
    pixels = np.asarray(canvas).copy()
    pixels[..., :3] += (pixels[..., 3:] > 0) * rng.integers(0, 40, pixels[..., :3].shape, dtype=np.uint8)
    Image.fromarray(pixels).save(held, "png")
    return held.getvalue()


def _listing(creatives: int, products: int, samples: int) -> Listing:
    rng = np.random.default_rng(1)
    words = np.array(WORDS)[rng.integers(len(WORDS), size=(creatives, 5))]
    texts = [f"{' '.join(five)} {number}" for number, five in enumerate(words.tolist())]
    history = rng.integers(creatives, size=(samples, HISTORY))
    lists = pa.FixedSizeListArray.from_arrays(pa.array(history.ravel(), pa.int32()), HISTORY).cast(pa.list_(pa.int32()))
    values = pa.array(rng.random(samples * HISTORY))
    scores = pa.FixedSizeListArray.from_arrays(values, HISTORY).cast(pa.list_(pa.float64()))
    lines = {"target": np.arange(samples, dtype=np.int32), "product": np.arange(samples, dtype=np.int32) % products}
    points = ["dishwasher safe", "gift box included"]
    tables = (
        pa.table({"image": [""] * creatives, "text": texts}),
        pa.table(
            {
                "image": [""] * products,
                "description": [f"A mug {number}." for number in range(products)],
                "selling_points": [points] * products,
            }
        ),
        pa.table(lines | {"history": lists, "scores": scores}),
    )

    def cut(table: pa.Table) -> Iterator[pa.RecordBatch]:
        yield from table.to_batches(max_chunksize=BATCH)

    def read(name: str) -> bytes:
        raise ValueError(f"{name}: a made-up store is not made from pictures")

    shown, told, advertised = (partial(cut, table) for table in tables)
    return Listing(creatives, products, samples, shown, told, advertised, read, read)


def bench_store(folder: Path, config: Config, seconds: float) -> list[Rate]:
    """Times both ways of reading, from the disk and from memory, in one process and in two."""
    found = []
    for what in ("samples", "rows"):
        for processes in (1, 2):
            with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
                list(pool.map(_import, range(processes)))  # starting up is not what is timed
                for disk in ("cold", "warm"):
                    if disk == "cold":
                        forget(folder)
                    job = partial(_measure, folder, config, what, seconds, processes)
                    done = list(pool.map(job, range(processes)))
                    counted = sum(number / wall for number, wall, _ in done)
                    found.append(
                        Rate(what, disk, processes, counted, sum(d[0] for d in done) / sum(d[2] for d in done))
                    )
    return found


def forget(folder: Path) -> None:
    """Asks the system to drop the store from its memory, so that it is read from the disk again."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _import(_: int) -> None:
    time.sleep(0.1)  # so that every process gets one


def _measure(
    folder: Path, config: Config, what: str, seconds: float, processes: int, rank: int
) -> tuple[int, float, float]:
    """How many samples came, in how many seconds, in how many of them this process ran; opening counts, too."""
    layout = Layout(read_tokenizer(SHIPPED / "nano"), config)
    began, ran = time.perf_counter(), time.process_time()
    store, number, done = Store(folder, config), rank, 0
    rows = Rows(config, layout, store)
    take: Callable[[int], Any] = rows.row if what == "rows" else _assembler(rows, store)
    while time.perf_counter() - began < seconds:
        for _ in range(16):
            take(number)
            number += processes
        done += 16
    return done, time.perf_counter() - began, time.process_time() - ran


def _assembler(rows: Rows, store: Store) -> Callable[[int], Any]:
    """A sample as the store has it: ten drawn clicks with titles and codes, the target's, words, the cut-out's PNG."""
    config = rows.config

    def assemble(number: int) -> tuple[Any, ...]:
        sample, rng = store.sample(number), np.random.default_rng([config.train.seed, number])
        assert sample.scores is not None, "a store knows them"
        chosen = rows.sampler(sample.scores, config.data.num_clicks, rng)
        titles = [sample.titles[i] for i in chosen]
        codes = np.stack([store.clicks[sample.pictures[i]] for i in chosen])
        words = sample.text, sample.description, sample.selling_points
        return titles, codes, words, store.targets[sample.picture], store.cutout_file(sample.product)

    return assemble


def report(folder: Path, config: Config, rates: list[Rate]) -> dict[str, Any]:
    """The figures and where they were taken, for a file."""
    size = sum(path.stat().st_size for path in folder.iterdir())
    processor = next(
        (line.split(":")[1].strip() for line in _cpu() if line.startswith("model name")), platform.machine()
    )
    hardware = {"processor": processor, "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    lines = [rate._asdict() for rate in rates]
    made = {"bytes": size, "clicks": len(Store(folder, config).clicks)}
    return {"hardware": hardware, "store": made, "clicks_shown": config.data.num_clicks, "rates": lines}


def _cpu() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def table(found: dict[str, Any]) -> Table:
    """For a terminal."""
    where, store = found["hardware"], found["store"]
    title = (
        f"{store['clicks']:,} clicked pictures, {store['bytes'] / 1e6:,.0f} MB, "
        f"{found['clicks_shown']} clicks a sample; "
        f"{where['processor']}, {where['cores']} cores, load {where['load']:.1f}"
    )
    out = Table("what", "disk", "processes", "samples/s", "samples/s of CPU", title=title)
    for rate in found["rates"]:
        figures = (f"{rate['per_second']:,.0f}", f"{rate['per_cpu_second']:,.0f}")
        out.add_row(rate["what"], rate["disk"], str(rate["processes"]), *figures)
    return out
