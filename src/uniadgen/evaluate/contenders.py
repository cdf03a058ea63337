"""Who is compared: models, what becomes of them with something left out, rivals without a model, and the truth."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Final

from uniadgen.baselines import own
from uniadgen.baselines.copied import Copy, Retrieve
from uniadgen.baselines.generator import Generator
from uniadgen.baselines.llm import Writer
from uniadgen.config import StagesConfig, WorldConfig
from uniadgen.data.cutout import squash
from uniadgen.model.weights import find, fingerprint
from uniadgen.pipeline import ENLARGE, AdGenerator
from uniadgen.records import Ad, Example

OWN: Final[dict[str, Callable[[AdGenerator], Generator]]] = {
    function.__name__: function for function in (own.no_history, own.unbound, own.image_only, own.text_only)
}
OTHERS: Final = ("truth", "copy", "retrieve", "llm")
BASELINES: Final = (*OWN, *OTHERS)


@dataclass(frozen=True)
class Contender:
    """One line-up: `makes` says what its ads have, `fingerprint` tells its ads from those of any other."""

    name: str
    role: str  # model, or the baseline's name
    generator: Generator
    makes: frozenset[str]
    fingerprint: str
    settings: dict[str, Any] = field(default_factory=dict)


class Truth:
    """The click that really happened, as if somebody had made it: how far a measure itself can be trusted."""

    def __init__(self, side: int) -> None:
        self.side = side

    def generate_batch(self, examples: Sequence[Example], seeds: Sequence[int]) -> list[Ad]:
        """Raises `ValueError` for a request whose click nobody knows."""
        return [self._ad(example, seed) for example, seed in zip(examples, seeds, strict=True)]

    def _ad(self, example: Example, seed: int) -> Ad:
        if example.target is None:
            raise ValueError("a request has no target, expected the click that really happened: leave out `truth`")
        picture, text = example.target.picture, example.target.text
        record = MappingProxyType({"model": "truth", "seed": seed})
        return Ad(squash(picture, ENLARGE * self.side), squash(picture, self.side), text, seed, record)


def models_of(names: Sequence[str]) -> dict[str, AdGenerator]:
    """Loads models by name, folder, or NAME=FOLDER for a name of one's own; raises `ValueError` for a name twice."""
    loaded: dict[str, AdGenerator] = {}
    for given in names:
        name, _, folder = given.partition("=")
        if name in loaded:
            raise ValueError(f"got the model {name} twice, expected different names: write NAME=FOLDER")
        loaded[name] = AdGenerator.from_pretrained(folder or name)
    return loaded


def contenders_of(
    names: Sequence[str], models: dict[str, AdGenerator], baselines: Sequence[str], stages: StagesConfig | None = None
) -> list[Contender]:
    """All that are compared: every model, what each becomes under its own baselines, and the other ones.

    `names` are those that `models_of` was given, `baselines` some of `BASELINES`; `stages`: the server of `llm`.
    Raises `ValueError` where two have one name.
    """
    found = []
    for given, (name, generator) in zip(names, models.items(), strict=True):
        weights = fingerprint(find(given.partition("=")[2] or name))
        found.append(_own(name, "model", generator, generator, weights))
        for baseline in (b for b in baselines if b in OWN):
            found.append(_own(f"{name} {baseline}", baseline, generator, OWN[baseline](generator), weights))
    side = max(generator.config.data.image_size for generator in models.values())
    found += [_other(baseline, side, stages) for baseline in baselines if baseline not in OWN]
    if len({contender.name for contender in found}) < len(found):
        listed = ", ".join(contender.name for contender in found)
        raise ValueError(f"got the generators {listed}, expected different names: write NAME=FOLDER")
    return found


def contender_of(name: str, generator: AdGenerator, weights: str) -> Contender:
    """A model under a name of one's own, with whatever settings; its weights are a shipped model's, or in a folder."""
    return _own(name, "model", generator, generator, fingerprint(find(weights)))


def _own(name: str, role: str, model: AdGenerator, generator: Generator, weights: str) -> Contender:
    config = generator.config if isinstance(generator, AdGenerator) else model.config
    parts = {"image": ("picture", "pasted"), "text": ("text",), "image+text": ("picture", "pasted", "text")}
    settings = {"role": role, "weights": weights, "config": asdict(config)}
    return Contender(name, role, generator, frozenset(parts[config.data.modality]), json.dumps(settings), settings)


def _other(baseline: str, side: int, stages: StagesConfig | None) -> Contender:
    settings: dict[str, Any] = {"role": baseline, "side": side}
    makes = {"picture", "text", "pasted"}
    generator: Generator
    if baseline == "truth":
        generator, makes = Truth(side), {"picture", "text"}
    elif baseline == "llm":
        assert stages is not None, "a plan with llm has a server"
        generator, makes = Writer(stages, side), {"text"}  # its picture is the product on white: nobody painted it
        settings |= {"llm_url": stages.llm_url, "llm_model": stages.llm_model}
    else:
        generator = {"copy": Copy, "retrieve": Retrieve}[baseline](side)
    return Contender(baseline, baseline, generator, frozenset(makes), json.dumps(settings), settings)


def world_of(models: dict[str, AdGenerator]) -> WorldConfig:
    """The world that all models were trained on; `ValueError` where there is none, or several."""
    worlds = {name: generator.config.world for name, generator in models.items()}
    for name, world in worlds.items():
        if world is None:
            raise ValueError(
                f"{name} was not trained on AdWorld, expected a model that was, or requests of your own: --data FOLDER"
            )
    first, *others = (world for world in worlds.values() if world is not None)
    if any(other != first for other in others):
        raise ValueError(f"{', '.join(worlds)} were trained on different worlds, expected one: measure them apart")
    return first
