"""What in an advertising text is backed by the product's own words, span by span, in English and Chinese.

No language package: words are runs of letters, Chinese goes by characters. What is said is compared with the
selling points and the description in runs of two tokens or more (an English word also alone), numbers with their
units exactly. Words put together anew from several points pass as backed: "alcohol free" from "low alcohol" and "free
delivery". So what is found is for review, and what is not found is no proof.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Final, NamedTuple

MAX_TEXT = 200_000  # characters
COVERED = 0.8  # of a point's pairs of neighbouring tokens: then it counts as said


class Span(NamedTuple):
    """A stretch `text[start:end]` and what backs it."""

    start: int
    end: int
    text: str
    kind: str  # "backed", "connecting", "unsupported", "number" (a number that no source has)
    source: str | None  # the selling point or the description that says it


@dataclass(frozen=True)
class TextMeasures:
    """What a text says and does not say; None where it cannot be measured."""

    spans: tuple[Span, ...]
    coverage: float | None  # share of selling points that the text says; None without any
    unsupported: float  # share of its tokens, connecting words aside, that nothing backs; numbers count
    numbers: int  # numbers with units that no source has
    listed: int  # most selling points standing word for word one after the other, nothing but punctuation between
    repeated: float  # share of its tokens in phrases that the text has said before

    @property
    def doubtful(self) -> tuple[Span, ...]:
        """The spans that nothing backs."""
        return tuple(span for span in self.spans if span.kind in ("unsupported", "number"))


class Token(NamedTuple):
    value: str  # what is compared: the stem of a word, a character, or a number with its unit
    start: int
    end: int
    kind: str  # "word", "han", "number"


def measure_text(text: str, selling_points: Sequence[str], description: str = "") -> TextMeasures:
    """Measures an advertising text against the product's words; case, width (NFKC), hyphens and spaces do not matter.

    Raises `ValueError` for a text of more than `MAX_TEXT` characters.
    """
    if len(text) > MAX_TEXT:
        raise ValueError(f"the text has {len(text)} characters, expected at most {MAX_TEXT}: shorten it")
    points = [point for point in selling_points if point.strip()]
    sources = [*points, description]
    said, known = tokens(text), [tokens(source) for source in sources]
    neutral = _neutral(text, said)
    backing = _backing(said, known, neutral)
    spans = tuple(_spans(text, said, backing, neutral, sources))
    content = [i for i, plain in enumerate(neutral) if not plain or backing[i] is not None]
    bare = [i for i in content if backing[i] is None]
    return TextMeasures(
        spans=spans,
        coverage=_coverage(said, known[:-1]) if points else None,
        unsupported=len(bare) / len(content) if content else 0.0,
        numbers=sum(said[i].kind == "number" for i in bare),
        listed=_listed(said, known[:-1]),
        repeated=_repeated(said, neutral),
    )


def tokens(text: str) -> list[Token]:
    """Words, Chinese characters, and numbers with their units; places are those of the text as it was given."""
    plain, places = folded(text)
    found = []
    for match in _TOKEN.finditer(plain):
        value, kind = _value(match)
        found.append(Token(value, places[match.start()], places[match.end() - 1] + 1, kind))
    return found


def folded(text: str) -> tuple[str, list[int]]:
    """The text in NFKC, without case, apostrophes straight, and for each of its characters the place in `text`."""
    parts: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        parts.append(unicodedata.normalize("NFKC", character).casefold().replace("’", "'"))
        places += [place] * len(parts[-1])
    return "".join(parts), places


_UNITS: Final[dict[str, str]] = {
    spelling: unit
    for unit, spellings in {
        "%": "% percent", "day": "day days 天 日", "week": "week weeks 周", "month": "month months 个月 月",
        "year": "year years yr yrs 年", "hour": "hour hours hr hrs h 小时", "minute": "minute minutes min mins 分钟",
        "second": "second seconds sec secs s 秒", "ml": "ml milliliter milliliters millilitre millilitres 毫升",
        "l": "l liter liters litre litres 升", "mg": "mg 毫克", "g": "g gram grams 克", "kg": "kg kilo kilos 公斤 千克",
        "mm": "mm 毫米", "cm": "cm 厘米", "m": "m meter meters metre metres 米", "km": "km 公里 千米",
        "inch": "inch inches 英寸", "oz": "oz ounce ounces 盎司", "w": "w watt watts 瓦", "v": "v volt volts 伏",
        "mah": "mah 毫安", "hz": "hz 赫兹", "db": "db 分贝",
        "piece": "piece pieces pcs 件 个 只 片 支", "pack": "pack packs 包",
        "person": "person persons people 人", "times": "times x 倍", "fold": "fold 折", "layer": "layer layers 层",
        "degree": "degree degrees °c °f ° 度", "yuan": "yuan rmb 元", "dollar": "dollar dollars usd",
        "speed": "speed speeds 档",
    }.items()
    for spelling in spellings.split()
}  # fmt: skip
_BELOW_TWENTY: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_SMALL: Final = _BELOW_TWENTY.split()
_TENS: Final = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_WORDS: Final = {word: number for number, word in enumerate(_SMALL)} | {
    word: 10 * number for number, word in enumerate(_TENS, 2)
} | {"hundred": 100}  # fmt: skip
_DIGITS: Final = {digit: number for number, digit in enumerate("零一二三四五六七八九")} | {"两": 2, "〇": 0}
_POWERS: Final = {"十": 10, "百": 100, "千": 1000, "万": 10_000}


def _any_of(spellings: Iterator[str]) -> str:
    return "|".join(re.escape(spelling) for spelling in sorted(spellings, key=len, reverse=True))


_LATIN_UNIT: Final = rf"(?:{_any_of(u for u in _UNITS if u[0].isascii() and u[0].isalpha())})(?![a-z])"
_OTHER_UNIT: Final = _any_of(u for u in _UNITS if not (u[0].isascii() and u[0].isalpha()))
_WORD_NUMBER: Final = (
    rf"(?:{'|'.join(_TENS)})(?:[ -](?:{'|'.join(_SMALL[1:10])}))?|{'|'.join(reversed(_SMALL))}|hundred"
)
_TOKEN: Final = re.compile(
    rf"(?P<prefix>(?<![^\W_])[a-z]+)?(?P<digits>\d+(?:,\d{{3}})*(?:\.\d+)?)(?P<power>[百千万])?"
    rf"(?:[\s-]?(?P<unit>{_LATIN_UNIT}|{_OTHER_UNIT}))?\+?"
    rf"|(?<![^\W_])(?P<spelt>{_WORD_NUMBER})[\s-](?P<spelt_unit>{_LATIN_UNIT})"
    rf"|(?P<han_digits>[零〇一二两三四五六七八九十百千万]{{1,12}})(?P<han_unit>{_OTHER_UNIT})"
    r"|(?P<han>[\u3400-\u9fff\U00020000-\U0003ffff])"
    r"|(?P<word>(?:(?![\u3400-\u9fff\U00020000-\U0003ffff])[^\W\d_])+(?:'(?:s|t|re|ve|ll|d|m)\b)?)"
)


def _value(match: re.Match[str]) -> tuple[str, str]:
    group = match.groupdict()
    if group["digits"]:
        amount = Decimal(group["digits"].replace(",", "")) * _POWERS.get(group["power"] or "", 1)
        return f"{group['prefix'] or ''}#{amount.normalize():f} {_UNITS.get(group['unit'] or '', '')}", "number"
    if group["spelt"]:
        amount = sum(_WORDS[part] for part in re.split(r"[ -]", group["spelt"]))
        return f"#{amount} {_UNITS[group['spelt_unit']]}", "number"
    if group["han_digits"]:
        return f"#{_from_han(group['han_digits'])} {_UNITS[group['han_unit']]}", "number"
    if group["han"]:
        return group["han"], "han"
    return _stem(group["word"]), "word"


def _from_han(digits: str) -> int:
    total = current = 0
    for digit in digits:
        if digit not in _POWERS:
            current = _DIGITS[digit]
        elif digit == "万":
            total, current = (total + current or 1) * 10_000, 0
        else:
            total, current = total + (current or 1) * _POWERS[digit], 0
    return total + current


def _stem(word: str) -> str:
    """A word without its plural s or possessive 's."""
    word = re.sub(r"'s$", "", word)
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


