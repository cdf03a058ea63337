"""What all picture metrics have in common: pictures in batches, as vectors, and how alike two are.

Pictures come as any iterable and are taken in batches, so memory is bounded. What is transparent is laid on white.
A picture that cannot be read stops the metric with its number: none is left out.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from struct import error as StructError
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from PIL import Image
from torch import Tensor

from uniadgen.data.cutout import in_mode

BATCH_SIZE = 16
MAX_RATIO = 50  # long side to short: resizing the short side to 224 px makes the long one as many times longer

Pixels = Callable[[Sequence[Image.Image]], Tensor]  # pictures (RGB) -> (B, 3, H, W)


@runtime_checkable
class PictureFeatures(Protocol):
    """Pictures as vectors, whose cosine says how alike two pictures are: see `similarity`."""

    @property
    def name(self) -> str:
        """The metric's name in tables."""
        ...

    def features(self, pictures: Iterable[Image.Image]) -> Float32[np.ndarray, "N D"]:
        """One vector for each picture, of any length."""
        ...


@runtime_checkable
class PictureScore(Protocol):
    """A number for each picture, of itself or of how well it fits a prompt."""

    @property
    def name(self) -> str:
        """The metric's name in tables."""
        ...

    @property
    def needs_prompts(self) -> bool:
        """Whether the score looks at prompts at all; one that does not ignores them."""
        ...

    def __call__(
        self, pictures: Iterable[Image.Image], prompts: Iterable[str] | None = None
    ) -> Float32[np.ndarray, " N"]:
        """The score of each picture; `ValueError` unless there are as many prompts where they are needed."""
        ...

    def truncated(self, prompts: Sequence[str]) -> Bool[np.ndarray, " N"]:
        """Which prompts are longer than the model reads: of those the end is not seen."""
        ...


@dataclass(frozen=True)
class Encoder:
    """`PictureFeatures` by one network."""

    name: str
    pixels: Pixels
    network: Callable[[Float[Tensor, "B 3 H W"]], Float[Tensor, "B D"]]
    device: torch.device
    batch_size: int = BATCH_SIZE

    def features(self, pictures: Iterable[Image.Image]) -> Float32[np.ndarray, "N D"]:
        """One vector for each picture; `ValueError` for no pictures, or one that cannot be read."""
        return collected(self.encode(batch) for batch in in_batches(pictures, self.batch_size))

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Image.Image]) -> Float[Tensor, "B D"]:
        """The vectors of one batch of RGB pictures."""
        return self.network(self.pixels(pictures).to(self.device))


def similarity(
    features: PictureFeatures, pictures_a: Iterable[Image.Image], pictures_b: Iterable[Image.Image]
) -> Float32[np.ndarray, " N"]:
    """The cosine, -1..1, of each picture with its counterpart; `ValueError` unless there are as many of both."""
    one, other = (features.features(pictures) for pictures in (pictures_a, pictures_b))
    if len(one) != len(other):
        raise ValueError(f"got {len(one)} and {len(other)} pictures, expected as many: each is compared with one")
    return cosines(one, other)


def cosines(one: Float32[np.ndarray, "N D"], other: Float32[np.ndarray, "N D"]) -> Float32[np.ndarray, " N"]:
    """The cosine of the angle between each two rows."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return ((one * other).sum(1) / lengths).astype(np.float32)


def in_batches(pictures: Iterable[Image.Image], size: int) -> Iterator[list[Image.Image]]:
    """Pictures as RGB, on white where they are transparent, `size` at a time.

    Raises `ValueError` with the number, from 0, and the file's name of one that cannot be read.
    """
    numbered = enumerate(pictures)
    while batch := [_decoded(number, picture) for number, picture in islice(numbered, size)]:
        yield batch


def _decoded(number: int, picture: Image.Image) -> Image.Image:
    where = " ".join(["picture", str(number), str(getattr(picture, "filename", ""))]).rstrip()
    if max(picture.size) > MAX_RATIO * min(picture.size):
        size = f"{picture.width} x {picture.height}"
        raise ValueError(f"{where}: {size} pixels, expected a long side of at most {MAX_RATIO} short ones: crop it")
    try:
        return in_mode(picture, "RGB")
    except (OSError, SyntaxError, ValueError, StructError) as error:
        raise ValueError(f"{where}: damaged or cut short ({error}): save it again") from None


def with_prompts(
    pictures: Iterable[Image.Image], prompts: Iterable[str] | None, size: int
) -> Iterator[tuple[list[Image.Image], list[str]]]:
    """As `in_batches`, each picture with its prompt; `ValueError` unless there are as many, and none is empty."""
    if prompts is None:
        raise ValueError("got no prompts, expected one for each picture: this score says how well they fit")
    words, number = iter(prompts), 0
    for batch in in_batches(pictures, size):
        said = list(islice(words, len(batch)))
        empty = [number + place for place, prompt in enumerate(said) if not prompt.strip()]
        if empty:
            raise ValueError(f"prompt {empty[0]} is empty, expected what the picture should show")
        number += len(said)
        if len(said) < len(batch):
            raise ValueError(f"got {number} prompts and more pictures, expected one for each")
        yield batch, said
    if next(words, None) is not None:
        raise ValueError(f"got more prompts than the {number} pictures, expected one for each")


def collected(batches: Iterable[Tensor]) -> Float32[np.ndarray, "N ..."]:
    """What was computed batch by batch, in one array; `ValueError` for none."""
    found = [batch.float().cpu().numpy() for batch in batches]
    if not found:
        raise ValueError("got no pictures, expected at least one")
    return np.concatenate(found)
