"""BLEU, ROUGE-L, m-BLEU and m-ROUGE of advertising texts, in English and Chinese, in three declared profiles.

What the paper prints cannot be recomputed from its words alone, so every report says which profile it is of.
`paper` does what the authors' scripts do: characters of Chinese, whole runs of Latin letters and digits; ROUGE-L over
sets of words, in parts split at every full stop. `strict` counts characters, and repetitions. `english` counts words.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import repeat
from math import exp, log
from typing import NamedTuple

import numpy as np

PROFILES = ("paper", "strict", "english")
ORDERS = (1, 2, 3, 4)
SCORES = ("bleu", "rouge_l", "m_bleu", "m_rouge", "bleu_avg", "rouge_avg", "m_bleu_avg", "m_rouge_avg")
_BLEU, _ROUGE_L, _ROUGE_AVG = frozenset(SCORES[::2]), frozenset(SCORES[1:4:2]), frozenset(SCORES[5::2])
# As sacrebleu writes it, whose BLEU ours equals (tests hold it to that); the number of references is each sample's own.
SIGNATURE = "case:mixed|eff:no|tok:none|smooth:none"
KEPT = 256  # texts whose tokens and n-grams are remembered: a title is many samples' reference
# A run of letters and digits is one token, with its decimals and percent sign; every other character is one.
_PAPER = re.compile(r"AT&T|c\+\+|c#|[a-z0-9]+(?:\.\d+)?%?|\s|.", re.IGNORECASE | re.DOTALL)
_ENGLISH = re.compile(r"[^\W_]+(?:[.,'’-][^\W_]+)*%?|[^\w\s]|_")

Tokens = Sequence[str]


@dataclass(frozen=True)
class TextReport:
    """Scores in [0, 1], one value per sample; `means` are their means, empty texts counted as 0."""

    profile: str
    signature: str  # of BLEU, as sacrebleu writes it
    empty: float  # share of texts that are empty
    scores: dict[str, tuple[float, ...]]

    @property
    def means(self) -> dict[str, float]:
        """Mean over samples of every score."""
        return {name: float(np.mean(values)) for name, values in self.scores.items()}


def score_texts(
    made: Sequence[str],
    references: Sequence[Sequence[str]],
    profile: str = "paper",
    scores: Sequence[str] = SCORES,
) -> TextReport:
    """Compares each made text with its references, the shopper's true one first.

    `bleu` and `rouge_l` look at the first reference, `m_bleu` and `m_rouge` at all: BLEU pools their n-grams, ROUGE
    takes the best. Names in `_avg` are the arithmetic mean over 1- to 4-grams, the other reading of the paper's
    "averaged".
    Raises `ValueError` for an unknown profile, no texts, or a text without references.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile is {profile!r}, expected one of {', '.join(PROFILES)}")
    if not made or len(made) != len(references):
        raise ValueError(f"got {len(made)} texts and references for {len(references)}, expected as many, at least one")
    bare = [number for number, known in enumerate(references) if not known]
    if bare:
        raise ValueError(f"text {bare[0]} has no reference, expected at least one for each")
    rows = [_score(text, known, profile, scores) for text, known in zip(made, references, strict=True)]
    columns = dict(zip(scores, zip(*rows, strict=True), strict=True))
    empty = sum(not text.strip() for text in made) / len(made)
    return TextReport(profile, SIGNATURE, empty, columns)


def _score(text: str, references: Sequence[str], profile: str, scores: Sequence[str]) -> list[float]:
    said, known = _words(text, profile), [_words(reference, profile) for reference in references]
    found: dict[str, float] = {}
    if not _BLEU.isdisjoint(scores):
        shared = [_shared(said, reference) for reference in known]
        one, pooled = _bleus(said, shared[:1]), _bleus(said, shared)
        found |= {"bleu": one[-1], "m_bleu": pooled[-1], "bleu_avg": sum(one) / 4, "m_bleu_avg": sum(pooled) / 4}
    if not _ROUGE_L.isdisjoint(scores):
        longest = _rouge_l_of_sets if profile == "paper" else lambda one, other: rouge_l(one.tokens, other.tokens)
        rouges = [longest(said, reference) for reference in known]
        found |= {"rouge_l": rouges[0], "m_rouge": max(rouges)}
    if not _ROUGE_AVG.isdisjoint(scores):
        overlaps = [sum(_overlap(said, reference, n) for n in ORDERS) / 4 for reference in known]
        found |= {"rouge_avg": overlaps[0], "m_rouge_avg": max(overlaps)}
    return [found[name] for name in scores]


class _Words:
    """A text's tokens, and what several scores need of them, made when it is first asked."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tuple(tokens)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Of its different tokens, from 1 on."""
        return {token: number for number, token in enumerate(dict.fromkeys(self.tokens), start=1)}

    @cached_property
    def ngrams(self) -> list[Counter[int]]:
        """Of each order, white space counts; an n-gram is the number whose digits are its tokens'."""
        base, numbers = len(self.numbers) + 1, [self.numbers[token] for token in self.tokens]
        grams, found = numbers, [Counter(numbers)]
        for n in ORDERS[1:]:
            grams = [gram * base + number for gram, number in zip(grams, numbers[n - 1 :], strict=False)]
            found.append(Counter(grams))
        return found

    @cached_property
    def plain_ngrams(self) -> list[Counter[tuple[str, ...]]]:
        """Of each order, without white space."""
        words = [token for token in self.tokens if not token.isspace()]
        return [Counter(_ngrams(words, n)) for n in ORDERS]

    @cached_property
    def parts(self) -> list[list[str]]:
        """Words between full stops."""
        return [part.split() for part in " ".join(self.tokens).split(".") if part.strip()]


