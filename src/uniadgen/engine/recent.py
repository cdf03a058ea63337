"""What was made last is kept, and what was not needed for long is forgotten."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """The values made last, at most `size` of them, by their keys."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.values: OrderedDict[Hashable, Value] = OrderedDict()
        self.lock = Lock()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of that key, made where it is not here."""
        return self.get_all([key], lambda missing: [make() for _ in missing])[0]

    def clear(self) -> None:
        """Forgets everything."""
        with self.lock:
            self.values.clear()

    def get_all(self, keys: Sequence[Hashable], make: Callable[[list[Hashable]], Iterable[Value]]) -> list[Value]:
        """The values of these keys; those that are not here are made together, each key's once."""
        here = ((key, self.values.get(key)) for key in keys)
        found = {key: value for key, value in here if value is not None}
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        if missing:  # two threads may both make it: better than that one waits for another's
            found |= zip(missing, make(missing), strict=True)
        with self.lock:
            for key, value in found.items():
                self.values[key] = value
                self.values.move_to_end(key)
            while len(self.values) > self.size:
                self.values.popitem(last=False)
        return [found[key] for key in keys]
