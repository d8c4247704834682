"""The backbone's forward pass as decoding wants it: few operations, a preallocated cache.

A token at a time, a general forward pass spends most of its time beside the matrix products. This
one reads the same weights from the same modules and computes the same function:

* residual stream, norms and experts in fp32, products with the frozen weights in their own dtype;
* query, key and value are one product, as are gate and up; so are their experts' A and B;
* keys and values go into a cache that is allocated once, and masks are made once a pass;
* nothing in a pass waits for the device;
* with `Int8Weight`, passes of few tokens read weights of half the size, and what they find for a
  token is bit for bit what a pass of that token alone finds (`LeanDecoder.keeps_apart`).

The decoders that it knows are made of RMS norms, rotary positions, grouped-query attention and a
gated MLP: Gemma 3, Llama, Qwen 2 and Qwen 3. All others take the path of `transformers`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgclora.layer import ExpertLinear, Route
from cgclora.models.hardware import choose_device
from cgclora.models.quantized import FEW_ROWS, Int8Weight, has_fast_int4, has_kernel

if TYPE_CHECKING:  # who only asks what there is does not wait for it
    from transformers import PreTrainedModel

KNOWN = ("gemma3_text", "llama", "qwen2", "qwen3")
"""Model types whose layers are computed here."""

DEVICES = ("cpu", "cuda")
"""Where that is done."""

_SPARE = 64
"""Tokens that a cache grows by at least."""

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


def is_known(model: PreTrainedModel) -> bool:
    """Whether `LeanDecoder` computes what this model computes."""
    config = model.config.get_text_config()
    activation = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    return (
        config.model_type in KNOWN
        and activation in _ACTIVATIONS
        and not getattr(config, "attn_logit_softcapping", None)
        and not getattr(config, "use_bidirectional_attention", False)
        and "dynamic" not in str(getattr(config, "rope_parameters", None))
        and "longrope" not in str(getattr(config, "rope_parameters", None))
        and getattr(model.config, "quantization_config", None) is None
    )


def decoding_here() -> str:
    """Which code and weights may answer on this machine, in a line.

    `Backbone.decoding` says which do, once one is loaded.
    """
    device = choose_device("auto")
    if device.type not in DEVICES:
        return f"transformers on {device.type}"
    if device.type != "cpu":
        return f"cgclora.inference.fast_decoder on {device.type} for {', '.join(KNOWN)}"
    bits = "no 8-bit weights"
    if has_kernel():
        bits = f"--int8 with a {4 if has_fast_int4() else 8}-bit head to choose"
    capability = torch.backends.cpu.get_cpu_capability()
    return f"cgclora.inference.fast_decoder on cpu ({capability}) for {', '.join(KNOWN)}; {bits}"


class Cache:
    """Keys and values of a batch, [layers, 2, batch, heads, capacity, head size].

    Args:
        decoder: Whose.
        rows: Size of the batch. Those of one row are kept in fp32, of many in the backbone's dtype.
        capacity: Most tokens of a row, as far as is known.

    Attributes:
        lengths: How many tokens each row holds, [batch].
        longest: The largest of them.
    """

    def __init__(self, decoder: LeanDecoder, rows: int, capacity: int) -> None:
        first = decoder.layers[0]
        shape = (len(decoder.layers), 2, rows, first.kv_heads, capacity, first.head_size)
        dtype = torch.float32 if rows == 1 else decoder.dtype
        # Zeros, since what no row may see still takes part with weight 0.
        self._room = torch.zeros(shape, device=decoder.device, dtype=dtype)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=decoder.device)
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


class LeanDecoder:
    """See the module's text.

    Args:
        model: A causal language model with `is_known`, with or without adapters.
        int8: Read 8-bit copies of the weights where few tokens pass at once; for CPUs.

    Attributes:
        layers: One for each of the model's.
        int8: Whether there are such copies.
    """

    def __init__(self, model: PreTrainedModel, *, int8: bool = False) -> None:
        decoder = cast(Any, model.get_decoder())
        config = model.config.get_text_config()
        self.device = model.device
        self.dtype = model.dtype
        self.int8 = int8
        self._embed: Callable[[Tensor], Tensor] = decoder.embed_tokens
        self._rotary = decoder.rotary_emb
        self.norm = _Norm(decoder.norm)
        kinds = getattr(config, "layer_types", None) or ["full_attention"] * len(decoder.layers)
        self.layers = [
            _Layer(layer, config, kind, int8)
            for layer, kind in zip(decoder.layers, kinds, strict=True)
        ]
        self.windows: dict[str, int | None] = {
            kind: config.sliding_window if kind == "sliding_attention" else None
            for kind in dict.fromkeys(kinds)
        }
        self._typed = config.model_type == "gemma3_text"  # a rotation for each kind of attention
        self._turns: dict[str, tuple[Tensor, Tensor]] = {}

    @cached_property
    @torch.inference_mode()
    def keeps_apart(self) -> bool:
        """Whether a pass of few tokens of one row finds for each what passes of one token find.

        Bit for bit, so that several tokens can be verified at once without a trace in the answer.
        The frozen weights in 8 bits are multiplied by each token anew; whether this machine's
        kernels round all tokens alike is tried here, on a layer of each kind.
        """
        if not self.int8:
            return False
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(1, FEW_ROWS, len(self.norm.weight), generator=generator)
        layers = {layer.kind: layer for layer in self.layers}.values()

        def found(sizes: Sequence[int]) -> Tensor:
            cache = Cache(self, 1, FEW_ROWS)
            start, rows = 0, []
            for part in x.split(sizes, dim=1):
                places = self.places_from(start, part.shape[1], torch.float32, apart=True)
                hidden = part
                for layer, keys_values in zip(layers, cache.table, strict=False):
                    hidden = layer(hidden, keys_values, places[layer.kind], [None] * 4)
                rows.append(self.norm(hidden))
                start += part.shape[1]
            return torch.cat(rows, dim=1)

        return torch.equal(found([FEW_ROWS]), found([1] * FEW_ROWS))

    @torch.inference_mode()
    def __call__(
        self, ids: Tensor, cache: Cache, experts: Experts, counts: Tensor | None = None
    ) -> Tensor:
        """Hidden states [batch, tokens, H] in fp32 after these tokens, which the cache then holds.

        Args:
            ids: [batch, tokens], padded on the right.
            cache: Of all tokens before.
            experts: What the batch's rows use.
            counts: How many of its tokens each row has, [batch]; None is all of them.
        """
        rows, count = ids.shape
        cache.make_room(count)
        # Scores of many tokens are large products, which bf16 makes several times as fast.
        dtype = cache.table.dtype if count <= FEW_ROWS else self.dtype
        end = cache.longest + count
        if rows == 1:
            apart = self.int8 and count <= FEW_ROWS
            places = self.places_from(cache.longest, count, dtype, apart=apart)
        else:
            places = self.places_at(cache.lengths, count, end, dtype)
        x = self.embed(ids)
        for layer, keys_values, own in zip(self.layers, cache.table, experts.layers, strict=True):
            x = layer(x, keys_values, places[layer.kind], own)
        cache.lengths += count if counts is None else counts
        cache.longest = end
        return self.norm(x)

    def embed(self, ids: Tensor) -> Tensor:
        """What the first layer reads, [batch, tokens, H] in fp32."""
        return self._embed(ids).float()

    def places_from(
        self, start: int, count: int, dtype: torch.dtype, *, apart: bool = False
    ) -> dict[str, Place]:
        """For each kind of attention the places of tokens that stand alike in all rows.

        Args:
            start: Where the first of them stands.
            count: Tokens a row.
            dtype: What scores are computed in.
            apart: Each token attends by itself, as in a pass of its own.
        """
        positions = torch.arange(start, start + count, device=self.device)
        places = self._places(positions, start, start + count, dtype)
        if not apart or count == 1:
            return places
        return {
            kind: dataclasses.replace(place, reach=_reach(start, count, self.windows[kind]))
            for kind, place in places.items()
        }

    def places_at(
        self, lengths: Tensor, count: int, end: int, dtype: torch.dtype
    ) -> dict[str, Place]:
        """For each kind of attention the places of tokens that come after what each row holds.

        Args:
            lengths: What each row holds, [batch].
            count: Tokens a row.
            end: No token of any row stands at it or after it. Nothing here looks at the lengths
                themselves, for which a GPU would have to wait.
            dtype: What scores are computed in.
        """
        positions = lengths[:, None] + torch.arange(count, device=self.device)
        return self._places(positions, None, end, dtype)

    def _places(
        self, positions: Tensor, start: int | None, end: int, dtype: torch.dtype
    ) -> dict[str, Place]:
        rows = torch.arange(len(positions), device=self.device)[:, None]
        found = {}
        for kind, window in self.windows.items():
            cos, sin = (table[positions].unsqueeze(-2) for table in self.turns(kind, end))
            first, seen = _seen(positions, window, end, alike=start is not None)
            found[kind] = Place(rows, positions, cos, sin, start, first, end, seen, dtype)
        return found

    def turns(self, kind: str, most: int) -> tuple[Tensor, Tensor]:
        """Cosine and signed sine at each position, so many at least: [positions, head size].

        A rotation takes x to x cos + roll(x) sin: the halves of x change places, and the sign of
        the first goes into the sine.
        """
        known = self._turns.get(kind)
        if known is None or len(known[0]) < most:
            steps = torch.arange(max(1024, 1 << most.bit_length()), device=self.device)[None]
            like = torch.zeros(1, device=self.device)
            arguments = (like, steps, kind) if self._typed else (like, steps)
            cos, sin = (table[0].float() for table in self._rotary(*arguments))
            half = sin.shape[-1] // 2
            sin = torch.cat([-sin[:, :half], sin[:, half:]], dim=-1)
            known = self._turns[kind] = (cos, sin)
        return known


@dataclass(frozen=True)
class Place:
    """Where the tokens of a pass stand: what all layers with one kind of attention need of it.

    Attributes:
        rows: Numbers of the rows, [batch, 1].
        positions: [batch, tokens]; [tokens] where they stand alike in all rows.
        cos: [..., tokens, 1, head size].
        sin: Signed, see `LeanDecoder.turns`.
        start: Where the first token of all rows stands; None where that differs.
        first: The first key that any token may see.
        end: After the last one.
        seen: Which keys between the two each token may see, [batch or 1, 1, tokens, keys]; None is
            all of them.
        dtype: What scores are computed in.
        reach: For each token the first key that it sees and the end of them, where each attends by
            itself.
    """

    rows: Tensor
    positions: Tensor
    cos: Tensor
    sin: Tensor
    start: int | None
    first: int
    end: int
    seen: Tensor | None
    dtype: torch.dtype
    reach: Sequence[tuple[int, int]] = ()


def _reach(start: int, count: int, window: int | None) -> list[tuple[int, int]]:
    """`Place.reach` of tokens that stand from `start` on."""
    ends = range(start + 1, start + count + 1)
    return [(0 if window is None else max(0, end - window), end) for end in ends]


def _seen(
    positions: Tensor, window: int | None, end: int, *, alike: bool
) -> tuple[int, Tensor | None]:
    """`Place.first` and `Place.seen`."""
    count = positions.shape[-1]
    if alike and count == 1:
        return _reach(end - 1, 1, window)[0][0], None
    keys = torch.arange(end, device=positions.device)
    at = positions.unsqueeze(-1)
    seen = keys <= at
    if window is not None:
        seen &= keys > at - window
    return 0, seen.view(-1, 1, count, end)


class _Norm:
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
        return self.direction(x) * self.weight

    def direction(self, x: Tensor) -> Tensor:
        """Without the weight."""
        length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x / length.hypot_(self.least)

    def added_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """Residual plus norm of x."""
        return torch.addcmul(residual, self.direction(x), self.weight)


class _Group:
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

    def __call__(self, x: Tensor, own: Own | None) -> Tensor:
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


class _Layer:
    """A decoder layer."""

    def __init__(self, module: Any, config: Any, kind: str, int8: bool) -> None:
        attention, mlp = module.self_attn, module.mlp
        self.kind = kind
        self.head_size = int(attention.head_dim)
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.scaling = float(attention.scaling)
        self.groups = [
            _Group(attention, ("q_proj", "k_proj", "v_proj"), int8),
            _Group(attention, ("o_proj",), int8),
            _Group(mlp, ("gate_proj", "up_proj"), int8),
            _Group(mlp, ("down_proj",), int8),
        ]
        self.head_norm = self._of_heads(attention)
        self.before_attention = _Norm(module.input_layernorm)
        sandwich = hasattr(module, "pre_feedforward_layernorm")
        middle = module.post_attention_layernorm
        self.after_attention = _Norm(middle) if sandwich else None
        self.before_mlp = _Norm(module.pre_feedforward_layernorm if sandwich else middle)
        self.after_mlp = _Norm(module.post_feedforward_layernorm) if sandwich else None
        name = getattr(config, "hidden_activation", None) or config.hidden_act
        self.activation = _ACTIVATIONS[name]

    def _of_heads(self, attention: Any) -> Callable[[Tensor], Tensor] | None:
        """The norms of queries and keys, as one over all their heads."""
        if not hasattr(attention, "q_norm"):
            return None
        query, key = _Norm(attention.q_norm), _Norm(attention.k_norm)
        weight = torch.cat(
            [query.weight.expand(self.heads, -1), key.weight.expand(self.kv_heads, -1)]
        )
        return lambda x: query.direction(x) * weight

    def __call__(
        self,
        x: Tensor,
        keys_values: Tensor | tuple[Tensor, Tensor],
        place: Place,
        own: Sequence[Own | None],
    ) -> Tensor:
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
        own: Sequence[Own | None],
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


# Experts ----------------------------------------------------------------------------------


class Own(Protocol):
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


@dataclass(frozen=True)
class SharedOwn:
    """See `Own`: the experts that some row uses, for all rows.

    Attributes:
        A: [R, in]; None where there are weights.
        B: [R, all outputs], the gates of a batch of one in it.
        gates: [batch, 1, R]; None where they are in B.
        weights: See `Own`.
    """

    A: Tensor | None = None
    B: Tensor | None = None
    gates: Tensor | None = None
    weights: tuple[Tensor, ...] | None = None

    def add_to(self, y: Tensor, x: Tensor) -> None:
        """See `Own`."""
        if self.A is None or self.B is None:
            return
        flat = x.reshape(len(y), -1)
        if len(x) == 1 and self.gates is None and 1 < len(y) <= FEW_ROWS:
            # One by one, since sums of several rows are rounded in another order.
            for one, row in zip(y.split(1), flat.split(1), strict=True):
                one.addmm_(F.linear(row, self.A), self.B)
            return
        z = F.linear(flat, self.A)
        if self.gates is not None:
            z = (z.view(*x.shape[:2], -1) * self.gates).view(len(y), -1)
        y.addmm_(z, self.B)

    def keep(self, rows: Tensor) -> SharedOwn:
        """The same for some rows of the batch."""
        return (
            self
            if self.gates is None
            else SharedOwn(self.A, self.B, self.gates[rows], self.weights)
        )


@dataclass(frozen=True)
class Experts:
    """The experts of a batch, laid out for `LeanDecoder`.

    Attributes:
        layers: For each layer what it adds to its four groups of linear layers.
    """

    layers: tuple[tuple[SharedOwn | None, ...], ...]

    @property
    def beside(self) -> bool:
        """Whether all stand beside the frozen weights, and none in their place."""
        return all(own is None or own.weights is None for layer in self.layers for own in layer)

    @classmethod
    def of(cls, decoder: LeanDecoder, route: Route | None) -> Experts:
        """What a planned route adds; None adds nothing."""
        return cls(
            tuple(tuple(_own(group, route) for group in layer.groups) for layer in decoder.layers)
        )

    def keep(self, rows: Tensor) -> Experts:
        """The same for some rows of the batch."""
        return Experts(
            tuple(
                tuple(None if own is None else own.keep(rows) for own in layer)
                for layer in self.layers
            )
        )


def _own(group: _Group, route: Route | None) -> SharedOwn | None:
    if route is None:
        return None
    of_layers = [
        route.experts.get(module, ()) if isinstance(module, ExpertLinear) else ()
        for module in group.modules
    ]
    if any(isinstance(experts, Tensor) for experts in of_layers):
        return SharedOwn(
            weights=tuple(
                experts if isinstance(experts, Tensor) else linear.weight
                for experts, linear in zip(of_layers, group.linears, strict=True)
            )
        )
    places = [0]
    for size in group.sizes:
        places.append(places[-1] + size)
    tables: list[Tensor] = []
    lower: list[Tensor] = []
    gates: list[Tensor] = []
    for experts, start, end in zip(of_layers, places, places[1:], strict=False):
        for one in experts:
            tables.append(one.A)
            lower.append(F.pad(one.B.float(), (start, places[-1] - end)))
            gates.append(one.weights)
    if not tables:
        return None
    A, B = torch.cat(tables).float(), torch.cat(lower)
    weights = torch.cat(gates, dim=-1).float()
    if len(weights) == 1:
        return SharedOwn(A, B * weights.view(-1, 1))
    return SharedOwn(A, B, weights)
