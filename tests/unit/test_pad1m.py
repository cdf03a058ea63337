"""PAd1M's JSON: reading and writing is the identity, and what its loader cannot read is not written."""

import json
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from shop_log import build, dataset_config, events, write, write_log, write_pictures
from uniadgen.data.export import records_of
from uniadgen.data.pad1m import LEAST_HISTORY, read_records, remap, write_records


def entry(**changes) -> dict:
    """An entry as published, with fields that nobody uses."""
    clicks = 6
    return {
        "f_path": "images/1.jpg",
        "f_path_trans": "trans/1.png",
        "width": 800,
        "height": 800,
        "caption": "a mug on a table",
        "sku_title_cn": "家用马克杯",
        "gt_title_cn": "好杯子<title_split>礼盒包装",
        "word_list": "礼盒包装,可机洗,,轻",
        "max_ratio": 0.62,
        "history_images": [f"images/h{number}.jpg" for number in range(clicks)],
        "history_titles": [f"title {number} 😀" for number in range(clicks)],
        "text_similarity": [0.1 * number for number in range(clicks)],
        "url": "",
        "ref_exps": [[0.1, 0.2]],
        "cid3_english_name": "mugs",
    } | changes


def short_history(clicks: int) -> dict:
    return {name: entry()[name][:clicks] for name in ("history_images", "history_titles", "text_similarity")}


def save(path: Path, entries) -> Path:
    path.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    return path


def test_reading_and_writing_is_the_identity(tmp_path: Path) -> None:
    entries = [entry(), entry(word_list="", gt_title_cn="", url="https://example.com/1"), entry(max_ratio=1)]
    entries += [
        dict(reversed(entry(max_ratio=0.1 + 0.2).items())),
        entry(**short_history(2)),
        entry(**short_history(0)),
    ]
    records = read_records(save(tmp_path / "in.json", entries))
    assert write_records(tmp_path / "out.json", records, least_history=0) == 6
    written = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert json.dumps(written) == json.dumps(entries)  # in the same order, too
    assert records[0].texts == ("好杯子", "礼盒包装")
    assert read_records(tmp_path / "out.json") == records


def test_a_url_is_always_written(tmp_path: Path) -> None:
    bare = entry()
    del bare["url"]
    write_records(tmp_path / "out.json", read_records(save(tmp_path / "in.json", [bare])))
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8")) == [bare | {"url": ""}]


def test_pictures_move(tmp_path: Path) -> None:
    (record,) = read_records(save(tmp_path / "in.json", [entry()]))
    moved = remap(record, {"images/": "/data/", "trans/": "cutouts/"})
    assert (moved.picture, moved.cutout, moved.pictures[2]) == ("/data/1.jpg", "cutouts/1.png", "/data/h2.jpg")
    assert remap(moved, {"/data/": "images/", "cutouts/": "trans/"}) == record


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[{", "not valid JSON"),
        ({"a": 1}, "got a JSON dict, expected a list"),
        ([entry(), 5], "entry 1 is 5, expected an object"),
        ([entry(width="wide")], "entry 0: width is 'wide', expected a number"),
        ([entry(history_titles="a")], "entry 0: history_titles is 'a', expected a list"),
        ([entry(history_titles=["a", None] * 3)], "entry 0: history_titles holds None, expected texts alone"),
        ([entry(text_similarity=["a"] * 6)], "entry 0: text_similarity holds 'a', expected numbers alone"),
        ([entry(history_titles=["a"])], "got 6 history pictures, 1 titles and 6 similarities"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, content, expected: str) -> None:
    path = tmp_path / "in.json"
    path.write_text(content) if isinstance(content, str) else save(path, content)
    with pytest.raises(ValueError, match=f"in.json: {expected}|in.json: entry 0: {expected}"):
        read_records(path)


def test_a_history_that_crashes_their_loader_is_not_written(tmp_path: Path) -> None:
    records = read_records(save(tmp_path / "in.json", [entry(**short_history(LEAST_HISTORY - 1))]))
    with pytest.raises(ValueError, match=r"history of 4 clicks, expected at least 5.*min_clicks=6"):
        write_records(tmp_path / "out.json", records)
    assert not (tmp_path / "out.json").exists()


def test_a_dataset_becomes_records_that_become_examples(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", events(1200, num_creatives=60), num_creatives=60)
    write_pictures(log, 60)
    cutout = Image.new("RGBA", (20, 20))
    ImageDraw.Draw(cutout).ellipse((4, 4, 15, 15), fill=(200, 30, 30, 255))
    cutout.save(log / "cutout.png")
    points = [["light", "a, b"] if number == 3 else ["light"] for number in range(15)]
    columns = {"product_id": range(15), "description": ["a title"] * 15, "selling_points": points}
    write(log / "products.parquet", columns | {"image": ["cutout.png"] * 15})
    build(log, tmp_path / "out", dataset_config())
    records = list(records_of(tmp_path / "out", log, "train", tmp_path / "cutouts"))
    assert len(records) > 20
    assert {record.width for record in records} == {16}
    assert all(len(record.titles) == len(record.similarities) >= LEAST_HISTORY for record in records)
    example = records[0].example(log)
    assert example.target is not None
    assert example.target.text == records[0].texts[0]
    assert len(example.clicks) == len(records[0].titles)
    assert not (tmp_path / "cutouts").exists()  # those of the shop, where it has them
    plain = [record for record in records if "a, b" not in record.selling_points]
    write_records(tmp_path / "out.json", plain)
    assert read_records(tmp_path / "out.json") == plain
    with pytest.raises(ValueError, match=r"selling_points are .*expected none with ',', their joint in PAd1M"):
        write_records(tmp_path / "out.json", records)
