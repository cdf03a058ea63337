"""Drafts of words: a text copies selling points, so what followed the same words in the prompt may follow here."""

from collections.abc import Sequence

from uniadgen.data.batch import Batch, Kind

LONGEST = 3  # words that are compared


class Lookup:
    """What followed which words in some texts; of several places, the last one counts."""

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        self.texts = texts
        self.after: dict[tuple[int, ...], tuple[int, int]] = {}  # words -> (text, where they end in it)
        for number, text in enumerate(texts):
            for end in range(1, len(text)):
                for length in range(1, min(end, LONGEST) + 1):
                    self.after[tuple(text[end - length : end])] = number, end

    @classmethod
    def of(cls, batch: Batch, row: int) -> "Lookup":
        """The titles of the clicks, then all that is said in the prompt."""
        titles = [ids[here].tolist() for ids, here in zip(batch.click_ids[row], batch.click_words[row], strict=True)]
        return cls([*titles, batch.ids[row][batch.kind[row] == Kind.PROMPT].tolist()])

    def guess(self, words: Sequence[int]) -> int | None:
        """The word after these, by as many of the last ones as are found."""
        for length in range(min(len(words), LONGEST), 0, -1):
            found = self.after.get(tuple(words[len(words) - length :]))
            if found is not None:
                return self.texts[found[0]][found[1]]
        return None
