"""The authors' checkpoint, shrunk and with random numbers, becomes a folder that makes ads as their release does.

The release's sentences are not ours: those of the clone here are invented.
"""

import json
import os
import shutil
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_convert import SMALL, Bomb
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from uniadgen import AdGenerator, Click, Product
from uniadgen.__main__ import app
from uniadgen.config import Config, override
from uniadgen.data.batch import Batch, Kind
from uniadgen.data.release import NEW_TOKENS, Prompts, ReleaseLayout, layout_of
from uniadgen.data.sentences import read_prompts
from uniadgen.engine.together import FastDecoder
from uniadgen.model import official
from uniadgen.model.configuration import architecture
from uniadgen.model.convert import convert_janus
from uniadgen.model.foreground import resample_positions
from uniadgen.model.shards import new_shards, read, shards
from uniadgen.model.uniadgen import UniAdGenForConditionalGeneration
from uniadgen.recipes import official_7b, paper_7b

SIZES = {**SMALL, "model.num_layers": 8, "model.vocab_size": 640, "data.num_clicks": 4, "generate.max_words": 24}
WORDS = "Sell {} to one who read {}. It is {}, and they saw {} before."
QUESTION = WORDS.format("{points}", "{titles}", "{description}", "{pictures}")
NEGATIVE = "dull, bent, smeared, upside down, and so many other things that it is longer than the question itself" * 3
SPECIAL = ("<bos>", "<eos>", "<pad>", "<|User|>", "<begin_of_image>", "<image_placeholder>", "<end_of_image>")


@pytest.fixture(scope="module")
def config() -> Config:
    return override(official_7b(), SIZES)


