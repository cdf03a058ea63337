"""Janus checkpoints: the original layout of DeepSeek becomes that of Hugging Face, and back."""

import json
import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import JanusConfig, JanusForConditionalGeneration, LlamaConfig
from transformers.models.janus.configuration_janus import JanusVisionConfig, JanusVQVAEConfig

from uniadgen.model.shards import SHARD_BYTES, check_tensors, new_shards, read, read_shapes, shards

Tensors = Iterator[tuple[str, Tensor]]

# Original name, Hugging Face's name; `#` stands for a number, `*` for the rest. The first that fits is taken.
NAMES = (
    ("language_model.model.*", "model.language_model.*"),
    ("language_model.lm_head.*", "lm_head.*"),
    ("gen_embed.*", "model.generation_embeddings.*"),
    ("gen_aligner.layers.0.*", "model.generation_aligner.fc1.*"),
    ("gen_aligner.layers.2.*", "model.generation_aligner.hidden_layers.0.*"),
    ("aligner.layers.0.*", "model.aligner.fc1.*"),
    ("aligner.layers.2.*", "model.aligner.hidden_layers.0.*"),
    ("gen_head.output_mlp_projector.*", "model.generation_head.proj_out.*"),
    ("gen_head.vision_head.*", "model.generation_head.vision_head.*"),
    ("gen_vision_model.encoder.conv_blocks.#.res.#.*", "model.vqmodel.encoder.down.#.block.#.*"),
    ("gen_vision_model.decoder.conv_blocks.#.res.#.*", "model.vqmodel.decoder.up.#.block.#.*"),
    ("gen_vision_model.encoder.conv_blocks.#.*", "model.vqmodel.encoder.down.#.*"),
    ("gen_vision_model.decoder.conv_blocks.#.*", "model.vqmodel.decoder.up.#.*"),
    ("gen_vision_model.encoder.mid.0.*", "model.vqmodel.encoder.mid.block_1.*"),
    ("gen_vision_model.encoder.mid.1.*", "model.vqmodel.encoder.mid.attn_1.*"),
    ("gen_vision_model.encoder.mid.2.*", "model.vqmodel.encoder.mid.block_2.*"),
    ("gen_vision_model.decoder.mid.0.*", "model.vqmodel.decoder.mid.block_1.*"),
    ("gen_vision_model.decoder.mid.1.*", "model.vqmodel.decoder.mid.attn_1.*"),
    ("gen_vision_model.decoder.mid.2.*", "model.vqmodel.decoder.mid.block_2.*"),
    ("gen_vision_model.*", "model.vqmodel.*"),
    ("vision_model.vision_tower.pos_embed", "model.vision_model.embeddings.position_embedding.weight"),
    ("vision_model.vision_tower.patch_embed.proj.*", "model.vision_model.embeddings.patch_embedding.*"),
    ("vision_model.vision_tower.norm.*", "model.vision_model.post_layernorm.*"),
    (
        "vision_model.vision_tower.blocks.#.attn.proj.*",
        "model.vision_model.encoder.layers.#.self_attn.projection_layer.*",
    ),
    ("vision_model.vision_tower.blocks.#.norm1.*", "model.vision_model.encoder.layers.#.layer_norm1.*"),
    ("vision_model.vision_tower.blocks.#.norm2.*", "model.vision_model.encoder.layers.#.layer_norm2.*"),
    ("vision_model.vision_tower.blocks.#.mlp.*", "model.vision_model.encoder.layers.#.mlp.*"),
)
DROPPED = ("gen_vision_model.quantize.codebook_used", "vision_model.vision_tower.attn_pool.")  # statistics; not used
# SigLIP's queries, keys and values: one tensor in the original, three in Hugging Face's.
_QKV = re.compile(r"vision_model\.vision_tower\.blocks\.(\d+)\.attn\.qkv\.(weight|bias)")
_Q_K_V = re.compile(
    r"model\.vision_model\.encoder\.layers\.(?P<layer>\d+)\.self_attn\.(?P<part>[qkv])_proj\.(?P<kind>weight|bias)"
)
_POSITIONS = "vision_model.vision_tower.pos_embed"
_BESIDE = ("tokenizer*", "special_tokens_map.json", "*processor_config.json", "added_tokens.json", "LICENSE*")


class Renaming:
    """Names of one layout to those of another and back, by pairs of templates; the first that fits is taken."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self._there = [(self._pattern(one), other.replace("#", "{}").replace("*", "{}")) for one, other in pairs]
        self._back = [(self._pattern(other), one.replace("#", "{}").replace("*", "{}")) for one, other in pairs]

    @staticmethod
    def _pattern(template: str) -> re.Pattern[str]:
        return re.compile(re.escape(template).replace(r"\#", r"(\d+)").replace(r"\*", "(.+)"))

    def there(self, name: str) -> str | None:
        """The other layout's name, None where no template fits."""
        return self._rename(name, self._there)

    def back(self, name: str) -> str | None:
        """The first layout's name, None where no template fits."""
        return self._rename(name, self._back)

    @staticmethod
    def _rename(name: str, rules: list[tuple[re.Pattern[str], str]]) -> str | None:
        for pattern, template in rules:
            found = pattern.fullmatch(name)
            if found:
                return template.format(*found.groups())
        return None


