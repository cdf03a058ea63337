"""Batches are made ahead of their step by other processes, so that a GPU need not wait for them."""

import io
import itertools
import multiprocessing
import os
import pickle
import signal
import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from uniadgen.data.executor import end_with_parent

Make = Callable[[int], Sequence[Any]]  # the batches of a step, a pure function of it
BESIDE_A_GPU = 4  # workers, where there are cores for them
_make: Make  # of a worker


def num_workers(wanted: int, on_gpu: bool, world: int) -> int:
    """How many workers each of `world` processes has; -1: some beside a GPU, none elsewhere."""
    if wanted >= 0:
        return wanted
    return max(1, min(BESIDE_A_GPU, (os.cpu_count() or 1) // world - 1)) if on_gpu else 0


def made_ahead(make: Make, steps: range, workers: int, window: int) -> Generator[Sequence[Any], None, None]:
    """`make(step)` of all steps in turn, whoever makes them: a worker makes those of a window of steps in one go.

    Without workers each is made when it is asked for. Workers are forked, so they share what `make` holds. Raises what
    `make` raises, and `ChildProcessError` when a worker was killed.
    """
    if not workers:
        yield from map(make, steps)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _start, (make,))
    waiting: deque[Future[bytes]] = deque()
    try:
        for _, window_steps in itertools.groupby(steps, lambda step: step // window):
            with warnings.catch_warnings():  # Python 3.12 warns of forks beside threads; no worker needs their locks
                warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
                waiting.append(pool.submit(_window, list(window_steps)))
            if len(waiting) > workers:
                yield from pickle.loads(waiting.popleft().result())
        while waiting:
            yield from pickle.loads(waiting.popleft().result())
    except BrokenProcessPool:
        raise ChildProcessError(
            "a process that makes batches was killed, most often because memory ran out: run the same command again, "
            "it goes on from the last checkpoint; fewer train.workers need less memory"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start(make: Make) -> None:
    global _make
    _make = make
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    torch.set_num_threads(1)  # the parent's threads are not here, and torch would wait for them
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # nor are those of tokenizers, which would say so


def _window(steps: list[int]) -> bytes:
    written = io.BytesIO()
    _Pickler(written, protocol=5).dump([_make(step) for step in steps])
    return written.getvalue()


class _Pickler(pickle.Pickler):
    """Sends tensors as arrays: ten times as fast as torch's own pickling, and no shared memory to run out of."""

    def reducer_override(self, thing: Any) -> Any:
        return (torch.from_numpy, (thing.numpy(),)) if isinstance(thing, torch.Tensor) else NotImplemented