@lru_cache(maxsize=KEPT)
def _words(text: str, profile: str) -> _Words:
    return _Words(tokens(text, profile))


def tokens(text: str, profile: str) -> list[str]:
    """A text in the tokens of a profile, in lower case. White space is a token in `paper` only."""
    text = text.strip().lower()
    if profile == "paper":
        return _PAPER.findall(text)
    if profile == "english":
        return _ENGLISH.findall(text)
    return [character for character in text if not character.isspace()]


def bleu(hypothesis: Tokens, references: Sequence[Tokens], order: int = 4) -> float:
    """BLEU of one text: uniform weights up to n-grams of `order`, no smoothing, the closest reference's length.

    With several references their n-grams are pooled (m-BLEU). A text that shares no n-gram of an order scores 0.
    """
    said = _Words(hypothesis)
    return _bleus(said, [_shared(said, _Words(reference)) for reference in references])[order - 1]


class _Shared(NamedTuple):
    """A reference's length, and how often each n-gram that the text has stands in it, by order."""

    length: int
    counts: list[Counter[int]]


def _shared(said: _Words, reference: _Words) -> _Shared:
    """Where a shorter n-gram is not in, no longer one is."""
    base, number_of = len(said.numbers) + 1, said.numbers.get
    numbers = list(map(number_of, reference.tokens, repeat(0)))
    grams, counts = numbers, []
    for n, made in zip(ORDERS, said.ngrams, strict=True):
        if n > 1:
            pairs = zip(grams, numbers[n - 1 :], strict=False)
            grams = [both if gram and (both := gram * base + number) in made else 0 for gram, number in pairs]
        counts.append(Counter(filter(None, grams)))
    return _Shared(len(numbers), counts)


def _bleus(said: _Words, known: Sequence[_Shared]) -> list[float]:
    """BLEU up to n-grams of each order."""
    length, total, found = len(said.tokens), 0.0, [0.0] * len(ORDERS)
    closest = min((abs(reference.length - length), reference.length) for reference in known)[1]
    for n, made in enumerate(said.ngrams):
        first, *others = (reference.counts[n] for reference in known)
        most = dict(first) if others else first  # of each n-gram the most that any has
        for counts in others:
            most |= {gram: count for gram, count in counts.items() if count > most.get(gram, 0)}
        matched = sum([count if count < (own := made[gram]) else own for gram, count in most.items()])
        if not matched:
            break
        total += log(matched / (length - n))
        found[n] = exp(total / (n + 1) + min(0.0, 1 - closest / length))
    return found


def rouge_l(hypothesis: Tokens, reference: Tokens) -> float:
    """F1 of the longest common subsequence."""
    rows = _subsequences(hypothesis, reference)
    return _f1(len(reference) - rows[-1].bit_count(), len(hypothesis), len(reference))


def rouge_l_of_sets(hypothesis: Tokens, reference: Tokens) -> float:
    """ROUGE-L as the authors' scripts compute it: distinct words only, in parts split at every full stop.

    Of each part of the reference count the distinct words that stand in a longest common subsequence with any part of
    the text, and that no earlier part had. A word that is repeated costs nothing: `strict` is the honest one. Their
    package adds 1e-8 to the divisor, so two equal texts get 0.999999995.
    """
    return _rouge_l_of_sets(_Words(hypothesis), _Words(reference))


def _rouge_l_of_sets(said: _Words, known: _Words) -> float:
    matched: set[str] = set()
    for part in known.parts:
        matched |= {word for other in said.parts for word in _common_subsequence(part, other)}
    if not matched:
        return 0.0
    precision = len(matched) / len({word for part in said.parts for word in part})
    recall = len(matched) / len({word for part in known.parts for word in part})
    return 2 * precision * recall / (precision + recall + 1e-8)


def rouge_n(hypothesis: Tokens, reference: Tokens, order: int) -> float:
    """F1 of n-grams, repetitions clipped."""
    return _overlap(_Words(hypothesis), _Words(reference), order)


def _overlap(said: _Words, known: _Words, order: int) -> float:
    one, other = said.plain_ngrams[order - 1], known.plain_ngrams[order - 1]
    return _f1((one & other).total(), one.total(), other.total())


def _ngrams(words: Tokens, order: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(order)), strict=False)


def _f1(matched: int, made: int, wanted: int) -> float:
    return 2 * matched / (made + wanted) if matched else 0.0


def _subsequences(one: Tokens, other: Tokens) -> list[int]:
    """Lengths of longest common subsequences, a row for the first 0, 1, ... tokens of `one`, in bits (Hyyrö 2004).

    Bit j of a row is 0 where the j-th token of `other` makes the subsequence longer: with the first j tokens of `other`
    it has as many tokens as there are zeros below bit j.
    """
    places: dict[str, int] = {}
    for j, token in enumerate(other):
        places[token] = places.get(token, 0) | 1 << j
    row = whole = (1 << len(other)) - 1
    rows = [whole]
    for here in map(places.get, one, repeat(0)):
        matched = row & here
        row = (row + matched | row - matched) & whole
        rows.append(row)
    return rows


def _common_subsequence(one: Tokens, other: Tokens) -> list[str]:
    """A longest common subsequence; where several are as long, the one met by going back from the ends."""
    rows = _subsequences(one, other)
    found, i, j = [], len(one), len(other)
    while i and j:
        if one[i - 1] == other[j - 1]:
            found.append(one[i - 1])
            i, j = i - 1, j - 1
        elif rows[i] >> (j - 1) & 1:  # that token of `other` makes nothing longer
            j -= 1
        else:
            i -= 1
    return found[::-1]
