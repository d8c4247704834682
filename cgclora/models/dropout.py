"""Dropout whose zeros are a row's own: they do not depend on who shares its batch."""

from __future__ import annotations

import torch
from torch import Tensor


def kept_features(seeds: Tensor, x: Tensor, dropout: float) -> Tensor:
    """What dropout multiplies x [batch, ..., in] by: 0, or 1 / (1 - dropout).

    Each value is a function of its row's seed and its place in the row alone (two rounds of
    multiply and shift, as in MurmurHash3). So a row loses the same features whoever shares its
    batch and however far that is padded, and a resumed run needs no state of a generator.

    Args:
        seeds: int32 [batch].
        x: What it is for.
        dropout: Probability of a zero.
    """
    _, *tokens, features = x.shape
    steps = torch.arange(max(*tokens, features, 1), device=x.device, dtype=torch.int32)
    bits = seeds
    for count in tokens:
        bits = _mixed(bits.unsqueeze(-1) ^ (steps[:count] * -1640531535))
    bits = _mixed(bits.unsqueeze(-1) + steps[:features] * -2048144777)
    kept = (bits & 0x7FFFFFFF) >= int(dropout * 2**31)
    return kept.to(x.dtype) / (1 - dropout)


def _mixed(bits: Tensor) -> Tensor:
    """Each int32 value as another one, every bit of which depends on all bits."""
    for shift, factor in ((16, -2048144789), (13, -1028477387)):
        bits = (bits ^ ((bits >> shift) & (0x7FFFFFFF >> (shift - 1)))) * factor
    return bits ^ ((bits >> 16) & 0xFFFF)
