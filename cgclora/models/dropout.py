"""Dropout and noise that depend on the row alone: not on the other rows of its batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RowDropout:
    """Dropout of input features, seeded row by row.

    Each factor is a function of its row's seed and its place in the row (two rounds of multiply and
    shift, as in MurmurHash3). So a row loses the same features whatever rows share its batch and
    however far they are padded, and a resumed run needs no state of a generator.
    """

    probability: float  # of dropping a feature
    seeds: Tensor  # int32 [batch]

    @classmethod
    def draw(cls, probability: float, rows: int, device: torch.device) -> RowDropout | None:
        """Seeds from torch's generator; None where nothing is dropped."""
        if not probability:
            return None
        return cls(probability, torch.randint(2**31, (rows,), dtype=torch.int32, device=device))

    def keep(self, rows: Tensor) -> RowDropout:
        """The same for some rows of the batch."""
        return RowDropout(self.probability, self.seeds.index_select(0, rows))

    def __call__(self, x: Tensor) -> Tensor:
        """What x [batch, ..., in] is multiplied by: 0, or 1 / (1 - probability)."""
        _, *tokens, features = x.shape
        steps = torch.arange(max(*tokens, features, 1), device=x.device, dtype=torch.int32)
        bits = self.seeds
        for count in tokens:
            bits = _mixed(bits.unsqueeze(-1) ^ (steps[:count] * -1640531535))
        bits = _mixed(bits.unsqueeze(-1) + steps[:features] * -2048144777)
        kept = (bits & 0x7FFFFFFF) >= int(self.probability * 2**31)
        return kept.to(x.dtype) / (1 - self.probability)


def logistic_noise(seeds: Tensor, layers: int, values: int) -> Tensor:
    """Draws from the standard logistic distribution, as a row's seed and a value's place say.

    Added to the logits of a sigmoid they sample a relaxed Bernoulli variable of temperature 1
    (arXiv 1611.01144).

    Args:
        seeds: int32 [batch].
        layers: Number of layers, each with draws of its own.
        values: Number of draws of a row in a layer.

    Returns:
        [layers, batch, values].
    """
    places = torch.arange(layers * values, device=seeds.device, dtype=torch.int32)
    bits = _mixed(_mixed(seeds).unsqueeze(-1) ^ (places.view(layers, 1, values) * -1640531535))
    return torch.logit(((bits & 0x7FFFFF) + 0.5) / 2**23)


def _mixed(bits: Tensor) -> Tensor:
    """Each int32 value as another one, every bit of which depends on all bits."""
    for shift, factor in ((16, -2048144789), (13, -1028477387)):
        bits = (bits ^ ((bits >> shift) & (0x7FFFFFFF >> (shift - 1)))) * factor
    return bits ^ ((bits >> 16) & 0xFFFF)
