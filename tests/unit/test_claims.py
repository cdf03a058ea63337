"""Text checks: which stretch is backed by what, numbers exactly, in two languages; and rule packs."""

import datetime

import pytest

from uniadgen.metrics.claims import MAX_TEXT, measure_text, tokens
from uniadgen.metrics.rules import SHIPPED, find_claims, read_pack

POINTS = ("kitchen mug", "thirty-day returns", "dishwasher-safe finish", "soft rounded edges")
ABOUT = "A red ceramic mug for the kitchen, 350 ml."
ZH_POINTS = ("厨房马克杯", "三十天退换", "可机洗表面", "圆润柔和边角")
ZH_ABOUT = "红色陶瓷马克杯，容量350毫升。"


def doubtful(text: str, points=POINTS, about: str = ABOUT) -> list[str]:
    return [span.text for span in measure_text(text, points, about).doubtful]


def test_every_stretch_has_the_point_that_backs_it() -> None:
    text = "Meet our Ceramic mug: 30 day returns, dishwasher safe finish – and clinically proven!"
    said = measure_text(text, POINTS, ABOUT)
    assert [(span.text, span.source) for span in said.spans if span.kind != "connecting"] == [
        ("Ceramic mug", ABOUT),
        ("30 day returns", "thirty-day returns"),
        ("dishwasher safe finish", "dishwasher-safe finish"),
        ("clinically proven", None),
    ]
    assert all(text[span.start : span.end] == span.text for span in said.spans)
    assert said.coverage == 0.5
    assert said.unsupported == pytest.approx(2 / 9)


def test_chinese_goes_by_characters_and_places_are_those_of_the_text() -> None:
    text = "😀现有３０天退换，更有三天美白：厨房马克杯"
    said = measure_text(text, ZH_POINTS, ZH_ABOUT)
    assert [(span.text, span.source) for span in said.spans if span.kind == "backed"] == [
        ("３０天退换", "三十天退换"),
        ("厨房马克杯", "厨房马克杯"),
    ]
    assert [(span.text, span.kind) for span in said.doubtful] == [("三天", "number"), ("美白", "unsupported")]
    assert all(text[span.start : span.end] == span.text for span in said.spans)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("350 ml mug", 0),
        ("350ml mug, 350 毫升, 350.0 milliliters", 0),
        ("500 ml mug", 1),
        ("350 g mug", 1),
        ("35 ml or 3,500 ml", 2),
        ("30-day returns, thirty days", 0),
        ("ninety-day returns", 1),
        ("UPF50+ mug", 1),
        ("one mug", 0),
    ],
)
def test_numbers_and_units_are_compared_exactly(text: str, wrong: int) -> None:
    assert measure_text(text, POINTS, ABOUT).numbers == wrong


def test_numbers_in_words_are_those_in_digits() -> None:
    assert [token.value for token in tokens("两年 二十五天 一千二百毫升 3万元 twenty-five days")] == [
        "#2 year", "#25 day", "#1200 ml",  "#30000 yuan", "#25 day",
    ]  # fmt: skip


def test_idioms_with_chinese_numerals_are_no_numbers() -> None:
    assert all(token.kind == "han" for token in tokens("一擦即净百搭万能十分好用"))


def test_lists_and_repetitions_are_counted() -> None:
    assert measure_text(", ".join(POINTS), POINTS).listed == 4
    assert measure_text("A kitchen mug with soft rounded edges", POINTS).listed == 1
    once = measure_text("Soft rounded edges, dishwasher-safe finish", POINTS)
    again = measure_text("Soft rounded edges, yes: soft rounded edges", POINTS)
    assert (once.repeated, again.repeated) == (0, pytest.approx(3 / 7))
    assert measure_text("圆润柔和边角，圆润柔和边角", ZH_POINTS).repeated == 0.5


