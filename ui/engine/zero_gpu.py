"""A Space on ZeroGPU, where a GPU comes with the call of a marked function and goes with its end.

There the hub's package `spaces`, a part of the image, runs marked functions in forks of this
process; everywhere else they are run on few threads. What the app has to heed there:

* Only the main thread may put a model on `cuda`, and only before the page is served: the package
  acts as the device on that thread, and packs what lies there when the page is served.
* From then on the weights are in the forks alone. What this process needs of them, as the gates
  that it draws, has to be taken before: read afterwards, their values are just any.
* What goes into a fork and what comes out is pickled, and nothing else comes out.
* A fork lives on and is called again, so an adapter that joins later would not be there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, Self, TypeVar
from weakref import WeakValueDictionary

from ui.engine.model_threads import on_few_threads

if TYPE_CHECKING:
    from cgclora.models.backbone import Backbone

P = ParamSpec("P")
T = TypeVar("T")

ZERO_GPU = os.environ.get("SPACES_ZERO_GPU", "").lower() in {"1", "t", "true"}
"""Whether this process runs there."""

_SECONDS = 45
"""How long one call may take: the package ends what takes longer, and grants short ones sooner."""


@dataclass(frozen=True)
class _Refusal:
    """What a fork gives in place of an error of ours, of which only the name would come out."""

    error: ValueError


def on_gpu(work: Callable[P, Generator[T]]) -> Callable[P, Generator[T]]:
    """Mark a generator function that works with the model.

    Its arguments and what it yields can be pickled. On ZeroGPU, a `ValueError` comes out as it is,
    any other error as the package's own.
    """
    if not ZERO_GPU:
        return on_few_threads(work)
    import spaces  # noqa: PLC0415 - it is there alone

    @spaces.GPU(duration=_SECONDS)  # type: ignore[untyped-decorator]
    @wraps(work)
    def forked(*arguments: P.args, **options: P.kwargs) -> Generator[T | _Refusal]:
        try:
            yield from work(*arguments, **options)
        except ValueError as error:
            yield _Refusal(error)

    @wraps(work)
    def called(*arguments: P.args, **options: P.kwargs) -> Generator[T]:
        with closing(forked(*arguments, **options)) as found:
            for one in found:
                if isinstance(one, _Refusal):
                    raise one.error
                yield one

    return called


class Inherited:
    """Base of what a fork has from the start, so that it is pickled as a name."""

    _known: ClassVar[WeakValueDictionary[int, Inherited]] = WeakValueDictionary()

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Be known to all forks to come."""
        made = super().__new__(cls)
        cls._known[id(made)] = made
        return made

    def __reduce__(self) -> tuple[Callable[[int], Inherited], tuple[int]]:
        """By name: the weights of a model would be too much to send."""
        return _inherited, (id(self),)


def _inherited(name: int) -> Inherited:
    return Inherited._known[name]


def to_gpu(backbone: Backbone) -> None:
    """Put a backbone where the forks will find it; to be called on the main thread."""
    backbone.model.to("cuda")  # type: ignore[arg-type]
    from cgclora.inference.runtime import Runtime  # noqa: PLC0415 - torch is loaded by now

    _ = Runtime.of(backbone).is_fast  # now: other threads do not see the device
    lock = backbone.lock

    def release() -> None:
        lock.__exit__(None, None, None)

    # A fork that begins while another thread holds the lock would wait for it for ever.
    os.register_at_fork(before=lock.__enter__, after_in_parent=release, after_in_child=release)
