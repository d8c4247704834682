"""The backbone's forward pass as training wants it: few passes over memory beside the products.

With frozen weights most of what autograd would compute and keep is known beforehand, so each piece
of a decoder layer is one operation with a backward pass of its own:

* layers that read the same input (query, key and value; gate and up) are one: their experts' A is
  one product, and the gradients by the input are summed up within the products;
* a norm keeps its input and a factor a token, a rotation nothing;
* attention over short sequences is plain products, query heads that share a key as one;
* padding needs no mask: it stands on the right, where no token before it looks;
* after the last layer's attention only the positions that predict a target go on.

It covers the decoders of `fast_decoder`: Gemma 3, Llama, Qwen 2 and Qwen 3. Others take the path of
`transformers`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from cgclora.layer import ExpertLinear
from cgclora.models.families import is_known
from cgclora.models.hardware import fused
from cgclora.training.expert_linears import experts_of, linears

PLAIN_TOKENS = 256
"""Longest sequences whose attention is plain products; beyond, a fused kernel that skips what the
causal mask hides is as fast and keeps less."""

_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

_aten = torch.ops.aten


def can_pass(model: PreTrainedModel) -> bool:
    """Whether `hidden_states` computes what this model computes, with all its gradients.

    It does not where frozen weights are trained, sharded, quantised or in the layers of other
    libraries, and it leaves gradient checkpointing and autocast to `transformers`.
    """
    if (
        not is_known(model)
        or getattr(model.config.get_text_config(), "attention_dropout", False)
        or torch.is_autocast_enabled(model.device.type)
    ):
        return False
    modules = list(cast(nn.Module, model.get_decoder()).named_modules())
    if any(getattr(module, "gradient_checkpointing", False) for _, module in modules):
        return False
    linear = [module for path, module in modules if path.rpartition(".")[2] in _LINEAR]
    frozen = [
        parameter
        for _, module in modules
        if not isinstance(module, nn.ParameterDict)
        for parameter in module.parameters(recurse=False)
    ]
    return (
        all(type(module) in {nn.Linear, ExpertLinear} for module in linear)
        and not any(
            isinstance(module, ExpertLinear)
            and module.routing.route is not None
            and isinstance(module.routing.route.experts.get(module), Tensor)
            for module in linear
        )
        and all(type(weight) is nn.Parameter and not weight.requires_grad for weight in frozen)
        and len({weight.dtype for weight in frozen}) == 1
    )


def hidden_states(model: PreTrainedModel, ids: Tensor, positions: Tensor) -> Tensor:
    """What the decoder makes of token ids [batch, tokens], at some positions: [N, H].

    The model is one that `can_pass`; ids are padded on the right, if at all; positions [N] are
    indices into the flattened [batch * tokens].

    Raises:
        ValueError: The batch has another number of rows than the current route has tasks.
    """
    decoder = cast(Any, model.get_decoder())
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * len(decoder.layers)
    tokens = ids.shape[1]
    places = {kind: _Place.of(decoder, config, kind, tokens) for kind in dict.fromkeys(kinds)}
    x: Tensor = decoder.embed_tokens(ids)
    *layers, last = decoder.layers
    for layer, kind in zip(layers, kinds, strict=False):
        x = _rest(layer, x, _attended(layer, x, places[kind]))
    y = _attended(last, x, places[kinds[-1]])
    if _is_one(last):
        x = _rest(last, _at(x, positions), _at(y, positions), positions // tokens)
    else:  # whose rows have to stay blocks
        x = _at(_rest(last, x, y), positions)
    return _norm(decoder.norm, x).squeeze(1)


def _at(x: Tensor, positions: Tensor) -> Tensor:
    """The tokens at some positions of x [batch, tokens, n], as rows of one: [N, 1, n]."""
    return x.flatten(0, 1).index_select(0, positions).unsqueeze(1)


def _is_one(layer: Any) -> bool:
    """Whether the experts at the end of a layer, if any, are of one adapter, without dropout.

    Dropout depends on where in its row a token stands.
    """
    mlp = layer.mlp
    return all(
        part.rows is None and part.A.dim() == 2 and part.dropout is None
        for module in (layer.self_attn.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        for part in experts_of(module)
    )


@dataclass(frozen=True)
class _Place:
    """Where tokens stand: what all layers of a kind need of it."""

    cos: Tensor  # of the rotation, [tokens, 1, head size], in fp32
    sin: Tensor  # likewise, negative for the first half
    bias: Tensor | None  # for plain products, -inf where hidden, [tokens * heads of a key, tokens]
    seen: Tensor | None  # for the fused kernel, where it may; None if that is all that came before

    @classmethod
    def of(cls, decoder: Any, config: Any, kind: str, tokens: int) -> _Place:
        weight = decoder.embed_tokens.weight
        steps = torch.arange(tokens, device=weight.device)
        typed = config.model_type == "gemma3_text"  # a rotation for each kind of attention
        like = torch.zeros(1, device=weight.device)
        turns = decoder.rotary_emb(*((like, steps[None], kind) if typed else (like, steps[None])))
        cos, sin = (table[0, :, None] for table in turns)
        half = sin.shape[-1] // 2
        sin = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
        behind = steps[:, None] - steps
        seen = behind >= 0
        narrow = kind == "sliding_attention" and config.sliding_window < tokens
        if narrow:
            seen &= behind < config.sliding_window
        if weight.device.type != "cpu" or tokens > PLAIN_TOKENS:
            return cls(cos, sin, None, seen if narrow else None)
        bias = torch.zeros_like(seen, dtype=weight.dtype).masked_fill_(~seen, -torch.inf)
        heads = config.num_attention_heads // config.num_key_value_heads
        return cls(cos, sin, bias.repeat_interleave(heads, dim=0), None)


def _attended(layer: Any, x: Tensor, place: _Place) -> Tensor:
    """What the heads of a layer bring, before their output layer: [batch, tokens, heads * size]."""
    attention = layer.self_attn
    query, key, value = (
        y.unflatten(-1, (-1, attention.head_dim))
        for y in linears(
            [attention.q_proj, attention.k_proj, attention.v_proj], _norm(layer.input_layernorm, x)
        )
    )
    query, key = (
        _apply(
            _NormAndTurn, part, *_weight_of(getattr(attention, name, None)), place.cos, place.sin
        )
        for part, name in ((query, "q_norm"), (key, "k_norm"))
    )
    if place.bias is not None:
        return _plain_attention(query, key, value, place.bias, attention.scaling)
    y = F.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=place.seen,
        is_causal=place.seen is None,
        scale=attention.scaling,
        enable_gqa=query.shape[2] != key.shape[2],
    )
    return y.transpose(1, 2).flatten(-2)


def _rest(layer: Any, x: Tensor, y: Tensor, rows: Tensor | None = None) -> Tensor:
    """A layer's output for its input and what its heads brought; `rows` as in `_linears`."""
    (y,) = linears([layer.self_attn.o_proj], y, rows)
    sandwich = hasattr(layer, "pre_feedforward_layernorm")
    middle = layer.post_attention_layernorm
    x = x + (_norm(middle, y) if sandwich else y)
    read = _norm(layer.pre_feedforward_layernorm if sandwich else middle, x)
    gate, up = linears([layer.mlp.gate_proj, layer.mlp.up_proj], read, rows)
    gelu = "GELU" in type(layer.mlp.act_fn).__name__
    (y,) = linears([layer.mlp.down_proj], _apply(_Gated, gate, up, gelu), rows)
    return x + (_norm(layer.post_feedforward_layernorm, y) if sandwich else y)


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    apply: Callable[..., Tensor] = function.apply
    return apply(*arguments)


