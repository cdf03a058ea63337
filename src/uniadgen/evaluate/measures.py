"""What a measure is: what it needs, what it gives for every request, how it is shown and what is aimed at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from uniadgen.config import WorldConfig
from uniadgen.evaluate.requests import Request
from uniadgen.records import Ad

Values = NDArray[np.float64]
# What a scorer may need: of the ads, and of the requests.
MADE: Final = ("picture", "text", "pasted")  # pasted: the product's own pixels stand in the picture
KNOWN: Final = ("target", "taste")
PICTURES: Final = ("pasted", "painted")  # which of an ad's is compared with the true one


@runtime_checkable
class Scorer(Protocol):
    """Measures ads; a new one joins by one line in `scorers.SCORERS`, and by one in `MEASURES` for its looks."""

    name: str
    needs: frozenset[str]  # of `MADE` and `KNOWN`; where something lacks, it is not asked

    def score(self, made: Sequence[Ad], asked: Sequence[Request]) -> dict[str, Values]:
        """The values of each measure, one for every request; NaN where it is not defined."""
        ...


@dataclass(frozen=True)
class Setting:
    """What scorers are made for."""

    world: WorldConfig | None = None
    picture: str = "pasted"  # one of PICTURES
    prompt: str = "description"  # one of metrics.prompts.PROMPTS, for scores of how well a picture fits it
    weights: Mapping[str, str] = field(default_factory=dict)  # folders of published metrics, or ids of the Hub


class Aim(NamedTuple):
    """A target, for generators of one role."""

    bound: float
    at_least: bool = True

    def met(self, value: float) -> bool:
        """Whether it is reached."""
        return value >= self.bound if self.at_least else value <= self.bound


@dataclass(frozen=True)
class Measure:
    """How a measure is shown and compared."""

    name: str
    form: str = "{:.3f}"
    yes_no: bool = False  # 1 or 0 each: compared by McNemar's test
    largest: bool = False  # the largest value counts, not the mean
    aims: Mapping[str, Aim] = field(default_factory=dict)  # by the generator's role


def share(name: str, *, yes_no: bool = True, **aims: Aim) -> Measure:
    """A measure that is shown in percent."""
    return Measure(name, "{:.1%}", yes_no, aims=aims)


def _check(name: str) -> Measure:
    return share(f"check passed: {name}")


# Targets are nano's.
MEASURES: Final[dict[str, Measure]] = {
    "palette": share("palette", model=Aim(0.70), no_history=Aim(0.70 / 3, False)),
    "layout": share("layout", model=Aim(0.60), no_history=Aim(0.20, False)),
    "lighting": share("lighting"),
    "liked": share("selling points of the liked kind", yes_no=False, model=Aim(0.75)),
    "manner": share("manner"),
    "faithful": share("texts of selling points only", model=Aim(0.99), no_history=Aim(0.99)),
    "change": Measure(
        "pasted product: largest change of a pixel", "{:.1f}", largest=True, aims={"model": Aim(0, False)}
    ),
    "product_psnr": Measure("product as painted: PSNR, dB", "{:.1f}"),
    "psnr": Measure("VQ: PSNR, dB", "{:.1f}", aims={"model": Aim(26)}),
    "codebook": share("VQ: codebook used", yes_no=False, model=Aim(0.6)),
    "same": share("same request and seed: same bytes", model=Aim(1)),
    "differs": share("another history: another picture", model=Aim(1)),
    "pbs": Measure("PBS: background like the true picture's"),
    "clip": Measure("CLIP: like the true picture"),
    "dinov3": Measure("DINOv3: like the true picture"),
    "mocov3": Measure("MoCo v3: like the true picture"),
    "pickscore": Measure("PickScore"),
    "imagereward": Measure("ImageReward"),
    "ase": Measure("ASE"),
    "bleu": Measure("BLEU"),
    "rouge_l": Measure("ROUGE-L"),
    "m_bleu": Measure("m-BLEU"),
    "m_rouge": Measure("m-ROUGE"),
    "history_m_bleu": Measure("m-BLEU with the history's titles"),
    "history_m_rouge": Measure("m-ROUGE with the history's titles"),
    "empty": share("empty texts"),
    "passed_picture": share("pictures that pass all checks"),
    "passed_text": share("texts that pass all checks"),
    "strict_bleu": Measure("BLEU, strict"),
    "strict_rouge_l": Measure("ROUGE-L, strict"),
    "strict_m_bleu": Measure("m-BLEU, strict"),
    "strict_m_rouge": Measure("m-ROUGE, strict"),
    "english_bleu": Measure("BLEU, English words"),
    "english_rouge_l": Measure("ROUGE-L, English words"),
    "english_m_bleu": Measure("m-BLEU, English words"),
    "english_m_rouge": Measure("m-ROUGE, English words"),
}


def measure_of(key: str) -> Measure:
    """How values of that name are shown; those that nobody described are plain means."""
    return MEASURES.get(key, Measure(key))


def settings_of(scorer: Scorer) -> dict[str, Any]:
    """What a scorer tells the report of itself, if anything."""
    return dict(getattr(scorer, "settings", {}))
