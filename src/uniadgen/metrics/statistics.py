"""Intervals and tests for measures of ads: bootstrap by user, McNemar, paired bootstrap, Holm.

One user brings several ads, and their values go together: resampling ads would promise too narrow intervals, so
whole users are resampled. A statistic is a function of weights: it gets R x n weights, row r says how often
each of the n values was drawn, and returns R numbers, so that thousands of resamples cost a few matrix products.
"""

from collections.abc import Callable, Hashable, Sequence
from math import comb, sqrt
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Numbers = Sequence[float] | NDArray[Any]
Statistic = Callable[[Values], Values]  # (R, n) weights -> (R,)

METHODS = ("bca", "percentile")
_AT_ONCE = 4_000_000  # weights held at a time: 32 MB


class Interval(NamedTuple):
    """An estimate and the ends of its confidence interval."""

    value: float
    low: float
    high: float


class Paired(NamedTuple):
    """By how much the second of two systems is better, with its interval and a two-sided p value."""

    difference: Interval
    p: float


class McNemar(NamedTuple):
    """Pairs on which only the first, or only the second, was right, and the exact two-sided p value."""

    only_first: int
    only_second: int
    p: float


def mean_of(values: Numbers) -> Statistic:
    """The weighted mean of (n,) values."""
    column = np.asarray(values, np.float64)
    return lambda weights: weights @ column / weights.sum(1)


def quantile_of(values: Numbers, share: float) -> Statistic:
    """The smallest of (n,) values that at least `share` of the weight does not exceed."""
    column = np.asarray(values, np.float64)
    order = np.argsort(column, kind="stable")
    ordered = column[order]

    def statistic(weights: Values) -> Values:
        reached = weights[:, order].cumsum(1)
        return ordered[(reached >= share * reached[:, -1:] - 1e-9).argmax(1)]

    return statistic


def auc_of(scores: Numbers, positive: Numbers) -> Statistic:
    """How often a positive one of (n,) scores is the higher, ties counted half: the area under the ROC curve.

    NaN for a resample without both kinds.
    """
    column, kind = np.asarray(scores, np.float64), np.asarray(positive, bool)
    ordered, group = np.unique(column, return_inverse=True)

    def statistic(weights: Values) -> Values:
        above, below = np.zeros((2, len(weights), len(ordered)))
        for into, which in ((above, kind), (below, ~kind)):
            np.add.at(into.T, group[which], weights[:, which].T)
        lower = below.cumsum(1) - below / 2
        with np.errstate(invalid="ignore"):
            return (above * lower).sum(1) / (above.sum(1) * below.sum(1))

    return statistic


def bootstrap(
    statistic: Statistic,
    users: Sequence[Hashable],
    rng: np.random.Generator,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    method: str = "bca",
) -> Interval:
    """The statistic with its bootstrap interval, whole users resampled; `users[i]` brought value i.

    `bca` corrects bias and skew (Efron 1987); for quantiles, whose jackknife says little, take `percentile`.
    Resamples on which the statistic is NaN are left out. Of one user nothing is known: the interval is NaN.
    Raises `ValueError` for no values, or a method, level or number of resamples that cannot be.
    """
    if method not in METHODS:
        raise ValueError(f"got method {method!r}, expected one of {', '.join(METHODS)}")
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"got level {level} and {resamples} resamples, expected 0 < level < 1 and at least one")
    if len(users) == 0:
        raise ValueError("got no values, expected at least one")
    member = _members(users)
    num_users = int(member.max()) + 1
    value = float(statistic(np.ones((1, len(member))))[0])
    if num_users == 1:
        return Interval(value, np.nan, np.nan)
    drawn = _resampled(statistic, member, num_users, rng, resamples)
    drawn = drawn[~np.isnan(drawn)]
    ends = np.array([(1 - level) / 2, (1 + level) / 2])
    if method == "bca":
        ends = _bca_ends(ends, drawn, value, _left_out(statistic, member, num_users))
    low, high = np.quantile(drawn, ends) if len(drawn) else (np.nan, np.nan)
    return Interval(value, float(low), float(high))


