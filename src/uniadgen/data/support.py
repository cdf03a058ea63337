"""Which words of an advertising text no selling point supports: the rule that cleans without a model."""

import re
from collections.abc import Sequence

_RUNS = re.compile(r"[a-z0-9]+(?:['’][a-z]+)?|[\u3400-\u4dbf\u4e00-\u9fff]+")
# Words that say nothing of a product, so that no selling point need have them.
_FREE_WORDS = """
a an and are as at be but by for from get has have in is it its just meet more new now of off on or our out plus so than
that the their them there these they this those to too up with without you your
"""
_FREE = frozenset(_FREE_WORDS.split())
_FREE_CHARACTERS = frozenset("与和及的了更有现也又还是在为让给你您这那都很被对从到以之其等并且而或加地得着过")
_SHORTEST = 2  # characters of Chinese that a text and a selling point must share in a row


def unsupported(text: str, selling_points: Sequence[str]) -> tuple[list[str], float]:
    """Words of `text` that no selling point has, and their share of all words that claim something.

    English words count whole, without case and plural. Chinese is covered by what it shares with a selling
    point, two characters in a row or more; what stays uncovered are its words. Connecting words are free.
    """
    points = [point.lower() for point in selling_points]
    known = {form for point in points for word in _RUNS.findall(point) for form in _forms(word)}
    found: list[str] = []
    claimed = 0
    for run in _RUNS.findall(text.lower()):
        if run[0].isascii():
            free = run in _FREE
            claimed += not free
            found += [] if free or _forms(run) & known else [run]
            continue
        covered = _covered(run, points)
        wanted = [character not in _FREE_CHARACTERS for character in run]
        claimed += sum(wanted)
        marks = "".join(c if need and not has else " " for c, need, has in zip(run, wanted, covered, strict=True))
        found += marks.split()
    lost = sum(1 if word.isascii() else len(word) for word in found)
    return found, lost / claimed if claimed else 0.0


def _forms(word: str) -> set[str]:
    """A word as it is and without what may be its plural's ending."""
    word = re.sub(r"['’][a-z]+$", "", word)
    endings = [end for end in ("s", "es") if word.endswith(end) and not word.endswith("ss") and len(word) > 3]
    return {word} | {word.removesuffix(end) for end in endings}


def _covered(run: str, points: Sequence[str]) -> list[bool]:
    """Which characters of a run stand in a stretch of `_SHORTEST` or more that a selling point has, too."""
    covered = [False] * len(run)
    if len(run) < _SHORTEST:
        return [any(run in point for point in points)] * len(run)
    for start in range(len(run) - _SHORTEST + 1):
        if any(run[start : start + _SHORTEST] in point for point in points):
            covered[start : start + _SHORTEST] = [True] * _SHORTEST
    return covered
