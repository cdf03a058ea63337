"""Keeps a text to the selling points: which tokens may come next, so that nothing else can be written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from uniadgen.data.prompt import language_of


@dataclass(frozen=True)
class Vocabulary:
    """The pieces a text may be made of, as token ids: whole selling points and connecting words."""

    points: tuple[tuple[int, ...], ...]
    connectors: tuple[tuple[int, ...], ...]
    end: int  # the token that ends the text
    # Spellings without a space before them, which may only begin a text: words must not run into each other.
    openers: frozenset[tuple[int, ...]] = frozenset()
    num_spellings: int = 1  # so many of `points`, and of `connectors`, in a row are the same piece

    @property
    def pieces(self) -> tuple[tuple[int, ...], ...]:
        """Points, then connectors."""
        return self.points + self.connectors

    def spellings_of(self, number: int) -> set[tuple[int, ...]]:
        """All spellings of the piece of which `pieces[number]` is one."""
        first = number - number % self.num_spellings
        return set(self.pieces[first : first + self.num_spellings])

    @classmethod
    def of(
        cls, spell: Callable[[str], tuple[int, ...]], points: Sequence[str], connectors: Sequence[str], end: int
    ) -> "Vocabulary":
        """Every piece at the start of a text and after a space; without a space also where none is needed.

        English points bring the connectors in ASCII, Chinese points the others. `spell`: words to ids.
        """
        languages = {language_of(point) for point in points}
        connectors = [word for word in connectors if ("en" if word.isascii() else "zh") in languages]

        def spelt(words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
            return tuple(spell(space + word) for word in words for space in ("", " "))

        openers = (spell(word) for word in (*points, *connectors) if word[0].isascii() and word[0].isalnum())
        return cls(spelt(points), spelt(connectors), end, frozenset(openers), num_spellings=2)


class Speller:
    """Follows one text token by token. `allowed()` are the ids that may come next; `push(id)` takes one.

    No selling point is written twice, and no connecting word twice in a row. A text of at most `most` tokens ends with
    a whole piece and holds a selling point. Raises `ValueError` where `most` tokens are too few for any.
    """

    def __init__(self, vocabulary: Vocabulary, most: int) -> None:
        self.vocabulary = vocabulary
        self.pieces = vocabulary.pieces
        shortest = min(len(point) for point in vocabulary.points)
        if shortest > most:
            raise ValueError(
                f"the shortest selling point has {shortest} tokens, expected at most {most}: "
                "shorten it or raise generate.max_words"
            )
        # What has to be left for a selling point after a connecting word, where no opener may stand.
        self.shortest = min(len(point) for point in vocabulary.points if point not in vocabulary.openers)
        self.left = most
        self.open: set[tuple[int, int]] = set()  # (piece, how many of its tokens have been written)
        self.started = False
        self.between_pieces = True
        self.said: set[tuple[int, ...]] = set()  # the points that have been written, in all their spellings
        self.last: set[tuple[int, ...]] = set()  # the piece written last, in all its spellings

    def allowed(self) -> list[int]:
        """The ids that may come next; none once the text has ended."""
        following = {self.pieces[p][written] for p, written in self.open if len(self.pieces[p]) - written <= self.left}
        if self.between_pieces:
            following |= {piece[0] for number, piece in enumerate(self.pieces) if self._may_begin(number)}
            if self.said:
                following.add(self.vocabulary.end)
        return sorted(following)

    def _may_begin(self, number: int) -> bool:
        """There is room for the piece, and for a selling point where none has been written."""
        piece = self.pieces[number]
        if self.started and piece in self.vocabulary.openers:
            return False
        is_point = number < len(self.vocabulary.points)
        if piece in (self.said if is_point else self.last):
            return False
        return self.left - len(piece) >= (0 if self.said or is_point else self.shortest)

    def push(self, token: int) -> None:
        """Takes the token that was written."""
        candidates = set(self.open)
        if self.between_pieces:
            candidates |= {(piece, 0) for piece in range(len(self.pieces)) if self._may_begin(piece)}
        reached = {(p, written + 1) for p, written in candidates if self.pieces[p][written] == token}
        finished = {p for p, written in reached if written == len(self.pieces[p])}
        self.open = {(p, written) for p, written in reached if p not in finished}
        self.between_pieces = bool(finished)
        if finished:
            self.last = set().union(*map(self.vocabulary.spellings_of, finished))
        for point in finished:
            if point < len(self.vocabulary.points):
                self.said = self.said | self.vocabulary.spellings_of(point)  # the old one may be a copy's too
        self.started, self.left = True, self.left - 1
