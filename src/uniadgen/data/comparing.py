"""Every title of a history against the target's description (s_i of Eq. 6), each distinct text encoded once."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from uniadgen.data.clicklog import open_parquet
from uniadgen.data.executor import Execute
from uniadgen.data.history import similarity
from uniadgen.data.job import Job, Lost
from uniadgen.data.plan import Progress, digest_of, run_tasks, write_table
from uniadgen.data.stages import Stage, fill, key_of

MADE_OF = b"made of"  # in the metadata of a file: a hash of its samples and of the encoder


def compare_texts(job: Job, lost: Lost, execute: Execute, progress: Progress) -> Lost:
    """s_i of Eq. 6 for every title of every history; each distinct text is encoded once. Loses nothing."""
    encoded = None
    if job.encoder is not None:
        stage, texts = vectors(job)
        fill(stage, texts, execute, progress)
        encoded = stage.folder
    job.place("similarity").mkdir(parents=True, exist_ok=True)
    paths = sorted((job.folder / "samples").glob("[!.]*.parquet"))
    arguments = [(job.folder, path.name, job.encoder_name, encoded) for path in paths]
    sizes = [open_parquet(path).metadata.num_rows for path in paths]
    run_tasks("titles: compare", compare_task, arguments, sizes, execute, progress)
    return {}


def vectors(job: Job) -> tuple[Stage, dict[bytes, str]]:
    """The stage that encodes, and every distinct title and description of the samples."""
    assert job.encoder is not None, "only an encoder makes vectors"
    columns = pa.schema([("vector", pa.list_(pa.float16()))])
    stage = Stage("titles: encode", job.place("vectors"), columns, job.encoder, 16 * job.stages.items_per_task)
    texts: dict[bytes, str] = {}
    for path in sorted((job.folder / "samples").glob("[!.]*.parquet")):
        titles, descriptions, _ = _words(job.folder, open_parquet(path).read(use_threads=False))
        texts |= {key_of(job.encoder_name, text): text for text in (*titles.values(), *descriptions.values())}
    return stage, texts


def _words(folder: Path, samples: pa.Table) -> tuple[dict[int, str], dict[int, str], dict[int, int]]:
    """Titles by creative and descriptions by product of what samples name, and the product of each target."""
    targets = np.unique(samples["target"].to_numpy())
    clicked = np.unique(samples["history"].combine_chunks().flatten().to_numpy(zero_copy_only=False))
    creatives = pq.read_table(folder / "creatives", columns=["text", "product"])
    products = creatives["product"].take(pa.array(targets)).to_numpy()
    titles = creatives["text"].take(pa.array(clicked)).to_pylist()
    wanted = np.unique(products)
    descriptions = pq.read_table(folder / "products", columns=["description"])["description"].take(pa.array(wanted))
    return (
        dict(zip(clicked.tolist(), titles, strict=True)),
        dict(zip(wanted.tolist(), descriptions.to_pylist(), strict=True)),
        dict(zip(targets.tolist(), products.tolist(), strict=True)),
    )


def compare_task(folder: Path, name: str, encoder_name: str, encoded: Path | None) -> int:
    """Writes the similarities of one file of samples, row for row; does nothing where they are there."""
    path = folder / "prepared" / "similarity" / name
    samples = open_parquet(folder / "samples" / name).read(use_threads=False)
    made_of = key_of(digest_of(folder / "samples" / name), encoder_name).hex().encode()
    if path.exists() and (open_parquet(path).schema_arrow.metadata or {}).get(MADE_OF) == made_of:
        return len(samples)
    titles, descriptions, product_of = _words(folder, samples)
    words = {*titles.values(), *descriptions.values()}
    known = {} if encoded is None else _read_vectors(encoded, encoder_name, words)

    def compare(shown: list[str], description: str) -> list[float]:
        if encoded is None:
            return similarity(shown, description)
        return [float(known[title] @ known[description]) for title in shown]

    found = [
        compare([titles[click] for click in row["history"]], descriptions[product_of[row["target"]]])
        for row in samples.to_pylist()
    ]
    table = pa.table({"similarity": pa.array(found, pa.list_(pa.float32()))})
    write_table(path, table.replace_schema_metadata({MADE_OF: made_of}))
    return len(samples)


def _read_vectors(folder: Path, encoder_name: str, texts: Collection[str]) -> dict[str, np.ndarray]:
    """Vectors of texts, shard by shard, so that only those wanted are in memory."""
    wanted = {key_of(encoder_name, text): text for text in texts}
    found: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("[!.]*.parquet")):
        shard = open_parquet(path).read(use_threads=False)
        vectors = shard["vector"].combine_chunks()
        values = vectors.flatten().to_numpy().reshape(len(shard), -1)
        for row, key in enumerate(shard["key"].to_pylist()):
            if key in wanted:
                found[wanted[key]] = values[row].astype(np.float32)
    return found
