"""Every contender makes the ads of every request, every scorer measures them: the values, request by request."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from uniadgen.evaluate.cache import AdCache, fingerprint_of
from uniadgen.evaluate.contenders import Contender
from uniadgen.evaluate.measures import MADE, Scorer, Values
from uniadgen.evaluate.probes import probe
from uniadgen.evaluate.requests import Request, Requests
from uniadgen.pipeline import AdGenerator
from uniadgen.records import Ad
from uniadgen.train.log import progress_bar

CHUNK = 200  # requests held in memory; what is measured of a model itself is measured on the first so many
BATCH = 20  # ads made together
DRAWN = 12  # requests on the sheet
APART = 10**9  # between the seeds of one request


class Seeds(NamedTuple):
    """Request i is made with the seeds first + i, first + i + APART, ...: `number` of them."""

    first: int = 0
    number: int = 1


class Row(NamedTuple):
    """Which ad the values of one row are of."""

    request: int
    shopper: str
    seed: int


class Missing(NamedTuple):
    """What could not be measured of whom, because something lacks."""

    scorer: str
    generator: str
    lacks: str


@dataclass
class Measured:
    """Values by generator and measure, all in the order of `rows`; NaN where a measure is not defined.

    `drawn` are the pictures of the first requests: the true ones (`target`), and by generator.
    """

    rows: list[Row] = field(default_factory=list)
    values: dict[str, dict[str, Values]] = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)
    drawn: dict[str, list[Image.Image]] = field(default_factory=dict)

    @property
    def measures(self) -> list[str]:
        """Names of all measures, in the order in which they were first made."""
        return list(dict.fromkeys(name for found in self.values.values() for name in found))


def measure(
    contenders: Sequence[Contender],
    requests: Requests,
    scorers: Sequence[Scorer],
    folder: Path,
    seeds: Seeds = Seeds(),  # noqa: B008
    *,
    probing: bool = False,
) -> Measured:
    """Makes what is not yet in `folder`, and measures it; of all requests only the values are held at once.

    `probing`: models are also measured themselves.
    Raises `ValueError` where no request can be used, or a scorer gives other than one value for each.
    """
    return _Harness(contenders, requests, scorers, AdCache(folder), seeds, probing).run()


class _Harness:
    def __init__(
        self,
        contenders: Sequence[Contender],
        requests: Requests,
        scorers: Sequence[Scorer],
        cache: AdCache,
        seeds: Seeds,
        probing: bool,
    ) -> None:
        self.contenders, self.requests, self.scorers = contenders, requests, scorers
        self.cache, self.seeds, self.probing = cache, seeds, probing
        self.found = Measured(values={contender.name: {} for contender in contenders})
        self.asked_of = {contender.name: self._able(contender) for contender in contenders}

    def _able(self, contender: Contender) -> list[Scorer]:
        """The scorers that have all they need; what the others lack is noted."""
        able = []
        for scorer in self.scorers:
            lacking = scorer.needs - contender.makes - self.requests.knows
            if lacking:
                whose = "ads with " if lacking <= set(MADE) else ""
                self.found.missing.append(Missing(scorer.name, contender.name, whose + ", ".join(sorted(lacking))))
            else:
                able.append(scorer)
        return able

    def run(self) -> Measured:
        total = len(self.requests) * self.seeds.number * len(self.contenders)
        with progress_bar("ads", total) as bar:
            for start in range(0, len(self.requests), CHUNK):
                asked = self.requests.load(range(start, min(start + CHUNK, len(self.requests))))
                if asked:
                    self._measure(asked, bar)
        if not self.found.rows:
            raise ValueError(f"none of {len(self.requests)} requests can be used: {self.requests.left_out[0].why}")
        return self.found

    def _measure(self, asked: Sequence[Request], bar: Any) -> None:
        digests = [fingerprint_of(request.example) for request in asked]
        for turn in range(self.seeds.number):
            seeds = [self.seeds.first + request.number + turn * APART for request in asked]
            first = not self.found.rows
            before = len(self.found.rows)
            self.found.rows += [Row(r.number, r.shopper, seed) for r, seed in zip(asked, seeds, strict=True)]
            for contender in self.contenders:
                made = self._make(contender, asked, digests, seeds, bar)
                scores: dict[str, Values] = {}
                for scorer in self.asked_of[contender.name]:
                    scores |= _checked(scorer, scorer.score(made, asked), len(asked))
                if first:
                    self._draw(contender, made, asked)
                    if self.probing and contender.role == "model" and isinstance(contender.generator, AdGenerator):
                        scores |= probe(contender.generator, asked, seeds)
                self._add(contender.name, scores, before)

    def _make(
        self, contender: Contender, asked: Sequence[Request], digests: Sequence[str], seeds: Sequence[int], bar: Any
    ) -> list[Ad]:
        """The ads of one contender, those that lack in batches of always the same requests."""
        keys = [self.cache.key(contender.fingerprint, *which) for which in zip(digests, seeds, strict=True)]
        ads = [self.cache.get(key) for key in keys]
        for start in range(0, len(asked), BATCH):
            batch = range(start, min(start + BATCH, len(asked)))
            lacking = [place for place in batch if ads[place] is None]
            if lacking:
                examples = [asked[place].example for place in lacking]
                made = contender.generator.generate_batch(examples, [seeds[place] for place in lacking])
                for place, ad in zip(lacking, made, strict=True):
                    ads[place] = self.cache.put(keys[place], ad)
            bar.advance(contender.name, by=len(batch))
        return [ad for ad in ads if ad is not None]

    def _add(self, name: str, scores: dict[str, Values], before: int) -> None:
        """Appends values; a measure that is new here, or not made this time, is not defined elsewhere."""
        held, number = self.found.values[name], len(self.found.rows)
        for key in dict.fromkeys((*held, *scores)):
            old = held.get(key, np.full(before, np.nan))
            held[key] = np.concatenate([old, scores.get(key, np.full(number - before, np.nan))])

    def _draw(self, contender: Contender, made: Sequence[Ad], asked: Sequence[Request]) -> None:
        targets = [request.example.target for request in asked[:DRAWN]]
        self.found.drawn.setdefault("target", [target.picture for target in targets if target is not None])
        if "picture" in contender.makes and contender.role != "truth":
            self.found.drawn[contender.name] = [ad.picture for ad in made[:DRAWN]]


def _checked(scorer: Scorer, scores: dict[str, Values], number: int) -> dict[str, Values]:
    for name, values in scores.items():
        if values.shape != (number,):
            raise ValueError(
                f"the metric {scorer.name} gave {values.shape} values of {name}, expected one for each of the {number} "
                "requests: correct its `score`"
            )
    return scores
