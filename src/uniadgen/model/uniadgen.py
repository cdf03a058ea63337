"""Uni-AdGen: one autoregressive model that writes the advertising text and then paints the picture."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, Cache
from transformers import initialization as init
from transformers.models.janus.modeling_janus import JanusForConditionalGeneration

from uniadgen.data.batch import LENGTHS, Batch, Kind
from uniadgen.model import vq
from uniadgen.model.bases import load_base
from uniadgen.model.configuration import UniAdGenConfig
from uniadgen.model.foreground import Foreground, ReleaseForeground, drop_rows, hook_control
from uniadgen.model.preference import (
    Fused,
    Noise,
    Preference,
    PreferenceControl,
    RelevanceExtractor,
    WordPreference,
    preference_of,
)

COVERED = 0.99  # of a cell's pixels, by the product: then it lies in it
Head = Callable[[Tensor], Tensor]  # hidden states -> scores


class Scores(NamedTuple):
    """Of every token that may come next, in a batch with targets; and those targets."""

    words: Float[Tensor, "W V"]
    cells: Float[Tensor, "T Q"]
    next_words: Int[Tensor, "W"]
    next_cells: Int[Tensor, "T"]
    painted: Bool[Tensor, "B S"]  # where the cells are


class Losses(NamedTuple):
    """Eq. 4 and its two terms, each a (weighted) mean over its own tokens (Eq. 2, 3 write sums)."""

    total: Tensor
    text: Tensor
    image: Tensor


class UniAdGenForConditionalGeneration(JanusForConditionalGeneration):
    """Janus with foreground perception (Eq. 5) and multimodal preference extraction (Eq. 7, 8).

    Nothing of transformers is changed: the control enters stock Llama layers through forward pre-hooks.
    """

    config_class = UniAdGenConfig
    config: UniAdGenConfig

    def __init__(self, config: UniAdGenConfig) -> None:
        super().__init__(config)
        vq.use_patches(self.model.vqmodel, config)
        release = config.variant == "release"
        self.foreground = ReleaseForeground(config) if release else Foreground(config)
        self.preference = preference_of(config)
        if config.preference_control:
            self.preference_control = PreferenceControl(config.text_config.hidden_size)
        if config.word_preference:
            sizes = config.text_config.vocab_size, config.word_preference, config.text_config.hidden_size
            self.word_preference = WordPreference(*sizes)
        for unused in (self.model.vision_model, self.model.aligner):  # parts of Janus off our path
            unused.requires_grad_(False)
        hook_control(self.model.language_model.layers, config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """New parts, also where a base checkpoint lacks them: what transformers does not know would stay unset."""
        super()._init_weights(module)
        if isinstance(module, RelevanceExtractor):
            init.zeros_(module.position)
        if isinstance(module, Preference):
            init.zeros_(module.text_position)
            init.zeros_(module.image_position)
        if isinstance(module, WordPreference):  # no preference until `train.words` starts it
            init.zeros_(module.words.weight)
        if type(module) is Preference:  # at first the history's embeddings stay as they are
            init.normal_(module.out.weight, std=1e-4)

    @classmethod
    def from_base(
        cls, config: UniAdGenConfig, janus: Path, dinov2: Path | None, dtype: torch.dtype = torch.float32
    ) -> "UniAdGenForConditionalGeneration":
        """A model to be fine-tuned: Janus and DINOv2 from their folders (Hugging Face's layout), our modules new.

        Without `dinov2`, which our modules bring along once they are trained, that part is random.

        At first it paints and writes as Janus does, product or not: the last control layer starts at zero.
        Raises `ValueError` naming the tensors when a base is of another size than `config` says, or not complete.
        """
        ours = ("foreground.", "preference.", "preference_control.")
        model = load_base(cls, janus, ours, config=config, dtype=dtype)
        if dinov2 is not None:
            model.foreground.load_dinov2(dinov2)
        last = model.foreground.control_layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        return model

    def embed(
        self, batch: Batch, fused: Fused | None, generator: torch.Generator | None = None
    ) -> Float[Tensor, "B S D"]:
        """Input embeddings: words, image codes, and the preference tokens in the history's places.

        `batch` is what `as_read` gave.
        """
        painted = batch.kind == Kind.IMAGE
        words = self.get_input_embeddings()(batch.ids.masked_fill(painted, 0))
        codes = self._embed_codes(batch.ids * painted)
        if self.training:
            codes = codes * self._visible(painted, generator)[..., None]
        embeds = torch.where(painted[..., None], codes, words)
        if fused is None:
            return embeds
        words, cells = fused.kept() if self.config.compact else (batch.click_words, batch.clicked)
        for kind, tokens in ((Kind.CLICK_TEXT, fused.text[words]), (Kind.CLICK_IMAGE, fused.image[cells])):
            embeds = embeds.masked_scatter((batch.kind == kind)[..., None], tokens.to(embeds.dtype))
        return embeds

    def _visible(self, painted: Bool[Tensor, "B S"], generator: torch.Generator | None) -> Bool[Tensor, "B S"]:
        """Which painted codes the next ones may build on (code dropout).

        The codes before give most of a picture's style away; where they are hidden, it has to come from the history.
        """
        chance = torch.rand(3, *painted.shape, generator=generator, device=painted.device)
        hides = chance[0, :, :1] < self.config.code_dropout
        rate = 1 - chance[2, :, :1] ** 2  # often nearly all of them
        return ~(hides & (chance[1] < rate))

    def prefer(self, batch: Batch, generator: Noise = None) -> Fused | None:
        """Preference extraction (Eq. 7, 8) over the clicks of a batch; None where nobody clicked."""
        if not batch.clicked.any():
            return None
        text = self.get_input_embeddings()(batch.click_ids)
        image = self._embed_codes(batch.click_codes)
        return self.preference(text, batch.click_words, image, batch.clicked, generator)

    def as_read(self, batch: Batch, fused: Fused | None) -> Batch:
        """The sequence as it is read.

        Where the config is `compact`, click tokens that were not kept are gone; where it has a `row_lag`, every row of
        cells has a beginning of its own.
        """
        if self.config.row_lag:
            batch = batch.with_rows()
        if fused is None or not self.config.compact:
            return batch
        words, cells = fused.kept()
        stays = batch.attend
        for kind, kept in ((Kind.CLICK_TEXT, words[batch.click_words]), (Kind.CLICK_IMAGE, cells[batch.clicked])):
            stays = stays.masked_scatter(batch.kind == kind, kept)
        return batch.only(stays, LENGTHS if self.training else 1)

    def _embed_codes(self, codes: Tensor) -> Tensor:
        return self.prepare_embeddings_for_image_generation(codes)

    def decode(
        self,
        embeds: Float[Tensor, "B L D"],
        attend: Bool[Tensor, "B A"],
        position: Int[Tensor, "B L"],
        control: Float[Tensor, "B L C"] | None = None,
        cache: Cache | None = None,
        order: Int[Tensor, "A"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """Hidden states of the L newest positions. `attend` covers the cached positions too (A >= L).

        `order`: when each is fed, where it is not one after the other; those that are fed together see each other.
        """
        alone = order is None and (embeds.shape[1] == 1 or bool(attend.all()))
        return self.model.language_model(
            inputs_embeds=embeds,
            attention_mask=attend.long() if alone else seen(attend, embeds.shape[1], order),
            position_ids=position,
            past_key_values=cache,
            use_cache=cache is not None,
            control_states=control,
        ).last_hidden_state

    def alike(self, batch: Batch) -> Float[Tensor, "B V"] | None:
        """How much every word is like those that the shopper clicked; None where the config has no such part."""
        if not self.config.word_preference:
            return None
        return self.word_preference(batch.click_ids, batch.click_words)

    def text_logits(
        self, hidden: Float[Tensor, "*L D"], alike: Float[Tensor, "*L V"] | None = None, head: Head | None = None
    ) -> Float[Tensor, "*L V"]:
        """Scores of the next word. `head`: what computes the same as the model's own, faster."""
        scores = (head or self.lm_head)(hidden)
        return scores if alike is None else scores + self.word_preference.weigh(hidden, alike)

    def image_logits(self, hidden: Float[Tensor, "*L D"]) -> Float[Tensor, "*L Q"]:
        """Scores of the next image code."""
        return self.model.generation_head(hidden)

    def read(
        self, batch: Batch, fused: Fused | None, generator: torch.Generator | None = None
    ) -> Float[Tensor, "B S D"]:
        """Hidden states of rows with their answers, all positions at once (teacher forcing)."""
        painted = batch.image_loss
        embeds = self.embed(batch, fused, generator)
        control = None
        if painted.any():
            product = self._dropped_control(batch, generator)
            control = self.spread_control(self.add_preference(product, batch, fused), painted)
        return self.decode(embeds, batch.attend, batch.position, control, order=batch.order(self.config.row_lag))

    def loss(
        self, batch: Batch, generator: torch.Generator | None = None, sizes: Float[Tensor, "2"] | None = None
    ) -> Losses:
        """The joint loss (Eq. 2 to 4) of a batch with targets; draws noise and dropout from `generator`.

        Where a step consists of several batches, `sizes` are theirs in all (per process): the sum of their losses is
        then the loss of all their rows as one batch.
        """
        scores = self.scores(batch, generator)
        words = F.cross_entropy(scores.words, scores.next_words, reduction="none")
        cells = F.cross_entropy(scores.cells, scores.next_cells, reduction="none")
        return self.weigh(words, cells, scores.painted, self.sizes(batch) if sizes is None else sizes)

    def scores(self, batch: Batch, generator: torch.Generator | None = None) -> Scores:
        """What is said of every next word and cell of a batch with targets (teacher forcing), in float32."""
        fused = self.prefer(batch, generator)
        batch = self.as_read(batch, fused)
        painted, written = batch.image_loss, batch.text_loss
        hidden = self.read(batch, fused, generator)
        targets = batch.ids.roll(-1, dims=1)
        alike = self.alike(batch)
        words = self.text_logits(hidden[written], None if alike is None else alike[written.nonzero()[:, 0]])
        cells = self.image_logits(hidden[painted])
        return Scores(words.float(), cells.float(), targets[written], targets[painted], painted)

    def weigh(
        self,
        words: Float[Tensor, "W"],
        cells: Float[Tensor, "T"],
        painted: Bool[Tensor, "B S"],
        sizes: Float[Tensor, "2"],
    ) -> Losses:
        """The losses of a batch from those of its words and cells; `sizes` are what they are divided by."""
        text = words.sum() / sizes[0].clamp(min=1)
        image = (cells * self._cell_weights(painted)).sum() / sizes[1].clamp(min=1)
        return Losses(self.config.text_weight * text + self.config.image_weight * image, text, image)

    def sizes(self, batch: Batch) -> Float[Tensor, "2"]:
        """What the two terms of the loss are divided by: the words, and the weights of the cells."""
        return torch.stack([batch.text_loss.sum().float(), self._cell_weights(batch.image_loss).sum()])

    def _cell_weights(self, painted: Bool[Tensor, "B S"]) -> Float[Tensor, "T"]:
        """How much each painted cell counts: the first ones decide the style of all others, so they may count more."""
        cell = (painted.cumsum(-1) - 1)[painted]  # 0 .. K - 1 in every row that is painted
        row = math.sqrt(painted.sum(-1).max())
        return 1 + self.config.first_cells_weight * torch.exp(-cell / max(row, 1))

    def _dropped_control(self, batch: Batch, generator: torch.Generator | None) -> Tensor:
        control = self.foreground(batch.cutout)
        if self.training:
            control = drop_rows(control, self.config.condition_dropout, generator)
        return control

    def add_preference(
        self, control: Float[Tensor, "B K C"], batch: Batch, fused: Fused | None
    ) -> Float[Tensor, "B K C"]:
        """The product's control and, where the config has it and pictures of the history are seen, the history's."""
        if fused is None or not self.config.preference_control or not fused.image.shape[2]:
            return control
        return control + self.preference_control(fused.image, batch.clicked, control.shape[1])

    @staticmethod
    def spread_control(control: Float[Tensor, "B K C"], painted: Bool[Tensor, "B S"]) -> Float[Tensor, "B S C"]:
        """Control of cell i at the position that predicts cell i, zero elsewhere."""
        spread = control.new_zeros(*painted.shape, control.shape[-1])
        rows = painted.any(-1)
        return spread.masked_scatter(painted[..., None], control[rows])

    def known_cells(self, cutout: Float[Tensor, "4 H W"], margin: int) -> Int[Tensor, "K"]:
        """Codes of the cells that lie wholly in the product, those of its own picture; -1 for all others.

        `margin` cells are taken off its outline first, as the VQ looks around a cell. Around it is its mean colour.
        """
        alpha = cutout[3:]
        mean = cutout[:3].sum((1, 2), keepdim=True) / alpha.sum().clamp(min=1)
        picture = cutout[:3] + (1 - alpha) * mean
        codes = self.encode_pictures((picture[None] * 2 - 1).to(self.dtype))[0]
        cell = cutout.shape[-1] // math.isqrt(len(codes))
        outside = (F.avg_pool2d(alpha[None], cell) < COVERED).float()  # (1, 1, h, w)
        near = F.max_pool2d(outside, 2 * margin + 1, stride=1, padding=margin) > 0
        return codes.masked_fill(near.flatten(), -1)

    def encode_pictures(self, pixels: Float[Tensor, "B 3 H W"]) -> Int[Tensor, "B K"]:
        """Pictures in [-1, 1] of any size -> codes; on the host, as those who keep codes want them."""
        return vq.encode(self.model.vqmodel, pixels.to(self.device)).cpu()

    def decode_pictures(self, codes: Int[Tensor, "B K"]) -> Float[Tensor, "B 3 H W"]:
        """Codes -> pictures in [-1, 1], on the host."""
        return vq.decode(self.model.vqmodel, codes.to(self.device)).clamp(-1, 1).cpu()


def seen(attend: Bool[Tensor, "B A"], length: int, order: Int[Tensor, "A"] | None = None) -> Bool[Tensor, "B 1 L A"]:
    """What each of the newest positions sees: no padding, nothing that is fed after it, and itself.

    Padding sees itself, too: where a query sees nothing, attention on a GPU gives gradients that are no numbers.
    """
    total = attend.shape[1]
    order = torch.arange(total, device=attend.device) if order is None else order
    before = order <= order[total - length :, None]
    itself = torch.eye(total, dtype=torch.bool, device=attend.device)[total - length :]
    return (before & attend[:, None] | itself)[:, None]


AutoConfig.register("uniadgen", UniAdGenConfig)
