"""How fast texts are scored beside the plain way, pair by pair, and whether memory grows with their number."""

import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import exp, log
from typing import Final, NamedTuple

import numpy as np
from rich.table import Table

from uniadgen.config import WorldConfig
from uniadgen.data.adworld import shop_of
from uniadgen.metrics.text import Tokens, score_texts, tokens
from uniadgen.world.shoppers import Shop
from uniadgen.world.words import KINDS, LANGUAGES, MANNERS

SCORES: Final = ("bleu", "rouge_l", "m_bleu", "m_rouge")
REFERENCES: Final = 4  # true titles of a product
AT_ONCE: Final = 500


class Pairs(NamedTuple):
    """Texts, and true titles of each."""

    made: list[str]
    known: list[list[str]]


@dataclass(frozen=True)
class TextSpeed:
    """CPU seconds for all pairs, the largest difference between both ways' scores, and memory at a tenth and at all."""

    pairs: int
    ours: float
    plain: float
    plain_way: str
    difference: float
    peak_tenth: float  # MB, of our own scoring
    peak: float


def measure_texts(pairs: int, advance: Callable[[int], None] = lambda _: None) -> TextSpeed:
    """Scores AdWorld's texts, English and Chinese, both ways; `advance` counts pairs, which go by twice."""
    ours = plain = difference = 0.0
    for some in made_up(pairs):
        began = time.process_time()
        scores = score_texts(some.made, some.known, "paper", SCORES).scores
        middle = time.process_time()
        rows = [_plainly(text, known) for text, known in zip(some.made, some.known, strict=True)]
        plain += time.process_time() - middle
        ours += middle - began
        difference = max(difference, float(np.abs(np.array(list(scores.values())).T - np.array(rows)).max()))
        advance(len(some.made))
    tracemalloc.start()
    peaks = {}
    for done, some in enumerate(made_up(pairs), start=1):
        score_texts(some.made, some.known, "paper", SCORES)
        advance(len(some.made))
        peaks[done * AT_ONCE] = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    tenth = next(peak for number, peak in peaks.items() if number >= pairs / 10)
    way = "nltk" if find_spec("nltk") else "written out"
    return TextSpeed(pairs, ours, plain, way, difference, tenth, max(peaks.values()))


def made_up(number: int) -> Iterator[Pairs]:
    """Pairs in portions: a text of a product in one manner, and true titles of it in others."""
    shop = shop_of(WorldConfig())
    for start in range(0, number, AT_ONCE):
        found = [_pair(shop, place) for place in range(start, min(start + AT_ONCE, number))]
        yield Pairs([made for made, _ in found], [known for _, known in found])


def _pair(shop: Shop, number: int) -> tuple[str, list[str]]:
    rng = np.random.default_rng(number)
    language, picture = LANGUAGES[number % 2], int(rng.integers(shop.num_pictures))
    chosen = rng.choice(len(KINDS) * len(MANNERS), 1 + REFERENCES, replace=False)
    made, *known = (
        shop.creative(shop.creative_id(picture, KINDS[text // len(MANNERS)], MANNERS[text % len(MANNERS)])).text(
            language
        )
        for text in chosen.tolist()
    )
    return made, known


def _plainly(text: str, references: Sequence[str]) -> list[float]:
    """The four scores as one writes them down from their definitions, every pair from the start."""
    said, known = tokens(text, "paper"), [tokens(reference, "paper") for reference in references]
    bleu = _nltk if find_spec("nltk") else _plain_bleu
    rouge = [_plain_rouge(said, reference) for reference in known]
    return [bleu(said, known[:1]), rouge[0], bleu(said, known), max(rouge)]


def _nltk(said: Tokens, known: Sequence[Tokens]) -> float:
    from nltk.translate.bleu_score import corpus_bleu  # pyright: ignore[reportMissingImports] - where it is installed

    return float(corpus_bleu([list(map(list, known))], [list(said)]))


def _plain_bleu(said: Tokens, known: Sequence[Tokens]) -> float:
    precisions = []
    for n in range(1, 5):
        grams = Counter(tuple(said[i : i + n]) for i in range(len(said) - n + 1))
        most: Counter[tuple[str, ...]] = Counter()
        for reference in known:
            most |= Counter(tuple(reference[i : i + n]) for i in range(len(reference) - n + 1))
        matched = sum(min(count, most[gram]) for gram, count in grams.items())
        if not matched:
            return 0.0
        precisions.append(matched / grams.total())
    closest = min((abs(len(reference) - len(said)), len(reference)) for reference in known)[1]
    shorter = exp(1 - closest / len(said)) if len(said) < closest else 1.0
    return shorter * exp(sum(map(log, precisions)) / 4)


def _plain_rouge(said: Tokens, known: Tokens) -> float:
    """Of distinct words, in parts split at every full stop, as `metrics.text.rouge_l_of_sets` says."""
    one, other = ([part.split() for part in " ".join(found).split(".") if part.strip()] for found in (said, known))
    matched = {word for part in other for made in one for word in _plain_subsequence(part, made)}
    if not matched:
        return 0.0
    precision, recall = (len(matched) / len({word for part in parts for word in part}) for parts in (one, other))
    return 2 * precision * recall / (precision + recall + 1e-8)


def _plain_subsequence(one: Tokens, other: Tokens) -> list[str]:
    length = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one, 1):
        for j, b in enumerate(other, 1):
            length[i][j] = length[i - 1][j - 1] + 1 if a == b else max(length[i - 1][j], length[i][j - 1])
    found, i, j = [], len(one), len(other)
    while i and j:
        if one[i - 1] == other[j - 1]:
            found.append(one[i - 1])
            i, j = i - 1, j - 1
        elif length[i - 1][j] > length[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found


def table(speed: TextSpeed) -> Table:
    """For a terminal."""
    title = f"{speed.pairs:,} texts, {REFERENCES} titles each: BLEU, ROUGE-L, m-BLEU, m-ROUGE of the profile paper"
    out = Table("way", "CPU s", "pairs/s", "x plain", "memory at a tenth, at all", title=title)
    memory = f"{speed.peak_tenth:.1f} MB, {speed.peak:.1f} MB"
    ours, plain = speed.pairs / speed.ours, speed.pairs / speed.plain
    out.add_row(f"plain ({speed.plain_way})", f"{speed.plain:.2f}", f"{plain:,.0f}", "1.0", "")
    out.add_row("ours", f"{speed.ours:.2f}", f"{ours:,.0f}", f"{ours / plain:.1f}", memory)
    out.caption = f"scores differ by {speed.difference:.0e} at most"
    return out
