"""Measures by name: of texts against true titles, of pasted products, of all checks, and of AdWorld's truth."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import numpy as np

from uniadgen.data import cutout
from uniadgen.evaluate.measures import Scorer, Setting, Values
from uniadgen.evaluate.pictures import PUBLISHED, background, published
from uniadgen.evaluate.requests import Request
from uniadgen.evaluate.truth import StyleScorer, WordsScorer
from uniadgen.metrics.check import CheckReport, check
from uniadgen.metrics.product import measure_picture
from uniadgen.metrics.rules import SHIPPED, read_pack
from uniadgen.metrics.text import SIGNATURE, score_texts
from uniadgen.records import Ad

SCORES: Final = ("bleu", "rouge_l", "m_bleu", "m_rouge")


class TextScorer:
    """BLEU and ROUGE-L against the target's title; m-BLEU and m-ROUGE against all true titles of the product.

    In the paper's profile also against the history's titles, which tells how much is copied, and which are empty.
    """

    needs = frozenset({"text", "target"})

    def __init__(self, profile: str) -> None:
        self.name = "text" if profile == "paper" else f"text_{profile}"
        self.profile, self.prefix = profile, "" if profile == "paper" else f"{profile}_"
        self.settings = {"profile": profile, "signature": SIGNATURE}

    def score(self, made: Sequence[Ad], asked: Sequence[Request]) -> dict[str, Values]:
        """Scores in [0, 1]; an empty text scores 0. Without a history nothing is like it: NaN."""
        texts = [ad.text for ad in made]
        found = score_texts(texts, [references(request) for request in asked], self.profile, SCORES).scores
        scores = {f"{self.prefix}{name}": np.array(found[name]) for name in SCORES}
        if self.profile == "paper":
            scores |= self._like_history(texts, asked)
            scores["empty"] = np.array([float(not text.strip()) for text in texts])
        return scores

    def _like_history(self, texts: Sequence[str], asked: Sequence[Request]) -> dict[str, Values]:
        scores = {f"history_{name}": np.full(len(texts), np.nan) for name in SCORES[2:]}
        clicked = [place for place, request in enumerate(asked) if request.example.clicks]
        if clicked:
            titles = [[click.text for click in asked[place].example.clicks] for place in clicked]
            found = score_texts([texts[place] for place in clicked], titles, self.profile, SCORES[2:]).scores
            for name in SCORES[2:]:
                scores[f"history_{name}"][clicked] = found[name]
        return scores


def references(request: Request) -> tuple[str, ...]:
    """The true titles of what is advertised, the target's first."""
    assert request.example.target is not None, "scorers that need a target are not asked without"
    return tuple(dict.fromkeys((request.example.target.text, *request.titles)))


class PastedScorer:
    """Largest change of a product's pixel, where the product covers the pixel wholly."""

    name = "pasted"
    needs = frozenset({"pasted"})

    def __init__(self, setting: Setting) -> None:
        """There is nothing to set."""

    def score(self, made: Sequence[Ad], asked: Sequence[Request]) -> dict[str, Values]:
        """In steps of 256; NaN where no pixel is covered wholly."""
        worst = []
        for ad, request in zip(made, asked, strict=True):
            product = np.asarray(cutout.place(request.example.product.cutout, ad.picture.width)).astype(int)
            change = np.abs(np.asarray(ad.picture).astype(int) - product[..., :3])[product[..., 3] == 255]
            worst.append(float(change.max()) if change.size else np.nan)
        return {"change": np.array(worst)}


class ProductScorer:
    """How true the product is in the painted picture, before its own pixels are pasted over it."""

    name = "product"
    needs = frozenset({"picture"})

    def __init__(self, setting: Setting) -> None:
        """There is nothing to set."""

    def score(self, made: Sequence[Ad], asked: Sequence[Request]) -> dict[str, Values]:
        """PSNR inside the product; NaN where it is too thin."""
        found = []
        for ad, request in zip(made, asked, strict=True):
            placed = cutout.place(request.example.product.cutout, ad.painted.width)
            found.append(measure_picture(ad.painted, placed).psnr)
        return {"product_psnr": np.array([np.nan if psnr is None else psnr for psnr in found], np.float64)}


class ChecksScorer:
    """Whether an ad passes the checks of `uniadgen check`, of its picture or of its text."""

    def __init__(self, part: str) -> None:
        self.name = f"checks_{part}"
        self.needs = frozenset({"pasted" if part == "picture" else "text"})
        self.part = part
        self.packs = [read_pack(name) for name in SHIPPED] if part == "text" else []

    def score(self, made: Sequence[Ad], asked: Sequence[Request]) -> dict[str, Values]:
        """1 where a check is passed, NaN where it cannot be made; `passed_...` of all of them."""
        reports = [self._check(ad, request) for ad, request in zip(made, asked, strict=True)]
        scores = {f"passed_{self.part}": np.array([float(report.passed) for report in reports])}
        for place, finding in enumerate(reports[0].findings):
            passed = [report.findings[place].passed for report in reports]
            scores[f"check_{finding.check}"] = np.array([np.nan if p is None else float(p) for p in passed])
        return scores

    def _check(self, ad: Ad, request: Request) -> CheckReport:
        product = request.example.product
        if self.part == "picture":
            return check(ad.picture, cutout.place(product.cutout, ad.picture.width), rules=())
        words = {"selling_points": product.selling_points, "description": product.description}
        return check(text=ad.text, rules=self.packs, **words)


SCORERS: Final[dict[str, Callable[[Setting], Scorer]]] = {
    "style": StyleScorer,
    "words": WordsScorer,
    "pasted": PastedScorer,
    "product": ProductScorer,
    "text": lambda setting: TextScorer("paper"),
    "text_strict": lambda setting: TextScorer("strict"),
    "text_english": lambda setting: TextScorer("english"),
    "checks_picture": lambda setting: ChecksScorer("picture"),
    "checks_text": lambda setting: ChecksScorer("text"),
    "pbs": background,
    **{name: partial(published, name) for name in PUBLISHED},
}
PROBES: Final = "model"  # the name of what is measured of a model itself: `probes`
BY_DEFAULT: Final = ("style", "words", "pasted", "text", "pbs", "checks_picture", "checks_text", PROBES)


def scorers_of(names: Sequence[str], setting: Setting) -> list[Scorer]:
    """The scorers of some names of `SCORERS`, and `PROBES`, which is none."""
    return [SCORERS[name](setting) for name in dict.fromkeys(names) if name != PROBES]
