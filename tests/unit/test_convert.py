"""Janus checkpoints of both layouts: there and back, strictly, and with what a person may hand in by mistake."""

import json
import pickle
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Dinov2Model, JanusConfig, JanusForConditionalGeneration
from typer.testing import CliRunner

from uniadgen.__main__ import app
from uniadgen.config import Config, override
from uniadgen.model import convert
from uniadgen.model.configuration import UniAdGenConfig, architecture
from uniadgen.model.foreground import resample_positions
from uniadgen.model.shards import new_shards, read, shards
from uniadgen.model.uniadgen import UniAdGenForConditionalGeneration
from uniadgen.recipes import paper_1b, paper_7b

PARITY = Path(__file__).parents[1] / "parity"
SMALL = {  # Janus-Pro's own architecture, shrunk
    "data.image_size": 32,
    "data.click_size": 16,
    "model.hidden_size": 64,
    "model.num_layers": 2,
    "model.num_heads": 4,
    "model.intermediate_size": 128,
    "model.vocab_size": 200,
    "model.num_codes": 256,
    "model.vq_channels": 32,
    "model.siglip_size": 64,
    "model.siglip_layers": 2,
    "model.siglip_heads": 1,
    "model.foreground_size": 48,
    "model.foreground_layers": 2,
    "model.foreground_heads": 3,
    "model.preference_heads": 4,
}


SIZES = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "image_size"),
    *("patch_size", "base_channels", "channel_multiplier", "num_res_blocks", "num_embeddings", "embed_dim"),
    *("latent_channels", "num_patches", "projection_dim", "mlp_ratio"),
)


@pytest.fixture(scope="module")
def config() -> UniAdGenConfig:
    return architecture(override(paper_7b(), SMALL), 0)


