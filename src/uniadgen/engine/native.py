"""The step of step.cpp: weights laid out as it reads them, and calls of it."""

import ctypes
from collections.abc import Iterable, Sequence
from ctypes import POINTER, c_double, c_float, c_int64, c_void_p
from typing import Any, ClassVar, Final, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import LlamaModel

from uniadgen.engine.building import library
from uniadgen.engine.layers import Layer, Layers, Prefix, as_held
from uniadgen.engine.precision import Precision
from uniadgen.engine.sampling import sample
from uniadgen.engine.slots import Places, Slots
from uniadgen.model.configuration import UniAdGenConfig
from uniadgen.model.uniadgen import UniAdGenForConditionalGeneration

WIDEST = 16  # numbers of a vector, at most: `wide` functions have them, and blocks of twice as many columns
HEADS = 16, 32, 64, 128  # sizes of a head that are compiled
SKIPPED, COLUMN, FIELDS = 6, 7, 11  # of a sequence: two of its fields, and how many there are


class Matrix(ctypes.Structure):
    """Weights of a product, held by `kept`. The fields are those of products.h, and below those of decoder.h."""

    _fields_: ClassVar = [
        ("packed", c_void_p),
        ("scale", c_void_p),
        ("sums", c_void_p),
        ("depth", c_int64),
        ("columns", c_int64),
        ("bits", c_int64),
    ]

    @classmethod
    def of(cls, weight: Float[Tensor, "depth out"], numbers: str, block: int) -> "Matrix":
        """Padded to whole blocks of columns. In 16 bits where that is exact, as numbers are then read sooner."""
        depth, size = weight.shape
        weight = torch.cat([weight, weight.new_zeros(depth, -size % block)], dim=1)
        scale, sums, bits = weight.new_ones(0), weight.new_zeros(0, dtype=torch.int32), 32
        if numbers == "int8":
            scale = weight.abs().amax(0).clamp(min=1e-30) / 127
            steps, bits = (weight / scale).round().to(torch.int8), 8
            sums = steps.sum(0, dtype=torch.int32)
            packed = steps.view(depth // 4, 4, -1, block).permute(2, 0, 3, 1).contiguous()
        else:
            packed = weight.view(depth, -1, block).transpose(0, 1).contiguous()
            if torch.equal(packed.half().float(), packed):
                packed, bits = packed.half(), 16
        kept = packed, scale, sums
        matrix = cls(*(tensor.data_ptr() for tensor in kept), depth, weight.shape[1], bits)
        matrix.kept = kept
        return matrix

    @property
    def num_bytes(self) -> int:
        """That a product reads."""
        return self.depth * self.columns * self.bits // 8


class _Layer(ctypes.Structure):
    _fields_: ClassVar = [
        ("norm", c_void_p),
        ("second_norm", c_void_p),
        ("qkv", Matrix),
        ("out", Matrix),
        ("wide", Matrix),
        ("down", Matrix),
        ("site", c_int64),
        ("panel", c_int64),
    ]


class _Decoder(ctypes.Structure):
    _fields_: ClassVar = [
        ("layers", POINTER(_Layer)),
        ("norm", c_void_p),
        ("count", c_int64),
        ("width", c_int64),
        ("heads", c_int64),
        ("inner", c_int64),
        ("eps", c_double),
    ]


class Native(Layers):
    """All layers in float32 on a CPU, read and stepped through by compiled functions.

    Besides what the model holds it keeps the weights as they are read there: half as many bytes where 16 bits hold them
    exactly, as those of nano; a quarter in int8.
    """

    def __init__(
        self, decoder: LlamaModel, config: UniAdGenConfig, functions: ctypes.CDLL, numbers: str = "fp32"
    ) -> None:
        super().__init__(decoder, config)
        self.functions, self.numbers = functions, numbers
        self.packed = [self._pack(layer) for layer in self.layers]
        self.array = (_Layer * len(self.packed))(*self.packed)
        width, inner = len(self.norm), as_held(self.layers[0].down).shape[1]
        sizes = len(self.packed), width, self.heads, inner
        self.decoder = _Decoder(self.array, self.norm.data_ptr(), *sizes, self.operations.eps)

    @classmethod
    def find(cls, model: UniAdGenForConditionalGeneration, precision: Precision) -> "Native | None":
        """For a model in float32 that it serves, where there are compiled functions.

        Raises `ValueError` for int8 where there are none.
        """
        if precision.in_eight_bits:
            return None
        text, weight = model.config.text_config, model.lm_head.weight
        fits = weight.device.type == "cpu" and weight.dtype == torch.float32 and not text.intermediate_size % WIDEST
        fits &= text.hidden_size % (2 * WIDEST) == 0 and text.hidden_size // text.num_attention_heads in HEADS
        functions = library() if fits else None
        if precision.weights == "model":
            return functions and cls(model.model.language_model, model.config, functions)
        if functions is None or not functions.has_int8():
            raise ValueError(
                "int8 on this machine, expected a model in float32 on a CPU with AVX-512 VNNI, "
                "and a C++ compiler: take the model's own precision"
            )
        return cls(model.model.language_model, model.config, functions, precision.weights)

    @property
    def num_bytes(self) -> int:
        """Of all weights that one step reads, as they are held for it."""
        return sum(matrix.num_bytes for layer in self.packed for matrix in layer.kept)

    def scorers(self, model: UniAdGenForConditionalGeneration) -> "tuple[Head, Head]":
        """Of words, and of codes."""
        paints = model.model.generation_head
        codes = Head(self.functions, self.numbers, paints.proj_out, paints.activation_fn, paints.vision_head)
        return Head(self.functions, self.numbers, model.lm_head), codes

    def take_over(self, part: nn.Module, numbers: str | None = None) -> None:
        """What is linear in a part is multiplied as the decoder's layers are, until it is handed back."""
        for module in cast("Iterable[Any]", part.modules()):
            if type(module) is nn.Linear or (type(module) is nn.Conv2d and apart(module)):
                weight, bias = module.weight.flatten(1), module.bias
                vars(module)["quick"] = Dense(self.functions, numbers or self.numbers, weight, bias)
                module.__class__ = QUICK[type(module)]

    def sample(
        self, logits: Float[Tensor, "R V"], temperature: float, top_k: int, noise: Float[Tensor, "R V"] | None
    ) -> Int[Tensor, "R"]:
        """As `sampling.sample`, without sorting."""
        if temperature == 0 or noise is None or logits.shape[1] % WIDEST:
            return sample(logits, temperature, top_k, noise)
        logits, noise = logits.contiguous(), noise.contiguous()
        tokens, room = logits.new_empty(len(logits), dtype=torch.long), logits.new_empty(2 * logits.shape[1])
        sizes = (*map(c_int64, logits.shape), c_float(temperature), c_int64(top_k if top_k < logits.shape[1] else 0))
        self.functions.sample(*pointers(logits, noise), *sizes, *pointers(room, tokens))
        return tokens

    def _pack(self, layer: Layer) -> _Layer:
        width, heads, wide = len(layer.norm), self.heads, self.functions.wide()
        qkv, out, gate_up, down = map(as_held, (layer.qkv, layer.out, layer.gate_up, layer.down))
        by_head = qkv.T.view(width, 3, heads, -1).transpose(1, 2).flatten(2)  # (D, h, 3 d)
        panel = by_head.shape[2] + -by_head.shape[2] % (2 * wide)
        padded = by_head.new_zeros(width, heads, panel)
        padded[..., : by_head.shape[2]] = by_head
        in_turns = gate_up.T.view(width, 2, -1, wide).transpose(1, 2)
        weights = padded.flatten(1), out.T, in_turns.flatten(1), down.T
        matrices = [Matrix.of(weight, self.numbers, 2 * wide) for weight in weights]
        site = -1 if layer.site is None else layer.site
        packed = _Layer(layer.norm.data_ptr(), layer.second_norm.data_ptr(), *matrices, site, panel)
        packed.kept = matrices  # a structure holds copies of others, and not what they point to
        return packed

    def read(self, embeds: Float[Tensor, "S D"]) -> Prefix:
        """As the other layers do."""
        self.reserve(len(embeds))
        size, at = embeds.shape[-1] // self.heads, np.arange(len(embeds))
        kept = Prefix(*embeds.new_empty(2, len(self.layers), self.heads, len(embeds), size))
        room = self.heads * len(embeds) * size
        fields = [*addresses(*kept), 0, 0, room, len(embeds), *[0] * (FIELDS - SKIPPED)]
        rows = np.array([fields], np.int64)
        self._forward(rows, np.stack([at, at + 1])[:, None], embeds.clone(), None, True)
        return kept

    def read_all(self, prompts: Sequence[Float[Tensor, "_ D"]]) -> list[Prefix]:
        """Prompts, one after the other."""
        return [self.read(prompt) for prompt in prompts]

    def step(
        self,
        slots: Sequence[Slots],
        x: Float[Tensor, "rows k D"],
        at: Places,
        control: Float[Tensor, "rows k C"] | None,
        firsts: Sequence[int],
    ) -> Float[Tensor, "rows k D"]:
        """As `slots.step`; where a row stands is read from `firsts`."""
        rows, hidden = sequences(slots), x.clone()  # of embeddings that others may hold
        rows[:, COLUMN] = np.array(firsts) - rows[:, SKIPPED]
        where = np.stack([at.position.numpy(), at.seen.numpy() - rows[:, SKIPPED, None]])
        self._forward(rows, where, hidden, control, False)
        return hidden

    def _forward(
        self,
        rows: NDArray[np.int64],
        where: Int[np.ndarray, "2 rows k"],
        x: Float[Tensor, "*L D"],
        control: Tensor | None,
        reading: bool,
    ) -> None:
        """`where`: numbers of positions, and how many columns each sees."""
        place(rows, where)
        added = x.new_zeros(0) if control is None else control.contiguous()
        self.functions.forward(
            ctypes.byref(self.decoder),
            c_void_p(rows.ctypes.data),
            c_int64(len(rows)),
            *pointers(x, added),
            c_int64(added.shape[-1]),
            *pointers(*self.angles),
            int(reading),
            torch.get_num_threads(),
        )


def sequences(slots: Sequence[Slots]) -> NDArray[np.int64]:
    """Every row's `Sequence` of attention.h; where it stands is to be filled in."""
    rows = []
    for group in slots:
        _, capacity, heads, room, size = group.keys.shape
        keys, values = addresses(group.keys, group.values)
        shared = (0, 0) if group.shared is None else addresses(*group.shared)
        fields = *shared, capacity * heads * room * size, room, group.skipped, *[0] * (FIELDS - COLUMN)
        starts = [4 * row * heads * room * size for row in group.rows]
        rows += [[keys + start, values + start, *fields] for start in starts]
    return np.array(rows, np.int64)


def place(rows: NDArray[np.int64], where: Int[np.ndarray, "2 rows k"]) -> None:
    """Numbers of positions, and how many columns each sees: to be held as long as the sequences are."""
    _, num, count = where.shape
    rows[:, COLUMN + 1] = count
    rows[:, COLUMN + 2 :] = where.ctypes.data + 8 * count * np.arange(2 * num).reshape(2, num).T


class Dense:
    """A linear layer."""

    def __init__(
        self,
        functions: ctypes.CDLL,
        numbers: str,
        weight: Float[Tensor, "out D"],
        bias: Float[Tensor, "out"] | None = None,
    ) -> None:
        self.functions, self.size = functions, len(weight)
        numbers = numbers if weight.shape[1] % 4 == 0 else "fp32"  # in int8 four are multiplied at once
        self.matrix = Matrix.of(weight.data.T, numbers, 2 * functions.wide())
        self.bias = None if bias is None else F.pad(bias.data, (0, self.matrix.columns - self.size))

    def __call__(self, x: Float[Tensor, "*n D"]) -> Float[Tensor, "*n out"]:
        """In float32 on a CPU."""
        y, x = x.new_empty(*x.shape[:-1], self.matrix.columns), x.contiguous()
        sizes, bias = c_int64(x.numel() // x.shape[-1]), address(self.bias)
        self.functions.dense(
            ctypes.byref(self.matrix), *pointers(x), sizes, c_void_p(bias), *pointers(y), torch.get_num_threads()
        )
        return y[..., : self.size]

    def __reduce__(self) -> tuple[type, tuple]:
        """A copy is None: what it was made of may change there, and addresses are of this process."""
        return type(None), ()


class QuickLinear(nn.Linear):
    """One that was taken over. Where gradients are wanted, and in a copy, it is torch's."""

    quick: Dense | None

    def forward(self, input: Float[Tensor, "*n D"]) -> Float[Tensor, "*n out"]:
        """In float32 on a CPU."""
        if self.quick is None or torch.is_grad_enabled():
            return super().forward(input)
        return self.quick(input)


class QuickConv2d(nn.Conv2d):
    """The same of a convolution whose patches do not overlap: a linear layer of every patch."""

    quick: Dense | None

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B out h w"]:
        """In float32 on a CPU."""
        if self.quick is None or torch.is_grad_enabled():
            return super().forward(input)
        patches = F.pixel_unshuffle(input, self.kernel_size[0]).permute(0, 2, 3, 1)
        return self.quick(patches).permute(0, 3, 1, 2)


def apart(convolution: nn.Conv2d) -> bool:
    """Whether its patches cover the picture and do not overlap."""
    side = convolution.kernel_size[0]
    whole = convolution.groups == 1 and convolution.dilation == (1, 1) and convolution.padding == (0, 0)
    return whole and convolution.kernel_size == convolution.stride == (side, side)


QUICK: Final[dict[type, type]] = {nn.Linear: QuickLinear, nn.Conv2d: QuickConv2d}


def hand_back(model: nn.Module) -> None:
    """All that was taken over is torch's again."""
    plain = {quick: kind for kind, quick in QUICK.items()}
    for module in cast("Iterable[Any]", model.modules()):
        if type(module) in plain:
            del module.quick
            module.__class__ = plain[type(module)]


class Head:
    """The head of words or of codes: linear layers, with what stands between them."""

    def __init__(self, functions: ctypes.CDLL, numbers: str, *layers: nn.Module) -> None:
        self.steps = [Dense(functions, numbers, x.weight, x.bias) if isinstance(x, nn.Linear) else x for x in layers]

    @property
    def num_bytes(self) -> int:
        """Of its weights."""
        return sum(step.matrix.num_bytes for step in self.steps if isinstance(step, Dense))

    def __call__(self, x: Float[Tensor, "n D"]) -> Float[Tensor, "n out"]:
        """In float32 on a CPU."""
        for step in self.steps:
            x = step(x)
        return x


def address(tensor: Tensor | None) -> int:
    """0 of none."""
    return 0 if tensor is None else tensor.data_ptr()


def addresses(*tensors: Tensor) -> list[int]:
    """Of contiguous ones."""
    return [tensor.data_ptr() for tensor in tensors]


def pointers(*tensors: Tensor) -> list[c_void_p]:
    """For a call."""
    return [c_void_p(tensor.data_ptr()) for tensor in tensors]