# Norms and rotation -----------------------------------------------------------------------


def _wide(x: Tensor) -> Tensor:
    """In the precision of the steps between the products."""
    return x if x.dtype == torch.float64 else x.float()


def _weight_of(norm: Any) -> tuple[Tensor | None, float]:
    """A norm's weight in fp32 and epsilon; Gemma's stores the difference from 1."""
    if norm is None:
        return None, 0.0
    eps = float(getattr(norm, "variance_epsilon", getattr(norm, "eps", 0.0)))
    gemma = type(norm).__name__.startswith("Gemma3")
    return _wide(norm.weight.detach()) + float(gemma), eps


def _norm(module: Any, x: Tensor) -> Tensor:
    return _apply(_NormAndTurn, x, *_weight_of(module), None, None)


def _factor(x: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean x^2 + eps) of every row."""
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return (length.square_() / x.shape[-1] + eps).rsqrt_()


def _norm_backward(gradient: Tensor, x: Tensor, weight: Tensor, factor: Tensor) -> Tensor:
    """With g the gradient of y = w x f and f as in `_factor`: f w g - x f^3 mean(x w g)."""
    own = gradient * weight
    along = torch.linalg.vecdot(own, x).unsqueeze(-1)
    return own.mul_(factor).addcmul_(x, along * factor**3, value=-1 / x.shape[-1])


@fused
def _normed_and_turned(
    x: Tensor, weight: Tensor | None, eps: float, cos: Tensor | None, sin: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """X after a norm if there is a weight, turned if there is a rotation; the norm's factor."""
    wide, factor = _wide(x), None
    if weight is not None:
        factor = _factor(wide, eps)
        wide = (wide * factor).mul_(weight)
    if cos is not None and sin is not None:
        wide = (wide * cos).addcmul_(wide.roll(x.shape[-1] // 2, -1), sin)
    return wide.to(x.dtype), factor


@fused
def _of_normed_and_turned(
    gradient: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    factor: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
) -> Tensor:
    back = _wide(gradient)
    if cos is not None and sin is not None:
        back = (back * cos).addcmul_(back.roll(back.shape[-1] // 2, -1), sin, value=-1)
    if x is not None and weight is not None and factor is not None:
        back = _norm_backward(back, _wide(x), weight, factor)
    return back.to(gradient.dtype)


@fused
def _gated(gate: Tensor, up: Tensor, gelu: bool) -> Tensor:
    return (F.gelu(gate, approximate="tanh") if gelu else F.silu(gate)) * up


@fused
def _of_gated(gradient: Tensor, gate: Tensor, up: Tensor, gelu: bool) -> tuple[Tensor, Tensor]:
    opened = F.gelu(gate, approximate="tanh") if gelu else F.silu(gate)
    own = gradient * up
    if gelu:
        own = _aten.gelu_backward(own, gate, approximate="tanh")
    else:
        own = _aten.silu_backward(own, gate)
    return own, gradient * opened


class _NormAndTurn(torch.autograd.Function):
    """The RMS norm of x [..., n] with a frozen weight [n], if any, then a rotation, if any.

    In fp32 inside. The halves (a, b) of a head become (a cos - b sin, b cos + a sin).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        eps: float,
        cos: Tensor | None,
        sin: Tensor | None,
    ) -> Tensor:
        y, factor = _normed_and_turned(x, weight, eps, cos, sin)
        ctx.save_for_backward(None if weight is None else x, weight, factor, cos, sin)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _of_normed_and_turned(gradients[0], *ctx.saved_tensors), None, None, None, None


class _Gated(torch.autograd.Function):
    """The middle of an MLP: GELU (as tanh) or SiLU of the gate, times up."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, gelu: bool) -> Tensor:
        ctx.gelu = gelu
        ctx.save_for_backward(gate, up)
        return _gated(gate, up, gelu)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        return (*_of_gated(gradients[0], gate, up, ctx.gelu), None)


# Attention --------------------------------------------------------------------------------


def _plain_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float
) -> Tensor:
    """[batch, tokens, heads * size]; query heads that share a key count as tokens of one head."""
    batch, tokens, shared, size = key.shape
    query = query.unflatten(2, (shared, -1)).transpose(1, 2).reshape(batch * shared, -1, size)
    key, value = (x.transpose(1, 2).reshape(batch * shared, tokens, size) for x in (key, value))
    y = _apply(_PlainAttention, query, key, value, bias, scale)
    return y.view(batch, shared, tokens, -1).transpose(1, 2).flatten(2)


class _PlainAttention(torch.autograd.Function):
    """softmax(scale q k^T + bias) v for q [N, Q, size], k and v [N, tokens, size]."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float
    ) -> Tensor:
        ctx.scale = scale
        shares = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=scale).softmax(-1)
        ctx.save_for_backward(query, key, value, shares)
        return shares @ value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, shares = ctx.saved_tensors
        of_value = shares.transpose(1, 2) @ gradients[0]
        scores = _aten._softmax_backward_data(
            gradients[0] @ value.transpose(1, 2), shares, -1, shares.dtype
        )
        of_query = torch.baddbmm(query, scores, key, beta=0, alpha=ctx.scale)
        of_key = torch.baddbmm(key, scores.transpose(1, 2), query, beta=0, alpha=ctx.scale)
        return of_query, of_key, of_value, None, None
