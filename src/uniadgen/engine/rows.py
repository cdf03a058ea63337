"""The rows of a step: those in which some of the ads stand, or all of them."""

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor

from uniadgen.engine.making import Making
from uniadgen.engine.slots import Slots

Owner = tuple[Making, int]  # of a row: an ad, and which branch of guidance


class Rows:
    """The rows of R ads, group by group, and what of them is on the device; it is so until somebody comes or goes."""

    def __init__(
        self, ads: Sequence[Making], groups: Iterable[Slots], place: Callable[[Sequence[object]], Tensor]
    ) -> None:
        self.ads = tuple(ads)
        number = {ad: number for number, ad in enumerate(ads)}
        chosen = [(group, [owner for owner in group.owners if owner[0] in number]) for group in groups]
        self.groups = [group.some(owners) for group, owners in chosen if owners]
        owners: list[Owner] = [owner for group in self.groups for owner in group.owners]
        self.row_of = {owner: row for row, owner in enumerate(owners)}
        self.starts = [(ad.lengths[branch], number[ad]) for ad, branch in owners]
        self.owner = place([owner for _, owner in self.starts])
        self.start = place([start for start, _ in self.starts])[:, None]
        slots = [ad.slot for ad in ads]
        self.slot = place(slots)[:, None]
        in_turn = slots == [*range(slots[0], slots[0] + len(slots))]
        self.slots = slice(slots[0], slots[0] + len(slots)) if in_turn else self.slot[:, 0]  # nothing is copied then
        self.control_row = place([2 * ad.slot + branch for ad, branch in owners])[:, None]
        self.controls: Tensor | None = None  # of all cells, once they are needed
        row_of = self.row_of
        self.branches = [[row_of.get((ad, branch), row_of[ad, 0]) for ad in ads] for branch in (0, 1)]
