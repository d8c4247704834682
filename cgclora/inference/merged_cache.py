"""Folded weights of the most requested tasks, within a memory budget."""

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
class _Entry:
    """A folded copy: the route through it, its bytes, and the number of the batch that used it."""

    route: Route
    size: int
    last_used: int


class FoldedWeights:
    """A cache of copies of the adapted weights with a task folded in.

    A batch of one such task costs as much as the bare backbone. A task is folded once `min_batches`
    batches have requested it. It evicts the least recently used copies, but only if none of them
    was used since the first of those batches: otherwise alternating tasks would evict each other
    for ever. Running batches keep the copies that they use.

    Args:
        budget: Maximum bytes of all copies together; 0 disables the cache.
        min_batches: Number of batches of one task after which it is folded.
    """

    def __init__(self, budget: int, min_batches: int = 4) -> None:
        self.budget = budget
        self.min_batches = min_batches
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._requested: dict[Key, deque[int]] = {}  # last batches of tasks that are not folded
        self._batches = 0  # of one task each, which is the cache's clock
        self._removed: WeakSet[Adapter] = WeakSet()
        self._lock = Lock()
        self._folding = Lock()

    @property
    def keys(self) -> tuple[Key, ...]:
        """The folded tasks, the least recently used first."""
        with self._lock:
            return tuple(self._entries)

    @property
    def bytes(self) -> int:
        """Bytes of all copies."""
        with self._lock:
            return sum(entry.size for entry in self._entries.values())

    def route(self, adapter: Adapter, task: str) -> Route | None:
        """The route of a batch of this task; None if it is not folded.

        Raises:
            ConfigError: The adapter does not know the task.
        """
        key = (adapter.name, task)
        with self._lock:
            if adapter in self._removed:
                return None
            self._batches += 1
            if (entry := self._entries.get(key)) is not None:
                entry.last_used = self._batches
                self._entries.move_to_end(key)
                return entry.route
            size = folded_bytes(adapter)
            if not self._should_fold(key, size) or not self._folding.acquire(blocking=False):
                return None
            for evicted in self._evicted_by(size):
                del self._entries[evicted]
            del self._requested[key]
        try:  # without the lock, so that other batches can use their copies
            route = _fold(adapter, task)
            with self._lock:
                if route is not None and adapter not in self._removed:
                    self._entries[key] = _Entry(route, size, self._batches)
            return route
        finally:
            self._folding.release()

    def _should_fold(self, key: Key, size: int) -> bool:
        """Record a batch of a task; returns whether it should be folded now."""
        if size > self.budget:
            return False
        requested = self._requested.setdefault(key, deque(maxlen=self.min_batches))
        requested.append(self._batches)
        evicted = [self._entries[key] for key in self._evicted_by(size)]
        is_due = len(requested) == self.min_batches
        return is_due and all(entry.last_used < requested[0] for entry in evicted)

    def _evicted_by(self, size: int) -> list[Key]:
        """The copies to evict so that `size` more bytes fit."""
        free = self.budget - sum(entry.size for entry in self._entries.values())
        evicted = []
        for key, entry in self._entries.items():
            if free >= size:
                break
            evicted.append(key)
            free += entry.size
        return evicted

    def remove(self, adapter: Adapter) -> None:
        """Remove an adapter's copies for good, including one that is being made."""
        with self._lock:
            self._removed.add(adapter)
            for table in (self._entries, self._requested):
                for key in [key for key in table if key[0] == adapter.name]:
                    del table[key]


def _fold(adapter: Adapter, task: str) -> Route | None:
    """A new copy; None if memory is short or the adapter is being detached."""
    try:
        return Route(adapter.folded_weights(task))
    except (AttributeError, MemoryError, RuntimeError):  # torch: out of memory
        return None


def folded_bytes(adapter: Adapter) -> int:
    """Bytes of a copy of the weights that an adapter adapts; above any budget if quantised."""
    weights = [layer.base_layer.weight for layer in adapter.layers.values()]
    if not all(weight.is_floating_point() for weight in weights):
        return 1 << 62
    return sum(weight.numel() * weight.element_size() for weight in weights)
