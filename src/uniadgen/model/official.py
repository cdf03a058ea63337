"""The authors' released checkpoint: its tensors under our names, its LoRA merged into the base."""

import math
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from uniadgen.config import Config
from uniadgen.data.release import NEW_TOKENS, Prompts, layout_of
from uniadgen.model.configuration import architecture
from uniadgen.model.convert import Renaming, Tensors, inspect, joined, read_as_hf
from uniadgen.model.foreground import resample_positions
from uniadgen.model.shards import SHARD_BYTES, check_tensors, new_shards, read, read_shapes
from uniadgen.model.uniadgen import UniAdGenForConditionalGeneration
from uniadgen.model.weights import read_tokenizer, save_settings

PREFIX = "vl_gpt.base_model.model."
RANK = 16  # of LoRA in the release's configuration; the tensors are believed
ALPHA = 32  # of LoRA; not stored in the checkpoint, so it is what the release's configuration says

# The release's name, ours.
NAMES = (
    ("language_model.model.embed_tokens.weight", "model.language_model.embed_tokens.weight"),
    (
        "language_model.model.adapter.model.encoder.layer.#.attention.attention.query.*",
        "foreground.dinov2.encoder.layer.#.attention.q_proj.*",
    ),
    (
        "language_model.model.adapter.model.encoder.layer.#.attention.attention.key.*",
        "foreground.dinov2.encoder.layer.#.attention.k_proj.*",
    ),
    (
        "language_model.model.adapter.model.encoder.layer.#.attention.attention.value.*",
        "foreground.dinov2.encoder.layer.#.attention.v_proj.*",
    ),
    (
        "language_model.model.adapter.model.encoder.layer.#.attention.output.dense.*",
        "foreground.dinov2.encoder.layer.#.attention.o_proj.*",
    ),
    ("language_model.model.adapter.model.*", "foreground.dinov2.*"),
    ("language_model.model.adapter_mlp.newfc1.*", "foreground.control_layers.0.*"),
    ("language_model.model.adapter_mlp.newfc2.*", "foreground.control_layers.2.*"),
    ("language_model.model.condition_mlp.cap_proj.newfc1.*", "foreground.condition_layers.0.*"),
    ("language_model.model.condition_mlp.cap_proj.newfc2.*", "foreground.condition_layers.2.*"),
    ("language_model.model.condition_layers.#.newfc1.*", "foreground.site_layers.#.0.*"),
    ("language_model.model.condition_layers.#.newfc2.*", "foreground.site_layers.#.2.*"),
    ("visual_mask_generator.base_transformer.pos_encoding", "preference.image_extractor.position"),
    ("text_mask_generator.base_transformer.pos_encoding", "preference.text_extractor.position"),
    *(
        (f"{theirs}_mask_generator.{inner}", f"preference.{ours}_extractor.{name}")
        for theirs, ours in (("visual", "image"), ("text", "text"))
        for inner, name in (
            ("base_transformer.transformer_layers.#.attn.proj.*", "blocks.#.out.*"),
            ("base_transformer.transformer_layers.#.qkv.*", "blocks.#.qkv.*"),
            ("base_transformer.transformer_layers.#.*", "blocks.#.*"),
            ("similarity_mask_layer.output_projection.*", "out.*"),
            ("similarity_mask_layer.layer_norm.*", "norm.*"),
        )
    ),
    ("dual_modality_fusion_encoder.image_pos_encoding", "preference.image_position"),
    ("dual_modality_fusion_encoder.text_pos_encoding", "preference.text_position"),
    ("dual_modality_fusion_encoder.modality_embeddings.*", "preference.modality.*"),
    ("dual_modality_fusion_encoder.proj.#.*", "preference.ff.#.*"),
    ("dual_modality_fusion_encoder.cross_modal_layers.#.attn.proj.*", "preference.blocks.#.out.*"),
    ("dual_modality_fusion_encoder.cross_modal_layers.#.*", "preference.blocks.#.*"),
    ("dual_modality_fusion_encoder.final_norm.*", "preference.norm.*"),
    ("dual_modality_fusion_encoder.output_proj.*", "preference.out.*"),
)
_RENAMING = Renaming(NAMES)
_POSITIONS = "foreground.dinov2.embeddings.position_embeddings"
_QKV = re.compile(r"(?P<block>.+)\.attn\.(?P<part>query|key|value)\.(?P<kind>weight|bias)")
_LORA = re.compile(
    r"language_model\.model\.(?P<target>layers\.\d+\.self_attn\.[qkvo]_proj)\.lora_(?P<half>[AB])\.default\.weight"
)


def to_ours(tensors: Tensors) -> Tensors:
    """The release's tensors, prefix gone, under our names; LoRA's as NAME.lora_A and NAME.lora_B."""
    for name, tensor in joined(tensors, _QKV, ("query", "key", "value"), "{block}.qkv.{kind}"):
        lora = _LORA.fullmatch(name)
        renamed = f"model.language_model.{lora['target']}.lora_{lora['half']}" if lora else _RENAMING.there(name)
        if renamed is None:
            raise ValueError(f"{name} is no tensor of the released checkpoint that we know")
        is_table = renamed.endswith("position")  # (1, P, D) there
        yield renamed, tensor.squeeze(0) if is_table else tensor


def merge_lora(weight: Tensor, a: Tensor, b: Tensor, alpha: float = ALPHA) -> Tensor:
    """W + alpha / r B A, computed and kept in float32; r is read from the tensors (r, D) and (D, r)."""
    return weight.float() + alpha / len(a) * (b.float() @ a.float())


