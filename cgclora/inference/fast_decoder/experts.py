"""The experts of a batch, as tensors for the fast decoder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from cgclora.adapter import stacked
from cgclora.inference.fast_decoder.layers import LinearGroup
from cgclora.layer import ExpertLinear, LayerExperts, Route, folded_B, weighted
from cgclora.models.quantized import FEW_ROWS


@dataclass(frozen=True)
class SharedExperts:
    """See `GroupExperts`: the experts that any row of the batch uses, applied to all rows."""

    A: Tensor | None = None  # [r, in]; None with folded weights
    B: Tensor | None = None  # [R, all outputs]; [r, all outputs] with the weights of a batch of one
    weights: Tensor | None = None  # as in `LayerExperts`; None where B includes them
    folded_weights: tuple[Tensor, ...] | None = None

    def add_to(self, y: Tensor, x: Tensor) -> None:
        """See `GroupExperts`."""
        if self.A is None or self.B is None:
            return
        flat = x.reshape(len(y), -1)
        if len(x) == 1 and self.weights is None and 1 < len(y) <= FEW_ROWS:
            # Token by token, since products of several rows round differently.
            for y_token, x_token in zip(y.split(1), flat.split(1), strict=True):
                y_token.addmm_(F.linear(x_token, self.A), self.B)
            return
        z = F.linear(flat, self.A)
        if self.weights is not None:
            z = weighted(z, self.weights)
        y.addmm_(z, self.B)

    def keep(self, rows: Tensor) -> SharedExperts:
        """The same for some rows of the batch."""
        return self if self.weights is None else replace(self, weights=self.weights[rows])


@dataclass(frozen=True)
class BatchExperts:
    """The experts of a batch, for the four groups of linear layers of each decoder layer."""

    layers: tuple[tuple[SharedExperts | None, ...], ...]

    @property
    def is_folded(self) -> bool:
        """Whether folded weights replace any frozen ones."""
        groups = (experts for layer in self.layers for experts in layer)
        return any(experts is not None and experts.folded_weights is not None for experts in groups)

    def keep(self, rows: Tensor) -> BatchExperts:
        """The same for some rows of the batch."""
        return BatchExperts(
            tuple(
                tuple(None if experts is None else experts.keep(rows) for experts in layer)
                for layer in self.layers
            )
        )


def group_experts(group: LinearGroup, route: Route | None) -> SharedExperts | None:
    """The experts of a route for a group of linear layers; None if there are none."""
    if route is None:
        return None
    by_module = [
        route.experts.get(module, ()) if isinstance(module, ExpertLinear) else ()
        for module in group.modules
    ]
    if any(isinstance(experts, Tensor) for experts in by_module):
        return SharedExperts(
            folded_weights=tuple(
                experts if isinstance(experts, Tensor) else linear.weight
                for experts, linear in zip(by_module, group.linears, strict=True)
            )
        )
    outputs = sum(group.sizes)
    Bs: list[Tensor] = []
    parts: list[LayerExperts] = []
    columns = pairwise(accumulate(group.sizes, initial=0))
    for experts, (start, end) in zip(by_module, columns, strict=True):
        for one in experts:
            Bs.append(F.pad(one.B.float(), (start, outputs - end)))
            parts.append(one)
    if not parts:
        return None
    A, B = torch.cat([one.A for one in parts]).float(), torch.cat(Bs)
    of_rows = stacked(parts).float()
    if len(of_rows) == 1:
        return SharedExperts(A, folded_B(B.t(), of_rows[0], len(A)).t())
    return SharedExperts(A, B, of_rows)
