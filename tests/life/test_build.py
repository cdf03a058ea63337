"""A dataset from a click log: the same bytes wherever it runs and however it is disturbed, and nothing unaccounted."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import shop_log
from shop_log import KEY, PROGRESS, SMALL, START, build, contents, dataset_config, events, samples, write, write_log
from uniadgen.data import build as building
from uniadgen.data import catalogue, clean, clicklog, plan
from uniadgen.data.executor import Task, processes
from uniadgen.world.counters import What, bits


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3,000 events in four files."""
    return write_log(tmp_path_factory.mktemp("log"), events())


@pytest.fixture(scope="module")
def undisturbed(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of that log."""
    folder = tmp_path_factory.mktemp("dataset") / "undisturbed"
    build(log, folder, dataset_config(), card=True)
    return folder


def command(log: Path, folder: Path, *more: str) -> list[str]:
    """`uniadgen data build` as a person runs it, with the settings of `SMALL`."""
    (folder.parent / "key").write_bytes(KEY)
    settings = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    start = [sys.executable, "-m", "uniadgen", "data", "build", str(log), str(folder)]
    return [*start, "--key", str(folder.parent / "key"), *settings, *more]


# what is drawn


def expected_samples(clicks: dict[str, np.ndarray], min_clicks: int, scope: str, most: int) -> list:
    """Targets and histories by the definition, user by user."""
    first: dict[int, dict[int, int]] = {}
    for user, creative, second, kind in zip(*clicks.values(), strict=True):
        if kind == "click":
            seen = first.setdefault(int(user), {})
            seen[int(creative)] = min(int(second), seen.get(int(creative), 2**62))
    found = []
    for user, seen in first.items():
        pseudonym = clean.identities(pa.array([user]), KEY).keys
        key = {creative: int(clean.identities(pa.array([creative])).keys[0]) for creative in seen}
        order = sorted(seen, key=lambda creative: (seen[creative], key[creative]))
        fit = [c for n, c in enumerate(order, start=1) if (len(order) if scope == "all" else n) >= min_clicks]
        if not fit:
            continue
        draw = {c: int(bits(0, What.DATASET_TARGET, pseudonym, np.array([key[c]])).view(np.int64)[0]) for c in fit}
        target = min(fit, key=lambda creative: (draw[creative], key[creative]))
        others = [c for c in order if c != target]
        others = others if scope == "all" else order[: order.index(target)]
        found.append((target, others[-most:]))
    return sorted(found)


@pytest.mark.parametrize(("scope", "most"), [("all", 100), ("before_target", 100), ("all", 7)])
def test_targets_and_histories_are_those_of_the_definition(log: Path, tmp_path: Path, scope: str, most: int) -> None:
    config = dataset_config(build__history_scope=scope, build__max_history=most, build__min_clicks=8)
    manifest = build(log, tmp_path / "out", config)
    found = samples(tmp_path / "out")
    assert sorted((target, history) for _, target, history in found) == expected_samples(events(), 8, scope, most)
    assert manifest["samples"] == len(found) > 50


def test_every_event_is_in_a_sample_or_is_listed_with_its_reason(undisturbed: Path) -> None:
    manifest = json.loads((undisturbed / "manifest.json").read_text())
    kept = sum(1 + len(history) for _, _, history in samples(undisturbed))
    assert kept + sum(manifest["dropped"]["events"].values()) == manifest["read"]["events"] == 3000
    dropped = [row for path in (undisturbed / "dropped").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    assert Counter(row["reason"] for row in dropped) == Counter(manifest["dropped"]["events"])
    assert len({(row["file"], row["place"]) for row in dropped}) == len(dropped)
    assert manifest["dropped"]["events"].keys() >= {"not_a_click", "repeated", "inactive_user"}


def test_targets_do_not_depend_on_the_order_of_rows_and_files_or_on_buckets(
    log: Path, undisturbed: Path, tmp_path: Path
):
    order = np.random.default_rng(5).permutation(3000)
    shuffled = write_log(tmp_path / "log", {name: column[order] for name, column in events().items()}, num_files=2)
    manifest = build(shuffled, tmp_path / "out", dataset_config(build__rows_per_bucket=10_000))
    assert samples(tmp_path / "out") == samples(undisturbed)
    assert manifest["content"] == json.loads((undisturbed / "manifest.json").read_text())["content"]


def test_samples_hold_neither_users_nor_times(undisturbed: Path) -> None:
    assert pq.read_table(undisturbed / "samples").schema.names == ["split", "target", "history"]
    assert KEY not in b"".join(contents(undisturbed).values())


def test_splits_are_shares_of_users(log: Path, tmp_path: Path) -> None:
    build(log, tmp_path / "out", dataset_config(build__test_share=0.3, build__validation_share=0.2))
    counts = Counter(split for split, _, _ in samples(tmp_path / "out"))
    assert 0.15 < counts["test"] / counts.total() < 0.45
    assert 0.08 < counts["validation"] / counts.total() < 0.35


# wherever it runs, however it is disturbed


def test_two_processes_give_the_same_bytes(log: Path, undisturbed: Path, tmp_path: Path) -> None:
    build(log, tmp_path / "out", dataset_config(), number=2, card=True)
    assert contents(tmp_path / "out") == contents(undisturbed)


def test_building_again_changes_nothing(log: Path, tmp_path: Path) -> None:
    build(log, tmp_path / "out", dataset_config(), card=True)
    parts = sorted((tmp_path / "out" / "samples").iterdir())
    before, times = contents(tmp_path / "out"), [path.stat().st_mtime_ns for path in parts]
    build(log, tmp_path / "out", dataset_config(), card=True)
    assert contents(tmp_path / "out") == before
    assert [path.stat().st_mtime_ns for path in parts] == times


@pytest.mark.parametrize(
    ("seen", "number"),
    [("build.json", 2), ("work/creatives.json", 1), ("work/partition-00001.json", 2), ("samples/00002.parquet", 2)],
)
def test_a_kill_leaves_a_build_that_goes_on_to_the_same_bytes(
    log: Path, undisturbed: Path, tmp_path: Path, seen: str, number: int
) -> None:
    folder = tmp_path / "out"
    running = subprocess.Popen(command(log, folder, "--processes", str(number)), stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (folder / seen).exists():
        assert running.poll() is None, "the build ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.001)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert not (folder / "manifest.json").exists()
    wait_for_lock(folder)
    build(log, folder, dataset_config(), number=3 - number, card=True)
    assert contents(folder) == contents(undisturbed)


def wait_for_lock(folder: Path) -> None:
    """A killed build's workers notice within moments; its lock is gone at once."""
    with plan.locked(folder):
        time.sleep(0.2)


def test_a_second_build_in_the_same_folder_is_refused(log: Path, tmp_path: Path) -> None:
    with plan.locked(tmp_path / "out"):
        result = subprocess.run(command(log, tmp_path / "out"), check=False, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "another build is running here" in result.stderr


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file of this process grows beyond `room` bytes."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))


def test_a_full_disk_stops_the_build_and_space_lets_it_go_on(log: Path, undisturbed: Path, tmp_path: Path) -> None:
    folder, reached = tmp_path / "out", []
    for room in (200, 1_500, 5_000, 8_000, 16_000):
        with full_disk(room), pytest.raises(OSError, match=r"File too large|could not be written") as stopped:
            build(log, folder, dataset_config(), card=True)
        assert str(folder) in str(stopped.value)
        assert not list(folder.rglob("*partial*"))
        assert not (folder / "manifest.json").exists()
        reached.append(len(contents(folder)))
    assert len(set(reached)) > 3, "it stopped at one place"
    build(log, folder, dataset_config(), card=True)
    assert contents(folder) == contents(undisturbed)


def test_a_worker_that_is_killed_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ChildProcessError, match="a worker was killed"), processes(2) as execute:
        list(execute(os._exit, [(9,)]))


@pytest.mark.parametrize("change", ["build__seed", "key", "file"])
def test_another_build_in_the_same_folder_is_refused(tmp_path: Path, change: str) -> None:
    log, folder = write_log(tmp_path / "log", events(600)), tmp_path / "out"
    build(log, folder, dataset_config())
    before, config, secret = contents(folder), dataset_config(), KEY
    if change == "file":
        write(log / "events" / "1.parquet", {name: column[:50] for name, column in events(600, seed=1).items()})
    elif change == "key":
        secret = b"another key, also secret"
    else:
        config = dataset_config(**{change: 1})
    said = {"build__seed": "build.seed", "key": "the key", "file": "events/1.parquet"}[change]
    with pytest.raises(ValueError, match=rf"holds another build \({said} changed\): choose another folder"):
        build(log, folder, config, secret=secret)
    after = contents(folder)
    assert {name: data for name, data in after.items() if "input-" not in name} == {
        name: data for name, data in before.items() if "input-" not in name
    }


def test_a_folder_of_something_else_is_refused(log: Path, tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no dataset"):
        build(log, tmp_path, dataset_config())
    assert (tmp_path / "letters.txt").read_text() == "mine"


# privacy


def test_a_deleted_user_leaves_and_only_their_partition_is_made_again(
    undisturbed: Path, log: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    build(log, folder, dataset_config())
    user = 3
    bucket = int(plan_bucket(user, json.loads((folder / "build.json").read_text())["num_buckets"]))
    times = {path.name: path.stat().st_mtime_ns for path in (folder / "samples").iterdir()}
    with processes(1) as execute:
        building.forget(folder, [str(user)], KEY, execute, PROGRESS)
    after = {path.name: path.stat().st_mtime_ns for path in (folder / "samples").iterdir()}
    assert [name for name in times if after[name] != times[name]] == [f"{bucket:05d}.parquet"]
    pseudonym = clean.identities(pa.array([user]), KEY).keys[0]
    parts = [pq.read_table(path) for path in (folder / "work").glob("clicks-*.parquet")]
    assert all(pseudonym not in part["user"].to_numpy() for part in parts)
    assert len(samples(folder)) == len(samples(undisturbed)) - 1
    build(log, folder, dataset_config())  # the log still has the user, the dataset does not
    assert len(samples(folder)) == len(samples(undisturbed)) - 1
    with processes(1) as execute:
        building.forget(folder, ["5"], KEY, execute, PROGRESS)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "forgotten.json").write_bytes((folder / "forgotten.json").read_bytes())
    (scratch / "build.json").write_bytes((folder / "build.json").read_bytes())
    build(log, scratch, dataset_config(), card=True)
    assert contents(scratch) == contents(folder)  # as if they had never clicked


def plan_bucket(user: int, num_buckets: int) -> int:
    pseudonym = clean.identities(pa.array([user]), KEY).keys
    return int(pseudonym.view(np.uint64)[0] % np.uint64(num_buckets))


def test_creatives_of_few_users_are_left_out_on_request(log: Path, tmp_path: Path) -> None:
    manifest = build(log, tmp_path / "out", dataset_config(build__min_users=6))
    users: dict[int, set[int]] = {}
    for user, creative, _, kind in zip(*events().values(), strict=True):
        if kind == "click":
            users.setdefault(int(creative), set()).add(int(user))
    used = {creative for _, target, history in samples(tmp_path / "out") for creative in (target, *history)}
    assert used
    assert min(len(users[creative]) for creative in used) >= 6
    assert manifest["dropped"]["events"]["rare_creative"] > 100


def test_denied_categories_stay_out_with_all_that_hangs_on_them(log: Path, tmp_path: Path) -> None:
    manifest = build(log, tmp_path / "out", dataset_config(build__deny_categories="kind 2,kind 3"))
    assert manifest["dropped"]["products"] == {"denied_category": 28}
    assert manifest["dropped"]["creatives"] == {"dropped_product": 112}
    assert manifest["dropped"]["events"]["dropped_creative"] > 100
    kinds = set(pq.read_table(tmp_path / "out" / "products")["category"].to_pylist())
    assert kinds == {f"kind {number}" for number in (0, 1, 4, 5, 6)}


# abuse


def cpu_and_memory(words: Sequence[str]) -> tuple[float, int]:
    """CPU seconds of a command and its largest memory in kB; what wait4 calls so may be that of who runs it."""
    running, peak = subprocess.Popen(words, stdout=subprocess.DEVNULL), 0
    while (ended := os.wait4(running.pid, os.WNOHANG))[0] == 0:
        held = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{running.pid}/status").read_text())
        peak = max(peak, int(held[1]) if held else 0)
        time.sleep(0.02)
    running.returncode = os.waitstatus_to_exitcode(ended[1])
    assert running.returncode == 0
    assert peak > 0
    return ended[2].ru_utime + ended[2].ru_stime, peak


def test_a_user_with_two_million_clicks(tmp_path: Path) -> None:
    """Memory is bounded, and time grows with their number; to compare each with each would take 16 times as long."""
    seconds = {}
    for many in (500_000, 2_000_000):
        folder, clicks = tmp_path / str(many), events(1000)
        creatives = np.random.default_rng(0).integers(0, 400, many)
        bot = {"user_id": np.full(many, 999), "creative_id": creatives, "timestamp": START + np.arange(many)}
        both = {name: np.concatenate([clicks[name], bot[name]]) for name in bot}
        kinds = pa.DictionaryArray.from_arrays(np.zeros(many + 1000, np.int8), pa.array(["click"]))
        log = write_log(folder / "log", both | {"event": kinds})
        sizes = ("--set", "build.rows_per_task=1000000", "--set", "build.rows_per_bucket=500000", "--processes", "1")
        seconds[many], peak = cpu_and_memory([*command(log, folder / "out"), *sizes])
        assert peak < 1_000_000, "kB"
        longest = max(samples(folder / "out"), key=lambda sample: len(sample[2]))
        assert len(longest[2]) == 100
        dropped = json.loads((folder / "out" / "manifest.json").read_text())["dropped"]["events"]
        assert dropped["repeated"] > many - 400 - 1000
    assert seconds[2_000_000] < 6 * seconds[500_000]


def test_titles_of_100_kb_in_every_script_stay_as_they_are(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(clicklog, "BLOCK_BYTES", 1_000_000)
    log = write_log(tmp_path / "log", events(600))
    titles = [f"{number} {'Häuser 家具 мебель أثاث 👩‍👩‍👧 é ' * 2_000}" for number in range(400)]
    assert min(len(title.encode()) for title in titles) > 100_000
    columns = pq.read_table(log / "creatives.parquet").to_pydict() | {"text": titles}
    write(log / "creatives.parquet", columns)
    config = dataset_config(build__max_characters=100_000, build__rows_per_task=10_000)
    (piece,) = clicklog.pieces_of(log, "creatives", config)
    assert max(block.columns["text"].nbytes for block in clicklog.read(piece, config)) < 2_000_000
    manifest = build(log, tmp_path / "out", config)
    assert manifest["dropped"]["creatives"] == {}
    assert pq.read_table(tmp_path / "out" / "creatives")["text"].to_pylist() == titles
    dropped = build(log, tmp_path / "short", dataset_config(build__max_broken=1.0))["dropped"]
    assert dropped["creatives"] == {"long_text": 400}


def test_of_entries_with_one_id_the_first_good_one_stays(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(catalogue, "SHARD", 50)  # many ranges of keys
    log = write_log(tmp_path / "log", events(600))
    columns = pq.read_table(log / "creatives.parquet").to_pydict()
    columns["creative_id"][10:15] = [9, 9, None, 20, None]  # 20 comes before row 20
    columns["text"][9] = " "  # so row 10 is the first good one
    columns["text"][30] = None  # nothing is left of it
    columns["product_id"][40:42] = [None, 5000]
    write(log / "creatives.parquet", columns)
    manifest = build(log, tmp_path / "out", dataset_config(build__rows_per_task=100))
    expected = {"no_id": 2, "duplicate_id": 2, "no_text": 2, "no_product": 1, "unknown_product": 1}
    assert manifest["dropped"]["creatives"] == dict(sorted(expected.items()))
    listed = pq.read_table(tmp_path / "out" / "dropped" / "creatives-00000.parquet").to_pylist()
    reasons = {9: "no_text", 11: "duplicate_id", 12: "no_id", 14: "no_id", 20: "duplicate_id", 30: "no_text"}
    reasons |= {40: "no_product", 41: "unknown_product"}
    assert {row["place"]: row["reason"] for row in listed} == reasons
    gone = sorted(reasons)
    texts = [f"title {number} 家 😀" for number in range(400) if number not in gone]
    assert pq.read_table(tmp_path / "out" / "creatives")["text"].to_pylist() == texts
    clicks = events(600)
    clicked = clicks["creative_id"][clicks["event"] == "click"].tolist()
    known = set(columns["creative_id"]) - {None}
    counted = manifest["dropped"]["events"]
    assert counted["unknown_creative"] == sum(creative not in known for creative in clicked)
    assert counted["dropped_creative"] == sum(creative in (30, 40, 41) for creative in clicked)


def test_rows_that_cannot_be_are_counted_and_listed(tmp_path: Path) -> None:
    clicks = {name: column.astype(object) for name, column in events(2000).items()}
    clicks["user_id"][[3, 4]], clicks["creative_id"][[5, 6, 7]] = None, None
    clicks["timestamp"][[8, 9]] = [0, 3_155_760_000]  # 1970 and 2070
    clicks["timestamp"][10] = None
    clicks["creative_id"][11] = 77_777
    arrays = {n: pa.array(c.tolist(), pa.string() if n == "event" else pa.int64()) for n, c in clicks.items()}
    log = write_log(tmp_path / "log", events(10))
    for path in (log / "events").iterdir():
        path.unlink()
    write(log / "events" / "0.parquet", arrays)
    dropped = build(log, tmp_path / "out", dataset_config())["dropped"]["events"]
    expected = {"no_user": 2, "no_creative": 3, "impossible_time": 2, "no_time": 1, "unknown_creative": 1}
    assert {name: dropped[name] for name in expected} == expected
    listed = pq.read_table(tmp_path / "out" / "dropped" / "events-00000.parquet").to_pylist()
    places = {row["place"]: row["reason"] for row in listed if row["reason"] in expected}
    assert places == {3: "no_user", 4: "no_user"} | dict.fromkeys((5, 6, 7), "no_creative") | {
        8: "impossible_time", 9: "impossible_time", 10: "no_time", 11: "unknown_creative"
    }  # fmt: skip


def test_broken_pictures_are_counted_and_never_replaced(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", events(1500, num_creatives=100), num_creatives=100)
    shop_log.write_pictures(log, 100)
    for number in (1, 2, 3):
        path = log / "pictures" / f"{number}.png"
        path.write_bytes(path.read_bytes()[:60])
    (log / "pictures" / "4.png").unlink()
    manifest = build(log, tmp_path / "out", dataset_config(build__pictures="check"))
    assert manifest["dropped"]["creatives"] == {"damaged_picture": 3, "missing_picture": 1}
    texts = pq.read_table(tmp_path / "out" / "creatives")["text"].to_pylist()
    assert len(texts) == 96
    assert not {f"title {number} 家 😀" for number in (1, 2, 3, 4)} & set(texts)
    assert manifest["dropped"]["events"]["dropped_creative"] > 0
    assert "title 5 家 😀" in texts


def test_a_log_that_is_mostly_broken_stops_the_build(tmp_path: Path) -> None:
    clicks = events(500)
    clicks["timestamp"] = clicks["timestamp"] * 1000
    with pytest.raises(
        ValueError, match=r"events: 500 of 500 rows are malformed \(impossible_time 500\).*data validate"
    ):
        build(write_log(tmp_path / "log", clicks), tmp_path / "out", dataset_config())
    build(tmp_path / "log", tmp_path / "right", dataset_config(build__time_unit="ms"))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", events(500))
    whole = (log / "events" / "2.parquet").read_bytes()
    (log / "events" / "2.parquet").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"2.parquet: damaged"):
        build(log, tmp_path / "out", dataset_config())


def test_our_own_files_notice_a_flipped_bit(log: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    build(log, folder, dataset_config())
    part = next((folder / "work").glob("clicks-*.parquet"))
    chunk = pq.read_metadata(part).row_group(0).column(2)
    data = bytearray(part.read_bytes())
    data[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    part.write_bytes(data)
    for mark in (folder / "work").glob("select-*.json"):
        mark.unlink()
    with pytest.raises(ValueError, match=f"{part.name}: damaged"):
        build(log, folder, dataset_config())


# the data card


def test_the_card_counts_and_draws(undisturbed: Path) -> None:
    card = (undisturbed / "README.md").read_text()
    assert f"| users, one sample each | {len(samples(undisturbed)):,} | 1,145,371 |" in card
    assert "| events | 3,000 | inactive_user |" in card
    assert "7 categories of targets" in card
    assert all((undisturbed / name).stat().st_size > 2000 for name in ("histograms.png", "scale.png", "categories.png"))


def test_a_log_without_categories_or_samples_has_a_card_too(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", events(30), categories=False)
    assert build(log, tmp_path / "out", dataset_config(), card=True)["samples"] == 0
    assert "without categories" in (tmp_path / "out" / "README.md").read_text()


# Ray


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_killed_workers_of_ray_are_replaced_and_the_bytes_are_the_same(
    log: Path, undisturbed: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="Ray is an extra: pip install 'uniadgen[ray]'")
    folder, marks = tmp_path / "out", tmp_path / "marks"
    marks.mkdir()

    def dies_once(mark: Path, task: Task, *arguments: object) -> int:
        """The first call is killed when its first file is written and not yet renamed."""
        if not mark.exists():
            mark.touch()
            os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        return task(*arguments)

    with building.where(1, "local") as execute:

        def disturbed(task: Task, arguments: Sequence[tuple]) -> Iterator[int]:
            kinds = (task.__name__ in ("partition_task", "select_task") and n == 1 for n in range(len(arguments)))
            named = [marks / (f"{task.__name__}" if kind else "none") for kind in kinds]
            (marks / "none").touch()
            return execute(dies_once, [(mark, task, *each) for mark, each in zip(named, arguments, strict=True)])

        building.build(log, folder, dataset_config(), KEY, disturbed, PROGRESS)
        assert {path.name for path in marks.iterdir()} == {"none", "partition_task", "select_task"}
        assert contents(folder) == contents(undisturbed)

        def refuses() -> int:
            raise ValueError("got 3, expected 2")

        with pytest.raises(ValueError, match=r"^got 3, expected 2$"):
            list(execute(refuses, [()]))
