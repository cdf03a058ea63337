"""The order in which a picture is painted: cell after cell, or with staggered rows, a cell of each in every step."""

import math
from functools import cache
from typing import NamedTuple

NOTHING = -1  # where a row of cells begins, `<image>` is fed and no code


class Wave(NamedTuple):
    """What one step feeds and paints.

    A fed position stands where it does in the picture: the one that predicts cell i at place i after the prompt, the
    code of cell i at place i + 1. Those that predict a cell come first.
    """

    fed: tuple[int, ...]  # cells whose codes are fed, or NOTHING
    painted: tuple[int, ...]  # the cells that the first positions predict

    @property
    def places(self) -> tuple[int, ...]:
        """Of all that is fed."""
        return (*self.painted, *(cell + 1 for cell in self.fed[len(self.painted) :]))


@cache
def waves(cells: int, lag: int) -> tuple[Wave, ...]:
    """All steps of a square picture. A row begins `lag` cells after the one above it (ours); 0: cell after cell.

    So the cell at column c of row r is painted in step c + lag r, and sees what was painted in the steps before. Where
    a row begins, the code to its left is not known yet: `<image>` stands there again. The last code of a row predicts
    nothing; other rows see it.
    """
    if not lag:
        return tuple(Wave((cell - 1,), (cell,)) for cell in range(cells))
    side = math.isqrt(cells)
    steps = []
    for step in range(side + lag * (side - 1)):
        columns = [(row, step - lag * row) for row in range(side)]
        painted = tuple(row * side + column for row, column in columns if 0 <= column < side)
        fed = tuple(NOTHING if cell % side == 0 else cell - 1 for cell in painted)
        ended = tuple(row * side + side - 1 for row, column in columns if column == side)
        steps.append(Wave(fed + ended, painted))
    return tuple(steps)


def step_of(place: int, side: int, lag: int) -> int:
    """The step at which stands what is fed at a place of a row: 0 is where it begins, c + 1 the code of column c."""
    row, column = divmod(place, side + 1)
    return lag * row + column
