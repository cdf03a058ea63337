"""The variant `release` against the outputs of the authors' own modules at tiny size.

The fixtures hold random numbers and what became of them, no code; made with the release at commit 4748701 on CPU.
"""

import json
from pathlib import Path

import pytest
import torch
from transformers import Dinov2Config, DynamicCache, LlamaConfig, LlamaModel
from transformers.models.janus.configuration_janus import JanusVisionConfig, JanusVQVAEConfig

from uniadgen.model import official, preference
from uniadgen.model.configuration import UniAdGenConfig, architecture
from uniadgen.model.foreground import ReleaseForeground, hook_control, resample_positions
from uniadgen.model.preference import Fused, ReleasePreference, feed_forward
from uniadgen.model.uniadgen import UniAdGenForConditionalGeneration
from uniadgen.recipes import official_7b

HERE = Path(__file__).parent
TOLERANCE = {"atol": 1e-5, "rtol": 0}


def config_of(**changes) -> UniAdGenConfig:
    """The smallest configuration of the variant; what a test needs differently is given."""
    options = {
        "text_config": LlamaConfig(hidden_size=32, num_hidden_layers=2),
        "vision_config": JanusVisionConfig(),
        "vq_config": JanusVQVAEConfig(),
        "variant": "release",
        **changes,
    }
    return UniAdGenConfig(**options)


# preference modules


@pytest.fixture(scope="module")
def fixture() -> dict:
    return torch.load(HERE / "preference.pt", weights_only=True)


@pytest.fixture
def module(fixture: dict) -> ReleasePreference:
    """Our modules with the fixture's weights; without dropout, as the fixtures of training mode are."""
    sizes = fixture["config"]
    made = ReleasePreference(
        config_of(
            preference_heads=sizes["n_head"],
            extractor_layers=sizes["mask_layers"],
            fusion_layers=sizes["fusion_layers"],
            keep_rate=sizes["token_keep_rate"],
            gumbel_at_inference=True,
            max_click_words=sizes["n_text_token"],
            max_click_cells=sizes["n_image_token"],
        )
    )
    for block in [m for m in made.modules() if isinstance(m, preference.Block)]:
        block.ff = feed_forward(sizes["emb_dim"], "quick_gelu", sizes["ff_dim"])
        block.dropout = 0.0
    made.ff = feed_forward(sizes["emb_dim"], "quick_gelu", sizes["ff_dim"])
    made.load_state_dict(dict(ours(fixture["state_dict"])))
    return made.eval()


def ours(state: dict) -> official.Tensors:
    """The fixture's three modules under our names."""
    prefixes = {
        "visual": "visual_mask_generator.",
        "text": "text_mask_generator.",
        "fusion": "dual_modality_fusion_encoder.",
    }
    theirs = ((prefixes[part] + name, tensor) for part in prefixes for name, tensor in state[part].items())
    return ((name.removeprefix("preference."), tensor) for name, tensor in official.to_ours(theirs))


def run(module: ReleasePreference, image, text, noise, monkeypatch) -> Fused:
    """Feeds the recorded noise, visual first; no mask for padding, as the release has none."""
    draws = iter(noise or ())
    zero = lambda like, valid, generator: torch.zeros_like(like)  # noqa: E731
    recorded = lambda like, valid, generator: next(draws).view_as(like)  # noqa: E731
    monkeypatch.setattr(preference, "gumbel", recorded if noise else zero)
    words = torch.ones(text.shape[:3], dtype=torch.bool)
    return module(text, words, image, torch.ones(image.shape[:2], dtype=torch.bool))


@pytest.mark.parametrize("case", ["eval_noise_seed1234", "eval_no_noise", "short", "long"])
def test_preference_modules_are_the_releases(fixture, module, monkeypatch, case: str) -> None:
    expected = fixture["results"][case]
    image = expected.get("image", fixture["image_tokens"])
    text = expected.get("text", fixture["text_tokens"])
    fused = run(module, image, text, expected.get("noise"), monkeypatch)
    for part, selection in (("visual", fused.image_selection), ("text", fused.text_selection)):
        scores = expected[f"{part}_similarity"].flatten(1)
        torch.testing.assert_close(selection.scores, scores, **TOLERANCE)
        torch.testing.assert_close(selection.mask, expected[f"{part}_mask"].flatten(1), **TOLERANCE)
        torch.testing.assert_close(selection.tokens, expected[f"{part}_out"].flatten(1, 2), **TOLERANCE)
    torch.testing.assert_close(fused.image, expected["fused_image"], **TOLERANCE)
    torch.testing.assert_close(fused.text, expected["fused_text"], **TOLERANCE)


