"""The loop as the authors' release has it, much done over and over: for benchmarks and tests, never for ads."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import DynamicCache

from uniadgen.data.batch import Batch
from uniadgen.data.waves import Wave
from uniadgen.engine.loop import Decoder


class ReleaseShaped(Decoder):
    """Two stages, each with a prefill of its own, and the whole control path at every step of the second.

    Its tokens are those of the loop: ids are kept between the stages, where the release spells the text and reads it.
    """

    control_every_step = True
    prefill_every_stage = True

    def _read(self, batch: Batch, modality: str) -> None:
        super()._read(batch, modality)
        self.batch = batch
        self.fed: list[tuple[Tensor, Tensor]] = []  # of the text stage: what every row was fed, and whether it is live

    def _step(
        self, embeds: Float[Tensor, "R n D"], wave: Wave | None = None, live: Bool[Tensor, "R"] | None = None
    ) -> Float[Tensor, "rows n D"]:
        if live is not None:
            self.fed.append((embeds, live))
        if wave is not None and wave.painted[0] == 0 and self.prefill_every_stage:
            self._read_again()
        if wave is not None and self.control_every_step:
            self.control = self._control(self.batch, self.fused)
        return super()._step(embeds, wave, live)

    def _read_again(self) -> None:
        """The prompts and their texts, from the beginning."""
        if not self.model.config.gumbel_at_inference:  # else the release draws anew: another history than in the text
            self.fused = self.model.prefer(self.batch)
        batch = self.model.as_read(self.batch, self.fused)
        embeds = [self.model.embed(batch, self.fused)]
        attend = [batch.attend]
        for fed, live in self.fed:
            embeds.append(fed.repeat(self.num_branches, 1, 1))
            attend.append(live.repeat(self.num_branches)[:, None])
        self.attend = torch.cat(attend, dim=1)
        self.cache = DynamicCache(config=self.model.config.text_config)
        position = (self.attend.long().cumsum(-1) - 1).clamp(min=0)
        self.model.decode(torch.cat(embeds, dim=1), self.attend, position, None, self.cache)
