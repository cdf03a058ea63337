"""Ads on disk, named by what they were made from: a run that was killed goes on, a second one makes nothing."""

import json
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PIL import Image

from uniadgen.data.cutout import read_picture
from uniadgen.data.whole import write_whole
from uniadgen.records import Ad, Example

PACKAGE = Path(__file__).parents[1]
MAKERS = ("records.py", "pipeline.py", "data", "model", "engine", "baselines")  # the code that ads depend on


def fingerprint_of(example: Example) -> str:
    """A hash of a request: its words and every pixel of its pictures."""
    product = example.product
    digest = blake2b(digest_size=16)
    for picture in (product.cutout, *(click.picture for click in example.clicks)):
        digest.update(f"{picture.mode} {picture.size}\n".encode())
        digest.update(picture.tobytes())
    words = [product.description, product.selling_points, [click.text for click in example.clicks]]
    digest.update(json.dumps(words).encode())
    return digest.hexdigest()


def fingerprint_of_code() -> str:
    """A hash of the code that makes ads: what another version of it made is not taken for its own."""
    digest = blake2b(digest_size=16)
    for path in sorted(found for name in MAKERS for found in _modules(PACKAGE / name)):
        digest.update(f"{path.relative_to(PACKAGE)}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _modules(path: Path) -> Iterable[Path]:
    return (found for found in path.rglob("*") if found.suffix in (".py", ".cpp", ".h")) if path.is_dir() else [path]


class AdCache:
    """A folder with three files for an ad: its picture, what was painted, and, written last, its words and settings."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.code = folder, fingerprint_of_code()

    def key(self, generator: str, request: str, seed: int) -> str:
        """The name of an ad: a hash of who made it, from what, with which seed, by which code."""
        said = json.dumps([self.code, generator, request, seed])
        return blake2b(said.encode(), digest_size=16).hexdigest()

    def get(self, key: str) -> Ad | None:
        """The ad of that name; None where it is not there, or damaged."""
        words, picture, painted = self._paths(key)
        if not words.is_file():
            return None
        try:
            told = json.loads(words.read_text(encoding="utf-8"))
            pictures = read_picture(picture, "RGB"), read_picture(painted, "RGB")
            return Ad(*pictures, told["text"], told["seed"], MappingProxyType(told["record"]))
        except (ValueError, KeyError):
            return None

    def put(self, key: str, ad: Ad) -> Ad:
        """Keeps an ad; returns it as `get` will."""
        words, picture, painted = self._paths(key)
        told: dict[str, Any] = {"text": ad.text, "seed": ad.seed, "record": dict(ad.record)}
        _save(picture, ad.picture)
        _save(painted, ad.painted)
        text = json.dumps(told, ensure_ascii=False) + "\n"
        write_whole(words, lambda path: path.write_text(text, encoding="utf-8"))
        return ad

    def _paths(self, key: str) -> tuple[Path, Path, Path]:
        return self.folder / f"{key}.json", self.folder / f"{key}.png", self.folder / f"{key}-painted.png"


def _save(path: Path, picture: Image.Image) -> None:
    write_whole(path, lambda partial: picture.save(partial, compress_level=1))
