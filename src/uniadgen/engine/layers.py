"""The decoder's layers: transformers' parameters, joined, and no other code; whoever steps keeps keys and values."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import LlamaModel

from uniadgen.engine.precision import Scaled, scaled
from uniadgen.model.configuration import UniAdGenConfig
from uniadgen.model.foreground import control_sites

# (number of the layer, queries, keys, values), each (L, heads, d) -> what the queries found, (L, heads, d)
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
Weight = Tensor | Scaled
TOGETHER = 16384  # positions of prompts that a GPU reads at once, unless one alone has more


class Prefix(NamedTuple):
    """Keys and values of a prompt in every layer: (layers, heads, P, d) each."""

    keys: Tensor
    values: Tensor


class Layer(NamedTuple):
    """Parameters of one layer, weights (out, k). `qkv` (3 D, D) and `gate_up` (2 I, D) are joined."""

    norm: Tensor
    qkv: Tensor | Scaled
    out: Tensor | Scaled
    second_norm: Tensor
    gate_up: Tensor | Scaled
    down: Tensor | Scaled
    site: int | None  # which part of the control vectors is added to what comes in


class Operations:
    """What a layer is made of, in torch."""

    def __init__(self, eps: float) -> None:
        self.eps = eps  # of the norms

    def norm(self, x: Float[Tensor, "L D"], weight: Float[Tensor, "D"]) -> Float[Tensor, "L D"]:
        """Root mean square norm."""
        return torch.rms_norm(x, weight.shape, weight, self.eps)

    def turn(
        self, heads: Float[Tensor, "L h d"], cos: Float[Tensor, "L 1 d"], sin: Float[Tensor, "L 1 d"]
    ) -> Float[Tensor, "L h d"]:
        """Rotates heads to where they stand; the first half of `sin` is negative."""
        return torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, -1), sin)

    def gate(self, both: Float[Tensor, "L I2"]) -> Float[Tensor, "L I"]:
        """silu(gate) up"""
        gate, up = both.chunk(2, dim=-1)
        return F.silu(gate) * up

    def product(
        self,
        x: Float[Tensor, "L k"],
        weight: Weight,
        add: Float[Tensor, "..."] | None = None,
        norm: Float[Tensor, "k"] | None = None,
        gated: bool = False,
    ) -> Float[Tensor, "L out"]:
        """x W', and `add` to it; x is normed before, and the product gated, where that is asked for."""
        if norm is not None:
            x = self.norm(x, norm)
        x, rows = self._as_multiplied(x, weight)
        found = x @ rows.T if add is None else torch.addmm(add, x, rows.T)
        return self.gate(found) if gated else found

    def _as_multiplied(self, x: Float[Tensor, "L k"], weight: Weight) -> tuple[Tensor, Tensor]:
        """Both in x's type."""
        return x, weight.restored(x.dtype) if isinstance(weight, Scaled) else weight

    def tune(
        self, rows: int, weights: Sequence[Weight], norm: Float[Tensor, "k"] | None = None, gated: bool = False
    ) -> None:
        """Finds the fastest way to multiply so many rows by weights of that shape: here there is only one."""


class EmulatedEights(Operations):
    """As a GPU multiplies by weights in eight bits where that is fastest: x becomes e4m3 as well, row by row."""

    def _as_multiplied(self, x: Float[Tensor, "L k"], weight: Weight) -> tuple[Tensor, Tensor]:
        return super()._as_multiplied(scaled(x).restored(x.dtype) if isinstance(weight, Scaled) else x, weight)


