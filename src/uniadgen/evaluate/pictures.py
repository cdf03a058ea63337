"""Measures of the ad's picture: how like the true one it is, and what published models say of it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from uniadgen.evaluate.measures import Scorer, Setting, Values
from uniadgen.evaluate.requests import Request
from uniadgen.metrics.pbs import NAME, PBS, pbs
from uniadgen.metrics.pictures import PictureScore, similarity
from uniadgen.metrics.prompts import prompts_of
from uniadgen.records import Ad

PUBLISHED: Final = ("clip", "dinov3", "mocov3", "pickscore", "imagereward", "ase")  # docs/picture-metrics.md


def published(name: str, setting: Setting) -> Scorer:
    """A published metric, its weights loaded; `ValueError` says which files go where if they are not given."""
    from uniadgen.metrics.weights import load_metrics  # needs an extra, which AdWorld does not

    loaded = load_metrics([name], {name: setting.weights[name]} if name in setting.weights else {})
    if name in loaded.missing:
        raise ValueError(loaded.missing[name])
    metric = loaded.metrics[name]
    if isinstance(metric, PictureScore):
        return OfPicture(name, metric, setting)
    return AgainstTarget(name, partial(similarity, metric), setting)


def background(setting: Setting) -> Scorer:
    """PBS between an ad's picture and the target's; the shipped network, if no other's folder is given."""
    network = PBS.from_pretrained(setting.weights.get(NAME, NAME))
    return AgainstTarget(NAME, partial(pbs, model=network), setting)


def chosen(ads: Sequence[Ad], setting: Setting) -> list[Image.Image]:
    """The pictures that are looked at: as the ads show them, or as they were painted."""
    return [ad.painted if setting.picture == "painted" else ad.picture for ad in ads]


class AgainstTarget:
    """A measure of how alike two pictures are, between an ad's and the target's; `compare` takes lists of them."""

    needs = frozenset({"picture", "target"})

    def __init__(
        self,
        name: str,
        compare: Callable[[Sequence[Image.Image], Sequence[Image.Image]], NDArray[np.floating]],
        setting: Setting,
    ) -> None:
        self.name, self.compare, self.setting = name, compare, setting
        self.settings = {"picture": setting.picture, "weights": setting.weights.get(name, "")}

    def score(self, made: Sequence[Ad], asked: Sequence[Request]) -> dict[str, Values]:
        """As `compare` gives it."""
        targets = []
        for request in asked:
            assert request.example.target is not None, "scorers that need a target are not asked without"
            targets.append(request.example.target.picture)
        return {self.name: np.asarray(self.compare(chosen(made, self.setting), targets), np.float64)}


class OfPicture:
    """A published score of a picture, of itself or of how well it fits the prompt that the setting names."""

    needs = frozenset({"picture"})

    def __init__(self, name: str, metric: PictureScore, setting: Setting) -> None:
        self.name, self.metric, self.setting = name, metric, setting
        self.settings = {"picture": setting.picture, "weights": setting.weights.get(name, "")}
        self.settings |= {"prompt": setting.prompt} if metric.needs_prompts else {}

    def score(self, made: Sequence[Ad], asked: Sequence[Request]) -> dict[str, Values]:
        """As the model gives it."""
        examples = [request.example for request in asked]
        prompts = prompts_of(examples, made, self.setting.prompt) if self.metric.needs_prompts else None
        return {self.name: np.asarray(self.metric(chosen(made, self.setting), prompts), np.float64)}
