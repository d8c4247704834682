"""The forward pass of the fast decoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from cgclora.inference.fast_decoder.cache import Cache
from cgclora.inference.fast_decoder.experts import BatchExperts, group_experts
from cgclora.inference.fast_decoder.layers import DecoderLayer, Positions, RMSNorm
from cgclora.layer import Route
from cgclora.models.quantized import FEW_ROWS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DEVICES = ("cpu", "cuda")
"""Supported device types."""


class FastDecoder:
    """See the package's docstring.

    Args:
        model: A causal language model with `is_known`, with or without adapters.
        int8: Use 8-bit copies of the weights in passes of few tokens; for CPUs.
    """

    def __init__(self, model: PreTrainedModel, *, int8: bool = False) -> None:
        decoder = cast(Any, model.get_decoder())
        config = model.config.get_text_config()
        self.device = model.device
        self.dtype = model.dtype
        self.int8 = int8
        self._embed: Callable[[Tensor], Tensor] = decoder.embed_tokens
        self._rotary = decoder.rotary_emb
        self.norm = RMSNorm(decoder.norm)
        types = getattr(config, "layer_types", None) or ["full_attention"] * len(decoder.layers)
        self.layers = [
            DecoderLayer(layer, config, attention_type, int8)
            for layer, attention_type in zip(decoder.layers, types, strict=True)
        ]
        self.windows: dict[str, int | None] = {  # by attention type; None is unlimited
            one: config.sliding_window if one == "sliding_attention" else None
            for one in dict.fromkeys(types)
        }
        self._rotary_by_type = config.model_type == "gemma3_text"
        self._rotary_tables: dict[str, tuple[Tensor, Tensor]] = {}

    @cached_property
    @torch.inference_mode()
    def is_batch_invariant(self) -> bool:
        """Whether a pass of few tokens of one row equals passes of one token each, bit for bit.

        Then drafts can be verified several at once without changing the answer. It needs 8-bit
        weights, which are multiplied by each token separately, and kernels that round all tokens
        alike; the latter is tested on one layer of each attention type.
        """
        if not self.int8:
            return False
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(1, FEW_ROWS, len(self.norm.weight), generator=generator)
        layers = {layer.attention_type: layer for layer in self.layers}.values()

        def hidden_states(pass_sizes: Sequence[int]) -> Tensor:
            cache = self.new_cache(1, FEW_ROWS)
            start, outputs = 0, []
            for part in x.split(pass_sizes, dim=1):
                hidden, count = part, part.shape[1]
                positions = self.positions_from(start, count, torch.float32, separate=True)
                for layer, key_values in zip(layers, cache.key_values, strict=False):
                    at = positions[layer.attention_type]
                    hidden = layer(hidden, key_values, at, [None] * 4)
                outputs.append(self.norm(hidden))
                start += count
            return torch.cat(outputs, dim=1)

        return torch.equal(hidden_states([FEW_ROWS]), hidden_states([1] * FEW_ROWS))

    @torch.inference_mode()
    def __call__(
        self, ids: Tensor, cache: Cache, experts: BatchExperts, counts: Tensor | None = None
    ) -> Tensor:
        """Hidden states [batch, tokens, H] in fp32 of new tokens, which are added to the cache.

        Args:
            ids: [batch, tokens], padded on the right.
            cache: Of all earlier tokens.
            experts: Of the batch's rows.
            counts: Number of tokens of each row without padding, [batch]; None is all.
        """
        rows, count = ids.shape
        cache.reserve(count)
        # Scores of many tokens are large products, which are several times as fast in bf16.
        dtype = cache.key_values.dtype if count <= FEW_ROWS else self.dtype
        end = cache.max_length + count
        if rows == 1:
            separate = self.int8 and count <= FEW_ROWS
            positions = self.positions_from(cache.max_length, count, dtype, separate=separate)
        else:
            positions = self.positions_after(cache.lengths, count, end, dtype)
        x = self.embed(ids)
        layers = zip(self.layers, cache.key_values, experts.layers, strict=True)
        for layer, key_values, layer_experts in layers:
            x = layer(x, key_values, positions[layer.attention_type], layer_experts)
        cache.lengths += count if counts is None else counts
        cache.max_length = end
        return self.norm(x)

    def new_cache(self, rows: int, capacity: int) -> Cache:
        """An empty cache; in fp32 for a single row, else in the backbone's dtype.

        Args:
            rows: Size of the batch.
            capacity: Expected maximum length of a row, in tokens.
        """
        first = self.layers[0]
        shape = (len(self.layers), 2, rows, first.kv_heads, capacity, first.head_size)
        return Cache(shape, self.device, torch.float32 if rows == 1 else self.dtype)

    def experts(self, route: Route | None) -> BatchExperts:
        """The experts of a planned route; None has none."""
        layers = (layer.groups for layer in self.layers)
        return BatchExperts(tuple(tuple(group_experts(g, route) for g in one) for one in layers))

    def embed(self, ids: Tensor) -> Tensor:
        """Input of the first layer, [batch, tokens, H] in fp32."""
        return self._embed(ids).float()

    def positions_from(
        self, start: int, count: int, dtype: torch.dtype, *, separate: bool = False
    ) -> dict[str, Positions]:
        """Positions by attention type, the same for all rows.

        Args:
            start: Position of the first token.
            count: Tokens per row.
            dtype: Of the attention scores.
            separate: Each token attends separately, as in a pass of one token.
        """
        tokens = torch.arange(start, start + count, device=self.device)
        positions = self._positions(tokens, start, start + count, dtype)
        if not separate or count == 1:
            return positions
        ends = range(start + 1, start + count + 1)
        return {
            one: dataclasses.replace(at, key_ranges=[(self._first_key(one, e), e) for e in ends])
            for one, at in positions.items()
        }

    def positions_after(
        self, lengths: Tensor, count: int, end: int, dtype: torch.dtype
    ) -> dict[str, Positions]:
        """Positions by attention type, of tokens that continue rows of different lengths.

        Args:
            lengths: Cached tokens of each row, [batch].
            count: Tokens per row.
            end: Upper bound of all positions; reading it from `lengths` would synchronise.
            dtype: Of the attention scores.
        """
        tokens = lengths[:, None] + torch.arange(count, device=self.device)
        return self._positions(tokens, None, end, dtype)

    def _positions(
        self, tokens: Tensor, start: int | None, end: int, dtype: torch.dtype
    ) -> dict[str, Positions]:
        rows = torch.arange(len(tokens), device=self.device)[:, None]
        positions = {}
        for one, window in self.windows.items():
            cos, sin = (table[tokens].unsqueeze(-2) for table in self.rotary_tables(one, end))
            first, mask = 0, None
            if start is not None and tokens.shape[-1] == 1:
                first = self._first_key(one, end)
            else:
                keys, last = torch.arange(end, device=self.device), tokens.unsqueeze(-1)
                mask = keys <= last
                if window is not None:
                    mask &= keys > last - window
                mask = mask.view(-1, 1, tokens.shape[-1], end)
            positions[one] = Positions(rows, tokens, cos, sin, start, first, end, mask, dtype)
        return positions

    def _first_key(self, attention_type: str, end: int) -> int:
        """First key that the last of `end` tokens attends to."""
        window = self.windows[attention_type]
        return 0 if window is None else max(0, end - window)

    def rotary_tables(self, attention_type: str, length: int) -> tuple[Tensor, Tensor]:
        """Cosine and signed sine of at least `length` positions, [positions, head size] each.

        The rotation is x cos + roll(x) sin, where `roll` swaps the halves of x; the sine of the
        first half is negative.
        """
        tables = self._rotary_tables.get(attention_type)
        if tables is None or len(tables[0]) < length:
            steps = torch.arange(max(1024, 1 << length.bit_length()), device=self.device)[None]
            like = torch.zeros(1, device=self.device)
            arguments = (like, steps, attention_type) if self._rotary_by_type else (like, steps)
            cos, sin = (table[0].float() for table in self._rotary(*arguments))
            half = sin.shape[-1] // 2
            sin = torch.cat([-sin[:, :half], sin[:, half:]], dim=-1)
            tables = self._rotary_tables[attention_type] = (cos, sin)
        return tables
