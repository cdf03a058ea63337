"""The store: every picture is coded once, killed runs go on to the same bytes, damage is named, epochs are exact."""

import json
import resource
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
from uniadgen.data.encode import Making, encode_store
from uniadgen.data.listing import Listing, read_listing
from uniadgen.data.plan import locked
from uniadgen.data.prompt import Layout
from uniadgen.data.rows import WINDOW, Rows
from uniadgen.data.store import Store, read_manifest, verify
from uniadgen.train.prefetch import made_ahead


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


def encode(folder: Path, config: Config, source: Path | Listing, **options) -> Encoder:
    listing = source if isinstance(source, Listing) else read_listing(source)
    options = {"encode": Encoder(config), "vq": "a", "at_once": 3} | options
    encode_store(folder, listing, Making(config, **options), PROGRESS)
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
    assert encode(tmp_path / "out", tiny_config, examples).coded == 9 - 1 + 4
    before = contents(tmp_path / "out")
    assert encode(tmp_path / "out", tiny_config, examples).coded == 0
    assert contents(tmp_path / "out") == before


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(tiny_config: Config, tmp_path: Path, examples: Path) -> None:
    encode(tmp_path / "whole", tiny_config, examples)
    for dies_at in (1, 5, 5):
        with pytest.raises(KeyboardInterrupt):
            encode(tmp_path / "killed", tiny_config, examples, encode=Encoder(tiny_config, dies_at))
        (tmp_path / "killed" / ".clicks-00001.part-000000.npy.7.partial.npy").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"no store\.json, expected a finished store"):
        Store(tmp_path / "killed", tiny_config)
    encode(tmp_path / "killed", tiny_config, examples)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_kill_between_the_shard_and_its_parts_leaves_no_row_twice(tmp_path: Path) -> None:
    def shelf() -> shelves.CodeShelf:
        return shelves.CodeShelf(tmp_path, "clicks", lambda numbers: np.array(numbers)[:, None], 2)

    first = shelf()
    for number in range(3):
        first.put(shelves.key_of(bytes([number])), number)
    first.flush()
    parts = {path: path.read_bytes() for path in tmp_path.glob("*part*")}
    first.finish()
    for path, data in parts.items():
        path.write_bytes(data)
    second = shelf()
    assert len(second) == 3
    assert [second.put(shelves.key_of(bytes([number])), number) for number in (2, 3, 4, 0)] == [2, 3, 4, 0]
    second.finish()
    codes = store.Codes([tmp_path / f"clicks-0000{shard}.npy" for shard in (0, 1)])
    assert codes[np.arange(5)].tolist() == [[0], [1], [2], [3], [4]]
    assert second.made == 2


def test_a_kill_before_a_full_shard_was_joined_is_made_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shelf() -> shelves.CodeShelf:
        return shelves.CodeShelf(tmp_path, "clicks", lambda numbers: np.array(numbers)[:, None], 2)

    def killed(self: shelves.Shelf, shard: int) -> None:
        raise KeyboardInterrupt

    first = shelf()
    for number in range(3):
        first.put(shelves.key_of(bytes([number])), number)
    with monkeypatch.context() as patch:
        patch.setattr(shelves.Shelf, "_join", killed)
        with pytest.raises(KeyboardInterrupt):
            first.put(shelves.key_of(bytes([3])), 3)
    second = shelf()
    assert second.put(shelves.key_of(bytes([4])), 4) == 4
    paths = [path for path in second.finish()[1:] if not path.name.endswith(".keys.npy")]
    assert store.Codes(paths)[np.arange(5)].tolist() == [[0], [1], [2], [3], [4]]
    assert not list(tmp_path.glob("*part*"))


def test_only_what_changed_is_made_again(tiny_config: Config, tmp_path: Path, examples: Path) -> None:
    out = tmp_path / "out"
    encode(out, tiny_config, examples)
    before, content = contents(out), read_manifest(out)["content"]
    Image.new("RGB", (20, 20), (1, 2, 3)).save(examples.parent / "click5.png")
    assert encode(out, tiny_config, examples).coded == 1
    assert read_manifest(out)["content"] != content
    assert encode(out, tiny_config, examples, vq="b").coded == 9 + 4  # the picture that nobody shows any more went
    assert contents(out)["cutouts-00000.arrow"] == before["cutouts-00000.arrow"]
    larger = override(tiny_config, {"data.click_size": 32})
    assert encode(out, larger, examples, vq="b").coded == 9
    with pytest.raises(ValueError, match=r"coded with data\.click_size 32, expected 16"):
        Store(out, tiny_config)


