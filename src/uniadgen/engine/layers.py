"""The decoder's layers: transformers' parameters, joined, and no other code; whoever steps keeps keys and values."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import LlamaModel

from uniadgen.model.configuration import UniAdGenConfig
from uniadgen.model.foreground import control_sites

# (number of the layer, queries, keys, values), each (L, heads, d) -> what the queries found, (L, heads, d)
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class Prefix(NamedTuple):
    """Keys and values of a prompt in every layer: (layers, heads, P, d) each."""

    keys: Tensor
    values: Tensor


class Layer(NamedTuple):
    """Parameters of one layer. `qkv` (D, 3 D) and `gate_up` (D, 2 I) are joined, the others are as they were."""

    norm: Tensor
    qkv: Tensor
    out: Tensor
    second_norm: Tensor
    gate_up: Tensor
    down: Tensor
    site: int | None  # which part of the control vectors is added to what comes in


class Layers:
    """All layers of a decoder and its last norm. Sees no cache: `attend` keeps keys and values."""

    def __init__(self, decoder: LlamaModel, config: UniAdGenConfig) -> None:
        text = config.text_config
        if text.num_key_value_heads != text.num_attention_heads:
            raise ValueError(
                f"the decoder has {text.num_key_value_heads} key and {text.num_attention_heads} query heads, "
                "expected as many of both, as Janus has: decode it with engine.loop"
            )
        self.heads, self.eps = text.num_attention_heads, text.rms_norm_eps
        self.rotary = decoder.rotary_emb
        self.norm = decoder.norm.weight
        sites = control_sites(config)
        self.layers = [self._layer(layer, sites.get(number)) for number, layer in enumerate(decoder.layers)]
        self.angles = self._rotations(1)

    @staticmethod
    def _layer(layer: Any, site: int | None) -> Layer:
        attention, mlp = layer.self_attn, layer.mlp
        return Layer(
            layer.input_layernorm.weight,
            join(attention.q_proj, attention.k_proj, attention.v_proj),
            only_weight(attention.o_proj),
            layer.post_attention_layernorm.weight,
            join(mlp.gate_proj, mlp.up_proj),
            only_weight(mlp.down_proj),
            site,
        )

    @property
    def num_bytes(self) -> int:
        """Of all parameters that one step reads."""
        return sum(x.numel() * x.element_size() for layer in self.layers for x in layer if isinstance(x, Tensor))

    def reserve(self, positions: int) -> None:
        """Makes rotations for positions below this number, where there are fewer."""
        if positions > len(self.angles[0]):
            self.angles = self._rotations(positions)

    def _rotations(self, positions: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines (positions, 1, d); the first half of the sines is negative, so that a roll will do."""
        at = torch.arange(positions, device=self.norm.device)[None]
        cos, sin = self.rotary(self.norm.new_zeros(1), at)
        half = sin.shape[-1] // 2
        return cos[0, :, None].contiguous(), torch.cat([-sin[0, :, None, :half], sin[0, :, None, half:]], dim=-1)

    def forward(
        self,
        x: Float[Tensor, "L D"],
        position: Int[Tensor, "L"],
        attend: Attend,
        control: Float[Tensor, "L C"] | None = None,
    ) -> Float[Tensor, "L D"]:
        """Hidden states of L positions, of one row or of as many rows: only `attend` knows."""
        size, width = x.shape
        cos, sin = self.angles[0][position], self.angles[1][position]
        half = cos.shape[-1] // 2
        for number, layer in enumerate(self.layers):
            if control is not None and layer.site is not None:
                x = x + control[:, layer.site * width : (layer.site + 1) * width]
            qkv = (self.rms(x, layer.norm) @ layer.qkv).view(size, 3 * self.heads, -1)
            turning = qkv[:, : 2 * self.heads]
            turned = torch.addcmul(turning * cos, turning.roll(half, -1), sin)
            found = attend(number, turned[:, : self.heads], turned[:, self.heads :], qkv[:, 2 * self.heads :])
            x = torch.addmm(x, found.reshape(size, width), layer.out.T)
            gate, up = (self.rms(x, layer.second_norm) @ layer.gate_up).chunk(2, dim=-1)
            x = torch.addmm(x, F.silu(gate) * up, layer.down.T)
        return self.rms(x, self.norm)

    def rms(self, x: Tensor, weight: Tensor) -> Tensor:
        return torch.rms_norm(x, weight.shape, weight, self.eps)

    def read(self, embeds: Float[Tensor, "S D"]) -> Prefix:
        """A prompt, all at once."""
        self.reserve(len(embeds))
        width = embeds.shape[-1] // self.heads
        kept = Prefix(*embeds.new_empty(2, len(self.layers), self.heads, len(embeds), width))

        def attend(number: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            kept.keys[number], kept.values[number] = k.transpose(0, 1), v.transpose(0, 1)
            queries = q.transpose(0, 1)[None]
            found = F.scaled_dot_product_attention(
                queries, kept.keys[number][None], kept.values[number][None], is_causal=True
            )
            return found[0].transpose(0, 1)

        self.forward(embeds, torch.arange(len(embeds), device=embeds.device), attend)
        return kept


def join(*linears: nn.Module) -> Float[Tensor, "D out"]:
    """Weights side by side, as rows are multiplied with fastest on a CPU. Held once: the linears now look into it."""
    weights = [only_weight(linear) for linear in linears]
    joined = torch.cat([weight.T for weight in weights], dim=1).contiguous()
    for linear, part in zip(linears, joined.split([len(weight) for weight in weights], dim=1), strict=True):
        linear.weight.data = part.T
    return joined


def transpose(linears: Iterable[nn.Linear]) -> None:
    """The same numbers, laid out as few rows are multiplied with fastest on a CPU."""
    for linear in linears:
        linear.weight.data = linear.weight.data.T.contiguous().T


def only_weight(linear: nn.Module) -> Tensor:
    """The weight of a plain linear layer; `ValueError` where there is more to it."""
    if type(linear) is not nn.Linear or linear.bias is not None:
        raise ValueError(f"a {type(linear).__name__} in the decoder, expected plain weights: `uniadgen merge` first")
    return linear.weight.data
