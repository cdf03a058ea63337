"""Nano from a click log to an ad on a person's own files: every stage for real, at the smallest size."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from checkpoint import saved
from uniadgen import AdGenerator, Click, Example, Product
from uniadgen.__main__ import app
from uniadgen.data.adworld import example_of, shop_of
from uniadgen.data.rows import Rows
from uniadgen.evaluate import truth
from uniadgen.evaluate.run import Plan, evaluate
from uniadgen.model import weights
from uniadgen.train.nano import train_recipe

MOST_SECONDS = 60  # of processor time, child processes included: the clock on the wall depends on who else works


def worked() -> float:
    """Seconds of work so far."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@pytest.fixture(scope="module", autouse=True)
def brief(rendering: None) -> Iterator[None]:
    """All of this file together takes no longer than a minute."""
    began = worked()
    yield
    assert worked() - began <= MOST_SECONDS


def test_a_click_log_becomes_examples(tiny_config) -> None:
    shop = shop_of(tiny_config.world)
    for number in range(tiny_config.world.num_shoppers):
        example = example_of(shop, shop.visit(number), tiny_config.data.image_size, 48)
        assert len(example.clicks) == tiny_config.world.history_length
        assert example.target is not None


def test_examples_become_weights(tiny_run: Path, tiny_config) -> None:
    run = tiny_run.parent
    for stage, steps in (("vq", tiny_config.vq_train.steps), ("model", tiny_config.train.steps)):
        metrics = [json.loads(line) for line in (run / stage / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in metrics] == list(range(steps))
        assert all(np.isfinite(line["total"]) for line in metrics)
        with Image.open(next((run / stage).glob("sample-*.png"))) as sheet:
            assert sheet.width > tiny_config.data.image_size


def test_the_word_preference_is_learnt_last_from_texts(tiny_run: Path, tiny_config) -> None:
    lines = (tiny_run.parent / "words" / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    assert [line["step"] for line in metrics] == list(range(tiny_config.words_train.steps))
    assert all(line["text"] > 0 and line["image"] == 0 for line in metrics)
    learnt = {name.removeprefix("model.") for name in saved(tiny_run.parent / "words") if name.startswith("model.")}
    assert {name for name in learnt if name.startswith("word_preference.")} == {
        f"word_preference.{name}" for name in ("words.weight", "gate.weight", "gate.bias")
    }


def test_weights_are_what_was_trained(tiny_run: Path) -> None:
    trained = saved(tiny_run.parent / "model")
    loaded, _, _ = weights.load(tiny_run)
    learning = {name for name, _ in loaded.named_parameters()} & {name.removeprefix("model.") for name in trained}
    assert any(name.startswith("foreground.") for name in learning)
    for name in learning:
        tensor = loaded.get_parameter(name)
        torch.testing.assert_close(tensor, trained[f"model.{name}"].half().float(), rtol=0, atol=0, msg=name)


def test_the_trained_vq_is_in_the_model(tiny_run: Path) -> None:
    trained = saved(tiny_run.parent / "vq")
    loaded, _, _ = weights.load(tiny_run)
    for name, tensor in loaded.model.vqmodel.state_dict().items():
        torch.testing.assert_close(tensor, trained[f"model.vq.{name}"].half().float(), rtol=0, atol=0, msg=name)


def test_a_run_that_is_done_is_not_done_again(tiny_run: Path, tiny_config) -> None:
    before = (tiny_run / "model.safetensors").read_bytes()
    assert train_recipe(tiny_config, tiny_run.parent) == tiny_run
    assert (tiny_run / "model.safetensors").read_bytes() == before


def test_a_recipe_that_stops_anywhere_goes_on_to_the_same_weights(
    tiny_run: Path, tiny_config, tmp_path, monkeypatch
) -> None:
    """Stopped in the VQ's training, in the coding of the stock, and in the model's training."""
    from uniadgen.train import nano

    (tmp_path / "stock").symlink_to(tiny_run.parent / "stock")  # the pictures are the same; codes are made anew
    (codes,) = (tiny_run.parent / "stock").glob("codes-*.npz")
    kept = codes.read_bytes()
    codes.unlink()

    def stop_at(name: str, owner: object, when: int) -> None:
        original, calls = getattr(owner, name), []

        def stopping(*args, **kwargs):
            calls.append(1)
            if len(calls) == when:
                raise KeyboardInterrupt
            return original(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, stopping)
            with pytest.raises(KeyboardInterrupt):
                train_recipe(tiny_config, tmp_path)

    stop_at("batch", nano.PictureBatches, 3)
    stop_at("_code_stock", nano, 1)
    stop_at("batches", Rows, 6)
    train_recipe(tiny_config, tmp_path)
    assert codes.read_bytes() == kept
    assert (tmp_path / "weights" / "model.safetensors").read_bytes() == (tiny_run / "model.safetensors").read_bytes()


def test_weights_are_measured_on_held_out_shoppers(tiny_run: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(truth, "JUDGE_JITTERS", 1)  # half the pictures to render, and nearly as good a judge
    metrics = ("style", "words", "pasted", "text", "model")
    report = evaluate(Plan(models=[f"tiny={tiny_run}"], metrics=metrics, requests=6), tmp_path / "out")
    lines = {(line.key, line.generator): line for line in report.lines}
    # Six steps teach nothing; these hold for any model.
    assert lines["change", "tiny"].value == lines["change", "tiny no_history"].value == 0
    assert lines["same", "tiny"].value == 1
    assert lines["palette", "truth"].value >= 0.9
    assert lines["bleu", "truth"].value == lines["m_bleu", "truth"].value == 1
    assert lines["liked", "truth"].value == lines["manner", "truth"].value == lines["faithful", "truth"].value == 1
    assert ("palette", "tiny unbound") not in lines and ("manner", "tiny unbound") in lines
    assert all(line.low - 1e-9 <= line.value <= line.high + 1e-9 for line in report.lines)
    assert len(list((tmp_path / "out" / "ads").glob("*.json"))) == 4 * 6
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.size == (6 * 144, 3 * 144)


@pytest.fixture
def own_files(tmp_path: Path) -> Path:
    """A person's own product and history: no picture of AdWorld, words of nobody's tokenizer."""
    cutout = Image.new("RGBA", (300, 200))
    ImageDraw.Draw(cutout).rounded_rectangle((90, 20, 210, 190), 30, fill=(20, 90, 160, 255))
    cutout.save(tmp_path / "thermos.webp", lossless=True)
    (tmp_path / "clicks").mkdir()
    entries = []
    for number in range(7):
        noise = np.random.default_rng(number).integers(256, size=(90, 120, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "clicks" / f"{number}.jpg")
        entries.append({"picture": f"clicks/{number}.jpg", "text": f"Thermosflasche № {number} – größer"})
    (tmp_path / "history.json").write_text(json.dumps(entries), encoding="utf-8")
    return tmp_path


def test_a_persons_own_files_become_an_ad(tiny_run: Path, own_files: Path, monkeypatch) -> None:
    """By the command itself, in a process of its own and again in this one: the same request gives the same bytes."""
    request = ["generate", "--model", str(tiny_run), "--product", "thermos.webp", "--history", "history.json"]
    request += ["--description", "Ein Edelstahl-Thermobecher, 0,5 l."]
    request += ["--point", "hält 12 h warm", "--point", "rostfrei", "--seed", "7", "--out"]
    command = [sys.executable, "-m", "uniadgen", *request, "one.png"]
    made = subprocess.run(command, cwd=own_files, check=False, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    monkeypatch.chdir(own_files)
    assert CliRunner().invoke(app, [*request, "two.png"]).exit_code == 0
    assert (own_files / "one.png").read_bytes() == (own_files / "two.png").read_bytes()
    records = [json.loads((own_files / f"{name}.json").read_text(encoding="utf-8")) for name in ("one", "two")]
    assert records[0] == records[1]
    assert "hält 12 h warm" in records[0]["text"] or "rostfrei" in records[0]["text"]
    assert len(records[0]["shown"]) == 4


def test_another_shoppers_history_changes_what_the_model_reads(tiny_run: Path, product: Product, clicks) -> None:
    generator = AdGenerator.from_pretrained(tiny_run)
    other = tuple(Click(Image.new("RGB", (20, 20), "navy"), "outdoor tent, blue") for _ in clicks)
    one, two = (
        generator.rows([Example(product, history)], [[0, 1]], generator.config.generate)[0]
        for history in (clicks, other)
    )
    assert one.ids.tolist() != two.ids.tolist()
    assert one.click_codes.tolist() != two.click_codes.tolist()
    np.testing.assert_array_equal(one.cutout, two.cutout)
