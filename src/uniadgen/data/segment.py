"""The product in an advertising picture, cut out: found by Grounding DINO, outlined by SAM (paper section 3.1)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForZeroShotObjectDetection, AutoTokenizer, SamModel

from uniadgen.data.checkpoints import device, fingerprint, folder_of

SOFT = 1.0  # SAM's logits between -1 and 1 become the soft rim, about a pixel wide in its own grid
LEAST, MOST = 0.001, 0.98  # shares of the picture: a mask beyond them is a speck, or the whole picture


class Cut(NamedTuple):
    """Where the product is: alpha as uint8 (H, W), and how sure the detector was; None where it found none."""

    alpha: NDArray[np.uint8] | None
    confidence: float


@runtime_checkable
class Cutter(Protocol):
    """What cuts products out. `name` is part of what its results go by: another name makes them anew."""

    @property
    def name(self) -> str:
        """Tells this cutter, with its weights and settings, from any other."""
        ...

    def __call__(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> list[Cut]:
        """A cut of each picture (RGB), given what to look for in it."""
        ...


@dataclass(frozen=True)
class OneByOne:
    """A `Cutter` of any function that takes one picture and its prompt and returns alpha, or None for no product."""

    function: Callable[[Image.Image, str], NDArray[np.uint8] | None]  # of a module, so that other processes find it
    name: str

    def __call__(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> list[Cut]:
        """A cut of each; `ValueError` for an alpha of another size than its picture."""
        return [self._cut(picture, prompt) for picture, prompt in zip(pictures, prompts, strict=True)]

    def _cut(self, picture: Image.Image, prompt: str) -> Cut:
        alpha = self.function(picture, prompt)
        if alpha is not None and (alpha.shape != (picture.height, picture.width) or alpha.dtype != np.uint8):
            wanted = picture.height, picture.width
            raise ValueError(f"{self.name} gave alpha {alpha.dtype} {alpha.shape}, expected uint8 {wanted}")
        return Cut(alpha, 0.0 if alpha is None else 1.0)


@dataclass(frozen=True)
class GroundedSam:
    """The surest box that the detector finds for the prompt, and SAM's mask in it; both are folders of models."""

    detector: str
    segmenter: str
    min_confidence: float
    name: str

    def __call__(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> list[Cut]:
        """All pictures go through each model as one batch."""
        boxes = _boxes(self.detector, pictures, prompts)
        sure = [number for number, (_, score) in enumerate(boxes) if score >= self.min_confidence]
        masks = _masks(self.segmenter, [pictures[n] for n in sure], [boxes[n][0] for n in sure]) if sure else []
        alphas = dict(zip(sure, masks, strict=True))
        return [Cut(alphas.get(number), score) for number, (_, score) in enumerate(boxes)]


_Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


@torch.inference_mode()
def _boxes(folder: str, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> list[tuple[_Box, float]]:
    """The surest box for each prompt, and how sure."""
    processor, tokenizer, model = _detector(folder)
    seen = processor(images=list(pictures), return_tensors="pt")
    sentences = [f"{prompt.lower().rstrip('. ')}." for prompt in prompts]  # as the detector was trained to read
    words = tokenizer(sentences, padding=True, truncation=True, max_length=64, return_tensors="pt")
    output = model(**seen.to(model.device), **words.to(model.device))
    scores, best = output.logits.float().sigmoid().amax(-1).max(-1)  # (B, queries, words) -> (B,)
    found = output.pred_boxes.float()[torch.arange(len(best)), best].cpu().tolist()  # centre, size; shares
    boxes = []
    for picture, (x, y, width, height), score in zip(pictures, found, scores.cpu().tolist(), strict=True):
        edges = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        left, top, right, bottom = (min(max(edge, 0.0), 1.0) for edge in edges)
        size = (picture.width, picture.height)
        boxes.append(((left * size[0], top * size[1], right * size[0], bottom * size[1]), score))
    return boxes


@torch.inference_mode()
def _masks(folder: str, pictures: Sequence[Image.Image], boxes: Sequence[_Box]) -> list[NDArray[np.uint8]]:
    """Alpha of what is in each box."""
    processor, model = _segmenter(folder)
    seen = processor(images=list(pictures), return_tensors="pt")
    sizes, shrunk = seen["original_sizes"].tolist(), seen["reshaped_input_sizes"].tolist()
    scaled = [
        [[box[0] * w / width, box[1] * h / height, box[2] * w / width, box[3] * h / height]]
        for box, (height, width), (h, w) in zip(boxes, sizes, shrunk, strict=True)
    ]
    output = model(
        pixel_values=seen["pixel_values"].to(model.device),
        input_boxes=torch.tensor(scaled, device=model.device),
        multimask_output=False,
    )
    logits = processor.post_process_masks(output.pred_masks.float().cpu(), sizes, shrunk, binarize=False)
    return [_alpha(mask[0, 0].numpy()) for mask in logits]


def _alpha(logits: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.rint(255 * ((logits / SOFT + 1) / 2).clip(0, 1)).astype(np.uint8)


@lru_cache(maxsize=1)  # loaded once in each process
def _detector(folder: str) -> tuple[Any, Any, Any]:
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    model: Any = AutoModelForZeroShotObjectDetection.from_pretrained(folder)
    return processor, AutoTokenizer.from_pretrained(folder), model.eval().to(device())


@lru_cache(maxsize=1)
def _segmenter(folder: str) -> tuple[Any, Any]:
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    model: Any = SamModel.from_pretrained(folder)
    return processor, model.eval().to(device())


def grounded_sam(detector: str, segmenter: str, min_confidence: float) -> GroundedSam:
    """The cutter of two models, each a folder or an id of the Hub; `ValueError` where one is neither."""
    folders = folder_of(detector), folder_of(segmenter)
    name = " ".join(["grounded_sam 1", *map(fingerprint, folders), str(min_confidence)])
    return GroundedSam(str(folders[0]), str(folders[1]), min_confidence, name)


def cut_out(picture: Image.Image, cut: Cut, side: int) -> Image.Image | None:
    """The product on a transparent ground (RGBA), at most `side` pixels long; None where there is none to speak of."""
    if cut.alpha is None or not LEAST <= float((cut.alpha > 127).mean()) <= MOST:
        return None
    made = np.dstack([np.asarray(picture), cut.alpha])
    made[cut.alpha == 0] = 0  # what nobody sees takes no space
    small = Image.fromarray(made)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return small
