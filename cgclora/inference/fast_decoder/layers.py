"""The layers of the fast decoder: norms, groups of linear layers, attention and MLP."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgclora.models.families import ACTIVATIONS
from cgclora.models.quantized import FEW_ROWS, Int8Weight


@dataclass(frozen=True)
class Positions:
    """Positions of a pass's tokens, with what layers of one attention type derive from them."""

    rows: Tensor  # row indices, [batch, 1]
    tokens: Tensor  # position of each token, [batch, tokens]; [tokens] where all rows are alike
    cos: Tensor  # rotary table, [..., tokens, 1, head size]
    sin: Tensor  # likewise, signed, see `FastDecoder.rotary_tables`
    start: int | None  # position of the first token of all rows; None where rows differ
    first_key: int  # that any token attends to
    end: int  # of the keys
    mask: Tensor | None  # of these keys, [batch or 1, 1, tokens, keys]; None attends to all
    dtype: torch.dtype  # of the attention scores
    key_ranges: Sequence[tuple[int, int]] = ()  # first key and end of each token that is separate


class RMSNorm:
    """An RMS norm with its weight in fp32 (Gemma stores weight - 1).

    With n features, x / sqrt(|x|^2 / n + eps) is sqrt(n) x / hypot(|x|, sqrt(n eps)), which takes
    half as many operations; the weight includes the factor sqrt(n).
    """

    def __init__(self, module: nn.Module) -> None:
        weight = cast(Tensor, module.weight).detach().float()
        size = weight.shape[-1]
        eps = float(getattr(module, "variance_epsilon", getattr(module, "eps", 1e-6)))
        if type(module).__name__.startswith("Gemma3"):
            weight = weight + 1
        self.weight = weight * math.sqrt(size)
        self.min_length = torch.tensor(math.sqrt(size * eps), device=weight.device)

    def __call__(self, x: Tensor) -> Tensor:
        """The norm of x [..., n]."""
        return self.direction(x) * self.weight

    def direction(self, x: Tensor) -> Tensor:
        """The norm without the weight."""
        length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x / length.hypot_(self.min_length)

    def added_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """Residual plus norm of x."""
        return torch.addcmul(residual, self.direction(x), self.weight)


class GroupExperts(Protocol):
    """The experts of a batch at a group of linear layers with the same input."""

    @property
    def folded_weights(self) -> tuple[Tensor, ...] | None:
        """Weights [out, in] that replace the frozen ones; None keeps these."""

    def add_to(self, y: Tensor, x: Tensor) -> None:
        """Add the experts' outputs for x [batch, tokens, in] to y [batch * tokens, all outputs].

        Both are in fp32; y is changed in place.
        """


class LinearGroup:
    """Linear layers with the same input, as one."""

    def __init__(self, parent: nn.Module, names: Sequence[str], int8: bool) -> None:
        self._parent = parent
        self._names = names
        self.linears: list[nn.Linear] = [
            cast(nn.Linear, getattr(module, "base_layer", module)) for module in self.modules
        ]
        self.sizes = [linear.out_features for linear in self.linears]
        biases = [linear.bias for linear in self.linears]
        self.bias = None if biases[0] is None else torch.cat([*biases]).float()
        self.packed = Int8Weight.of([linear.weight for linear in self.linears]) if int8 else None

    @property
    def modules(self) -> list[nn.Module]:
        """The current modules: attaching an adapter replaces them."""
        return [cast(nn.Module, getattr(self._parent, name)) for name in self._names]

    def __call__(self, x: Tensor, experts: GroupExperts | None) -> Tensor:
        """[batch, tokens, all outputs] in fp32 for x [batch, tokens, in]."""
        rows = x.shape[0] * x.shape[1]
        flat = x.reshape(rows, -1)
        weights = experts.folded_weights if experts is not None else None
        if self.packed is not None and weights is None and rows <= FEW_ROWS:
            y = self.packed(flat)
        else:
            frozen = [linear.weight for linear in self.linears]
            flat = flat.to((weights or frozen)[0].dtype)
            y = torch.cat([F.linear(flat, w) for w in weights or frozen], dim=-1).float()
        if self.bias is not None:
            y += self.bias
        if experts is not None:
            experts.add_to(y, x)
        return y.view(*x.shape[:2], -1)


