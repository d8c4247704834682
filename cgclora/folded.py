"""Folded weights of the tasks that are asked for most, within a memory budget."""

from __future__ import annotations

from collections import Counter, OrderedDict
from threading import Lock

from cgclora.adapter import Adapter
from cgclora.layer import GatheredRoute

Key = tuple[str, str]
"""Names of an adapter and of its task."""


class FoldedWeights:
    """Keeps a copy of the adapted weights with a task folded in, for tasks that earn it.

    A batch of one such task costs what the bare backbone costs. The least recently used copies go
    when a new one needs their room; a batch on its way keeps what it uses until it has ended.

    Args:
        budget: Most bytes of all copies together; 0 keeps none.
        after: A task is folded when so many batches in a row of its own have asked for it since it
            was last here.
    """

    def __init__(self, budget: int, after: int = 4) -> None:
        self.budget = budget
        self.after = after
        self._kept: OrderedDict[Key, tuple[GatheredRoute, int]] = OrderedDict()
        self._asked: Counter[Key] = Counter()
        self._lock = Lock()

    @property
    def kept(self) -> tuple[Key, ...]:
        """What is folded, the least recently used first."""
        with self._lock:
            return tuple(self._kept)

    @property
    def bytes(self) -> int:
        """Bytes of all copies."""
        with self._lock:
            return sum(size for _, size in self._kept.values())

    def route(self, adapter: Adapter, task: str) -> GatheredRoute | None:
        """The route of a batch of this task alone; None if it is not folded.

        Raises:
            ConfigError: The adapter does not know the task.
        """
        key = (adapter.name, task)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
            size = folded_bytes(adapter)
            if size > self.budget:
                return None
            self._asked[key] += 1
            if self._asked[key] < self.after:
                return None
            del self._asked[key]
            while self._kept and size > self.budget - sum(s for _, s in self._kept.values()):
                self._kept.popitem(last=False)
            route = GatheredRoute(adapter.folded_weights(task))
            self._kept[key] = route, size
            return route

    def forget(self, adapter: Adapter) -> None:
        """Drop an adapter's copies."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == adapter.name]:
                del self._kept[key]
            for key in [key for key in self._asked if key[0] == adapter.name]:
                del self._asked[key]


def folded_bytes(adapter: Adapter) -> int:
    """Bytes of a copy of the weights that an adapter adapts; beyond any budget if quantised."""
    weights = [layer.base_layer.weight for layer in adapter.layers.values()]
    if not all(weight.is_floating_point() for weight in weights):
        return 1 << 62
    return sum(weight.numel() * weight.element_size() for weight in weights)
