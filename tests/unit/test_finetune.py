"""Fine-tuning a base: what is trained and what is not, adapters there and back, memory, the commands."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from transformers import JanusConfig, JanusForConditionalGeneration
from typer.testing import CliRunner

from uniadgen import AdGenerator, Click
from uniadgen.__main__ import app
from uniadgen.config import Config, override
from uniadgen.data.batch import collate
from uniadgen.data.prompt import Layout
from uniadgen.data.rows import Rows
from uniadgen.data.store import Store
from uniadgen.model import adapters
from uniadgen.model.configuration import architecture
from uniadgen.model.uniadgen import UniAdGenForConditionalGeneration
from uniadgen.recipes import paper_1b, paper_7b
from uniadgen.train.finetune import prepare
from uniadgen.train.loop import train
from uniadgen.train.memory import Words, activations, estimate, skeleton

SMALL = {  # Janus-Pro's own architecture, shrunk
    "data.image_size": 32,
    "data.click_size": 16,
    "data.num_clicks": 3,
    "data.click_words": 8,
    "model.hidden_size": 64,
    "model.num_layers": 2,
    "model.num_heads": 4,
    "model.intermediate_size": 128,
    "model.vocab_size": 640,
    "model.num_codes": 64,
    "model.vq_channels": 32,
    "model.siglip_size": 64,
    "model.siglip_layers": 1,
    "model.siglip_heads": 1,
    "model.foreground_size": 48,
    "model.foreground_layers": 2,
    "model.foreground_heads": 3,
    "model.preference_heads": 4,
    "train.steps": 3,
    "train.learning_rate": 1e-3,
    "train.warmup": 0,
    "train.save_every": 2,
    "train.sample_every": 3,
    "generate.max_words": 6,
}


@pytest.fixture(scope="module")
def config() -> Config:
    return override(paper_7b(), SMALL)


@pytest.fixture(scope="module")
def make_base(config: Config, tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """A small Janus with random weights and a tokenizer, by its seed."""

    def make(seed: int) -> Path:
        folder = tmp_path_factory.mktemp("janus") / f"base-{seed}"
        torch.manual_seed(seed)
        ours = architecture(config, 0)
        text, vision, vq = (part.to_dict() for part in (ours.text_config, ours.vision_config, ours.vq_config))
        sizes = JanusConfig(text_config=text, vision_config=vision, vq_config=vq, tie_word_embeddings=False)
        JanusForConditionalGeneration(sizes).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="module")
def base(make_base) -> Path:
    return make_base(0)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six examples as a person has them: JSON lines and pictures."""
    folder = tmp_path_factory.mktemp("examples")
    for number in range(3):
        Image.new("RGB", (50, 40), (80 * number, 90, 200)).save(folder / f"ad{number}.png")
    cutout = Image.new("RGBA", (40, 40))
    ImageDraw.Draw(cutout).ellipse((8, 8, 30, 30), fill=(200, 30, 30, 255))
    cutout.save(folder / "mug.png")
    product = {"cutout": "mug.png", "description": "A red mug.", "selling_points": ["kitchen mug", "light"]}
    lines = []
    for number in range(6):
        ad = lambda i: {"picture": f"ad{i % 3}.png", "text": f"kitchen mug {i}"}  # noqa: E731
        lines.append({"product": product, "clicks": [ad(i) for i in range(number)], "target": ad(number)})
    (folder / "examples.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    return folder / "examples.jsonl"


def settings(**changes) -> list[str]:
    return [part for name, value in {**SMALL, **changes}.items() for part in ("--set", f"{name}={value}")]


def command(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def store(base: Path, examples: Path) -> Path:
    folder = examples.parent / "store"
    command("data", "encode", examples, "--base", base, "--out", folder, *settings())
    return folder


@pytest.fixture(scope="module")
def run(base: Path, dinov2: Path, store: Path) -> Path:
    """A run of three steps by the command."""
    folder = store.parent / "run"
    command("train", "paper_7b", "--base", base, "--dinov2", dinov2, "--data", store, "--out", folder, *settings())
    return folder


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "model" / "metrics.jsonl").read_text().splitlines()]


