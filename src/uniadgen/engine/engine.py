"""The engine: does each thing once for one loaded model, and decodes as the loop does, token for token."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Generic, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from uniadgen.config import GenerateConfig
from uniadgen.data.batch import Batch
from uniadgen.data.prompt import Layout
from uniadgen.engine.compiled import CompiledStep
from uniadgen.engine.layers import Layers, Prefix, Slots, step, transpose
from uniadgen.engine.loop import Decoder
from uniadgen.model.preference import Fused
from uniadgen.model.uniadgen import UniAdGenForConditionalGeneration

KEPT = 4  # prompts without a history whose keys and values are kept: 7B takes about 0.5 MB for each token
Value = TypeVar("Value")


class Recent(Generic[Value]):
    """The values made last, at most `size` of them, by their keys."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.values: OrderedDict[Hashable, Value] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of that key, made where it is not here."""
        value = self.values[key] if key in self.values else make()
        self.values[key] = value
        self.values.move_to_end(key)
        if len(self.values) > self.size:
            self.values.popitem(last=False)
        return value


class Engine:
    """One loaded model, made ready: weights joined (nothing is held twice), codes embedded, prompts kept.

    From then on the model is not to be trained, moved or cast; make a new engine for it where it is.
    """

    def __init__(self, model: UniAdGenForConditionalGeneration) -> None:
        self.model = model.eval()
        self.layers = Layers(model.model.language_model, model.config)
        self.step = CompiledStep(self.layers) if CompiledStep.serves(self.layers) else partial(step, self.layers)
        transpose([model.lm_head, model.model.generation_head.vision_head])
        with torch.no_grad():
            codes = torch.arange(model.config.vq_config.num_embeddings, device=self.layers.norm.device)
            self.codes = model.prepare_embeddings_for_image_generation(codes)  # (Q, D)
        self.prefixes: Recent[Prefix] = Recent(KEPT)

    def decoder(
        self,
        layout: Layout,
        config: GenerateConfig,
        seeds: Sequence[int],
        selling_points: Sequence[Sequence[str]],
    ) -> "FastDecoder":
        """For R requests."""
        return FastDecoder(self, layout, config, seeds, selling_points)

    @property
    def num_bytes(self) -> int:
        """Of the parameters that a step of the image stage reads."""
        head = self.model.model.generation_head.parameters()
        return self.layers.num_bytes + sum(p.numel() * p.element_size() for p in head)


