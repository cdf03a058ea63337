"""AdWorld's words: the banks keep their rules, and every ad text can be taken apart again."""

import re

import numpy as np
import pytest

from uniadgen.world.phrases import BY_DEPARTMENT, BY_FAMILY, COLOUR_WORDS, FINISH_WORDS, GENERAL, NOUNS
from uniadgen.world.words import (
    CONNECTORS,
    KIND_OF,
    KINDS,
    LANGUAGES,
    MANNERS,
    compose,
    description,
    parse,
    selling_points,
    short_name,
    text,
)

DEPARTMENT_OF = {
    **dict.fromkeys(("mug", "kettle", "bowl", "pan"), "kitchen"),
    **dict.fromkeys(("lipstick", "serum", "cream", "perfume"), "beauty"),
    **dict.fromkeys(("lamp", "sofa", "vase", "clock"), "living"),
    **dict.fromkeys(("speaker", "headphones", "camera", "phone"), "electronics"),
    **dict.fromkeys(("handbag", "sneaker", "hat", "watch"), "fashion"),
    **dict.fromkeys(("bottle", "tent", "backpack", "lantern"), "outdoor"),
}
PAIRS = [pair for bank in (GENERAL, *BY_DEPARTMENT.values()) for kind in KINDS for pair in bank[kind]]
PAIRS += [pair for pairs in BY_FAMILY.values() for pair in pairs]


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_every_family_and_department_has_its_words() -> None:
    assert set(NOUNS) == set(BY_FAMILY) == set(DEPARTMENT_OF)
    assert set(BY_DEPARTMENT) == set(DEPARTMENT_OF.values())
    for bank in (GENERAL, *BY_DEPARTMENT.values()):
        assert tuple(bank) == KINDS
    assert all(len(GENERAL[kind]) >= 8 for kind in KINDS)
    assert all(len(bank[kind]) >= 4 for bank in BY_DEPARTMENT.values() for kind in KINDS)


def test_a_phrase_belongs_to_one_kind_only() -> None:
    phrases = [phrase for pair in PAIRS for phrase in pair]
    assert len(set(phrases)) == len(phrases) == len(KIND_OF)
    assert all(KIND_OF[english] == KIND_OF[chinese] for english, chinese in PAIRS)


def test_phrases_have_their_form() -> None:
    for english, chinese in PAIRS:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*( [a-z]+(-[a-z]+)*){1,3}", english)
        assert re.fullmatch(r"[\u4e00-\u9fff]{4,8}", chinese), chinese
        assert not set(english.split()) & {"best", "first", "only", "perfect", "cure", *CONNECTORS["en"]}
        assert not re.search(r"最|第一|唯一|顶级|治疗|疗效|与|现有|更有", chinese), chinese


@pytest.mark.parametrize("side", [0, 1])
def test_no_phrase_holds_another(side: int) -> None:
    phrases = [pair[side] for pair in PAIRS]
    phrases += [short_name(family, DEPARTMENT_OF[family], LANGUAGES[side]) for family in DEPARTMENT_OF]
    joined = "|".join(phrases)
    assert [phrase for phrase in phrases if joined.count(phrase) != 1] == []


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("family", DEPARTMENT_OF)
def test_selling_points_are_the_name_and_two_of_each_kind(family: str, language: str) -> None:
    points = selling_points(family, DEPARTMENT_OF[family], language, generator())
    assert len(set(points)) == len(points) == 11
    assert points[0] == short_name(family, DEPARTMENT_OF[family], language)
    kinds = [KIND_OF[point] for point in points[1:]]
    assert sorted(kinds) == sorted(KINDS * 2)


def test_selling_points_follow_the_generator_and_are_parallel() -> None:
    draws = [selling_points("mug", "kitchen", "en", generator(seed)) for seed in (3, 3, 4)]
    assert draws[0] == draws[1] != draws[2]
    chinese = selling_points("mug", "kitchen", "zh", generator(3))
    assert [KIND_OF[p] for p in chinese[1:]] == [KIND_OF[p] for p in draws[0][1:]]
    assert set(zip(draws[0][1:], chinese[1:], strict=True)) <= set(PAIRS)


@pytest.mark.parametrize("family", DEPARTMENT_OF)
def test_descriptions_name_the_product(family: str) -> None:
    department = DEPARTMENT_OF[family]
    for seed in range(30):
        english = description(family, department, "orange", "steel", "en", generator(seed))
        chinese = description(family, department, "orange", "steel", "zh", generator(seed))
        assert NOUNS[family].noun[0] in english
        assert NOUNS[family].noun[1] in chinese
        assert short_name(family, department, "en").rsplit(" ", 1)[0] in english
        assert short_name(family, department, "zh")[:2] in chinese
        assert {"orange", "steel"} <= set(re.findall("[a-z]+", english))
        assert COLOUR_WORDS["orange"] in chinese
        assert FINISH_WORDS["steel"] in chinese
        assert 8 <= len(english.split()) <= 15
        assert re.findall(r"\d+", english) == re.findall(r"\d+", chinese) != []
        assert english[0].isupper()
        assert not re.search(r"\ba [aeiou]", english, re.IGNORECASE)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_taken_apart_again(kind: str, manner: str, language: str) -> None:
    for family, department in DEPARTMENT_OF.items():
        for seed in range(5):
            points = selling_points(family, department, language, generator(seed))
            advert = text(points, kind, manner, language, generator(seed))
            assert advert == advert.lower()
            found = parse(advert, points, language)
            assert (found.faithful, found.leftover) == (True, "")
            assert (found.kind, found.manner) == (kind, manner)
            assert set(found.points) == {points[0], *(p for p in points if KIND_OF.get(p) == kind)}


