"""Text metrics against values of the authors' own chain and of the libraries that it uses, on invented titles.

The recorded values that we compare with are nltk 3.10.4's, rouge 1.0.1's and rouge-score 0.1.2's, in full precision.
"""

import json
import random
from pathlib import Path

import pytest
import sacrebleu
from sacrebleu.metrics.bleu import BLEU

from uniadgen.metrics import textbench
from uniadgen.metrics.text import PROFILES, SCORES, bleu, rouge_l, rouge_l_of_sets, score_texts, tokens

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


def test_bleu_is_sacrebleus() -> None:
    """On texts of every length, orders 1 to 4, one reference and several; white space stands as a token of its own."""
    rng = random.Random(0)
    words = ["a", "b", "c", "好", " "]
    for order in (1, 2, 3, 4):
        engine = BLEU(tokenize="none", smooth_method="none", max_ngram_order=order, effective_order=False, force=True)
        for _ in range(60):
            said, *known = ([rng.choice(words) for _ in range(rng.randint(0, 12))] for _ in range(rng.randint(2, 4)))
            line, *lines = (" ".join("▁" if word == " " else word for word in found) for found in (said, *known))
            expected = engine.corpus_score([line], [[other] for other in lines]).score / 100 if said else 0
            assert bleu(said, known, order) == pytest.approx(expected, abs=1e-9)


def test_only_the_scores_that_are_asked_for_are_made() -> None:
    made, known = ["a b c d e", "好看"], [["a b c d"], ["好", "看好看"]]
    everything = score_texts(made, known).scores
    assert list(everything) == list(SCORES)
    some = score_texts(made, known, scores=["m_rouge", "bleu"]).scores
    assert some == {name: everything[name] for name in ("m_rouge", "bleu")}


def test_languages_may_be_mixed() -> None:
    """Among samples, and within a text; what shares nothing scores 0 and disturbs nobody."""
    made = ["light 家用马克杯", "kitchen mug", "家用马克杯"]
    known = [["家用马克杯 light mug"], ["厨房马克杯"], ["家用马克杯", "a mug"]]
    for profile in ("paper", "strict"):
        scores = score_texts(made, known, profile).scores
        assert 0 < scores["rouge_l"][0] < 1
        assert scores["m_bleu"][1] == scores["m_rouge"][1] == 0
        assert scores["m_bleu"][2] == pytest.approx(1)


def test_both_ways_to_score_texts_agree_and_memory_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textbench, "AT_ONCE", 60)
    counted: list[int] = []
    speed = textbench.measure_texts(300, counted.append)
    assert sum(counted) == 600
    assert speed.difference < 1e-9
    assert speed.peak < 1.5 * speed.peak_tenth
    assert speed.ours > 0 and speed.plain > 0


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


def test_the_signature_is_sacrebleus_of_these_settings() -> None:
    engine = BLEU(tokenize="none", smooth_method="none", effective_order=False, force=True)
    engine.corpus_score(["a"], [["a"]])
    theirs = engine.get_signature().format()
    assert f"nrefs:1|{score_texts(['a'], [['a']]).signature}|version:{sacrebleu.__version__}" == theirs


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