@pytest.mark.parametrize("case", ["train_no_dropout_no_noise", "train_no_dropout_noise_seed1234"])
def test_gradients_are_the_releases(fixture, module, monkeypatch, case: str) -> None:
    expected = fixture["results"][case]
    image = fixture["image_tokens"].clone().requires_grad_()
    text = fixture["text_tokens"].clone().requires_grad_()
    fused = run(module.train(), image, text, expected.get("noise"), monkeypatch)
    joint = torch.cat([fused.image.flatten(1, 2), fused.text.flatten(1, 2)], dim=1)
    torch.testing.assert_close(joint, expected["fused"], **TOLERANCE)
    weight = fixture["results"]["train_no_dropout_no_noise"]["loss_weight"]
    (joint * weight).sum().backward()
    # Sums of many float32 terms: 1e-5 of their size.
    for ours_, theirs in ((image.grad, expected["grad_image"]), (text.grad, expected["grad_text"])):
        torch.testing.assert_close(ours_, theirs, atol=1e-5 * theirs.abs().max().item(), rtol=0)
    for name, gradient in ours(expected["param_grads"]) if "param_grads" in expected else ():
        found = module.get_parameter(name).grad
        torch.testing.assert_close(found, gradient, atol=1e-5 * max(1, gradient.abs().max().item()), rtol=0)


def test_the_variant_drops_out_in_training_only(module) -> None:
    block = preference.blocks(config_of(preference_heads=4), 1)[0]
    x, valid = torch.randn(1, 5, 32), torch.ones(1, 5, dtype=torch.bool)
    assert torch.equal(block.eval()(x, valid), block(x, valid))
    assert not torch.equal(block.train()(x, valid), block(x, valid))


# the conditioned decoder


@pytest.fixture(scope="module")
def recorded() -> dict:
    return torch.load(HERE / "decoder.pt", weights_only=True)


@pytest.fixture(scope="module")
def parts(recorded: dict) -> tuple[LlamaModel, ReleaseForeground]:
    """A stock Llama with our hooks, and the foreground, with the fixture's weights."""
    sizes, dino, control = (dict(recorded[name]) for name in ("llama_config", "dino_config", "control"))
    theta = sizes.pop("rope_theta")
    llama = LlamaConfig(**sizes, rope_parameters={"rope_type": "default", "rope_theta": theta})
    dino["image_size"] = 56  # 4 x 4 patches; the stored table is of 7 x 7
    config = config_of(
        text_config=llama,
        foreground_config=Dinov2Config(**dino, num_channels=3),
        control_every=control["every"],
        control_strength=control["strength_infer"],
    )
    decoder, foreground = LlamaModel(llama), ReleaseForeground(config)
    hook_control(decoder.layers, config)
    state = {}
    for name, tensor in recorded["state_dict"].items():
        if not name.startswith(("condition_projection.", "condition_mlp.uncond")):  # neither is used
            state[f"language_model.model.{name}"] = tensor
    own = [
        name
        for name in state
        if not name.startswith("language_model.model.layers.") and not name.endswith(".norm.weight")
    ]
    renamed = dict(official.to_ours((name, state.pop(name)) for name in own))
    words = renamed.pop("model.language_model.embed_tokens.weight")
    decoder.load_state_dict(
        {"embed_tokens.weight": words, **{n.removeprefix("language_model.model."): t for n, t in state.items()}}
    )
    table = "foreground.dinov2.embeddings.position_embeddings"
    renamed[table] = resample_positions(renamed[table], 4)
    foreground.load_state_dict({name.removeprefix("foreground."): tensor for name, tensor in renamed.items()})
    return decoder.eval(), foreground.eval()


def spread(control: torch.Tensor, first: int) -> torch.Tensor:
    """Control of cell i where code i is predicted; the first is predicted at the last position of the prompt."""
    return torch.nn.functional.pad(control, (0, 0, first - 1, 1))


def white(recorded: dict) -> torch.Tensor:
    """The fixture's composited picture as an opaque cut-out, in [0, 1]."""
    pixels = (recorded["condition"] + 1) / 2
    return torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1)


@torch.no_grad()
def test_the_control_is_the_releases(recorded: dict, parts) -> None:
    _, foreground = parts
    expected = recorded["results"]["control_branch"]
    torch.testing.assert_close(foreground._resize(white(recorded)[:, :3]) * 2 - 1, expected["dino_input"], **TOLERANCE)
    features = foreground.dinov2(expected["dino_input"]).last_hidden_state[:, 1:]
    torch.testing.assert_close(features, expected["dino_features"], **TOLERANCE)
    sites = foreground._control(expected["dino_features"]).unflatten(-1, (2, 64)).permute(2, 0, 1, 3)
    torch.testing.assert_close(sites[:, :, 1:], expected["per_layer_control"][:, :, :-1], **TOLERANCE)
    assert (sites[:, :, 0] == 0).all()


