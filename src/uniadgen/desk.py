"""A desk that takes orders for ads from any thread; one thread makes them, side by side."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from threading import Event

import torch

from uniadgen.engine.loop import Progress
from uniadgen.engine.scheduler import Scheduler
from uniadgen.pipeline import AdGenerator, Asked, Update
from uniadgen.records import Ad, Click, Example, Product

IDLE = 0.1  # s after which one who sleeps looks whether the desk has been closed


class Desk:
    """Makes up to `num_slots` ads side by side; at most `queue` more may wait.

        desk = Desk(AdGenerator.from_pretrained("nano"))
        Thread(target=desk.work).start()
        ad = desk.order(product, clicks, seed=7).ad()  # in any thread
        desk.close()

    An ad is the very one that `AdGenerator.generate` makes of the same request.
    """

    def __init__(self, generator: AdGenerator, num_slots: int = 8, queue: int = 64) -> None:
        self.generator = generator
        self.scheduler = Scheduler(
            generator.engine, generator.layout, generator.config.generate, num_slots=num_slots, queue=queue
        )
        self.closed = Event()

    def order(
        self, product: Product, history: Sequence[Click] = (), *, seed: int = 0, guidance: float | None = None
    ) -> "Order":
        """Asks for an ad.

        Raises `ValueError` for a request that is none, or once the desk is closed; `QueueFull` where too many wait.
        """
        if self.closed.is_set():
            raise ValueError("the desk is closed, expected an open one: make a new one")
        return Order(self, self.generator.ask([Example(product, tuple(history))], [seed], guidance))

    def work(self) -> None:
        """Makes what is ordered, until the desk is closed; what is not done then is given up."""
        while not self.closed.is_set():
            if not self.scheduler.step():
                self.scheduler.wait(IDLE)
        self.scheduler.clear()

    def close(self) -> None:
        """Ends the work, within one step."""
        self.closed.set()
        self.scheduler.bell.ring()


class Order:
    """One ad that was ordered. `updates` or `ad`, either of them once."""

    def __init__(self, desk: Desk, asked: Asked) -> None:
        self.generator, self.scheduler, self.asked = desk.generator, desk.scheduler, asked
        self.passes = desk.generator.layout.passes
        self.noise = [torch.Generator().manual_seed(seed) for seed in asked.seeds]
        self._submit(self.passes[0])

    def cancel(self) -> None:
        """Gives the ad up."""
        self.ticket.cancel()

    def updates(self) -> Iterator[Update]:
        """An `Update` after every word and every painted row, as it comes; the last one has the `ad`.

        Ends early where the ad was given up; raises what went wrong, if anything did.
        """
        for progress in self._progress():
            if progress.done:
                (ad,) = self.generator.finish(self.asked, progress)
                yield Update(ad.text, ad.picture, True, ad)
            else:
                yield self.generator.update(progress)

    def ad(self) -> Ad | None:
        """The ad, once it is there; None where it was given up."""
        *_, last = (None, *self._progress())
        return self.generator.finish(self.asked, last)[0] if last is not None and last.done else None

    def _submit(self, modality: str, texts: Sequence[str] | None = None) -> None:
        """One pass; one that follows another has waited already."""
        points = [example.product.selling_points for example in self.asked.examples]
        (self.ticket,) = self.scheduler.submit(
            self.generator.lay_out(self.asked, texts),
            self.noise,
            points,
            modality,
            guidance=self.asked.config.guidance,
            goes_on=texts is not None,
        )

    def _progress(self) -> Iterator[Progress]:
        """Of all passes; only the last one's end is `done`."""
        words: tuple[tuple[int, ...], ...] = ((),)
        for number, modality in enumerate(self.passes):
            if number:
                self._submit(modality, [self.generator.layout.text_of(words[0])])
            progress = None
            for progress in self.ticket.events():
                words = progress.words if "text" in modality else words
                if not progress.done or modality == self.passes[-1]:
                    yield replace(progress, words=words)
            if progress is None or not progress.done:
                return