class Layers:
    """All layers of a decoder and its last norm. Sees no cache: `attend` keeps keys and values.

    With `in_eight_bits` the weights become that, and the decoder's own linears are left empty.
    """

    def __init__(self, decoder: LlamaModel, config: UniAdGenConfig, in_eight_bits: bool = False) -> None:
        text = config.text_config
        if text.num_key_value_heads != text.num_attention_heads:
            raise ValueError(
                f"the decoder has {text.num_key_value_heads} key and {text.num_attention_heads} query heads, "
                "expected as many of both, as Janus has: decode it with engine.loop"
            )
        self.heads = text.num_attention_heads
        self.rotary = decoder.rotary_emb
        self.norm = decoder.norm.weight
        self.together = TOGETHER if self.norm.device.type == "cuda" else 1  # positions of prompts that are read at once
        sites = control_sites(config)
        emulated = in_eight_bits and self.norm.device.type == "cpu"
        self.operations = (EmulatedEights if emulated else Operations)(text.rms_norm_eps)
        self.layers = [
            self._layer(layer, sites.get(number), in_eight_bits) for number, layer in enumerate(decoder.layers)
        ]
        self.angles = self._rotations(1)

    @staticmethod
    def _layer(layer: Any, site: int | None, in_eight_bits: bool) -> Layer:
        attention, mlp = layer.self_attn, layer.mlp
        groups = (
            (attention.q_proj, attention.k_proj, attention.v_proj),
            (attention.o_proj,),
            (mlp.gate_proj, mlp.up_proj),
            (mlp.down_proj,),
        )
        weights = [join(*group) if len(group) > 1 else only_weight(*group) for group in groups]
        if in_eight_bits:
            weights = [narrow(weight, *group) for weight, group in zip(weights, groups, strict=True)]
        qkv, out, gate_up, down = weights
        norm, second_norm = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        return Layer(norm, qkv, out, second_norm, gate_up, down, site)

    @property
    def num_bytes(self) -> int:
        """Of all parameters that one step reads."""
        return sum(size_of(x) for layer in self.layers for x in layer if isinstance(x, (Tensor, Scaled)))

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
        turns: bool = True,
    ) -> Float[Tensor, "L D"]:
        """Hidden states of L positions, of one row or of as many rows: only `attend` knows.

        Queries and keys are rotated to their positions here, unless `turns` is false: then `attend` does that too.
        """
        size, width = x.shape
        cos, sin = (angles[position] for angles in self.angles) if turns else self.angles
        ops = self.operations
        for number, layer in enumerate(self.layers):
            if control is not None and layer.site is not None:
                x = x + control[:, layer.site * width : (layer.site + 1) * width]
            qkv = ops.product(x, layer.qkv, norm=layer.norm).view(size, 3 * self.heads, -1)
            queries_and_keys, values = qkv[:, : 2 * self.heads], qkv[:, 2 * self.heads :]
            if turns:
                queries_and_keys = ops.turn(queries_and_keys, cos, sin)
            found = attend(number, queries_and_keys[:, : self.heads], queries_and_keys[:, self.heads :], values)
            x = ops.product(found.reshape(size, width), layer.out, x)
            x = ops.product(ops.product(x, layer.gate_up, norm=layer.second_norm, gated=True), layer.down, x)
        return ops.norm(x, self.norm)

    def tune(self, rows: int) -> None:
        """Finds out how so many rows are multiplied fastest; what was found is kept."""
        tune, layers = self.operations.tune, self.layers
        tune(rows, [layer.qkv for layer in layers], layers[0].norm)
        tune(rows, [layer.out for layer in layers])
        tune(rows, [layer.gate_up for layer in layers], layers[0].second_norm, gated=True)
        tune(rows, [layer.down for layer in layers])

    def read(self, embeds: Float[Tensor, "S D"]) -> Prefix:
        """A prompt, all at once."""
        return self._read([embeds])[0]

    def read_all(self, prompts: Sequence[Float[Tensor, "_ D"]]) -> list[Prefix]:
        """Prompts, some together on a GPU, which is quicker than the host that starts its kernels."""
        found: list[Prefix] = []
        while len(found) < len(prompts):
            ends = [*accumulate(len(prompt) for prompt in prompts[len(found) :])]
            number = max(1, bisect_right(ends, self.together))
            found += self._read(prompts[len(found) : len(found) + number])
        return found

    def _read(self, prompts: Sequence[Float[Tensor, "_ D"]]) -> list[Prefix]:
        """All at once; each sees itself alone."""
        lengths, embeds = [len(prompt) for prompt in prompts], torch.cat([*prompts])
        self.reserve(max(lengths))
        width = embeds.shape[-1] // self.heads
        kept = Prefix(*embeds.new_empty(2, len(self.layers), self.heads, len(embeds), width))

        def attend(number: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            kept.keys[number], kept.values[number] = k.transpose(0, 1), v.transpose(0, 1)
            three = (q.transpose(0, 1), kept.keys[number], kept.values[number])
            parts = zip(*(heads[None].split(lengths, 2) for heads in three), strict=True)
            found = [F.scaled_dot_product_attention(*part, is_causal=True) for part in parts]
            return torch.cat(found, 2)[0].transpose(0, 1)

        position = torch.cat([torch.arange(length, device=embeds.device) for length in lengths])
        self.forward(embeds, position, attend)
        parts = zip(kept.keys.split(lengths, 2), kept.values.split(lengths, 2), strict=True)
        return [Prefix(*part) for part in parts]


class Head:
    """The head that scores image codes, its weights held as those of the layers are."""

    def __init__(self, head: Any, layers: Layers, in_eight_bits: bool = False) -> None:
        self.layers, self.activation = layers, head.activation_fn
        linears = head.proj_out, head.vision_head
        self.weights: list[Weight] = []
        self.biases = [linear.bias.data for linear in linears]
        for linear in linears:
            linear.weight.data = laid_out(linear.weight.data)
            weight = linear.weight.data
            self.weights.append(narrow(weight, linear) if in_eight_bits else weight)

    def __call__(self, hidden: Float[Tensor, "L D"]) -> Float[Tensor, "L Q"]:
        """Scores of the next image code."""
        product = self.layers.operations.product
        inner = self.activation(product(hidden, self.weights[0], self.biases[0]))
        return product(inner, self.weights[1], self.biases[1])

    def tune(self, rows: int) -> None:
        """As `Layers.tune`."""
        for weight in self.weights:
            self.layers.operations.tune(rows, [weight])

    @property
    def num_bytes(self) -> int:
        """Of its parameters."""
        return sum(size_of(x) for x in (*self.weights, *self.biases))


def join(*linears: nn.Module) -> Float[Tensor, "out k"]:
    """Weights one below the other. Held once: the linears now look into it."""
    weights = [only_weight(linear) for linear in linears]
    joined = laid_out(torch.cat(weights))
    for linear, part in zip(linears, joined.split([len(weight) for weight in weights]), strict=True):
        linear.weight.data = part
    return joined


def narrow(weight: Float[Tensor, "out k"], *linears: nn.Module) -> Scaled:
    """The weight in eight bits; the linears that held it hold nothing from now on."""
    narrowed = scaled(weight)
    for linear in linears:
        linear.weight.data = weight.new_empty(0)
    return narrowed


def laid_out(weight: Float[Tensor, "out k"]) -> Float[Tensor, "out k"]:
    """The same numbers, laid out as few rows are multiplied with fastest: on a CPU transposed."""
    return weight.T.contiguous().T if weight.device.type == "cpu" else weight.contiguous()


def as_held(weight: Weight) -> Tensor:
    """The weight of a layer whose weights are in the model's own type."""
    assert isinstance(weight, Tensor), "not in eight bits"
    return weight


def size_of(weight: Tensor | Scaled) -> int:
    """Bytes."""
    return weight.num_bytes if isinstance(weight, Scaled) else weight.numel() * weight.element_size()


def only_weight(linear: nn.Module) -> Tensor:
    """The weight of a plain linear layer; `ValueError` where there is more to it."""
    if type(linear) is not nn.Linear or linear.bias is not None:
        raise ValueError(f"a {type(linear).__name__} in the decoder, expected plain weights: `uniadgen merge` first")
    if not linear.weight.numel():
        raise ValueError("weights that another engine turned to eight bits, expected whole ones: load the model again")
    return linear.weight.data
