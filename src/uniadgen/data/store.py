"""Examples as training reads them: every picture once, as codes; transparent pictures as PNG; words by the line.

store.json        what it was made with, and how many of everything
targets.bin       (pictures, K) codes of painted pictures      clicks.bin   (pictures, P) codes of clicked ones
cutouts.bin       PNG files end to end, cutouts.idx where each one ends
samples.bin       JSON lines, samples.idx where each one ends
"""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from uniadgen.config import Config
from uniadgen.data.cutout import place
from uniadgen.data.rows import Sample
from uniadgen.data.whole import write_whole
from uniadgen.records import Example

MANIFEST = "store.json"
CHUNK = 32  # examples whose pictures are coded together, and after which a run that was killed goes on
Encode = Callable[[Sequence[Image.Image], int], NDArray[np.integer]]  # pictures, side in pixels -> codes (B, K)
Clean = Callable[[Example], Example | None]  # a cleaner example, or None: leave it out


class Store:
    """A `Source` in a folder, memory-mapped; samples come in a new order every epoch."""

    def __init__(self, folder: Path, config: Config) -> None:
        manifest = _manifest(folder)
        for name, got in (("image_size", config.data.image_size), ("click_size", config.data.click_size)):
            if manifest[name] != got:
                raise ValueError(
                    f"{folder}: was coded with data.{name} {manifest[name]}, expected {got} as the recipe has it"
                )
        self.targets = _codes(folder / "targets.bin", manifest["target_codes"])
        self.clicks = _codes(folder / "clicks.bin", manifest["click_codes"])
        self._cutouts = _Blobs(folder / "cutouts")
        self._samples = _Blobs(folder / "samples")
        self.seed, self.vq = config.train.seed, manifest["vq"]
        self._order = lru_cache(maxsize=2)(self._shuffled)  # a window of rows may span two epochs
        if not len(self):
            raise ValueError(f"{folder}: holds no sample, expected at least one")

    def __len__(self) -> int:
        return len(self._samples)

    def _shuffled(self, epoch: int) -> NDArray[np.integer]:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self))

    def sample(self, number: int) -> Sample:
        """The `number`-th sample of a run."""
        epoch, place_in_epoch = divmod(number, len(self))
        fields = json.loads(self._samples[int(self._order(epoch)[place_in_epoch])])
        listed: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
        return Sample(**listed)

    def cutout(self, product: int) -> NDArray[np.uint8]:
        """A transparent picture, (S, S, 4)."""
        return np.asarray(Image.open(io.BytesIO(self._cutouts[product])))


