"""ImageReward: how well a picture fits a prompt, by what people preferred; on transformers' BLIP (Xu et al. 2023)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from PIL import Image
from torch import Tensor, nn
from transformers import BertTokenizer, BlipTextConfig, BlipVisionConfig, BlipVisionModel
from transformers.initialization import no_init_weights
from transformers.models.blip.modeling_blip_text import BlipTextModel

from uniadgen.metrics.heads import Affine, fold
from uniadgen.metrics.heads import shapes as head_shapes
from uniadgen.metrics.pictures import BATCH_SIZE, collected, with_prompts
from uniadgen.metrics.pixels import CLIP_CROP
from uniadgen.metrics.prompts import Reader, read_tokenizer
from uniadgen.model.convert import Renaming
from uniadgen.model.shards import check_tensors, read, shapes_of

FILES: Final = ("ImageReward.safetensors", "ImageReward.pt")  # the second as published, the first with the same names
MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of rewards in training, which scores are standardised by
MOST_TOKENS: Final = 35
# Names in the published file, names in our network.
NAMES: Final = (
    ("blip.visual_encoder.cls_token", "vision.embeddings.class_embedding"),
    ("blip.visual_encoder.pos_embed", "vision.embeddings.position_embedding"),
    ("blip.visual_encoder.patch_embed.proj.*", "vision.embeddings.patch_embedding.*"),
    ("blip.visual_encoder.blocks.#.attn.qkv.*", "vision.encoder.layers.#.self_attn.qkv.*"),
    ("blip.visual_encoder.blocks.#.attn.proj.*", "vision.encoder.layers.#.self_attn.projection.*"),
    ("blip.visual_encoder.blocks.#.norm1.*", "vision.encoder.layers.#.layer_norm1.*"),
    ("blip.visual_encoder.blocks.#.norm2.*", "vision.encoder.layers.#.layer_norm2.*"),
    ("blip.visual_encoder.blocks.#.mlp.*", "vision.encoder.layers.#.mlp.*"),
    ("blip.visual_encoder.norm.*", "vision.post_layernorm.*"),
    ("blip.text_encoder.*", "text.*"),
)
HEAD: Final = "mlp."
LEFT_OUT: Final = ("blip.text_encoder.embeddings.position_ids", "blip.vision_proj.", "blip.text_proj.")  # not used
_RENAMING = Renaming(NAMES)


class Sizes(NamedTuple):
    """Both encoders. transformers' defaults are other models' (384 px, 8 heads), so nothing is left to them."""

    vision: BlipVisionConfig
    text: BlipTextConfig


def published() -> Sizes:
    """As published: ViT-L/16 and BERT-base with cross-attention."""
    vision = BlipVisionConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
        image_size=224, patch_size=16, layer_norm_eps=1e-6, hidden_act="gelu",
    )  # fmt: skip
    text = BlipTextConfig(
        vocab_size=30524, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072,
        encoder_hidden_size=1024, max_position_embeddings=512, layer_norm_eps=1e-12, hidden_act="gelu",
    )  # fmt: skip
    return Sizes(vision, text)


class Network(nn.Module):
    """The text encoder reads the prompt and looks at the picture; what its first token knows goes to the head."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.vision = BlipVisionModel(sizes.vision)
        self.text = BlipTextModel(sizes.text, add_pooling_layer=False)

    def forward(
        self, pixels: Float[Tensor, "B 3 H W"], input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B D"]:
        """Pictures and their prompts' tokens. Not as a decoder: that would hide what comes later in the prompt."""
        seen = self.vision(pixels).last_hidden_state  # (B, 1 + patches, D)
        everywhere = torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device)
        return self.text(
            input_ids=input_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=everywhere,
        ).last_hidden_state[:, 0]


@dataclass(frozen=True)
class ImageReward:
    """The standardised reward of picture and prompt. It reads English, 35 tokens of it."""

    network: Network
    head: Affine
    reader: Reader
    device: torch.device
    batch_size: int = BATCH_SIZE
    name: str = "imagereward"
    needs_prompts: bool = True

    def __call__(
        self, pictures: Iterable[Image.Image], prompts: Iterable[str] | None = None
    ) -> Float32[np.ndarray, " N"]:
        """The score of each picture with its prompt; `ValueError` as `with_prompts` says."""
        batches = with_prompts(pictures, prompts, self.batch_size)
        return collected(self._score(batch, said) for batch, said in batches)

    @torch.inference_mode()
    def _score(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        words = self.reader(prompts).to(self.device)
        pixels = CLIP_CROP(pictures).to(self.device)
        return (self.head(self.network(pixels, words["input_ids"], words["attention_mask"])) - MEAN) / STD

    def truncated(self, prompts: Sequence[str]) -> Bool[np.ndarray, " N"]:
        """Which prompts are longer than ImageReward reads."""
        return self.reader.truncated(prompts)


def load_imagereward(
    folder: Path, device: torch.device, batch_size: int = BATCH_SIZE, sizes: Sizes | None = None
) -> ImageReward:
    """ImageReward from one of `FILES`, with the tokenizer of bert-base-uncased beside it.

    Raises `ValueError` for a file that holds more than tensors, naming those that are missing, not expected or of
    another shape, or for another tokenizer.
    """
    path = next((folder / name for name in FILES if (folder / name).is_file()), folder / FILES[0])
    sizes = sizes or published()
    special = {"bos_token": "[DEC]", "additional_special_tokens": ["[ENC]"]}
    tokenizer = read_tokenizer(folder, BertTokenizer, sizes.text.vocab_size, **special)
    network, head = network_of(path, dict(read(path)), sizes)
    reader = Reader(tokenizer, MOST_TOKENS, "max_length")
    return ImageReward(network.eval().to(device), head.to(device), reader, device, batch_size)


def network_of(where: Path, tensors: Mapping[str, Tensor], sizes: Sizes) -> tuple[Network, Affine]:
    """Network and head of the published tensors, in float32; `ValueError` as `load_imagereward` says."""
    with no_init_weights():  # which takes minutes at this size; every tensor is loaded below
        network = Network(sizes)
    own = network.state_dict()
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(LEFT_OUT)}
    expected = {_RENAMING.back(name) or name: tuple(tensor.shape) for name, tensor in own.items()}
    expected |= {HEAD + name: shape for name, shape in head_shapes(sizes.text.hidden_size).items()}
    check_tensors(where, shapes_of(kept), expected, "this is not ImageReward")
    layers = {name.removeprefix(HEAD): kept.pop(name) for name in list(kept) if name.startswith(HEAD)}
    network.load_state_dict({str(_RENAMING.there(name)): tensor for name, tensor in kept.items()})
    return network, fold(where, layers, sizes.text.hidden_size)
