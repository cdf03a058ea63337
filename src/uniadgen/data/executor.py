"""Where tasks run: in this process, in several, or on a Ray cluster; what they write is the same."""

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

Task = Callable[..., int]  # pure and idempotent; returns how many rows are done
Execute = Callable[[Task, Sequence[tuple[Any, ...]]], Iterator[int]]  # runs a task on each tuple of arguments


@contextmanager
def processes(number: int) -> Iterator[Execute]:
    """Tasks in `number` processes of this machine; 1: in this one. Raises `ChildProcessError` when one is killed."""
    if number == 1:
        yield lambda task, arguments: (task(*each) for each in arguments)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(number, mp_context=context, initializer=end_with_parent) as pool:

        def execute(task: Task, arguments: Sequence[tuple[Any, ...]]) -> Iterator[int]:
            futures = [pool.submit(task, *each) for each in arguments]
            try:
                yield from (future.result() for future in as_completed(futures))
            except BrokenProcessPool:
                raise ChildProcessError(
                    "a worker was killed, most often because memory ran out: run the same command again, what is done "
                    "is kept; fewer --processes need less memory"
                ) from None
            finally:
                for future in futures:
                    future.cancel()

        yield execute


@contextmanager
def on_ray(address: str) -> Iterator[Execute]:
    """Tasks on a Ray cluster whose machines share the folders; `local` starts one here. Killed workers are replaced.

    What a task raises is raised here as it was. Raises `ChildProcessError` when workers are killed again and again.
    """
    import ray  # pyright: ignore[reportMissingImports] - an extra that not everyone has
    from ray.exceptions import RayError, RayTaskError  # pyright: ignore[reportMissingImports]

    ray.init(address=address, log_to_driver=False, include_dashboard=False if address == "local" else None)
    try:

        def execute(task: Task, arguments: Sequence[tuple[Any, ...]]) -> Iterator[int]:
            remote = ray.remote(num_cpus=1, max_retries=5)(task)
            waiting = [remote.remote(*each) for each in arguments]
            while waiting:
                done, waiting = ray.wait(waiting)
                try:
                    yield ray.get(done[0])
                except RayTaskError as error:
                    raise error.cause from None
                except RayError as error:
                    said = str(error).strip().splitlines()[0]
                    raise ChildProcessError(
                        f"a task was lost on Ray ({said}): run the same command again, what is done is kept"
                    ) from None

        yield execute
    finally:
        ray.shutdown()


def end_with_parent() -> None:
    """A worker whose parent was killed ends too, so that nothing is written behind the back of the next build."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "only workers call this"

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
