"""The authors' released checkpoint: its tensors under our names, its LoRA merged into the base."""

import re
from collections.abc import Mapping

from torch import Tensor

from uniadgen.model.convert import Renaming, Tensors, joined

PREFIX = "vl_gpt.base_model.model."
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


def merge_lora(weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """W + alpha / r B A, computed in float32; r is read from the tensors (r, D) and (D, r)."""
    return (weight.float() + ALPHA / len(a) * (b.float() @ a.float())).to(weight.dtype)


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
