"""A text kept to the selling points: whatever is sampled, only whole pieces can come out."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from uniadgen.config import GenerateConfig
from uniadgen.data.batch import collate
from uniadgen.data.prompt import encode
from uniadgen.engine.faithful import Speller, Vocabulary
from uniadgen.engine.loop import Decoder

END = 99
POINTS, CONNECTORS = ((1, 2, 3), (1, 2), (4,)), ((7,), (8, 9))


def new_speller(most: int = 1000) -> Speller:
    return Speller(Vocabulary(POINTS, CONNECTORS, END), most)


@pytest.fixture
def speller() -> Speller:
    """At the start of a text with room enough."""
    return new_speller()


def is_made_of(tokens: tuple[int, ...], pieces) -> bool:
    """Can the tokens be cut into pieces?"""
    return not tokens or any(tokens[: len(p)] == p and is_made_of(tokens[len(p) :], pieces) for p in pieces)


def random_text(speller: Speller, rng: np.random.Generator, most: int = 200) -> tuple[int, ...]:
    text: list[int] = []
    while len(text) < most:
        token = int(rng.choice(speller.allowed()))
        if token == END:
            return tuple(text)
        speller.push(token)
        text.append(token)
    raise AssertionError("the text never ended")


def test_every_text_is_a_chain_of_whole_pieces() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        text = random_text(new_speller(), rng)
        assert is_made_of(text, POINTS + CONNECTORS), text


@pytest.mark.parametrize("most", range(1, 8))
def test_a_text_of_limited_length_still_ends_with_a_whole_piece_and_says_something(most: int) -> None:
    rng = np.random.default_rng(2)
    for _ in range(100):
        text = random_text(new_speller(most), rng)
        assert len(text) <= most
        assert is_made_of(text, POINTS + CONNECTORS), text
        assert {1, 4} & set(text), text


@pytest.mark.parametrize("most", [6, 7, 8, 12])
def test_real_words_fit_into_any_length(tokenizer, most: int) -> None:
    """A phrase within a text has a space before it, and so more tokens than one at its start."""
    vocabulary = Vocabulary.of(partial(encode, tokenizer), ("rostfrei", "gift box", "轻"), ("and", ","), END)
    rng = np.random.default_rng(3)
    for _ in range(100):
        text = tokenizer.decode(list(random_text(Speller(vocabulary, most), rng)))
        assert pieces_left(text, "rostfrei", "gift box", "轻", "and", ",") == "", text


def test_a_length_too_short_for_any_selling_point_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the shortest selling point has 3 tokens, expected at most 2: shorten it"):
        Speller(Vocabulary(((1, 2, 3), (1, 2, 3, 4)), CONNECTORS, END), 2)


def test_a_text_says_at_least_one_selling_point() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        text = random_text(new_speller(), rng)
        assert {1, 4} & set(text), text


def test_at_the_start_any_piece_may_begin_and_nothing_may_end(speller: Speller) -> None:
    assert speller.allowed() == [1, 4, 7, 8]


def test_a_connecting_word_alone_is_not_yet_a_text(speller: Speller) -> None:
    speller.push(7)
    assert END not in speller.allowed()


def test_within_a_piece_only_the_piece_goes_on(speller: Speller) -> None:
    speller.push(8)
    assert speller.allowed() == [9]


def test_a_piece_that_is_the_beginning_of_another_may_end_or_go_on(speller: Speller) -> None:
    speller.push(1)
    assert speller.allowed() == [2]
    speller.push(2)
    assert speller.allowed() == [1, 3, 4, 7, 8, END]
    speller.push(3)
    assert speller.allowed() == [4, 7, 8, END]  # both have been said


def test_pieces_are_spelt_with_the_tokenizers_own_tokens(tokenizer) -> None:
    vocabulary = Vocabulary.of(partial(encode, tokenizer), ("kitchen mug", "礼盒包装"), ("and", ","), END)
    assert {tokenizer.decode(list(piece)).strip() for piece in vocabulary.points} == {"kitchen mug", "礼盒包装"}
    assert {tokenizer.decode(list(piece)).strip() for piece in vocabulary.connectors} == {"and", ","}


@pytest.fixture
def texts_of(model, layout, make_row):
    """Texts of 20 seeds about the same two selling points."""

    def make(max_words: int, points=("kitchen mug", "dishwasher safe")) -> list[str]:
        config = GenerateConfig(guidance=1.0, max_words=max_words, connecting_words=("and", "with", ",", "!"))
        row = make_row(0, 1, target=False)
        decoder = Decoder(model, layout, config, range(20), [points] * 20)
        *_, last = decoder.run(collate([row] * 20, layout.pad_id))
        return [layout.tokenizer.decode(list(words)).strip() for words in last.words]

    return make


def pieces_left(text: str, *pieces: str) -> str:
    for piece in pieces:
        text = text.replace(piece, " ")
    return text.strip()


def test_an_untrained_model_cannot_say_anything_else(texts_of) -> None:
    texts = texts_of(60)
    assert len(set(texts)) > 10
    for text in texts:
        assert pieces_left(text, "kitchen mug", "dishwasher safe", "and", "with", ",", "!") == "", text
        assert "kitchen mug" in text or "dishwasher safe" in text


def test_a_text_that_reaches_its_length_ends_with_a_whole_piece(texts_of) -> None:
    for text in texts_of(7):
        assert pieces_left(text, "kitchen mug", "dishwasher safe", "and", "with", ",", "!") == "", text


def test_words_do_not_run_into_each_other(texts_of) -> None:
    for text in texts_of(60):
        words = text.replace(",", " ").replace("!", " ").split()
        assert set(words) <= {"kitchen", "mug", "dishwasher", "safe", "and", "with"}, text


def test_points_of_every_request_are_its_own(model, layout, make_row) -> None:
    config = GenerateConfig(guidance=1.0, max_words=20, connecting_words=("and",))
    row = make_row(0, 1, target=False)
    decoder = Decoder(model, layout, config, [0, 1], [("kitchen mug",), ("gift box",)])
    *_, last = decoder.run(collate([row, row], layout.pad_id))
    one, other = (layout.tokenizer.decode(list(words)) for words in last.words)
    assert "mug" in one and "box" not in one
    assert "box" in other and "mug" not in other


def test_a_connecting_word_leaves_room_for_a_selling_point_as_it_is_spelt_after_it() -> None:
    """Without its space a point may be shorter, but then it may only open a text."""
    vocabulary = Vocabulary(points=((1, 2), (1, 2, 3)), connectors=((7,),), end=9, openers=frozenset({(1, 2)}))
    speller = Speller(vocabulary, most=4)
    speller.push(7)
    assert speller.allowed() == [1]
    for token in (1, 2, 3):
        speller.push(token)
    assert speller.allowed() == [9]


@pytest.mark.parametrize(
    ("points", "own"),
    [
        (("gift box",), {"and", ","}),
        (("礼盒包装",), {"与", "，"}),
        (("gift box", "礼盒包装"), {"and", ",", "与", "，"}),
    ],
)
def test_points_bring_the_connecting_words_of_their_own_language(tokenizer, points, own: set[str]) -> None:
    vocabulary = Vocabulary.of(partial(encode, tokenizer), points, ("and", ",", "与", "，"), END)
    assert {tokenizer.decode(list(connector)).strip() for connector in vocabulary.connectors} == own


def test_no_selling_point_is_written_twice(tokenizer) -> None:
    points = ("kitchen mug", "dishwasher safe", "gift box")
    vocabulary = Vocabulary.of(partial(encode, tokenizer), points, ("and",), END)
    rng = np.random.default_rng(4)
    for _ in range(100):
        text = tokenizer.decode(list(random_text(Speller(vocabulary, 60), rng)))
        assert all(text.count(point) <= 1 for point in points), text
        assert any(point in text for point in points)


def test_no_connecting_word_is_written_twice_in_a_row(tokenizer) -> None:
    rng = np.random.default_rng(4)
    words = ("and", "plus")
    for _ in range(100):
        speller = Speller(Vocabulary.of(partial(encode, tokenizer), ["mug", "light", "safe"], words, END), 60)
        said = tokenizer.decode(random_text(speller, rng)).split()
        assert not any(one == other for one, other in pairwise(said)), said
    speller = new_speller()
    for token in (8, 9):  # a connector of two tokens
        speller.push(token)
    assert speller.allowed() == [1, 4, 7]
