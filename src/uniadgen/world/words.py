"""The words of AdWorld, in English and Chinese: descriptions, selling points, ad texts and their checker.

An ad text is made of a product's own selling points and of connecting words only, so `parse` can say exactly
which points it uses, in which manner it is phrased, and what in it is neither.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from uniadgen.world.phrases import (
    BY_DEPARTMENT,
    BY_FAMILY,
    COLOUR_WORDS,
    DEPARTMENT_WORDS,
    DESCRIPTIONS,
    FINISH_WORDS,
    GENERAL,
    NOUNS,
    Pair,
)

LANGUAGES: Final = ("en", "zh")
KINDS: Final = ("value", "quality", "care", "design", "convenience")
MANNERS: Final = ("plain", "and", "bright", "new")
POINTS_PER_KIND: Final = 2
NUM_SELLING_POINTS: Final = 1 + POINTS_PER_KIND * len(KINDS)  # the short name comes first

TEMPLATES: Final[dict[str, dict[str, str]]] = {
    "en": {
        "plain": "{name}: {first}, {second}",
        "and": "{first} and {second}, {name}",
        "bright": "{name}! {first}! {second}!",
        "new": "now with {first}, plus {second}: {name}",
    },
    "zh": {
        "plain": "{name}：{first}，{second}",
        "and": "{first}与{second}，{name}",
        "bright": "{name}！{first}！{second}！",
        "new": "现有{first}，更有{second}：{name}",
    },
}

# All that an ad text may hold besides selling points and spaces.
CONNECTORS: Final[dict[str, tuple[str, ...]]] = {
    "en": ("and", "now", "with", "plus", ",", ":", "!"),
    "zh": ("与", "现有", "更有", "，", "：", "！"),
}


def _kinds_of_phrases() -> dict[str, str]:
    pairs: list[tuple[Pair, str]] = []
    for bank in (GENERAL, *BY_DEPARTMENT.values()):
        pairs += [(pair, kind) for kind in KINDS for pair in bank[kind]]
    for specific in BY_FAMILY.values():
        pairs += list(zip(specific, KINDS, strict=True))
    return {phrase: kind for pair, kind in pairs for phrase in pair}


KIND_OF: Final[dict[str, str]] = _kinds_of_phrases()  # every phrase of both languages -> its kind


def _known(what: str, name: str, names: Sequence[str]) -> str:
    if name not in names:
        raise ValueError(f"got {what} {name!r}, expected one of {', '.join(names)}, use one of these")
    return name


def _side(language: str) -> int:
    """Where a language stands in a Pair."""
    return LANGUAGES.index(_known("language", language, LANGUAGES))


def short_name(family: str, department: str, language: str) -> str:
    """The product's short name with its department word: "kitchen mug"; always the first selling point."""
    side = _side(language)
    noun = NOUNS[_known("family", family, tuple(NOUNS))].noun[side]
    word = DEPARTMENT_WORDS[_known("department", department, tuple(DEPARTMENT_WORDS))][0][side]
    return f"{word} {noun}" if language == "en" else word + noun


def description(family: str, department: str, colour: str, finish: str, language: str, rng: np.random.Generator) -> str:
    """One sentence as a seller writes it; equal generators give the same facts in both languages.

    Raises `ValueError` for a word that the tables do not know.
    """
    side = _side(language)
    noun = NOUNS[_known("family", family, tuple(NOUNS))]
    place = DEPARTMENT_WORDS[_known("department", department, tuple(DEPARTMENT_WORDS))][1]
    _known("colour", colour, tuple(COLOUR_WORDS))
    _known("finish", finish, tuple(FINISH_WORDS))
    amount = int(rng.choice(np.arange(noun.first, noun.last + 1, noun.step)))
    templates = DESCRIPTIONS[language]
    sentence = templates[int(rng.integers(len(templates)))].format(
        each=noun.each[side],
        colour=(colour, COLOUR_WORDS[colour])[side],
        finish=(finish, FINISH_WORDS[finish])[side],
        noun=noun.noun[side],
        place=place[side],
        measure=noun.measure[side].format(amount),
    )
    sentence = re.sub(r"\ba (?=[aeiou])", "an ", sentence)
    return sentence[0].upper() + sentence[1:]


def selling_points(family: str, department: str, language: str, rng: np.random.Generator) -> tuple[str, ...]:
    """Eleven selling points: the short name, then two of each kind in a shuffled order.

    One of the two is from the general bank, one is the department's or the family's own. Equal generators
    give the same points in both languages.
    """
    side = _side(language)
    points: list[str] = []
    name = short_name(family, department, language)
    for place, kind in enumerate(KINDS):
        specific = (*BY_DEPARTMENT[department][kind], BY_FAMILY[family][place])
        for bank in (GENERAL[kind], specific):
            points.append(bank[int(rng.integers(len(bank)))][side])
    return (name, *(points[i] for i in rng.permutation(len(points))))


def text(points: Sequence[str], kind: str, manner: str, language: str, rng: np.random.Generator) -> str:
    """An ad text: the short name and the product's two points of `kind`, in the given manner.

    `points` are the product's selling points, its short name first; the generator orders the two points.
    Raises `ValueError` for an unknown kind, manner or language, or unless `points` hold two of that kind.
    """
    _known("kind", kind, KINDS)
    liked = [point for point in points if KIND_OF.get(point) == kind]
    if len(liked) != POINTS_PER_KIND:
        raise ValueError(
            f"got {len(liked)} selling points of kind {kind!r}, expected {POINTS_PER_KIND}, "
            "use the points that selling_points() gave"
        )
    first, second = liked if rng.random() < 0.5 else reversed(liked)
    return compose(points[0], first, second, manner, language)


