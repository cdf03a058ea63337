"""nano's tokenizer: any text can be written in it, and it is the same every time."""

import numpy as np
import pytest

from uniadgen.data.prompt import SPECIAL_TOKENS
from uniadgen.data.tokenizer import BASE_TOKENS, learn_tokenizer

TEXTS = [
    "dishwasher-safe mug, 350 ml!",
    "家用马克杯：礼盒包装，与轻",
    "Ünïcödé naïve café",
    "مرحبا بالعالم",
    "🙂 emoji 👩‍👩‍👧 family",
    "tabs\tand\nnew lines  and   spaces ",
    " leading and trailing ",
    "İstanbul ﬁ ligature ½",
    "\x00\x01 control",
    "a" * 500,
    "<not a token> & {braces} [brackets] \\ / '\"",
    "Ａｄ全角",
]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_comes_back_as_it_was(tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_random_text_of_all_scripts_comes_back_as_it_was(tokenizer) -> None:
    rng = np.random.default_rng(0)
    points = [p for p in rng.integers(1, 0x2FFFF, size=5000) if not 0xD800 <= p < 0xE000]
    for start in range(0, len(points), 50):
        text = "".join(map(chr, points[start : start + 50]))
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_the_tokenizer_is_the_same_every_time() -> None:
    texts = ["a red mug", "a blue mug", "家用马克杯"] * 3
    once, again = learn_tokenizer(texts, 400), learn_tokenizer(texts, 400)
    assert once.get_vocab() == again.get_vocab()


def test_special_tokens_are_one_token_each_and_come_first(tokenizer) -> None:
    names = [*BASE_TOKENS, *SPECIAL_TOKENS]
    assert tokenizer.convert_tokens_to_ids(names) == list(range(len(names)))
    for name in names:
        assert tokenizer.encode(name, add_special_tokens=False) == [tokenizer.convert_tokens_to_ids(name)]


def test_the_vocabulary_has_at_most_the_size_asked_for() -> None:
    assert len(learn_tokenizer(["a mug and a lamp and a tent"] * 5, 280)) <= 280


def test_what_it_has_learnt_is_short(tokenizer) -> None:
    assert len(tokenizer.encode("dishwasher safe", add_special_tokens=False)) < len("dishwasher safe") / 2


@pytest.mark.parametrize("text", ["now with dishwasher-safe", "a dishwasher-safe, and", "mug: dishwasher-safe!"])
def test_a_phrase_has_the_same_tokens_wherever_it_stands(tokenizer, text: str) -> None:
    """The space before it belongs to it."""
    inside = tokenizer.encode(text, add_special_tokens=False)
    phrase = tokenizer.encode(" dishwasher-safe", add_special_tokens=False)
    assert any(inside[i : i + len(phrase)] == phrase for i in range(len(inside)))


def test_chinese_connecting_words_split_phrases(tokenizer) -> None:
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
    assert encode("礼盒包装与防滑") == encode("礼盒包装") + encode("与") + encode("防滑")
