"""Work for the model's process that nobody would ask for."""

import os
import time
from collections.abc import Generator

from ui.engine.models import Models


def fail(models: Models, error: Exception) -> Generator[int]:
    """One value, then an error."""
    yield os.getpid()
    raise error


def count(models: Models) -> Generator[int]:
    """Count without end."""
    number = 0
    try:
        while True:
            yield number
            number += 1
            time.sleep(0.01)
    finally:
        _closed.append(number)


_closed: list[int] = []


def closed(models: Models) -> Generator[int]:
    """How often `count` was closed."""
    yield len(_closed)
