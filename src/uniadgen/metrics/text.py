"""BLEU, ROUGE-L, m-BLEU and m-ROUGE of advertising texts, in English and Chinese, in three declared profiles.

What the paper prints cannot be recomputed from its words alone, so every report says which profile it is of.
`paper` does what the authors' scripts do: characters of Chinese, whole runs of Latin letters and digits; ROUGE-L over
sets of words, in parts split at every full stop. `strict` counts characters, and repetitions. `english` counts words.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

PROFILES = ("paper", "strict", "english")
ORDERS = (1, 2, 3, 4)
# A run of letters and digits is one token, with its decimals and percent sign; every other character is one.
_PAPER = re.compile(r"AT&T|c\+\+|c#|[a-z0-9]+(?:\.\d+)?%?|\s|.", re.IGNORECASE | re.DOTALL)
_ENGLISH = re.compile(r"[^\W_]+(?:[.,'’-][^\W_]+)*%?|[^\w\s]|_")

Tokens = Sequence[str]


@dataclass(frozen=True)
class TextReport:
    """Scores in [0, 1], one value per sample; `means` are their means, empty texts counted as 0."""

    profile: str
    signature: str  # sacrebleu's, of BLEU
    empty: float  # share of texts that are empty
    scores: dict[str, tuple[float, ...]]

    @property
    def means(self) -> dict[str, float]:
        """Mean over samples of every score."""
        return {name: float(np.mean(values)) for name, values in self.scores.items()}


def score_texts(made: Sequence[str], references: Sequence[Sequence[str]], profile: str = "paper") -> TextReport:
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
    rows = [_score(text, known, profile) for text, known in zip(made, references, strict=True)]
    scores = {name: tuple(row[name] for row in rows) for name in rows[0]}
    empty = sum(not text.strip() for text in made) / len(made)
    return TextReport(profile, _signature(), empty, scores)


def _signature() -> str:
    """sacrebleu's, which it knows after a first use; the number of references is each sample's own."""
    engine = _bleu(4)
    engine.corpus_score(["a"], [["a"]])
    return engine.get_signature().format().replace("nrefs:1|", "")


def _score(text: str, references: Sequence[str], profile: str) -> dict[str, float]:
    hypothesis, known = tokens(text, profile), [tokens(reference, profile) for reference in references]
    longest: Callable[[Tokens, Tokens], float] = rouge_l_of_sets if profile == "paper" else rouge_l
    by_reference = [longest(hypothesis, reference) for reference in known]
    by_order = [np.mean([rouge_n(hypothesis, reference, n) for n in ORDERS]) for reference in known]
    return {
        "bleu": bleu(hypothesis, known[:1]),
        "rouge_l": by_reference[0],
        "m_bleu": bleu(hypothesis, known),
        "m_rouge": max(by_reference),
        "bleu_avg": float(np.mean([bleu(hypothesis, known[:1], n) for n in ORDERS])),
        "rouge_avg": float(by_order[0]),
        "m_bleu_avg": float(np.mean([bleu(hypothesis, known, n) for n in ORDERS])),
        "m_rouge_avg": float(max(by_order)),
    }


def tokens(text: str, profile: str) -> list[str]:
    """A text in the tokens of a profile, in lower case. White space is a token in `paper` only."""
    text = text.strip().lower()
    if profile == "paper":
        return _PAPER.findall(text)
    if profile == "english":
        return _ENGLISH.findall(text)
    return [character for character in text if not character.isspace()]


def _bleu(order: int):
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        raise ImportError("BLEU needs sacrebleu: pip install 'uniadgen[eval]'") from None
    return BLEU(tokenize="none", smooth_method="none", max_ngram_order=order, effective_order=False, force=True)


def bleu(hypothesis: Tokens, references: Sequence[Tokens], order: int = 4) -> float:
    """BLEU of one text: uniform weights up to n-grams of `order`, no smoothing, the closest reference's length.

    With several references their n-grams are pooled (m-BLEU). A text that shares no n-gram of an order scores 0.
    """
    if not hypothesis:
        return 0.0
    line = lambda found: " ".join("▁" if token.isspace() else token for token in found)  # noqa: E731
    return _bleu(order).corpus_score([line(hypothesis)], [[line(found)] for found in references]).score / 100


def rouge_l(hypothesis: Tokens, reference: Tokens) -> float:
    """F1 of the longest common subsequence."""
    return _f1(len(_common_subsequence(hypothesis, reference)), len(hypothesis), len(reference))


def rouge_l_of_sets(hypothesis: Tokens, reference: Tokens) -> float:
    """ROUGE-L as the authors' scripts compute it: distinct words only, in parts split at every full stop.

    Of each part of the reference count the distinct words that stand in a longest common subsequence with any part of
    the text, and that no earlier part had. A word that is repeated costs nothing: `strict` is the honest one. Their
    package adds 1e-8 to the divisor, so two equal texts get 0.999999995.
    """
    parts, known = _parts(hypothesis), _parts(reference)
    matched: set[str] = set()
    for part in known:
        matched |= {word for other in parts for word in _common_subsequence(part, other)}
    if not matched:
        return 0.0
    precision = len(matched) / len({word for part in parts for word in part})
    recall = len(matched) / len({word for part in known for word in part})
    return 2 * precision * recall / (precision + recall + 1e-8)


def _parts(words: Tokens) -> list[list[str]]:
    return [part.split() for part in " ".join(words).split(".") if part.strip()]


def rouge_n(hypothesis: Tokens, reference: Tokens, order: int) -> float:
    """F1 of n-grams, repetitions clipped."""
    one, other = (_ngrams([t for t in found if not t.isspace()], order) for found in (hypothesis, reference))
    return _f1((one & other).total(), one.total(), other.total())


def _ngrams(words: Tokens, order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))


def _f1(matched: int, made: int, wanted: int) -> float:
    return 2 * matched / (made + wanted) if matched else 0.0


def _common_subsequence(one: Tokens, other: Tokens) -> list[str]:
    """A longest common subsequence; where several are as long, the one met by going back from the ends."""
    length = np.zeros((len(one) + 1, len(other) + 1), dtype=np.int32)
    for i, a in enumerate(one, 1):
        for j, b in enumerate(other, 1):
            length[i, j] = length[i - 1, j - 1] + 1 if a == b else max(length[i - 1, j], length[i, j - 1])
    found, i, j = [], len(one), len(other)
    while i and j:
        if one[i - 1] == other[j - 1]:
            found.append(one[i - 1])
            i, j = i - 1, j - 1
        elif length[i - 1, j] > length[i, j - 1]:
            i -= 1
        else:
            j -= 1
    return found[::-1]
