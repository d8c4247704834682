"""Linear layers with the experts beside them, for training: one operation for layers that read x.

The weights are frozen, so nothing is kept for their gradients; those by x are summed up within the
products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cgclora.adapter import stacked
from cgclora.layer import (
    ExpertLinear,
    LayerExperts,
    add_product,
    by_adapter,
    by_row,
    is_diagonal,
    row_count,
    weighted,
)
from cgclora.models.dropout import RowDropout


def experts_of(layer: nn.Module) -> tuple[LayerExperts, ...]:
    """The experts that a linear layer applies to the current batch, to some rows each."""
    if not isinstance(layer, ExpertLinear) or layer.routing.route is None:
        return ()
    return cast(tuple[LayerExperts, ...], layer.routing.route.experts.get(layer, ()))


@dataclass(frozen=True)
class _Segment:
    """What the experts beside some layers do for some rows of the batch."""

    rows: slice | None  # None is all
    # Of all layers, one above the other: [r, in], or [M, r, in] of M adapters, each with an equal
    # share of the rows.
    A: Tensor
    weights: Tensor  # as in `LayerExperts`, [rows, 1, R] or [rows, r, R]
    B: tuple[Tensor | None, ...]  # a layer's [R_l, out_l] or [M, R_l, out_l]; None: no experts
    dropout: RowDropout | None  # of what the experts read

    @classmethod
    def of(cls, parts: Sequence[LayerExperts | None], x: Tensor, rows: Tensor | None) -> _Segment:
        there = [part for part in parts if part is not None]
        weights = stacked(there).to(x.dtype)
        dropout = cast(RowDropout | None, there[0].dropout)
        if rows is not None:
            weights = weights.index_select(0, rows)
            dropout = None if dropout is None else dropout.keep(rows)
        if there[0].rows is None and len(weights) != len(x):
            raise ValueError(row_count(len(x), len(weights)))
        return cls(
            there[0].rows,
            torch.cat([part.A for part in there], dim=-2).to(x.dtype),
            weights,
            tuple(None if part is None else part.B.to(x.dtype) for part in parts),
            dropout,
        )

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """What autograd differentiates by."""
        return (self.A, self.weights, *self.B)

    def of_rows(self, table: Tensor) -> Tensor:
        return table if self.rows is None else table[self.rows]

    def dropped(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the experts read of x, and what x was multiplied by for it."""
        if self.dropout is None:
            return x, None
        kept = self.dropout(x)
        return x * kept, kept


def linears(
    modules: Sequence[nn.Module], x: Tensor, rows: Tensor | None = None
) -> tuple[Tensor, ...]:
    """The outputs [batch, tokens, out] of layers, adapted or not, that read x [batch, tokens, in].

    `rows` says which row of the batch each row of x is from; None if x is the batch.
    """
    frozen = [cast(nn.Linear, getattr(module, "base_layer", module)) for module in modules]
    own: list[dict[tuple[int, int] | None, LayerExperts]] = [
        {None if part.rows is None else (part.rows.start, part.rows.stop): part for part in parts}
        for parts in map(experts_of, modules)
    ]
    places = dict.fromkeys(place for parts in own for place in parts)
    segments = [_Segment.of([parts.get(place) for parts in own], x, rows) for place in places]
    apply: Callable[..., tuple[Tensor, ...]] = _Linears.apply
    return apply(
        x,
        segments,
        *(layer.weight for layer in frozen),
        *(layer.bias for layer in frozen),
        *(tensor for segment in segments for tensor in segment.tensors),
    )


class _Linears(torch.autograd.Function):
    """x [batch, tokens, in] -> W_l x + bias_l + (A x * weights)_l B_l of each layer l.

    The experts' share is that of a segment for each run of rows. The tables of segments are given
    once more, one by one, for autograd to see them.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, segments: Sequence[_Segment], *tables: Tensor | None
    ) -> tuple[Tensor, ...]:
        count = (len(tables) - sum(len(one.tensors) for one in segments)) // 2
        frozen, biases = tables[:count], tables[count : 2 * count]
        outputs = tuple(
            F.linear(x, cast(Tensor, W), b) for W, b in zip(frozen, biases, strict=True)
        )
        narrow = []
        for one in segments:
            own, _ = one.dropped(one.of_rows(x))
            z = by_adapter(own, one.A) @ one.A.mT
            scaled = weighted(z, one.weights)
            for y, part, B in zip(outputs, _split(scaled, one.B), one.B, strict=True):
                if B is not None:
                    add_product(one.of_rows(y), part, B)
            narrow.append(z)
        ctx.segments = segments  # what it holds are inputs, as saved ones would be
        ctx.save_for_backward(x if segments else None, *narrow, *frozen)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        x, *saved = ctx.saved_tensors
        narrow, frozen = saved[: len(ctx.segments)], saved[len(ctx.segments) :]
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = gradients[0] @ frozen[0]
            for gradient, W in zip(gradients[1:], frozen[1:], strict=True):
                add_product(of_x, gradient.flatten(0, -2), W)
        of_tables: list[Tensor | None] = []
        for segment, z in zip(ctx.segments, narrow, strict=True):
            of_tables += _of_segment(segment, x, z, gradients, of_x)
        return of_x, None, *[None] * (2 * len(frozen)), *of_tables


def _of_segment(
    one: _Segment, x: Tensor, z: Tensor, gradients: Sequence[Tensor], of_x: Tensor | None
) -> list[Tensor | None]:
    """The gradients by a segment's tensors; that by x is added to `of_x`."""
    own, kept = one.dropped(one.of_rows(x))
    scaled = weighted(z, one.weights)
    wide = [
        None if B is None else by_adapter(one.of_rows(gradient), B)
        for gradient, B in zip(gradients, one.B, strict=True)
    ]
    of_scaled = torch.cat(
        [
            gradient @ B.mT
            for gradient, B in zip(wide, one.B, strict=True)
            if gradient is not None and B is not None
        ],
        dim=-1,
    )
    of_B = [
        None if gradient is None else part.mT @ gradient
        for gradient, part in zip(wide, _split(scaled, one.B), strict=True)
    ]
    of_z, of_weights = _of_weighted(of_scaled, z, one.weights)
    of_A = of_z.mT @ by_adapter(own, one.A)
    if of_x is not None:
        if kept is None:
            add_product(one.of_rows(of_x), of_z, one.A)
        else:
            one.of_rows(of_x).addcmul_((of_z @ one.A).view_as(own), kept)
    return [of_A, of_weights, *of_B]


def _of_weighted(gradient: Tensor, z: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of `weighted` by z and by the weights."""
    own, out = by_row(z, weights), by_row(gradient, weights)
    if is_diagonal(weights, z.shape[-1]):
        return (out * weights).view_as(z), (out * own).sum(1, keepdim=True)
    return (out @ weights.mT).view_as(z), own.mT @ out


def _split(z: Tensor, B: Sequence[Tensor | None]) -> Sequence[Tensor]:
    """Each layer's columns of z."""
    sizes = [0 if table is None else table.shape[-2] for table in B]
    return cast(Sequence[Tensor], z.split(sizes, dim=-1))
