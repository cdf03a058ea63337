"""The bench of a store: a made-up one is a true one, and what is called cold is read from the disk."""

from pathlib import Path

import pytest

from shop_log import PROGRESS
from uniadgen.data.store import Store, verify
from uniadgen.recipes import nano
from uniadgen.train import storebench


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 640 clicked pictures and 64 samples."""
    folder = tmp_path_factory.mktemp("store")
    storebench.make_store(folder, nano(), 640, PROGRESS)
    return folder


def test_a_made_up_store_is_whole(made: Path) -> None:
    assert verify(made) > 0
    store = Store(made, nano())
    assert (len(store), len(store.clicks), len(store.targets)) == (64, 640, 64)
    assert len(store.sample(0).titles) == storebench.HISTORY


@pytest.mark.parametrize("what", ["samples", "rows"])
def test_cold_is_an_epoch_and_warm_is_as_long_as_wished(made: Path, what: str) -> None:
    storebench.forget(made)  # of files that nobody has open
    done, wall, ran = storebench._measure(made, nano(), what, 60.0, 2, True, 0)
    assert (done, wall < 60, ran > 0) == (32, True, True)  # of two processes each reads half
    done, wall, _ = storebench._measure(made, nano(), what, 0.3, 1, False, 0)
    assert wall > 0.3 and done > 0


def test_the_figures_say_where_they_were_taken(made: Path) -> None:
    rates = [storebench.Rate("samples", "cold", 1, 10_000.0, 10_100.0)]
    found = storebench.report(made, nano(), rates)
    assert found["store"] == {"bytes": sum(path.stat().st_size for path in made.iterdir()), "clicks": 640}
    assert found["hardware"]["cores"] and found["rates"][0]["per_second"] == 10_000.0
    assert storebench.table(found).row_count == 1