def test_both_orders_occur() -> None:
    points = selling_points("mug", "kitchen", "en", generator())
    assert len({text(points, "care", "plain", "en", generator(seed)) for seed in range(20)}) == 2


MUG = ("kitchen mug", "easy-grip handle", "dishwasher-safe glaze", "glaze", "dishwasher-safe glaze guide")
CUP = ("厨房马克杯", "防滑把手", "把手", "把手加宽", "加宽底座")


@pytest.mark.parametrize(
    ("words", "points", "manner", "leftover"),
    [
        ("kitchen mug: glaze, easy-grip handle", (0, 3, 1), "plain", ""),
        ("Kitchen  MUG:\tGlaze , Easy-Grip Handle ", (0, 3, 1), "plain", ""),
        ("kitchen mug! dishwasher-safe glaze! glaze!", (0, 2, 3), "bright", ""),
        ("glaze and dishwasher-safe glaze guide, kitchen mug", (3, 4, 0), "and", ""),
        ("now with glaze, plus glaze: kitchen mug", (3, 3, 0), "new", ""),
        ("kitchen mug: glaze, tin whistle", (0, 3), "plain", "tin whistle"),
        ("kitchen mug: glaze, easy-grip handle today", (0, 3, 1), None, "today"),
        ("kitchen mug: super-glaze, glazed handle", (0,), "plain", "super-glaze glazed handle"),
        ("kitchen mugs: glaze, easy-grip handle", (3, 1), None, "kitchen mugs"),
        ("kitchen mug: glaze. easy-grip handle", (0, 3, 1), None, "."),
        ("kitchen mug", (0,), None, ""),
        ("glaze", (3,), None, ""),
        ("brandy and plush", (), None, "brandy plush"),
        ("now with, plus: and!", (), None, ""),
        ("", (), None, ""),
        (" \n\u3000", (), None, ""),
        ("☕️ kitchen mug! glaze! easy-grip handle!", (0, 3, 1), None, "☕️"),
    ],
)
def test_parse_english(words: str, points: tuple[int, ...], manner: str | None, leftover: str) -> None:
    found = parse(words, MUG, "en")
    assert found.points == tuple(MUG[i] for i in points)
    assert (found.manner, found.leftover) == (manner, leftover)
    assert found.faithful == (bool(points) and not leftover)


@pytest.mark.parametrize(
    ("words", "points", "manner", "leftover"),
    [
        ("厨房马克杯：防滑把手，把手加宽", (0, 1, 3), "plain", ""),
        ("厨房马克杯:防滑把手, 把手加宽", (0, 1, 3), "plain", ""),
        ("厨房马克杯！把手！加宽底座！", (0, 2, 4), "bright", ""),
        ("防滑把手与把手，厨房马克杯", (1, 2, 0), "and", ""),
        ("现有防滑把手，更有把手加宽：厨房马克杯", (1, 3, 0), "new", ""),
        # Read from the left this would leave 底座 over; as 把手 + 加宽底座 nothing is left.
        ("把手加宽底座", (2, 4), None, ""),
        ("防滑把手加宽底座", (1, 4), None, ""),
        ("厨房马克杯：防滑把手，全网第一", (0, 1), "plain", "全网第一"),
        ("厨房马克杯。", (0,), None, "。"),
        ("", (), None, ""),
    ],
)
def test_parse_chinese(words: str, points: tuple[int, ...], manner: str | None, leftover: str) -> None:
    found = parse(words, CUP, "zh")
    assert found.points == tuple(CUP[i] for i in points)
    assert (found.manner, found.leftover) == (manner, leftover)


def test_parse_without_selling_points_leaves_everything_over() -> None:
    assert parse("kitchen mug!", (), "en").leftover == "kitchen mug"
    assert parse("kitchen mug!", ("", " "), "en").points == ()


def test_mixed_kinds_are_no_kind() -> None:
    points = selling_points("mug", "kitchen", "en", generator())
    value, care = (next(p for p in points if KIND_OF.get(p) == kind) for kind in ("value", "care"))
    assert parse(compose(points[0], value, care, "plain", "en"), points, "en").kind is None
    assert parse(points[0], points, "en").kind is None


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: selling_points("mug", "kitchen", "fr", generator()), "fr"),
        (lambda: selling_points("kite", "kitchen", "en", generator()), "kite"),
        (lambda: description("mug", "kitchen", "plaid", "steel", "en", generator()), "plaid"),
        (lambda: description("mug", "garage", "red", "steel", "en", generator()), "garage"),
        (lambda: text(MUG, "care", "plain", "en", generator()), "care"),
        (lambda: compose("a", "b", "c", "loud", "en"), "loud"),
        (lambda: parse("", (), "xx"), "xx"),
    ],
)
def test_unknown_words_are_refused(call, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        call()
