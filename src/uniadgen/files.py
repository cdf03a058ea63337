"""What a person hands in and takes out: product and history files, and outputs written whole or not at all."""

import json
from collections.abc import Sequence
from pathlib import Path

from PIL.Image import Image

from uniadgen.data.cutout import read_picture
from uniadgen.data.whole import write_whole
from uniadgen.records import MAX_TEXT, Click, Product, click_entry

MAX_CLICKS = 10_000


def read_product(picture: Path, description: str, points: Sequence[str]) -> Product:
    """The product of a picture file and its words; `ValueError` says what is wrong."""
    for name, text in (("description", description), *(("selling point", point) for point in points)):
        if len(text) > MAX_TEXT:
            raise ValueError(f"a {name} has {len(text)} characters, expected at most {MAX_TEXT}: shorten it")
    try:
        return Product(read_picture(picture, "RGBA"), description, tuple(points))
    except ValueError as error:
        raise ValueError(str(error).replace("the product picture", f"{picture}: the product picture")) from None


def read_history(path: Path) -> tuple[Click, ...]:
    """Clicks from a JSON file: a list of {"picture": path, "text": title}, oldest first.

    Picture paths are relative to the JSON file. `ValueError` names the entry that is wrong.
    """
    if not path.is_file():
        raise ValueError(f'{path}: no such file, expected a JSON list of {{"picture": ..., "text": ...}}')
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(entries, list):
        raise ValueError(f'{path}: got a JSON {type(entries).__name__}, expected a list of {{"picture", "text"}}')
    if len(entries) > MAX_CLICKS:
        raise ValueError(f"{path}: {len(entries)} clicks, expected at most {MAX_CLICKS:,}: keep the most recent ones")
    return tuple(_read_click(path, number, entry) for number, entry in enumerate(entries, start=1))


def _read_click(path: Path, number: int, entry: object) -> Click:
    where = f"{path}: click {number}"
    picture, text = click_entry(where, entry)
    try:
        return Click(read_picture(path.parent / picture, "RGB"), text)
    except (ValueError, OSError) as error:
        raise ValueError(f"{where}: {error}") from None


def check_output(
    path: Path, suffixes: Sequence[str] = (".png", ".webp", ".jpg", ".jpeg"), keep: Sequence[Path | None] = ()
) -> None:
    """Refuses an output that could not be written, or would replace one of the files to `keep`, before any work."""
    if path.suffix.lower() not in suffixes:
        raise ValueError(
            f"{path}: cannot write {path.suffix or 'a file without ending'}, expected {', '.join(suffixes)}"
        )
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{path}: the folder {path.absolute().parent} does not exist: create it first")
    for output in (path, path.with_suffix(".json")):
        if output.is_dir():
            raise ValueError(f"{output}: is a folder, expected the name of a file: choose another --out")
        if any(output.resolve() == kept.resolve() for kept in keep if kept is not None):
            raise ValueError(f"{output}: is an input and would be overwritten: choose another --out")


def check_folder(path: Path) -> None:
    """Refuses a folder that could not be made, before any work."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path}: is a file, expected a folder: choose another --out")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{path}: the folder {path.absolute().parent} does not exist: create it first")


def save_picture(path: Path, picture: Image) -> None:
    """Writes a picture whole or not at all; its format is that of the ending."""
    write_whole(path, picture.save)
