"""The layout of a row, as drawn in data/batch.py: what stands where, and of which kind it is."""

from itertools import groupby

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from uniadgen.config import override
from uniadgen.data.batch import Kind, Row
from uniadgen.data.prompt import STYLE, TEMPLATES, Layout, Shown, Target, language_of

DESCRIPTION, POINTS = "A red mug for the kitchen.", ("kitchen mug", "dishwasher safe")


@pytest.fixture
def lay_out(layout: Layout, tiny_config):
    """Lays out the same product with any clicks and any target."""
    side = tiny_config.data.image_size
    blank = np.zeros((4, side, side), np.float32)

    def call(clicks=(), using: Layout = layout, description: str = DESCRIPTION, points=POINTS, **options) -> Row:
        return using.lay_out(description, points, blank, clicks, **options)

    return call


def shown(text: str, *codes: int) -> Shown:
    return Shown(text, np.array(codes))


CLICKS = (shown("gift box included", 1, 2, 3, 4), shown("a light mug", 5, 6, 7, 8))
TARGET = Target("kitchen mug: dishwasher safe!", np.arange(16))


def kinds(row: Row) -> list[Kind]:
    """The kinds of a row, runs of equal ones as one."""
    return [Kind(kind) for kind, _ in groupby(row.kind)]


def of_kind(row: Row, kind: Kind) -> list[int]:
    return row.ids[row.kind == kind].tolist()


def text_of(layout: Layout, ids) -> str:
    return layout.tokenizer.decode(list(ids))


def test_a_row_holds_instruction_history_text_and_picture_in_this_order(lay_out) -> None:
    assert kinds(lay_out(CLICKS, target=TARGET)) == [
        Kind.PROMPT,
        Kind.CLICK_TEXT,
        Kind.PROMPT,
        Kind.CLICK_IMAGE,
        Kind.PROMPT,
        Kind.TEXT,
        Kind.PROMPT,
        Kind.IMAGE,
        Kind.PROMPT,
    ]


def test_the_answer_stands_between_its_special_tokens(lay_out, layout: Layout) -> None:
    row = lay_out(CLICKS, target=TARGET)
    text, image = np.flatnonzero(row.kind == Kind.TEXT), np.flatnonzero(row.kind == Kind.IMAGE)
    assert row.ids[0] == layout.tokenizer.bos_token_id
    assert row.ids[text[0] - 1] == layout.start_text
    assert row.ids[text[-1]] == layout.end_text
    assert text[-1] + 1 == image[0] - 1
    assert row.ids[image[0] - 1] == layout.start_image
    assert row.ids[image[-1] + 1] == layout.end_image
    assert image[-1] + 2 == len(row.ids)


def test_the_text_is_the_targets_and_the_codes_are_the_targets(lay_out, layout: Layout) -> None:
    row = lay_out(CLICKS, target=TARGET)
    assert text_of(layout, of_kind(row, Kind.TEXT)[:-1]) == TARGET.text
    assert of_kind(row, Kind.IMAGE) == TARGET.codes.tolist()


def test_the_instruction_holds_description_and_selling_points(lay_out, layout: Layout) -> None:
    prompt = text_of(layout, of_kind(lay_out(), Kind.PROMPT))
    assert DESCRIPTION in prompt
    assert all(point in prompt for point in POINTS)


def test_the_history_takes_the_place_of_the_placeholders(lay_out, layout: Layout) -> None:
    row = lay_out(CLICKS)
    assert not set(of_kind(row, Kind.PROMPT)) & {layout.text_ph, layout.image_ph}
    assert text_of(layout, of_kind(row, Kind.CLICK_TEXT)) == "gift box includeda light mug"
    assert of_kind(row, Kind.CLICK_IMAGE) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert "style" in text_of(layout, of_kind(row, Kind.PROMPT))


def test_the_clicks_of_a_row_are_those_in_its_sequence(lay_out) -> None:
    row = lay_out(CLICKS)
    assert [i for ids in row.click_ids for i in ids] == of_kind(row, Kind.CLICK_TEXT)
    np.testing.assert_array_equal(row.click_codes, [[1, 2, 3, 4], [5, 6, 7, 8]])


def test_clicks_keep_the_order_in_which_they_are_given(lay_out) -> None:
    one, other = lay_out(CLICKS), lay_out(CLICKS[::-1])
    np.testing.assert_array_equal(one.click_codes, other.click_codes[::-1])
    assert of_kind(other, Kind.CLICK_IMAGE) == [5, 6, 7, 8, 1, 2, 3, 4]