# Words that claim nothing by themselves: articles, pronouns, prepositions, and calls to look or buy.
_PLAIN_ENGLISH: Final = (
    "a an the and or but so if as at by for from in into of off on onto to with without within up out over per "
    "plus also too now then when while where here there this that these those it its it's that's there's here's "
    "i me my we us our ours you your yours he she they them their who whom whose what which is are was were be been "
    "being has have had do does did can could will would should may might let let's come comes coming get gets make "
    "makes made meet enjoy discover try choose see look looking find take bring brings give gives want need buy "
    "order shop today yes please thanks hello hi not no than such each every both all some any more one"
)
_PLAIN_CHINESE: Final = (
    "这款 这个 那个 一款 一个 我们 你们 他们 自己 为您 为你 让您 让你 给您 给你 带来 拥有 享受 尽享 选择 "
    "来自 采用 配有 配备 现有 更有 还有 以及 而且 同时 因为 所以 如果 只要 就是 可以 能够 现在 今天 欢迎 "
    "了解 看看 来了 来吧 快来 不妨 一起 准备 的 了 与 和 及 或 也 都 更 又 还 而 让 把 给 为 是 在 有 你 "
    "您 我 他 她 它 们 这 那 就 将 且 地 得 着 吗 呢 吧 啊 哦 从 到 对 享 选"
)
_PLAIN_WORDS: Final = frozenset(_stem(word) for word in _PLAIN_ENGLISH.split())
_PLAIN_HAN: Final = re.compile("|".join(_PLAIN_CHINESE.split()))


