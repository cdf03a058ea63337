"""What a person hands in and takes out: errors that name the entry, outputs whole or not at all."""

import errno
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from uniadgen.files import MAX_CLICKS, MAX_TEXT, check_output, read_history, read_product, save_picture, write_whole


@pytest.fixture
def history(tmp_path: Path):
    """Writes history.json with these entries beside a picture red.png; returns its path."""
    Image.new("RGB", (20, 20), "red").save(tmp_path / "red.png")

    def write(content) -> Path:
        path = tmp_path / "history.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write


GOOD = {"picture": "red.png", "text": "kitchen mug"}


# histories


def test_a_history_is_read_in_its_order(history) -> None:
    clicks = read_history(history([GOOD, {"picture": "red.png", "text": "家用马克杯"}]))
    assert [click.text for click in clicks] == ["kitchen mug", "家用马克杯"]
    assert clicks[0].picture.getpixel((0, 0)) == (255, 0, 0)


def test_an_empty_history_has_no_clicks(history) -> None:
    assert read_history(history([])) == ()


def test_pictures_are_looked_for_beside_the_history(history, tmp_path: Path, monkeypatch) -> None:
    path = history([GOOD, {"picture": str(tmp_path / "red.png"), "text": "absolute"}])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(read_history(path)) == 2


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("red.png", "click 2 is 'red.png', expected"),
        (None, "click 2 is None, expected"),
        ([], r"click 2 is \[\], expected"),
        ({"picture": "red.png"}, "click 2 has no text"),
        ({"text": "mug"}, "click 2 has no picture"),
        ({"picture": "red.png", "text": "  "}, "click 2 has no text"),
        ({"picture": "red.png", "text": 5}, "click 2 has no text"),
        ({"picture": None, "text": "mug"}, "click 2 has no picture"),
        ({"picture": "gone.png", "text": "mug"}, "click 2: .*gone.png: no such file"),
        ({"picture": "history.json", "text": "mug"}, "click 2: .*history.json: not a picture"),
        ({"picture": "a\0b", "text": "mug"}, "click 2: .*no such file"),
        ({"picture": "x" * 5000, "text": "mug"}, "click 2"),
    ],
)
def test_the_entry_that_is_wrong_is_named(history, entry, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        read_history(history([GOOD, entry, GOOD]))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "not valid JSON"),
        ("[{]", "not valid JSON"),
        ('{"picture": "red.png"}', "got a JSON dict, expected a list"),
        ('"red.png"', "got a JSON str, expected a list"),
        ("null", "got a JSON NoneType, expected a list"),
        ("[" * 200_000, "not valid JSON"),
    ],
)
def test_a_file_that_is_no_history_is_named(history, content: str, expected: str) -> None:
    with pytest.raises(ValueError, match=f"history.json: {expected}"):
        read_history(history(content))


def test_a_history_in_another_encoding_is_named(history) -> None:
    path = history([])
    path.write_bytes('[{"picture": "é"}]'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"history.json: not valid JSON"):
        read_history(path)


def test_a_history_that_is_not_there_is_named_with_its_form(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'gone.json: no such file, expected a JSON list of \{"picture"'):
        read_history(tmp_path / "gone.json")


def test_an_endless_history_is_refused_before_its_pictures_are_read(history) -> None:
    with pytest.raises(ValueError, match=r"10001 clicks, expected at most 10,000: keep the most recent"):
        read_history(history([GOOD] * (MAX_CLICKS + 1)))


def test_an_endless_title_is_cut(history) -> None:
    assert len(read_history(history([{**GOOD, "text": "x" * (MAX_TEXT + 5)}]))[0].text) == MAX_TEXT


# products


@pytest.fixture
def picture(tmp_path: Path, product) -> Path:
    """A good product picture."""
    product.cutout.save(tmp_path / "mug.png")
    return tmp_path / "mug.png"


def test_a_product_is_read(picture: Path) -> None:
    product = read_product(picture, "A mug.", ["light", "safe"])
    assert (product.description, product.selling_points) == ("A mug.", ("light", "safe"))


