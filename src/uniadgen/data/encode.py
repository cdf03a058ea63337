"""Makes a store: every picture is read, hashed, and coded if no picture of these bytes has been; then samples follow.

What is done is found by content, so a run that was killed goes on, a second run codes nothing, and where a picture
changed only that one is coded. With another VQ or another size, what depends on it is made anew where that is wished
(`replace`), and nothing else; otherwise the folder is refused, so that no codes are lost.
"""

import io
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from uniadgen.config import Config
from uniadgen.data.cutout import place, read_picture, squash
from uniadgen.data.listing import Listing
from uniadgen.data.plan import Progress, load, locked, save, write_table
from uniadgen.data.shelves import BlobShelf, CodeShelf, Shelf, checksums, key_of
from uniadgen.data.store import FORMAT, MANIFEST, PICTURES
from uniadgen.data.tables import ABSENT, BROKEN, TABLES, Rows, TableWriter
from uniadgen.records import Product

Encode = Callable[[Sequence[Image.Image]], NDArray[np.integer]]  # RGB pictures, all (S, S) -> codes (B, K)
NAMES = 65_536  # names of pictures whose keys are remembered: creatives with one picture stand near each other
QUALITY = 95  # of the JPEG of a picture that is kept
SETTINGS, DROPPED = "settings.json", "dropped.parquet"


@dataclass(frozen=True)
class Making:
    """How a store is made: sizes and seed of `config`, the VQ and its name, pictures coded together."""

    config: Config
    encode: Encode
    vq: str
    at_once: int = 32
    keep_pictures: bool = False
    replace: bool = False  # what other settings made in the folder is deleted


def encode_store(folder: Path, listing: Listing, making: Making, progress: Progress) -> dict[str, Any]:
    """Makes the store of a listing in `folder`, or what is missing of it; returns its manifest.

    Pictures that cannot be used are listed in `dropped.parquet` with the samples that go with them; none is replaced.
    Raises `ValueError` where more than `listing.max_broken` of them are, for a folder of something else, or for one
    that another process writes.
    """
    with locked(folder):
        return _Encoder(folder, listing, making, progress).run()


