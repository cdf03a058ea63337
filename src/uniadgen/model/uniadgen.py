"""Uni-AdGen: one autoregressive model that writes the advertising text and then paints the picture."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import AutoConfig, Cache
from transformers.models.janus.modeling_janus import JanusForConditionalGeneration

from uniadgen.data.batch import Batch, Kind
from uniadgen.model import vq
from uniadgen.model.configuration import UniAdGenConfig
from uniadgen.model.foreground import Foreground, drop_rows, hook_control
from uniadgen.model.preference import Fused, Preference


class Losses(NamedTuple):
    """Eq. 4 and its two terms, each a mean over its own tokens (Eq. 2, 3 write sums)."""

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
        self.foreground = Foreground(config)
        self.preference = Preference(config)
        hook_control(self.model.language_model.layers, config.control_every)
        self.post_init()

    def embed(self, batch: Batch, generator: torch.Generator | None = None) -> Float[Tensor, "B S D"]:
        """Input embeddings: words, image codes, and the preference tokens in the history's places."""
        painted = batch.kind == Kind.IMAGE
        words = self.get_input_embeddings()(batch.ids.masked_fill(painted, 0))
        codes = self._embed_codes(batch.ids * painted)
        if self.training:
            codes = codes * self._visible(painted, generator)[..., None]
        embeds = torch.where(painted[..., None], codes, words)
        if not batch.clicked.any():
            return embeds
        fused = self.prefer(batch, generator)
        for kind, tokens in (
            (Kind.CLICK_TEXT, fused.text[batch.click_words]),
            (Kind.CLICK_IMAGE, fused.image[batch.clicked]),
        ):
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

    def prefer(self, batch: Batch, generator: torch.Generator | None = None) -> Fused:
        """Preference extraction (Eq. 7, 8) over the clicks of a batch."""
        text = self.get_input_embeddings()(batch.click_ids)
        image = self._embed_codes(batch.click_codes)
        return self.preference(text, batch.click_words, image, batch.clicked, generator)

    def _embed_codes(self, codes: Tensor) -> Tensor:
        return self.prepare_embeddings_for_image_generation(codes)

    def decode(
        self,
        embeds: Float[Tensor, "B L D"],
        attend: Bool[Tensor, "B A"],
        position: Int[Tensor, "B L"],
        control: Float[Tensor, "B L D"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "B L D"]:
        """Hidden states of the L newest positions. `attend` covers the cached positions too (A >= L)."""
        return self.model.language_model(
            inputs_embeds=embeds,
            attention_mask=attend.long(),
            position_ids=position,
            past_key_values=cache,
            use_cache=cache is not None,
            control_states=control,
        ).last_hidden_state

    def text_logits(self, hidden: Float[Tensor, "*L D"]) -> Float[Tensor, "*L V"]:
        """Scores of the next word."""
        return self.lm_head(hidden)

    def image_logits(self, hidden: Float[Tensor, "*L D"]) -> Float[Tensor, "*L Q"]:
        """Scores of the next image code."""
        return self.model.generation_head(hidden)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> Losses:
        """The joint loss (Eq. 2 to 4) of a batch with targets; draws noise and dropout from `generator`."""
        painted, written = batch.image_loss, batch.text_loss
        embeds = self.embed(batch, generator)
        control = self.spread_control(self._dropped_control(batch, generator), painted) if painted.any() else None
        hidden = self.decode(embeds, batch.attend, batch.position, control)
        targets = batch.ids.roll(-1, dims=1)
        text = _mean_loss(self.text_logits(hidden[written]), targets[written])
        image = _mean_loss(self.image_logits(hidden[painted]), targets[painted])
        return Losses(self.config.text_weight * text + self.config.image_weight * image, text, image)

    def _dropped_control(self, batch: Batch, generator: torch.Generator | None) -> Tensor:
        control = self.foreground(batch.cutout)
        if self.training:
            control = drop_rows(control, self.config.condition_dropout, generator)
        return control

    @staticmethod
    def spread_control(control: Float[Tensor, "B K D"], painted: Bool[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
        """Control of cell i at the position that predicts cell i, zero elsewhere."""
        spread = control.new_zeros(*painted.shape, control.shape[-1])
        rows = painted.any(-1)
        return spread.masked_scatter(painted[..., None], control[rows])

    def encode_pictures(self, pixels: Float[Tensor, "B 3 H W"]) -> Int[Tensor, "B K"]:
        """Pictures in [-1, 1] of any size -> codes."""
        return vq.encode(self.model.vqmodel, pixels)

    def decode_pictures(self, codes: Int[Tensor, "B K"]) -> Float[Tensor, "B 3 H W"]:
        """Codes -> pictures in [-1, 1]."""
        return vq.decode(self.model.vqmodel, codes).clamp(-1, 1)


def _mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in float32; zero where the modality has no token in the batch."""
    if len(targets) == 0:
        return logits.sum().float()
    return F.cross_entropy(logits.float(), targets)


AutoConfig.register("uniadgen", UniAdGenConfig)
