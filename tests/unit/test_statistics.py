"""Intervals that cover as often as they say, and tests whose p values can be worked out by hand."""

import numpy as np
import pytest

from uniadgen.metrics.statistics import (
    auc_of,
    bootstrap,
    holm,
    mcnemar,
    mean_of,
    paired_bootstrap,
    quantile_of,
)


def test_statistics_of_weights_are_those_of_repeated_values() -> None:
    rng = np.random.default_rng(0)
    values, positive = rng.integers(0, 6, 12), np.arange(12) % 2 == 0
    weights = rng.integers(1, 4, (3, 12)).astype(float)
    for row, mean, quantile, auc in zip(
        weights,
        mean_of(values)(weights),
        quantile_of(values, 0.7)(weights),
        auc_of(values, positive)(weights),
        strict=True,
    ):
        many, kind = np.repeat(values, row.astype(int)), np.repeat(positive, row.astype(int))
        assert mean == pytest.approx(many.mean())
        assert quantile == np.quantile(many, 0.7, method="inverted_cdf")
        above = many[kind][:, None] - many[~kind]
        assert auc == pytest.approx((above > 0).mean() + (above == 0).mean() / 2)


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_resampling_users_covers_the_truth_where_resampling_ads_would_not(method: str) -> None:
    """Five ads of each of 30 users, who differ: the mean of users is 0."""
    rng = np.random.default_rng(1)
    covered = {"users": 0, "ads": 0}
    for _ in range(60):
        values = np.repeat(rng.normal(size=30), 5) + 0.1 * rng.normal(size=150)
        for kind, users in (("users", np.repeat(np.arange(30), 5)), ("ads", np.arange(150))):
            interval = bootstrap(mean_of(values), users.tolist(), rng, resamples=200, method=method)
            covered[kind] += interval.low <= 0 <= interval.high
    assert covered["users"] >= 51
    assert covered["ads"] < 45


def test_bca_leans_to_the_long_tail() -> None:
    values = np.random.default_rng(2).lognormal(sigma=1.2, size=40)
    ends = {m: bootstrap(mean_of(values), range(40), np.random.default_rng(3), method=m) for m in ("bca", "percentile")}
    assert ends["bca"].low > ends["percentile"].low
    assert ends["bca"].high > ends["percentile"].high


def test_the_same_generator_gives_the_same_interval_and_one_user_none() -> None:
    one, same = (bootstrap(mean_of([1, 2, 4]), "abc", np.random.default_rng(5)) for _ in range(2))
    assert one == same
    assert one.low < one.value < one.high
    alone = bootstrap(mean_of([1, 2]), "aa", np.random.default_rng(5))
    assert alone.value == 1.5 and np.isnan(alone.low) and np.isnan(alone.high)


def test_a_constant_has_no_width() -> None:
    assert bootstrap(mean_of([3, 3, 3]), "abc", np.random.default_rng(0)) == (3, 3, 3)


def test_mcnemar_is_the_exact_binomial_test() -> None:
    first, second = [True] * 8 + [False] * 12, [False] * 7 + [True] * 2 + [False] * 11
    assert mcnemar(first, second) == (7, 1, pytest.approx(2 * (1 + 8) / 2**8))
    assert mcnemar([True, False], [True, False]).p == 1


def test_pairs_find_a_small_difference_that_users_hide() -> None:
    rng = np.random.default_rng(7)
    level = rng.normal(size=60)
    better = paired_bootstrap(level, level + 0.1 + 0.2 * rng.normal(size=60), range(60), rng)
    same = paired_bootstrap(level, level + 0.2 * rng.permutation(np.linspace(-1, 1, 60)), range(60), rng)
    assert better.difference.low > 0 and better.p < 0.05
    assert same.difference.low < 0 < same.difference.high and same.p > 0.5


def test_holm_steps_down() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.9, 0.9]) == (1, 1)


def test_what_cannot_be_computed_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="got method 'bcs', expected one of bca, percentile"):
        bootstrap(mean_of([1]), "a", rng, method="bcs")
    with pytest.raises(ValueError, match="got no values"):
        bootstrap(mean_of([]), [], rng)
    with pytest.raises(ValueError, match="got 2 and 1 values of 2 requests"):
        paired_bootstrap([1, 2], [1], "ab", rng)
    with pytest.raises(ValueError, match="expected all between 0 and 1"):
        holm([0.1, float("nan")])
