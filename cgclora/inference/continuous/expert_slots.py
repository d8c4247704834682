"""The experts of many tasks of many adapters, a slot for each, for batches that mix them all.

A row's task makes of its adapter's experts a plain LoRA of the active rank: the experts that the
task uses, one above the other, the gate's weights in B. A bank holds one of them for each task of
each adapter that is asked for, padded to one rank R, and slot 0 for the bare backbone, all zero:

    A [slots, R, in]      B [slots, R, out]      slot of each row [batch]

There are two ways to apply it, which compute the same. The shared one multiplies every row with all
slots and drops what belongs to others; the other takes each row's own experts alone.
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
"""About how many multiply-adds of a large product take as long as moving one weight to or from
memory: an H100 does 4e14 a second in bf16 (dense, as measured for large products) and moves 3e12
bytes, a CPU core 3e10 in fp32 and 1e10 bytes."""

_COPIED = 3
"""How often a weight moves where each row's own are copied first: read, written, and read again.
Where a compiler makes one operation of the copy and the product, it is read."""

_ALIGNED = 8
"""The rank is a multiple of it, as tensor cores want it."""


def sharing_pays(slots: int, rows: int, device: str, *, compiled: bool) -> bool:
    """Whether multiplying rows with all slots is cheaper than taking each row's own experts.

    In moves of R * (in + out) weights: the shared way reads each slot once and multiplies each row
    with each slot, the other moves those of each row. Its few products are not counted.

    Args:
        slots: In the bank.
        rows: Of one token each.
        device: Type of the device.
        compiled: Whether the layers are.
    """
    shared = slots * (1 + rows / _MULTIPLICATIONS.get(device, _MULTIPLICATIONS["cpu"]))
    return shared <= (1 if compiled else _COPIED) * rows


@dataclass(frozen=True)
class SlotExperts:
    """See `GroupExperts`: the slots of a group of linear layers, and which of them each row uses.

    Attributes:
        A: [slots, R, in].
        B: [slots, R, all outputs].
        rows: The slot of each row, [batch].
        uses: Whether a row uses a slot, [batch, slots] of 0 and 1, for the shared way; None is the
            other one.
    """

    A: Tensor
    B: Tensor
    rows: Tensor
    uses: Tensor | None
    weights: None = None

    def add_to(self, y: Tensor, x: Tensor) -> None:
        """See `GroupExperts`."""
        if self.uses is not None:
            z = F.linear(x.to(self.A.dtype), self.A.flatten(0, 1)).unflatten(-1, self.A.shape[:2])
            z = (z * self.uses[:, None, :, None]).flatten(-2)
            y += z.view(len(y), -1) @ self.B.flatten(0, 1)
            return
        A, B = self.A.index_select(0, self.rows), self.B.index_select(0, self.rows)
        if x.shape[1] == 1 and torch.compiler.is_compiling():  # sums fuse with what they read
            y += ((A * x).sum(-1, keepdim=True) * B).sum(1)
        else:
            y += torch.bmm(torch.bmm(x.to(A.dtype), A.transpose(1, 2)), B).view(y.shape)


class ExpertSlots:
    """See the module's text.

    Args:
        decoder: Whose layers the experts stand beside.
        routes: Of one row each: what the slots from 1 on add.

    Attributes:
        slots: How many there are, slot 0 included.

    Raises:
        ValueError: A route has folded weights instead of experts.
    """

    def __init__(self, decoder: FastDecoder, routes: Iterable[Route]) -> None:
        # On a GPU products in fp32 take many times as long, and training rounds there, too.
        dtype = torch.float32 if decoder.device.type == "cpu" else decoder.dtype
        found: list[list[_Pair | None]] = [[] for layer in decoder.layers for _ in layer.groups]
        self.slots = 1
        for route in routes:
            self.slots += 1
            own = (own for layer in decoder.experts(route).layers for own in layer)
            for pairs, one in zip(found, own, strict=True):
                pairs.append(_pair(one, dtype))
        self._tables = [_stacked(pairs) for pairs in found]
        self._groups = [len(layer.groups) for layer in decoder.layers]

    def layers(self, slots: Tensor, *, shared: bool) -> list[tuple[GroupExperts | None, ...]]:
        """For each layer what rows add that use these slots.

        Args:
            slots: Of each row, [batch].
            shared: Multiply all rows with all slots, see `sharing_pays`.
        """
        uses: Tensor | None = None
        if shared:
            known = torch.arange(self.slots, device=slots.device)
            uses = slots[:, None] == known
        tables = iter(self._tables)
        return [
            tuple(
                None if table is None else SlotExperts(*table, slots, uses)
                for table in islice(tables, count)
            )
            for count in self._groups
        ]


_Pair = tuple[Tensor, Tensor]
"""A [R, in] and B [R, all outputs]."""


def _pair(own: SharedExperts | None, dtype: torch.dtype) -> _Pair | None:
    """What one row adds, its gates in B; None where it adds nothing."""
    if own is None:
        return None
    if own.A is None or own.B is None:
        raise ValueError("a bank holds experts, and this route has folded weights instead.")
    return own.A.to(dtype), own.B.to(dtype)


def _stacked(pairs: Sequence[_Pair | None]) -> _Pair | None:
    """The tables of all slots, slot 0 first, and of one rank; None where none adds anything."""
    first = next((pair for pair in pairs if pair is not None), None)
    if first is None:
        return None
    rank = max(len(pair[0]) for pair in pairs if pair is not None)
    rank = -(-rank // _ALIGNED) * _ALIGNED
    A, B = (table.new_zeros(1 + len(pairs), rank, table.shape[1]) for table in first)
    for slot, pair in enumerate(pairs, start=1):
        if pair is not None:
            A[slot, : len(pair[0])], B[slot, : len(pair[1])] = pair
    return A, B
