"""`uniadgen world log` and `uniadgen data ...` as a person runs them, on a small log of AdWorld."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from shop_log import PROGRESS, SMALL, contents, dataset_config, events, samples, write, write_log, write_pictures
from uniadgen.__main__ import app
from uniadgen.data import bench
from uniadgen.data.card import treemap
from uniadgen.data.executor import processes
from uniadgen.data.plan import read_key
from uniadgen.data.validate import findings

SKIP = ("--set", "build.pictures=skip")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,500 clicks of AdWorld, in words."""
    folder = tmp_path_factory.mktemp("world") / "log"
    result = call("world", "log", folder, "--clicks", 1500)
    assert result.exit_code == 0, result.stderr
    return folder


def test_the_log_of_adworld_has_its_words(log: Path) -> None:
    creatives = pq.read_table(log / "creatives")
    clicked = set(pq.read_table(log / "events")["creative_id"].to_pylist())
    assert set(creatives["creative_id"].to_pylist()) == clicked
    products = pq.read_table(log / "products").to_pylist()
    assert len(products) == 288
    assert all(len(row["selling_points"]) == 11 and row["description"].endswith(".") for row in products)
    assert len({row["category"] for row in products}) == 24


def test_names_only_is_for_large_shops(tmp_path: Path) -> None:
    large = ("--set", "world.num_variants=240", "--set", "world.pictures_per_product=1")
    assert call("world", "log", tmp_path / "log", "--clicks", 300, "--names-only", *large).exit_code == 0
    products = pq.read_table(tmp_path / "log" / "products").to_pylist()
    assert len(products) == 24 * 240
    assert products[5]["description"].endswith(" 5")


def test_a_dataset_is_built_validated_and_forgets(log: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    result = call("data", "build", log, folder, "--processes", 1, *SKIP)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{len(samples(folder)):,} samples: {folder}\n"
    assert (tmp_path / "dataset.key").stat().st_mode & 0o777 == 0o600
    assert "rows/s" in result.stderr
    user = pq.read_table(log / "events")["user_id"][0].as_py()
    assert call("data", "forget", folder, user, "--processes", 1).exit_code == 0
    wrong = tmp_path / "wrong.key"
    wrong.write_text("another key, also secret")
    result = call("data", "forget", folder, user, "--key", wrong)
    assert (result.exit_code, "was built with another key" in result.stderr) == (2, True)
    result = call("data", "export", folder, tmp_path / "test.json", "--pictures", log, "--split", "train")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)  # no picture was rendered


def test_a_dry_run_writes_nothing(log: Path, tmp_path: Path) -> None:
    result = call("data", "build", log, tmp_path / "dataset", "--dry-run", *SKIP)
    assert result.exit_code == 0, result.stderr
    assert "288 products" in result.stdout
    assert "1,500 events: about" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_validation_counts_and_shows_examples(tmp_path: Path) -> None:
    clicks = events(1000)
    clicks["timestamp"][[3, 9]] = 5
    log = write_log(tmp_path / "log", clicks)
    before = contents(log)
    with processes(1) as execute:
        found = {finding.reason: finding for finding in findings(log, dataset_config(), execute, PROGRESS)}
    assert (found["impossible_time"].rows, found["impossible_time"].of) == (2, 1000)
    assert found["impossible_time"].examples == ("0.parquet:3 5", "0.parquet:9 5")
    assert found["not_a_click"].column == "event"
    assert "'impression'" in found["not_a_click"].examples[0]
    assert contents(log) == before
    settings = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    result = call("data", "validate", log, "--processes", 1, *settings)
    assert result.exit_code == 0
    assert "impossible_time" in result.stdout


