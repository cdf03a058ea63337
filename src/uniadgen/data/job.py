"""What the stages that follow a build know of their work: the dataset's targets, and why some of them are left out."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from uniadgen.config import BuildConfig, DatasetConfig, PrepareConfig, StagesConfig
from uniadgen.data.clean import REASONS as PICTURE_REASONS
from uniadgen.data.plan import load

if TYPE_CHECKING:  # these load torch, which takes seconds; the default settings need no model
    from uniadgen.data.embed import Encoder
    from uniadgen.data.segment import Cutter

REASONS = {
    "unsupported_text": "the text says what no selling point does",
    "no_verdict": "the language model gave no answer that can be read, twice; the next run asks again",
    "no_cutout": "the product has no transparent picture, and stages.cutout is given",
    "no_product_found": "nothing that the prompt names was found in the picture",
} | {name: reason.meaning for name, reason in PICTURE_REASONS.items() if name.endswith("_picture")}


class Fault(NamedTuple):
    """Why a target is left out: one of `REASONS`, and what exactly."""

    reason: str
    detail: str = ""


Lost = dict[int, Fault]  # row of creatives -> why it is left out as a target


@dataclass(frozen=True)
class Job:
    """What all stages of one run know."""

    folder: Path  # of the dataset
    log: Path | None  # the folder that the pictures' paths are relative to
    stages: StagesConfig
    build: BuildConfig
    cutter: "Cutter | None"
    encoder: "Encoder | None"
    encoder_name: str
    targets: pa.Table  # one row for each creative that is a target, with its product's words and how many samples

    @property
    def pictures(self) -> Path:
        """The folder of the pictures."""
        assert self.log is not None, "make_job asks for it"
        return self.log

    def place(self, name: str) -> Path:
        """A file or folder of what is prepared."""
        return self.folder / "prepared" / name


def make_job(folder: Path, log: Path | None, config: PrepareConfig, cutter: "Cutter | None" = None) -> Job:
    """Finds the models and reads which targets there are; `ValueError` as `prepare` says."""
    if not (folder / "manifest.json").is_file():
        raise ValueError(f"{folder}: no finished dataset, expected the folder of one: finish `uniadgen data build`")
    stages, encoder, name = config.stages, None, "bag of words 1"
    if stages.cutout != "off" and (log is None or not log.is_dir()):
        raise ValueError(
            f"the folder of pictures is {log}, expected the log's, which their paths are relative to: give --log, or "
            "cut nothing out with --set stages.cutout=off"
        )
    if cutter is None and stages.cutout == "grounded_sam":
        from uniadgen.data.segment import grounded_sam

        cutter = grounded_sam(stages.detector, stages.segmenter, stages.min_confidence)
    if stages.encoder:
        from uniadgen.data import checkpoints, embed

        where = checkpoints.folder_of(stages.encoder)
        encoder = embed.Encoder(str(where), 8 * stages.batch_size)
        name = f"mean {embed.MOST_TOKENS} {checkpoints.fingerprint(where)}"
    build = DatasetConfig.of(load(folder / "build.json")["config"], "build.json").build
    return Job(folder, log, stages, build, cutter, encoder, name, _targets(folder))


def _targets(folder: Path) -> pa.Table:
    chosen = pq.read_table(folder / "samples", columns=["target"])["target"].to_numpy()
    rows, counts = np.unique(chosen, return_counts=True)
    creatives = pq.read_table(folder / "creatives", columns=["image", "text", "product"]).take(pa.array(rows))
    names = ["description", "selling_points", "image", "category"]
    products = pq.read_table(folder / "products", columns=names).take(creatives["product"])
    columns = {f"product_{name}": products[name] for name in names}
    return pa.table(
        {"creative": rows, "samples": counts, "image": creatives["image"], "text": creatives["text"]} | columns
    )


def rows(job: Job, lost: Lost) -> Iterator[dict[str, Any]]:
    """The targets that are not lost yet."""
    for batch in job.targets.to_batches(10_000):
        yield from (row for row in batch.to_pylist() if row["creative"] not in lost)
