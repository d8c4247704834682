"""Support for Spaces on ZeroGPU, which attach a GPU only while a marked function runs.

The package `spaces`, part of the Space's image, runs marked functions in forks of this process;
elsewhere they run in the model thread pool. ZeroGPU sets these rules:

* Only the main thread may move a model to `cuda`, and only before the page is served: the package
  emulates the device on that thread, and packs the weights when the page is served.
* After that only the forks have the weights. What this process needs of them, such as the gates
  that it draws, must be read before: later reads return arbitrary values.
* Arguments and results of a fork are pickled, and nothing else comes back.
* Forks are reused, so an adapter that is added later would be missing there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, Self, TypeVar
from weakref import WeakValueDictionary

from ui.engine.model_threads import in_thread_pool

if TYPE_CHECKING:
    from cgclora.models.backbone import Backbone

P = ParamSpec("P")
T = TypeVar("T")

ZERO_GPU = os.environ.get("SPACES_ZERO_GPU", "").lower() in {"1", "t", "true"}
"""Whether this process runs there."""

_SECONDS = 45
"""Time limit of one call: longer ones are killed, shorter ones are scheduled sooner."""


@dataclass(frozen=True)
class _Refusal:
    """Carries an error out of a fork, from which only its name would come."""

    error: ValueError


def on_gpu(work: Callable[P, Generator[T]]) -> Callable[P, Generator[T]]:
    """Mark a generator function that computes with the model.

    Its arguments and the values it yields must be picklable. On ZeroGPU a `ValueError` is raised
    unchanged, any other error as the package's own.
    """
    if not ZERO_GPU:
        return in_thread_pool(work)
    import spaces  # noqa: PLC0415 - installed on Spaces only

    @spaces.GPU(duration=_SECONDS)  # type: ignore[untyped-decorator]
    @wraps(work)
    def forked(*arguments: P.args, **options: P.kwargs) -> Generator[T | _Refusal]:
        try:
            yield from work(*arguments, **options)
        except ValueError as error:
            yield _Refusal(error)

    @wraps(work)
    def called(*arguments: P.args, **options: P.kwargs) -> Generator[T]:
        with closing(forked(*arguments, **options)) as results:
            for result in results:
                if isinstance(result, _Refusal):
                    raise result.error
                yield result

    return called


class Inherited:
    """Base of objects that every fork inherits, so that they are pickled as an id."""

    _instances: ClassVar[WeakValueDictionary[int, Inherited]] = WeakValueDictionary()

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Register the object for all later forks."""
        made = super().__new__(cls)
        cls._instances[id(made)] = made
        return made

    def __reduce__(self) -> tuple[Callable[[int], Inherited], tuple[int]]:
        """Pickle the id alone: the weights of a model are too large to send."""
        return _inherited, (id(self),)


def _inherited(key: int) -> Inherited:
    return Inherited._instances[key]


def to_gpu(backbone: Backbone) -> None:
    """Move a backbone to the device that the forks use; call on the main thread."""
    backbone.model.to("cuda")  # type: ignore[arg-type]
    from cgclora.inference.runtime import Runtime  # noqa: PLC0415 - torch is loaded by now

    _ = Runtime.of(backbone).is_fast  # computed now: other threads do not see the device
    lock = backbone.lock

    def release() -> None:
        lock.__exit__(None, None, None)

    # A fork made while another thread holds the lock would wait for it for ever.
    os.register_at_fork(before=lock.__enter__, after_in_parent=release, after_in_child=release)