class StoreWriter:
    """Codes examples into a folder, chunk by chunk; a run that was killed goes on after the last whole chunk.

    `encode` is the VQ's, `vq` names it; `clean` may drop or change an example (noisy texts, section 3.1 of the paper).
    """

    def __init__(self, folder: Path, config: Config, encode: Encode, vq: str, clean: Clean = lambda e: e) -> None:
        self.folder, self.config, self.encode, self.clean = folder, config, encode, clean
        self.settings = {"image_size": config.data.image_size, "click_size": config.data.click_size, "vq": vq}
        folder.mkdir(parents=True, exist_ok=True)
        done = _manifest(folder) if (folder / MANIFEST).is_file() else self.settings | dict.fromkeys(_COUNTS, 0)
        if any(done[name] != value for name, value in self.settings.items()):
            raise ValueError(f"{folder}: was begun with {done}, expected {self.settings}: choose another folder")
        self.done = done

    def _open(self, stack: ExitStack) -> None:
        """Opens every file at the end of what is whole; whatever a kill left after it is cut off."""
        ends = self.done
        self.files = {}
        for name, size in (
            ("targets.bin", ends["targets"] * ends["target_codes"] * 2),
            ("targets.key", ends["targets"] * 16),
            ("clicks.bin", ends["clicks"] * ends["click_codes"] * 2),
            ("clicks.key", ends["clicks"] * 16),
            ("cutouts.bin", ends["cutout_bytes"]),
            ("cutouts.idx", ends["cutouts"] * 8),
            ("cutouts.key", ends["cutouts"] * 16),
            ("samples.bin", ends["sample_bytes"]),
            ("samples.idx", ends["samples"] * 8),
        ):
            file = stack.enter_context((self.folder / name).open("ab"))
            if file.tell() < size:
                raise ValueError(f"{self.folder / name}: has {file.tell()} bytes, expected {size}: it is cut short")
            file.truncate(size)
            self.files[name] = file
        self.known = {kind: _keys(self.folder / f"{kind}.key") for kind in ("targets", "clicks", "cutouts")}

    def write(self, examples: Iterable[Example], advance: Callable[[int], None] = lambda _: None) -> None:
        """Codes all examples; the first ones, of a run that was killed, are skipped. `advance` counts examples."""
        rest = islice(examples, self.done["read"], None)
        advance(self.done["read"])
        with ExitStack() as stack:
            self._open(stack)
            while chunk := list(islice(rest, CHUNK)):
                self._write_chunk(chunk)
                advance(len(chunk))

    def _write_chunk(self, examples: Sequence[Example]) -> None:
        kept = [example for example in map(self.clean, examples) if example is not None]
        if any(example.target is None for example in kept):
            raise ValueError("an example has no target, expected the click that really happened")
        data = self.config.data
        shown = [example.target.picture for example in kept if example.target]
        targets = self._add_pictures("targets", shown, data.image_size)
        clicks = iter(self._add_pictures("clicks", [c.picture for e in kept for c in e.clicks], data.click_size))
        for example, target in zip(kept, targets, strict=True):
            assert example.target is not None
            sample = Sample(
                example.product.description,
                example.product.selling_points,
                tuple(click.text for click in example.clicks),
                tuple(islice(clicks, len(example.clicks))),
                example.target.text,
                target,
                self._add_cutout(place(example.product.cutout, data.image_size)),
            )
            self._append("samples", json.dumps(asdict(sample), ensure_ascii=False).encode())
        self.done["read"] += len(examples)
        self._commit()

    def _add_pictures(self, kind: str, pictures: Sequence[Image.Image], side: int) -> list[int]:
        """Rows of the pictures' codes; those that are new are coded, together."""
        known, new = self.known[kind], {}
        keys = [_key(picture) for picture in pictures]
        for key, picture in zip(keys, pictures, strict=True):
            if key not in known:
                known[key] = len(known)
                new[key] = picture
        if new:
            codes = self.encode(list(new.values()), side).astype(np.uint16)
            self.files[f"{kind}.bin"].write(codes.tobytes())
            self.files[f"{kind}.key"].write(b"".join(new))
            self.done[f"{kind.removesuffix('s')}_codes"] = codes.shape[1]
            self.done[kind] = len(known)
        return [known[key] for key in keys]

    def _add_cutout(self, canvas: Image.Image) -> int:
        key, known = _key(canvas), self.known["cutouts"]
        if key not in known:
            known[key] = len(known)
            png = io.BytesIO()
            canvas.save(png, "png")
            self._append("cutouts", png.getvalue())
            self.files["cutouts.key"].write(key)
        return known[key]

    def _append(self, kind: str, blob: bytes) -> None:
        one = kind.removesuffix("s")
        self.files[f"{kind}.bin"].write(blob)
        self.done[f"{one}_bytes"] += len(blob)
        self.done[kind] += 1
        self.files[f"{kind}.idx"].write(np.uint64(self.done[f"{one}_bytes"]).tobytes())

    def _commit(self) -> None:
        """What has been written is on the disk, and then counted."""
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
        write_whole(self.folder / MANIFEST, lambda path: path.write_text(json.dumps(self.done, indent=2) + "\n"))


_COUNTS = ("read", "samples", "sample_bytes", "cutouts", "cutout_bytes")
_COUNTS += ("targets", "target_codes", "clicks", "click_codes")


class _Blobs:
    """Blobs end to end in one memory-mapped file."""

    def __init__(self, path: Path) -> None:
        self.ends = np.fromfile(path.with_suffix(".idx"), np.uint64)
        size = path.with_suffix(".bin").stat().st_size
        if len(self.ends) and self.ends[-1] > size:
            raise ValueError(f"{path}.bin: has {size} bytes, expected {self.ends[-1]}: it is cut short, code it again")
        self.bytes = np.memmap(path.with_suffix(".bin"), np.uint8, "r") if size else np.zeros(0, np.uint8)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, number: int) -> bytes:
        start = int(self.ends[number - 1]) if number else 0
        return self.bytes[start : int(self.ends[number])].tobytes()


def _manifest(folder: Path) -> dict:
    try:
        found = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        raise ValueError(f"{folder}: no {MANIFEST}, expected a store: make one with `uniadgen data encode`") from None
    missing = [name for name in ("image_size", "click_size", "vq", *_COUNTS) if name not in found]
    if missing:
        raise ValueError(f"{folder / MANIFEST}: has no {', '.join(missing)}: it belongs to another version")
    return found


def _codes(path: Path, width: int) -> NDArray[np.integer]:
    if not width or not path.stat().st_size:
        return np.zeros((0, width), np.uint16)
    return np.memmap(path, np.uint16, "r").reshape(-1, width)


def _keys(path: Path) -> dict[bytes, int]:
    """The pictures that have been coded, by content."""
    held = path.read_bytes()
    return {held[i : i + 16]: i // 16 for i in range(0, len(held), 16)}


def _key(picture: Image.Image) -> bytes:
    digest = hashlib.blake2b(f"{picture.mode} {picture.size}".encode(), digest_size=16)
    digest.update(picture.tobytes())
    return digest.digest()
