"""Models of picture metrics as they are published, with random weights and as small as they go."""

import json
import shutil
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import (
    BlipTextConfig,
    BlipVisionConfig,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    DINOv3ViTConfig,
    DINOv3ViTModel,
)

from uniadgen.metrics.imagereward import Sizes

LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 48}
# The tokens of CLIP's tokenizer: every byte, inside a word and at its end.
BYTES = sorted(ByteLevel.alphabet())
WORDS = {token: number for number, token in enumerate([*BYTES, *(f"{byte}</w>" for byte in BYTES)])}
WORDS |= {"<|startoftext|>": len(WORDS), "<|endoftext|>": len(WORDS) + 1}
LETTERS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789"]
LETTERS += [f"##{letter}" for letter in LETTERS[5:]]
PROCESSOR = {  # DINOv3's, as its folders have it
    "image_processor_type": "DINOv3ViTImageProcessorFast", "do_resize": True, "do_rescale": True, "do_normalize": True,
    "do_center_crop": None, "resample": 2, "size": {"height": 32, "width": 32},
    "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
}  # fmt: skip


def tensors(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Random tensors of these names and shapes, none of them without effect."""
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def write_clip(folder: Path, image: int = 32, patch: int = 8, projection: int = 16, seed: int = 0) -> Path:
    """A CLIP with tokenizer and preprocessing; all of its tensors are random, none is zero or one."""
    end = WORDS["<|endoftext|>"]
    text = LAYERS | {"vocab_size": len(WORDS), "bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    vision = LAYERS | {"image_size": image, "patch_size": patch}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=projection))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    CLIPTokenizer(vocab=WORDS, merges=[]).save_pretrained(folder)
    sizes = {"size": {"shortest_edge": image}, "crop_size": {"height": image, "width": image}}
    CLIPImageProcessorPil(**sizes).save_pretrained(folder)
    return folder


def write_dinov3(folder: Path) -> Path:
    """A DINOv3 ViT with its preprocessing."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        DINOv3ViTModel(DINOv3ViTConfig(**LAYERS, image_size=32, patch_size=8)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


def vit_shapes(width: int, patch: int, mlp: int, image: int = 224, layers: int = 2) -> dict[str, tuple[int, ...]]:
    """Names and shapes of timm's ViT, which MoCo v3's and BLIP's are."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + (image // patch) ** 2, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for layer in range(layers):
        for name, size in (("norm1", None), ("attn.qkv", 3 * width), ("attn.proj", width), ("norm2", None)):
            shapes[f"blocks.{layer}.{name}.weight"] = (width,) if size is None else (size, width)
            shapes[f"blocks.{layer}.{name}.bias"] = (size or width,)
        for name, out, into in (("mlp.fc1", mlp, width), ("mlp.fc2", width, mlp)):
            shapes[f"blocks.{layer}.{name}.weight"], shapes[f"blocks.{layer}.{name}.bias"] = (out, into), (out,)
    return shapes


def mocov3_state(seed: int = 0) -> dict[str, Tensor]:
    """The state dict of MoCo v3's checkpoint: what we use, and what only training used."""
    shapes = {f"module.base_encoder.{name}": shape for name, shape in vit_shapes(48, 56, 96).items()}
    shapes |= {"module.base_encoder.head.0.weight": (8, 48), "module.momentum_encoder.cls_token": (1, 1, 48)}
    return tensors(shapes | {"module.predictor.0.weight": (8, 8)}, seed)


def write_mocov3(folder: Path, state: dict[str, Tensor] | None = None) -> Path:
    """MoCo v3's checkpoint."""
    folder.mkdir(exist_ok=True)
    held = {"epoch": 300, "arch": "vit_base", "state_dict": mocov3_state() if state is None else state}
    torch.save(held | {"optimizer": {"state": {0: {"step": 1}}, "param_groups": []}}, folder / "vit-b-300ep.pth.tar")
    return folder


def head_shapes(width: int = 768, numbers: tuple[int, ...] = (0, 2, 4, 6, 7)) -> dict[str, tuple[int, ...]]:
    """The head of ImageReward and of the aesthetic score."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number, size in zip(numbers, (1024, 128, 64, 16, 1), strict=True):
        shapes |= {f"layers.{number}.weight": (size, width), f"layers.{number}.bias": (size,)}
        width = size
    return shapes


IMAGEREWARD = Sizes(
    BlipVisionConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        image_size=224, patch_size=56, layer_norm_eps=1e-6, hidden_act="gelu",
    ),
    BlipTextConfig(
        vocab_size=len(LETTERS) + 2, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
        encoder_hidden_size=32, max_position_embeddings=40, layer_norm_eps=1e-12, hidden_act="gelu",
    ),
)  # fmt: skip


def imagereward_state(seed: int = 0) -> dict[str, Tensor]:
    """The state dict of ImageReward.pt: ViT, BERT with cross-attention, head, and what is not used."""
    width, seen, mlp = 24, 32, 40
    shapes = {f"blip.visual_encoder.{name}": shape for name, shape in vit_shapes(seen, 56, 48).items()}
    words: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(LETTERS) + 2, width),
        "embeddings.position_embeddings.weight": (40, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
    }
    for layer in range(2):
        dense = {f"attention.self.{part}": (width, width) for part in ("query", "key", "value")}
        dense |= {"crossattention.self.query": (width, width)}
        dense |= {f"crossattention.self.{part}": (width, seen) for part in ("key", "value")}
        dense |= {"attention.output.dense": (width, width), "crossattention.output.dense": (width, width)}
        dense |= {"intermediate.dense": (mlp, width), "output.dense": (width, mlp)}
        for name, shape in dense.items():
            words |= {f"encoder.layer.{layer}.{name}.weight": shape, f"encoder.layer.{layer}.{name}.bias": shape[:1]}
        for part in ("attention.output", "crossattention.output", "output"):
            for kind in ("weight", "bias"):
                words[f"encoder.layer.{layer}.{part}.LayerNorm.{kind}"] = (width,)
    shapes |= {f"blip.text_encoder.{name}": shape for name, shape in words.items()}
    shapes |= {f"mlp.{name}": shape for name, shape in head_shapes(width).items()}
    shapes |= {"blip.vision_proj.weight": (8, seen), "blip.vision_proj.bias": (8,)}
    shapes |= {"blip.text_proj.weight": (8, width), "blip.text_proj.bias": (8,)}
    return tensors(shapes, seed) | {"blip.text_encoder.embeddings.position_ids": torch.arange(40)[None]}


def write_imagereward(folder: Path, state: dict[str, Tensor] | None = None) -> Path:
    """ImageReward.pt, and BERT's vocabulary."""
    folder.mkdir(exist_ok=True)
    torch.save(imagereward_state() if state is None else state, folder / "ImageReward.pt")
    (folder / "vocab.txt").write_text("\n".join(LETTERS) + "\n")
    return folder


def write_ase(folder: Path) -> Path:
    """A CLIP of ViT-L/14's shape, if not of its width, and the aesthetic head."""
    write_clip(folder, image=224, patch=14, projection=768)
    torch.save(tensors(head_shapes()), folder / "sac+logos+ava1-l14-linearMSE.pth")
    return folder


def write_all(folder: Path) -> Path:
    """Each model in a folder of its name; PickScore is a CLIP."""
    writers = {"clip": write_clip, "dinov3": write_dinov3, "mocov3": write_mocov3}
    for name, write in (writers | {"imagereward": write_imagereward, "ase": write_ase}).items():
        write(folder / name)
    (folder / "pickscore").symlink_to(folder / "clip")
    return folder


def copied(source: Path, to: Path) -> Path:
    """A folder of its own, to spoil."""
    shutil.copytree(source, to)
    return to