class FastDecoder(Decoder):
    """Decodes R requests on an engine. Prompts that are equal are read once, and shared by the rows that have them."""

    def __init__(
        self,
        engine: Engine,
        layout: Layout,
        config: GenerateConfig,
        seeds: Sequence[int],
        selling_points: Sequence[Sequence[str]],
    ) -> None:
        super().__init__(engine.model, layout, config, seeds, selling_points)
        self.engine = engine

    @torch.no_grad()  # as `run` is, whatever wraps it: keys and values are written in place
    def _read(self, batch: Batch, modality: str) -> None:
        """Every different prompt once, then a place for every row to go on from it."""
        keys = [self._key(batch, row) for row in range(len(batch.ids))]
        first = {key: keys.index(key) for key in keys}  # a row of each
        clicked = [row for row in first.values() if batch.clicked[row].any()]
        prefixes = dict(zip([keys[row] for row in clicked], self._read_histories(batch, clicked), strict=True))
        for key, row in first.items():
            if key not in prefixes:  # nothing of a shopper in it: kept for later ads
                read = lambda row=row: self._read_prompts(take(batch, [row]), None)[0]  # noqa: E731
                prefixes[key] = self.engine.prefixes.get(key, read)
        self.alike = self.model.alike(batch)
        self.control = None
        if "image" in modality:
            which = [clicked.index(first[key]) if first[key] in clicked else -1 for key in keys]
            self.control = self._control(batch, self._spread(which))
        self._settle([prefixes[key] for key in keys], modality)

    def _read_histories(self, batch: Batch, rows: Sequence[int]) -> list[Prefix]:
        """Prompts with a history, whose preference tokens are extracted once."""
        self.fused = None
        if not rows:
            return []
        prompts = take(batch, rows)
        self.fused = self.model.prefer(prompts, [self.generators[row % self.num_requests] for row in rows])
        return self._read_prompts(prompts, self.fused)

    def _read_prompts(self, prompts: Batch, fused: Fused | None) -> list[Prefix]:
        """Each without its padding."""
        embeds = self.model.embed(prompts, fused)
        return [self.engine.layers.read(row[here]) for row, here in zip(embeds, prompts.attend, strict=True)]

    def _spread(self, which: Sequence[int]) -> Fused | None:
        """Preference tokens for every row; zeros, which give no control, where there is no history (-1)."""
        if self.fused is None:
            return None
        here = torch.tensor(which)
        image, text = (
            tokens[here] * (here >= 0).view(-1, 1, 1, 1).to(tokens) for tokens in (self.fused.image, self.fused.text)
        )
        return self.fused._replace(image=image, text=text)

    def _key(self, batch: Batch, row: int) -> Hashable:
        """Rows with equal keys have equal prompts. Where chance takes part in the reading, no two are equal."""
        here = batch.attend[row]
        parts = [batch.ids[row][here], batch.kind[row][here]]
        by_chance = False
        if batch.clicked[row].any():
            parts += [batch.click_ids[row], batch.click_words[row], batch.click_codes[row], batch.clicked[row]]
            by_chance = self.model.config.gumbel_at_inference
        return (row if by_chance else -1, *(part.cpu().numpy().tobytes() for part in parts))

    def _settle(self, prefixes: Sequence[Prefix], modality: str) -> None:
        """Groups of rows: those that share a prompt, and in every branch those that do not."""
        groups: dict[object, list[int]] = {}
        for row, prefix in enumerate(prefixes):
            alone = sum(other is prefix for other in prefixes) == 1
            groups.setdefault(("branch", row // self.num_requests) if alone else id(prefix), []).append(row)
        room = ("text" in modality) * (self.config.max_words + 2) + ("image" in modality) * self.layout.config.cells
        order = [row for rows in groups.values() for row in rows]
        self.slots = [
            Slots([prefixes[row] for row in rows], room, shared=not isinstance(key, tuple))
            for key, rows in groups.items()
        ]
        device = prefixes[0].keys.device  # what the text stage asks of the host stays there, all else goes to it
        self.members = [torch.tensor([row % self.num_requests for row in rows]) for rows in groups.values()]
        self.requests = torch.cat(self.members).to(device)
        self.order, self.back = torch.tensor(order, device=device), torch.tensor(order, device=device).argsort()
        self.position = torch.tensor([prefixes[row].keys.shape[2] for row in order], device=device)
        if self.control is not None:
            self.control = self.control[self.order]
        self.engine.layers.reserve(int(self.position.max()) + room)

    def _control(self, batch: Batch, fused: Fused | None) -> Float[Tensor, "rows K C"]:
        """Once for every different product."""
        cutouts = batch.cutout[: self.num_requests]
        said = [cutout.cpu().numpy().tobytes() for cutout in cutouts]
        unique = list(dict.fromkeys(said))
        control = self.model.foreground(cutouts[[said.index(one) for one in unique]])
        rows = torch.tensor([unique.index(one) for one in said])
        return self.model.add_preference(self._branches(control[rows]), batch, fused)

    def _embed_codes(self, codes: Int[Tensor, "R"]) -> Float[Tensor, "R D"]:
        return self.engine.codes[codes]

    @torch.no_grad()
    def _step(
        self, embeds: Float[Tensor, "R D"], cell: int | None = None, live: Bool[Tensor, "R"] | None = None
    ) -> Float[Tensor, "rows D"]:
        """As the loop's, over slots that stay in place."""
        for group, members in zip(self.slots, self.members, strict=True):
            group.advance(None if live is None else live[members])
        control = None if cell is None or self.control is None else self.control[:, cell]
        hidden = self.engine.step(self.slots, embeds[self.requests], self.position, control)
        self.position += 1 if live is None else live[torch.cat(self.members)].to(self.position.device)
        return hidden[self.back]


def take(batch: Batch, rows: Sequence[int]) -> Batch:
    """Some rows of a batch."""
    return replace(batch, **{field.name: getattr(batch, field.name)[list(rows)] for field in fields(batch)})