def test_the_content_hash_knows_no_order(tiny_config: Config, tmp_path: Path, examples: Path) -> None:
    encode(tmp_path / "a", tiny_config, examples)
    again = write_examples(examples.parent, reversed(range(9)))
    encode(tmp_path / "b", tiny_config, again, at_once=32)
    a, b = read_manifest(tmp_path / "a"), read_manifest(tmp_path / "b")
    assert a["files"] != b["files"]
    assert a["content"] == b["content"]
    encode(tmp_path / "c", tiny_config, write_examples(examples.parent, range(8)))
    assert read_manifest(tmp_path / "c")["content"] != a["content"]


def test_a_picture_that_is_broken_is_listed_and_never_replaced(
    tiny_config: Config, tmp_path: Path, examples: Path
) -> None:
    (examples.parent / "click2.png").write_bytes((examples.parent / "click2.png").read_bytes()[:50])
    (examples.parent / "mug5.png").write_text("<html>")
    (examples.parent / "ad0.png").unlink()
    listing = replace(read_listing(examples), max_broken=0.5, min_clicks=3)
    encode(tmp_path / "out", tiny_config, listing)
    made = Store(tmp_path / "out", tiny_config)
    texts = {made.sample(i).text: list(made.sample(i).titles) for i in range(len(made))}
    # 0, 4, 8: their target is gone; 5: its cut-out; 2: one of its two clicks, of which it needs both
    assert texts == {
        "text 1": ["mug title 1"],
        "text 3": [f"mug title {i}" for i in (3, 4, 5)],
        "text 6": ["mug title 6", "mug title 7"],
        "text 7": [f"mug title {i}" for i in (7, 8, 9)],
    }
    listed = dropped(tmp_path / "out")
    assert ("picture", "ad0.png", "No such file or directory") in listed
    assert ("sample", "2", "too many of its clicks cannot be used") in listed
    assert any(what == "cutout" and name == "mug5.png" and "not a picture" in why for what, name, why in listed)
    assert any(name == "click2.png" and "cut short" in why for _, name, why in listed)
    with pytest.raises(ValueError, match=r"pictures cannot be used, expected at most 10%; the first is .*ad0.png"):
        encode(tmp_path / "strict", tiny_config, examples)


def test_pictures_may_be_kept(tiny_config: Config, tmp_path: Path, examples: Path) -> None:
    encode(tmp_path / "out", tiny_config, examples, keep_pictures=True)
    made = Store(tmp_path / "out", tiny_config)
    row = made.find("clicks", (examples.parent / "click7.png").read_bytes())
    kept = made.picture("clicks", row)
    assert kept.size == (16, 16)
    assert abs(kept.getpixel((8, 8))[0] - 63) < 4
    encode(tmp_path / "without", tiny_config, examples)
    with pytest.raises(ValueError, match="--keep-pictures"):
        Store(tmp_path / "without", tiny_config).picture("clicks", 0)


def test_damage_is_named(tiny_config: Config, tmp_path: Path, examples: Path) -> None:
    out = tmp_path / "out"
    encode(out, tiny_config, examples)
    assert verify(out) == sum(len(data) for name, data in contents(out).items() if name not in _OTHERS)
    for name in ("targets-00000.npy", "samples-00001.arrow", "clicks.index.npy"):
        whole = (out / name).read_bytes()
        (out / name).write_bytes(whole[:-9] + bytes([whole[-9] ^ 4]) + whole[-8:])
        with pytest.raises(ValueError, match=rf"{name}: is damaged \(bytes 0 to {len(whole):,} changed\)"):
            verify(out)
        (out / name).write_bytes(whole[:-5])
        with pytest.raises(
            ValueError, match=rf"{name}: is damaged \({len(whole) - 5:,} bytes where {len(whole):,} were"
        ):
            Store(out, tiny_config)
        (out / name).unlink()
        with pytest.raises(ValueError, match=rf"{name}: is damaged \(it is missing\)"):
            Store(out, tiny_config)
        (out / name).write_bytes(whole)
    (out / "clicks-00000.npy").unlink()
    with pytest.raises(ValueError, match=r"clicks-00001.npy: begins with row 4, expected 0"):
        encode(out, tiny_config, examples)


_OTHERS = ("store.json", "settings.json")