def test_without_history_nothing_is_said_about_style(lay_out, layout: Layout, tiny_config) -> None:
    row = lay_out()
    assert kinds(row) == [Kind.PROMPT]
    assert "style" not in text_of(layout, row.ids)
    assert row.click_ids == ()
    assert row.click_codes.shape == (0, tiny_config.click_cells)


def test_a_request_is_a_training_row_up_to_the_answer(lay_out) -> None:
    request, row = lay_out(CLICKS), lay_out(CLICKS, target=TARGET)
    np.testing.assert_array_equal(request.ids, row.ids[: len(request.ids)])
    np.testing.assert_array_equal(request.kind, row.kind[: len(request.kind)])


@pytest.mark.parametrize(("modality", "missing"), [("text", Kind.IMAGE), ("image", Kind.TEXT)])
def test_a_model_of_one_modality_learns_no_other(lay_out, tokenizer, tiny_config, modality, missing) -> None:
    row = lay_out(CLICKS, Layout(tokenizer, override(tiny_config, {"data.modality": modality})), target=TARGET)
    assert {Kind.TEXT, Kind.IMAGE} - set(kinds(row)) == {missing}
    assert {Kind.CLICK_TEXT, Kind.CLICK_IMAGE} < set(kinds(row))


def test_a_chinese_product_gets_chinese_words_around_it(lay_out, layout: Layout) -> None:
    row = lay_out(CLICKS, description="家用马克杯。", points=("礼盒包装", "轻"))
    prompt = text_of(layout, of_kind(row, Kind.PROMPT))
    assert "家用马克杯。" in prompt
    assert "卖点" in prompt
    assert "文案风格参照" in prompt
    assert language_of("mug 杯") == "zh"
    assert language_of("café") == "en"


def test_long_titles_are_cut_and_short_ones_are_not(lay_out, tiny_config) -> None:
    most = tiny_config.data.click_words
    long, short = (len(ids) for ids in lay_out((shown("mug " * 100, 1, 2, 3, 4), CLICKS[1])).click_ids)
    assert long == most
    assert short < most


def test_the_targets_text_is_never_cut(lay_out, layout: Layout) -> None:
    row = lay_out(target=Target("mug " * 100, TARGET.codes))
    assert text_of(layout, of_kind(row, Kind.TEXT)[:-1]) == "mug " * 100


@pytest.mark.parametrize(("language", "description", "point"), [("en", "A mug.", "light"), ("zh", "马克杯。", "轻")])
def test_every_template_says_what_the_product_is_and_what_may_be_said(
    lay_out, layout: Layout, language: str, description: str, point: str
) -> None:
    size = len(TEMPLATES[language])
    rows = [lay_out(description=description, points=(point,), template=template) for template in range(size)]
    texts = {text_of(layout, row.ids) for row in rows}
    assert len(texts) == size
    assert all(description in text and point in text for text in texts)


def test_templates_are_counted_round(lay_out) -> None:
    size = len(TEMPLATES["en"])
    assert lay_out(CLICKS, template=2).ids.tolist() == lay_out(CLICKS, template=size + 2).ids.tolist()


@pytest.mark.parametrize("language", STYLE)
def test_the_style_has_one_place_for_texts_and_one_for_pictures(language: str) -> None:
    assert STYLE[language].count("<text_ph>") == STYLE[language].count("<image_ph>") == 1


def test_braces_in_a_persons_words_are_only_words(lay_out, layout: Layout) -> None:
    row = lay_out(description="A {points} mug {0}")
    assert "A {points} mug {0}" in text_of(layout, row.ids)


@pytest.mark.parametrize("words", ["<text_ph>", "<image_ph>", "</text>", "<image>", "<pad>"])
def test_special_tokens_in_a_persons_words_are_only_words(lay_out, layout: Layout, words: str) -> None:
    row = lay_out((shown(f"a {words} title", 1, 2, 3, 4),), description=f"A {words} mug.")
    special = set(layout.tokenizer.all_special_ids) - {layout.tokenizer.bos_token_id}
    assert not special & set(of_kind(row, Kind.PROMPT) + of_kind(row, Kind.CLICK_TEXT))
    assert f"A {words} mug." in text_of(layout, of_kind(row, Kind.PROMPT))


def test_a_tokenizer_without_the_special_tokens_is_refused(tokenizer, tiny_config) -> None:
    plain = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer.from_str(
            tokenizer.backend_tokenizer.to_str().replace("<image_ph>", "<other>")
        ),
        pad_token="<pad>",
        bos_token="<bos>",
    )
    with pytest.raises(ValueError, match="no token <image_ph>"):
        Layout(plain, tiny_config)


def test_a_tokenizer_without_padding_is_refused(tokenizer, tiny_config) -> None:
    plain = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match="no bos or pad token"):
        Layout(plain, tiny_config)
