"""The experts of a batch, laid out for the fast decoder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cgclora.inference.fast_decoder.layers import LinearGroup
from cgclora.layer import ExpertLinear, Route
from cgclora.models.quantized import FEW_ROWS


@dataclass(frozen=True)
class SharedExperts:
    """See `GroupExperts`: the experts that some row uses, for all rows.

    Attributes:
        A: [R, in]; None where there are weights.
        B: [R, all outputs], the gates of a batch of one in it.
        gates: [batch, 1, R]; None where they are in B.
        weights: See `GroupExperts`.
    """

    A: Tensor | None = None
    B: Tensor | None = None
    gates: Tensor | None = None
    weights: tuple[Tensor, ...] | None = None

    def add_to(self, y: Tensor, x: Tensor) -> None:
        """See `GroupExperts`."""
        if self.A is None or self.B is None:
            return
        flat = x.reshape(len(y), -1)
        if len(x) == 1 and self.gates is None and 1 < len(y) <= FEW_ROWS:
            # One by one, since sums of several rows are rounded in another order.
            for one, row in zip(y.split(1), flat.split(1), strict=True):
                one.addmm_(F.linear(row, self.A), self.B)
            return
        z = F.linear(flat, self.A)
        if self.gates is not None:
            z = (z.view(*x.shape[:2], -1) * self.gates).view(len(y), -1)
        y.addmm_(z, self.B)

    def keep(self, rows: Tensor) -> SharedExperts:
        """The same for some rows of the batch."""
        return (
            self
            if self.gates is None
            else SharedExperts(self.A, self.B, self.gates[rows], self.weights)
        )


@dataclass(frozen=True)
class BatchExperts:
    """The experts of a batch, laid out for `FastDecoder`.

    Attributes:
        layers: For each layer what it adds to its four groups of linear layers.
    """

    layers: tuple[tuple[SharedExperts | None, ...], ...]

    @property
    def beside(self) -> bool:
        """Whether all stand beside the frozen weights, and none in their place."""
        return all(own is None or own.weights is None for layer in self.layers for own in layer)

    @classmethod
    def of(cls, layers: Iterable[Sequence[LinearGroup]], route: Route | None) -> BatchExperts:
        """What a planned route adds to the groups of each layer; None adds nothing."""
        return cls(tuple(tuple(_of_group(group, route) for group in groups) for groups in layers))

    def keep(self, rows: Tensor) -> BatchExperts:
        """The same for some rows of the batch."""
        return BatchExperts(
            tuple(
                tuple(None if own is None else own.keep(rows) for own in layer)
                for layer in self.layers
            )
        )


def _of_group(group: LinearGroup, route: Route | None) -> SharedExperts | None:
    if route is None:
        return None
    of_layers = [
        route.experts.get(module, ()) if isinstance(module, ExpertLinear) else ()
        for module in group.modules
    ]
    if any(isinstance(experts, Tensor) for experts in of_layers):
        return SharedExperts(
            weights=tuple(
                experts if isinstance(experts, Tensor) else linear.weight
                for experts, linear in zip(of_layers, group.linears, strict=True)
            )
        )
    places = [0]
    for size in group.sizes:
        places.append(places[-1] + size)
    tables: list[Tensor] = []
    lower: list[Tensor] = []
    gates: list[Tensor] = []
    for experts, start, end in zip(of_layers, places, places[1:], strict=False):
        for one in experts:
            tables.append(one.A)
            lower.append(F.pad(one.B.float(), (start, places[-1] - end)))
            gates.append(one.weights)
    if not tables:
        return None
    A, B = torch.cat(tables).float(), torch.cat(lower)
    weights = torch.cat(gates, dim=-1).float()
    if len(weights) == 1:
        return SharedExperts(A, B * weights.view(-1, 1))
    return SharedExperts(A, B, weights)
