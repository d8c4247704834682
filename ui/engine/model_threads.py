"""A small thread pool for model work.

Torch keeps compiled code and a team of helper threads for every thread that computes anything.
Computing on the page's event threads, which may be a hundred, took more than a gigabyte.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_pool = ThreadPoolExecutor(2, "model")


def in_thread_pool(work: Callable[P, Generator[T]]) -> Callable[P, Generator[T]]:
    """Run each step of a generator function in the model thread pool."""

    @wraps(work)
    def pooled(*arguments: P.args, **options: P.kwargs) -> Generator[T]:
        end = object()
        with closing(work(*arguments, **options)) as steps:
            while (step := _pool.submit(next, steps, end).result()) is not end:
                yield step  # type: ignore[misc]

    return pooled