@pytest.fixture(scope="module")
def base(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Janus with random weights in half precision, its tokenizer declared as DeepSeek's is."""
    folder = tmp_path_factory.mktemp("base") / "hf"
    torch.manual_seed(1)
    model = UniAdGenForConditionalGeneration(architecture(config, 0))
    with new_shards(folder) as writer:
        for name, tensor in model.state_dict().items():
            if name.startswith(("model.", "lm_head.")):
                writer.add(name, tensor.bfloat16())
        model.config.save_pretrained(writer.folder)
    given = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**given, "model_type": "janus"}))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([WORDS, NEGATIVE, "<prompt> kitchen mug</prompt>", "<|Assistant|>: "], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad")}
    declared = {"tokenizer_class": "LlamaTokenizerFast", "legacy": True, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(declared))
    (folder / "LICENSE-MODEL").write_text("as you like it")
    return folder


@pytest.fixture(scope="module")
def state(config: Config) -> dict[str, torch.Tensor]:
    """A checkpoint by the release's names: parameters, in float32; LoRA of rank 2, a table for 7 x 7 patches."""
    generator = torch.Generator().manual_seed(2)
    with torch.device("meta"):
        model = UniAdGenForConditionalGeneration(architecture(config, 0)).state_dict()
    own = {name: tuple(t.shape) for name, t in model.items() if not name.startswith(("model.", "lm_head."))}
    shapes = official.expected_tensors(config, own, rank=2)
    table = next(name for name in shapes if name.endswith("position_embeddings"))
    shapes[table] = (1, 50, 48)
    made = {name: nn.Parameter(0.1 * torch.randn(shape, generator=generator)) for name, shape in shapes.items()}
    for name, tensor in made.items():
        if "norm" in name and name.endswith("weight"):
            tensor.data += 1
    return made


@pytest.fixture(scope="module")
def checkpoint(state: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("official") / "trainable_model_parameters.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clone")
    question = WORDS.format("{a}", "{'<title_placeholder>' * n}", "{b}", "<image_placeholder>")
    (folder / "main.py").write_text(f"raise SystemExit\nq = f{question!r}\noptions = dict(negative={NEGATIVE!r})\n")
    return folder


@pytest.fixture(scope="module")
def folder(config: Config, base: Path, checkpoint: Path, clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The conversion, by the command, in several shards."""
    out = tmp_path_factory.mktemp("out") / "official"
    settings = [word for name, value in SIZES.items() for word in ("--set", f"{name}={value}")]
    options = ["--base", base, "--release", clone, "--out", out, "--shard-gb", "0.001", *settings]
    result = CliRunner().invoke(app, ["convert", "official", str(checkpoint), *map(str, options)])
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def generator(folder: Path) -> AdGenerator:
    return AdGenerator.from_pretrained(folder)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in shards(folder) for name, tensor in read(path)}


# the conversion


def test_every_tensor_is_where_it_belongs(folder: Path, base: Path, state: dict[str, torch.Tensor]) -> None:
    made, janus = tensors(folder), tensors(base)
    theirs = {name.removeprefix(official.PREFIX): tensor.detach() for name, tensor in state.items()}
    assert len(shards(folder)) > 1
    assert torch.equal(
        made["model.language_model.embed_tokens.weight"], theirs["language_model.model.embed_tokens.weight"]
    )
    for part in "qkvo":
        name = f"language_model.layers.7.self_attn.{part}_proj"
        a, b = (
            theirs[f"language_model.model.layers.7.self_attn.{part}_proj.lora_{half}.default.weight"] for half in "AB"
        )
        expected = janus[f"model.{name}.weight"].float() + 16 * b @ a  # 32 / 2
        torch.testing.assert_close(made[f"model.{name}.weight"], expected, atol=1e-6, rtol=1e-6)
    for name, tensor in janus.items():
        if "self_attn" not in name.replace("vision_model", "") and "embed_tokens" not in name:
            assert torch.equal(made[name], tensor), name
    table = theirs["language_model.model.adapter.model.embeddings.position_embeddings"]
    assert torch.equal(made["foreground.dinov2.embeddings.position_embeddings"], resample_positions(table, 2))
    block = "visual_mask_generator.base_transformer.transformer_layers.1.attn"
    parts = [theirs[f"{block}.{part}.bias"] for part in ("query", "key", "value")]
    assert torch.equal(made["preference.image_extractor.blocks.1.qkv.bias"], torch.cat(parts))
    last = theirs["language_model.model.condition_layers.1.newfc2.weight"]
    assert torch.equal(made["foreground.site_layers.1.2.weight"], last)


def test_what_is_beside_the_weights_comes_along(folder: Path, config: Config, generator: AdGenerator) -> None:
    assert generator.config == config
    assert generator.layout.prompts == Prompts(QUESTION, NEGATIVE)
    assert (folder / "LICENSE-MODEL").read_text() == "as you like it"
    umask = os.umask(0)
    os.umask(umask)
    assert {path.stat().st_mode & 0o777 for path in folder.glob("*.safetensors")} == {0o666 & ~umask}


def test_the_releases_tokens_follow_those_of_the_base_in_order(folder: Path, base: Path) -> None:
    before = PreTrainedTokenizerFast.from_pretrained(base)
    after = PreTrainedTokenizerFast.from_pretrained(folder)
    assert after.convert_tokens_to_ids(list(NEW_TOKENS)) == list(range(len(before), len(before) + 9))
    assert after.encode("A red mug:\n\n it is") == before.encode("A red mug:\n\n it is")


def test_the_bases_original_layout_serves_as_well(
    folder: Path, base: Path, checkpoint: Path, config: Config, tmp_path: Path
) -> None:
    convert_janus(base, tmp_path / "original", "original", shard_bytes=10**6)
    official.convert_official(checkpoint, tmp_path / "original", Prompts(QUESTION, NEGATIVE), tmp_path / "o", config)
    made, expected = tensors(tmp_path / "o"), tensors(folder)
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[name], expected[name]) for name in made)


# what is wrong is named, and nothing is written

Q = "visual_mask_generator.base_transformer.transformer_layers.0.attn.query.weight"
WRONG = {
    "missing": (lambda s: s.pop(official.PREFIX + Q), r"attn\.query\.weight is missing: this is not the released"),
    "extra": (lambda s: s.update(surprise=torch.zeros(2)), r"\.pth: surprise is not expected"),
    "prefix": (lambda s: s.update({Q: s.pop(official.PREFIX + Q)}), r"query\.weight is missing; visual_mask.* is not"),
    "shape": (
        lambda s: s.update({official.PREFIX + Q: torch.zeros(3, 64)}),
        r"query\.weight has shape \(3, 64\), expected \(64, 64\)",
    ),
    "rank": (
        lambda s: s.update({next(n for n in s if "layers.3.self_attn.k_proj.lora_B" in n): torch.zeros(64, 5)}),
        r"layers\.3\.self_attn\.k_proj\.lora_B\.default\.weight has shape \(64, 5\), expected \(64, 2\)",
    ),
    "table": (
        lambda s: s.update({next(n for n in s if n.endswith("position_embeddings")): torch.zeros(1, 48, 48)}),
        r"position_embeddings has shape \(1, 48, 48\), expected \(1, 5, 48\)",
    ),
    "many": (lambda s: [s.pop(name) for name in sorted(s)[:40]], r"and 35 more"),
    "code": (lambda s: s.update(bomb=Bomb()), r"holds more than tensors, so it is not opened"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_checkpoint_is_refused(case: str, state, base, config, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    change, message = WRONG[case]
    wrong = dict(state)
    change(wrong)
    torch.save(wrong, tmp_path / "wrong.pth")
    with pytest.raises(ValueError, match=message) as error:
        official.convert_official(tmp_path / "wrong.pth", base, Prompts(QUESTION, NEGATIVE), tmp_path / "o", config)
    assert len(str(error.value)) < 1200
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wrong.pth"]


def test_a_checkpoint_that_was_cut_short_is_refused(checkpoint: Path, base, config, tmp_path: Path) -> None:
    data = checkpoint.read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"cut\.pth: damaged or cut short"):
        official.convert_official(tmp_path / "cut.pth", base, Prompts(QUESTION, NEGATIVE), tmp_path / "o", config)


def test_another_base_is_refused(checkpoint: Path, base: Path, config: Config, tmp_path: Path) -> None:
    deeper = override(config, {"model.num_layers": 9})
    with pytest.raises(
        ValueError, match=r"layers\.8\..* is missing.* and \d+ more: this is not the base of the config"
    ):
        official.convert_official(checkpoint, base, Prompts(QUESTION, NEGATIVE), tmp_path / "o", deeper)
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_that_has_no_room_for_the_new_tokens_is_refused(checkpoint, base, config, tmp_path: Path) -> None:
    smaller = override(config, {"model.vocab_size": 300})
    with pytest.raises(ValueError, match=r"the tokenizer has \d+ tokens, expected at most 300"):
        official.convert_official(checkpoint, base, Prompts(QUESTION, NEGATIVE), tmp_path / "o", smaller)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("checkpoint", "no such file, expected the authors' trainable_model_parameters.pth"),
        ("base", "no weights, expected model.safetensors"),
        ("clone", "no such folder, expected a clone of the authors' release"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(missing, message, checkpoint, base, clone, tmp_path: Path) -> None:
    paths = {"checkpoint": checkpoint, "base": base, "clone": clone} | {missing: tmp_path / "nowhere"}
    settings = [word for name, value in SIZES.items() for word in ("--set", f"{name}={value}")]
    options = ["--base", paths["base"], "--release", paths["clone"], "--out", tmp_path / "o", *settings]
    result = CliRunner().invoke(app, ["convert", "official", str(paths["checkpoint"]), *map(str, options)])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "o").exists()


def test_prompts_that_are_gone_are_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "o")
    (tmp_path / "o" / "prompts.json").unlink()
    with pytest.raises(ValueError, match=r"prompts\.json: no such file"):
        AdGenerator.from_pretrained(tmp_path / "o")


# making ads


@pytest.fixture
def heard(generator: AdGenerator, monkeypatch) -> list[Batch]:
    """The batch of every pass."""
    batches = []
    run = FastDecoder.run

    def listening(decoder, batch, modality=None):
        batches.append(batch)
        return run(decoder, batch, modality)

    monkeypatch.setattr(FastDecoder, "run", listening)
    return batches


def says(generator: AdGenerator, monkeypatch, text: str) -> None:
    """Makes the model write a text."""
    ids = cycle(generator.layout.tokenizer.encode(text, add_special_tokens=False))
    call = generator.model.text_logits

    def text_logits(*given):
        logits = torch.full_like(call(*given), -1e9)
        logits[:, next(ids)] = 0
        return logits

    monkeypatch.setattr(generator.model, "text_logits", text_logits)


def read_back(generator: AdGenerator, batch: Batch, row: int) -> str:
    """What stands in a row, with placeholders for the history as in the release's own prompt."""
    tokenizer = generator.layout.tokenizer
    title, picture = (tokenizer.convert_tokens_to_ids(t) for t in ("<title_placeholder>", "<image_placeholder>"))
    ids = batch.ids[row].masked_fill(batch.kind[row] == Kind.CLICK_TEXT, title)
    ids = ids.masked_fill(batch.kind[row] == Kind.CLICK_IMAGE, picture)[batch.attend[row]]
    whole = str(tokenizer.decode(ids))
    assert ids.tolist() == tokenizer.encode(whole, add_special_tokens=False)  # as if tokenised in one piece
    return whole


def history(generator: AdGenerator, num_cells: int) -> tuple[str, str]:
    titles = f"<begin_of_history_title>{'<title_placeholder>' * 30}<end_of_history_title>"
    pictures = f"<begin_of_image>{'<image_placeholder>' * num_cells}<end_of_image>"
    return titles * 4, pictures * 4


def test_an_ad_is_made_in_two_passes(generator: AdGenerator, heard, product, clicks, monkeypatch) -> None:
    says(generator, monkeypatch, "Nice mug, 看!</prompt>")
    ad = generator.generate(product, clicks, seed=3)
    assert ad.text == "Nice mug, 看!"
    assert ad.painted.size == (32, 32)
    first, second = heard
    assert len(first.ids) == 1  # the text is not guided
    titles, pictures = history(generator, 1)
    points = "kitchen mug,dishwasher safe,gift box included"
    said = WORDS.format(points, titles, product.description, pictures)
    asked = f"<bos><|User|>: {said}\n\n<|Assistant|>: <prompt>"
    start = generator.layout.start_text
    fed = Batch(
        torch.cat([first.ids, torch.tensor([[start]])], dim=1),
        torch.nn.functional.pad(first.kind, (0, 1), value=int(Kind.PROMPT)),
        *(first.click_ids, first.click_words, first.click_codes, first.clicked, first.cutout),
    )
    assert read_back(generator, fed, 0) == asked
    assert read_back(generator, second, 0) == f"{asked}Nice mug, 看!</prompt><eos>"
    assert read_back(generator, second, 1) == f"<bos><|User|>: {NEGATIVE}\n\n<|Assistant|>:"
    assert not second.clicked[1].any()


def test_titles_are_padded_and_their_padding_counts(generator: AdGenerator, heard, product, clicks) -> None:
    generator.generate(product, clicks, seed=3)
    batch = heard[0]
    assert batch.click_ids.shape == (1, 4, 30)
    assert batch.click_words.all()
    assert (batch.click_ids[0, 0, -5:] == generator.layout.pad_id).all()


def test_noise_is_drawn_anew_for_the_picture_and_the_same_ad_comes_again(
    generator: AdGenerator, product, clicks, monkeypatch
) -> None:
    masks: list[torch.Tensor] = []
    prefer = generator.model.prefer

    def listening(batch, noise):
        fused = prefer(batch, noise)
        masks.append(fused.text_selection.mask[0])
        return fused

    monkeypatch.setattr(generator.model, "prefer", listening)
    state = torch.get_rng_state()
    ads = [generator.generate(product, clicks, seed=seed) for seed in (5, 5, 6)]
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2]) and torch.equal(masks[1], masks[3])
    assert not torch.equal(masks[0], masks[4])
    assert ads[0].text == ads[1].text
    assert [np.asarray(ad.painted).tolist() for ad in ads[:2]] == [np.asarray(ads[0].painted).tolist()] * 2
    assert np.asarray(ads[2].painted).tolist() != np.asarray(ads[0].painted).tolist()


