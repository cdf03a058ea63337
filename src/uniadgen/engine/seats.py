"""Where ads in the making sit: who has which slot, and what the device keeps for it."""

from collections.abc import Callable, Hashable, Sequence
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
from uniadgen.engine.recent import Recent
from uniadgen.engine.rows import Owner, Rows
from uniadgen.engine.sampling import settle
from uniadgen.engine.slots import Slots

MOST = 16  # positions of one ad in a step: of more drafts hardly one is right
CHOICES = 2  # whose rows are remembered: those who paint, and the others


class Seats:
    """A slot for each of so many ads, and a row for each of its branches of guidance.

    What is kept for a slot stays where it is, whoever comes and goes. Rows of one prompt share it; all others stand
    with those of their branch, of whoever they are.
    """

    def __init__(self, engine: Engine, layout: Layout, num_slots: int) -> None:
        self.engine, self.device, self.num_slots = engine, engine.device, num_slots
        self.padded = engine.painter.padded if engine.painter else int  # as many as there are
        self.ads: list[Making] = []  # by the time they joined
        self.free = [*reversed(range(num_slots))]
        self.groups: dict[Hashable, Slots] = {}
        self.chosen: Recent[Rows] = Recent(CHOICES)
        self.cells, size = layout.config.cells, layout.config.model.num_codes
        self.side, lag = isqrt(self.cells), engine.model.config.row_lag
        self.most = min(max(engine.positions, engine.cells), MOST)  # positions of one ad in a step
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
            ad.join(self.free.pop(), lengths[place::number], ads[0], self.device)
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
        self.chosen = Recent(CHOICES)

    def leave(self, ad: Making) -> None:
        """Out of its slot, if it has one, with all that it kept there."""
        if ad in self.ads:
            self.ads.remove(ad)
            self.free.append(ad.slot)
            self._empty([(ad, 0), (ad, 1)])

    def end_guidance(self) -> None:
        """The other branch of who is not guided any more leaves."""
        here = {owner for group in self.groups.values() for owner in group.owners}
        self._empty([(ad, 1) for ad in self.ads if not ad.guided and (ad, 1) in here])

    def rows(self, ads: Sequence[Making]) -> Rows:
        """Those of some ads, in the order in which they joined."""
        return self.chosen.get(tuple(ads), lambda: Rows(ads, self.groups.values(), self.place, self.padded))

    def rows_of(self, ad: Making) -> Callable[[], Int[Tensor, "1 k"]]:
        """The codes of all its whole rows of cells, on the host, as they are now: waited for where they are taken."""
        codes = self.codes[ad.slot, : ad.rows * self.side][None]
        if self.device.type != "cuda":
            kept = codes.clone()
            return lambda: kept
        kept = torch.empty_like(codes, device="cpu", pin_memory=True).copy_(codes, non_blocking=True)
        there = torch.cuda.Event()
        there.record()
        return lambda: (there.synchronize(), kept)[1]

    def place(self, numbers: Sequence[object]) -> Tensor:
        """Numbers of the host, on the device, which nobody waits for."""
        array = np.array(numbers)  # many times as fast as torch.tensor
        tensor = torch.from_numpy(array.astype(np.float32) if array.dtype == np.float64 else array)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def canvas(self, rows: Rows) -> Canvas:
        """Where the pictures of these ads stand, and the last one again where there are to be more."""
        if rows.controls is None and self.control is not None:
            rows.controls = self.control[rows.control_row[:, 0]]
        offset = self.place([ad.begun for ad in rows.ads])[:, None]
        return Canvas(
            codes=self.codes[rows.picture_slots],
            cell=self.place([ad.wave for ad in rows.pictures]),
            end=self.place([ad.end for ad in rows.pictures]),
            known=None if self.known is None else self.known[rows.picture_slots],
            noise=self.noise.table[rows.picture_slots],
            guidance=self.place([float(ad.guidance) for ad in rows.pictures])[:, None, None],
            start=rows.start + offset[rows.owner],
            owner=rows.owner,
            branches=self.place(rows.branches),
            control=rows.controls,
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
        self.chosen = Recent(CHOICES)
