"""Text metrics against values of the authors' own chain and of the libraries that it uses, on invented titles.

The recorded values that we compare with are nltk 3.10.4's, rouge 1.0.1's and rouge-score 0.1.2's, in full precision.
"""

import json
from pathlib import Path

import pytest

from uniadgen.metrics.text import PROFILES, bleu, rouge_l, rouge_l_of_sets, score_texts, tokens

CASES = json.loads((Path(__file__).parent / "text_metric_cases.json").read_text(encoding="utf-8"))
IDS = [case["id"] for case in CASES["cases"]]
# Our score: (single or multi, the recorded value's name), by profile.
RECORDED = {
    "paper": {
        "bleu": ("single", "bleu_release"),
        "rouge_l": ("single", "rougeL_release"),
        "m_bleu": ("multi", "mbleu_pooled_release_fn"),
        "m_rouge": ("multi", "mrougeL_release_fn"),
        "m_bleu_avg": ("multi", "mbleu_avg1to4_pooled_mixed"),
    },
    "strict": {
        "bleu": ("single", "bleu_char_nltk_nosmooth"),
        "rouge_l": ("single", "rougeL_rouge_score_char"),
        "m_bleu": ("multi", "mbleu_pooled_char"),
        "m_rouge": ("multi", "mrougeL_rouge_score_multi_char"),
        "bleu_avg": ("single", "bleu_avg1to4_char"),
        "rouge_avg": ("single", "rouge_avg1to4_char"),
        "m_bleu_avg": ("multi", "mbleu_avg1to4_pooled_char"),
        "m_rouge_avg": ("multi", "mrouge_avg1to4_max_char"),
    },
}


@pytest.mark.parametrize("case", CASES["cases"], ids=IDS)
@pytest.mark.parametrize("profile", RECORDED)
def test_scores_are_the_recorded_ones(profile: str, case: dict) -> None:
    means = score_texts([case["hyp"]], [case["refs"]], profile).means
    for name, (group, recorded) in RECORDED[profile].items():
        assert means[name] == pytest.approx(case[group][recorded], abs=1e-9), name


@pytest.mark.parametrize("case", CASES["cases"], ids=IDS)
def test_tokens_are_the_releases(case: dict) -> None:
    assert tokens(case["hyp"], "paper") == case["tokens_release_hyp"]
    assert tokens(case["hyp"], "strict") == case["tokens_char_hyp"]


def test_the_papers_rouge_forgives_repetition_and_the_strict_one_does_not() -> None:
    said, wanted = tokens("好看好看好看", "strict"), tokens("好看", "strict")
    assert rouge_l_of_sets(said, wanted) == pytest.approx(1, abs=1e-8)
    assert rouge_l(said, wanted) == pytest.approx(0.5)


def test_an_empty_text_scores_zero_and_is_reported() -> None:
    for profile in PROFILES:
        report = score_texts(["", " \n", "gift box"], [["gift box"]] * 3, profile)
        assert report.empty == pytest.approx(2 / 3)
        assert all(values[:2] == (0, 0) for values in report.scores.values())
        assert report.scores["rouge_l"][2] == pytest.approx(1, abs=1e-8)


def test_more_references_never_make_it_worse() -> None:
    words = tokens("light and warm down jacket for winter", "english")
    one = [tokens("warm down jacket", "english")]
    assert bleu(words, [*one, tokens("light and warm for winter days", "english")]) >= bleu(words, one)


def test_english_words_keep_their_hyphens_and_numbers() -> None:
    assert tokens("Dishwasher-safe, 3.5 kg: it's 20% off!", "english") == [
        *("dishwasher-safe", ",", "3.5", "kg", ":", "it's", "20%", "off", "!")
    ]
    assert tokens("Café crème_brûlée 😀", "english") == ["café", "crème", "_", "brûlée", "😀"]


def test_the_signature_says_how_bleu_was_computed() -> None:
    signature = score_texts(["a b c d"], [["a b c d"]]).signature
    assert "tok:none" in signature and "smooth:none" in signature


@pytest.mark.parametrize(
    ("made", "references", "profile", "message"),
    [
        (["a"], [["a"]], "loose", "profile is 'loose', expected one of paper, strict, english"),
        ([], [], "paper", "got 0 texts"),
        (["a", "b"], [["a"]], "paper", "got 2 texts and references for 1"),
        (["a"], [[]], "paper", "text 0 has no reference"),
    ],
)
def test_what_cannot_be_scored_is_refused(made, references, profile: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_texts(made, references, profile)