def test_validation_looks_at_the_products_own_pictures(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", events(300, num_creatives=40), num_creatives=40)
    write_pictures(log, 40)
    (log / "pictures" / "3.png").write_bytes((log / "pictures" / "3.png").read_bytes()[:60])
    images = ["pictures/1.png", None, "pictures/3.png", "gone.png", "pictures/3.png"] + ["pictures/2.png"] * 5
    columns = pq.read_table(log / "products.parquet").to_pydict() | {"image": images}
    write(log / "products.parquet", columns)
    with processes(1) as execute:
        found = findings(log, dataset_config(build__pictures="check"), execute, PROGRESS)
    own = {finding.reason: finding for finding in found if finding.table == "products"}
    assert {name: (f.column, f.rows, f.of) for name, f in own.items()} == {
        "damaged_picture": ("image", 2, 10),
        "missing_picture": ("image", 1, 10),
    }
    assert own["missing_picture"].examples == ("products.parquet:3 'gone.png'",)
    assert own["missing_picture"].meaning.startswith("keeps it, `data prepare` leaves its targets out: missing_picture")


def test_a_log_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    for command in ("build", "validate"):
        result = call("data", command, tmp_path / "gone", *([tmp_path / "out"] if command == "build" else []))
        assert result.exit_code == 2
        assert "got nothing for products, expected one of products.parquet" in result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize("module", ["duckdb", "matplotlib"])
def test_a_missing_library_is_told_with_what_to_install(log: Path, tmp_path: Path, module: str) -> None:
    arguments = ["data", "build", str(log), str(tmp_path / "out"), *SKIP]
    script = f"import sys; sys.modules[{module!r}] = None; from uniadgen.__main__ import app; app({arguments!r})"
    result = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "pip install 'uniadgen[data]'" in result.stderr


@pytest.mark.parametrize("size", [3, 100])
def test_a_key_of_another_length_is_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "key").write_text("k" * size)
    with pytest.raises(ValueError, match=f"a key of {size} bytes, expected 16 to 64"):
        read_key(tmp_path / "key", tmp_path)


def test_a_treemap_fills_its_field_without_overlap() -> None:
    sizes = [50, 30, 30, 9, 5, 1, 1]
    placed = treemap(sizes, 9, 5)
    assert [round(width * height * sum(sizes) / 45, 6) for _, _, width, height in placed] == sizes
    for x, y, width, height in placed:
        assert min(x, y) > -1e-9
        assert x + width < 9 + 1e-9
        assert y + height < 5 + 1e-9
    for number, (x, y, width, height) in enumerate(placed):
        for left, top, across, down in placed[:number]:
            apart = (x - left - across, left - x - width, y - top - down, top - y - height)
            assert max(apart) > -1e-9


def test_the_bench_measures_builds_of_logs_that_it_keeps(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(bench, "MOST_NEW", 2000)
    out = tmp_path / "bench.json"
    sizes = ("--clicks", 5000, "--clicks", 2000)
    result = call("bench", "data", *sizes, "--work", tmp_path / "work", "--processes", 1, "--out", out)
    assert result.exit_code == 0, result.stderr
    small, large = json.loads(out.read_text())["builds"]
    assert (small["clicks"], large["clicks"]) == (2000, 5000)
    assert large["creatives"] == small["creatives"]
    assert large["users"] > 2 * small["users"]
    assert large["samples"] > 2 * small["samples"] > 0
    assert [step["name"] for step in small["steps"]][-3:] == ["clicks", "samples", "manifest and card"]
    for build in (small, large):
        assert 0.1 < build["cpu_seconds"] < build["seconds"] * 1.1
        assert 50e6 < build["peak_bytes"] < 1e9
        assert sum(step["seconds"] for step in build["steps"]) == pytest.approx(build["seconds"])
    assert out.with_suffix(".png").stat().st_size > 5000
    assert sorted(path.name for path in (tmp_path / "work").glob("log-*")) == ["log-2000", "log-5000"]
    events = pq.read_table(tmp_path / "work" / "log-5000" / "events")
    assert len(events) == 5000
    assert len(set(events["user_id"].to_pylist())) == large["users"]


def test_the_bench_tells_what_a_build_said_that_failed(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    with pytest.raises(ChildProcessError, match="got nothing for products"):
        bench.measure(tmp_path / "log", tmp_path / "out", 1, None)


def test_slopes_are_of_logarithms() -> None:
    assert bench.slope([1, 10, 100], [3, 30, 300]) == pytest.approx(1)
    assert bench.slope([1, 10, 100], [5, 5, 5]) == pytest.approx(0)
