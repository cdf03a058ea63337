"""Tables as people have them: three formats, other column names, and rows that are wrong, named by their line."""

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from shop_log import KEY, build, contents, dataset_config, events, samples, write, write_log
from uniadgen.config import BuildConfig
from uniadgen.data import clean, clicklog
from uniadgen.data.clean import NAMES, identities, seconds

BUILD = BuildConfig(pictures="skip")


def read_all(path: Path, table: str, **changes) -> list[clicklog.Block]:
    """The blocks of a one-file table."""
    config = dataset_config(**changes)
    (piece,) = clicklog.pieces_of(path, table, config)
    return list(clicklog.read(piece, config))


def reasons(blocks: list[clicklog.Block], table: str) -> dict[int, str]:
    """Place -> reason of every row that is dropped by itself, and of lines that are no rows."""
    found = {}
    for block in blocks:
        if table == "events":
            codes = clean.clean_events(block, BUILD, KEY).codes
        else:
            codes = clean.clean_entries(block, table, BUILD).codes
        found |= {int(p): NAMES[c] for p, c in zip(block.places, codes, strict=True) if c}
        found |= {int(place): "unreadable" for place in block.unreadable}
    return found


# the three formats


def test_the_same_log_in_csv_and_jsonl_gives_the_same_samples(tmp_path: Path) -> None:
    clicks = events(1200)
    write_log(tmp_path / "parquet", clicks)
    for kind in ("csv", "jsonl"):
        folder = tmp_path / kind
        folder.mkdir()
        for table in clicklog.TABLES:
            rows = clicklog.pq.read_table(
                tmp_path / "parquet" / (table if table == "events" else f"{table}.parquet")
            ).to_pylist()
            if kind == "jsonl":
                lines = [json.dumps(row) for row in rows]
            else:
                cells = [
                    ["|".join(cell) if isinstance(cell, list) else str(cell) for cell in row.values()] for row in rows
                ]
                lines = [",".join(rows[0]), *(",".join(row) for row in cells)]
            (folder / f"{table}.{kind}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for kind in ("parquet", "csv", "jsonl"):
        build(tmp_path / kind, tmp_path / f"{kind}-out", dataset_config())
    assert samples(tmp_path / "csv-out") == samples(tmp_path / "jsonl-out") == samples(tmp_path / "parquet-out") != []
    points = clicklog.pq.read_table(tmp_path / "csv-out" / "products")["selling_points"].to_pylist()
    assert points[3] == ["light", "point 3"]


def test_bad_lines_of_a_csv_are_named_by_their_line(tmp_path: Path) -> None:
    lines = [
        b"user_id,creative_id,timestamp,event",
        b'"a",1,1704067200,click',
        b"b,2,1704067200",
        b'"two\nlines",3,2024-01-01T00:00:00Z,click',
        b"",
        b"c,4,1704067200,click,more",
        b"caf\xe9,5,1704067200,click",
        b",6,1704067200,click",
        b'd,7,1704067200,cli"ck',
        b"e,,soon,click",
        b"f,8,soon,click",
        "家😀,9,1704067200,click".encode(),
    ]
    (tmp_path / "events.csv").write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines) + b"\n")
    blocks = read_all(tmp_path, "events")
    expected = {
        3: "unreadable",
        7: "unreadable",
        8: "unreadable",
        9: "no_user",
        10: "not_a_click",
        11: "no_creative",
        12: "no_time",
    }
    assert reasons(blocks, "events") == expected
    assert blocks[0].columns["user_id"].to_pylist() == ["a", "two\nlines", None, "d", "e", "f", "家😀"]


def test_bad_lines_of_a_jsonl_are_named_by_their_line(tmp_path: Path) -> None:
    good = {"creative_id": 1, "product_id": "p", "image": "a.png", "text": "a mug"}
    rows = [good, "{", [], {**good, "text": {"en": "mug"}}, {**good, "creative_id": None}, {**good, "text": " \n"}]
    rows += [
        {**good, "creative_id": True},
        {**good, "text": "x" * 100_000},
        {**good, "creative_id": 2.0, "text": "家 😀"},
    ]
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    (tmp_path / "creatives.jsonl").write_text(text)
    expected = {
        2: "unreadable",
        3: "unreadable",
        4: "unreadable",
        5: "no_id",
        6: "no_text",
        7: "unreadable",
        8: "long_text",
    }
    assert reasons(read_all(tmp_path, "creatives"), "creatives") == expected


def test_words_that_are_no_utf8_or_blank_or_endless(tmp_path: Path) -> None:
    texts = pa.array([b"good", b"caf\xe9", None, b"  ", b"x" * 2001], pa.binary()).cast(pa.string(), safe=False)
    columns = {"product_id": [1, 2, 3, 4, 5], "description": texts, "selling_points": [["a"]] * 5}
    write(tmp_path / "products.parquet", columns)
    found = reasons(read_all(tmp_path, "products"), "products")
    assert found == {1: "undecodable_text", 2: "no_text", 3: "no_text", 4: "long_text"}


def test_selling_points_that_are_blank_are_left_out(tmp_path: Path) -> None:
    points = pa.array([["a", " ", "b"], [], None, [""], ["x" * 2001]], pa.list_(pa.string()))
    write(tmp_path / "products.parquet", {"product_id": range(5), "description": ["d"] * 5, "selling_points": points})
    blocks = read_all(tmp_path, "products")
    assert reasons(blocks, "products") == dict.fromkeys((1, 2, 3), "no_selling_points") | {4: "long_selling_point"}
    assert clean.points_of(blocks[0].columns["selling_points"], "|").to_pylist()[0] == ["a", "b"]


