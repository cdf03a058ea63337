"""Guidance distilled: a model learns to say with one branch what its base says with both, guided (ours)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from uniadgen.data.batch import LENGTHS, Batch, collate
from uniadgen.data.rows import Rows
from uniadgen.engine.sampling import guide
from uniadgen.model.uniadgen import Losses, UniAdGenForConditionalGeneration


class Branches(NamedTuple):
    """The same rows with their history and without it, as guidance reads them."""

    informed: Batch
    blind: Batch

    def to(self, device: torch.device) -> "Branches":
        """The same on another device."""
        return Branches(self.informed.to(device), self.blind.to(device))


class BranchRows(Rows):
    """Rows of a step in both branches, laid out as the engine lays them out."""

    template = 0

    def branches(self, step: int) -> list[Branches]:
        """All rows of a step at once."""
        own = self._own(step)
        blind = [self.row(number, with_history=False) for number, _ in own]
        both = ([row for _, row in own], blind)
        return [Branches(*(collate(rows, self.layout.pad_id, LENGTHS) for rows in both))]


class Distilled(nn.Module):
    """The model that learns, and its frozen base.

    Both read without noise and dropout, as the engine does: what is to be equal is what they say when they make ads.
    """

    def __init__(
        self, student: UniAdGenForConditionalGeneration, base: UniAdGenForConditionalGeneration, guidance: float
    ) -> None:
        super().__init__()
        self.student, self.base, self.guidance = student, base.requires_grad_(False), guidance

    def train(self, mode: bool = True) -> "Distilled":
        """Never in training mode."""
        return super().train(False)

    def loss(
        self, batch: Branches, generator: torch.Generator | None = None, sizes: Float[Tensor, "2"] | None = None
    ) -> Losses:
        """How far the student's next words and cells are from the guided ones of its base (Kullback-Leibler, nats)."""
        words, cells = self.guided(batch)
        own = self.student.scores(batch.informed)
        sizes = self.sizes(batch) if sizes is None else sizes
        return self.student.weigh(_apart(words, own.words), _apart(cells, own.cells), own.painted, sizes)

    @torch.no_grad()
    def guided(self, batch: Branches) -> tuple[Float[Tensor, "W V"], Float[Tensor, "T Q"]]:
        """The base's scores of every next word and cell, guided as when it makes an ad."""
        both = [self.base.scores(branch) for branch in batch]
        words = guide(torch.cat([scores.words for scores in both]), 2, self.guidance)
        return words, guide(torch.cat([scores.cells for scores in both]), 2, self.guidance)

    def sizes(self, batch: Branches) -> Float[Tensor, "2"]:
        """As the model's own."""
        return self.student.sizes(batch.informed)


def _apart(wanted: Float[Tensor, "T V"], found: Float[Tensor, "T V"]) -> Float[Tensor, "T"]:
    logs = wanted.log_softmax(-1), found.log_softmax(-1)
    return F.kl_div(logs[1], logs[0], reduction="none", log_target=True).sum(-1)
