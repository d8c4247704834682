"""Frozen weights in few bits, for passes of so few tokens that reading the weights takes the time.

Rounded to nearest; activations keep their precision. The products are torch's own kernels for CPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

FEW_ROWS = 4
"""Most rows for which the 8-bit product is the faster one: it reads a weight for each row anew."""

_BLOCK = 1 << 10
"""Rows that are packed at once: what is made of them on the way stays in the processor's cache."""

_GROUP = 64
"""Inputs that share a scale in 4 bits."""

_ROWS = 16
"""The 4-bit kernel wants a multiple of so many rows."""


def has_kernel() -> bool:
    """Whether this torch multiplies by 8-bit weights on this processor."""
    return _works(lambda weight: Int8Weight.of([weight]))


def has_fast_int4() -> bool:
    """Whether this torch multiplies by 4-bit weights on this processor, and in good time."""
    vectorised = torch.backends.cpu.get_cpu_capability() in {"AVX2", "AVX512"}
    return vectorised and _works(Int4Weight.of)


def pack_for_choosing(weight: Tensor) -> Int8Weight | Int4Weight:
    """A head's weight [V, H] in as few bits as this processor multiplies by in good time."""
    if weight.shape[1] % _GROUP == 0 and has_fast_int4():
        return Int4Weight.of(weight)
    return Int8Weight.of([weight])


def _works(pack: Callable[[Tensor], Int8Weight | Int4Weight]) -> bool:
    try:
        pack(torch.ones(32, _GROUP))(torch.ones(1, _GROUP))
    except (RuntimeError, NotImplementedError, AttributeError):
        return False
    return True


@dataclass(frozen=True)
class Int8Weight:
    """A matrix [out, in] as whole numbers and a scale a row, symmetric."""

    bits = 8
    values: Tensor  # [out, in], int8
    scales: Tensor  # [out], bf16
    error: float  # root mean square of what rounding did to a weight

    @classmethod
    @torch.no_grad()
    def of(cls, weights: Sequence[Tensor]) -> Self:
        """Of matrices with the same inputs, one above the other."""
        rows = sum(len(weight) for weight in weights)
        values = torch.empty(rows, weights[0].shape[1], dtype=torch.int8)
        scales, squares = torch.empty(rows, dtype=torch.bfloat16), 0.0
        for at, block in _blocks(weights):
            # Rounded before it is divided by: the product multiplies by this very number.
            scale = (block.abs().amax(dim=1) / 127).bfloat16()
            step = scale.float().clamp_min(torch.finfo(torch.float32).tiny)[:, None]
            q = (block / step).round_().clamp_(-127, 127)
            values[at], scales[at] = q, scale
            squares += float((q * step - block).square().sum())
        return cls(values, scales, (squares / values.numel()) ** 0.5)

    def __call__(self, x: Tensor) -> Tensor:
        """[N, out] in fp32 for x [N, in]."""
        return torch._weight_int8pack_mm(x.bfloat16(), self.values, self.scales).float()


@dataclass(frozen=True)
class Int4Weight:
    """A matrix [out, in] in 4 bits, with a scale and an offset for each 64 inputs of a row."""

    bits = 4
    values: Tensor  # as torch's kernel wants them
    scales: Tensor  # of `(q - 8) * scale + offset`, [in / 64, out, 2], bf16
    out: int  # rows without those that the kernel wants besides
    error: float  # root mean square of what rounding did to a weight

    @classmethod
    @torch.no_grad()
    def of(cls, weight: Tensor) -> Self:
        """Of a matrix whose number of inputs is a multiple of 64."""
        out, inputs = weight.shape
        rows = out + -out % _ROWS
        values = torch.empty(rows, inputs // 2, dtype=torch.uint8)
        scales = torch.empty(inputs // _GROUP, rows, 2, dtype=torch.bfloat16)
        squares = 0.0
        for at, block in _blocks([weight]):
            whole = slice(at.start, at.stop + -len(block) % _ROWS)
            groups = F.pad(block, (0, 0, 0, -len(block) % _ROWS)).unflatten(1, (-1, _GROUP))
            low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
            scale = ((high - low) / 15).bfloat16()
            step = scale.float().clamp_min(torch.finfo(torch.float32).tiny)
            offset = (low + 8 * step).bfloat16()
            q = ((groups - offset.float()) / step + 8).round_().clamp_(0, 15)
            squares += float(((q - 8) * step + offset.float() - groups).square().sum())
            values[whole] = torch._convert_weight_to_int4pack_for_cpu(
                q.flatten(1).to(torch.int32), 1
            )
            scales[:, whole] = torch.cat([scale, offset], dim=-1).transpose(0, 1)
        return cls(values, scales, out, (squares / (out * inputs)) ** 0.5)

    def __call__(self, x: Tensor) -> Tensor:
        """[N, out] in fp32 for x [N, in]."""
        y = torch._weight_int4pack_mm_for_cpu(x.bfloat16(), self.values, _GROUP, self.scales)
        return y[:, : self.out].float()


def _blocks(weights: Sequence[Tensor]) -> Iterator[tuple[slice, Tensor]]:
    """Parts in fp32, and their rows among those of all matrices.

    Results go to their place at once: small ones kept between large temporary ones would hold on to
    several times their memory.
    """
    start = 0
    for weight in weights:
        for part in weight.split(_BLOCK):
            yield slice(start, start + len(part)), part.float()
            start += len(part)
