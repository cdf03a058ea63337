"""Muon for many matrices at once: those of one shape are made orthogonal together."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

EACH: Any = torch  # its functions of many tensors at once are in no stub
COEFFICIENTS = (3.4445, -4.775, 2.0315)  # of the quintic iteration, as Jordan et al. found them
ITERATIONS = 5


class Muon(Optimizer):
    """Momentum, made orthogonal (Jordan et al. 2024), in steps as large as AdamW's (0.2 RMS; Liu et al. 2025).

    What `torch.optim.Muon` computes, matrix by matrix, is done here for all matrices of a shape at once: a small model
    on a GPU waits for the start of operations more than for anything else.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, weight_decay: float = 0.1, momentum: float = 0.95
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step by the gradients that are there."""
        assert closure is None, "gradients are there already"
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes[parameter.shape].append(parameter)
            for alike in shapes.values():
                self._step(alike, **{name: group[name] for name in ("lr", "weight_decay", "momentum")})

    def _step(self, parameters: Sequence[Tensor], lr: float, weight_decay: float, momentum: float) -> None:
        gradients = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        EACH._foreach_lerp_(buffers, gradients, 1 - momentum)
        updates = orthogonal(torch.stack(EACH._foreach_lerp(gradients, buffers, momentum)))
        length = lr * 0.2 * math.sqrt(max(parameters[0].shape))
        EACH._foreach_mul_(parameters, 1 - lr * weight_decay)
        EACH._foreach_add_(parameters, updates.to(parameters[0].dtype).unbind(), alpha=-length)


def orthogonal(matrices: Float[Tensor, "n a b"]) -> Float[Tensor, "n a b"]:
    """About the nearest matrices whose singular values are all 1, in bfloat16: they come out between 0.7 and 1.2."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    first, second, third = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=second, alpha=third), x, beta=first)
    return x.mT if tall else x
