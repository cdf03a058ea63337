"""The engine: one loaded model made ready to decode, weights joined, codes embedded, prompts kept."""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from uniadgen.engine.canvas import Painter
from uniadgen.engine.compiled import CompiledStep
from uniadgen.engine.graphed import GraphedStep
from uniadgen.engine.layers import Head, Layers, Prefix, laid_out
from uniadgen.engine.native import Native, hand_back
from uniadgen.engine.native_painting import NativePainter
from uniadgen.engine.painting import GraphedPainter
from uniadgen.engine.precision import EIGHT_BIT, Precision
from uniadgen.engine.recent import Recent
from uniadgen.engine.sampling import sample
from uniadgen.engine.slots import step
from uniadgen.model.uniadgen import UniAdGenForConditionalGeneration

# Positions of a step, of all ads together: beyond, another one costs about what its drafts gain. Measured on a CPU with
# nano (`bench engine`, `bench drafts`); on a GPU calculated from its arithmetic and memory.
POSITIONS = {"cpu": 2, "cuda": 128}
CELLS = {"cpu": 1, "cuda": 128}  # as long as nothing but cells is fed: fewer drafts of them are right
KEPT = 4  # prompts without a history whose keys and values are kept: 7B takes about 0.5 MB for each token


class Engine:
    """One loaded model, made ready: weights joined (nothing is held twice), codes embedded, prompts kept.

    From then on the model is not to be trained, moved or cast; make a new engine for it where it is. Of several, the
    one made last says how the parts beside the decoder are computed.
    `positions` of a step, at most, words or cells: drafts are verified where there are fewer ads than that. 1: no
    drafts. Never does it change what comes out. `precision` does: a little; raises `ValueError` where it cannot be had.
    With `plain_torch` no step needs a compiler or Triton, and is slower.
    """

    def __init__(
        self,
        model: UniAdGenForConditionalGeneration,
        positions: int | None = None,
        precision: Precision | None = None,
        plain_torch: bool = False,
    ) -> None:
        self.model, self.precision = model.eval(), precision or Precision()
        self.precision.check(model.device)
        self.sample = sample
        hand_back(model)
        self.words: Any  # hidden states -> scores of words, and of codes
        self.image_logits: Any
        native = None if plain_torch else Native.find(model, self.precision)
        if native is not None:
            self.layers, self.step, self.sample = native, native.step, native.sample
            self.stepper = f"C++ {native.numbers}"
            self.words, self.image_logits = native.scorers(model)
            vq = model.model.vqmodel
            native.take_over(model.foreground)
            native.take_over(model.preference)
            if native.numbers == "int8":  # otherwise pictures are torch's, to the bit
                native.take_over(vq.post_quant_conv)
                native.take_over(vq.decoder)
            for part in (vq.encoder, vq.quant_conv):  # exact: of codes there is only right and wrong
                native.take_over(part, "fp32")
        else:
            narrow = self.precision.weights == "fp8"
            self.layers = Layers(model.model.language_model, model.config, narrow)
            self.step, self.stepper = self._step(plain_torch)
            model.lm_head.weight.data = laid_out(model.lm_head.weight.data)
            self.words = model.lm_head
            self.image_logits = Head(model.model.generation_head, self.layers, narrow)
        # Of our own products alone it is known that a picture's codes do not depend on who is coded beside it.
        self.codes_together = native is not None and model.config.vq_patch > 0
        with torch.no_grad():
            codes = torch.arange(model.config.vq_config.num_embeddings, device=self.device)
            self.codes = model.prepare_embeddings_for_image_generation(codes)  # (Q, D)
        self.prefixes: Recent[Prefix] = Recent(KEPT)
        self.painter = self._painter(native)
        kind = self.device.type
        self.positions, self.cells = positions or POSITIONS.get(kind, 1), positions or CELLS.get(kind, 1)

    def _step(self, plain_torch: bool) -> tuple[Any, str]:
        """What takes a step, and its name."""
        on_gpu = self.device.type == "cuda"
        if on_gpu or plain_torch or self.precision.in_eight_bits:
            plain_torch |= not on_gpu
            return GraphedStep(self.layers, plain_torch), "torch" if plain_torch else "Triton"
        if CompiledStep.serves(self.layers):
            return CompiledStep(self.layers), "numba"
        return partial(step, self.layers), "torch"

    def _painter(self, native: Native | None) -> Painter | None:
        """Who paints without asking between two steps; where nobody can, each step is the scheduler's."""
        if native is not None:
            return NativePainter.find(native, self.codes, self.image_logits, self.model.config.vq_config.num_patches)
        if isinstance(self.step, GraphedStep):
            return GraphedPainter(self.step, self.codes, self.image_logits)
        return None

    def encode(self, pixels: Float[Tensor, "B 3 H W"]) -> Int[Tensor, "B K"]:
        """Codes of pictures, on the host: each has those that it has alone."""
        parts = [pixels] if self.codes_together else pixels.split(1)
        return torch.cat([self.model.encode_pictures(part) for part in parts])

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.layers.norm.device

    @property
    def cache_dtype(self) -> torch.dtype:
        """Of keys and values in slots."""
        return EIGHT_BIT if self.precision.cache == "fp8" else self.codes.dtype

    @property
    def num_bytes(self) -> int:
        """Of the parameters that a step of the image stage reads."""
        return self.layers.num_bytes + self.image_logits.num_bytes
