"""The stages after a build: each result is made once, from what it depends on, and nothing is lost unsaid."""

import io
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageDraw
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import BertProcessing
from transformers import (
    BertConfig,
    BertModel,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessorPil,
    PreTrainedTokenizerFast,
    SamConfig,
    SamImageProcessorPil,
    SamMaskDecoderConfig,
    SamModel,
    SamPromptEncoderConfig,
    SamVisionConfig,
    SwinConfig,
)

from shop_log import PROGRESS, build, contents, dataset_config, write
from uniadgen.config import PrepareConfig, override
from uniadgen.data import checking, prepare
from uniadgen.data.checkpoints import fingerprint
from uniadgen.data.cutout import place
from uniadgen.data.embed import Encoder
from uniadgen.data.encode import Making, encode_store
from uniadgen.data.executor import processes
from uniadgen.data.export import records_of
from uniadgen.data.history import similarity
from uniadgen.data.listing import read_listing
from uniadgen.data.segment import Cut, GroundedSam, OneByOne, cut_out
from uniadgen.data.stages import Results, Stage, fill, key_of, read_all
from uniadgen.data.store import Store

GIVEN, OPAQUE, BARE, BROKEN = range(4)  # products 0, 1, 2, ... in turn


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 12 products of every kind with 36 creatives, and its dataset; product 8's texts are not supported."""
    folder = tmp_path_factory.mktemp("shop")
    log = folder / "log"
    (log / "pictures").mkdir(parents=True)
    products, creatives = range(12), range(36)
    write(log / "products.parquet", {
        "product_id": list(products),
        "description": [f"A round thing, number {number}" for number in products],
        "selling_points": [["light", f"point {number}", "gift box"] for number in products],
        "image": [None if n % 4 == BARE else f"pictures/own-{n}.png" for n in products],
        "category": [None if n == 6 else "disc" for n in products],
    })  # fmt: skip
    write(log / "creatives.parquet", {
        "creative_id": list(creatives),
        "product_id": [number // 3 for number in creatives],
        "image": [f"pictures/{number}.jpg" for number in creatives],
        "text": ["Cures colds, light" if n // 3 == 8 else f"light with gift box, point {n // 3}" for n in creatives],
    })  # fmt: skip
    rng = np.random.default_rng(0)
    clicks = [(user, creative) for user in range(40) for creative in rng.permutation(36)[:8]]
    write(log / "events.parquet", {
        "user_id": [user for user, _ in clicks],
        "creative_id": [int(creative) for _, creative in clicks],
        "timestamp": [1_704_067_200 + number for number in range(len(clicks))],
        "event": ["click"] * len(clicks),
    })  # fmt: skip
    for number in creatives:
        show(number).save(log / f"pictures/{number}.jpg", quality=95)
    for number in products:
        path = log / f"pictures/own-{number}.png"
        if number % 4 == GIVEN:
            Image.new("RGBA", (20, 20), (number, 0, 0, 100)).save(path)
        elif number % 4 == OPAQUE:
            Image.new("RGBA", (20, 20), (number, 0, 0, 255)).save(path)
        elif number % 4 == BROKEN:
            path.write_bytes(b"no picture")
    build(log, folder / "data", dataset_config(build__min_clicks=6))
    return folder


@pytest.fixture
def shop(built: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of that log and dataset."""
    return shutil.copytree(built / "log", tmp_path / "log"), shutil.copytree(built / "data", tmp_path / "data")


def show(number: int) -> Image.Image:
    """A blue square of another size in each picture, on white; none where the number ends in 7."""
    picture = Image.new("RGB", (64, 48), "white")
    if number % 10 != 7:
        ImageDraw.Draw(picture).rectangle((10, 10, 20 + number, 35), fill=(0, 0, 255))
    return picture


def blue(picture: Image.Image, prompt: str) -> np.ndarray | None:
    """Alpha of all that is blue."""
    assert prompt in ("disc", "A round thing, number 6")
    pixels = np.asarray(picture).astype(int)
    found = (pixels[..., 2] - pixels[..., 0] > 128).astype(np.uint8) * 255
    return found if found.any() else None


def run(shop: tuple[Path, Path], cutter: Any = None, number: int = 1, **changes: Any) -> dict[str, Any]:
    config = override(PrepareConfig(), {f"stages.{name}": value for name, value in changes.items()})
    with processes(number) as execute:
        return prepare.prepare(shop[1], shop[0], config, execute, PROGRESS, cutter)


def targets_of(folder: Path) -> list[dict[str, Any]]:
    """What became of every target, with the number of its product."""
    creatives = pq.read_table(folder / "creatives").to_pylist()
    rows = pq.read_table(folder / "prepared" / "targets.parquet").to_pylist()
    return [row | {"product": creatives[row["creative"]]["product"], **creatives[row["creative"]]} for row in rows]


# content-addressed results


MADE: list[Any] = []


def double(items: Sequence[int]) -> list[dict[str, int] | None]:
    MADE.append(list(items))
    return [None if item == 13 else {"double": 2 * item} for item in items]


def doubled(folder: Path, items: Iterable[int]) -> list[list[int]]:
    MADE.clear()
    stage = Stage("double", folder, pa.schema([("double", pa.int64())]), double, per_task=4)
    with processes(1) as execute:
        fill(stage, {key_of(str(item)): item for item in items}, execute, PROGRESS)
    return list(MADE)


def test_only_what_is_missing_is_made(tmp_path: Path) -> None:
    assert doubled(tmp_path, range(10)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    before = contents(tmp_path)
    assert doubled(tmp_path, range(10)) == []
    assert doubled(tmp_path, [0, 1, 2, 99, 4, 5]) == [[99]]
    assert before.items() < contents(tmp_path).items()
    results = Results(tmp_path)
    assert (len(results), results[key_of("99")], key_of("10") in results) == (11, {"double": 198}, False)
    assert read_all(tmp_path) == dict(results)


def test_what_gave_no_result_is_tried_again(tmp_path: Path) -> None:
    assert doubled(tmp_path, [12, 13]) == [[12, 13]]
    assert doubled(tmp_path, [12, 13]) == [[13]]
    assert list(Results(tmp_path)) == [key_of("12")]


def test_shards_of_a_run_that_was_cut_off_are_those_of_one_that_was_not(tmp_path: Path) -> None:
    doubled(tmp_path / "whole", range(10))
    doubled(tmp_path / "cut", range(4))
    doubled(tmp_path / "cut", range(10))
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_keys_tell_where_one_part_ends() -> None:
    assert len({key_of("ab", "c"), key_of("a", "bc"), key_of("abc"), key_of("a", "b", "c")}) == 4
    assert key_of("家") == key_of("家".encode())


# a whole run


def test_every_target_is_prepared_or_left_out_with_its_reason(shop: tuple[Path, Path]) -> None:
    log, folder = shop
    summary = run(shop, OneByOne(blue, "blue 1"))
    cut, rows = prepare.cutouts(folder), targets_of(folder)
    assert {row["reason"] for row in rows} == {"", "unsupported_text", "damaged_picture", "no_product_found"}
    for row in rows:
        kind, number = row["product"] % 4, int(row["creative_id"])
        if row["product"] == 8:
            assert (row["reason"], row["detail"]) == ("unsupported_text", "cures, colds")
        elif kind == BROKEN:
            assert (row["reason"], row["detail"]) == ("damaged_picture", f"pictures/own-{row['product']}.png")
        elif kind == GIVEN:
            assert cut[row["creative"]] == (log / f"pictures/own-{row['product']}.png").read_bytes()
        elif number % 10 == 7:
            assert row["reason"] == "no_product_found"
        else:
            assert row["reason"] == ""
            alpha = np.asarray(Image.open(io.BytesIO(cut[row["creative"]])))[..., 3]
            expected = blue(show(number), "disc")
            assert alpha.shape == (48, 64)
            assert (alpha != expected).mean() < 0.02  # JPEG's rim
    assert sorted(cut) == sorted(row["creative"] for row in rows if not row["reason"])
    assert prepare.left_out(folder) == {row["creative"]: row["reason"] for row in rows if row["reason"]}
    assert summary["samples"] == 40 == summary["kept"] + sum(n["samples"] for n in summary["dropped"].values())
    assert sum(n["targets"] for n in summary["dropped"].values()) == sum(bool(row["reason"]) for row in rows)


def test_a_store_is_made_of_what_was_prepared(shop: tuple[Path, Path], tmp_path: Path, tiny_config) -> None:
    log, folder = shop

    def stored(name: str) -> list[dict[str, Any]]:
        """Every sample of a store, with the product's transparent picture."""
        listing = read_listing(folder, log)
        making = Making(tiny_config, lambda pictures: np.zeros((len(pictures), 4), np.uint16), "none", 8)
        encode_store(tmp_path / name, replace(listing, max_broken=1), making, PROGRESS)
        made = Store(tmp_path / name, tiny_config)
        samples = map(made.sample, range(len(made)))
        return [{"text": s.text, "cutout": made.cutout(s.product), "scores": list(s.scores)} for s in samples]

    plain = stored("plain")  # of the shop's own transparent pictures, with any text
    run(shop, OneByOne(blue, "blue 1"))
    prepared = stored("prepared")
    for said, of_plain, of_prepared in (("Cures", True, False), ("point 2", False, True)):  # product 2 has no picture
        found = [any(said in sample["text"] for sample in samples) for samples in (plain, prepared)]
        assert found == [of_plain, of_prepared]
    rows = {row["creative"]: row for row in targets_of(folder)}
    cut = prepare.cutouts(folder)
    wanted = [
        (rows[row["target"]]["text"], cut[row["target"]], scores)
        for path in sorted((folder / "samples").glob("*.parquet"))
        for row, scores in zip(
            pq.read_table(path).to_pylist(), prepare.similarities(folder, path.name).to_pylist(), strict=True
        )
        if row["split"] == "train" and row["target"] in cut
    ]
    side = tiny_config.data.image_size
    shown = [(text, np.asarray(place(Image.open(io.BytesIO(data)), side)), scores) for text, data, scores in wanted]
    order = lambda found: (found[0], found[1].tobytes(), found[2])  # noqa: E731 - an epoch has its own order
    stored_samples = sorted(((s["text"], s["cutout"], s["scores"]) for s in prepared), key=order)
    for made, expected in zip(stored_samples, sorted(shown, key=order), strict=True):
        assert made[0] == expected[0] and (made[1] == expected[1]).all() and made[2] == pytest.approx(expected[2])


def test_an_export_holds_what_was_prepared(shop: tuple[Path, Path], tmp_path: Path) -> None:
    log, folder = shop
    with pytest.raises(ValueError, match=r"product \d+ has no image, expected its transparent picture: run .*prepare"):
        list(records_of(folder, log, "train", tmp_path / "out"))
    run(shop, OneByOne(blue, "blue 1"))
    records = list(records_of(folder, log, "train", tmp_path / "out"))
    kept = {row["image"]: row["creative"] for row in targets_of(folder) if not row["reason"]}
    assert {record.picture for record in records} <= kept.keys() and len(records) > 10
    cut = prepare.cutouts(folder)
    assert all((log / record.cutout).read_bytes() == cut[kept[record.picture]] for record in records)
    assert len(list((tmp_path / "out").iterdir())) == len({record.cutout for record in records}) < len(records)
    scores = [
        row
        for path in sorted((folder / "samples").glob("*.parquet"))
        for row, sample in zip(
            prepare.similarities(folder, path.name).to_pylist(), pq.read_table(path).to_pylist(), strict=True
        )
        if sample["split"] == "train" and sample["target"] in cut
    ]
    assert [list(record.similarities) for record in records] == scores
    example = records[0].example(log)
    assert example.product.cutout.mode == "RGBA"


def test_without_a_cutter_products_need_their_own_picture(shop: tuple[Path, Path]) -> None:
    dropped = run(shop, max_unsupported=1.0)["dropped"]
    assert dropped.keys() == {"no_cutout", "damaged_picture"}
    own = {row["product"] for row in targets_of(shop[1]) if not row["reason"]}
    assert own and all(number % 4 == GIVEN for number in own)


def test_running_again_does_nothing_and_a_change_makes_only_what_depends_on_it(shop: tuple[Path, Path]) -> None:
    log, folder = shop
    calls: list[str] = []

    def counted(picture: Image.Image, prompt: str) -> np.ndarray | None:
        calls.append(prompt)
        return blue(picture, prompt)

    def again(name: str = "blue 1", **changes: Any) -> tuple[int, list[str]]:
        before = contents(folder)
        calls.clear()
        run(shop, OneByOne(counted, name), **changes)
        return len(calls), sorted(name.split("/")[1] for name in contents(folder).keys() - before.keys())

    pictures, made = again()
    assert pictures == len(calls) >= 8
    assert set(made) == {"checks-rule", "cutouts", "pictures", "similarity", "targets.parquet", "prepared.json"}
    before = contents(folder)
    assert again() == (0, [])
    assert contents(folder) == before
    number = next(row["creative_id"] for row in targets_of(folder) if row["product"] == BARE and not row["reason"])
    show(1).save(log / f"pictures/{number}.jpg", quality=95)
    assert again() == (1, ["cutouts", "pictures"])
    show(1).resize((64, 48)).save(log / f"pictures/{number}.jpg", quality=95)  # the same bytes, written anew
    assert again() == (0, ["pictures"])
    assert again("blue 2") == (pictures, ["cutouts"])
    assert again("blue 1") == (0, [])
    assert again(max_unsupported=1.0) == (0, ["cutouts", "pictures"])  # product 8 stays: it has its own picture


def test_two_processes_give_the_same_files(shop: tuple[Path, Path]) -> None:
    run(shop, items_per_task=2)
    once = contents(shop[1])
    for path in sorted((shop[1] / "prepared").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    run(shop, items_per_task=2, number=2)
    assert contents(shop[1]) == once


def test_similarities_are_those_of_every_title_to_the_description(shop: tuple[Path, Path]) -> None:
    _, folder = shop
    run(shop)
    creatives, products = (pq.read_table(folder / name).to_pylist() for name in ("creatives", "products"))
    (path,) = (folder / "samples").glob("*.parquet")
    found = prepare.similarities(folder, path.name).to_pylist()
    samples = pq.read_table(path).to_pylist()
    assert len(found) == len(samples) == 40
    for row, scores in zip(samples, found, strict=True):
        description = products[creatives[row["target"]]["product"]]["description"]
        assert scores == pytest.approx(similarity([creatives[n]["text"] for n in row["history"]], description))


def test_what_was_prepared_for_other_samples_is_not_read(shop: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="not prepared, or changed since: run `uniadgen data prepare"):
        prepare.cutouts(shop[1])
    run(shop)
    prepare.cutouts(shop[1])
    manifest = shop[1] / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"content": "', '"content": "0'))
    with pytest.raises(ValueError, match="changed since"):
        prepare.left_out(shop[1])


def test_a_text_without_a_verdict_is_left_out_and_asked_about_again(shop: tuple[Path, Path], monkeypatch) -> None:
    asked: list[int] = []

    def judge(self: Any, questions: Sequence[Any]) -> list[Any]:
        asked.append(len(questions))
        return [None if "point 4" in q.text else {"share": 0.0, "unsupported": ""} for q in questions]

    monkeypatch.setattr(checking.AskModel, "__call__", judge)
    llm = {"cleaning": "llm", "llm_url": "http://localhost/v1", "llm_model": "m", "cutout": "off"}
    dropped = run(shop, **llm)["dropped"]
    assert dropped.keys() == {"no_verdict"}
    run(shop, **llm)
    assert asked == [12, 1]
    run(shop, **llm | {"llm_model": "another"})
    assert asked == [12, 1, 12]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cutout": "grounded_sam", "detector": "/nowhere"}, "got the model '/nowhere', expected a folder, or an id"),
        ({"cutout": "grounded_sam", "detector": "empty"}, "no weights, expected a model in Hugging Face's layout"),
        ({"encoder": "/nowhere"}, "got the model '/nowhere'"),
        ({"cleaning": "llm"}, "stages.llm_url is '', expected the address of a server"),
        ({"cutout": "magic"}, "stages.cutout is 'magic', expected one of given, grounded_sam, off"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_done(shop: tuple[Path, Path], changes: dict, message: str) -> None:
    if changes.get("detector") == "empty":
        changes = changes | {"detector": str(shop[0]), "segmenter": str(shop[0])}
    with pytest.raises(ValueError, match=message):
        run(shop, **changes)
    assert not (shop[1] / "prepared").exists()


def test_pictures_need_the_folder_of_the_log(shop: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match=r"the folder of pictures is None, expected the log's.*--log"):
        run((None, shop[1]))  # type: ignore[arg-type]
    assert run((None, shop[1]), cutout="off")["kept"] > 30  # type: ignore[arg-type]


# models


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    """A tokenizer as BERT's, of letters."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", *"abcdefghijklmnopqrstuvwxyz0123456789"]
    vocabulary = {name: number for number, name in enumerate([*names, *(f"##{name}" for name in names[7:])])}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", **special)


def tiny_bert() -> BertConfig:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return BertConfig(vocab_size=100, max_position_embeddings=160, **sizes)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, words: PreTrainedTokenizerFast) -> Path:
    """Grounding DINO, SAM and BERT, as small as they go, with random weights."""
    folder = tmp_path_factory.mktemp("models")
    swin = SwinConfig(embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, out_indices=[2, 3, 4])
    detector = GroundingDinoConfig(
        backbone_config=swin.to_dict(), text_config=tiny_bert().to_dict(), d_model=32, num_queries=20,
        encoder_layers=1, decoder_layers=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
        encoder_attention_heads=2, decoder_attention_heads=2,
    )  # fmt: skip
    segmenter = SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=32, output_channels=32, num_hidden_layers=1, num_attention_heads=2, image_size=64,
            global_attn_indexes=[0], mlp_dim=32, num_pos_feats=16,
        ).to_dict(),
        prompt_encoder_config=SamPromptEncoderConfig(hidden_size=32, image_size=64).to_dict(),
        mask_decoder_config=SamMaskDecoderConfig(
            hidden_size=32, mlp_dim=32, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=32
        ).to_dict(),
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        GroundingDinoForObjectDetection(detector).save_pretrained(folder / "detector")
        SamModel(segmenter).save_pretrained(folder / "segmenter")
        BertModel(tiny_bert()).save_pretrained(folder / "encoder")
    GroundingDinoImageProcessorPil(size={"shortest_edge": 128, "longest_edge": 192}).save_pretrained(
        folder / "detector"
    )
    SamImageProcessorPil(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}).save_pretrained(
        folder / "segmenter"
    )
    words.save_pretrained(folder / "detector")
    words.save_pretrained(folder / "encoder")
    return folder


def test_grounded_sam_gives_each_picture_of_a_batch_its_alpha(models: Path) -> None:
    cutter = GroundedSam(str(models / "detector"), str(models / "segmenter"), 0.0, "tiny")
    pictures = [show(3), show(8).resize((40, 80)), show(20).resize((50, 50))]
    cuts = cutter(pictures, ["a mug", "lamp", "sofa."])
    for picture, prompt, cut in zip(pictures, ["a mug", "lamp", "sofa"], cuts, strict=True):
        assert cut.alpha is not None
        assert (cut.alpha.shape, cut.alpha.dtype) == ((picture.height, picture.width), np.uint8)
        alone = cutter([picture], [prompt])[0]
        assert cut.confidence == pytest.approx(alone.confidence, abs=1e-3)
        assert np.abs(cut.alpha.astype(int) - alone.alpha).mean() < 2
    assert len({round(cut.confidence, 6) for cut in cuts}) == 3
    *_, second, first = sorted(cut.confidence for cut in cuts)
    sure = GroundedSam(cutter.detector, cutter.segmenter, (first + second) / 2, "tiny")
    kept = [cut.alpha is not None for cut in sure(pictures, ["a mug", "lamp", "sofa."])]
    assert kept == [cut.confidence == first for cut in cuts]


def test_the_surest_box_is_what_sam_is_asked_about(models: Path, monkeypatch) -> None:
    """With the real models in between replaced by what they would say: a box in shares, a mask in SAM's own frame."""
    from uniadgen.data import segment

    *_, model = segment._detector(str(models / "detector"))
    said = type("Said", (), {})()
    said.logits = torch.full((1, 3, 8), -9.0)
    said.logits[0, 1, 2] = 2.0
    said.pred_boxes = torch.tensor([[[0.1, 0.1, 0.1, 0.1], [0.5, 0.25, 0.5, 0.75], [0.9, 0.9, 0.1, 0.1]]])
    monkeypatch.setattr(type(model), "forward", lambda self, **inputs: said)
    ((box, score),) = segment._boxes(str(models / "detector"), [Image.new("RGB", (200, 100))], ["mug"])
    assert box == pytest.approx((50, 0, 150, 62.5))
    assert score == pytest.approx(float(torch.tensor(2.0).sigmoid()))
    asked: dict[str, Any] = {}

    def masks(self: Any, **inputs: Any) -> Any:
        asked.update(inputs)
        said.pred_masks = torch.full((1, 1, 1, 16, 16), -9.0)
        said.pred_masks[..., :8, :8] = 9.0  # left half; SAM's frame is 64 x 64, of which the picture fills 64 x 32
        return said

    monkeypatch.setattr(SamModel, "forward", masks)
    (alpha,) = segment._masks(str(models / "segmenter"), [Image.new("RGB", (200, 100))], [box])
    assert asked["input_boxes"].tolist() == [[[16, 0, 48, 20]]]
    assert alpha.shape == (100, 200)
    assert (alpha[:, :90] == 255).all() and (alpha[:, 110:] == 0).all()


def test_a_cut_out_is_small_and_holds_nothing_unseen() -> None:
    alpha = np.zeros((60, 80), np.uint8)
    alpha[20:40, 20:60] = 255
    product = cut_out(Image.new("RGB", (80, 60), (10, 200, 30)), Cut(alpha, 0.5), 40)
    assert product is not None and product.size == (40, 30)
    pixels = np.asarray(product)
    assert pixels[15, 20].tolist() == [10, 200, 30, 255] and pixels[0, 0].tolist() == [0, 0, 0, 0]
    for none in (np.zeros_like(alpha), np.full_like(alpha, 255), None):
        assert cut_out(Image.new("RGB", (80, 60)), Cut(none, 0.5), 40) is None


def test_an_alpha_of_another_size_is_refused() -> None:
    cutter = OneByOne(lambda picture, prompt: np.zeros((3, 3), np.uint8), "wrong")
    with pytest.raises(ValueError, match=r"wrong gave alpha uint8 \(3, 3\), expected uint8 \(48, 64\)"):
        cutter([show(1)], ["x"])


def test_models_of_folders_make_a_dataset_and_another_weight_makes_it_anew(
    shop: tuple[Path, Path], models: Path, tmp_path: Path
) -> None:
    chosen = {"cutout": "grounded_sam", "min_confidence": 0.0, "encoder": str(models / "encoder")}
    chosen |= {"detector": str(models / "detector"), "segmenter": str(models / "segmenter")}
    first = run(shop, **chosen)
    before = contents(shop[1])
    assert run(shop, **chosen) == first
    assert contents(shop[1]) == before
    moved = tmp_path / "moved"
    model = BertModel.from_pretrained(models / "encoder")
    model.save_pretrained(moved)
    for path in (models / "encoder").glob("tok*"):
        (moved / path.name).write_bytes(path.read_bytes())
    assert fingerprint(moved) == fingerprint(models / "encoder")
    with torch.no_grad():
        next(model.parameters()).mul_(-1)
    model.save_pretrained(moved)
    run(shop, **chosen | {"encoder": str(moved)})
    new = sorted({name.split("/")[1] for name, data in contents(shop[1]).items() if before.get(name) != data})
    assert new == ["prepared.json", "similarity", "vectors"]


def test_sentences_are_means_of_their_words_whatever_stands_beside_them(models: Path) -> None:
    folder = models / "encoder"
    texts = ["a mug", "a much longer text about a lamp", "b", "x" * 400]
    vectors = np.stack([row["vector"] for row in Encoder(str(folder), 2)(texts)]).astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=2e-3)
    model, tokenizer = BertModel.from_pretrained(folder).eval(), PreTrainedTokenizerFast.from_pretrained(folder)
    for text, vector in zip(texts, vectors, strict=True):
        ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=128)
        mean = model(**ids).last_hidden_state.mean(1)[0].detach().numpy()
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=2e-3)


def test_with_an_encoder_similarities_are_its_cosines(shop: tuple[Path, Path], models: Path) -> None:
    _, folder = shop
    run(shop, cutout="off", encoder=str(models / "encoder"))
    creatives, products = (pq.read_table(folder / name).to_pylist() for name in ("creatives", "products"))
    (path,) = (folder / "samples").glob("*.parquet")
    row, scores = pq.read_table(path).to_pylist()[0], prepare.similarities(folder, path.name)[0].as_py()
    texts = [creatives[n]["text"] for n in row["history"]]
    texts.append(products[creatives[row["target"]]["product"]]["description"])
    vectors = np.stack([v["vector"] for v in Encoder(str(models / "encoder"), 4)(texts)]).astype(np.float32)
    assert scores == pytest.approx((vectors[:-1] @ vectors[-1]).tolist(), abs=3e-3)
    assert len(read_all(folder / "prepared" / "vectors")) < 36 + 12 + 1