class DecoderLayer:
    """A decoder layer."""

    def __init__(self, module: Any, config: Any, attention_type: str, int8: bool) -> None:
        attention, mlp = module.self_attn, module.mlp
        self.attention_type = attention_type
        self.head_size = int(attention.head_dim)
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.scaling = float(attention.scaling)
        self.groups = [
            LinearGroup(attention, ("q_proj", "k_proj", "v_proj"), int8),
            LinearGroup(attention, ("o_proj",), int8),
            LinearGroup(mlp, ("gate_proj", "up_proj"), int8),
            LinearGroup(mlp, ("down_proj",), int8),
        ]
        self.head_norm = self._query_key_norm(attention)
        self.before_attention = RMSNorm(module.input_layernorm)
        sandwich = hasattr(module, "pre_feedforward_layernorm")
        middle = module.post_attention_layernorm
        self.after_attention = RMSNorm(middle) if sandwich else None
        self.before_mlp = RMSNorm(module.pre_feedforward_layernorm if sandwich else middle)
        self.after_mlp = RMSNorm(module.post_feedforward_layernorm) if sandwich else None
        name = getattr(config, "hidden_activation", None) or config.hidden_act
        self.activation = ACTIVATIONS[name]

    def _query_key_norm(self, attention: Any) -> Callable[[Tensor], Tensor] | None:
        """The norms of queries and keys, as one for all their heads."""
        if not hasattr(attention, "q_norm"):
            return None
        query, key = RMSNorm(attention.q_norm), RMSNorm(attention.k_norm)
        weight = torch.cat(
            [query.weight.expand(self.heads, -1), key.weight.expand(self.kv_heads, -1)]
        )
        return lambda x: query.direction(x) * weight

    def __call__(
        self,
        x: Tensor,
        key_values: Tensor | tuple[Tensor, Tensor],
        positions: Positions,
        experts: Sequence[GroupExperts | None],
    ) -> Tensor:
        """The layer's output for the residual stream x [batch, tokens, H] in fp32.

        The keys and values of x are written to the layer's part of the cache, `key_values`.
        """
        y = self._self_attention(self.before_attention(x), key_values, positions, experts)
        x = x + y if self.after_attention is None else self.after_attention.added_to(x, y)
        gate, up = self.groups[2](self.before_mlp(x), experts[2]).chunk(2, dim=-1)
        y = self.groups[3](self.activation(gate) * up, experts[3])
        return x + y if self.after_mlp is None else self.after_mlp.added_to(x, y)

    def _self_attention(
        self,
        x: Tensor,
        key_values: Tensor | tuple[Tensor, Tensor],
        positions: Positions,
        experts: Sequence[GroupExperts | None],
    ) -> Tensor:
        rows, count, _ = x.shape
        rotated_heads = self.heads + self.kv_heads
        heads = self.groups[0](x, experts[0])
        heads = heads.view(rows, count, rotated_heads + self.kv_heads, self.head_size)
        rotated, value = heads[:, :, :rotated_heads], heads[:, :, rotated_heads:]
        if self.head_norm is not None:
            rotated = self.head_norm(rotated)
        swapped = rotated.roll(self.head_size // 2, -1)
        rotated = torch.addcmul(rotated * positions.cos, swapped, positions.sin)
        query, key = rotated[:, :, : self.heads], rotated[:, :, self.heads :]
        keys, values = key_values[0], key_values[1]
        if positions.start is not None:
            keys[:, :, positions.start : positions.end] = key.transpose(1, 2)
            values[:, :, positions.start : positions.end] = value.transpose(1, 2)
        else:
            keys[positions.rows, :, positions.tokens] = key.to(keys.dtype)
            values[positions.rows, :, positions.tokens] = value.to(values.dtype)
        dtype = positions.dtype
        if positions.key_ranges:
            queries = zip(query.split(1, dim=1), positions.key_ranges, strict=True)
            outputs = [
                self._attention(one, keys[:, :, first:end], values[:, :, first:end], None, dtype)
                for one, (first, end) in queries
            ]
            y = torch.cat(outputs, dim=1)
        else:
            part = slice(positions.first_key, positions.end)
            mask = positions.mask
            y = self._attention(query, keys[:, :, part], values[:, :, part], mask, dtype)
        return self.groups[1](y.float(), experts[1])

    def _attention(
        self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        """Attention output [batch, tokens, -1] of rotated queries [batch, tokens, heads, size].

        Keys and values are [batch, kv heads, keys, size], the mask is as in `Positions`.
        """
        rows, count = query.shape[:2]
        keys, values = keys.to(dtype), values.to(dtype)
        if count == 1:  # the queries of a group have the same keys, like several tokens
            query = query.reshape(rows, self.kv_heads, -1, self.head_size)
        else:
            query = query.transpose(1, 2)
        grouped = count > 1 and self.heads != self.kv_heads
        if grouped and keys.is_cuda:  # no fast kernel supports both groups and masks
            groups = self.heads // self.kv_heads
            keys, values = (one.repeat_interleave(groups, dim=1) for one in (keys, values))
            grouped = False
        y = F.scaled_dot_product_attention(
            query.to(dtype), keys, values, mask, scale=self.scaling, enable_gqa=grouped
        )
        if count > 1:
            y = y.transpose(1, 2)
        return y.reshape(rows, count, -1)