def wilson(share: float, n: int, level: float = 0.95) -> Interval:
    """A share of `n` answers with its interval (Wilson 1927); of no answers nothing is known.

    Raises `ValueError` for what is no share.
    """
    if not 0 <= share <= 1 or n < 0:
        raise ValueError(f"got the share {share} of {n} answers, expected 0 to 1 of 0 or more")
    if n == 0:
        return Interval(0.0, 0.0, 1.0)
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(float(share), float(max(0, min(share, centre - half))), float(min(1, max(share, centre + half))))


def paired_bootstrap(
    first: Numbers,
    second: Numbers,
    users: Sequence[Hashable],
    rng: np.random.Generator,
    *,
    resamples: int = 2000,
) -> Paired:
    """Mean of second - first over the same (n,) requests, with its 95 % BCa interval, users resampled.

    p is twice the share of resamples on the other side of 0, never below 1 / resamples.
    Raises `ValueError` unless both have as many values as there are users.
    """
    difference = np.asarray(second, np.float64) - _as_many(first, second, users)
    statistic = mean_of(difference)
    interval = bootstrap(statistic, users, rng, resamples=resamples)
    member = _members(users)
    drawn = _resampled(statistic, member, int(member.max()) + 1, rng, resamples)
    tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return Paired(interval, float(min(1.0, 2 * (tail + 1) / (resamples + 1))))


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """Whether two systems are right on the same requests equally often; exact (binomial), one ad a user.

    Raises `ValueError` unless both answered as many.
    """
    one, other = np.asarray(first, bool), np.asarray(second, bool)
    _as_many(one, other, one)
    only_first, only_second = int((one & ~other).sum()), int((other & ~one).sum())
    n, k = only_first + only_second, min(only_first, only_second)
    tail = sum(comb(n, i) for i in range(k + 1)) / 2**n  # whole numbers: exact for any n
    return McNemar(only_first, only_second, min(1.0, 2 * tail))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """p values adjusted for being several, in the same order (Holm 1979); below 0.05 is significant as a family.

    Raises `ValueError` for a value outside 0..1.
    """
    p = np.asarray(p_values, np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"got p values {tuple(p_values)}, expected all between 0 and 1")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(np.minimum(1, p[order] * np.arange(len(p), 0, -1)))
    return tuple(adjusted.tolist())


def _as_many(first: Numbers, second: Numbers, users: Sequence[Hashable] | NDArray[Any]) -> Values:
    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if not len(one) == len(other) == len(users) or len(one) == 0:
        raise ValueError(
            f"got {len(one)} and {len(other)} values of {len(users)} requests, expected as many, at least one"
        )
    return one


def _members(users: Sequence[Hashable]) -> NDArray[np.int64]:
    """Users numbered by their first value."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(user, len(numbers)) for user in users])


def _resampled(
    statistic: Statistic, member: NDArray[np.int64], num_users: int, rng: np.random.Generator, resamples: int
) -> Values:
    at_once = max(1, _AT_ONCE // len(member))
    parts = []
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        counts = rng.multinomial(num_users, np.full(num_users, 1 / num_users), size=size)
        parts.append(statistic(counts[:, member].astype(np.float64)))
    return np.concatenate(parts)


def _left_out(statistic: Statistic, member: NDArray[np.int64], num_users: int) -> Values:
    """The statistic without each user in turn (the jackknife)."""
    at_once = max(1, _AT_ONCE // len(member))
    parts = []
    for start in range(0, num_users, at_once):
        out = np.arange(start, min(start + at_once, num_users))
        parts.append(statistic((member != out[:, None]).astype(np.float64)))
    return np.concatenate(parts)


def _bca_ends(ends: Values, drawn: Values, value: float, left_out: Values) -> Values:
    """The quantiles to read off instead: bias from the resamples below the value, skew from the jackknife."""
    normal = NormalDist()
    below = ((drawn < value).sum() + (drawn == value).sum() / 2) / max(1, len(drawn))
    spread = left_out[~np.isnan(left_out)]
    spread = spread.mean() - spread
    size = (spread**2).sum()
    if not 0 < below < 1 or size == 0:  # every resample alike: there is nothing to correct
        return ends
    bias, skew = normal.inv_cdf(below), (spread**3).sum() / (6 * size**1.5)
    shifted = [bias + normal.inv_cdf(end) for end in ends]
    return np.array([normal.cdf(bias + z / (1 - skew * z)) for z in shifted])