def test_an_ad_does_not_depend_on_who_else_is_in_the_batch(generator: AdGenerator, product, clicks) -> None:
    from uniadgen import Example

    examples = [Example(product, clicks), Example(product, clicks[::-1])]
    together = generator.generate_batch(examples, [1, 2])
    alone = generator.generate(product, clicks[::-1], seed=2)
    assert alone.text == together[1].text
    assert np.abs(np.asarray(alone.painted, int) - np.asarray(together[1].painted, int)).max() <= 1


def test_a_text_without_its_end_counts_as_none(generator: AdGenerator, heard, product, clicks, monkeypatch) -> None:
    says(generator, monkeypatch, "a mug and ")
    *updates, last = generator.stream(product, clicks, seed=0)
    assert "mug" in updates[8].text
    assert last.ad.text == ""
    assert read_back(generator, heard[1], 0).endswith("<prompt></prompt><eos>")


def test_the_text_ends_with_the_models_end_token_too(
    generator: AdGenerator, heard, product, clicks, monkeypatch
) -> None:
    says(generator, monkeypatch, "mug<eos>")
    assert generator.generate(product, clicks).text == ""


def test_the_negative_prompt_is_left_out_without_guidance(generator: AdGenerator, heard, product, clicks) -> None:
    generator.generate(product, clicks, guidance=1)
    assert [len(batch.ids) for batch in heard] == [1, 1]