def test_odd_texts_are_measured_quickly_or_refused() -> None:
    assert measure_text("", POINTS, ABOUT).spans == ()
    assert measure_text("😀!?", POINTS, ABOUT).unsupported == 0
    assert measure_text("a mug", (), "").coverage is None
    long = ("kitchen mug " * 3000, "一" * 40_000, "1" * 40_000, "a1" * 20_000, "twenty " * 6000, "x" * 40_000)
    for text in long:
        measure_text(text, POINTS, ABOUT)
        find_claims(text, [read_pack(name) for name in SHIPPED])
    with pytest.raises(ValueError, match="expected at most 200000: shorten it"):
        measure_text("x" * (MAX_TEXT + 1), POINTS)


# rules

RESTRICTED = {
    "cn-ads": {
        "国家级工艺": "state-or-highest-level",
        "最 佳": None,
        "最佳品质": "state-or-highest-level",
        "最佳食用期": None,
        "最好的杯子": "absolute-superlative",
        "最后一天": None,
        "最近上新": None,
        "第一次使用": None,
        "全网第一": "first-or-only",
        "ＮＯ．１ 品牌": "first-or-only",
        "No.10 色号": None,
        "根治失眠": "medical-wording",
        "三天美白": "cosmetics-medical",
        "１００％有效": "assured-effect",
        "100%纯棉": None,
        "百分百好评": None,
        "国家专利": "patent",
        "保本理财": "promised-return",
    },
    "generic-en": {
        "The World’s best mug": "first-or-best",
        "best before May": None,
        "#1 in town": "first-or-best",
        "#12": None,
        "CLINICALLY PROVEN": "proven",
        "cures back pain": "cure",
        "cured ham": None,
        "eco-friendly": "green-general",
        "free delivery of the sample": None,
        "free gift inside": "free",
        "20% off": "former-price",
        "20% wool": None,
        "lifetime warranty": "lifetime",
        "a lifetime of joy": None,
        "Made in the U.S.A.": "made-in-usa",
        "made in Vermont": None,
        "carbon neutral": "green-offset",
        "biodegradable": "green-degradable",
    },
}


@pytest.mark.parametrize(
    ("pack", "text", "rule"), [(p, t, r) for p, cases in RESTRICTED.items() for t, r in cases.items()]
)
def test_rules_find_restricted_wording_and_leave_its_neighbours(pack: str, text: str, rule: str | None) -> None:
    assert {hit.rule for hit in find_claims(text, [read_pack(pack)])} == ({rule} if rule else set())


def test_every_rule_has_a_source_with_its_date_and_every_hit_says_it_is_no_advice() -> None:
    assert SHIPPED == ("cn-ads", "generic-en")
    for name in SHIPPED:
        for rule in read_pack(name).rules:
            assert datetime.date(1960, 1, 1) < rule.date <= datetime.date(2026, 11, 24)
            assert len(rule.source) > 10 and rule.why.endswith(".")
    hit = find_claims("超好用，国家级", [read_pack("cn-ads")])[0]
    assert (hit.text, hit.start, hit.end) == ("国家级", 4, 7)
    assert "not legal advice" in hit.notice.lower() and "Article 9(3)" in hit.source


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("Not legal advice", "Advice"), 'expected one that says "not legal advice"'),
        (("why:", "because:"), "because"),
        (("[a+]", "['(']"), "expected a regular expression"),
        (("[a+]", "['a*']"), "fits an empty text"),
        (("2020-01-01", "soon"), "expected a date like"),
        (("rules:", "rules: ["), "own.yaml"),
    ],
)
def test_a_pack_of_ones_own_is_read_or_refused(tmp_path, change: tuple[str, str], message: str) -> None:
    own = (
        "name: own\nnotice: Not legal advice.\nrules:\n"
        "  - {id: a, language: en, patterns: [a+], why: B., source: The law, date: 2020-01-01}\n"
    )
    path = tmp_path / "own.yaml"
    path.write_text(own)
    assert [hit.text for hit in find_claims("xaay", [read_pack(path)])] == ["aa"]
    path.write_text(own.replace(*change))
    with pytest.raises(ValueError, match=message):
        read_pack(path)


def test_an_unknown_pack_is_refused() -> None:
    with pytest.raises(ValueError, match="de-ads: no such rule pack, expected one of cn-ads, generic-en"):
        read_pack("de-ads")
