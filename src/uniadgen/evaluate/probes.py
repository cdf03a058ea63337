"""What is measured of a model itself rather than of its ads: its VQ, and whether an ad can be made again."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from uniadgen.data.cutout import squash
from uniadgen.evaluate.measures import Values
from uniadgen.evaluate.requests import Request
from uniadgen.pipeline import AdGenerator, to_pixels

REPLAYED = 10  # requests that are made again
CODED = 50  # pictures coded together


def probe(generator: AdGenerator, asked: Sequence[Request], seeds: Sequence[int]) -> dict[str, Values]:
    """The values of each measure, one for every request; NaN where it was not looked at."""
    return reconstruct(generator, asked) | replay(generator, asked, seeds)


@torch.no_grad()
def reconstruct(generator: AdGenerator, asked: Sequence[Request]) -> dict[str, Values]:
    """PSNR of every target picture that went through the VQ; the share of its codes that all of them use.

    A model that paints no pictures has neither.
    """
    if "image" not in generator.config.data.modality:
        return {}
    side = generator.config.data.image_size
    targets = [request.example.target for request in asked]
    pictures = [np.asarray(squash(target.picture, side)) for target in targets if target is not None]
    values, used = [], set[int]()
    for start in range(0, len(pictures), CODED):
        pixels = to_pixels(np.stack(pictures[start : start + CODED]))
        codes = generator.model.encode_pictures(pixels)
        error = ((generator.model.decode_pictures(codes) - pixels) / 2).pow(2).mean((1, 2, 3))
        values += (-10 * error.log10()).tolist()
        used |= set(codes.flatten().tolist())
    psnr = np.full(len(asked), np.nan)
    psnr[[target is not None for target in targets]] = values
    return {"psnr": psnr, "codebook": np.full(len(asked), len(used) / generator.config.model.num_codes)}


def replay(generator: AdGenerator, asked: Sequence[Request], seeds: Sequence[int]) -> dict[str, Values]:
    """Whether the same request gives the same bytes again, and another shopper's history another ad."""
    same, differs = np.full((2, len(asked)), np.nan)
    for i in range(min(REPLAYED, len(asked))):
        example = asked[i].example
        first, second = (generator.generate_batch([example], [seeds[i]])[0] for _ in range(2))
        same[i] = first.picture.tobytes() == second.picture.tobytes() and first.text == second.text
        others = asked[i - 1].example.clicks
        if others is not example.clicks:
            other = generator.generate_batch([replace(example, clicks=others)], [seeds[i]])[0]
            differs[i] = (other.picture.tobytes(), other.text) != (first.picture.tobytes(), first.text)
    return {"same": same, "differs": differs}
