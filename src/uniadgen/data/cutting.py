"""Every target's product on a transparent ground: the shop's own picture, or cut out of the target's (section 3.1)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import ImageOps

from uniadgen.config import BuildConfig, StagesConfig
from uniadgen.data import pictures
from uniadgen.data.cutout import in_mode
from uniadgen.data.executor import Execute
from uniadgen.data.job import Fault, Job, Lost, rows
from uniadgen.data.plan import Progress
from uniadgen.data.stages import Stage, fill, key_of, read_all

if TYPE_CHECKING:
    from uniadgen.data.segment import Cutter

LOOKS = pa.schema([("digest", pa.binary(16)), ("fault", pa.string()), ("transparent", pa.bool_())])
PROMPT_WORDS = 8  # of a description that stands for a missing category; Chinese: characters


class Look(NamedTuple):
    """What is known of a picture: a hash of its bytes, what is wrong with it, and whether it is a cut-out."""

    digest: bytes
    fault: str
    transparent: bool


class Source(NamedTuple):
    """What a cut-out is made of; `prompt` is None where the picture is the cut-out."""

    key: bytes
    picture: str
    prompt: str | None


def cut_out(job: Job, lost: Lost, execute: Execute, progress: Progress) -> Lost:
    """The shop's transparent picture as it is; where a product has none, it is found in the target's own picture."""
    if job.stages.cutout == "off":
        return {}
    targets = list(rows(job, lost))
    given = {row["product_image"] for row in targets} - {None}
    fill(*looks(job, given), execute, progress)
    if job.cutter is not None:
        look = _known(job)
        bare = (row for row in targets if row["product_image"] is None or _is_opaque(look(row["product_image"])))
        fill(*looks(job, {row["image"] for row in bare} - {None}), execute, progress)
    sources = sources_of(job, lost)
    fill(*_cuts(job, [source for source in sources.values() if isinstance(source, Source)]), execute, progress)
    made = read_all(job.place("cutouts"), "found")
    return {row: fault for row, source in sources.items() if (fault := _fault(source, made))}


def _fault(source: Source | Fault, made: Mapping[bytes, Mapping[str, Any]]) -> Fault | None:
    if isinstance(source, Fault):
        return source
    if source.key not in made:
        return Fault("missing_picture", source.picture)
    return None if made[source.key]["found"] else Fault("no_product_found", source.prompt or "")


def looks(job: Job, names: set[str]) -> tuple[Stage, dict[bytes, str]]:
    """The stage that reads pictures, and the pictures."""
    stage = Stage("pictures: read", job.place("pictures"), LOOKS, ReadPictures(job.pictures, job.build), 1_000)
    return stage, {_picture_key(job.pictures, name): name for name in sorted(names)}


def _picture_key(log: Path, name: str) -> bytes:
    """Another one when the file, or the archive it is in, was written anew; a URL's picture is taken not to change."""
    outer = name.split("::")[-1]
    try:
        stat = None if "://" in outer else (log / outer).stat()
    except (OSError, ValueError):  # no such file, or no name that a file could have
        stat = None
    return key_of(name, f"{stat.st_size} {stat.st_mtime_ns}" if stat else "")


@dataclass(frozen=True)
class ReadPictures:
    """Hashes pictures, and decodes them to their end."""

    log: Path
    build: BuildConfig

    def __call__(self, names: Sequence[str]) -> list[dict[str, Any] | None]:
        """None for a picture that is missing: it may come."""
        return [self._look(name) for name in names]

    def _look(self, name: str) -> dict[str, Any] | None:
        try:
            data = pictures.fetch(name, self.log, self.build)
            picture = pictures.decode(data)
        except pictures.Fault as fault:
            known = str(fault) != "missing_picture"
            return {"digest": bytes(16), "fault": str(fault), "transparent": False} if known else None
        alpha = np.asarray(picture.convert("RGBA"))[..., 3]
        return {"digest": key_of(data), "fault": "", "transparent": bool(alpha.min() < 255 and alpha.max() > 0)}


