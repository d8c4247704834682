"""A function compiled where that can be done, and as it is where it cannot."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch


class Compiled:
    """A function by `torch.compile`; the first failure gives a warning and ends the attempts.

    Args:
        function: What to compile; what it changes in place it must set, not add to.
        backend: One of `torch.compile`, such as `inductor`; None compiles nothing.
    """

    def __init__(self, function: Callable[..., Any], backend: str | None) -> None:
        self._function = function
        self._compiled = torch.compile(function, backend=backend) if backend else function

    @property
    def is_compiled(self) -> bool:
        """Whether it is, as far as is known."""
        return self._compiled is not self._function

    def __call__(self, *arguments: Any) -> Any:
        """What the function gives.

        Raises:
            OutOfMemoryError: The device has no memory left: without compiling it needs more.
        """
        if not self.is_compiled:
            return self._function(*arguments)
        try:
            return self._compiled(*arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever is missing: a compiler, Triton, a kernel
            warn(f"torch.compile failed, so answers come without it: {error}")
            self._compiled = self._function
            return self._function(*arguments)


def warn(words: str) -> None:
    """Warn of something that makes answers slower, in a line."""
    warnings.warn(" ".join(words.split())[:500], RuntimeWarning, stacklevel=3)
