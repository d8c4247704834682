"""A function compiled where that can be done, and as it is where it cannot."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


class Compiled:
    """A function by `torch.compile`; the first failure gives a warning and ends the attempts.

    Args:
        function: What to compile; what it changes in place it must set, not add to.
        backend: One of `torch.compile`, such as `inductor`; None compiles nothing.
        dynamic: As for `torch.compile`.
    """

    def __init__(
        self, function: Callable[..., Any], backend: str | None, *, dynamic: bool | None = None
    ) -> None:
        self._function = function
        self._compiled = (
            torch.compile(function, backend=backend, dynamic=dynamic) if backend else function
        )

    @property
    def is_compiled(self) -> bool:
        """Whether it is, as far as is known."""
        return self._compiled is not self._function

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """What the function gives.

        Raises:
            OutOfMemoryError: The device has no memory left: without compiling it needs more.
        """
        if not self.is_compiled:
            return self._function(*arguments, **options)
        try:
            return self._compiled(*arguments, **options)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever is missing: a compiler, Triton, a kernel
            warn(f"torch.compile failed, so the work goes on without it: {error}")
            self._compiled = self._function
            return self._function(*arguments, **options)


FUSED: dict[str, str | None] = {"cuda": "inductor"}
"""Backend with which steps between products are compiled, by the device's type; elsewhere none."""


def fused(function: Callable[P, T]) -> Callable[P, T]:
    """A function of tensors, compiled on GPUs: one pass over memory where there would be many.

    Whatever fits is compiled once for all sizes. What is compiled is an element-wise chain and no
    whole layer: it holds no product, no module and no state, so that little can go wrong, and the
    products stay those of the vendor's library.
    """
    made: dict[object, Compiled] = {}  # by backend

    @functools.wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> T:
        kind = next(one.device.type for one in arguments if isinstance(one, torch.Tensor))
        backend = FUSED.get(kind)
        if backend is None:
            return function(*arguments, **options)
        if backend not in made:
            made[backend] = Compiled(function, backend, dynamic=True)
        found: T = made[backend](*arguments, **options)
        return found

    return call


def warn(words: str) -> None:
    """Warn of something that makes answers slower, in a line."""
    warnings.warn(" ".join(words.split())[:500], RuntimeWarning, stacklevel=3)