def trained_names(model: torch.nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


# what is trained


def test_lora_is_on_the_language_models_attention_and_nowhere_else(config: Config, base: Path, dinov2: Path) -> None:
    model, _ = prepare(config, base, dinov2)
    names = trained_names(model)
    lora = {name for name in names if ".lora_" in name}
    assert len(lora) == config.model.num_layers * 4 * 2
    assert all(re.match(r"model\.language_model\.layers\.\d\.self_attn\.[qkvo]_proj\.", name) for name in lora)
    rest = {name for name in names - lora if not name.startswith(adapters.OURS)}
    assert all(name.endswith("trainable_tokens_delta.default") for name in rest) and len(rest) == 2
    ours = {name for name, _ in model.named_parameters() if name.startswith(adapters.OURS)}
    assert ours - names == {"foreground.dinov2.embeddings.mask_token"}
    kinds = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert all(kinds[name] == torch.float32 for name in names)
    assert all(kinds[name] == torch.bfloat16 for name in kinds.keys() - names if "mask_token" not in name)


def test_full_size_recipes_train_what_the_paper_says() -> None:
    for recipe, heads in ((paper_7b, 30), (paper_1b, 24)):
        config = recipe()
        assert (config.model.lora_rank, config.model.lora_alpha, config.train.learning_rate) == (12, 32, 5e-5)
        model = skeleton(config)
        width = config.model.hidden_size
        lora = sum(p.numel() for name, p in model.named_parameters() if ".lora_" in name and p.requires_grad)
        assert lora == heads * 4 * 2 * 12 * width
        rows = sum(p.numel() for name, p in model.named_parameters() if "trainable_tokens" in name and p.requires_grad)
        assert rows == 2 * 6 * width


def test_a_step_changes_what_is_trained_and_nothing_else(run: Path, config: Config, base: Path, dinov2: Path) -> None:
    before, _ = prepare(config, base, dinov2)
    lora = load_file(run / "adapter" / adapters.ADAPTER)
    assert all(tensor.isfinite().all() for tensor in lora.values())
    assert all(tensor.any() for name, tensor in lora.items() if "lora_B" in name)  # it started at zero
    modules = load_file(run / "adapter" / adapters.MODULES)
    still = {name for name, tensor in modules.items() if torch.equal(tensor, before.state_dict()[name])}
    assert still == {"foreground.dinov2.embeddings.mask_token"}


def test_a_run_leaves_metrics_samples_config_and_a_card(run: Path, config: Config) -> None:
    assert len(metrics(run)) == 3
    assert (run / "model" / "sample-000003.png").is_file()
    assert Config.load(run / "adapter" / "recipe.json") == config
    card = (run / "adapter" / "README.md").read_text()
    assert "rank 12" in card and "DeepSeek" in card


def test_a_run_that_is_done_is_not_done_again(run: Path, base: Path, dinov2: Path, store: Path) -> None:
    before = (run / "adapter" / adapters.MODULES).read_bytes()
    command("train", "paper_7b", "--base", base, "--dinov2", dinov2, "--data", store, "--out", run, *settings())
    assert (run / "adapter" / adapters.MODULES).read_bytes() == before


def test_checkpointing_changes_no_gradient(
    config: Config, base: Path, dinov2: Path, store: Path, tmp_path: Path
) -> None:
    norms = []
    for checkpointing in (False, True):
        changed = override(config, {"train.checkpointing": checkpointing, "train.steps": 1, "train.bfloat16": False})
        model, layout = prepare(changed, base, dinov2)
        rows = Rows(changed, layout, Store(store, changed))
        folder = tmp_path / str(checkpointing)
        train(model, rows.batches, changed.train, folder, what="model")
        norms.append(json.loads((folder / "metrics.jsonl").read_text())["norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_two_processes_fine_tune_in_half_precision(run: Path, base: Path, dinov2: Path, store: Path) -> None:
    """Frozen bfloat16, trained float32, LoRA and the rows of new tokens, all of it sharded."""
    folder = run.with_name("sharded")
    words = ("train", "paper_7b", "--base", base, "--dinov2", dinov2, "--data", store, "--out", folder, *settings())
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "uniadgen"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, *map(str, words)], check=False, capture_output=True, text=True, timeout=240, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"adapter: {folder / 'adapter'}\n"
    for alone, shared in zip(*(metrics(path) for path in (run, folder)), strict=True):
        assert shared["total"] == pytest.approx(alone["total"], rel=0.01)  # each draws noise of its own
    shapes = [{n: t.shape for n, t in load_file(path / "adapter" / adapters.MODULES).items()} for path in (run, folder)]
    assert shapes[0] == shapes[1]


# adapters there and back


def logits(model: UniAdGenForConditionalGeneration, batch) -> torch.Tensor:
    with torch.no_grad():
        return model.text_logits(model.eval().read(batch, model.prefer(batch)).float())


@pytest.fixture
def merged(run: Path, config: Config, base: Path, tokenizer) -> UniAdGenForConditionalGeneration:
    layout = Layout(tokenizer, config)
    model = UniAdGenForConditionalGeneration.from_base(architecture(config, layout.pad_id), base, None)
    adapters.merge(model, run / "adapter", base)
    return model


def test_the_merged_model_says_what_the_adapted_one_says(
    merged, run: Path, config: Config, base: Path, dinov2: Path, store: Path
) -> None:
    exact = override(config, {"train.bfloat16": False})
    adapted, layout = prepare(exact, base, dinov2)
    own = dict(adapted.named_parameters())
    with torch.no_grad():
        for name, tensor in load_file(run / "adapter" / adapters.ADAPTER).items():
            name = name.removeprefix("base_model.model.")
            name = name.replace(".weight", ".default.weight") if ".lora_" in name else f"{name}.default"
            own[name].copy_(tensor)
        for name, tensor in load_file(run / "adapter" / adapters.MODULES).items():
            own[name].copy_(tensor)
    batch = Rows(override(exact, {"train.rows_at_once": 0}), layout, Store(store, exact)).batches(0)[0]
    seen = batch.attend
    torch.testing.assert_close(logits(merged, batch)[seen], logits(adapted, batch)[seen], rtol=1e-4, atol=1e-4)


def test_unmerged_it_is_the_base_again(merged, run: Path, config: Config, base: Path) -> None:
    adapters.unmerge(merged, run / "adapter")
    plain = UniAdGenForConditionalGeneration.from_base(merged.config, base, None).state_dict()
    for name, tensor in merged.state_dict().items():
        if ".self_attn." in name and "language_model" in name:
            torch.testing.assert_close(tensor, plain[name], rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's own
def test_peft_reads_the_adapter_on_plain_janus(run: Path, merged, base: Path) -> None:
    janus = JanusForConditionalGeneration.from_pretrained(base)
    read = PeftModel.from_pretrained(janus, str(run / "adapter")).merge_and_unload().state_dict()
    for name, tensor in merged.state_dict().items():
        if not name.startswith(adapters.OURS):
            torch.testing.assert_close(read[name], tensor, rtol=1e-5, atol=1e-6, msg=name)


def test_the_merged_folder_makes_ads(run: Path, base: Path, product, clicks: tuple[Click, ...], tmp_path: Path) -> None:
    command("merge", run / "adapter", "--base", base, "--out", tmp_path / "own")
    ad = AdGenerator.from_pretrained(tmp_path / "own").generate(product, clicks, seed=1)
    assert ad.painted.size == (32, 32)


def test_tokens_that_a_tokenizer_lacks_are_added_and_need_room(tokenizer) -> None:
    assert adapters.with_special_tokens(tokenizer, 640) is tokenizer
    with pytest.raises(ValueError, match=r"expected at most model\.vocab_size = 100"):
        adapters.with_special_tokens(tokenizer, 100)


# what a person may hand in by mistake


def refused(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 2, result.output
    said = [line for line in result.output.strip().splitlines() if not line.endswith(" left")]  # without bars
    assert len(said) == 1
    return result.output


def test_an_adapter_of_another_base_is_refused(run: Path, make_base, tmp_path: Path) -> None:
    said = refused("merge", run / "adapter", "--base", make_base(1), "--out", tmp_path / "own")
    assert "this adapter was trained on another base" in said
    assert not list(tmp_path.iterdir())


def test_an_adapter_that_is_not_whole_is_refused(run: Path, base: Path, tmp_path: Path) -> None:
    said = refused("merge", tmp_path, "--base", base, "--out", tmp_path / "own")
    assert "expected the folder of an adapter" in said
    folder = tmp_path / "adapter"
    folder.mkdir()
    for path in (run / "adapter").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / adapters.ADAPTER)
    tensors.pop(next(name for name in tensors if "lora_A" in name))
    save_file(tensors, folder / adapters.ADAPTER)
    assert "has LoRA for" in refused("merge", folder, "--base", base, "--out", tmp_path / "own")
    (folder / adapters.MODULES).write_bytes((run / "adapter" / adapters.MODULES).read_bytes()[:-100])
    (folder / adapters.ADAPTER).write_bytes((run / "adapter" / adapters.ADAPTER).read_bytes())
    assert "damaged or cut short" in refused("merge", folder, "--base", base, "--out", tmp_path / "own")


def test_a_store_of_another_vq_is_refused(store: Path, make_base, dinov2: Path, tmp_path: Path) -> None:
    words = ("train", "paper_7b", "--dinov2", dinov2, "--data", store, "--out", tmp_path / "run", *settings())
    assert "was coded with the VQ of another base" in refused(*words, "--base", make_base(2))
    assert "expected --base, --dinov2 and --data" in refused(*words)


def test_a_base_of_another_size_is_refused(store: Path, base: Path, dinov2: Path, tmp_path: Path) -> None:
    wider = settings(**{"model.intermediate_size": 256})
    words = ("train", "paper_7b", "--base", base, "--dinov2", dinov2, "--data", store, "--out", tmp_path / "run")
    assert "this is not the base of the config" in refused(*words, *wider)


PRODUCT = '{"product": {"cutout": "CUTOUT.png", "description": "x", "selling_points": ["y"]}, '


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: expected an object"),
        ('{"product": {"cutout": "mug.png"}}', "line 2: expected an object"),
        (
            PRODUCT.replace("CUTOUT", "gone") + '"clicks": [], "target": {"picture": "ad0.png", "text": "t"}}',
            "gone.png",
        ),
        (
            PRODUCT.replace("CUTOUT", "mug") + '"clicks": [{"text": "t"}], "target": {}}',
            "line 2, click 1 has no picture",
        ),
    ],
)
def test_a_line_that_is_wrong_is_named(base: Path, examples: Path, tmp_path: Path, line: str, said: str) -> None:
    broken = examples.parent / "broken.jsonl"
    broken.write_text(examples.read_text().splitlines()[0] + "\n" + line + "\n")
    output = refused("data", "encode", broken, "--base", base, "--out", tmp_path / "store", *settings())
    assert said in output


# memory


def test_the_estimate_is_what_a_step_really_takes(config: Config, base: Path, dinov2: Path, store: Path) -> None:
    """Bytes of tensors on CPU: weights, gradients and optimizer states to the byte, kept activations within 20 %."""
    changed = override(config, {"train.checkpointing": False, "train.rows_at_once": 0, "data.history_dropout": 0.0})
    model, layout = prepare(changed, base, dinov2)
    rows = Rows(changed, layout, Store(store, changed))
    full = [row for row in map(rows.row, range(20)) if len(row.click_ids) == changed.data.num_clicks]
    changed = override(changed, {"train.batch_size": len(full)})
    batch = collate(full, layout.pad_id)
    kept: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.autocast("cpu", torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        loss = model.train().loss(batch, torch.Generator().manual_seed(0)).total
    loss.backward()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    optimizer.step()
    predicted = estimate(changed, skeleton(changed), 1)
    vq = sum(p.numel() * p.element_size() for p in model.model.vqmodel.parameters())
    assert predicted.weights == sum(p.numel() * p.element_size() for p in model.parameters()) - vq
    assert predicted.gradients == sum(p.grad.numel() * 4 for p in model.parameters() if p.grad is not None)
    states = [held for state in optimizer.state.values() for name, held in state.items() if name != "step"]
    assert predicted.optimizer == sum(held.numel() * held.element_size() for held in states)
    text = int(batch.text_loss.sum()) // len(full)
    titles, cells = int(batch.click_words.sum()), int(batch.clicked.sum()) * changed.click_cells
    prompt = batch.attend.shape[1] - text - titles // len(full) - cells // len(full) - changed.cells
    request = Words(prompt, text, titles // len(full) // changed.data.num_clicks)
    assert activations(changed, 1, request) == pytest.approx(sum(kept.values()), rel=0.2)
