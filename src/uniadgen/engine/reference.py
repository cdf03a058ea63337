"""The plain reference: every token from the whole sequence before it, as in training, without any cache."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from uniadgen.config import GenerateConfig
from uniadgen.data.batch import Kind, Row, collate
from uniadgen.data.prompt import Layout
from uniadgen.engine.faithful import Speller, Vocabulary
from uniadgen.engine.sampling import draw, guide, sample
from uniadgen.model.preference import Fused
from uniadgen.model.uniadgen import UniAdGenForConditionalGeneration


class Made(NamedTuple):
    """Token ids of the text, without the one that ends it, and the codes of the picture."""

    words: tuple[int, ...]
    codes: tuple[int, ...]


class Reference:
    """Makes one ad, slowly. `rows`: the request and, where there is guidance, the branch that leaves something out."""

    @torch.no_grad()
    def __init__(
        self,
        model: UniAdGenForConditionalGeneration,
        layout: Layout,
        config: GenerateConfig,
        rows: Sequence[Row],
        seed: int,
    ) -> None:
        self.model, self.layout, self.config, self.rows = model, layout, config, rows
        self.generators = [torch.Generator().manual_seed(seed)]
        alone = [collate([row], layout.pad_id) for row in rows]
        self.fused = [model.prefer(batch, self.generators) for batch in alone]
        self.alike = [model.alike(batch) for batch in alone]
        self.answer: list[tuple[int, Kind]] = []  # all that comes after the prompt

    @torch.no_grad()
    def make(self, points: Sequence[str] = (), modality: str | None = None) -> Made:
        """The text, then the picture; only those that the modality has. `points` matter to faithful texts alone."""
        modality = modality or self.layout.config.data.modality
        words = self.write(points) if "text" in modality else []
        codes = self.paint() if "image" in modality else []
        return Made(tuple(words), tuple(codes))

    def write(self, points: Sequence[str]) -> list[int]:
        """The words up to `</text>`, at most `max_words`; the word after the last one is drawn and not taken."""
        config, layout, words = self.config, self.layout, []
        speller = None
        if config.connecting_words:
            said = Vocabulary.of(layout.tokenizer, points, config.connecting_words, layout.end_text)
            speller = Speller(said, config.max_words)
        self.answer.append((layout.start_text, Kind.PROMPT))
        while not layout.is_whole(words):
            word = self.next(Kind.TEXT, config.text_top_k, speller.allowed() if speller else None)
            if word == layout.end_text or len(words) == config.max_words:
                break
            if speller:
                speller.push(word)
            words.append(word)
            self.answer.append((word, Kind.TEXT))
        self.answer.append((layout.end_text, Kind.TEXT))
        return words

    def paint(self) -> list[int]:
        """The codes, cell by cell."""
        self.answer.append((self.layout.start_image, Kind.PROMPT))
        cells, codes = self.layout.config.cells, []
        known, guided = self.known(), self.config.guided_cells(cells)
        for cell in range(cells):
            branches = len(self.rows) if cell < guided else 1
            code = self.next(Kind.IMAGE, self.config.image_top_k, branches=branches)
            codes.append(code if known[cell] < 0 else known[cell])
            self.answer.append((codes[-1], Kind.IMAGE))
        return codes

    def known(self) -> list[int]:
        """Codes of the cells inside the product where those are skipped; -1 for all that are not known."""
        if not self.config.skip_product:
            return [-1] * self.layout.config.cells
        return self.model.known_cells(torch.from_numpy(self.rows[0].cutout), self.config.skip_margin).tolist()

    def next(self, kind: Kind, top_k: int, allowed: list[int] | None = None, branches: int | None = None) -> int:
        """One more token of that kind, from all branches of guidance or the first ones."""
        branches = branches or len(self.rows)
        scores = [self.score(self.read(branch, kind)[None], branch, kind) for branch in range(branches)]
        logits = guide(torch.cat(scores).float(), branches, self.config.guidance)
        if allowed is not None:
            barred = torch.ones_like(logits, dtype=torch.bool)
            barred[:, allowed] = False
            logits = logits.masked_fill(barred, float("-inf"))
        noise = draw(self.generators, logits.shape[-1]) if self.config.temperature else None
        return int(sample(logits, self.config.temperature, top_k, noise))

    def score(self, hidden: Tensor, branch: int, kind: Kind) -> Tensor:
        """Of every token that may come next, (1, V) or (1, Q)."""
        if kind == Kind.IMAGE:
            return self.model.image_logits(hidden)
        return self.model.text_logits(hidden, self.alike[branch])

    def read(self, branch: int, kind: Kind) -> Tensor:
        """The hidden state (D) at the last position, from the whole sequence.

        One token more is appended, which nothing before it can see: then that position is one that predicts its kind.
        """
        row, model = self.rows[branch], self.model
        ids, kinds = zip(*self.answer, (0, kind), strict=True)
        answered = replace(row, ids=np.append(row.ids, ids), kind=np.append(row.kind, kinds))
        fused = self.fused[branch]
        batch = model.shorten(collate([answered], self.layout.pad_id), fused)
        control = None
        if kind == Kind.IMAGE:
            control = self.control(branch, fused)[:, : int(batch.image_loss.sum())]
            control = model.spread_control(control, batch.image_loss)
        return model.decode(model.embed(batch, fused), batch.attend, batch.position, control)[0, -2]

    def control(self, branch: int, fused: Fused | None) -> Tensor:
        """What the product and the history add (1, K, C); the other branch may leave the product out."""
        batch = collate([self.rows[branch]], self.layout.pad_id)
        control = self.model.foreground(batch.cutout)
        if branch == 1 and self.config.leave_out in ("product", "both"):
            control = torch.zeros_like(control)
        return self.model.add_preference(control, batch, fused)
