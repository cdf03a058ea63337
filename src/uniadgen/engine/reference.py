"""The plain reference: every token from the whole sequence before it, as in training, without any cache."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from uniadgen.config import GenerateConfig
from uniadgen.data.batch import Batch, Kind, Row, collate
from uniadgen.data.prompt import Layout
from uniadgen.data.waves import waves
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
            said = Vocabulary.of(layout.words, points, config.connecting_words, layout.end_text)
            speller = Speller(said, config.max_words)
        self.answer.append((layout.start_text, Kind.PROMPT))
        while not layout.is_whole(words):
            word = self.next_word(speller.allowed() if speller else None)
            if word == layout.end_text or len(words) == config.max_words:
                break
            if speller:
                speller.push(word)
            words.append(word)
            self.answer.append((word, Kind.TEXT))
        self.answer.append((layout.end_text, Kind.TEXT))
        return words

    def paint(self) -> list[int]:
        """The codes, step by step: all cells of a step from the codes painted before it."""
        self.answer.append((self.layout.start_image, Kind.PROMPT))
        cells = self.layout.config.cells
        codes, known, guided = [0] * cells, self.known(), self.config.guided_cells(cells)
        noise = [self.noise(self.layout.config.model.num_codes) for _ in range(cells)]
        painted = 0
        for wave in waves(cells, self.model.config.row_lag):
            branches = len(self.rows) if painted < guided else 1
            scores = [self.score_cells(branch, codes)[list(wave.painted)] for branch in range(branches)]
            for cell, logits in zip(wave.painted, zip(*scores, strict=True), strict=True):
                code = self.choose(torch.stack(logits), self.config.image_top_k, noise[cell])
                codes[cell] = code if known[cell] < 0 else known[cell]
            painted += len(wave.painted)
        return codes

    def known(self) -> list[int]:
        """Codes of the cells inside the product where those are skipped; -1 for all that are not known."""
        if not self.config.skip_product:
            return [-1] * self.layout.config.cells
        return self.model.known_cells(torch.from_numpy(self.rows[0].cutout), self.config.skip_margin).tolist()

    def next_word(self, allowed: list[int] | None) -> int:
        """One more word, from all branches of guidance."""
        scores = torch.cat([self.score_words(branch) for branch in range(len(self.rows))])
        return self.choose(scores, self.config.text_top_k, self.noise(scores.shape[-1]), allowed)

    def noise(self, size: int) -> Tensor | None:
        """Of the next token that is drawn."""
        return draw(self.generators, size) if self.config.temperature else None

    def choose(
        self,
        scores: Float[Tensor, "branches V"],
        top_k: int,
        noise: Float[Tensor, "1 V"] | None,
        allowed: list[int] | None = None,
    ) -> int:
        """One token, guided where there is another branch."""
        logits = guide(scores.float(), len(scores), self.config.guidance)
        if allowed is not None:
            barred = torch.ones_like(logits, dtype=torch.bool)
            barred[:, allowed] = False
            logits = logits.masked_fill(barred, float("-inf"))
        return int(sample(logits, self.config.temperature, top_k, noise))

    def score_words(self, branch: int) -> Float[Tensor, "1 V"]:
        """Of every word that may come next."""
        _, hidden = self.read(branch, self.answer)
        return self.model.text_logits(hidden[0, -1:], self.alike[branch])

    def score_cells(self, branch: int, codes: Sequence[int]) -> Float[Tensor, "K Q"]:
        """Of every code, for every cell of a picture of these codes, from what is painted before it."""
        picture = [(code, Kind.IMAGE) for code in codes]
        end = self.layout.end_image, Kind.PROMPT
        batch, hidden = self.read(branch, [*self.answer, *picture, end])
        return self.model.image_logits(hidden[batch.image_loss])

    def read(self, branch: int, answer: Sequence[tuple[int, Kind]]) -> tuple[Batch, Float[Tensor, "1 S D"]]:
        """Hidden states of the whole sequence, as in training."""
        row, model, fused = self.rows[branch], self.model, self.fused[branch]
        ids, kinds = zip(*answer, strict=True)
        answered = replace(row, ids=np.append(row.ids, ids), kind=np.append(row.kind, kinds))
        batch = model.as_read(collate([answered], self.layout.pad_id), fused)
        control = None
        if batch.image_loss.any():
            control = model.spread_control(self.control(branch, fused), batch.image_loss)
        order = batch.order(model.config.row_lag)
        return batch, model.decode(model.embed(batch, fused), batch.attend, batch.position, control, order=order)

    def control(self, branch: int, fused: Fused | None) -> Tensor:
        """What the product and the history add (1, K, C); the other branch may leave the product out."""
        batch = collate([self.rows[branch]], self.layout.pad_id)
        control = self.model.foreground(batch.cutout)
        if branch == 1 and self.config.leave_out in ("product", "both"):
            control = torch.zeros_like(control)
        return self.model.add_preference(control, batch, fused)
