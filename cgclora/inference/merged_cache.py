"""Folded weights of the tasks that are asked for most, within a memory budget."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from threading import Lock
from weakref import WeakSet

from cgclora.adapter import Adapter
from cgclora.layer import Route

Key = tuple[str, str]
"""Names of an adapter and of its task."""


@dataclass
class _Copy:
    """Folded weights that are kept: the route through them, their bytes, and when last used."""

    route: Route
    size: int
    used: int


class FoldedWeights:
    """Keeps a copy of the adapted weights with a task folded in, for tasks that earn it.

    A batch of one such task costs what the bare backbone costs. A task is folded once enough
    batches have asked for it. Where it needs the room of other copies, the least recently used go,
    but only if so many have asked since any of those was used: tasks that take turns would fold
    each other out for ever. A batch on its way keeps what it uses until it has ended.

    Args:
        budget: Most bytes of all copies together; 0 keeps none.
        after: How many batches of a task alone are enough; they are counted anew once it was
            folded.
    """

    def __init__(self, budget: int, after: int = 4) -> None:
        self.budget = budget
        self.after = after
        self._kept: OrderedDict[Key, _Copy] = OrderedDict()
        self._asked: dict[Key, deque[int]] = {}  # when last, of tasks that are not kept
        self._batches = 0  # of one task alone; tells the time
        self._forgotten: WeakSet[Adapter] = WeakSet()
        self._lock = Lock()
        self._folding = Lock()

    @property
    def kept(self) -> tuple[Key, ...]:
        """What is folded, the least recently used first."""
        with self._lock:
            return tuple(self._kept)

    @property
    def bytes(self) -> int:
        """Bytes of all copies."""
        with self._lock:
            return sum(copy.size for copy in self._kept.values())

    def route(self, adapter: Adapter, task: str) -> Route | None:
        """The route of a batch of this task alone; None if it is not folded.

        Raises:
            ConfigError: The adapter does not know the task.
        """
        key = (adapter.name, task)
        with self._lock:
            if adapter in self._forgotten:
                return None
            self._batches += 1
            if (copy := self._kept.get(key)) is not None:
                copy.used = self._batches
                self._kept.move_to_end(key)
                return copy.route
            size = folded_bytes(adapter)
            if not self._earned(key, size) or not self._folding.acquire(blocking=False):
                return None
            for other in self._in_the_way(size):
                del self._kept[other]
            del self._asked[key]
        try:  # others may use their copies meanwhile
            route = _folded(adapter, task)
            with self._lock:
                if route is not None and adapter not in self._forgotten:
                    self._kept[key] = _Copy(route, size, self._batches)
            return route
        finally:
            self._folding.release()

    def _earned(self, key: Key, size: int) -> bool:
        """Note that a batch has asked for a task; whether it is to be folded now."""
        if size > self.budget:
            return False
        asked = self._asked.setdefault(key, deque(maxlen=self.after))
        asked.append(self._batches)
        leaving = self._in_the_way(size)
        return len(asked) == self.after and all(self._kept[o].used < asked[0] for o in leaving)

    def _in_the_way(self, size: int) -> list[Key]:
        """The copies that must go before there is room for so many bytes."""
        free = self.budget - sum(copy.size for copy in self._kept.values())
        leaving = []
        for key, copy in self._kept.items():
            if free >= size:
                break
            leaving.append(key)
            free += copy.size
        return leaving

    def forget(self, adapter: Adapter) -> None:
        """Drop an adapter's copies for good, also one that is being made."""
        with self._lock:
            self._forgotten.add(adapter)
            for key in [key for key in self._kept if key[0] == adapter.name]:
                del self._kept[key]
            for key in [key for key in self._asked if key[0] == adapter.name]:
                del self._asked[key]


def _folded(adapter: Adapter, task: str) -> Route | None:
    """A new copy; None where there is no memory for it, or the adapter is being detached."""
    try:
        return Route(adapter.folded_weights(task))
    except (AttributeError, MemoryError, RuntimeError):  # the last one: torch, without memory
        return None


def folded_bytes(adapter: Adapter) -> int:
    """Bytes of a copy of the weights that an adapter adapts; beyond any budget if quantised."""
    weights = [layer.base_layer.weight for layer in adapter.layers.values()]
    if not all(weight.is_floating_point() for weight in weights):
        return 1 << 62
    return sum(weight.numel() * weight.element_size() for weight in weights)
