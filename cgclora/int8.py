"""Frozen weights in 8 bits, for passes of so few tokens that reading the weights takes the time.

Symmetric, a scale a row, rounded to nearest; activations keep their precision. The product is
torch's own kernel for CPUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

FEW_ROWS = 4
"""Most rows for which the 8-bit product is the faster one: it reads a weight for each row anew."""


def has_kernel() -> bool:
    """Whether this torch multiplies by 8-bit weights on this processor."""
    try:
        Int8Weight.of([torch.ones(32, 32)])(torch.ones(1, 32))
    except (RuntimeError, NotImplementedError, AttributeError):
        return False
    return True


@dataclass(frozen=True)
class Int8Weight:
    """A matrix [out, in] as whole numbers and a scale a row.

    Attributes:
        values: [out, in], int8.
        scales: [out], bf16.
    """

    values: Tensor
    scales: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, weights: Sequence[Tensor]) -> Self:
        """Of matrices with the same inputs, one above the other."""
        values, scales = [], []
        for weight in weights:
            for part in weight.split(1 << 14):  # in fp32, but never all of a head
                block = part.float()
                # Rounded before it is divided by: the product multiplies by this very number.
                scale = (block.abs().amax(dim=1) / 127).bfloat16()
                safe = scale.float().clamp_min(torch.finfo(torch.float32).tiny)
                values.append((block / safe[:, None]).round_().clamp_(-127, 127).to(torch.int8))
                scales.append(scale)
        return cls(torch.cat(values), torch.cat(scales))

    def __call__(self, x: Tensor) -> Tensor:
        """[N, out] in fp32 for x [N, in]."""
        return torch._weight_int8pack_mm(x.bfloat16(), self.values, self.scales).float()
