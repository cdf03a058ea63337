"""Keeps a text to the selling points: which tokens may come next, so that nothing else can be written."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Vocabulary:
    """The pieces a text may be made of, as token ids: whole selling points and connecting words."""

    points: tuple[tuple[int, ...], ...]
    connectors: tuple[tuple[int, ...], ...]
    end: int  # the token that ends the text

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerBase, points: Sequence[str], connectors: Sequence[str], end: int
    ) -> "Vocabulary":
        """Every piece is allowed at the start of a text and after a space."""
        spell = lambda words: tuple(  # noqa: E731
            tuple(tokenizer.encode(space + word, add_special_tokens=False)) for word in words for space in ("", " ")
        )
        return cls(spell(points), spell(connectors), end)


class Speller:
    """Follows one text token by token. `allowed()` are the ids that may come next; `push(id)` takes one."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.pieces = vocabulary.points + vocabulary.connectors
        self.open: set[tuple[int, int]] = set()  # (piece, how many of its tokens have been written)
        self.between_pieces = True
        self.says_something = False

    def allowed(self) -> list[int]:
        """The ids that may come next; never empty."""
        following = {self.pieces[piece][written] for piece, written in self.open}
        if self.between_pieces:
            following |= {piece[0] for piece in self.pieces}
            if self.says_something:
                following.add(self.vocabulary.end)
        return sorted(following)

    def push(self, token: int) -> None:
        """Takes the token that was written."""
        candidates = set(self.open)
        if self.between_pieces:
            candidates |= {(piece, 0) for piece in range(len(self.pieces))}
        reached = {(p, written + 1) for p, written in candidates if self.pieces[p][written] == token}
        finished = {p for p, written in reached if written == len(self.pieces[p])}
        self.open = {(p, written) for p, written in reached if p not in finished}
        self.between_pieces = bool(finished)
        self.says_something |= any(p < len(self.vocabulary.points) for p in finished)
