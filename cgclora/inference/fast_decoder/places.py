"""Where the tokens of a pass stand: what attention needs to know of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Place:
    """Where the tokens of a pass stand: what all layers with one kind of attention need of it.

    Attributes:
        rows: Numbers of the rows, [batch, 1].
        positions: [batch, tokens]; [tokens] where they stand alike in all rows.
        cos: [..., tokens, 1, head size].
        sin: Signed, see `FastDecoder.turns`.
        start: Where the first token of all rows stands; None where that differs.
        first: The first key that any token may see.
        end: After the last one.
        seen: Which keys between the two each token may see, [batch or 1, 1, tokens, keys]; None is
            all of them.
        dtype: What scores are computed in.
        reach: For each token the first key that it sees and the end of them, where each attends by
            itself.
    """

    rows: Tensor
    positions: Tensor
    cos: Tensor
    sin: Tensor
    start: int | None
    first: int
    end: int
    seen: Tensor | None
    dtype: torch.dtype
    reach: Sequence[tuple[int, int]] = ()


def reach_of(start: int, count: int, window: int | None) -> list[tuple[int, int]]:
    """`Place.reach` of tokens that stand from `start` on."""
    ends = range(start + 1, start + count + 1)
    return [(0 if window is None else max(0, end - window), end) for end in ends]


def seen_keys(
    positions: Tensor, window: int | None, end: int, *, alike: bool
) -> tuple[int, Tensor | None]:
    """`Place.first` and `Place.seen`."""
    count = positions.shape[-1]
    if alike and count == 1:
        return reach_of(end - 1, 1, window)[0][0], None
    keys = torch.arange(end, device=positions.device)
    at = positions.unsqueeze(-1)
    seen = keys <= at
    if window is not None:
        seen &= keys > at - window
    return 0, seen.view(-1, 1, count, end)
