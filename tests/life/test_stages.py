"""The stages after a build are killed in the middle and go on to the same files."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shop_log import PROGRESS, build, contents, dataset_config, events, write, write_log
from uniadgen.config import PrepareConfig, override
from uniadgen.data.executor import processes
from uniadgen.data.plan import locked
from uniadgen.data.prepare import prepare

SETTINGS = ("--set", "stages.items_per_task=1", "--set", "stages.max_unsupported=1.0")


@pytest.fixture
def shop(tmp_path: Path) -> tuple[Path, Path]:
    """A log whose products have pictures large enough that cutting them out takes a moment, and its dataset."""
    log = write_log(tmp_path / "log", events(600, num_creatives=200), num_creatives=200)
    (log / "pictures").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 4), dtype=np.uint8)
    for number in range(50):
        noise[0, 0] = number
        Image.fromarray(noise).save(log / f"pictures/{number}.png", compress_level=0)
    write(log / "products.parquet", {
        "product_id": list(range(50)),
        "description": [f"product {number}" for number in range(50)],
        "selling_points": [["light"]] * 50,
        "image": [f"pictures/{number}.png" for number in range(50)],
    })  # fmt: skip
    build(log, tmp_path / "data", dataset_config(build__min_clicks=4))
    return log, tmp_path / "data"


def command(log: Path, folder: Path) -> list[str]:
    start = [sys.executable, "-m", "uniadgen", "data", "prepare", str(folder), "--log", str(log)]
    return [*start, "--processes", "1", *SETTINGS]


def again(log: Path, folder: Path) -> None:
    """The same in this process."""
    config = override(PrepareConfig(), {"stages.items_per_task": 1, "stages.max_unsupported": 1.0})
    with processes(1) as execute:
        prepare(folder, log, config, execute, PROGRESS)


def test_a_kill_leaves_stages_that_go_on_to_the_same_files(shop: tuple[Path, Path]) -> None:
    log, folder = shop
    running = subprocess.Popen(command(log, folder), stderr=subprocess.DEVNULL)
    until = time.monotonic() + 300
    while len(list((folder / "prepared" / "cutouts").glob("[!.]*.parquet"))) < 3:
        assert running.poll() is None, "the stages ended before they could be killed"
        assert time.monotonic() < until
        time.sleep(0.001)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    done = {name for name in contents(folder) if "cutouts" in name and "partial" not in name}
    before = {name: (folder / name).stat().st_mtime_ns for name in done}
    assert 3 <= len(done) < 40
    assert not (folder / "prepared" / "prepared.json").exists()
    with locked(folder):  # it went with its process
        pass
    again(log, folder)
    assert {name: (folder / name).stat().st_mtime_ns for name in done} == before
    gone_on = contents(folder)
    for path in sorted((folder / "prepared").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    again(log, folder)
    assert contents(folder) == gone_on
