"""One of the processes of a run in `test_processes.py`: a tiny model, rows of a made-up source, no noise."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer

from uniadgen.config import Config
from uniadgen.data.rows import Rows, Sample, Share
from uniadgen.model import weights
from uniadgen.train.loop import train

TITLES = ("dishwasher safe and light", "kitchen mug: gift box included!", "家用马克杯，礼盒包装")


class MadeUp:
    """Codes drawn once, shoppers with 0 to 5 clicks."""

    def __init__(self, config: Config) -> None:
        rng = np.random.default_rng(0)
        self.side = config.data.image_size
        self.targets = rng.integers(config.model.num_codes, size=(20, config.cells))
        self.clicks = rng.integers(config.model.num_codes, size=(20, config.click_cells))

    def sample(self, number: int) -> Sample:
        """The sample of a number."""
        rng = np.random.default_rng(number)
        clicks = rng.integers(20, size=rng.integers(6))
        titles = tuple(TITLES[click % len(TITLES)] for click in clicks)
        points = ("kitchen mug", "dishwasher safe")
        place = number % 20
        return Sample("A red mug.", points, titles, tuple(clicks.tolist()), TITLES[number % 3], place, place)

    def cutout(self, product: int) -> NDArray[np.uint8]:
        """Noise, partly transparent."""
        return np.random.default_rng(product).integers(256, size=(self.side, self.side, 4)).astype(np.uint8)


def main(folder: Path, die_at: int) -> None:
    """Trains; the last process of several kills itself at a step."""
    torch.set_num_threads(1)
    config = Config.load(folder / "recipe.json")
    model, layout = weights.build(config, AutoTokenizer.from_pretrained(folder / "tokenizer"))
    model.model.vqmodel.requires_grad_(False)
    share = Share(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    rows = Rows(config, layout, MadeUp(config), share)

    def batches(step: int) -> list:
        if step == die_at and share.rank == share.world - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return rows.batches(step)

    train(model, batches, config.train, folder / "run", what="model", numbers=rows.numbers)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
