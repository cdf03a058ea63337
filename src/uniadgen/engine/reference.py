"""The plain decoding loop: one prefill, one cache for text and picture, both guidance branches in one batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from uniadgen.config import GenerateConfig
from uniadgen.data.batch import Batch
from uniadgen.data.prompt import Layout
from uniadgen.engine.faithful import Speller, Vocabulary
from uniadgen.model.preference import Fused
from uniadgen.model.uniadgen import UniAdGenForConditionalGeneration


@dataclass(frozen=True)
class Progress:
    """What has been decoded so far: token ids of each text (without `</text>`), codes of each picture."""

    words: tuple[tuple[int, ...], ...]
    codes: Int[Tensor, "R k"]
    done: bool = False


class Decoder:
    """Decodes R requests. Rows of the batch: R with everything, then, if guided, R of the branch left without.

    Every request has its own seed, so its ad does not depend on who else is in the batch (up to rounding).
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
                Speller(
                    Vocabulary.of(layout.tokenizer, points, config.connecting_words, layout.end_text), config.max_words
                )
                for points in selling_points
            ]

    @torch.no_grad()
    def run(self, batch: Batch, modality: str | None = None) -> Iterator[Progress]:
        """Yields after every word and after every row of the picture; the last one is `done`.

        `modality` is what to make of this batch: by default, all that the config has. A text made before stays.
        """
        modality = modality or self.layout.config.data.modality
        self.num_branches = len(batch.ids) // self.num_requests
        fused = self.model.prefer(batch, self.generators * self.num_branches)
        self._prefill(batch, fused)
        codes = torch.zeros(self.num_requests, 0, dtype=torch.long)
        if "text" in modality:
            for words in self._write():
                self.words = tuple(map(tuple, words))
                yield Progress(self.words, codes)
        if "image" in modality:
            for codes in self._paint(self._control(batch, fused)):
                yield Progress(self.words, codes)
        yield Progress(self.words, codes, done=True)

    def _prefill(self, batch: Batch, fused: Fused | None) -> None:
        self.cache = DynamicCache(config=self.model.config.text_config)
        self.attend = batch.attend
        self.model.decode(self.model.embed(batch, fused), self.attend, batch.position, None, self.cache)

    def _write(self) -> Iterator[list[list[int]]]:
        """The text stage: from `<text>` until every row has fed its `</text>`."""
        end, pad = self.layout.end_text, self.layout.pad_id
        words: list[list[int]] = [[] for _ in range(self.num_requests)]
        fed = torch.full((self.num_requests,), self.layout.start_text)
        writing = torch.ones(self.num_requests, dtype=torch.bool)
        for count in range(self.config.max_words + 1):
            hidden = self._step(self.model.get_input_embeddings()(self._all(fed)), live=self._all(fed != pad))
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
        self._step(self.model.get_input_embeddings()(self._all(fed)), live=self._all(fed != pad))

    def _paint(self, control: Float[Tensor, "rows K C"]) -> Iterator[Int[Tensor, "R k"]]:
        """The image stage: K codes from `<image>`, each position with the control of the cell it predicts."""
        cells = self.layout.config.cells
        side = round(cells**0.5)
        codes: list[Tensor] = []
        embeds = self.model.get_input_embeddings()(self._all(torch.full((self.num_requests,), self.layout.start_image)))
        for cell in range(cells):
            hidden = self._step(embeds, control[:, cell : cell + 1])
            codes.append(self._sample_codes(hidden))
            embeds = self.model.prepare_embeddings_for_image_generation(self._all(codes[-1]))
            if (cell + 1) % side == 0:
                yield torch.stack(codes, dim=1)

    def _control(self, batch: Batch, fused: Fused | None) -> Float[Tensor, "rows K C"]:
        """Computed once per picture; a branch that leaves the product or the history out has nothing of it."""
        control = self.model.foreground(batch.cutout[: self.num_requests])
        branches = [control] * self.num_branches
        if self.config.leave_out in ("product", "both"):
            branches[1:] = [torch.zeros_like(control)] * (self.num_branches - 1)
        return self.model.add_preference(torch.cat(branches), batch, fused)

    def _all(self, per_request: Tensor) -> Tensor:
        """Every branch is fed the same tokens."""
        return per_request.repeat(self.num_branches).to(self.attend.device)

    def _step(self, embeds: Tensor, control: Tensor | None = None, live: Tensor | None = None) -> Tensor:
        """One position for every row; rows that are not live feed padding that nobody will look at."""
        new = self.attend.new_ones(len(embeds), 1) if live is None else live[:, None]
        self.attend = torch.cat([self.attend, new], dim=1)
        position = (self.attend.sum(-1, keepdim=True) - 1).clamp(min=0)
        return self.model.decode(embeds[:, None], self.attend, position, control, self.cache)[:, 0]

    def _sample_words(self, hidden: Tensor, writing: Tensor) -> Int[Tensor, "R"]:
        """The next word of every text; where only selling points may be written, one that continues them.

        A text that has ended draws nothing any more, or its picture would depend on how long the others write.
        """
        logits = self._guide(self.model.text_logits(hidden))
        for row, speller in enumerate(self.spellers):
            if not writing[row]:
                continue
            allowed = speller.allowed()
            assert allowed, "a text can always go on or end"
            barred = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
            barred[allowed] = False
            logits[row, barred] = float("-inf")
        generators = [g if live else None for g, live in zip(self.generators, writing.tolist(), strict=True)]
        words = sample(logits, self.config.temperature, self.config.text_top_k, generators)
        for speller, word in zip(self.spellers, words.tolist()[: len(self.spellers)], strict=True):
            speller.push(word)
        return words

    def _sample_codes(self, hidden: Tensor) -> Int[Tensor, "R"]:
        logits = self._guide(self.model.image_logits(hidden))
        return sample(logits, self.config.temperature, self.config.image_top_k, self.generators)

    def _guide(self, logits: Float[Tensor, "rows V"]) -> Float[Tensor, "R V"]:
        return guide(logits.float(), self.num_branches, self.config.guidance)


def guide(logits: Float[Tensor, "rows V"], num_branches: int, guidance: float) -> Float[Tensor, "R V"]:
    """Classifier-free guidance: u + guidance (c - u)."""
    if num_branches == 1:
        return logits
    with_all, without = logits.chunk(2)
    return without + guidance * (with_all - without)


def sample(
    logits: Float[Tensor, "R V"], temperature: float, top_k: int, generators: Sequence[torch.Generator | None]
) -> Int[Tensor, "R"]:
    """One token per row from the `top_k` likeliest (0: from all), by the Gumbel trick; temperature 0 is greedy.

    A row without a generator is not drawn from: what it gets is to be ignored.
    """
    if temperature == 0:
        return logits.argmax(-1).cpu()
    logits = logits.cpu() / temperature
    if 0 < top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], float("-inf"))
    size = logits.shape[-1]
    noise = torch.stack([torch.full((size,), 0.5) if g is None else torch.rand(size, generator=g) for g in generators])
    noise = noise.clamp(min=1e-20)
    return (logits - torch.log(-torch.log(noise))).argmax(-1)
