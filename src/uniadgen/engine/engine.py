"""The engine: one loaded model made ready to decode, weights joined, codes embedded, prompts kept."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from threading import Lock
from typing import Generic, TypeVar

import torch

from uniadgen.engine.compiled import CompiledStep
from uniadgen.engine.layers import Layers, Prefix, transpose
from uniadgen.engine.native import Native
from uniadgen.engine.sampling import sample
from uniadgen.engine.slots import step
from uniadgen.model.uniadgen import UniAdGenForConditionalGeneration

# Positions of a step, of all ads together: beyond, another one costs about what its drafts gain. On a CPU 4 made nano's
# ads soonest of 1, 2, 4, 6, 8 and 16; on a GPU calculated from its arithmetic and memory, and not measured yet.
POSITIONS = {"cpu": 4, "cuda": 128}
KEPT = 4  # prompts without a history whose keys and values are kept: 7B takes about 0.5 MB for each token
Value = TypeVar("Value")


class Recent(Generic[Value]):
    """The values made last, at most `size` of them, by their keys."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.values: OrderedDict[Hashable, Value] = OrderedDict()
        self.lock = Lock()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of that key, made where it is not here."""
        value = self.values.get(key)
        if value is None:
            value = make()  # two threads may both make it: better than that one waits for another's
        with self.lock:
            self.values[key] = value
            self.values.move_to_end(key)
            if len(self.values) > self.size:
                self.values.popitem(last=False)
        return value


class Engine:
    """One loaded model, made ready: weights joined (nothing is held twice), codes embedded, prompts kept.

    From then on the model is not to be trained, moved or cast; make a new engine for it where it is.
    `positions` of a step, at most: drafts are verified where there are fewer ads than that. 1: no drafts. Never does it
    change what comes out; `precision` "int8" does: 8 bits for weights and what they are multiplied with, on CPUs that
    have VNNI. Raises `ValueError` where it cannot be had.
    """

    def __init__(
        self, model: UniAdGenForConditionalGeneration, positions: int | None = None, precision: str = "fp32"
    ) -> None:
        self.model = model.eval()
        native = Native.find(model, precision)
        if native is not None:
            self.layers, self.step, self.stepper = native, native.step, f"C++ {precision}"
            self.words, self.paints = native.outputs(model)
            self.sample = native.sample
        else:
            self.layers = Layers(model.model.language_model, model.config)
            self.step, self.stepper = partial(step, self.layers), "torch"
            if CompiledStep.serves(self.layers):
                self.step, self.stepper = CompiledStep(self.layers), "numba"
            self.words, self.paints, self.sample = None, None, sample
            transpose([model.lm_head, model.model.generation_head.vision_head])
        with torch.no_grad():
            codes = torch.arange(model.config.vq_config.num_embeddings, device=self.device)
            self.codes = model.prepare_embeddings_for_image_generation(codes)  # (Q, D)
        self.prefixes: Recent[Prefix] = Recent(KEPT)
        self.positions = positions or POSITIONS.get(self.device.type, 1)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.layers.norm.device

    @property
    def num_bytes(self) -> int:
        """Of the parameters that a step of the image stage reads."""
        head = self.model.model.generation_head.parameters()
        return self.layers.num_bytes + sum(p.numel() * p.element_size() for p in head)
