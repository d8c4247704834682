"""What the gate of one task says, as numbers."""

import re
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_DEPTH = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class TaskGates:
    """The weights that one task gives to the experts it may use.

    Attributes:
        task: Its name.
        layers: Paths of the L adapted linear layers, such as `model.layers.3.self_attn.q_proj`.
        weights: [L, C + S], the common experts first.
        common: C.
    """

    task: str
    layers: tuple[str, ...]
    weights: NDArray[np.float64]
    common: int

    def shares(self) -> NDArray[np.float64]:
        """Each expert's part of the weight, [C + S], averaged over all layers; the sum is 1."""
        mean = self.weights.mean(axis=0)
        return np.asarray(mean / mean.sum())

    def common_share(self) -> float:
        """The common experts' part of the weight, in [0, 1]."""
        return float(self.shares()[: self.common].sum())

    def modules(self) -> tuple[str, ...]:
        """Kinds of linear layers, such as `q_proj`, in their order."""
        return tuple(dict.fromkeys(path.rpartition(".")[2] for path in self.layers))

    def by_depth(self, module: str | None = None) -> tuple[tuple[int, ...], NDArray[np.float64]]:
        """Weights of each transformer layer.

        Args:
            module: One kind of linear layer; None averages over all.

        Returns:
            The D layers' numbers, and their weights [D, C + S].
        """
        rows = defaultdict(list)
        for path, weights in zip(self.layers, self.weights, strict=True):
            if module in (None, path.rpartition(".")[2]):
                depth = _DEPTH.search(path)
                rows[int(depth[1]) if depth else 0].append(weights)
        depths = tuple(sorted(rows))
        return depths, np.array([np.mean(rows[depth], axis=0) for depth in depths])
