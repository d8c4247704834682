"""Results of slow functions, kept for the next visitor."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")

_SMALL = 2**20  # bytes

Stamp = tuple[tuple[int, int], ...]
"""Size in bytes and modification time in ns of each file."""


class Remembered(Generic[T]):
    """A function whose last results are kept; calls with one key wait for the first of them.

    An exception goes to all who wait, and is not kept.
    """

    def __init__(self, make: Callable[..., T], size: int = 4) -> None:
        self._make = make
        self._size = size
        self._made: OrderedDict[Hashable, Future[T]] = OrderedDict()
        self._lock = Lock()

    def __call__(self, *key: Hashable) -> T:
        """The result for these arguments."""
        with self._lock:
            future = self._made.get(key)
            is_first = future is None
            if future is None:
                future = self._made[key] = Future()
            self._made.move_to_end(key)
            if len(self._made) > self._size:
                self._made.popitem(last=False)
        if is_first:
            try:
                future.set_result(self._make(*key))
            except BaseException as error:
                with self._lock:
                    self._made.pop(key, None)
                future.set_exception(error)
        return future.result()

    def has(self, *key: Hashable) -> bool:
        """Whether the result for these arguments is there already."""
        future = self._made.get(key)
        return future is not None and future.done()


def stamp(paths: Iterable[Path]) -> Stamp:
    """Changes when a file does, or any file of records in a folder.

    Raises:
        OSError: A path is gone.
    """
    files = [
        file
        for path in paths
        for file in (sorted(path.rglob("*.json*")) if path.is_dir() else [path])
    ]
    facts = [file.stat() for file in files]
    return tuple((one.st_size, one.st_mtime_ns) for one in facts)


def is_small(of: Stamp) -> bool:
    """Whether files hold so little that nobody notices how long it takes to read them."""
    return sum(size for size, _ in of) <= _SMALL