_RENAMING = Renaming(NAMES)


def _known(name: str, renamed: str | None) -> str:
    if renamed is None:
        raise ValueError(
            f"{name} is no tensor of a Janus checkpoint, expected one of DeepSeek's or Hugging Face's layout"
        )
    return renamed


def joined(tensors: Tensors, pattern: re.Pattern[str], parts: Sequence[str], whole: str) -> Tensors:
    """Parts of a tensor become one, stacked along its first dimension; others pass.

    `pattern` has the groups `part` and those that `whole`, a template, names.
    """
    waiting: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors:
        found = pattern.fullmatch(name)
        if not found:
            yield name, tensor
            continue
        joint = whole.format(**found.groupdict())
        held = waiting.setdefault(joint, {})
        held[found["part"]] = tensor
        if len(held) == len(parts):
            yield joint, torch.cat([held[part] for part in parts])
            del waiting[joint]
    if waiting:
        raise ValueError(f"{sorted(waiting)[0]}: got only a part of it, expected all of {', '.join(parts)}")


def to_hf(tensors: Tensors) -> Tensors:
    """Tensors of the original layout -> Hugging Face's."""
    for name, tensor in tensors:
        if name.startswith(DROPPED):
            continue
        found = _QKV.fullmatch(name)
        if found:
            layer, kind = found.groups()
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                yield f"model.vision_model.encoder.layers.{layer}.self_attn.{letter}_proj.{kind}", part
        else:
            yield _known(name, _RENAMING.there(name)), tensor.squeeze(0) if name == _POSITIONS else tensor


def to_original(tensors: Tensors) -> Tensors:
    """Tensors of Hugging Face's layout -> the original one; what that layout has besides is not made up."""
    whole = "vision_model.vision_tower.blocks.{layer}.attn.qkv.{kind}"
    for name, tensor in joined(tensors, _Q_K_V, "qkv", whole):
        original = name if _QKV.fullmatch(name) else _known(name, _RENAMING.back(name))
        yield original, tensor.unsqueeze(0) if original == _POSITIONS else tensor


def is_original(names: Mapping[str, Any]) -> bool:
    """Whether the names are those of DeepSeek's layout."""
    return any(name.startswith("gen_vision_model.") for name in names)


def convert_janus(
    source: Path,
    out: Path,
    layout: str = "hf",
    *,
    shard_bytes: int = SHARD_BYTES,
    advance: Callable[[str], None] = print,
) -> JanusConfig:
    """Writes a Janus checkpoint of either layout as `layout` ("hf" or "original"), shard by shard; returns its config.

    First all names and shapes are read and compared with the model they say they are: `ValueError` names every
    tensor that is missing, extra or of another shape, and nothing is written. `advance` is told of each shard read.
    """
    if out.resolve() == source.resolve():
        raise ValueError(f"{out} is also what is read, expected another folder: choose another --out")
    original, as_hf = inspect(source)
    config = janus_config(source, {name: tuple(tensor.shape) for name, tensor in as_hf.items()}, original)
    check_names(source, config, as_hf)
    change = {(True, "hf"): to_hf, (False, "original"): to_original}.get((original, layout), lambda tensors: tensors)
    with new_shards(out, shard_bytes) as writer:
        for name, tensor in change(_all(shards(source), read, advance)):
            writer.add(name, tensor)
        if layout == "hf":
            config.save_pretrained(writer.folder)
        elif original and (source / "config.json").is_file():
            shutil.copy(source / "config.json", writer.folder)
        elif not original:
            (writer.folder / "config.json").write_text(json.dumps(_original_config(config), indent=2) + "\n")
        for pattern in _BESIDE:
            for path in source.glob(pattern):
                shutil.copy(path, writer.folder)
    return config


def inspect(source: Path) -> tuple[bool, dict[str, Tensor]]:
    """Whether a checkpoint is of the original layout, and its tensors by Hugging Face's names, on the meta device."""
    found: dict[str, Tensor] = {}
    for name, tensor in _all(shards(source), read_shapes):
        if name in found:
            raise ValueError(f"{source}: {name} stands in two shards, expected it once")
        found[name] = tensor
    original = is_original(found)
    return original, dict(to_hf(iter(found.items()))) if original else found


