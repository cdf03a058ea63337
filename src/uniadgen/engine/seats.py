"""Where ads in the making sit: who has which slot, what the device keeps for it, and the rows of a step."""

from collections.abc import Hashable, Sequence
from math import isqrt

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from uniadgen.data.prompt import Layout
from uniadgen.data.waves import waves
from uniadgen.engine.canvas import Canvas, Staggered
from uniadgen.engine.engine import Engine
from uniadgen.engine.layers import Prefix
from uniadgen.engine.making import Making
from uniadgen.engine.noise import PictureNoise
from uniadgen.engine.reading import Read
from uniadgen.engine.sampling import settle
from uniadgen.engine.slots import Slots

MOST = 16  # positions of one ad in a step: of more drafts hardly one is right
Owner = tuple[Making, int]  # of a row: an ad, and which branch of guidance


class Seats:
    """A slot for each of so many ads, and a row for each of its branches of guidance.

    What is kept for a slot stays where it is, whoever comes and goes. Rows of one prompt share it; all others stand
    with those of their branch, of whoever they are.
    """

    def __init__(self, engine: Engine, layout: Layout, num_slots: int) -> None:
        self.engine, self.device, self.num_slots = engine, engine.device, num_slots
        self.ads: list[Making] = []  # by the time they joined
        self.free = [*reversed(range(num_slots))]
        self.groups: dict[Hashable, Slots] = {}
        self.cells, size = layout.config.cells, layout.config.model.num_codes
        self.side, lag = isqrt(self.cells), engine.model.config.row_lag
        self.most = min(engine.positions, MOST)  # positions of one ad in a step
        self.widest = self.most  # with those of staggered rows
        unseen = self.most * (engine.painter.unseen if engine.painter else 1)
        self.staggered: Staggered | None = None
        if lag:
            begin = engine.model.get_input_embeddings()(torch.tensor(layout.start_image, device=self.device))
            self.staggered = Staggered.of(waves(self.cells, lag), begin.detach())
            self.widest = max(self.most, self.staggered.fed.shape[1])
            unseen = self.side * -(-self.side // lag)  # of all rows that grow at once
        # With place for drafts beyond the last cell.
        self.codes = torch.zeros(num_slots, self.cells + 2 * self.most, dtype=torch.long, device=self.device)
        self.noise = PictureNoise(num_slots, self.side, unseen, size, self.device)
        self.control: Tensor | None = None  # (2 slots, K + 1, C): the last cell is none, and has none
        self.known: Tensor | None = None  # (slots, K + drafts): codes of cells that are not sampled, -1 for others
        self.alike: Tensor | None = None  # (2 slots, V), where the model has a word preference
        if engine.model.config.word_preference:
            self.alike = torch.zeros(2 * num_slots, engine.model.config.text_config.vocab_size, device=self.device)

    def join(self, ads: Sequence[Making], found: Read) -> None:
        """Ads that were read together sit down. Where this fails, they are to `leave`."""
        number = len(ads)
        lengths = [prefix.keys.shape[2] for prefix in found.prefixes]
        for place, ad in enumerate(ads):
            ad.join(self.free.pop(), lengths[place::number])
            self.ads.append(ad)
            if found.known is not None:
                self._keep_known(ad.slot, found.known[place])
        room = max(ad.room for ad in ads) + self.widest - 1
        self.engine.layers.reserve(max(lengths) + room)
        for row, prefix in enumerate(found.prefixes):
            ad, branch = ads[row % number], row // number
            same = sum(other is prefix for other in found.prefixes)
            if same > 1:
                group = self._group((ads[0], id(prefix)), prefix, same, room, shared=True)
            else:
                longest = max(lengths[branch * number : (branch + 1) * number])
                group = self._group(branch, prefix, self.num_slots, longest + room, shared=False)
            group.join((ad, branch), prefix)
            if found.control is not None:
                self._keep_control(2 * ad.slot + branch, found.control[row])
            if self.alike is not None and found.alike is not None:
                self.alike[2 * ad.slot + branch] = found.alike[row]
        self._arrange()

    def leave(self, ad: Making) -> None:
        """Out of its slot, if it has one, with all that it kept there."""
        if ad in self.ads:
            self.ads.remove(ad)
            self.free.append(ad.slot)
            self._empty([(ad, 0), (ad, 1)])

    def end_guidance(self) -> None:
        """The other branch of who is not guided any more leaves."""
        self._empty([(ad, 1) for ad in self.ads if not ad.guided and (ad, 1) in self.row_of])

    def rows_of(self, ad: Making) -> Int[Tensor, "1 k"]:
        """The codes of all its whole rows of cells, on the host: others take the slot."""
        return self.codes[ad.slot, : ad.rows * self.side].to("cpu", copy=True)[None]

    def place(self, numbers: Sequence[object]) -> Tensor:
        """Numbers of the host, on the device, which nobody waits for."""
        array = np.array(numbers)  # many times as fast as torch.tensor
        tensor = torch.from_numpy(array.astype(np.float32) if array.dtype == np.float64 else array)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def canvas(self) -> Canvas:
        """Where the pictures of all ads stand."""
        if self.controls is None and self.control is not None:
            self.controls = self.control[self.control_row[:, 0]]
        rows = [[self.row_of.get((ad, branch), self.row_of[ad, 0]) for ad in self.ads] for branch in (0, 1)]
        offset = self.place([ad.begun for ad in self.ads])[:, None]
        return Canvas(
            codes=self.codes[self.slots],
            cell=self.place([ad.wave for ad in self.ads]),
            end=self.place([ad.end for ad in self.ads]),
            known=None if self.known is None else self.known[self.slots],
            noise=self.noise.table[self.slots],
            guidance=self.place([float(ad.guidance) for ad in self.ads])[:, None, None],
            start=self.start + offset[self.owner],
            owner=self.owner,
            branches=self.place(rows),
            control=self.controls,
            staggered=self.staggered,
        )

    def _group(self, key: Hashable, prefix: Prefix, capacity: int, room: int, shared: bool) -> Slots:
        if key not in self.groups:
            self.groups[key] = Slots(prefix, capacity, room, prefix if shared else None, self.engine.cache_dtype)
        self.groups[key].reserve(room)
        return self.groups[key]

    def _keep_control(self, row: int, control: Float[Tensor, "K C"]) -> None:
        if self.control is None:
            self.control = control.new_zeros(2 * self.num_slots, self.cells + 1, control.shape[-1])
        self.control[row, : self.cells] = control

    def _keep_known(self, slot: int, known: Int[Tensor, "K"]) -> None:
        """They are also their own drafts, which are always right."""
        if self.known is None:
            self.known = torch.full_like(self.codes, -1)
        self.known[slot, : self.cells] = known
        self.codes[slot] = settle(self.codes[slot], self.known[slot])

    def _empty(self, owners: Sequence[Owner]) -> None:
        """Their rows are free."""
        if not owners:
            return
        for key, group in tuple(self.groups.items()):
            for owner in [owner for owner in owners if owner in group.owners]:
                group.leave(owner)
            if group.shared is not None and not group.owners:
                del self.groups[key]
        self._arrange()

    def _arrange(self) -> None:
        """Who stands in which row: after somebody came or went."""
        self.in_use = [group for group in self.groups.values() if group.owners]
        owners: list[Owner] = [owner for group in self.in_use for owner in group.owners]
        number = {ad: number for number, ad in enumerate(self.ads)}
        self.row_of = {owner: row for row, owner in enumerate(owners)}
        self.starts = [(ad.lengths[branch], number[ad]) for ad, branch in owners]
        self.owner = self.place([owner for _, owner in self.starts])
        self.start = self.place([start for start, _ in self.starts])[:, None]
        slots = [ad.slot for ad in self.ads]
        self.slot = self.place(slots)[:, None]
        in_turn = bool(slots) and slots == [*range(slots[0], slots[0] + len(slots))]
        self.slots = slice(slots[0], slots[0] + len(slots)) if in_turn else self.slot[:, 0]  # nothing is copied then
        self.controls: Tensor | None = None  # of all rows, once they are needed
        self.control_row = self.place([2 * ad.slot + branch for ad, branch in owners])[:, None]