class _Encoder:
    def __init__(self, folder: Path, listing: Listing, making: Making, progress: Progress) -> None:
        self.folder, self.listing, self.making, self.progress = folder, listing, making, progress
        data = making.config.data
        self.sides = {"targets": data.image_size, "clicks": data.click_size}
        self.dropped: list[tuple[str, str, str]] = []  # what, its name, why
        self.shelves = self._open_shelves()
        self._known: OrderedDict[str, bytes | str] = OrderedDict()  # name of a picture -> its key, or what is wrong

    def _open_shelves(self) -> dict[str, Shelf]:
        """The shelves of this store; what was made with other settings is refused, or emptied where that is wished."""
        if any(path.name != ".lock" for path in self.folder.iterdir()) and not (self.folder / SETTINGS).is_file():
            raise ValueError(f"{self.folder}: is not empty and holds no store: choose another folder")
        making, vq = self.making, self.making.vq
        wanted: dict[str, dict[str, Any]] = {name: {"side": side, "vq": vq} for name, side in self.sides.items()}
        wanted["cutouts"] = {"side": self.sides["targets"]}
        if making.keep_pictures:
            wanted |= {PICTURES[name]: {"side": side} for name, side in self.sides.items()}
        before = load(self.folder / SETTINGS) if (self.folder / SETTINGS).is_file() else {}
        changed = [name for name in before if before[name] != wanted.get(name)]
        if changed and not making.replace:
            raise ValueError(
                f"{self.folder}: its {', '.join(changed)} were made with another VQ or size, or are no longer asked "
                "for, expected the same settings: choose another folder, or delete them with --replace"
            )
        if changed:
            (self.folder / MANIFEST).unlink(missing_ok=True)
        for name in changed:
            for path in self.folder.glob(f"{name}[-.]*"):
                path.unlink()
        save(self.folder / SETTINGS, wanted)
        shelves: dict[str, Shelf] = {
            name: CodeShelf(self.folder, name, making.encode, making.at_once) for name in self.sides
        }
        blobs = [name for name in wanted if name not in shelves]
        return shelves | {name: BlobShelf(self.folder, name, list, making.at_once) for name in blobs}

    def run(self) -> dict[str, Any]:
        wanted = self._wanted()
        rows = self._code_pictures(wanted)
        cutouts = self._place_cutouts(wanted["products"])
        self._refuse_if_broken(wanted)
        tables = TableWriter(self.folder, self.listing, rows, cutouts)
        return finish_store(self.folder, self.making, self.shelves, tables, self.dropped, self.progress)

    def _wanted(self) -> dict[str, NDArray[np.bool_]]:
        """Which creatives are some sample's target or click, and which products are advertised."""
        creatives, products = self.listing.num_creatives, self.listing.num_products
        wanted = {"targets": np.zeros(creatives, bool), "clicks": np.zeros(creatives, bool)}
        wanted["products"] = np.zeros(products, bool)
        for batch in self.listing.samples():
            wanted["targets"][batch["target"].to_numpy()] = True
            wanted["products"][batch["product"].to_numpy()] = True
            wanted["clicks"][batch["history"].flatten().to_numpy()] = True
        return wanted

    def _code_pictures(self, wanted: dict[str, NDArray[np.bool_]]) -> dict[str, Rows]:
        """Rows of every creative's picture in targets and in clicks, or why it has none."""
        kinds = tuple(self.sides)
        rows = {kind: np.full(self.listing.num_creatives, ABSENT, np.int32) for kind in kinds}
        either, start = wanted["targets"] | wanted["clicks"], 0
        with self.progress("pictures", int(either.sum())) as bar:
            for batch in self.listing.creatives():
                for place_in_batch in np.flatnonzero(either[start : start + len(batch)]).tolist():
                    creative = start + place_in_batch
                    name = batch["image"][place_in_batch].as_py() or ""
                    needed = [kind for kind in kinds if wanted[kind][creative]]
                    fault = "" if (batch["text"][place_in_batch].as_py() or "").strip() else "its text is blank"
                    found = fault or self._code(name, needed)
                    if isinstance(found, str):
                        self.dropped.append(("picture", name, found))
                    for kind in needed:
                        rows[kind][creative] = BROKEN if isinstance(found, str) else found[kind]
                    bar.advance()
                start += len(batch)
            for shelf in self.shelves.values():
                shelf.flush()
        return rows

    def _code(self, name: str, kinds: Sequence[str]) -> dict[str, int] | str:
        """Puts a picture on the shelves that need it: its rows, or what is wrong with it."""
        known = self._known.get(name)
        data = self._read(name, self.listing.read) if known is None else b""
        key = known or (data if isinstance(data, str) else key_of(data))
        picture = None
        if isinstance(key, bytes) and any(self._lacks(kind, key) for kind in kinds):
            opened = _opened(name, data or self._read(name, self.listing.read), "RGB")
            key, picture = (opened, None) if isinstance(opened, str) else (key, opened)
        self._known[name] = key
        if len(self._known) > NAMES:
            self._known.popitem(last=False)
        if isinstance(key, str):
            return key
        return {kind: self._put(kind, key, picture) for kind in kinds}

    def _read(self, name: str, read: Callable[[str], bytes]) -> bytes | str:
        try:
            return read(name)
        except OSError as error:
            return error.strerror or str(error)
        except ValueError as error:
            return str(error)

    def _lacks(self, kind: str, key: bytes) -> bool:
        return any(s in self.shelves and self.shelves[s].find(key) < 0 for s in (kind, PICTURES[kind]))

    def _put(self, kind: str, key: bytes, picture: Image.Image | None) -> int:
        """The row of a picture's codes; `picture` may be None where it is coded already."""
        if picture is not None:
            square = squash(picture, self.sides[kind])
            if PICTURES[kind] in self.shelves:
                self.shelves[PICTURES[kind]].put(key, _file(square, "jpeg", quality=QUALITY))
            return self.shelves[kind].put(key, square)
        return self.shelves[kind].find(key)

    def _place_cutouts(self, wanted: NDArray[np.bool_]) -> Rows:
        """Rows of every product's transparent picture, or why it has none."""
        rows, start, shelf = np.full(len(wanted), ABSENT, np.int32), 0, self.shelves["cutouts"]
        with self.progress("cut-outs", int(wanted.sum())) as bar:
            for batch in self.listing.products():
                for place_in_batch in np.flatnonzero(wanted[start : start + len(batch)]).tolist():
                    product = start + place_in_batch
                    entry = batch.slice(place_in_batch, 1).to_pylist()[0]
                    name = entry["image"] or f"product {product}"
                    found = self._cutout(entry)
                    if isinstance(found, str):
                        self.dropped.append(("cutout", name, found))
                        rows[product] = BROKEN
                    else:
                        rows[product] = shelf.put(*found) if shelf.find(found[0]) < 0 else shelf.find(found[0])
                    bar.advance()
                start += len(batch)
            shelf.flush()
        return rows

    def _cutout(self, entry: dict[str, Any]) -> tuple[bytes, bytes] | str:
        """The key of a product's transparent picture and its placed PNG (empty: there already); or what is wrong."""
        if not entry["image"]:
            return "the product has no transparent picture"
        data = self._read(entry["image"], self.listing.read_cutout)
        if isinstance(data, str):
            return data
        key = key_of(data)
        if self.shelves["cutouts"].find(key) >= 0:
            return key, b""
        picture = _opened(entry["image"], data, "RGBA")
        if isinstance(picture, str):
            return picture
        try:
            Product(picture, entry["description"], tuple(entry["selling_points"]))
        except ValueError as error:
            return str(error)
        return key, _file(place(picture, self.sides["targets"]), "png")

    def _refuse_if_broken(self, wanted: dict[str, NDArray[np.bool_]]) -> None:
        """Stops where too many pictures cannot be used: then more likely they are looked for in the wrong folder."""
        broken, most = len(self.dropped), self.listing.max_broken
        number = int((wanted["targets"] | wanted["clicks"]).sum() + wanted["products"].sum())
        if broken > most * number:
            _list_dropped(self.folder, self.dropped)
            what, name, why = self.dropped[0]
            raise ValueError(
                f"{broken:,} of {number:,} pictures cannot be used, expected at most {most:.0%}; the first is the "
                f"{what} {name}: {why}; all are listed in {self.folder / DROPPED}"
            )


