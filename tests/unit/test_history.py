"""Which clicks are shown: Eq. 6 in distribution, its two rivals, and the similarity that they start from."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from uniadgen import config
from uniadgen.data.history import SAMPLERS, at_random, by_similarity, most_similar, release, similarity

OURS = (by_similarity, at_random, most_similar)  # the release's has oddities of its own: tests/parity

DRAWS = 20_000


def frequencies(sampler, scores, n) -> dict[tuple[int, ...], float]:
    generator = np.random.default_rng(0)
    counts = Counter(tuple(sampler(scores, n, generator)) for _ in range(DRAWS))
    return {chosen: count / DRAWS for chosen, count in counts.items()}


def within_chance(observed: float, expected: float) -> bool:
    """Four standard deviations: false alarms are one in 16,000, and the generator is fixed anyway."""
    return abs(observed - expected) <= 4 * np.sqrt(expected * (1 - expected) / DRAWS)


def test_one_click_is_drawn_in_proportion_to_its_score() -> None:
    scores = [0.1, 0.2, 0.7]
    drawn = frequencies(by_similarity, scores, 1)
    assert all(within_chance(drawn[(i,)], score) for i, score in enumerate(scores))


def test_two_clicks_are_drawn_one_after_the_other_without_replacement() -> None:
    p = np.array([0.1, 0.2, 0.3, 0.4])
    drawn = frequencies(by_similarity, list(p), 2)
    for i, j in combinations(range(4), 2):
        # First i, then j among the rest; or the other way round (Eq. 6).
        assert within_chance(drawn[(i, j)], p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j])), (i, j)


def test_scores_count_relative_to_each_other_and_not_as_they_are() -> None:
    drawn = frequencies(by_similarity, [10.0, 30.0], 1)
    assert within_chance(drawn[(0,)], 0.25)


@pytest.mark.parametrize("sampler", OURS)
def test_no_click_is_shown_twice_and_time_order_is_kept(sampler) -> None:
    generator = np.random.default_rng(3)
    for _ in range(200):
        chosen = sampler(list(generator.random(12)), 5, generator)
        assert len(chosen) == 5
        assert chosen == sorted(set(chosen))
        assert set(chosen) <= set(range(12))


@pytest.mark.parametrize("sampler", OURS)
@pytest.mark.parametrize("scores", [[], [0.5], [0.0, -1.0, 0.2]])
def test_a_short_history_is_shown_whole(sampler, scores) -> None:
    assert sampler(scores, 3, np.random.default_rng(0)) == list(range(len(scores)))


@pytest.mark.parametrize("sampler", SAMPLERS.values())
def test_nothing_is_shown_where_nothing_is_wanted(sampler) -> None:
    assert sampler([0.5, 0.1], 0, np.random.default_rng(0)) == []


@pytest.mark.parametrize("sampler", SAMPLERS.values())
def test_the_same_generator_gives_the_same_clicks(sampler) -> None:
    scores = list(np.random.default_rng(1).random(30))
    once, again = (sampler(scores, 7, np.random.default_rng(5)) for _ in range(2))
    assert once == again


def test_another_generator_gives_other_clicks() -> None:
    scores = list(np.random.default_rng(1).random(30))
    assert len({tuple(by_similarity(scores, 7, np.random.default_rng(seed))) for seed in range(10)}) > 5


def test_scores_of_zero_have_the_weight_of_epsilon() -> None:
    assert frequencies(by_similarity, [0.0, 1.0], 1)[(1,)] > 0.999
    assert within_chance(frequencies(by_similarity, [0.0, 0.0], 1)[(0,)], 0.5)


def test_negative_scores_are_drawn_only_when_the_others_do_not_suffice_and_then_evenly() -> None:
    assert set(frequencies(by_similarity, [-0.9, 0.1, 0.1], 1)) == {(1,), (2,)}
    drawn = frequencies(by_similarity, [1.0, -0.1, -0.5, -1.0], 2)
    assert set(drawn) == {(0, 1), (0, 2), (0, 3)}
    assert all(within_chance(share, 1 / 3) for share in drawn.values())


def test_random_sampling_does_not_look_at_the_scores() -> None:
    drawn = frequencies(at_random, [0.0, 100.0, -5.0], 2)
    assert all(within_chance(share, 1 / 3) for share in drawn.values())


def test_most_similar_takes_the_highest_and_among_equals_the_earlier() -> None:
    assert most_similar([0.1, 0.9, 0.5, 0.5], 2, np.random.default_rng(0)) == [1, 2]


def test_the_releases_draw_does_not_depend_on_the_generator() -> None:
    scores = list(np.random.default_rng(1).random(30))
    assert release(scores, 7, np.random.default_rng(1)) == release(scores, 7, np.random.default_rng(2))


def test_nothing_is_shown_by_the_release_where_nothing_is_wanted_of_nothing() -> None:
    assert release([], 0, np.random.default_rng(0)) == []


def test_every_sampler_that_a_config_may_name_exists() -> None:
    assert set(SAMPLERS) == set(config.SAMPLERS)


def test_similarity_is_one_for_the_same_words_and_zero_for_others() -> None:
    same, part, other = similarity(["Red MUG!", "a red lamp", "blue tent"], "red mug")
    assert same == pytest.approx(1)
    assert part == pytest.approx(0.5)
    assert other == 0


def test_similarity_ignores_words_that_say_nothing() -> None:
    assert similarity(["a mug for the home"], "the tent with a bag for it") == [0.0]


def test_similarity_compares_chinese_by_pairs_of_characters() -> None:
    near, far = similarity(["红色马克杯", "户外帐篷"], "厨房马克杯")
    assert near > 0.3
    assert far == 0


def test_similarity_of_texts_without_words_is_zero() -> None:
    assert similarity(["!!!", "", "mug"], "???") == [0.0, 0.0, 0.0]