def read_as_hf(source: Path, original: bool, advance: Callable[[str], None]) -> Tensors:
    """The tensors of a checkpoint by Hugging Face's names, one at a time; `advance` is told of each shard read."""
    tensors = _all(shards(source), read, advance)
    return to_hf(tensors) if original else tensors


def _all(
    files: list[Path], read_file: Callable[[Path], Tensors], advance: Callable[[str], None] = lambda _: None
) -> Tensors:
    for path in files:
        yield from read_file(path)
        advance(path.name)


def check_names(source: Path, config: JanusConfig, found: Mapping[str, Tensor]) -> None:
    """Raises `ValueError` naming what is missing, extra or of another shape than in a Janus of that config."""
    with torch.device("meta"):
        expected = JanusForConditionalGeneration(config).state_dict()
    shapes = [{name: tensor.shape for name, tensor in tensors.items()} for tensors in (found, expected)]
    check_tensors(source, *shapes, verdict="this is no Janus checkpoint that we know")


def janus_config(source: Path, shapes: Mapping[str, tuple[int, ...]], original: bool) -> JanusConfig:
    """The configuration of a checkpoint, embeddings untied.

    Hugging Face's config.json is taken as it is, but for the tying, which is off in Janus-Pro and on in the default.
    The original's leaves most sizes out: they are read from the shapes. Head counts cannot be; where its config.json
    has none, they are Llama's default of 32 and SigLIP's 64 dimensions a head.
    """
    path = source / "config.json"
    if not original:
        if not path.is_file():
            raise ValueError(f"{source}: no config.json, expected that of Hugging Face's layout beside the weights")
        config = JanusConfig.from_pretrained(source)
        config.tie_word_embeddings = False
        config.text_config.tie_word_embeddings = False  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
        return config
    try:
        given = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        words = given.get("language_config", {})
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: damaged, expected Janus' configuration ({error})") from None
    try:
        return _config_of(shapes, words)
    except KeyError as error:
        raise ValueError(f"{source}: {error.args[0]} is missing: this is no Janus checkpoint that we know") from None


def _original_config(config: JanusConfig) -> dict[str, Any]:
    """What the shapes do not tell, where DeepSeek's config.json has it."""
    words: Any = config.text_config
    names = ("num_attention_heads", "num_key_value_heads", "max_position_embeddings", "vocab_size", "num_hidden_layers")
    return {"model_type": "multi_modality", "language_config": {name: getattr(words, name) for name in names}}


def _config_of(shapes: Mapping[str, tuple[int, ...]], words: Mapping[str, Any]) -> JanusConfig:
    def count(prefix: str) -> int:
        """How many numbered parts follow a prefix."""
        numbers = [int(name[len(prefix) :].split(".")[0]) for name in shapes if name.startswith(prefix)]
        if not numbers:
            raise KeyError(prefix)
        return max(numbers) + 1

    vocab, width = shapes["model.language_model.embed_tokens.weight"]
    heads = words.get("num_attention_heads", 32)
    num_positions, seen = shapes["model.vision_model.embeddings.position_embedding.weight"]
    patch = shapes["model.vision_model.embeddings.patch_embedding.weight"][-1]
    down, base = "model.vqmodel.encoder.down.", shapes["model.vqmodel.encoder.conv_in.weight"][0]
    codes, code_size = shapes["model.vqmodel.quantize.embedding.weight"]
    levels = range(count(down))
    return JanusConfig(
        text_config=LlamaConfig(
            vocab_size=vocab,
            hidden_size=width,
            intermediate_size=shapes["model.language_model.layers.0.mlp.gate_proj.weight"][0],
            num_hidden_layers=count("model.language_model.layers."),
            num_attention_heads=heads,
            num_key_value_heads=words.get("num_key_value_heads", heads),
            max_position_embeddings=words.get("max_position_embeddings", 16384),
            tie_word_embeddings=False,
        ),
        vision_config=JanusVisionConfig(
            hidden_size=seen,
            num_hidden_layers=count("model.vision_model.encoder.layers."),
            num_attention_heads=max(1, seen // 64),
            image_size=math.isqrt(num_positions) * patch,
            patch_size=patch,
            mlp_ratio=shapes["model.vision_model.encoder.layers.0.mlp.fc1.weight"][0] / seen,
            projection_dim=width,
            num_image_tokens=num_positions,
        ),
        vq_config=JanusVQVAEConfig(
            embed_dim=code_size,
            num_embeddings=codes,
            latent_channels=shapes["model.vqmodel.quant_conv.weight"][1],
            base_channels=base,
            channel_multiplier=[shapes[f"{down}{i}.block.0.conv2.weight"][0] // base for i in levels],
            num_res_blocks=count(f"{down}0.block."),
            projection_dim=width,
            image_token_embed_dim=width,
        ),
        tie_word_embeddings=False,
    )
