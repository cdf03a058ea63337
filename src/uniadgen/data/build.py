"""A click log becomes a dataset by the steps of paper section 3.1, in tasks that can be killed, repeated and spread.

Each task is a pure function of the plan and of files that earlier steps wrote. It writes its files aside and renames
them, the one that marks it as done last, and does nothing when that one is there. So it does not matter where tasks
run, how many at once, or how often the build was killed: the dataset has the same bytes.
"""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa

from uniadgen.config import DatasetConfig
from uniadgen.data import card, clean, executor
from uniadgen.data.catalogue import keep_creatives, keep_products
from uniadgen.data.clicklog import TABLES
from uniadgen.data.clicks import count_users, forget_users, partition_clicks, select_samples
from uniadgen.data.executor import Execute
from uniadgen.data.plan import (
    Plan,
    Progress,
    check_of,
    count_all,
    digest_of,
    forgotten_users,
    load,
    locked,
    make_plan,
    marks_of,
    save,
    sweep,
)

# Section 3.1 in its order; each step may be run again at any time.
STEPS = (
    keep_products,  # with an id, a description and selling points; denied categories go
    keep_creatives,  # with a product that stays, a text, and, if so wished, a picture that can be decoded
    partition_clicks,  # impossible events go, users become pseudonyms, each user's clicks come together
    forget_users,  # who was deleted from this dataset
    count_users,  # k-anonymity: which creatives were clicked by enough users
    select_samples,  # inactive users go; one random click is the target, the others are the history; split by user
)


def build(
    log: Path, folder: Path, config: DatasetConfig, secret: bytes, execute: Execute, progress: Progress
) -> dict[str, Any]:
    """Builds the dataset of a log in `folder`, or goes on with what was begun there; returns its manifest.

    Raises `ValueError` for a log that cannot be read, for a folder that holds another build or that another
    process builds in, and where more than `build.max_broken` of a table is malformed.
    """
    with locked(folder):
        plan = make_plan(log, folder, config, secret, execute, progress)
        for step in STEPS:
            step(plan, execute, progress)
        return finish(plan)


def finish(plan: Plan) -> dict[str, Any]:
    """Counts what was kept and dropped, describes it in a data card, and writes the manifest, which comes last."""
    marks = {
        "products": [plan.work("products.json")],
        "creatives": [plan.work("creatives.json")],
        "events": marks_of(plan, "partition"),
    }
    selected = marks_of(plan, "select")
    content = [0, 0]
    for mark in selected:
        for lane, digest in enumerate(load(mark)["content"]):
            content[lane] = (content[lane] + digest) % 2**64
    dropped = {table: count_all(paths) for table, paths in marks.items()}
    dropped["events"].update(count_all(selected))
    began = load(plan.folder / "build.json")
    manifest = {
        "format": 1,
        "samples": sum(load(mark)["samples"] for mark in selected),
        "read": {table: sum(load(path)["rows"] for path in paths) for table, paths in marks.items()},
        "dropped": {table: dict(sorted(counts.items())) for table, counts in dropped.items()},
        "inputs": {table: [entry["file"] for entry in began["inputs"] if entry["table"] == table] for table in TABLES},
        # equal for equal samples, however they lie in files and whatever wrote these
        "content": f"{content[0]:016x}{content[1]:016x}",
        "files": {str(path.relative_to(plan.folder)): digest_of(path) for path in _tables(plan.folder)},
    }
    sweep(plan.folder)  # Ray goes on without workers that were killed
    (plan.folder / "manifest.json").unlink(missing_ok=True)
    card.write_card(plan.folder, plan.config, manifest)
    save(plan.folder / "manifest.json", manifest)
    return manifest


def _tables(folder: Path) -> list[Path]:
    return sorted(path for name in ("samples", *TABLES, "dropped") for path in (folder / name).glob("[!.]*.parquet"))


def forget(folder: Path, users: list[str], secret: bytes, execute: Execute, progress: Progress) -> dict[str, Any]:
    """Deletes users from a finished dataset: only their partitions are made again. Returns the new manifest.

    `users`: ids as the log has them. They stay out when the build is run again in this folder. Raises `ValueError`
    where `folder` holds no finished dataset, or the secret is another one.
    """
    if not (folder / "manifest.json").exists():
        raise ValueError(f"{folder}: no finished dataset, expected the folder of one: finish the build first")
    with locked(folder):
        began = load(folder / "build.json")
        if began["secret"] != check_of(secret):
            raise ValueError(f"{folder} was built with another key: use the one it was built with")
        config = DatasetConfig.of(began["config"], "build.json")
        plan = Plan(folder, folder, config, (), began["num_buckets"], secret)
        pseudonyms = clean.identities(pa.array(users, pa.string()), secret).keys
        everyone = sorted({*forgotten_users(folder).tolist(), *pseudonyms.tolist()})
        save(folder / "forgotten.json", {"users": everyone, "done": False})
        for step in STEPS[STEPS.index(forget_users) :]:
            step(plan, execute, progress)
        return finish(plan)


def where(processes: int, ray: str | None) -> AbstractContextManager[Execute]:
    """The executor: processes of this machine, or a Ray cluster."""
    return executor.on_ray(ray) if ray else executor.processes(processes)
