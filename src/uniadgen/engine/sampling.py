"""How one token is chosen: guidance, then the likeliest few, then chance that a request's own seed decides."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


def guide(logits: Float[Tensor, "rows V"], num_branches: int, guidance: float | Tensor) -> Float[Tensor, "R V"]:
    """Classifier-free guidance: u + guidance (c - u). `guidance` may differ between requests: (R, 1)."""
    if num_branches == 1:
        return logits
    with_all, without = logits.chunk(2)
    return without + guidance * (with_all - without)


def draw(generators: Sequence[torch.Generator | None], *shape: int) -> Float[Tensor, "R ..."]:
    """Gumbel noise for every request from its own generator; a request without one gets none of its own.

    It is a function of (seed, position): for the p-th token that a request draws, numbers p V ... p V + V - 1 of its
    stream, no matter who is beside it, in what order, and whether a row of cells is drawn at once.
    """
    rows = [torch.full(shape, 0.5) if g is None else torch.rand(shape, generator=g) for g in generators]
    return gumbel(torch.stack(rows))


def gumbel(uniform: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Gumbel noise from numbers between 0 and 1, in their place."""
    return uniform.clamp_(min=1e-20).log_().neg_().log_().neg_()


def sample(
    logits: Float[Tensor, "R V"], temperature: float, top_k: int, noise: Float[Tensor, "R V"] | None
) -> Int[Tensor, "R"]:
    """One token per row from the `top_k` likeliest (0: from all), by the Gumbel trick; temperature 0 is greedy.

    Stays on the device of the logits. `noise` comes from `draw`; a greedy choice needs none.
    """
    if temperature == 0:
        return logits.argmax(-1)
    assert noise is not None, "only a greedy choice needs no noise"
    logits = logits / temperature
    if 0 < top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], float("-inf"))
    return (logits + noise.to(logits.device)).argmax(-1)


def settle(codes: Int[Tensor, "*L"], known: Int[Tensor, "*L"]) -> Int[Tensor, "*L"]:
    """Codes, or what is known of their cells; -1 where nothing is."""
    return torch.where(known >= 0, known, codes)


DRAWN = 8  # words whose noise is drawn together: for one alone, torch's starting takes longer than the logarithms


class Noise:
    """The noise of one request's words, drawn some words ahead; what is drawn and not used goes back.

    As `draw` defines it; where the device is a GPU, its logarithms are the GPU's.
    """

    def __init__(self, generator: torch.Generator, device: torch.device) -> None:
        self.generator, self.device, self.on_gpu = generator, device, device.type == "cuda"
        self.used = 0
        self.drawn: list[tuple[int, Tensor]] = []  # words before each drawing, and where the generator stood then
        self.ahead: Tensor | None = None  # drawn and not used yet (n, V)

    def peek(self, count: int, size: int) -> Float[Tensor, "n V"]:
        """The noise of the next `count` words."""
        here = 0 if self.ahead is None else len(self.ahead)
        if here < count:
            self.drawn.append((self.used + here, self.generator.get_state()))
            uniform = torch.rand(max(count - here, DRAWN), size, generator=self.generator)
            more = gumbel(uniform.pin_memory().to(self.device, non_blocking=True) if self.on_gpu else uniform)
            self.ahead = more if self.ahead is None else torch.cat([self.ahead, more])
        assert self.ahead is not None, "at least one word is asked for"
        return self.ahead[:count]

    def use(self, count: int) -> None:
        """So many words have been written; a greedy choice took none of it."""
        if self.ahead is not None:
            self.ahead, self.used = self.ahead[count:], self.used + count

    def end(self) -> None:
        """The generator stands where it would, had nothing been drawn ahead."""
        if self.ahead is not None and len(self.ahead):
            before, state = next(one for one in reversed(self.drawn) if one[0] <= self.used)
            self.generator.set_state(state)
            torch.rand(self.used - before, self.ahead.shape[1], generator=self.generator)
