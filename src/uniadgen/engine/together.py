"""Ads that begin together and are told of together: what the loop does, on the engine."""

from collections.abc import Iterator, Sequence

import torch

from uniadgen.config import GenerateConfig
from uniadgen.data.batch import Batch
from uniadgen.data.prompt import Layout
from uniadgen.engine.engine import Engine
from uniadgen.engine.loop import Progress
from uniadgen.engine.scheduler import Scheduler


class FastDecoder:
    """Decodes R requests on an engine, token for token as `loop.Decoder` does: one order of a scheduler of its own."""

    def __init__(
        self,
        engine: Engine,
        layout: Layout,
        config: GenerateConfig,
        seeds: Sequence[int],
        selling_points: Sequence[Sequence[str]],
    ) -> None:
        self.layout = layout
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.selling_points = selling_points
        self.words: tuple[tuple[int, ...], ...] = ((),) * len(seeds)
        self.scheduler = Scheduler(engine, layout, config, num_slots=len(seeds), queue=len(seeds))

    def run(self, batch: Batch, modality: str | None = None) -> Iterator[Progress]:
        """Yields whenever there is a word more, or a row that all pictures have; the last one is `done`.

        `modality` is what to make of this batch: by default, all that the config has. A text made before stays.
        """
        tickets = self.scheduler.submit(batch, self.generators, self.selling_points, modality)
        texts = "text" in (modality or self.layout.config.data.modality)
        told = self.words, 0
        while self.scheduler.step():
            for error in (ticket.error for ticket in tickets if ticket.error):
                raise error
            latest = [ticket.latest for ticket in tickets]
            if texts:
                self.words = tuple(progress.words[0] for progress in latest)
            rows = min(progress.codes.shape[1] for progress in latest)
            codes = torch.cat([progress.codes[:, :rows] for progress in latest])
            progress = Progress(self.words, codes, all(progress.done for progress in latest))
            if progress.done or told != (self.words, rows):
                yield progress
            told = self.words, rows