def merged(base: Tensors, own: Mapping[str, Tensor]) -> Tensors:
    """The base's tensors, LoRA merged in and replaced where the release trained them itself, then what is new."""
    used = set()
    for name, tensor in base:
        stem = name.removesuffix(".weight")
        if name in own:
            used.add(name)
            yield name, own[name]
        elif f"{stem}.lora_A" in own:
            used |= {f"{stem}.lora_A", f"{stem}.lora_B"}
            yield name, merge_lora(tensor, own[f"{stem}.lora_A"], own[f"{stem}.lora_B"])
        else:
            yield name, tensor
    for name in own.keys() - used:
        if ".lora_" in name:
            raise ValueError(
                f"{name} has no counterpart in the base, expected the base that the release was trained on"
            )
        yield name, own[name]


@torch.no_grad()
def convert_official(
    checkpoint: Path,
    base: Path,
    prompts: Prompts,
    out: Path,
    config: Config,
    *,
    shard_bytes: int = SHARD_BYTES,
    advance: Callable[[str], None] = print,
) -> None:
    """Writes a folder of weights from the released checkpoint and its base, a folder of Janus-Pro in either layout.

    First all names and shapes of both are compared with the model of `config`: `ValueError` names what is missing,
    extra or of another shape, and nothing is written. Then one tensor at a time is held, and a shard. `advance` is told
    of each shard of the base and of the checkpoint.
    """
    if out.resolve() == base.resolve():
        raise ValueError(f"{out} is also what is read, expected another folder: choose another --out")
    tokenizer = extended_tokenizer(base, config.model.vocab_size)
    layout = layout_of(tokenizer, config, prompts)
    model_config = architecture(config, layout.pad_id)
    with torch.device("meta"):
        whole = {n: tuple(t.shape) for n, t in UniAdGenForConditionalGeneration(model_config).state_dict().items()}
    own = {name: shape for name, shape in whole.items() if not name.startswith(("model.", "lm_head."))}
    original, found = inspect(base)
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    check_tensors(base, shapes, {n: s for n, s in whole.items() if n not in own}, "this is not the base of the config")
    check_checkpoint(checkpoint, config, own)
    trained = {name: tensor for name, tensor in read_as_ours(checkpoint) if name not in own}
    side = math.isqrt(own[_POSITIONS][1] - 1)
    with new_shards(out, shard_bytes) as writer:
        for name, tensor in merged(read_as_hf(base, original, advance), trained):
            writer.add(name, tensor)
        for name, tensor in read_as_ours(checkpoint):
            if name in own:
                writer.add(name, resample_positions(tensor, side) if name == _POSITIONS else tensor)
        advance(checkpoint.name)
        save_settings(writer.folder, model_config, layout)
        for path in base.glob("LICENSE*"):
            shutil.copy(path, writer.folder)


def read_as_ours(checkpoint: Path) -> Tensors:
    """The checkpoint's tensors by our names; the file is mapped, so that they take no memory until they are used."""
    return to_ours((name.removeprefix(PREFIX), tensor.detach()) for name, tensor in read(checkpoint))


def check_checkpoint(checkpoint: Path, config: Config, own: Mapping[str, tuple[int, ...]]) -> None:
    """Compares the checkpoint with what `expected_tensors` says, for the LoRA rank and the position table it has."""
    if not checkpoint.is_file():
        raise ValueError(f"{checkpoint}: no such file, expected the authors' trainable_model_parameters.pth")
    found = {name: tuple(tensor.shape) for name, tensor in read_shapes(checkpoint)}
    rank = next((shape[0] for name, shape in found.items() if name.endswith("lora_A.default.weight")), RANK)
    expected = expected_tensors(config, own, rank)
    table = next(name for name in expected if name.endswith(_POSITIONS.removeprefix("foreground.dinov2")))
    length = found.get(table, (1, 0))[1]
    if length > 1 and math.isqrt(length - 1) ** 2 == length - 1:  # any grid of patches: it is resampled
        expected[table] = (1, length, expected[table][2])
    check_tensors(checkpoint, found, expected, "this is not the released checkpoint of the config")


def expected_tensors(config: Config, own: Mapping[str, tuple[int, ...]], rank: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the released checkpoint, for a model whose tensors outside of its base are `own`."""
    width, layers = config.model.hidden_size, "language_model.model.layers"
    expected: dict[str, tuple[int, ...]] = {
        "language_model.model.embed_tokens.weight": (config.model.vocab_size, width)
    }
    for layer in range(config.model.num_layers):
        for part in "qkvo":
            lora = f"{layers}.{layer}.self_attn.{part}_proj.lora"
            expected |= {f"{lora}_A.default.weight": (rank, width), f"{lora}_B.default.weight": (width, rank)}
    for name, shape in own.items():
        theirs = _RENAMING.back(name)
        assert theirs is not None, f"{name} has a name there"
        if ".qkv." in theirs:
            parts = (theirs.replace(".qkv.", f".attn.{part}.") for part in ("query", "key", "value"))
            expected |= dict.fromkeys(parts, (shape[0] // 3, *shape[1:]))
        else:
            expected[theirs] = (1, *shape) if name.endswith("position") else shape
    return {PREFIX + name: shape for name, shape in expected.items()}


def extended_tokenizer(base: Path, vocab_size: int) -> PreTrainedTokenizerBase:
    """The base's tokenizer with the release's tokens, whose ids are the rows of the embeddings that it trained."""
    tokenizer = read_tokenizer(base)
    tokenizer.add_tokens(list(NEW_TOKENS), special_tokens=True)
    if len(tokenizer) > vocab_size:
        raise ValueError(f"{base}: the tokenizer has {len(tokenizer)} tokens, expected at most {vocab_size}")
    return tokenizer
