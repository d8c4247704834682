"""The experts of one batch, gathered from any adapters on a backbone.

A batch seldom uses all experts of an adapter, and its rows may belong to different adapters. So the
experts that some row uses are picked, put one after another as if they were one adapter's, and
weighed a row at a time, zero where a row does not use them:

    A = [A_1[used]; A_2[used]; ...]      B = [B_1[used]; B_2[used]; ...]      w [batch, R]

Two products a layer, as for one adapter, over a rank that follows the tasks in the batch and not
those that are resident. Nothing of what a row's experts compute depends on who else is resident.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cgclora.layer import ExpertLinear, GatheredRoute, Part


@dataclass(frozen=True)
class Shelf:
    """An adapter's experts in the layers that read the same input.

    Attributes:
        layers: n layers.
        gate_rows: Their places among the adapter's layers.
        A: [n, R, in].
        B: For each layer [R, out].
    """

    layers: tuple[ExpertLinear, ...]
    gate_rows: tuple[int, ...]
    A: Tensor
    B: tuple[Tensor, ...]


@dataclass(frozen=True)
class Use:
    """How a batch uses an adapter.

    Attributes:
        shelves: The adapter's experts; those of different adapters for the same layers have the
            same names.
        ranks: Which of the R ranks some row uses; None for all.
        weights: Scale times gate of these, zero for rows that belong to others:
            [L, batch, 1, ranks].
    """

    shelves: Mapping[str, Shelf]
    ranks: Tensor | None
    weights: Tensor

    @classmethod
    def of(cls, shelves: Mapping[str, Shelf], gates: Tensor, scale: float) -> Use:
        """The use that gates describe.

        Args:
            shelves: The adapter's experts, R = E * k ranks in a layer.
            gates: [L, batch, E].
            scale: What the gates are multiplied by.
        """
        experts = gates.shape[-1]
        first = next(iter(shelves.values()))
        rank = first.A.shape[1] // experts
        used = gates.ne(0).flatten(0, 1).any(dim=0).nonzero().squeeze(1)
        if len(used) < experts:
            gates = gates[..., used]
            within = torch.arange(rank, device=used.device)
            ranks = (used.unsqueeze(1) * rank + within).flatten()
        else:
            ranks = None
        weights = (scale * gates).repeat_interleave(rank, dim=-1).to(first.A.dtype)
        return cls(shelves, ranks, weights.unsqueeze(2))

    def pick(self, table: Tensor) -> Tensor:
        """The used ones of a table's R rows."""
        return table if self.ranks is None else table.index_select(0, self.ranks)


def gather(uses: Sequence[Use]) -> GatheredRoute:
    """The route of a batch that uses these adapters; layers that none of them adapts stay frozen.

    Args:
        uses: The adapters of the batch, each once.
    """
    uses = [use for use in uses if use.ranks is None or len(use.ranks)]
    parts: dict[ExpertLinear, Part | Tensor] = {}
    for name in dict.fromkeys(name for use in uses for name in use.shelves):
        parts.update(_on_shelf([(use, use.shelves[name]) for use in uses if name in use.shelves]))
    return GatheredRoute(parts)


def _on_shelf(found: Sequence[tuple[Use, Shelf]]) -> dict[ExpertLinear, Part]:
    """The parts of the layers that read the same input."""
    if len(found) == 1 and found[0][0].ranks is None:
        ((use, shelf),) = found
        rank = shelf.A.shape[1]
        A = shelf.A.flatten(0, 1)  # as it lies there: nothing is copied
        return {
            layer: Part(A, B, use.weights[row], slice(place * rank, (place + 1) * rank))
            for place, (layer, row, B) in enumerate(
                zip(shelf.layers, shelf.gate_rows, shelf.B, strict=True)
            )
        }
    rows: list[Tensor] = []
    parts: dict[ExpertLinear, tuple[Tensor, Tensor, slice]] = {}
    width = 0
    for layer in dict.fromkeys(layer for _, shelf in found for layer in shelf.layers):
        own = [
            (use, shelf, shelf.layers.index(layer)) for use, shelf in found if layer in shelf.layers
        ]
        rows += [use.pick(shelf.A[place]) for use, shelf, place in own]
        B = torch.cat([use.pick(shelf.B[place]) for use, shelf, place in own])
        weights = [use.weights[shelf.gate_rows[place]] for use, shelf, place in own]
        parts[layer] = B, torch.cat(weights, dim=-1), slice(width, width + len(B))
        width += len(B)
    A = torch.cat(rows)
    return {layer: Part(A, B, weights, columns) for layer, (B, weights, columns) in parts.items()}