def _known(job: Job) -> Callable[[str], Look]:
    """What was read of each picture."""
    read = read_all(job.place("pictures"))

    def look(name: str) -> Look:
        found = read.get(_picture_key(job.pictures, name))
        return Look(**found) if found else Look(b"", "missing_picture", False)

    return look


def _is_opaque(look: Look) -> bool:
    return not look.fault and not look.transparent


def sources_of(job: Job, lost: Lost) -> dict[int, Source | Fault]:
    """Where the cut-out of each target (row of creatives) comes from, once its pictures were read."""
    look = _known(job)
    return {row["creative"]: _source(job, row, look) for row in rows(job, lost)}


def _source(job: Job, row: Mapping[str, Any], look: Callable[[str], Look]) -> Source | Fault:
    """Where a target's cut-out comes from. A picture that the shop gives and that is broken is not made up for."""
    if row["product_image"] is not None:
        given = look(row["product_image"])
        if given.fault:
            return Fault(given.fault, row["product_image"])
        if given.transparent:
            return Source(key_of("given", given.digest), row["product_image"], None)
    if job.cutter is None:
        return Fault("no_cutout")
    if row["image"] is None:
        return Fault("no_picture")
    shown = look(row["image"])
    if shown.fault:
        return Fault(shown.fault, row["image"])
    prompt = job.stages.prompt or row["product_category"] or _beginning(row["product_description"])
    made_of = (job.cutter.name, str(job.stages.cutout_size), shown.digest, prompt)
    return Source(key_of("cut", *made_of), row["image"], prompt)


def _beginning(description: str) -> str:
    words = description.split()
    return " ".join(words[:PROMPT_WORDS]) if len(words) > 1 else description[:PROMPT_WORDS]


def _cuts(job: Job, sources: Sequence[Source]) -> tuple[Stage, dict[bytes, Source]]:
    columns = pa.schema([("picture", pa.binary()), ("confidence", pa.float32()), ("found", pa.bool_())])
    make = CutPictures(job.pictures, job.build, job.stages, job.cutter)
    stage = Stage("products: cut out", job.place("cutouts"), columns, make, job.stages.items_per_task)
    return stage, {source.key: source for source in sources}


@dataclass(frozen=True)
class CutPictures:
    """Cut-outs as picture files: the shop's own byte by byte, others as PNG; empty where nothing was found."""

    log: Path
    build: BuildConfig
    stages: StagesConfig
    cutter: "Cutter | None"

    def __call__(self, sources: Sequence[Source]) -> list[dict[str, Any] | None]:
        """None for a picture that is not there any more."""
        results: dict[int, dict[str, Any]] = {}
        to_cut = [number for number, source in enumerate(sources) if source.prompt is not None]
        for number, source in enumerate(sources):
            if source.prompt is None and (data := self._fetch(source)) is not None:
                results[number] = {"picture": data, "confidence": 1.0, "found": True}
        for start in range(0, len(to_cut), self.stages.batch_size):
            batch = to_cut[start : start + self.stages.batch_size]
            files = [(number, data) for number in batch if (data := self._fetch(sources[number])) is not None]
            made = self._cut([data for _, data in files], [sources[number].prompt or "" for number, _ in files])
            results |= {number: result for (number, _), result in zip(files, made, strict=True)}
        return [results.get(number) for number in range(len(sources))]

    def _fetch(self, source: Source) -> bytes | None:
        try:
            return pictures.fetch(source.picture, self.log, self.build)
        except pictures.Fault:
            return None

    def _cut(self, files: Sequence[bytes], prompts: Sequence[str]) -> list[dict[str, Any]]:
        from uniadgen.data import segment

        assert self.cutter is not None, "sources have prompts only where there is a cutter"
        if not files:
            return []
        shown = [in_mode(ImageOps.exif_transpose(pictures.decode(data)), "RGB") for data in files]
        results = []
        for picture, cut in zip(shown, self.cutter(shown, prompts), strict=True):
            product, file = segment.cut_out(picture, cut, self.stages.cutout_size), BytesIO()
            if product is not None:
                product.save(file, "PNG")
            found = {"picture": file.getvalue(), "found": product is not None}
            results.append(found | {"confidence": cut.confidence})
        return results