def compose(name: str, first: str, second: str, manner: str, language: str) -> str:
    """An ad text from its three phrases; raises `ValueError` for an unknown manner or language."""
    _side(language)
    template = TEMPLATES[language][_known("manner", manner, MANNERS)]
    return template.format(name=name, first=first, second=second)


@dataclass(frozen=True)
class Parsed:
    """What an ad text is made of.

    points: the selling points used, as the product spells them, in the text's order, repeats kept.
    manner: how it is phrased, judged by its form alone; a phrase that is no selling point counts as one here.
    leftover: what is neither a selling point nor a connecting word, normalised; "" when there is none.
    """

    points: tuple[str, ...]
    manner: str | None
    leftover: str

    @property
    def faithful(self) -> bool:
        """Whether the text says something and nothing but selling points."""
        return bool(self.points) and not self.leftover

    @property
    def kind(self) -> str | None:
        """The kind of all selling points used (a short name has none); None when mixed, unknown or absent."""
        kinds = {KIND_OF[point] for point in self.points if point in KIND_OF}
        return kinds.pop() if len(kinds) == 1 else None


_NAME, _POINT = "<name>", "<point>"


@dataclass(frozen=True)
class _Piece:
    """A stretch of a text: a selling point (with its spelling), a connecting word, or neither."""

    form: str  # _NAME, _POINT or the connecting word itself
    words: str
    known: bool = True


def parse(text: str, selling_points: Sequence[str], language: str) -> Parsed:
    """Splits an ad text into selling points, connecting words and the rest: AdWorld's ground-truth check.

    Case, width (NFKC) and runs of spaces do not matter; English phrases match whole words only. Where phrases
    overlap, the reading with the least left over wins, then the longer phrase. The first of `selling_points`
    is the product's short name.
    """
    _side(language)
    pieces = _pieces(_normal(text), tuple(selling_points), language)
    return Parsed(
        points=tuple(piece.words for piece in pieces if piece.known and piece.form in (_NAME, _POINT)),
        manner=_skeletons(language).get(tuple(piece.form for piece in pieces)),
        leftover=" ".join(piece.words for piece in pieces if not piece.known),
    )


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@lru_cache(maxsize=2)
def _skeletons(language: str) -> dict[tuple[str, ...], str]:
    """The sequence of forms of each manner, read off its template with the parser's own eyes."""
    phrases = ("one", "two", "three")
    skeletons: dict[tuple[str, ...], str] = {}
    for manner in MANNERS:
        pieces = _pieces(_normal(compose(*phrases, manner, language)), phrases, language)
        skeletons[tuple(piece.form for piece in pieces)] = manner
    return skeletons


@lru_cache(maxsize=1024)
def _patterns(points: tuple[str, ...], language: str) -> tuple[tuple[re.Pattern[str], _Piece], ...]:
    """What to look for, selling points first: each pattern finds overlapping matches, as its group 1."""
    wanted = [_Piece(_POINT if i else _NAME, point) for i, point in enumerate(points)]
    wanted += [_Piece(_normal(word), word) for word in CONNECTORS[language]]
    patterns: dict[str, tuple[re.Pattern[str], _Piece]] = {}
    for piece in wanted:
        phrase = _normal(piece.words)
        if phrase and phrase not in patterns:
            patterns[phrase] = (re.compile(f"(?=({_whole(re.escape(phrase), phrase, language)}))"), piece)
    return tuple(patterns.values())


def _whole(pattern: str, phrase: str, language: str) -> str:
    """In English a phrase that begins or ends with a letter must not touch another word or a hyphen there."""
    if language == "en" and re.match(r"\w", phrase[0]):
        pattern = r"(?<![\w-])" + pattern
    if language == "en" and re.match(r"\w", phrase[-1]):
        pattern = pattern + r"(?![\w-])"
    return pattern


def _pieces(text: str, points: tuple[str, ...], language: str) -> list[_Piece]:
    """The best reading of a normalised text, found from its end: least left over, then longest phrases."""
    found: dict[int, list[tuple[int, _Piece]]] = {}
    for pattern, piece in _patterns(points, language):
        for match in pattern.finditer(text):
            found.setdefault(match.start(), []).append((match.end(1), piece))
    left = [0] * (len(text) + 1)
    choice: list[tuple[int, _Piece] | None] = [None] * len(text)
    for i in reversed(range(len(text))):
        left[i] = left[i + 1] + (text[i] != " ")
        for end, piece in sorted(found.get(i, ()), key=lambda candidate: candidate[0]):
            if left[end] <= left[i]:
                left[i], choice[i] = left[end], (end, piece)
    return list(_walk(text, choice))


def _walk(text: str, choice: Sequence[tuple[int, _Piece] | None]) -> Iterator[_Piece]:
    rest, i = "", 0
    while i < len(text):
        step = choice[i]
        if step is None:
            rest, i = rest + text[i], i + 1
            continue
        if rest.strip():
            yield _Piece(_POINT, rest.strip(), known=False)
        rest = ""
        i = step[0]
        yield step[1]
    if rest.strip():
        yield _Piece(_POINT, rest.strip(), known=False)
