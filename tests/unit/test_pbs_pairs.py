"""`uniadgen pbs`: two folders become a table that leaves nothing out."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from moco import random_pbs
from uniadgen.__main__ import app
from uniadgen.metrics import pairs
from uniadgen.metrics.pairs import Report, compare, pair_up
from uniadgen.metrics.pbs import PBS, pbs


def noise(seed: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(256, size=(40, 50, 4), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode) if mode != "RGBA" else Image.fromarray(pixels)


@pytest.fixture
def home(tmp_path: Path, monkeypatch) -> Path:
    """Folders a and b: two whole pairs, one with a broken picture, one with two, names that one folder has alone."""
    monkeypatch.chdir(tmp_path)
    for folder, offset in (("a", 0), ("b", 10)):
        Path(folder).mkdir()
        noise(1 + offset).save(f"{folder}/one.png")
        noise(2 + offset, "RGBA").save(f"{folder}/two.webp", lossless=True)
        noise(3 + offset).save(f"{folder}/three.png")
        Path(folder, "four.png").write_text("no picture")
        Path(folder, "notes.txt").write_text("no picture either")
    Path("b/one.png").rename("b/one.PNG")
    Path("b/three.png").write_bytes(Path("a/three.png").read_bytes()[:200])
    noise(5).save("a/five.png")
    noise(6).save("b/six.jpg")
    random_pbs().save(tmp_path / "model")
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["pbs", *arguments, "--model", "model", "--out", "pbs.csv"])


def test_every_name_has_a_line_and_every_problem_is_told(home: Path) -> None:
    result = call("a", "b")
    assert result.exit_code == 0, result.output
    with Path("pbs.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["five", "four", "one", "six", "three", "two"]
    model = PBS.from_pretrained(home / "model")
    expected = pbs([noise(1), noise(2, "RGBA")], [noise(11), noise(12, "RGBA")], model)
    assert [float(rows[name]["pbs"]) for name in ("one", "two")] == pytest.approx(expected.tolist(), abs=1e-5)
    assert [rows[name]["pbs"] for name in ("three", "four", "five", "six")] == [""] * 4
    assert "damaged or cut short" in rows["three"]["problem"] and "b/three.png" in rows["three"]["problem"]
    assert "a/four.png" in rows["four"]["problem"] and "b/four.png" in rows["four"]["problem"]
    assert rows["five"]["problem"] == rows["six"]["problem"] == "the other folder has no picture of this name"
    assert (rows["five"]["a"], rows["five"]["b"]) == ("a/five.png", "")
    first, alone, broken, where = result.stdout.splitlines()
    assert first.startswith(f"PBS {expected.mean():.4f} (") and first.endswith("2 pairs")
    assert (alone, broken) == ("2 in one folder only: five, six", "2 cannot be read: four, three")
    assert where == "pbs.csv"


def test_the_table_does_not_depend_on_how_pairs_are_batched(home: Path, monkeypatch) -> None:
    call("a", "b")
    whole = Path("pbs.csv").read_text()
    monkeypatch.setattr(pairs, "AT_ONCE", 1)
    call("a", "b")
    rows = [[line.split(",") for line in text.splitlines()] for text in (whole, Path("pbs.csv").read_text())]
    assert len(rows[0]) == len(rows[1]) == 7
    for one, other in zip(*rows, strict=True):
        assert one[:3] == other[:3]
        assert one[3] == other[3] or float(one[3]) == pytest.approx(float(other[3]), abs=2e-6)


def test_pictures_are_let_go_batch_by_batch(home: Path, monkeypatch) -> None:
    read, most = pairs.read_picture, []
    monkeypatch.setattr(pairs, "AT_ONCE", 2)
    monkeypatch.setattr(pairs, "read_picture", lambda path, mode: most.append(path) or read(path, mode))
    seen = []
    compare(
        pair_up(Path("a"), Path("b")),
        Path("pbs.csv"),
        PBS.from_pretrained("model"),
        lambda n: seen.append((n, len(most))),
    )
    assert [number for number, _ in seen] == [2, 2, 2]
    assert [files for _, files in seen] == [3, 6, 10]  # five, four; one, six; three, two


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(("a", "gone"), "gone: no such folder"), (("model", "a"), "none of 5 names is a pair that can be read")],
)
def test_what_cannot_be_compared_is_told_in_one_line(home: Path, arguments: tuple, expected: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert expected in result.stderr.splitlines()[-1] and "Traceback" not in result.stderr


def test_two_pictures_of_one_name_are_refused(home: Path) -> None:
    noise(1).save("a/one.jpg")
    result = call("a", "b")
    assert result.exit_code == 2
    assert "a/one.png: has the name of one.jpg" in result.stderr


def test_the_mean_comes_with_an_interval() -> None:
    scores = np.random.default_rng(0).normal(0.5, 0.1, 400)
    value, low, high = Report(scores=scores.tolist()).mean
    assert value == pytest.approx(scores.mean())
    assert high - low == pytest.approx(2 * 1.96 * 0.1 / 20, rel=0.15)
