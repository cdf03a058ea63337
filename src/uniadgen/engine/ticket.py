"""A ticket for one ad that was asked for: its progress as it comes, and a way to give it up."""

import ctypes
from collections.abc import Iterator
from queue import SimpleQueue

import torch

from uniadgen.engine.loop import Progress


class QueueFull(RuntimeError):
    """Too many are waiting: the newest request is refused, and nothing else happens."""


class Bell:
    """Rung in any thread by who comes or gives up; who paints many cells in one call looks at it after every step."""

    def __init__(self) -> None:
        self.rung = ctypes.c_int64(0)  # memory that compiled code looks into

    def ring(self) -> None:
        """From now on, until it is quiet."""
        self.rung.value = 1

    def quiet(self) -> None:
        """To be called before one looks who it was."""
        self.rung.value = 0


class Ticket:
    """Held by whoever asked, in any thread. `latest` is how far the ad is, always of one request."""

    def __init__(self, bell: Bell) -> None:
        """`bell`: of whoever makes the ad."""
        self.bell = bell
        self.latest = Progress(((),), torch.zeros(1, 0, dtype=torch.long))
        self.error: Exception | None = None
        self.given_up = False
        self._told: SimpleQueue[Progress | None] = SimpleQueue()

    def cancel(self) -> None:
        """Gives the ad up. Its slot is free before the next step; one that has ended stays as it is."""
        self.given_up = True
        self.bell.ring()

    def events(self) -> Iterator[Progress]:
        """Progress as it comes, waiting for it; the last one is `done`, unless the ad was given up.

        Raises what ended the ad, where something went wrong. To be read once.
        """
        while (progress := self._told.get()) is not None:
            yield progress
        if self.error is not None:
            raise self.error

    def tell(self, progress: Progress) -> None:
        """For whoever makes the ad."""
        self.latest = progress
        self._told.put(progress)

    def end(self, error: Exception | None = None) -> None:
        """Nothing more will be told."""
        self.error = error
        self._told.put(None)
