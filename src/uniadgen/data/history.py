"""Which clicks are shown to the model (Eq. 6): a pure function of scores, number and generator."""

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

EPSILON = 1e-6  # paper section 4.4.1
RELEASE_SEED = 42  # of the release's sampling, the same for every shopper
_WORDS = re.compile(r"[a-z0-9]+|[\u4e00-\u9fff]+")
_STOP_WORDS = frozenset(["a", "an", "and", "for", "in", "is", "it", "of", "on", "or", "the", "this", "to", "with"])

Scores = Sequence[float] | NDArray[np.floating]
Sampler = Callable[[Scores, int, np.random.Generator], list[int]]


def by_similarity(scores: Scores, n: int, generator: np.random.Generator) -> list[int]:
    """Product similarity sampling (Eq. 6): `n` clicks without replacement, p_i ~ max(s_i + eps, 0).

    Returns indices in their original (time) order; all of them when there are no more than `n`. Clicks whose
    weight is zero are drawn, evenly, only when the others do not suffice.
    """
    if len(scores) <= n:
        return list(range(len(scores)))
    weights = np.maximum(np.asarray(scores, dtype=np.float64) + EPSILON, 0.0)
    # Sampling without replacement by the Gumbel trick: the n largest of log w + noise.
    with np.errstate(divide="ignore"):
        keys = np.log(weights) + generator.gumbel(size=len(weights))
    order = np.lexsort((generator.random(len(weights)), -keys))
    return sorted(int(i) for i in order[:n])


def at_random(scores: Scores, n: int, generator: np.random.Generator) -> list[int]:
    """`n` clicks evenly, without replacement (Table 4, "Random Sampling")."""
    if len(scores) <= n:
        return list(range(len(scores)))
    return sorted(int(i) for i in generator.choice(len(scores), size=n, replace=False))


def most_similar(scores: Scores, n: int, generator: np.random.Generator) -> list[int]:
    """The `n` clicks of highest score, earlier ones first among equals (Table 4, "Most-similar Sampling")."""
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    return sorted(int(i) for i in order[:n])


def release(scores: Scores, n: int, generator: np.random.Generator, barred: Collection[int] = ()) -> list[int]:
    """As the authors' release samples: p_i ~ s_i, in the order drawn and always the same, whatever the generator.

    Scores of which one is 0 or less are all shifted above it. A history shorter than `n` is shown whole, and then again
    in part; `ValueError` when it has fewer than half of them. `barred` are clicks that are not to be seen (in
    the release's evaluation, those whose title is the text to be written): others stand in for them.
    """
    if n == 0:
        return []
    num = len(scores)
    if 2 * num < n:
        raise ValueError(
            f"the history has {num} clicks, expected {-(-n // 2)} or more: the release shows {n}, none three times"
        )
    weights = np.asarray(scores, dtype=np.float64)
    if weights.min() <= 0:
        weights = weights + abs(weights.min()) + EPSILON
    # The release seeds the old global generators anew for every shopper: these two draw what those do.
    drawing, replacing = np.random.RandomState(RELEASE_SEED), random.Random(RELEASE_SEED)
    again = drawing.choice(num, n if num >= n else n - num, replace=False, p=weights / weights.sum())
    chosen = [int(i) for i in again] if num >= n else [*range(num), *(int(i) for i in again)]
    fresh = [i for i in range(num) if i not in barred and i not in chosen]
    kept = [i for i in chosen if i not in barred]
    for place, i in enumerate(chosen):
        if i in barred:
            chosen[place] = replacing.choice(fresh or kept)
            if fresh:
                fresh.remove(chosen[place])
    return chosen


SAMPLERS: dict[str, Sampler] = {f.__name__: f for f in (by_similarity, at_random, most_similar, release)}


def similarity(texts: Sequence[str], description: str) -> list[float]:
    """s_i of Eq. 6: cosine in [0, 1] between each clicked title and the product's description.

    The built-in encoder is a bag of words (of character pairs, in Chinese); nothing has to be downloaded.
    """
    wanted = _bag(description)
    return [_cosine(_bag(text), wanted) for text in texts]


@lru_cache(maxsize=65536)
def _bag(text: str) -> Counter[str]:
    terms: Counter[str] = Counter()
    for run in _WORDS.findall(text.lower()):
        if run[0] > "\u4dff":
            terms.update(run[i : i + 2] for i in range(max(len(run) - 1, 1)))
        elif run not in _STOP_WORDS:
            terms[run] += 1
    return terms


def _cosine(a: Counter[str], b: Counter[str]) -> float:
    dot = sum(count * b[term] for term, count in a.items())
    if not dot:
        return 0.0
    norms = sum(v * v for v in a.values()) * sum(v * v for v in b.values())
    return dot / math.sqrt(norms)
