"""The store: every picture is coded once, killed runs go on to the same bytes, damage is named, samples come in epochs."""

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from shop_log import PROGRESS, build, dataset_config, events, write_log, write_pictures
from uniadgen.config import Config, override
from uniadgen.data import shelves, store, tables
from uniadgen.data.cutout import squash
from uniadgen.data.encode import Making, Prepared, encode_store
from uniadgen.data.listing import Listing, read_listing
from uniadgen.data.plan import locked
from uniadgen.data.prompt import Layout
from uniadgen.data.rows import Rows
from uniadgen.data.store import Store, read_manifest, verify


class Encoder:
    """Codes that tell a picture; remembers how many it was asked for, and dies at one of them if told to."""

    def __init__(self, config: Config, dies_at: int = 10**9) -> None:
        self.cell, self.coded, self.dies_at = config.model.downsample, 0, dies_at

    def __call__(self, pictures) -> np.ndarray:
        self.coded += len(pictures)
        if self.coded >= self.dies_at:
            raise KeyboardInterrupt
        return np.stack([np.full((p.width // self.cell) ** 2, np.asarray(p).sum() % 60) for p in pictures])


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that few pictures fill many shards."""
    monkeypatch.setattr(shelves.CodeShelf, "per_shard", 4)
    monkeypatch.setattr(shelves.BlobShelf, "per_shard", 2)
    monkeypatch.setattr(store, "PER_TABLE", 5)
    monkeypatch.setattr(tables, "PER_TABLE", 5)


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    return write_examples(tmp_path / "in", range(9))


def write_examples(folder: Path, numbers) -> Path:
    """Examples as JSON lines; number n was shown clicks n, n + 1, ... of 12 pictures, and one of 4 targets."""
    folder.mkdir(exist_ok=True)
    for number in range(12):
        Image.new("RGB", (20, 20), (9 * number, 1, 0)).save(folder / f"click{number}.png")
        Image.new("RGB", (30, 20), (0, 5 * (number % 4), 0)).save(folder / f"ad{number % 4}.png")
    lines = []
    for number in numbers:
        cutout = Image.new("RGBA", (40, 30))
        ImageDraw.Draw(cutout).ellipse((8, 5, 30, 25), fill=(number * 7 % 255, 40, 90, 255))
        cutout.save(folder / f"mug{number}.png")
        product = {"cutout": f"mug{number}.png", "description": f"Mug {number}.", "selling_points": ["mug", "safe"]}
        clicks = [{"picture": f"click{i}.png", "text": f"mug title {i}"} for i in range(number, number + number % 4)]
        lines.append(
            {
                "product": product,
                "clicks": clicks,
                "target": {"picture": f"ad{number % 4}.png", "text": f"text {number}"},
            }
        )
    (folder / "examples.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    return folder / "examples.jsonl"


def encode(folder: Path, config: Config, source: Path | Listing, prepared: Prepared = Prepared(), **options) -> Encoder:
    listing = source if isinstance(source, Listing) else read_listing(source)
    options = {"encode": Encoder(config), "vq": "a", "at_once": 3} | options
    encode_store(folder, listing, Making(config, **options), PROGRESS, prepared)
    return options["encode"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def dropped(folder: Path) -> list[tuple[str, str, str]]:
    return [tuple(row.values()) for row in pq.read_table(folder / "dropped.parquet").to_pylist()]


def test_samples_are_the_examples(tiny_config: Config, tmp_path: Path, examples: Path) -> None:
    encode(tmp_path / "out", tiny_config, examples)
    made, encoder = Store(tmp_path / "out", tiny_config), Encoder(tiny_config)
    samples = {sample.text: sample for sample in map(made.sample, range(9))}
    for line in map(json.loads, examples.read_text().split("\n")[:9]):
        sample = samples[line["target"]["text"]]
        assert sample.description == line["product"]["description"]
        assert sample.selling_points == ("mug", "safe")
        assert list(sample.titles) == [click["text"] for click in line["clicks"]]
        shown = [(made.targets[sample.picture], line["target"]["picture"], tiny_config.data.image_size)]
        shown += [
            (made.clicks[row], click["picture"], tiny_config.data.click_size)
            for row, click in zip(sample.pictures, line["clicks"], strict=True)
        ]
        for codes, name, side in shown:
            picture = Image.open(examples.parent / name)
            assert codes.tolist() == encoder([squash(picture, side)])[0].tolist()
        cutout = made.cutout(sample.product)
        assert cutout.shape == (tiny_config.data.image_size,) * 2 + (4,)
        assert cutout[..., 3].max() == 255
    assert made.clicks[[5, 0]].tolist() == [made.clicks[5].tolist(), made.clicks[0].tolist()]
    data = (examples.parent / "click2.png").read_bytes()
    (wanted,) = encoder([squash(Image.open(examples.parent / "click2.png"), tiny_config.data.click_size)])
    assert made.clicks[made.find("clicks", data)].tolist() == wanted.tolist()
    assert made.find("targets", data) == -1


def test_every_picture_is_coded_once_and_a_second_run_codes_nothing(
    tiny_config: Config, tmp_path: Path, examples: Path
) -> None:
    (examples.parent / "click3.png").write_bytes((examples.parent / "click2.png").read_bytes())  # the same, twice named
    assert encode(tmp_path / "out", tiny_config, examples).coded == 10 - 1 - 2 + 4  # clicks 0, 4 and 8 are nobody's
    before = contents(tmp_path / "out")
    assert encode(tmp_path / "out", tiny_config, examples).coded == 0
    assert contents(tmp_path / "out") == before