def _neutral(text: str, said: Sequence[Token]) -> list[bool]:
    plain = [token.kind == "word" and token.value in _PLAIN_WORDS for token in said]
    covered = bytearray(len(text))
    for match in _PLAIN_HAN.finditer(text):
        covered[match.start() : match.end()] = b"\1" * (match.end() - match.start())
    return [
        flag or (token.kind == "han" and bool(covered[token.start])) for flag, token in zip(plain, said, strict=True)
    ]


def _backing(said: Sequence[Token], known: Sequence[list[Token]], neutral: Sequence[bool]) -> list[int | None]:
    """For each token the source that backs it: the longest run in common, else the word or number alone."""
    starts: dict[tuple[str, str], list[tuple[int, int]]] = {}
    alone: dict[str, int] = {}
    for source, words in enumerate(known):
        for place, (one, other) in enumerate(pairwise(words)):
            starts.setdefault((one.value, other.value), []).append((source, place))
        for word in words:
            if word.kind != "han":
                alone.setdefault(word.value, source)
    backing: list[int | None] = [None] * len(said)
    i = 0
    while i < len(said):
        pair = (said[i].value, said[i + 1].value) if i + 1 < len(said) else None
        best, length = None, 0
        for source, place in starts.get(pair, []) if pair else []:
            run = _in_common(said, i, known[source], place)
            if run > length:
                best, length = source, run
        if best is not None and not all(neutral[i : i + length]):
            backing[i : i + length] = [best] * length
            i += length
            continue
        if not neutral[i]:
            backing[i] = alone.get(said[i].value)
        i += 1
    return backing


def _in_common(said: Sequence[Token], i: int, words: Sequence[Token], place: int) -> int:
    run = 0
    while i + run < len(said) and place + run < len(words) and said[i + run].value == words[place + run].value:
        run += 1
    return run


def _spans(
    text: str, said: Sequence[Token], backing: Sequence[int | None], neutral: Sequence[bool], sources: Sequence[str]
) -> Iterator[Span]:
    """Neighbouring tokens of the same kind and source as one span."""

    def nature(i: int) -> tuple[str, str | None]:
        source = backing[i]
        if source is not None:
            return "backed", sources[source]
        if neutral[i]:
            return "connecting", None
        return ("number" if said[i].kind == "number" else "unsupported"), None

    first = 0
    for i in range(1, len(said) + 1):
        if i < len(said) and nature(i) == nature(first) and not _STOP.search(text, said[i - 1].end, said[i].start):
            continue
        if said:
            start, end = said[first].start, said[i - 1].end
            yield Span(start, end, text[start:end], *nature(first))
        first = i


_STOP: Final = re.compile(r"[,.;:!?，。；：！？\n]")


def _coverage(said: Sequence[Token], points: Sequence[list[Token]]) -> float:
    pairs = {(one.value, other.value) for one, other in pairwise(said)}
    values = {token.value for token in said}
    return sum(_says(pairs, values, point) for point in points) / len(points)


def _says(pairs: set[tuple[str, str]], values: set[str], point: Sequence[Token]) -> bool:
    if len(point) < 2:
        return bool(point) and point[0].value in values
    hits = [(one.value, other.value) in pairs for one, other in pairwise(point)]
    return sum(hits) >= COVERED * len(hits)


def _listed(said: Sequence[Token], points: Sequence[list[Token]]) -> int:
    by_first: dict[str, list[list[str]]] = {}
    for point in points:
        if point:
            by_first.setdefault(point[0].value, []).append([token.value for token in point])
    values = [token.value for token in said]
    longest = chain = i = 0
    while i < len(values):
        fitting = [len(point) for point in by_first.get(values[i], []) if values[i : i + len(point)] == point]
        chain = chain + 1 if fitting else 0
        longest = max(longest, chain)
        i += max(fitting, default=1)
    return longest


def _repeated(said: Sequence[Token], neutral: Sequence[bool]) -> float:
    """Phrases are two words that claim something, or three Chinese characters."""
    seen: set[tuple[str, ...]] = set()
    again = [False] * len(said)
    for i in range(len(said) - 1):
        size = 3 if said[i].kind == "han" else 2
        phrase = tuple(token.value for token in said[i : i + size])
        if len(phrase) < size or (size == 2 and any(neutral[i : i + 2])):
            continue
        if phrase in seen:
            again[i : i + size] = [True] * size
        seen.add(phrase)
    return sum(again) / len(said) if said else 0.0
