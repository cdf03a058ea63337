"""What PBS learns by (paper section 3): a picture is told from the same product's pictures on other backgrounds."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from uniadgen.config import ContrastConfig
from uniadgen.metrics.pbs import PBS


@dataclass(frozen=True)
class Views:
    """Two views of each picture, normalised; `pair_num` rows in a row show one product on different backgrounds."""

    first: Float[Tensor, "B 3 H W"]
    second: Float[Tensor, "B 3 H W"]

    def to(self, device: torch.device) -> "Views":
        """The same on another device."""
        return Views(self.first.to(device), self.second.to(device))


class PBSLoss(NamedTuple):
    """`hits` is the share of pictures whose own other view is the nearest."""

    total: Tensor
    hits: Tensor


class Contrast(nn.Module):
    """PBS with the heads it is trained with and the encoder that follows it, as in MoCo v3 (arXiv 2104.02057)."""

    def __init__(self, pbs: PBS, config: ContrastConfig) -> None:
        super().__init__()
        self.config, self.pbs = config, pbs
        size, inner = pbs.config.features, config.hidden_size
        self.projector = head((size, inner, inner, size))
        self.predictor = head((size, inner, size))
        pbs.vit.requires_grad_(config.train_trunk)
        follows = {"compress": pbs.compress, "projector": self.projector}
        self.leaders = follows | ({"vit": pbs.vit} if config.train_trunk else {})
        self.followers = nn.ModuleDict({name: as_buffers(part) for name, part in self.leaders.items()})

    def loss(self, views: Views, generator: torch.Generator | None = None) -> PBSLoss:
        """2 T times the cross entropy of finding a picture's other view in its group, both ways; no noise is drawn."""
        self._follow()
        queries, keys = zip(*(self._look(view) for view in (views.first, views.second)), strict=True)
        logits = [self._compare(query, key) for query, key in zip(queries, reversed(keys), strict=True)]
        own = torch.arange(logits[0].shape[-1], device=logits[0].device).expand(logits[0].shape[:-1])
        entropies = [F.cross_entropy(found.flatten(0, -2), own.flatten()) for found in logits]
        hits = torch.stack([(found.argmax(-1) == own).float().mean() for found in logits]).mean()
        return PBSLoss(2 * self.config.temperature * (entropies[0] + entropies[1]), hits)

    @torch.no_grad()
    def _follow(self) -> None:
        """Moves the followers' weights a little towards the leaders'; statistics of batch norms are each one's own."""
        for name, leader in self.leaders.items():
            for inner, parameter in leader.named_parameters():
                self.followers[name].get_buffer(inner).lerp_(parameter, 1 - self.config.momentum)

    def _look(self, view: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B C"]]:
        """A view as a query and, through the followers, as a key."""
        seen = self.pbs.vit(view).last_hidden_state[:, 0]
        query = self.predictor(self.projector(self.pbs.compress(seen)))
        with torch.no_grad():
            if "vit" in self.followers:
                seen = self.followers["vit"](view).last_hidden_state[:, 0]
            return query, self.followers["projector"](self.followers["compress"](seen))

    def _compare(self, query: Float[Tensor, "B C"], key: Float[Tensor, "B C"]) -> Float[Tensor, "G P P"]:
        """Cosines over T of every picture with each of its group, or of the batch."""
        group = len(query) if self.config.in_batch_negatives else self.config.pair_num
        one, other = (F.normalize(x.float(), dim=-1).unflatten(0, (-1, group)) for x in (query, key))
        return one @ other.transpose(1, 2) / self.config.temperature


def head(sizes: Sequence[int]) -> nn.Sequential:
    """Layers without biases, each with its batch norm; the last one's has no parameters."""
    layers: list[nn.Module] = []
    for number, (inner, outer) in enumerate(pairwise(sizes), start=1):
        last = number == len(sizes) - 1
        layers += [nn.Linear(inner, outer, bias=False), nn.BatchNorm1d(outer, affine=not last)]
        layers += [] if last else [nn.ReLU()]
    return nn.Sequential(*layers)


def as_buffers(module: nn.Module) -> nn.Module:
    """A copy whose parameters are buffers: no optimizer moves them, and every checkpoint has them."""
    copied = deepcopy(module)
    for part in copied.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, parameter.detach().clone())
    return copied
