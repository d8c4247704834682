"""Keys and values that the fast decoder has read, in memory that is allocated once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_SPARE = 64
"""Tokens that a cache grows by at least."""


class Cache:
    """Keys and values of a batch, [layers, 2, batch, heads, capacity, head size].

    Args:
        shape: As above; its capacity is the most tokens of a row, as far as is known.
        device: Where.
        dtype: Of keys and values.

    Attributes:
        lengths: How many tokens each row holds, [batch].
        longest: The largest of them.
    """

    def __init__(self, shape: Sequence[int], device: torch.device, dtype: torch.dtype) -> None:
        # Zeros, since what no row may see still takes part with weight 0.
        self._room = torch.zeros(*shape, device=device, dtype=dtype)
        self.lengths = torch.zeros(shape[2], dtype=torch.long, device=device)
        self.longest = 0

    @property
    def table(self) -> Tensor:
        """Keys and values of the rows that there are."""
        return self._room[:, :, : len(self.lengths)]

    def make_room(self, tokens: int) -> None:
        """Have room for so many more tokens a row."""
        missing = self.longest + tokens - self._room.shape[4]
        if missing > 0:  # with some to spare, since all of it is copied
            self._room = F.pad(self.table, (0, 0, 0, max(missing, _SPARE)))

    @torch.inference_mode()
    def join(self, other: Cache) -> None:
        """Take in the rows of another one, after the own ones: where some were left, if they fit.

        Fresh memory is what takes the time, not the copies.
        """
        rows, more = len(self.lengths), len(other.lengths)
        shape, dtypes = [*self._room.shape], (self._room.dtype, other.table.dtype)
        dtype = min(dtypes, key=lambda one: one.itemsize)
        if dtype != dtypes[0] or shape[2] < rows + more or shape[4] < other.table.shape[4]:
            shape[2], shape[4] = rows + more, max(shape[4], other.table.shape[4])
            room = self._room.new_zeros(shape, dtype=dtype)
            room[:, :, :rows, :, : self.longest] = self.table[..., : self.longest, :]
            self._room = room
        place = self._room[:, :, rows : rows + more]
        place[..., : other.longest, :] = other.table[..., : other.longest, :]
        place[..., other.longest :, :] = 0  # of whoever was there before, maybe no numbers
        self.lengths = torch.cat([self.lengths, other.lengths])
        self.longest = max(self.longest, other.longest)

    @torch.inference_mode()
    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only; one that is named several times becomes several."""
        places = rows.tolist()
        self.lengths = self.lengths[rows]
        self.longest = int(self.lengths.max())
        if all(place >= new for new, place in enumerate(places)):  # none is written over too soon
            for new, place in enumerate(places):
                if new != place:
                    self._room[:, :, new] = self._room[:, :, place]
        else:
            self._room = self._room[:, :, rows]

    def forget(self, tokens: int) -> None:
        """Drop the last tokens of every row: drafts that were not right."""
        self.lengths = self.lengths - tokens
        self.longest -= tokens
