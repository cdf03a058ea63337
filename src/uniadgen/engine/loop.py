"""The decoding loop: a text, then a picture, with one prefill; it steps through transformers' own forward."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from uniadgen.config import GenerateConfig
from uniadgen.data.batch import Batch
from uniadgen.data.prompt import Layout
from uniadgen.data.waves import NOTHING, Wave, waves
from uniadgen.engine.faithful import Speller, Vocabulary
from uniadgen.engine.sampling import draw, guide, sample, settle
from uniadgen.model.preference import Fused
from uniadgen.model.uniadgen import UniAdGenForConditionalGeneration


@dataclass(frozen=True)
class Progress:
    """What has been decoded so far: token ids of each text (without `</text>`), codes of each picture."""

    words: tuple[tuple[int, ...], ...]
    codes: Int[Tensor, "R k"]
    done: bool = False


class Decoder:
    """Decodes R requests. Rows: R with everything, then, if guided, R of the branch that leaves something out.

    Every request has its own seed, so its ad does not depend on who else is in the batch (up to rounding). This class
    steps by `model.decode`, whatever the model is wrapped in (adapters, shards); `together.FastDecoder` is fast.
    """

    def __init__(
        self,
        model: UniAdGenForConditionalGeneration,
        layout: Layout,
        config: GenerateConfig,
        seeds: Sequence[int],
        selling_points: Sequence[Sequence[str]],
    ) -> None:
        self.model = model
        self.layout = layout
        self.config = config
        self.num_requests = len(seeds)
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.words: tuple[tuple[int, ...], ...] = ((),) * self.num_requests
        self.spellers: list[Speller] = []
        if config.connecting_words:
            self.spellers = [
                Speller(Vocabulary.of(layout.words, points, config.connecting_words, layout.end_text), config.max_words)
                for points in selling_points
            ]

    @torch.no_grad()
    def run(self, batch: Batch, modality: str | None = None) -> Iterator[Progress]:
        """Yields after every word and after every row of the picture; the last one is `done`.

        `modality` is what to make of this batch: by default, all that the config has. A text made before stays.
        """
        modality, batch = modality or self.layout.config.data.modality, batch.to(self.model.device)
        self.num_branches = len(batch.ids) // self.num_requests
        self._read(batch, modality)
        codes = torch.zeros(self.num_requests, 0, dtype=torch.long)
        if "text" in modality:
            for words in self._write():
                self.words = tuple(map(tuple, words))
                yield Progress(self.words, codes)
        if "image" in modality:
            for codes in self._paint():
                yield Progress(self.words, codes)
        yield Progress(self.words, codes, done=True)

    def _read(self, batch: Batch, modality: str) -> None:
        """The prompts, once: keys and values of both stages, and the control of the picture to be painted."""
        self.fused = fused = self.model.prefer(batch, self.generators * self.num_branches)
        batch = self.model.as_read(batch, fused)
        self.cache = DynamicCache(config=self.model.config.text_config)
        self.attend = batch.attend
        self.model.decode(self.model.embed(batch, fused), self.attend, batch.position, None, self.cache)
        self.alike = self.model.alike(batch)
        self.control = self._control(batch, fused) if "image" in modality else None
        self.known = None
        if self.config.skip_product and "image" in modality:
            known = [self.model.known_cells(c, self.config.skip_margin) for c in batch.cutout[: self.num_requests]]
            self.known = torch.stack(known)

    def _write(self) -> Iterator[list[list[int]]]:
        """The text stage: from `<text>` until every row has fed its `</text>`."""
        end, pad = self.layout.end_text, self.layout.pad_id
        words: list[list[int]] = [[] for _ in range(self.num_requests)]
        fed = torch.full((self.num_requests,), self.layout.start_text)
        writing = torch.ones(self.num_requests, dtype=torch.bool)
        for count in range(self.config.max_words + 1):
            hidden = self._step(self._embed(fed[:, None]), live=fed != pad)[:, 0]
            writing = writing & (fed != end)
            if not writing.any():
                return
            whole = torch.tensor([self.layout.is_whole(row) for row in words])
            sampled = self._sample_words(hidden, writing & ~whole).masked_fill(whole, end)
            if count == self.config.max_words:
                sampled = torch.full_like(sampled, end)
            fed = torch.where(writing, sampled, pad)
            for row, word in enumerate(fed.tolist()):
                if word not in (end, pad):
                    words[row].append(word)
            yield words
        self._step(self._embed(fed[:, None]), live=fed != pad)

    def _paint(self) -> Iterator[Int[Tensor, "R k"]]:
        """The image stage: K codes from `<image>`, each position with the control of the cell it predicts."""
        cells = self.layout.config.cells
        side, size = round(cells**0.5), self.layout.config.model.num_codes
        guided, painted = self.config.guided_cells(cells), 0
        self.start = self.attend.sum(-1, keepdim=True)
        codes = torch.zeros(self.num_requests, cells, dtype=torch.long, device=self.attend.device)
        noise: dict[int, Tensor] = {}  # of rows of cells under way
        for wave in waves(cells, self.model.config.row_lag):
            here = list(wave.painted)
            hidden = self._step(self._feed(wave, codes), wave)[:, : len(here)].flatten(0, 1)
            logits = self.model.image_logits(hidden)
            logits = self._guide(logits) if painted < guided else logits[: self.num_requests * len(here)].float()
            for row in (cell // side for cell in here if cell % side == 0 and self.config.temperature):
                noise[row] = draw(self.generators, side, size).to(logits.device)  # at once: one copy to a GPU
            own = torch.stack([noise[cell // side][:, cell % side] for cell in here], dim=1) if noise else None
            code = sample(
                logits, self.config.temperature, self.config.image_top_k, None if own is None else own.flatten(0, 1)
            ).view(self.num_requests, -1)
            codes[:, here] = code if self.known is None else settle(code, self.known[:, here])
            painted += len(here)
            for row in (cell // side for cell in here if (cell + 1) % side == 0):
                noise.pop(row, None)
                yield codes[:, : (row + 1) * side].cpu()

    def _feed(self, wave: Wave, codes: Int[Tensor, "R K"]) -> Float[Tensor, "R n D"]:
        """The codes that a step feeds, and `<image>` where a row begins."""
        fed = torch.tensor(wave.fed, device=codes.device)
        embeds = self._embed_codes(codes[:, fed.clamp(min=0)])
        if NOTHING not in wave.fed:
            return embeds
        begin = self._embed(torch.full((self.num_requests, 1), self.layout.start_image))
        return torch.where((fed == NOTHING)[:, None], begin, embeds)

    def _control(self, batch: Batch, fused: Fused | None) -> Float[Tensor, "rows K C"]:
        """Computed once per picture; a branch that leaves the product or the history out has nothing of it."""
        control = self.model.foreground(batch.cutout[: self.num_requests])
        return self.model.add_preference(branches(control, self.num_branches, self.config.leave_out), batch, fused)

    def _embed(self, tokens: Int[Tensor, "R n"]) -> Float[Tensor, "R n D"]:
        return self.model.get_input_embeddings()(tokens.to(self.model.device))

    def _embed_codes(self, codes: Int[Tensor, "R n"]) -> Float[Tensor, "R n D"]:
        return self.model.prepare_embeddings_for_image_generation(codes)

    def _step(
        self, embeds: Float[Tensor, "R n D"], wave: Wave | None = None, live: Bool[Tensor, "R"] | None = None
    ) -> Float[Tensor, "rows n D"]:
        """The next positions of every row: all branches are fed the same.

        `wave` is what is painted, whose control is added; requests that are not live feed padding that nobody will
        look at.
        """
        rows = embeds.repeat(self.num_branches, 1, 1)
        new = self.attend.new_ones(rows.shape[:2])
        if live is not None:
            new = live.repeat(self.num_branches)[:, None].to(self.model.device)
        self.attend = torch.cat([self.attend, new], dim=1)
        if wave is None:
            position = (self.attend.sum(-1, keepdim=True) - 1).clamp(min=0)
            return self.model.decode(rows, self.attend, position, None, self.cache)
        position = self.start + torch.tensor(wave.places, device=self.start.device)
        control = order = None
        if self.control is not None:
            control = F.pad(self.control[:, list(wave.painted)], (0, 0, 0, len(wave.fed) - len(wave.painted)))
        if self.model.config.row_lag:
            order = torch.zeros_like(self.attend[0], dtype=torch.long)  # all that is fed before and now is seen
        return self.model.decode(rows, self.attend, position, control, self.cache, order)

    def _sample_words(self, hidden: Tensor, writing: Tensor) -> Int[Tensor, "R"]:
        """The next word of every text; where only selling points may be written, one that continues them.

        A text that has ended draws nothing any more, or its picture would depend on how long the others write.
        """
        logits = self._guide(self.model.text_logits(hidden, self.alike))
        for row, speller in enumerate(self.spellers):
            if not writing[row]:
                continue
            allowed = speller.allowed()
            assert allowed, "a text can always go on or end"
            barred = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
            barred[allowed] = False
            logits[row, barred] = float("-inf")
        noise = None
        if self.config.temperature:
            generators = [g if live else None for g, live in zip(self.generators, writing.tolist(), strict=True)]
            noise = draw(generators, logits.shape[-1])
        words = sample(logits, self.config.temperature, self.config.text_top_k, noise).cpu()
        for speller, word in zip(self.spellers, words.tolist()[: len(self.spellers)], strict=True):
            speller.push(word)
        return words

    def _guide(self, logits: Float[Tensor, "rows V"]) -> Float[Tensor, "R V"]:
        return guide(logits.float(), self.num_branches, self.config.guidance)


def branches(control: Float[Tensor, "R K C"], number: int, leave_out: str) -> Float[Tensor, "rows K C"]:
    """The product's control in every branch of guidance, or nothing where it is left out."""
    others = torch.zeros_like(control) if leave_out in ("product", "both") else control
    return torch.cat([control] + [others] * (number - 1))
