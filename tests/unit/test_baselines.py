"""Rivals behind the model's own protocol: copied, retrieved, our model with something left out, a language model."""

import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from chat_server import chat_server
from uniadgen import AdGenerator, Click, Example, Product
from uniadgen.baselines import own
from uniadgen.baselines.copied import Copy, Retrieve, central_picture, central_title
from uniadgen.baselines.generator import Generator
from uniadgen.baselines.llm import Writer, text_of
from uniadgen.config import StagesConfig
from uniadgen.data import llm
from uniadgen.data.batch import collate
from uniadgen.evaluate.contenders import BASELINES, contenders_of, models_of, world_of


def click(colour: Any, text: str) -> Click:
    return Click(Image.new("RGB", (40, 40), colour), text)


# copied and retrieved


def test_the_nearest_ad_is_copied_and_the_product_pasted(product: Product) -> None:
    clicks = (click("blue", "outdoor tent"), click("green", "red mug: gift box"), click("white", "a lamp"))
    first, second = Copy(16).generate_batch([Example(product, clicks)] * 2, [3, 4])
    assert (first.text, first.seed, second.seed) == ("red mug: gift box", 3, 4)
    assert first.painted.size == (16, 16) and first.picture.size == (48, 48)
    assert first.painted.getpixel((0, 0)) == (0, 128, 0)
    assert first.picture.getpixel((2, 2)) == (0, 128, 0)
    assert first.picture.getpixel((24, 26)) == (200, 30, 30)
    assert dict(first.record) == {"model": "copy", "picture_of": 1, "text_of": 1, "seed": 3}


@pytest.mark.parametrize("kind", [Copy, Retrieve])
def test_without_a_history_the_product_stands_on_white(product: Product, kind: type[Copy]) -> None:
    (ad,) = kind(16).generate_batch([Example(product)], [0])
    assert (ad.text, ad.picture.getpixel((0, 0))) == ("kitchen mug", (255, 255, 255))


def test_the_most_frequent_taste_is_retrieved_each_modality_by_itself(product: Product) -> None:
    clicks = (
        click((250, 0, 0), "A lamp! warm light!"),
        click((10, 60, 200), "kettle, now lighter"),
        click((0, 70, 190), "mug: dishwasher safe, gift box"),
        click((0, 80, 180), "kitchen mug: dishwasher safe"),
        click((250, 250, 0), "kitchen mug: gift box"),
    )
    (ad,) = Retrieve(16).generate_batch([Example(product, clicks)], [0])
    assert (ad.record["picture_of"], ad.record["text_of"]) == (2, 2)
    assert ad.text == "mug: dishwasher safe, gift box"
    assert ad.painted.getpixel((0, 0)) == (0, 70, 190)


def test_pictures_are_compared_by_where_their_colours_are() -> None:
    """Left dark and right dark have the same colours; two of three agree on where."""
    pixels = np.full((16, 16, 3), 255, np.uint8)
    pixels[:, :8] = 0
    left, right = (Image.fromarray(side) for side in (pixels, pixels[:, ::-1].copy()))
    assert central_picture([Click(right, "a"), Click(left, "b"), Click(left, "c")]) == 1
    assert central_title([Click(left, "red mug"), Click(left, "blue tent"), Click(left, "red tent")]) == 2


# our model with something left out


@pytest.fixture
def made(model, layout, tiny_config) -> AdGenerator:
    """A generator whose parts all matter."""
    return AdGenerator(model, layout, tiny_config)


def shown(clicks: Sequence[Click], titles: str = "", colour: str = "") -> tuple[Click, ...]:
    """Four clicks, which are all shown, with other titles or other pictures."""
    return tuple(
        Click(Image.new("RGB", (40, 30), colour) if colour else c.picture, titles or c.text) for c in clicks[:4]
    )


@torch.no_grad()
def read(generator: AdGenerator, example: Example) -> torch.Tensor:
    """What the model has understood at the end of the prompt."""
    (row, *_) = generator.rows([example], [[0, 1, 2, 3]], generator.config.generate)
    batch = collate([row], generator.layout.pad_id)
    embeds = generator.model.embed(batch, generator.model.prefer(batch))
    return generator.model.decode(embeds, batch.attend, batch.position)[:, -1]


@pytest.mark.parametrize(
    ("variant", "sees_titles", "sees_pictures"),
    [(lambda generator: generator, True, True), (own.image_only, False, True), (own.text_only, True, False)],
    ids=["both", "image_only", "text_only"],
)
def test_what_is_left_out_of_the_history_changes_nothing(
    made: AdGenerator, product: Product, clicks, variant, sees_titles: bool, sees_pictures: bool
) -> None:
    histories = (shown(clicks), shown(clicks, titles="outdoor tent"), shown(clicks, colour="navy"))
    examples = [Example(product, history) for history in histories]
    generator = variant(made)
    first, titled, coloured = (read(generator, example) for example in examples)
    assert torch.equal(titled, first) == (not sees_titles)
    assert torch.equal(coloured, first) == (not sees_pictures)
    first, titled, coloured = generator.generate_batch(examples, [5, 5, 5])
    assert sees_titles or titled.picture.tobytes() == first.picture.tobytes()
    assert sees_pictures or coloured.picture.tobytes() == first.picture.tobytes()


def test_without_history_is_as_for_a_stranger(made: AdGenerator, product: Product, clicks) -> None:
    (known,) = own.no_history(made).generate_batch([Example(product, clicks)], [5])
    (stranger,) = made.generate_batch([Example(product)], [5])
    assert known.picture.tobytes() == stranger.picture.tobytes() and known.text == stranger.text