# ids and times


def test_an_id_is_one_id_in_every_type() -> None:
    columns = [pa.array([42, None]), pa.array([42.0, float("nan")]), pa.array(["42", None]), pa.array(["42.0", " "])]
    for secret in (b"", KEY):
        found = [identities(column, secret) for column in columns]
        assert len({int(ids.keys[0]) for ids in found}) == 1
        assert all(ids.missing.tolist() == [False, True] for ids in found)
    assert identities(columns[0]).keys[0] != identities(columns[0], KEY).keys[0]
    others = identities(pa.array(["042", "42 ", "4２", "x"])).keys
    assert len({int(key) for key in others} | {int(found[0].keys[0])}) == 5


def test_a_fractional_id_is_not_rounded() -> None:
    ids = identities(pa.array([3.5, 4.0, float("inf"), 2.0**60]))
    assert ids.fractional.tolist() == [True, False, True, True]
    assert not ids.missing.any()


def test_an_id_of_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match="an id column has the type bool"):
        identities(pa.array([True]))


@pytest.mark.parametrize(
    ("column", "unit", "second"),
    [
        (pa.array([1_704_067_200]), "s", 1_704_067_200),
        (pa.array([1_704_067_200_999]), "ms", 1_704_067_200),
        (pa.array([1_704_067_200.5]), "s", 1_704_067_200),
        (pa.array([1_704_067_200_999_999], pa.timestamp("us")), "s", 1_704_067_200),
        (pa.array(["1704067200"]), "s", 1_704_067_200),
        (pa.array(["2024-01-01 01:00:00+01:00"]), "s", 1_704_067_200),
        (pa.array(["2024-01-01"]), "s", 1_704_067_200),
        (pa.array(["yesterday"]), "s", None),
        (pa.array(["99999999999999999999"]), "s", None),
        (pa.array([None], pa.int64()), "s", None),
        (pa.array([float("nan")]), "s", None),
    ],
)
def test_times_in_every_type(column: pa.Array, unit: str, second: int | None) -> None:
    times, missing = seconds(column, unit)
    assert missing.tolist() == [second is None]
    assert second is None or times.tolist() == [second]


# what is asked of a log


@pytest.mark.parametrize(
    ("columns", "changes", "expected"),
    [
        (
            {"member": [1], "creative_id": [1], "timestamp": [1], "event": ["click"]},
            {},
            r"no column 'user_id'.*events.user_id",
        ),
        (
            {"user_id": [1], "creative_id": [1], "timestamp": [1]},
            {},
            r"no column 'event'.*or --set events.event= where",
        ),
    ],
)
def test_a_missing_column_is_named_with_what_to_do(tmp_path: Path, columns, changes, expected: str) -> None:
    write(tmp_path / "events.parquet", columns)
    with pytest.raises(ValueError, match=expected):
        read_all(tmp_path, "events", **changes)


def test_columns_are_mapped(tmp_path: Path) -> None:
    write(tmp_path / "events.parquet", {"member": [7], "ad": [1], "at": [1_704_067_200]})
    mapped = {"events__user_id": "member", "events__creative_id": "ad", "events__timestamp": "at", "events__event": ""}
    (block,) = read_all(tmp_path, "events", **mapped)
    assert sorted(block.columns) == ["creative_id", "timestamp", "user_id"]
    assert reasons([block], "events") == {}


def test_a_log_without_tables_or_with_two_of_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"got nothing for events, expected one of events.parquet, .csv, .jsonl or events/"
    ):
        clicklog.files_of(tmp_path, "events")
    write(tmp_path / "events" / "a.parquet", {"a": [1]})
    (tmp_path / "events" / "_SUCCESS").touch()
    assert [path.name for path in clicklog.files_of(tmp_path, "events")] == ["a.parquet"]
    (tmp_path / "events" / "b.csv.gz").write_bytes(gzip.compress(b"a\n1\n"))
    with pytest.raises(ValueError, match=r"b.csv.gz: got no table, expected files ending in .parquet, .csv, .jsonl"):
        clicklog.files_of(tmp_path, "events")
    (tmp_path / "events.csv").touch()
    with pytest.raises(ValueError, match=r"events.csv, .*events for events, expected one of"):
        clicklog.files_of(tmp_path, "events")


def test_row_groups_become_pieces_that_cover_every_row_once(tmp_path: Path) -> None:
    clicklog.pq.write_table(pa.table(events(1000)), tmp_path / "events.parquet", row_group_size=100)
    config = dataset_config(build__rows_per_task=250)
    pieces = clicklog.pieces_of(tmp_path, "events", config)
    assert [piece.rows for piece in pieces] == [200] * 5
    places = np.concatenate([block.places for piece in pieces for block in clicklog.read(piece, config)])
    assert places.tolist() == list(range(1000))


def test_an_empty_file_among_others_is_no_fault(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", events(600))
    whole = build(log, tmp_path / "one", dataset_config())
    write(log / "events" / "9.parquet", {name: column[:0] for name, column in events(1).items()})
    assert build(log, tmp_path / "two", dataset_config())["content"] == whole["content"]
    assert "samples/00000.parquet" in contents(tmp_path / "two")