@pytest.fixture(scope="module")
def janus(config: UniAdGenConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Janus with random weights in Hugging Face's layout. Its tying is left at transformers' wrong default."""
    folder = tmp_path_factory.mktemp("janus") / "hf"
    parts = (config.text_config, config.vision_config, config.vq_config)
    text, vision, vq = (part.to_dict() for part in parts)
    model = JanusForConditionalGeneration(
        JanusConfig(text_config=text, vision_config=vision, vq_config=vq, tie_word_embeddings=False)
    )
    model.save_pretrained(folder)
    path = folder / "config.json"
    given = json.loads(path.read_text())
    assert given.pop("tie_word_embeddings") is False
    path.write_text(json.dumps(given))
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def original(janus: Path, tmp_path: Path) -> Path:
    """The same checkpoint as DeepSeek lays it out, in several shards."""
    convert.convert_janus(janus, tmp_path / "original", "original", shard_bytes=10**6)
    return tmp_path / "original"


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in shards(folder) for name, tensor in read(path)}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


# there and back


def test_there_and_back_is_the_identity(janus: Path, original: Path, tmp_path: Path) -> None:
    convert.convert_janus(original, tmp_path / "hf", "hf", shard_bytes=3 * 10**6)
    assert_same(tensors(tmp_path / "hf"), tensors(janus))
    convert.convert_janus(tmp_path / "hf", tmp_path / "again", "original")
    assert_same(tensors(tmp_path / "again"), tensors(original))


def test_the_original_names_are_deepseeks(original: Path) -> None:
    """Against a list made with DeepSeek's own classes, without SigLIP and with a part of the encoder only."""
    published = (PARITY / "janus_original_keys.txt").read_text().splitlines()
    names = {line.split(" ")[0] for line in published} - {"gen_vision_model.quantize.codebook_used"}
    ours = {
        re.sub(r"language_model\.model\.layers\.1\.", "language_model.model.layers.0.", n) for n in tensors(original)
    }
    assert names <= ours
    known = ("language_model.", "gen_embed.", "gen_head.", "gen_aligner.", "gen_vision_model.decoder.")
    assert {name for name in ours if name.startswith(known)} <= names


def test_pickled_shards_are_read_as_well(janus: Path, original: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    shutil.copytree(original, pickled)
    index = json.loads((pickled / "model.safetensors.index.json").read_text())
    for path in shards(original):
        name = path.name.replace("model-", "pytorch_model-").replace(".safetensors", ".bin")
        torch.save(load_file(path), pickled / name)
        (pickled / path.name).unlink()
        index["weight_map"] = {t: name if f == path.name else f for t, f in index["weight_map"].items()}
    (pickled / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (pickled / "model.safetensors.index.json").unlink()
    convert.convert_janus(pickled, tmp_path / "hf")
    assert_same(tensors(tmp_path / "hf"), tensors(janus))


def test_statistics_and_the_unused_pooling_are_dropped(janus: Path, original: Path, tmp_path: Path) -> None:
    extra = {
        "gen_vision_model.quantize.codebook_used": torch.zeros(9),
        "vision_model.vision_tower.attn_pool.q.weight": torch.zeros(2),
    }
    path = shards(original)[0]
    save_file({**load_file(path), **extra}, path)
    convert.convert_janus(original, tmp_path / "hf")
    assert_same(tensors(tmp_path / "hf"), tensors(janus))


def test_sizes_come_from_the_shapes_and_heads_from_the_config(janus: Path, original: Path) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors(janus).items()}
    found = convert.janus_config(original, shapes, original=True)
    expected = JanusConfig.from_pretrained(janus)
    for part in ("text_config", "vision_config", "vq_config"):
        ours, theirs = getattr(found, part).to_dict(), getattr(expected, part).to_dict()
        for name in SIZES:
            assert ours.get(name) == theirs.get(name) or list(ours[name]) == list(theirs[name]), (part, name)


def test_words_are_never_tied(janus: Path, original: Path, tmp_path: Path) -> None:
    """Tying is transformers' default for Janus, and would overwrite the embeddings by the head without a word."""
    assert JanusConfig.from_pretrained(janus).tie_word_embeddings
    for source in (janus, original):
        convert.convert_janus(source, tmp_path / "out")
        config = JanusConfig.from_pretrained(tmp_path / "out")
        assert not config.tie_word_embeddings and not config.text_config.tie_word_embeddings
        model = JanusForConditionalGeneration.from_pretrained(tmp_path / "out")
        assert not torch.equal(model.lm_head.weight, model.get_input_embeddings().weight)
        assert torch.equal(
            model.get_input_embeddings().weight, tensors(janus)["model.language_model.embed_tokens.weight"]
        )


def test_the_tokenizer_comes_along(original: Path, tmp_path: Path) -> None:
    convert.convert_janus(original, tmp_path / "hf")
    assert (tmp_path / "hf" / "tokenizer.json").is_file()


MEASURE = """
import sys
from pathlib import Path
from uniadgen.model.convert import convert_janus
peaks = []
for source in sys.argv[1:3]:
    convert_janus(Path(source), Path(sys.argv[3]), "hf", shard_bytes=40 * 10**6, advance=lambda name: None)
    status = Path("/proc/self/status").read_text()  # getrusage may tell the memory of who started this
    peaks.append(1024 * int(status.partition("VmHWM:")[2].split()[0]))
print(peaks[1] - peaks[0])
"""


def test_memory_stays_below_a_shard_read_and_a_shard_written(
    config: UniAdGenConfig, original: Path, tmp_path: Path
) -> None:
    """400 MB in shards of 100 MB: at most 1.3 of them and the shard of 40 MB that is written are held."""
    large = tmp_path / "large"
    shutil.copytree(original, large)
    for path in shards(original):
        held = load_file(path)
        grow = {n: t for n, t in held.items() if n.startswith("language_model.model.layers.")}
        save_file({n: t for n, t in held.items() if n not in grow}, large / path.name)
    width, inner = 64, 64 * 130
    sizes = {"q": (width, width), "k": (width, width), "v": (width, width), "o": (width, width)}
    names = {f"self_attn.{letter}_proj.weight": size for letter, size in sizes.items()}
    names |= {
        "mlp.gate_proj.weight": (inner, width),
        "mlp.up_proj.weight": (inner, width),
        "mlp.down_proj.weight": (width, inner),
    }
    names |= {"input_layernorm.weight": (width,), "post_attention_layernorm.weight": (width,)}
    index = json.loads((large / "model.safetensors.index.json").read_text())["weight_map"]
    index = {name: file for name, file in index.items() if not name.startswith("language_model.model.layers.")}
    for shard in range(4):
        layers = {
            f"language_model.model.layers.{shard * 16 + i}.{n}": torch.ones(size)
            for i in range(16)
            for n, size in names.items()
        }
        save_file(layers, large / f"layers-{shard}.safetensors")
        index |= dict.fromkeys(layers, f"layers-{shard}.safetensors")
    (large / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    largest = max(path.stat().st_size for path in shards(large))
    assert largest > 95 * 10**6
    run = [sys.executable, "-c", MEASURE, str(original), str(large), str(tmp_path / "out")]
    measured = subprocess.run(run, capture_output=True, text=True, check=True)
    assert int(measured.stdout) < 1.3 * largest + 40 * 10**6


# what is wrong is named, and nothing is written


def edit(folder: Path, change) -> None:
    """Rewrites one tensor of a folder of shards."""
    for path in shards(folder):
        held = load_file(path)
        if change(held):
            save_file(held, path)
            return
    raise AssertionError("no shard was changed")


EMBED = "gen_embed.weight"
WRONG = {
    "missing": (
        lambda held: held.pop(EMBED, None) is not None,
        "gen_embed|model.generation_embeddings.weight is missing",
    ),
    "extra": (
        lambda held: held.update({"language_model.model.norm.bias": torch.zeros(2)}) is None,
        r"norm\.bias is not expected",
    ),
    "unknown": (
        lambda held: held.update({"hello.weight": torch.zeros(2)}) is None,
        r"hello\.weight is no tensor of a Janus",
    ),
    "shape": (
        lambda held: EMBED in held and held.update({EMBED: torch.zeros(5, 8)}) is None,
        r"model\.generation_embeddings\.weight has shape \(5, 8\), expected \(256, 8\)",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_tensor_is_named_and_nothing_written(original: Path, tmp_path: Path, case: str) -> None:
    change, message = WRONG[case]
    edit(original, change)
    with pytest.raises(ValueError, match=message):
        convert.convert_janus(original, tmp_path / "hf")
    assert not list(tmp_path.glob("hf*"))


def test_a_missing_shard_is_named(original: Path, tmp_path: Path) -> None:
    gone = shards(original)[1]
    gone.unlink()
    with pytest.raises(ValueError, match=f"{gone.name} missing, expected all"):
        convert.convert_janus(original, tmp_path / "hf")


def test_a_shard_that_was_cut_short_is_named(original: Path, tmp_path: Path) -> None:
    cut = shards(original)[1]
    cut.write_bytes(cut.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{cut.name}: damaged or cut short"):
        convert.convert_janus(original, tmp_path / "hf")
    assert not list(tmp_path.glob("hf*"))


class Bomb:
    """What a pickle can do to whoever opens it."""

    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


@pytest.mark.parametrize("with_torch", [True, False])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, monkeypatch, with_torch: bool) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "janus" / "pytorch_model.bin"
    path.parent.mkdir()
    if with_torch:
        torch.save({"gen_embed.weight": Bomb()}, path)
    else:
        path.write_bytes(pickle.dumps({"gen_embed.weight": Bomb()}))
    with pytest.raises(ValueError, match=r"holds more than tensors|damaged"):
        convert.convert_janus(path.parent, tmp_path / "hf")
    assert not Path("exploded").exists()


def test_an_index_cannot_name_a_file_outside_its_folder(original: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.safetensors").write_bytes(b"")
    index = original / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"gen_embed.weight": "../secret.safetensors"}}))
    with pytest.raises(ValueError, match=r"secret\.safetensors missing"):
        shards(original)


def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["convert", "janus", str(tmp_path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "no weights, expected model.safetensors or pytorch_model.bin" in result.output


def test_the_command_converts(original: Path, janus: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["convert", "janus", str(original), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert_same(tensors(tmp_path / "out"), tensors(janus))


def test_a_conversion_that_fails_leaves_the_old_folder(tmp_path: Path) -> None:
    with new_shards(tmp_path / "out", 10**6) as writer:
        writer.add("old", torch.ones(3))
    with pytest.raises(RuntimeError, match="stop"), new_shards(tmp_path / "out", 1):
        raise RuntimeError("stop")
    assert list(tensors(tmp_path / "out")) == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# a model on top of the bases


def test_a_base_is_taken_over_and_our_parts_are_new(config: UniAdGenConfig, janus: Path, dinov2: Path) -> None:
    model = UniAdGenForConditionalGeneration.from_base(config, janus, dinov2)
    own = model.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in tensors(janus).items())
    published = Dinov2Model.from_pretrained(dinov2).state_dict()
    for name, tensor in published.items():
        if name != "embeddings.position_embeddings":
            assert torch.equal(own[f"foreground.dinov2.{name}"], tensor), name
    assert all(tensor.isfinite().all() for tensor in own.values())
    assert (model.preference.text_position == 0).all() and (model.preference.image_extractor.position == 0).all()
    assert 0.015 < model.preference.blocks[0].qkv.weight.std() < 0.025


def test_at_first_the_product_steers_nothing(config: UniAdGenConfig, janus: Path, dinov2: Path) -> None:
    model = UniAdGenForConditionalGeneration.from_base(config, janus, dinov2)
    assert (model.foreground(torch.rand(1, 4, 32, 32)) == 0).all()


def test_a_base_of_another_size_is_named(config: UniAdGenConfig, janus: Path, dinov2: Path) -> None:
    wider = architecture(override(paper_7b(), {**SMALL, "model.intermediate_size": 256}), 0)
    with pytest.raises(ValueError, match=r"has shape \(.*\), expected \(.*\).*: this is not the base of the config"):
        UniAdGenForConditionalGeneration.from_base(wider, janus, dinov2)
    deeper = architecture(override(paper_7b(), {**SMALL, "model.num_layers": 3}), 0)
    with pytest.raises(ValueError, match=r"layers\.2\..* is missing"):
        UniAdGenForConditionalGeneration.from_base(deeper, janus, dinov2)
    larger = architecture(override(paper_7b(), {**SMALL, "model.foreground_layers": 1}), 0)
    with pytest.raises(ValueError, match=r"this is not the DINOv2 of the config"):
        UniAdGenForConditionalGeneration.from_base(larger, janus, dinov2)
    with pytest.raises(ValueError, match=r"no config\.json"):
        UniAdGenForConditionalGeneration.from_base(config, janus / "nowhere", dinov2)


def test_a_position_table_of_the_right_size_is_not_touched() -> None:
    table = torch.randn(1, 17, 8)
    assert resample_positions(table, 4) is table


def test_a_constant_position_table_stays_constant_and_the_class_token_itself() -> None:
    table = torch.full((1, 50, 8), 3.0)
    table[:, 0] = 7
    made = resample_positions(table, 4)
    assert made.shape == (1, 17, 8)
    assert (made[:, 0] == 7).all()
    torch.testing.assert_close(made[:, 1:], torch.full((1, 16, 8), 3.0))


# full size, on the meta device

BILLIONS = {"paper_7b": 7.408, "paper_1b": 2.077}


@pytest.mark.parametrize("recipe", [paper_7b, paper_1b])
def test_at_full_size_names_and_shapes_are_those_of_the_list(recipe) -> None:
    """Layers and blocks are numbered N in the lists, each shape with how often it occurs."""
    full: Config = recipe()
    with torch.device("meta"):
        model = UniAdGenForConditionalGeneration(architecture(full, 0))
    found = Counter(
        f"{re.sub(r'[.][0-9]+(?=[.])', '.N', name)} {'x'.join(map(str, tensor.shape))}"
        for name, tensor in model.state_dict().items()
    )
    listed = (PARITY / f"{full.name}_shapes.txt").read_text().splitlines()
    assert sorted(f"{count} {line}" for line, count in found.items()) == listed
    janus = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(("model.", "lm_head."))}
    published = (PARITY / "janus_hf_keys.txt").read_text().split()
    assert {re.sub(r"[.][0-9]+(?=[.])", ".N", name) for name in janus} == set(published)
    assert round(sum(tensor.numel() for tensor in janus.values()) / 1e9, 3) == BILLIONS[full.name]
