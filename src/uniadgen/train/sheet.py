"""Sample sheets: what the model makes now and then during training, under what really happened."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from uniadgen.data.batch import Row, collate
from uniadgen.data.rows import Rows
from uniadgen.engine.loop import Decoder
from uniadgen.model.uniadgen import UniAdGenForConditionalGeneration
from uniadgen.pipeline import to_pictures

FIRST = 10**9  # the number of the first sample shown: far beyond the rows of training, where those have no end


class SampleSheet:
    """Six shoppers' true clicks (as the VQ paints them), above what the model makes of them, and the texts."""

    def __init__(self, model: UniAdGenForConditionalGeneration, rows: Rows, folder: Path) -> None:
        self.model, self.rows, self.folder = model, rows, folder
        self.numbers = range(FIRST, FIRST + 6)

    @torch.no_grad()
    def draw(self, step: int) -> None:
        """Writes sample-STEP.png (truth, guided, without history) and sample-STEP.txt."""
        make: Callable[[bool], list[Row]] = lambda known: [  # noqa: E731
            self.rows.row(i, with_history=known, with_target=False) for i in self.numbers
        ]
        layout, samples = self.rows.layout, [self.rows.source.sample(i) for i in self.numbers]
        unbound = replace(self.rows.config.generate, connecting_words=())  # shows what the model itself has learnt
        points = [sample.selling_points for sample in samples]
        decoder = Decoder(self.model, layout, unbound, list(self.numbers), points)
        *_, guided = decoder.run(collate([*make(True), *make(False)], layout.pad_id))
        codes = [torch.from_numpy(np.stack([self.rows.source.targets[sample.picture] for sample in samples])).long()]
        if guided.codes.shape[1]:
            codes.append(guided.codes)
        pictures = to_pictures(self.model.decode_pictures(torch.cat(codes)))
        grid(pictures, len(samples)).save(self.folder / f"sample-{step:06d}.png")
        lines = [
            f"true: {sample.text}\nmade: {layout.tokenizer.decode(list(words))}\n"
            for sample, words in zip(samples, guided.words, strict=True)
        ]
        (self.folder / f"sample-{step:06d}.txt").write_text("\n".join(lines), encoding="utf-8")


def grid(pictures: list[Image.Image], columns: int) -> Image.Image:
    """Pictures of one size, row by row."""
    side = pictures[0].width
    sheet = Image.new("RGB", (columns * side, math.ceil(len(pictures) / columns) * side), "white")
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number % columns * side, number // columns * side))
    return sheet