def finish_store(
    folder: Path,
    making: Making,
    shelves: dict[str, Shelf],
    tables: TableWriter,
    dropped: list[tuple[str, str, str]],
    progress: Progress,
) -> dict[str, Any]:
    """Completes the shelves, writes the tables, and the manifest last; returns it."""
    files = [path for shelf in shelves.values() for path in shelf.finish()]
    before = load(folder / MANIFEST)["files"] if (folder / MANIFEST).is_file() else {}
    (folder / MANIFEST).unlink(missing_ok=True)
    with progress("samples", tables.listing.num_samples) as bar:
        tables.write({name: shelf.keys() for name, shelf in shelves.items()}, lambda number: bar.advance(by=number))
    dropped = dropped + tables.dropped
    files += [*tables.files, _list_dropped(folder, dropped)]
    data = making.config.data
    manifest = {
        "format": FORMAT,
        "image_size": data.image_size,
        "click_size": data.click_size,
        "vq": making.vq,
        "counts": {name: len(shelf) for name, shelf in shelves.items()} | tables.counts,
        "dropped": dict(sorted(Counter(what for what, _, _ in dropped).items())),
        # equal for equal samples, however they are ordered or lie in files
        "content": tables.content(making.vq, data.image_size, data.click_size),
        "files": {path.name: _described(path, before) for path in sorted(files)},
    }
    save(folder / MANIFEST, manifest)
    return manifest


def _list_dropped(folder: Path, dropped: list[tuple[str, str, str]]) -> Path:
    columns = list(zip(*dropped, strict=True)) or [(), (), ()]
    schema = pa.schema(dict.fromkeys(("what", "name", "reason"), pa.string()))
    write_table(folder / DROPPED, pa.table(dict(zip(schema.names, columns, strict=True)), schema=schema))
    return folder / DROPPED


def _opened(name: str, data: bytes | str, mode: str) -> Image.Image | str:
    """A picture, or what is wrong with it."""
    if isinstance(data, str):
        return data
    try:
        return read_picture(Path(name), mode, data)
    except ValueError as error:
        return str(error).removeprefix(f"{Path(name)}: ")


def _file(picture: Image.Image, kind: str, **options: Any) -> bytes:
    held = io.BytesIO()
    picture.save(held, kind, **options)
    return held.getvalue()


def _described(path: Path, before: dict[str, Any]) -> dict[str, Any]:
    """Size and checksums of a file. Those of a shard that stayed as it was are not made anew: it might have rotted."""
    size, known = path.stat().st_size, before.get(path.name)
    of_shelf = not path.name.startswith(TABLES) and path.name != DROPPED
    pages = known["pages"] if known and known["bytes"] == size and of_shelf else checksums(path)
    return {"bytes": size, "pages": pages}
