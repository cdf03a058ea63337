"""Reads prompts, equal ones once: the keys and values that rows go on from, and what controls their pictures."""

from collections.abc import Hashable, Sequence
from dataclasses import fields, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from uniadgen.config import GenerateConfig
from uniadgen.data.batch import Batch
from uniadgen.engine.engine import Engine
from uniadgen.engine.layers import Prefix
from uniadgen.engine.loop import branches
from uniadgen.model.preference import Fused


class Read(NamedTuple):
    """Of every row: its prompt's keys and values (rows of one prompt have the same object), and what steers it."""

    prefixes: list[Prefix]
    control: list[Float[Tensor, "K C"]] | None  # None where no picture is to be painted
    alike: Float[Tensor, "rows V"] | None  # None where the model has no word preference
    known: Int[Tensor, "R K"] | None  # codes of cells that are not sampled, -1 for others; None where all are


@torch.no_grad()
def read(
    engine: Engine, batch: Batch, generators: Sequence[torch.Generator], config: GenerateConfig, with_picture: bool
) -> Read:
    """R requests, rows as the loop has them: R with everything, then, if guided, R of the other branch."""
    return Reading(engine, batch, generators).read(config, with_picture)


class Reading:
    """One batch that is being read."""

    def __init__(self, engine: Engine, batch: Batch, generators: Sequence[torch.Generator]) -> None:
        self.engine, self.model, self.generators = engine, engine.model, generators
        self.batch, self.host = batch.to(engine.device), batch.to("cpu")  # where nobody waits for what is looked at
        self.keys = [self._key(row) for row in range(len(batch.ids))]
        self.first = {key: self.keys.index(key) for key in self.keys}  # a row of each
        self.clicked = [row for row in self.first.values() if self.host.clicked[row].any()]
        self.fused = self._fuse()

    def read(self, config: GenerateConfig, with_picture: bool) -> Read:
        """Every different prompt once."""
        known = self._read_prompts(take(self.batch, self.clicked), self.fused) if self.clicked else []
        prefixes = dict(zip([self.keys[row] for row in self.clicked], known, strict=True))
        others = [key for key in self.first if key not in prefixes]  # nothing of a shopper in them: kept for later ads
        prefixes |= dict(zip(others, self.engine.prefixes.get_all(others, self._read_to_keep), strict=True))
        control = known = None
        if with_picture:
            unique, products = self._products()
            control = self._control(unique, products, config.leave_out)
            if config.skip_product:
                known = torch.stack([self.model.known_cells(one, config.skip_margin) for one in unique])[products]
        return Read([prefixes[key] for key in self.keys], control, self.model.alike(self.batch), known)

    def _fuse(self) -> Fused | None:
        """Preference tokens of the different histories, extracted once."""
        if not self.clicked:
            return None
        generators = [self.generators[row % len(self.generators)] for row in self.clicked]
        return self.model.prefer(take(self.batch, self.clicked), generators)

    def _read_to_keep(self, keys: Sequence[Hashable]) -> list[Prefix]:
        """Prompts without clicks, each in memory of its own: of those read together some may be kept longer."""
        read = self._read_prompts(take(self.batch, [self.first[key] for key in keys]), None)
        return [Prefix(*(part.contiguous() for part in prefix)) for prefix in read]

    def _read_prompts(self, prompts: Batch, fused: Fused | None) -> list[Prefix]:
        """Each without its padding."""
        prompts = self.model.as_read(prompts, fused)
        embeds = self.model.embed(prompts, fused)
        return self.engine.layers.read_all([row[here] for row, here in zip(embeds, prompts.attend, strict=True)])

    def _key(self, row: int) -> Hashable:
        """Rows with equal keys have equal prompts. Where chance takes part in the reading, no two are equal."""
        batch, here = self.host, self.host.attend[row]
        parts = [batch.ids[row][here], batch.kind[row][here]]
        by_chance = False
        if batch.clicked[row].any():
            parts += [batch.click_ids[row], batch.click_words[row], batch.click_codes[row], batch.clicked[row]]
            by_chance = self.model.config.gumbel_at_inference
        return (row if by_chance else -1, *(part.numpy().tobytes() for part in parts))

    def _products(self) -> tuple[Float[Tensor, "U 4 H W"], list[int]]:
        """The different products, and which of them each request has."""
        cutouts = self.batch.cutout[: len(self.generators)]
        said = [cutout.numpy().tobytes() for cutout in self.host.cutout[: len(self.generators)]]
        unique = list(dict.fromkeys(said))
        return cutouts[[said.index(one) for one in unique]], [unique.index(one) for one in said]

    def _control(self, cutouts: Tensor, products: Sequence[int], leave_out: str) -> list[Float[Tensor, "K C"]]:
        """Once for every different product; rows of one prompt, branch and product have the same."""
        number = len(products)
        both = branches(self.model.foreground(cutouts), len(self.keys) // number, leave_out)  # branch by branch
        steered = [(self.first[key], row // number, products[row % number]) for row, key in enumerate(self.keys)]
        unique = list(dict.fromkeys(steered))
        rows = [row for row, _, _ in unique]
        control = both[[branch * len(cutouts) + product for _, branch, product in unique]]
        control = self.model.add_preference(control, take(self.batch, rows), self._spread(rows))
        return [control[unique.index(one)] for one in steered]

    def _spread(self, rows: Sequence[int]) -> Fused | None:
        """Preference tokens for these rows, the first of their prompts; zeros, so no control, for no history."""
        if self.fused is None:
            return None
        here = torch.tensor([self.clicked.index(row) if row in self.clicked else -1 for row in rows])
        image, text = (
            tokens[here] * (here >= 0).view(-1, 1, 1, 1).to(tokens) for tokens in (self.fused.image, self.fused.text)
        )
        return self.fused._replace(image=image, text=text)


def take(batch: Batch, rows: Sequence[int]) -> Batch:
    """Some rows of a batch."""
    return replace(batch, **{field.name: getattr(batch, field.name)[list(rows)] for field in fields(batch)})
