"""What models and checks make of a dataset: texts checked, products cut out, titles compared (paper section 3.1).

Everything lies in the folder `prepared` of the dataset. Shards of results are never changed; `targets.parquet` says for
every target what became of it, and `prepared.json`, written last, what was used and how much was left out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from uniadgen.config import PrepareConfig
from uniadgen.data import llm
from uniadgen.data.checking import check_texts, checks
from uniadgen.data.clicklog import open_parquet
from uniadgen.data.comparing import compare_texts, vectors
from uniadgen.data.cutting import Source, cut_out, looks, sources_of
from uniadgen.data.executor import Execute
from uniadgen.data.job import Fault, Job, Lost, make_job, rows
from uniadgen.data.plan import Progress, load, locked, save, write_table
from uniadgen.data.stages import Results, missing

if TYPE_CHECKING:
    from uniadgen.data.segment import Cutter

# Cheapest first, so that nothing is spent on targets that go anyway.
STAGES = (
    check_texts,  # texts that the selling points do not support go
    cut_out,  # every target gets its product on a transparent ground; where there is none, it goes
    compare_texts,  # every title of a history gets its similarity to the description
)


def prepare(
    folder: Path,
    log: Path | None,
    config: PrepareConfig,
    execute: Execute,
    progress: Progress,
    cutter: "Cutter | None" = None,
) -> dict[str, Any]:
    """Runs every stage over a finished dataset, or what is missing of them; returns the summary that it writes.

    `cutter`: what cuts products out in place of the config's models. Raises `ValueError` for a folder without a
    finished dataset, models or a server that are not there, or pictures wanted where `log` is None.
    """
    with locked(folder):
        job = make_job(folder, log, config, cutter)
        _sweep(job)
        lost: Lost = {}
        for stage in STAGES:
            lost |= stage(job, lost, execute, progress)
        return _finish(job, lost)


def _sweep(job: Job) -> None:
    """Removes what a run that was killed left half written."""
    for path in job.place("").rglob(".*.partial*"):
        path.unlink()


def _finish(job: Job, lost: Lost) -> dict[str, Any]:
    """Writes what became of every target, and the summary, which comes last."""
    job.place("prepared.json").unlink(missing_ok=True)
    sources = sources_of(job, lost) if job.stages.cutout != "off" else {}
    keys = {row: source.key for row, source in sources.items() if isinstance(source, Source)}
    targets, counts = (job.targets[name].to_pylist() for name in ("creative", "samples"))
    faults = [lost.get(row, Fault("")) for row in targets]
    table = {"creative": job.targets["creative"], "samples": job.targets["samples"]}
    table |= {"reason": [fault.reason for fault in faults], "detail": [fault.detail for fault in faults]}
    write_table(
        job.place("targets.parquet"),
        pa.table(table | {"cutout": pa.array([keys.get(row) for row in targets], pa.binary(16))}),
    )
    dropped: dict[str, dict[str, int]] = {}
    for fault, number in zip(faults, counts, strict=True):
        if fault.reason:
            count = dropped.setdefault(fault.reason, {"targets": 0, "samples": 0})
            count["targets"] += 1
            count["samples"] += number
    summary = {
        "format": 1,
        "dataset": load(job.folder / "manifest.json")["content"],
        "settings": asdict(job.stages),
        "cutter": job.cutter.name if job.cutter else "",
        "encoder": job.encoder_name,
        "samples": sum(counts),
        "kept": sum(counts) - sum(count["samples"] for count in dropped.values()),
        "dropped": dict(sorted(dropped.items())),
    }
    save(job.place("prepared.json"), summary)
    return summary


# for those who read it


def is_prepared(folder: Path) -> bool:
    """Whether stages were run over a dataset, to their end."""
    return (folder / "prepared" / "prepared.json").is_file()


def left_out(folder: Path) -> dict[int, str]:
    """Targets (rows of creatives) that are to be left out, with the reason; `ValueError` where nothing is prepared."""
    targets = _prepared(folder).to_pylist()
    return {row["creative"]: row["reason"] for row in targets if row["reason"]}


def cutouts(folder: Path) -> "Cutouts":
    """The transparent picture of every target that stays, as a file's bytes, by its row of creatives."""
    return Cutouts(folder)


class Cutouts(Mapping[int, bytes]):
    """Files of transparent pictures by rows of creatives; fastest in the order of these rows."""

    def __init__(self, folder: Path) -> None:
        targets = _prepared(folder).to_pylist()
        self._keys: dict[int, bytes] = {row["creative"]: row["cutout"] for row in targets if row["cutout"] is not None}
        self._results = Results(folder / "prepared" / "cutouts")

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[int]:
        return iter(self._keys)

    def __getitem__(self, creative: int) -> bytes:
        return self._results[self._keys[creative]]["picture"]


def similarities(folder: Path, name: str) -> pa.Array:
    """Of one file of samples, row for row: a list of the similarities of the history's titles, in their order."""
    _prepared(folder)
    table = open_parquet(folder / "prepared" / "similarity" / name).read(use_threads=False)
    return table["similarity"].combine_chunks()


def _prepared(folder: Path) -> pa.Table:
    path = folder / "prepared" / "prepared.json"
    if not is_prepared(folder) or load(path)["dataset"] != load(folder / "manifest.json")["content"]:
        raise ValueError(f"{folder}: not prepared, or changed since: run `uniadgen data prepare {folder}`")
    return open_parquet(folder / "prepared" / "targets.parquet").read(use_threads=False)


# before anything is done


def estimate(job: Job) -> list[str]:
    """What a run would do, in lines; nothing is written, asked or computed."""
    lines = [f"{len(job.targets):,} targets of {sum(job.targets['samples'].to_pylist()):,} samples"]
    if job.stages.cleaning != "off":
        stage, questions = checks(job)
        left = [question for part in missing(stage, questions) for _, question in part]
        lines.append(f"texts to check: {len(left):,} of {len(questions):,}, the others were checked before")
        if job.stages.cleaning == "llm":
            cost = llm.estimate(left, job.stages)
            tokens = f"about {cost.tokens_in:,} tokens in and {cost.tokens_out:,} out"
            lines.append(f"requests to {job.stages.llm_url}: {cost.requests:,}, {tokens}: {cost.price:,.2f}")
    if job.stages.cutout != "off":
        targets = list(rows(job, {}))
        own = {row["product_image"] for row in targets} - {None}
        others = {row["image"] for row in targets if row["product_image"] is None}
        stage, names = looks(job, own | others if job.cutter else own)
        left = sum(map(len, missing(stage, names)))
        lines.append(f"pictures to read: {left:,} of {len(names):,}; without a transparent one: {len(others):,}")
    if job.encoder is not None:
        stage, texts = vectors(job)
        lines.append(f"texts to encode: {sum(map(len, missing(stage, texts))):,} of {len(texts):,}")
    return lines
