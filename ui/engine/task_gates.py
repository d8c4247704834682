"""Gate weights of one task, and of all tasks of an adapter."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cgclora.analysis.gates import entropy
from cgclora.config import AdapterConfig

if TYPE_CHECKING:
    from cgclora.adapter import Adapter

_DEPTH = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class TaskGates:
    """Gate weights of one task over its experts.

    Attributes:
        task: Name of the task.
        layers: Paths of the L adapted linear layers, such as `model.layers.3.self_attn.q_proj`.
        weights: [L, C + S], the common experts first.
        common: C.
    """

    task: str
    layers: tuple[str, ...]
    weights: NDArray[np.float64]
    common: int

    def shares(self) -> NDArray[np.float64]:
        """Each expert's share of the weight, [C + S], averaged over all layers; the sum is 1."""
        mean = self.weights.mean(axis=0)
        return np.asarray(mean / mean.sum())

    def common_share(self) -> float:
        """The common experts' share of the weight, in [0, 1]."""
        return float(self.shares()[: self.common].sum())

    def modules(self) -> tuple[str, ...]:
        """Kinds of linear layers, such as `q_proj`, in layer order."""
        return tuple(dict.fromkeys(path.rpartition(".")[2] for path in self.layers))

    def by_depth(self, module: str | None = None) -> tuple[tuple[int, ...], NDArray[np.float64]]:
        """Numbers of the D transformer layers, and their weights [D, C + S].

        Args:
            module: One kind of linear layer; None averages over all.
        """
        return self._grouped(self.weights, module)

    def entropy(self, module: str | None = None) -> tuple[tuple[int, ...], NDArray[np.float64]]:
        """Numbers of the D transformer layers, and their normalised gate entropy [D].

        Args:
            module: One kind of linear layer; None averages over all.
        """
        return self._grouped(entropy(self.weights), module)

    def _grouped(
        self, values: NDArray[np.float64], module: str | None
    ) -> tuple[tuple[int, ...], NDArray[np.float64]]:
        """Means of values [L, ...] over the linear layers of each transformer layer, [D, ...]."""
        rows = defaultdict(list)
        for path, value in zip(self.layers, values, strict=True):
            if module in (None, path.rpartition(".")[2]):
                depth = _DEPTH.search(path)
                rows[int(depth[1]) if depth else 0].append(value)
        depths = tuple(sorted(rows))
        return depths, np.array([np.mean(rows[depth], axis=0) for depth in depths])


@dataclass(frozen=True)
class AdapterGates:
    """Gate weights of all tasks of an adapter.

    Attributes:
        config: The adapter's configuration.
        layers: Paths of the L adapted linear layers.
        weights: [L, T, E], zero where a task may not use an expert.
    """

    config: AdapterConfig
    layers: tuple[str, ...]
    weights: NDArray[np.float64]

    @classmethod
    def read(cls, adapter: Adapter) -> AdapterGates:
        """The gates of a loaded adapter."""
        weights = adapter.gates().double().cpu().numpy()
        return cls(adapter.config, tuple(adapter.layers), weights)

    def of(self, task: str) -> TaskGates:
        """The gates of one task.

        Raises:
            ConfigError: The task is unknown.
        """
        index = self.config.task_index(task)
        usable = np.array(self.config.access()[index])
        return TaskGates(task, self.layers, self.weights[:, index, usable], self.config.common)

    def shares(self, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Each task's shares of its own experts, averaged over layers, [T, C + S]; rows sum to 1.

        Args:
            weights: Used instead of the adapter's own, averaged over layers already, [T, E].
        """
        mean = self.weights.mean(axis=0) if weights is None else weights
        rows = zip(mean, self.config.access(), strict=True)
        usable = np.stack([row[np.array(access)] for row, access in rows])
        return np.asarray(usable / usable.sum(axis=1, keepdims=True))
