"""The experts of many tasks of many adapters, in one slot each, for mixed batches.

A row's task turns its adapter's experts into a plain LoRA of the active rank: the task's experts
stacked, with B multiplied by the gate weights. The tables below hold one such LoRA for each
requested task of each adapter, padded to a common rank R; slot 0, all zero, is the bare backbone:

    A [slots, R, in]      B [slots, R, out]      slot of each row [batch]

They are applied in one of two ways with the same result: shared, every row is multiplied with all
slots and those of other rows are masked; otherwise each row's own experts are gathered first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from cgclora.inference.fast_decoder import FastDecoder
from cgclora.inference.fast_decoder.experts import SharedExperts
from cgclora.inference.fast_decoder.layers import GroupExperts
from cgclora.layer import Route

_MULTIPLICATIONS = {"cuda": 128, "cpu": 10}
"""Multiply-adds of a large product that take about as long as moving one weight to or from memory:
an H100 does 4e14 per second in bf16 (dense, measured) and moves 3e12 bytes, a CPU core does 3e10 in
fp32 and moves 1e10 bytes."""

_GATHER_MOVES = 3  # of a weight that is gathered: read, written, and read again

_RANK_MULTIPLE = 8  # as tensor cores require


def sharing_pays(slots: int, rows: int, device: str, *, compiled: bool) -> bool:
    """Whether multiplying all rows with all slots is cheaper than gathering each row's experts.

    Costs are counted in moves of R * (in + out) weights: shared, each slot is read once and each
    row is multiplied with each slot; otherwise the experts of each row are moved, and once only
    where compilation fuses gather and product.

    Args:
        slots: Number of slots.
        rows: Number of rows, of one token each.
        device: Type of the device.
        compiled: Whether the layers are compiled.
    """
    shared = slots * (1 + rows / _MULTIPLICATIONS.get(device, _MULTIPLICATIONS["cpu"]))
    return shared <= (1 if compiled else _GATHER_MOVES) * rows


@dataclass(frozen=True)
class SlotExperts:
    """See `GroupExperts`: the slots of a group of linear layers, and the slot of each row."""

    A: Tensor  # [slots, R, in]
    B: Tensor  # [slots, R, all outputs]
    rows: Tensor  # slot of each row, [batch]
    mask: Tensor | None  # whether a row uses a slot, [batch, slots], if experts are shared
    folded_weights: None = None

    def add_to(self, y: Tensor, x: Tensor) -> None:
        """See `GroupExperts`."""
        if self.mask is not None:
            z = F.linear(x.to(self.A.dtype), self.A.flatten(0, 1)).unflatten(-1, self.A.shape[:2])
            z = (z * self.mask[:, None, :, None]).flatten(-2)
            y += z.view(len(y), -1) @ self.B.flatten(0, 1)
            return
        A, B = self.A.index_select(0, self.rows), self.B.index_select(0, self.rows)
        if x.shape[1] == 1 and torch.compiler.is_compiling():  # sums are fused with the gather
            y += ((A * x).sum(-1, keepdim=True) * B).sum(1)
        else:
            y += torch.bmm(torch.bmm(x.to(A.dtype), A.transpose(1, 2)), B).view(y.shape)


class ExpertSlots:
    """See the module's docstring.

    Args:
        decoder: The decoder whose layers have these experts.
        routes: Of one row each, for the slots from 1 on.

    Attributes:
        slots: Number of slots, slot 0 included.

    Raises:
        ValueError: A route has folded weights instead of experts.
    """

    def __init__(self, decoder: FastDecoder, routes: Iterable[Route]) -> None:
        # On GPUs fp32 products are many times slower, and training rounds to bf16, too.
        dtype = torch.float32 if decoder.device.type == "cpu" else decoder.dtype
        self._groups = [len(layer.groups) for layer in decoder.layers]
        loras: list[list[_Pair | None]] = [[] for _ in range(sum(self._groups))]
        self.slots = 1
        for route in routes:
            self.slots += 1
            groups = (group for layer in decoder.experts(route).layers for group in layer)
            for pairs, experts in zip(loras, groups, strict=True):
                pairs.append(_pair(experts, dtype))
        self._tables = [_stack(pairs) for pairs in loras]

    def layers(self, slots: Tensor, *, shared: bool) -> list[tuple[GroupExperts | None, ...]]:
        """The experts of each layer for rows of these slots, [batch]; `shared`: `sharing_pays`."""
        mask: Tensor | None = None
        if shared:
            mask = slots[:, None] == torch.arange(self.slots, device=slots.device)
        tables = iter(self._tables)
        return [
            tuple(
                None if table is None else SlotExperts(*table, slots, mask)
                for table in islice(tables, count)
            )
            for count in self._groups
        ]


_Pair = tuple[Tensor, Tensor]
"""A [R, in] and B [R, all outputs]."""


def _pair(experts: SharedExperts | None, dtype: torch.dtype) -> _Pair | None:
    if experts is None:
        return None
    if experts.A is None or experts.B is None:
        raise ValueError("slots hold experts, but this route has folded weights instead.")
    return experts.A.to(dtype), experts.B.to(dtype)


def _stack(pairs: Sequence[_Pair | None]) -> _Pair | None:
    """The tables of all slots, slot 0 first, padded to one rank; None if there are no experts."""
    first = next((pair for pair in pairs if pair is not None), None)
    if first is None:
        return None
    rank = max(len(pair[0]) for pair in pairs if pair is not None)
    rank = -(-rank // _RANK_MULTIPLE) * _RANK_MULTIPLE
    A, B = (table.new_zeros(1 + len(pairs), rank, table.shape[1]) for table in first)
    for slot, pair in enumerate(pairs, start=1):
        if pair is not None:
            A[slot, : len(pair[0])], B[slot, : len(pair[1])] = pair
    return A, B
