"""What every rival is: something that makes the ads of several requests at once."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from uniadgen.records import Ad, Example


@runtime_checkable
class Generator(Protocol):
    """As `AdGenerator.generate_batch`: the i-th ad is that of the i-th request, made with the i-th seed."""

    def generate_batch(self, examples: Sequence[Example], seeds: Sequence[int]) -> list[Ad]:
        """One ad for each request; its `record` says how it was made."""
        ...