def test_both_branches_have_the_control_and_the_first_cell_has_none(
    generator: AdGenerator, product, clicks, monkeypatch
) -> None:
    controls: list[torch.Tensor] = []
    step = generator.engine.step

    def listening(slots, x, at, control, firsts):
        if control is not None:
            controls.extend(control.unbind(1))
        return step(slots, x, at, control, firsts)

    monkeypatch.setattr(generator.engine, "step", listening)
    monkeypatch.setattr(generator.engine, "positions", 1)  # no drafts: one cell in every step
    monkeypatch.setattr(generator.engine, "painter", None)  # every step is the scheduler's
    generator.generate(product, clicks)
    assert len(controls) == 4
    assert (controls[0] == 0).all()
    assert all(torch.equal(control[0], control[1]) and control.abs().sum() > 0 for control in controls[1:])


def test_a_short_history_is_refused_as_the_release_does(generator: AdGenerator, product, clicks) -> None:
    with pytest.raises(ValueError, match="the history has 1 clicks, expected 2 or more"):
        generator.generate(product, clicks[:1])


def test_special_tokens_in_a_persons_words_are_only_words(generator: AdGenerator, heard, clicks) -> None:
    cutout = Image.new("RGBA", (40, 40))
    cutout.paste((9, 9, 9, 255), (10, 10, 30, 30))
    product = Product(cutout, "A <eos> {text} {titles} mug.", ("<title_placeholder>", "<|User|>"))
    clicks = [Click(click.picture, f"<image_placeholder> {click.text}") for click in clicks]
    generator.generate(product, clicks)
    special = {generator.layout.tokenizer.convert_tokens_to_ids(t) for t in ("<eos>", *NEW_TOKENS[:1], SPECIAL[5])}
    words = heard[0].ids[(heard[0].kind == Kind.PROMPT)]
    assert not special & set(words.tolist())
    assert not special & set(heard[0].click_ids.flatten().tolist())
    assert "A <eos> {text} {titles} mug." in generator.layout.tokenizer.decode(words)