@pytest.mark.parametrize(
    ("description", "points", "expected"),
    [
        ("", ["light"], "no description"),
        (" \n", ["light"], "no description"),
        ("A mug.", [], "at least one and none empty"),
        ("A mug.", ["light", " "], "at least one and none empty"),
        ("x" * (MAX_TEXT + 1), ["light"], "a description has 2001 characters, expected at most 2000"),
        ("A mug.", ["light", "x" * (MAX_TEXT + 1)], "a selling point has 2001 characters"),
    ],
)
def test_words_that_are_missing_or_endless_are_named(picture: Path, description, points, expected) -> None:
    with pytest.raises(ValueError, match=expected):
        read_product(picture, description, points)


@pytest.mark.parametrize(("alpha", "expected"), [(0, "fully transparent"), (255, "no transparent pixel")])
def test_a_picture_that_shows_no_cut_out_product_is_named(tmp_path: Path, alpha: int, expected: str) -> None:
    Image.new("RGBA", (20, 20), (9, 9, 9, alpha)).save(tmp_path / "mug.png")
    with pytest.raises(ValueError, match=f"mug.png: the product picture.*{expected}"):
        read_product(tmp_path / "mug.png", "A mug.", ["light"])


# outputs


def test_an_output_appears_whole(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", lambda path: path.write_text("all"))
    assert (tmp_path / "a.txt").read_text() == "all"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_an_output_replaces_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    write_whole(tmp_path / "a.txt", lambda path: path.write_text("new"))
    assert (tmp_path / "a.txt").read_text() == "new"


@pytest.mark.parametrize("old", [None, "old"])
def test_a_full_disk_leaves_nothing_behind_and_the_old_file_alone(tmp_path: Path, old: str | None) -> None:
    if old:
        (tmp_path / "a.txt").write_text(old)

    def fails_half_way(path: Path) -> None:
        path.write_text("half of i")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a.txt", fails_half_way)
    assert os.listdir(tmp_path) == (["a.txt"] if old else [])
    assert not old or (tmp_path / "a.txt").read_text() == old


def test_nobody_sees_a_half_written_output(tmp_path: Path) -> None:
    seen = []
    write_whole(tmp_path / "a.txt", lambda path: (path.write_text("x"), seen.append((tmp_path / "a.txt").exists())))
    assert seen == [False]


@pytest.mark.parametrize("ending", ["png", "webp", "jpg", "jpeg", "PNG"])
def test_a_picture_has_the_format_of_its_ending(tmp_path: Path, ending: str) -> None:
    save_picture(tmp_path / f"ad.{ending}", Image.new("RGB", (20, 20), "red"))
    expected = {"png": "PNG", "webp": "WEBP"}.get(ending.lower(), "JPEG")
    with Image.open(tmp_path / f"ad.{ending}") as picture:
        assert picture.format == expected
    assert os.listdir(tmp_path) == [f"ad.{ending}"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ad.gif", "cannot write .gif, expected .png, .webp, .jpg, .jpeg"),
        ("ad", "cannot write a file without ending"),
        ("no/folder/ad.png", "the folder .*no/folder does not exist: create it first"),
        (".png", "cannot write a file without ending"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_at_once(tmp_path: Path, name: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        check_output(tmp_path / name)


def test_a_good_output_is_accepted(tmp_path: Path, monkeypatch) -> None:
    check_output(tmp_path / "ad.png")
    monkeypatch.chdir(tmp_path)
    check_output(Path("ad.png"))


def test_a_folder_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "ad.png").mkdir()
    with pytest.raises(ValueError, match=r"ad.png"):
        check_output(tmp_path / "ad.png")


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path: Path) -> None:
    def full(partial: Path) -> None:
        partial.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as Pillow raises it

    with pytest.raises(OSError, match=r"No space left on device: '.*ad\.png'"):
        write_whole(tmp_path / "ad.png", full)
    assert not list(tmp_path.iterdir())
