"""The layers of the fast decoder: norms, groups of linear layers, attention and MLP."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgclora.inference.fast_decoder.places import Place
from cgclora.models.families import ACTIVATIONS
from cgclora.models.quantized import FEW_ROWS, Int8Weight


class RMSNorm:
    """An RMS norm with its weight in fp32; Gemma's stores the difference from 1.

    With n features, x / sqrt(|x|^2 / n + eps) is sqrt(n) x / hypot(|x|, sqrt(n eps)): half as many
    operations, the factor being part of the weight.
    """

    def __init__(self, module: nn.Module) -> None:
        weight = cast(Tensor, module.weight).detach().float()
        size = weight.shape[-1]
        eps = float(getattr(module, "variance_epsilon", getattr(module, "eps", 1e-6)))
        if type(module).__name__.startswith("Gemma3"):
            weight = weight + 1
        self.weight = weight * math.sqrt(size)
        self.least = torch.tensor(math.sqrt(size * eps), device=weight.device)

    def __call__(self, x: Tensor) -> Tensor:
        """The norm of x [..., n]."""
        return self.direction(x) * self.weight

    def direction(self, x: Tensor) -> Tensor:
        """Without the weight."""
        length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x / length.hypot_(self.least)

    def added_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """Residual plus norm of x."""
        return torch.addcmul(residual, self.direction(x), self.weight)


class GroupExperts(Protocol):
    """What a batch's rows add to a group of linear layers that read the same input."""

    @property
    def weights(self) -> tuple[Tensor, ...] | None:
        """Folded ones [out, in], in the place of the frozen; None leaves these."""

    def add_to(self, y: Tensor, x: Tensor) -> None:
        """Add it to the layers' outputs.

        Args:
            y: [batch * tokens, all outputs] in fp32, changed in place.
            x: What they read, [batch, tokens, in] in fp32.
        """


class LinearGroup:
    """Linear layers that read the same input, as one."""

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
        """Now: an adapter that is attached puts its layers in the place of others."""
        return [cast(nn.Module, getattr(self._parent, name)) for name in self._names]

    def __call__(self, x: Tensor, own: GroupExperts | None) -> Tensor:
        """[batch, tokens, all outputs] in fp32 for x [batch, tokens, in]."""
        rows = x.shape[0] * x.shape[1]
        flat = x.reshape(rows, -1)
        weights = own.weights if own is not None else None
        if self.packed is not None and weights is None and rows <= FEW_ROWS:
            y = self.packed(flat)
        else:
            known = weights or [linear.weight for linear in self.linears]
            input_ = flat.to(known[0].dtype)
            y = torch.cat([F.linear(input_, weight) for weight in known], dim=-1).float()
        if self.bias is not None:
            y += self.bias
        if own is not None:
            own.add_to(y, x)
        return y.view(*x.shape[:2], -1)


class DecoderLayer:
    """A decoder layer."""

    def __init__(self, module: Any, config: Any, kind: str, int8: bool) -> None:
        attention, mlp = module.self_attn, module.mlp
        self.kind = kind
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
        self.head_norm = self._of_heads(attention)
        self.before_attention = RMSNorm(module.input_layernorm)
        sandwich = hasattr(module, "pre_feedforward_layernorm")
        middle = module.post_attention_layernorm
        self.after_attention = RMSNorm(middle) if sandwich else None
        self.before_mlp = RMSNorm(module.pre_feedforward_layernorm if sandwich else middle)
        self.after_mlp = RMSNorm(module.post_feedforward_layernorm) if sandwich else None
        name = getattr(config, "hidden_activation", None) or config.hidden_act
        self.activation = ACTIVATIONS[name]

    def _of_heads(self, attention: Any) -> Callable[[Tensor], Tensor] | None:
        """The norms of queries and keys, as one over all their heads."""
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
        keys_values: Tensor | tuple[Tensor, Tensor],
        place: Place,
        own: Sequence[GroupExperts | None],
    ) -> Tensor:
        """The layer's output for x [batch, tokens, H] in fp32.

        Args:
            x: The residual stream.
            keys_values: The layer's part of the cache, to which those of x are added.
            place: Where the tokens stand.
            own: What the batch's experts add to each group of linear layers.
        """
        y = self._attend(self.before_attention(x), keys_values, place, own)
        x = x + y if self.after_attention is None else self.after_attention.added_to(x, y)
        gate, up = self.groups[2](self.before_mlp(x), own[2]).chunk(2, dim=-1)
        y = self.groups[3](self.activation(gate) * up, own[3])
        return x + y if self.after_mlp is None else self.after_mlp.added_to(x, y)

    def _attend(
        self,
        x: Tensor,
        keys_values: Tensor | tuple[Tensor, Tensor],
        place: Place,
        own: Sequence[GroupExperts | None],
    ) -> Tensor:
        rows, count, _ = x.shape
        heads = self.heads + self.kv_heads
        found = self.groups[0](x, own[0]).view(rows, count, heads + self.kv_heads, self.head_size)
        turned, value = found[:, :, :heads], found[:, :, heads:]
        if self.head_norm is not None:
            turned = self.head_norm(turned)
        turned = torch.addcmul(turned * place.cos, turned.roll(self.head_size // 2, -1), place.sin)
        query, key = turned[:, :, : self.heads], turned[:, :, self.heads :]
        keys, values = keys_values[0], keys_values[1]
        if place.start is not None:
            keys[:, :, place.start : place.end] = key.transpose(1, 2)
            values[:, :, place.start : place.end] = value.transpose(1, 2)
        else:
            keys[place.rows, :, place.positions] = key.to(keys.dtype)
            values[place.rows, :, place.positions] = value.to(values.dtype)
        if place.reach:
            each = zip(query.split(1, dim=1), place.reach, strict=True)
            y = torch.cat(
                [
                    self._look(one, keys[:, :, first:end], values[:, :, first:end], None, place)
                    for one, (first, end) in each
                ],
                dim=1,
            )
        else:
            near = slice(place.first, place.end)
            y = self._look(query, keys[:, :, near], values[:, :, near], place.seen, place)
        return self.groups[1](y.float(), own[1])

    def _look(
        self, query: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None, place: Place
    ) -> Tensor:
        """What queries [batch, tokens, heads, size] take from keys and values: [batch, tokens, -1].

        Args:
            query: Turned to their places.
            keys: [batch, kv heads, keys, size].
            values: Like the keys.
            seen: As `Place.seen`, of these keys.
            place: Of the pass.
        """
        rows, count = query.shape[:2]
        keys, values = keys.to(place.dtype), values.to(place.dtype)
        if count == 1:  # the queries of a group see the same keys: as if they were several tokens
            query = query.reshape(rows, self.kv_heads, -1, self.head_size)
        else:
            query = query.transpose(1, 2)
        grouped = count > 1 and self.heads != self.kv_heads
        if grouped and keys.is_cuda:  # where no fast kernel knows both groups and masks
            keys, values = (
                table.repeat_interleave(self.heads // self.kv_heads, dim=1)
                for table in (keys, values)
            )
            grouped = False
        y = F.scaled_dot_product_attention(
            query.to(place.dtype),
            keys,
            values,
            attn_mask=seen,
            scale=self.scaling,
            enable_gqa=grouped,
        )
        if count > 1:
            y = y.transpose(1, 2)
        return y.reshape(rows, count, -1)
