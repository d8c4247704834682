"""Work with the model on few threads.

Torch keeps what it compiled for each thread that computed anything, and a team of helpers besides.
On the threads of the page's events, any of a hundred, that came to more than a gigabyte.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 2
_pool = ThreadPoolExecutor(_THREADS, "model")


def on_few_threads(work: Callable[P, Generator[T]]) -> Callable[P, Generator[T]]:
    """Have the steps of a generator function done there, each when a thread is free."""

    @wraps(work)
    def called(*arguments: P.args, **options: P.kwargs) -> Generator[T]:
        end = object()
        with closing(work(*arguments, **options)) as steps:
            while (found := _pool.submit(next, steps, end).result()) is not end:
                yield found  # type: ignore[misc]

    return called
