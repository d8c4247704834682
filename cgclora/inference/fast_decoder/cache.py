"""The key-value cache of the fast decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_MIN_GROWTH = 64  # tokens, since growing copies the whole cache


class Cache:
    """Keys and values of a batch, [layers, 2, batch, heads, capacity, head size].

    Args:
        shape: As above; the capacity is the expected maximum length of a row.
        device: Where it is allocated.
        dtype: Of keys and values.

    Attributes:
        lengths: Number of cached tokens of each row, [batch].
        max_length: The largest of them.
    """

    def __init__(self, shape: Sequence[int], device: torch.device, dtype: torch.dtype) -> None:
        # Zeros, since masked keys and values are multiplied by 0 and must be finite.
        self._buffer = torch.zeros(*shape, device=device, dtype=dtype)
        self.lengths = torch.zeros(shape[2], dtype=torch.long, device=device)
        self.max_length = 0

    @property
    def key_values(self) -> Tensor:
        """Keys and values of the current rows, as a view."""
        return self._buffer[:, :, : len(self.lengths)]

    def reserve(self, tokens: int) -> None:
        """Grow, if needed, so that every row can take this many more tokens."""
        missing = self.max_length + tokens - self._buffer.shape[4]
        if missing > 0:
            self._buffer = F.pad(self.key_values, (0, 0, 0, max(missing, _MIN_GROWTH)))

    @torch.inference_mode()
    def join(self, other: Cache) -> None:
        """Append the rows of another cache; in place if they fit, since allocation is slow."""
        rows, more = len(self.lengths), len(other.lengths)
        source = other.key_values
        shape = [*self._buffer.shape]
        dtype = min(self._buffer.dtype, source.dtype, key=lambda one: one.itemsize)
        if dtype != self._buffer.dtype or shape[2] < rows + more or shape[4] < source.shape[4]:
            shape[2], shape[4] = rows + more, max(shape[4], source.shape[4])
            buffer = self._buffer.new_zeros(shape, dtype=dtype)
            buffer[:, :, :rows, :, : self.max_length] = self.key_values[..., : self.max_length, :]
            self._buffer = buffer
        target = self._buffer[:, :, rows : rows + more]
        target[..., : other.max_length, :] = source[..., : other.max_length, :]
        target[..., other.max_length :, :] = 0  # an earlier row may have left NaN
        self.lengths = torch.cat([self.lengths, other.lengths])
        self.max_length = max(self.max_length, other.max_length)

    @torch.inference_mode()
    def keep(self, rows: Tensor) -> None:
        """Select rows by index [n]; an index that occurs several times duplicates its row."""
        sources = rows.tolist()
        self.lengths = self.lengths[rows]
        self.max_length = int(self.lengths.max())
        if all(source >= target for target, source in enumerate(sources)):  # safe in place
            for target, source in enumerate(sources):
                if target != source:
                    self._buffer[:, :, target] = self._buffer[:, :, source]
        else:
            self._buffer = self._buffer[:, :, rows]

    def drop_last(self, tokens: int) -> None:
        """Remove the last tokens of every row, such as rejected drafts."""
        self.lengths = self.lengths - tokens
        self.max_length -= tokens
