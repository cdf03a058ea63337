"""The gallery: the very files of the pictures, and the metadata by which `datasets` knows that they are pictures."""

import json
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

from uniadgen.data.gallery import write_gallery
from uniadgen.data.listing import read_listing


def test_a_gallery_holds_the_pictures_themselves(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9), "red").save(tmp_path / "ad.png")
    product = {"cutout": "gone.png", "description": "A mug.", "selling_points": ["light"]}
    ad = {"picture": "ad.png", "text": "light mug"}
    line = json.dumps({"product": product, "clicks": [ad], "target": ad})
    (tmp_path / "in.jsonl").write_text(f"{line}\n" * 5)
    assert write_gallery(tmp_path / "out.parquet", read_listing(tmp_path / "in.jsonl"), 3) == 3
    table = pq.read_table(tmp_path / "out.parquet")
    row = table.to_pylist()[2]
    picture = {"bytes": (tmp_path / "ad.png").read_bytes(), "path": "ad.png"}
    assert row["picture"] == picture
    assert row["history"] == [{"picture": picture, "text": "light mug"}]
    assert row["cutout"] == {"bytes": None, "path": "gone.png"}
    assert (row["text"], row["description"], row["selling_points"]) == ("light mug", "A mug.", ["light"])
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert set(features) == set(table.column_names)
    assert features["picture"] == features["history"]["feature"]["picture"] == {"_type": "Image"}
