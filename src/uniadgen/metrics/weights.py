"""Which weights each picture metric needs, where they come from, and what is said where they are missing."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import torch

from uniadgen.config import nearest
from uniadgen.data import checkpoints
from uniadgen.metrics import aesthetic, imagereward, mocov3
from uniadgen.metrics.aesthetic import load_aesthetic
from uniadgen.metrics.clip import load_clip, load_pickscore
from uniadgen.metrics.dinov3 import load_dinov3
from uniadgen.metrics.imagereward import load_imagereward
from uniadgen.metrics.mocov3 import load_mocov3
from uniadgen.metrics.pictures import BATCH_SIZE, PictureFeatures, PictureScore
from uniadgen.metrics.pixels import PROCESSOR
from uniadgen.model.shards import STEMS

Metric = PictureFeatures | PictureScore
_TENSORS = (*STEMS, *(f"{stem}.index.json" for stem in STEMS))
_HF = (("config.json",), (PROCESSOR,), _TENSORS)  # a folder of Hugging Face's layout


@dataclass(frozen=True)
class Source:
    """A metric's weights: what they are, which files a folder must hold (any one of each group), and its loader."""

    model: str
    licence: str  # of the weights, as their makers state it
    files: tuple[tuple[str, ...], ...]
    load: Callable[[Path, torch.device, int], Metric]
    on_hub: bool = False  # whether an id of the Hugging Face Hub has all of the files
    needs: str = ""  # beside the pictures: "prompts", "counterparts" (other pictures), or nothing

    def absent(self, folder: Path) -> list[str]:
        """The files that a folder lacks."""
        return [" or ".join(group[:2]) for group in self.files if not any((folder / name).is_file() for name in group)]


SOURCES: Final[dict[str, Source]] = {
    "clip": Source(
        "any CLIP, such as openai/clip-vit-large-patch14", "OpenAI's: MIT (of its code)", _HF, load_clip,
        on_hub=True, needs="counterparts",
    ),
    "dinov3": Source(
        "any DINOv3 ViT, such as facebook/dinov3-vitb16-pretrain-lvd1689m", "DINOv3 License; ask for access", _HF,
        load_dinov3, on_hub=True, needs="counterparts",
    ),
    "mocov3": Source(
        "MoCo v3, ViT-B or ViT-S, of github.com/facebookresearch/moco-v3", "CC BY-NC 4.0", (mocov3.FILES,),
        load_mocov3, needs="counterparts",
    ),
    "pickscore": Source(
        "yuvalkirstain/PickScore_v1", "MIT (of its code)", (*_HF, ("tokenizer.json", "vocab.json")),
        load_pickscore, on_hub=True, needs="prompts",
    ),
    "imagereward": Source(
        "ImageReward.pt of THUDM/ImageReward and the tokenizer of google-bert/bert-base-uncased", "Apache-2.0",
        (imagereward.FILES, ("tokenizer.json", "vocab.txt")), load_imagereward, needs="prompts",
    ),
    "ase": Source(
        "openai/clip-vit-large-patch14 and the head of github.com/christophschuhmann/improved-aesthetic-predictor",
        "MIT (of its code) and Apache-2.0", (("config.json",), _TENSORS, (aesthetic.HEAD,)), load_aesthetic,
    ),
}  # fmt: skip


class Loaded(NamedTuple):
    """Metrics by name, and for each that has no weights what to put where."""

    metrics: dict[str, Metric]
    missing: dict[str, str]


def source_of(name: str) -> Source:
    """A metric's source; `ValueError` with the nearest name for one that there is not."""
    if name not in SOURCES:
        raise ValueError(f"got the metric {name!r}{nearest(name, list(SOURCES))}")
    return SOURCES[name]


def load_metrics(
    names: Iterable[str],
    folders: Mapping[str, str | Path],
    device: torch.device | None = None,
    batch_size: int = BATCH_SIZE,
) -> Loaded:
    """The metrics of these names, their weights in `folders` (or ids of the Hub); nothing is downloaded unasked.

    A metric without weights stands in `missing` and the others are loaded. Weights that are there and wrong raise
    `ValueError`, as does a name, in either, that is no metric's.
    """
    wanted = {name: source_of(name) for name in names}
    for name in folders:
        source_of(name)
    metrics: dict[str, Metric] = {}
    missing: dict[str, str] = {}
    for name, source in wanted.items():
        found = _folder(name, source, folders.get(name))
        if isinstance(found, Path):
            metrics[name] = source.load(found, device or checkpoints.device(), batch_size)
        else:
            missing[name] = found
    return Loaded(metrics, missing)


def load_features(folders: Mapping[str, str | Path]) -> list[PictureFeatures]:
    """The metrics of these folders that say how alike two pictures are.

    Raises `ValueError` for one that is a score, or whose weights are not there.
    """
    scores = [name for name in folders if source_of(name).needs != "counterparts"]
    if scores:
        raise ValueError(f"got the metric {scores[0]!r}, expected one that compares pictures: clip, dinov3 or mocov3")
    loaded = load_metrics(folders, folders)
    if loaded.missing:
        raise ValueError(next(iter(loaded.missing.values())))
    return [metric for metric in loaded.metrics.values() if isinstance(metric, PictureFeatures)]


def _folder(name: str, source: Source, given: str | Path | None) -> Path | str:
    """The folder of a metric's weights, or what is missing of it."""
    needed = ", ".join(" or ".join(group[:2]) for group in source.files)
    wanted = f"expected a folder with {needed}: {source.model} ({source.licence}); give it as {name}=FOLDER"
    if given is None:
        return f"{name}: no weights given, {wanted}{' or an id of the Hugging Face Hub' if source.on_hub else ''}"
    folder = Path(given)
    if not folder.is_dir() and not source.on_hub:
        return f"{name}: {given} is no folder, {wanted}"
    try:
        folder = checkpoints.folder_of(str(given))
    except ValueError as error:
        return f"{name}: {error}"
    absent = source.absent(folder)
    return f"{name}: {folder} has no {', no '.join(absent)}, {wanted}" if absent else folder