def test_what_does_not_fit_is_refused(tiny_config: Config, tmp_path: Path, examples: Path) -> None:
    with locked(tmp_path / "out"), pytest.raises(ValueError, match="is running here"):
        encode(tmp_path / "out", tiny_config, examples)
    (tmp_path / "out" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="is not empty and holds no store"):
        encode(tmp_path / "out", tiny_config, examples)
    with pytest.raises(ValueError, match=r"expected the folder of a finished dataset .* or PAd1M's JSON"):
        read_listing(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n")
    encode(tmp_path / "empty", tiny_config, tmp_path / "empty.jsonl")
    with pytest.raises(ValueError, match="holds no sample"):
        Store(tmp_path / "empty", tiny_config)


def test_a_full_disk_leaves_a_store_that_goes_on(tiny_config: Config, tmp_path: Path, examples: Path) -> None:
    """A limit on the size of files stands for the full disk."""
    encode(tmp_path / "whole", tiny_config, examples)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            encode(tmp_path / "full", tiny_config, examples)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert encode(tmp_path / "full", tiny_config, examples).coded < 13
    assert contents(tmp_path / "full") == contents(tmp_path / "whole")


def test_a_dataset_and_its_splits_become_stores(tiny_config: Config, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", events(300, 30, 40), 40, 1)
    write_pictures(log, 40)
    products = pq.read_table(log / "products.parquet")
    write_examples(log / "cut", [3])
    images = products.append_column("image", [["cut/mug3.png"] * len(products)])
    pq.write_table(images, log / "products.parquet")
    build(log, tmp_path / "data", dataset_config(build__test_share=0.2))
    with pytest.raises(ValueError, match="expected --pictures as well"):
        read_listing(tmp_path / "data")
    lines = [row for row in pq.read_table(tmp_path / "data" / "samples").to_pylist() if row["split"] == "test"]
    encode(tmp_path / "out", tiny_config, read_listing(tmp_path / "data", log, "test"))
    made = Store(tmp_path / "out", tiny_config)
    assert 2 < len(made) == len(lines)
    titles = pq.read_table(tmp_path / "data" / "creatives")["text"].to_pylist()
    assert {made.sample(i).text: list(made.sample(i).titles) for i in range(len(made))} == {
        titles[row["target"]]: [titles[click] for click in row["history"]] for row in lines
    }


def test_pad1m_becomes_a_store_with_its_own_similarities(tiny_config: Config, tmp_path: Path, examples: Path) -> None:
    entry = {
        "f_path": "ad1.png", "f_path_trans": "mug1.png", "width": 30, "height": 20, "caption": "", "max_ratio": 1,
        "sku_title_cn": "a mug", "gt_title_cn": "one<title_split>two", "word_list": "light,safe",
        "history_images": ["click1.png", "click2.png"], "history_titles": ["red", "blue"],
        "text_similarity": [0.25, 0.5],
    }  # fmt: skip
    (examples.parent / "pad.json").write_text(json.dumps([entry]))
    encode(tmp_path / "out", tiny_config, examples.parent / "pad.json")
    sample = Store(tmp_path / "out", tiny_config).sample(0)
    assert (sample.text, sample.selling_points, list(sample.titles)) == ("one", ("light", "safe"), ["red", "blue"])
    assert list(sample.scores) == [0.25, 0.5]


def test_every_sample_comes_once_in_an_epoch_in_an_order_of_its_own(
    tiny_config: Config, tmp_path: Path, examples: Path
) -> None:
    encode(tmp_path / "out", tiny_config, examples)
    made = Store(tmp_path / "out", tiny_config)
    other = Store(tmp_path / "out", override(tiny_config, {"train.seed": 1}))
    epochs = [[made.sample(9 * epoch + i).text for i in range(9)] for epoch in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == [f"text {n}" for n in range(9)]
    assert epochs[0] != epochs[1]
    assert [other.sample(i).text for i in range(9)] != epochs[0]


def test_a_run_goes_on_in_the_middle_of_an_epoch(
    tiny_config: Config, tmp_path: Path, examples: Path, layout: Layout
) -> None:
    """Nine samples, four rows a step: no step but the ninth ends where an epoch does."""
    encode(tmp_path / "out", tiny_config, examples)

    def batches(first: int, workers: int) -> Iterator[list]:
        np.random.seed(first)  # noqa: NPY002 - global state must not matter
        rows = Rows(tiny_config, layout, Store(tmp_path / "out", tiny_config))
        for made in made_ahead(rows.batches, range(first, 20), workers, WINDOW):
            yield [(b.ids.tolist(), b.click_codes.tolist(), b.cutout.tolist()) for b in made]

    whole = list(batches(0, workers=0))
    for first, workers in ((1, 0), (5, 2), (11, 1)):
        assert list(batches(first, workers)) == whole[first:]