@pytest.mark.parametrize("case", ["train_no_drop", "train_drop_seed1", "train_no_condition"])
@torch.no_grad()
def test_the_decoder_in_training_is_the_releases(recorded: dict, parts, case: str) -> None:
    """All positions but the last: the release adds the last cell's control there, and nothing is predicted from it."""
    decoder, foreground = parts
    expected = recorded["results"][case]
    control = spread(foreground.train()(white(recorded)), 10)
    foreground.eval()
    if case == "train_drop_seed1":
        control[expected["drop_ids"]] = 0
    if case == "train_no_condition":
        control = None
    embeds = torch.cat([recorded["prompt_embeds"], recorded["image_embeds"]], dim=1)
    attend = torch.nn.functional.pad(recorded["prompt_mask"], (0, 16), value=1)
    position = (attend.cumsum(-1) - 1).clamp(min=0)
    hidden = decoder(inputs_embeds=embeds, attention_mask=attend, position_ids=position, control_states=control)
    real = attend.bool()
    real[:, -1] = False
    torch.testing.assert_close(hidden.last_hidden_state[real], expected["last_hidden_state"][real], **TOLERANCE)


@pytest.mark.parametrize("case", ["inference_steps", "inference_steps_no_condition"])
@torch.no_grad()
def test_the_decoder_step_by_step_is_the_releases(recorded: dict, parts, case: str) -> None:
    """With a cache, strength 1.5, and the same control in the branch without conditions."""
    decoder, foreground = parts
    expected = recorded["results"][case]
    prompts = torch.stack([recorded["prompt_embeds"], recorded["negative_embeds"]], dim=1).flatten(0, 1)
    attend = torch.stack([recorded["prompt_mask"], recorded["negative_mask"]], dim=1).flatten(0, 1)
    control = foreground(white(recorded)).repeat_interleave(2, dim=0)
    cache = DynamicCache(config=decoder.config)
    position = (attend.cumsum(-1) - 1).clamp(min=0)
    hidden = decoder(inputs_embeds=prompts, attention_mask=attend, position_ids=position, past_key_values=cache)
    steps = [hidden.last_hidden_state[:, -1]]
    for cell in range(1, 16):
        attend = torch.nn.functional.pad(attend, (0, 1), value=1)
        own = None if case.endswith("no_condition") else control[:, cell : cell + 1]
        embeds = recorded["image_embeds"][:, cell - 1 : cell].repeat_interleave(2, dim=0)
        position = attend.sum(-1, keepdim=True) - 1
        step = decoder(
            inputs_embeds=embeds,
            attention_mask=attend,
            position_ids=position,
            past_key_values=cache,
            control_states=own,
        )
        steps.append(step.last_hidden_state[:, -1])
    torch.testing.assert_close(torch.stack(steps, dim=1), expected["step_hidden"], **TOLERANCE)


# the released checkpoint


def test_every_tensor_of_the_released_checkpoint_finds_its_place() -> None:
    """At full size, on the meta device: 627 tensors, LoRA of rank 16 on 120 matrices, and nothing of ours is left."""
    listed = json.loads((HERE / "official_checkpoint_keys.json").read_text())
    theirs = ((name.removeprefix(official.PREFIX), torch.empty(shape, device="meta")) for name, shape in listed.items())
    found = dict(official.to_ours(theirs))
    with torch.device("meta"):
        model = UniAdGenForConditionalGeneration(architecture(official_7b(), 0)).state_dict()
    table = "foreground.dinov2.embeddings.position_embeddings"
    found[table] = resample_positions(found[table], 24)
    base = {name: tensor for name, tensor in model.items() if name.startswith(("model.", "lm_head."))}
    whole = dict(official.merged(iter(base.items()), found))
    assert {name: tensor.shape for name, tensor in whole.items()} == {n: t.shape for n, t in model.items()}
    assert sum(name.endswith("lora_A") for name in found) == 120
    assert found["model.language_model.layers.29.self_attn.o_proj.lora_A"].shape == (16, 4096)


def test_the_checkpoint_that_is_expected_is_the_released_one() -> None:
    """All 627 names and shapes, from the config alone."""
    with torch.device("meta"):
        model = UniAdGenForConditionalGeneration(architecture(official_7b(), 0)).state_dict()
    own = {name: tuple(t.shape) for name, t in model.items() if not name.startswith(("model.", "lm_head."))}
    expected = official.expected_tensors(official_7b(), own, 16)
    table = next(name for name in expected if name.endswith("embeddings.position_embeddings"))
    assert expected.pop(table) == (1, 577, 384)  # ours; the released one is that of DINOv2 for 37 x 37 patches
    listed = json.loads((HERE / "official_checkpoint_keys.json").read_text())
    assert listed.pop(table) == [1, 1370, 384]
    assert expected == {name: tuple(shape) for name, shape in listed.items()}


def test_lora_is_merged_with_the_rank_of_its_tensors() -> None:
    a, b, weight = torch.randn(4, 8), torch.randn(6, 4), torch.randn(6, 8)
    torch.testing.assert_close(official.merge_lora(weight, a, b), weight + 8 * b @ a)


def test_lora_for_another_base_is_refused() -> None:
    own = {"model.language_model.layers.9.self_attn.q_proj.lora_A": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"layers\.9\.self_attn\.q_proj\.lora_A has no counterpart in the base"):
        list(official.merged(iter([]), own))
