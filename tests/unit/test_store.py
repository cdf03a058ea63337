"""The store: every picture is coded once, a run that was killed goes on to the same bytes, samples come in epochs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from uniadgen.config import Config, override
from uniadgen.data import store as module
from uniadgen.data.store import Store, StoreWriter
from uniadgen.records import Click, Example, Product


class Encoder:
    """Codes that tell a picture and its size; remembers how many it was asked for."""

    def __init__(self, config: Config) -> None:
        self.cell, self.coded = config.model.downsample, 0

    def __call__(self, pictures, side: int) -> np.ndarray:
        self.coded += len(pictures)
        cells = (side // self.cell) ** 2
        return np.stack([np.full(cells, np.asarray(p.convert("L")).sum() % 60) for p in pictures])


def example(number: int, num_clicks: int = 3) -> Example:
    cutout = Image.new("RGBA", (40, 30))
    ImageDraw.Draw(cutout).ellipse((8, 5, 30, 25), fill=(number * 7 % 255, 40, 90, 255))
    clicks = tuple(Click(Image.new("RGB", (20, 20), (i % 5, 0, 0)), f"title {i}") for i in range(number, number + 3))
    target = Click(Image.new("RGB", (30, 20), (0, number % 4, 0)), f"text {number}")
    return Example(Product(cutout, f"Mug {number}.", ("mug", "safe")), clicks[:num_clicks], target)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 2)


def written(folder: Path, config: Config, examples, **options) -> Encoder:
    encoder = Encoder(config)
    StoreWriter(folder, config, encoder, "vq", **options).write(examples)
    return encoder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_samples_are_the_examples(tiny_config: Config, tmp_path: Path) -> None:
    examples = [example(n, n % 4) for n in range(7)]
    written(tmp_path, tiny_config, examples)
    store = Store(tmp_path, tiny_config)
    samples = {sample.text: sample for sample in (store.sample(i) for i in range(7))}
    encoder = Encoder(tiny_config)
    for given in examples:
        sample = samples[given.target.text]
        assert sample.description == given.product.description
        assert sample.selling_points == given.product.selling_points
        assert sample.titles == tuple(click.text for click in given.clicks)
        for row, click in zip(sample.pictures, given.clicks, strict=True):
            assert store.clicks[row].tolist() == encoder([click.picture], tiny_config.data.click_size)[0].tolist()
        target = encoder([given.target.picture], tiny_config.data.image_size)[0]
        assert store.targets[sample.picture].tolist() == target.tolist()
        side = tiny_config.data.image_size
        assert store.cutout(sample.product).shape == (side, side, 4)
        assert store.cutout(sample.product)[..., 3].max() == 255


def test_every_picture_is_coded_once(tiny_config: Config, tmp_path: Path) -> None:
    encoder = written(tmp_path, tiny_config, [example(n) for n in range(20)])
    assert encoder.coded == 5 + 4  # as many different clicked pictures, and targets
    assert len(Store(tmp_path, tiny_config).clicks) == 5


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(tiny_config: Config, tmp_path: Path) -> None:
    examples = [example(n) for n in range(9)]
    written(tmp_path / "whole", tiny_config, examples)

    def dying():
        yield from examples[:5]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        written(tmp_path / "killed", tiny_config, dying())
    for name in ("samples.bin", "clicks.bin", "cutouts.idx", "targets.key"):
        with (tmp_path / "killed" / name).open("ab") as file:
            file.write(b"half of what came next")
    again = written(tmp_path / "killed", tiny_config, examples)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert again.coded < 9
    assert written(tmp_path / "killed", tiny_config, examples).coded == 0


def test_every_sample_comes_once_in_an_epoch_in_an_order_of_its_own(tiny_config: Config, tmp_path: Path) -> None:
    written(tmp_path, tiny_config, [example(n) for n in range(30)])
    store, other = Store(tmp_path, tiny_config), Store(tmp_path, override(tiny_config, {"train.seed": 1}))
    epochs = [[store.sample(30 * epoch + i).text for i in range(30)] for epoch in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(f"text {n}" for n in range(30))
    assert epochs[0] != epochs[1]
    assert [other.sample(i).text for i in range(30)] != epochs[0]


def test_an_example_may_be_cleaned_or_left_out(tiny_config: Config, tmp_path: Path) -> None:
    def clean(given: Example) -> Example | None:
        if given.target.text == "text 2":
            return None
        return replace(given, clicks=given.clicks[:1])

    written(tmp_path, tiny_config, [example(n) for n in range(5)], clean=clean)
    store = Store(tmp_path, tiny_config)
    assert sorted(store.sample(i).text for i in range(4)) == ["text 0", "text 1", "text 3", "text 4"]
    assert len(store) == 4 and len(store.sample(0).titles) == 1


def test_what_does_not_fit_is_refused(tiny_config: Config, tmp_path: Path) -> None:
    written(tmp_path, tiny_config, [example(n) for n in range(3)])
    larger = override(tiny_config, {"data.click_size": 32})
    with pytest.raises(ValueError, match=r"coded with data\.click_size 16, expected 32"):
        Store(tmp_path, larger)
    with pytest.raises(ValueError, match="choose another folder"):
        StoreWriter(tmp_path, larger, Encoder(tiny_config), "vq")
    with pytest.raises(ValueError, match="no target"):
        written(tmp_path / "new", tiny_config, [Example(example(0).product)])
    with pytest.raises(ValueError, match=r"no store\.json"):
        Store(tmp_path / "nowhere", tiny_config)


@pytest.mark.parametrize("name", ["samples.bin", "cutouts.bin"])
def test_a_file_that_is_cut_short_is_named(tiny_config: Config, tmp_path: Path, name: str) -> None:
    written(tmp_path, tiny_config, [example(n) for n in range(3)])
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-5])
    with pytest.raises(ValueError, match=f"{name}.* cut short"):
        Store(tmp_path, tiny_config)
    with pytest.raises(ValueError, match=f"{name}.* cut short"):
        written(tmp_path, tiny_config, [])


def test_an_empty_store_is_refused(tiny_config: Config, tmp_path: Path) -> None:
    written(tmp_path, tiny_config, [example(0)], clean=lambda _: None)
    with pytest.raises(ValueError, match="holds no sample"):
        Store(tmp_path, tiny_config)