def test_unbound_writes_what_it_likes_and_paints_nothing(made: AdGenerator, product: Product, clicks) -> None:
    free = own.unbound(made)
    (ad,) = free.generate_batch([Example(product, clicks)], [5])
    assert ad.painted.getextrema() == ((255, 255),) * 3
    assert free.config.generate.connecting_words == ()
    assert made.config.generate.connecting_words != ()


def test_variants_share_the_engine(made: AdGenerator) -> None:
    assert all(variant(made).engine is made.engine for variant in (own.image_only, own.text_only, own.unbound))


# who is compared


def test_every_baseline_keeps_the_protocol_and_says_what_it_makes(tiny_run: Path) -> None:
    names = [f"one={tiny_run}"]
    stages = StagesConfig(llm_url="http://x/v1", llm_model="writer")
    contenders = contenders_of(names, models_of(names), BASELINES, stages)
    assert all(isinstance(found.generator, Generator) for found in contenders)
    assert [found.name for found in contenders] == [
        *("one", "one no_history", "one unbound", "one image_only", "one text_only"),
        *("truth", "copy", "retrieve", "llm"),
    ]
    makes = {found.role: found.makes for found in contenders}
    assert makes["unbound"] == makes["llm"] == {"text"}
    assert makes["truth"] == {"picture", "text"}
    assert makes["model"] == makes["copy"] == {"picture", "text", "pasted"}
    assert len({found.fingerprint for found in contenders}) == len(contenders)


def test_a_model_named_twice_is_refused(tiny_run: Path) -> None:
    with pytest.raises(ValueError, match="got the model a twice, expected different names: write NAME=FOLDER"):
        models_of([f"a={tiny_run}", f"a={tiny_run}"])


def test_models_are_compared_in_the_world_that_all_know(made: AdGenerator) -> None:
    other, stranger = (AdGenerator(made.model, made.layout, made.config) for _ in range(2))
    assert world_of({"made": made, "other": other}) == made.config.world
    other.config = replace(made.config, world=replace(made.config.world, seed=9))
    with pytest.raises(ValueError, match="made, other were trained on different worlds"):
        world_of({"made": made, "other": other})
    stranger.config = replace(made.config, world=None)
    with pytest.raises(ValueError, match=r"stranger was not trained on AdWorld.*--data FOLDER"):
        world_of({"made": made, "stranger": stranger})


# a language model


def writer(url: str, **changes: Any) -> Writer:
    return Writer(StagesConfig(llm_url=url, llm_model="writer", **{"llm_tries": 2} | changes), 16)


def test_a_language_model_writes_and_everything_is_logged(product: Product, clicks) -> None:
    asked: list[dict[str, Any]] = []

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        asked.append(body)
        return 200, {"model": "writer-7b", "choices": [{"message": {"content": "<think>Well.</think>\n“Mug, safe”"}}]}

    with chat_server(answer) as url:
        chinese = replace(product, description="红色马克杯。")
        ads = writer(url).generate_batch([Example(product, clicks), Example(chinese)], [7, 8])
    assert [ad.text for ad in ads] == ["Mug, safe"] * 2
    assert ads[0].record["reply"] == "<think>Well.</think>\n“Mug, safe”"
    assert (ads[0].record["model"], ads[0].record["prompt"]) == ("writer-7b", "ad-text-1-en")
    assert (ads[1].record["prompt"], ads[1].record["shown"]) == ("ad-text-1-zh", [])
    assert ads[0].picture.getpixel((0, 0)) == (255, 255, 255)
    body = next(found for found in asked if "A red mug" in found["messages"][1]["content"])
    question = body["messages"][1]["content"]
    assert all(said in question for said in ("dishwasher safe", "gift box included", "outdoor tent"))
    assert (body["model"], body["temperature"], body["seed"]) == ("writer", 0, 7)


def test_a_reply_without_text_gives_an_ad_without_text(product: Product) -> None:
    for told in ({}, {"choices": []}, {"choices": [{"message": {"content": None}}]}):
        with chat_server(lambda body, told=told: (200, told)) as url:
            (ad,) = writer(url).generate_batch([Example(product)], [0])
        assert (ad.text, ad.record["model"]) == ("", "writer")


def test_a_server_that_refuses_stops_the_run(product: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm, "PAUSE", 0.001)
    with chat_server(lambda body: (401, {})) as url, pytest.raises(ValueError, match="answered 401"):
        writer(url).generate_batch([Example(product)] * 3, [0, 1, 2])
    with chat_server(lambda body: (503, {})) as url, pytest.raises(ConnectionError, match="did not answer in 2 tries"):
        writer(url).generate_batch([Example(product)], [0])


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (' "A mug,\nsafe" ', "A mug, safe"),
        ("thinking without a beginning</think>A mug", "A mug"),
        ("「家用马克杯」", "家用马克杯"),
        ("", ""),
    ],
)
def test_a_text_is_taken_out_of_a_reply(reply: str, text: str) -> None:
    assert text_of(reply) == text


def test_transformers_serve_is_such_a_server(product: Product, clicks, tokenizer, tmp_path: Path) -> None:
    """A tiny Qwen2 with random weights: what it writes is nonsense, but it comes the whole way."""
    for package in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(package, reason="transformers serve needs fastapi, uvicorn and openai")
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=2, max_position_embeddings=2048, **sizes)
    Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(template)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(tmp_path), "--port", str(port)]
    server = subprocess.Popen([*command, "--host", "127.0.0.1", "--device", "cpu"])
    try:
        for _ in range(600):
            with socket.socket() as line:
                if line.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        stages = StagesConfig(llm_url=f"http://127.0.0.1:{port}/v1", llm_model=str(tmp_path), llm_tries=5)
        (ad,) = Writer(stages, 16).generate_batch([Example(product, clicks)], [0])
    finally:
        server.terminate()
        server.wait()
    assert ad.record["reply"]