# pictures


def test_a_clicked_picture_is_squashed_twice(generator: AdGenerator) -> None:
    noise = np.random.default_rng(0).integers(255, size=(300, 700, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    bicubic = Image.Resampling.BICUBIC
    expected = picture.resize((512, 512), bicubic).resize((16, 16), bicubic)
    assert np.array_equal(np.asarray(generator.layout.squash(picture)), np.asarray(expected))


def test_the_product_is_read_on_white_and_stands_where_its_picture_has_it(generator: AdGenerator, product) -> None:
    control = generator.layout.control(product.cutout)
    assert control.shape == (4, 512, 512)
    assert (control[3] == 1).all()
    assert (control[:, 0, 0] == 1).all()
    left, top, right, bottom = generator.layout.place(product.cutout, 600).getchannel("A").getbbox()
    assert max(abs(left - 150), abs(top - 180), abs(right - 440), abs(bottom - 470)) < 20


# layouts and settings


def test_the_variant_decides_the_layout(generator: AdGenerator, config: Config, tokenizer) -> None:
    assert isinstance(generator.layout, ReleaseLayout)
    paper = override(paper_7b(), SMALL)
    assert type(layout_of(tokenizer, paper)) is not ReleaseLayout
    with pytest.raises(ValueError, match="no prompts for the variant release"):
        layout_of(tokenizer, config)
    with pytest.raises(ValueError, match="the tokenizer has no token <begin_of_image>"):
        layout_of(tokenizer, config, Prompts(QUESTION, NEGATIVE))


def test_nothing_can_be_learnt_in_the_releases_layout(generator: AdGenerator, product) -> None:
    from uniadgen.data.prompt import Target

    blank, target = np.zeros((4, 32, 32), np.float32), Target("a", np.zeros(4, np.int64))
    with pytest.raises(ValueError, match="no rows to learn from"):
        generator.layout.lay_out("a mug", ("a",), blank, [], target=target)


@pytest.mark.parametrize(("name", "value"), [("data.modality", "image"), ("generate.connecting_words", ("and",))])
def test_what_the_release_cannot_do_is_refused(config: Config, name: str, value) -> None:
    with pytest.raises(ValueError, match=f"{name} is .*, expected .* in the variant release"):
        override(config, {name: value})


def test_the_recipe_samples_as_the_release_does() -> None:
    made = official_7b()
    assert (made.data.sampler, made.data.num_clicks, made.data.click_words, made.click_cells) == ("release", 10, 30, 64)
    assert (made.model.control_every, made.model.control_strength, made.model.keep_rate) == (6, 1.5, 0.4)
    assert (made.model.gumbel_at_inference, made.model.gumbel_scale) == (True, 1.0)
    sampling = made.generate
    assert (sampling.guidance, sampling.temperature, sampling.max_words) == (5.0, 1.0, 512)
    assert (sampling.text_top_k, sampling.image_top_k, sampling.leave_out) == (50, 0, "history")


def test_the_clones_sentences_are_those_stored(clone: Path) -> None:
    assert read_prompts(clone) == Prompts(QUESTION, NEGATIVE)
