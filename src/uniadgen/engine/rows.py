"""The rows of a step: those in which some of the ads stand, or all of them, filled up to a size."""

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor

from uniadgen.engine.making import Making
from uniadgen.engine.slots import Slots

Owner = tuple[Making, int]  # of a row: an ad, and which branch of guidance


class Rows:
    """The rows of R ads, group by group, and what of them is on the device; it is so until somebody comes or goes.

    As many as `padded` makes of their number: last rows of groups stand there again. Such a row finds and keeps what it
    does where it stands first, at the same place, and nobody looks at it. `pictures` are the ads, the last one again.
    """

    def __init__(
        self,
        ads: Sequence[Making],
        groups: Iterable[Slots],
        place: Callable[[Sequence[object]], Tensor],
        padded: Callable[[int], int],
    ) -> None:
        self.ads = tuple(ads)
        self.pictures = [*ads, *[ads[-1]] * (padded(len(ads)) - len(ads))]
        number = {ad: number for number, ad in enumerate(ads)}
        chosen = [(group, [owner for owner in group.owners if owner[0] in number]) for group in groups]
        chosen = [(group, owners) for group, owners in chosen if owners]
        parts = [owners for _, owners in chosen]
        total = sum(map(len, parts))
        for _ in range(padded(total) - total):
            least = min(parts, key=len)  # so that the longest is as long for all numbers of one size, if it can be
            least.append(least[-1])
        self.groups = [group.some(owners) for group, owners in chosen]
        owners: list[Owner] = [owner for group in self.groups for owner in group.owners]
        self.row_of = {owner: row for row, owner in reversed([*enumerate(owners)])}  # the first one of each
        self.starts = [(ad.lengths[branch], number[ad]) for ad, branch in owners]
        self.owner = place([owner for _, owner in self.starts])
        self.start = place([start for start, _ in self.starts])[:, None]
        slots = [ad.slot for ad in ads]
        self.slot = place(slots)[:, None]
        in_turn = slots == [*range(slots[0], slots[0] + len(slots))]
        self.slots = slice(slots[0], slots[0] + len(slots)) if in_turn else self.slot[:, 0]  # nothing is copied then
        same = len(self.pictures) == len(ads)
        self.picture_slots = self.slots if same else place([ad.slot for ad in self.pictures])
        self.control_row = place([2 * ad.slot + branch for ad, branch in owners])[:, None]
        self.controls: Tensor | None = None  # of all cells, once they are needed
        row_of = self.row_of
        self.branches = [[row_of.get((ad, branch), row_of[ad, 0]) for ad in self.pictures] for branch in (0, 1)]
