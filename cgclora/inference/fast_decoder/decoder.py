"""The fast forward pass itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from cgclora.inference.fast_decoder.cache import Cache
from cgclora.inference.fast_decoder.experts import BatchExperts
from cgclora.inference.fast_decoder.layers import DecoderLayer, RMSNorm
from cgclora.inference.fast_decoder.places import Place, reach_of, seen_keys
from cgclora.layer import Route
from cgclora.models.quantized import FEW_ROWS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DEVICES = ("cpu", "cuda")
"""Where it runs."""


class FastDecoder:
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
        self.norm = RMSNorm(decoder.norm)
        kinds = getattr(config, "layer_types", None) or ["full_attention"] * len(decoder.layers)
        self.layers = [
            DecoderLayer(layer, config, kind, int8)
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
            cache = self.new_cache(1, FEW_ROWS)
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
        self, ids: Tensor, cache: Cache, experts: BatchExperts, counts: Tensor | None = None
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

    def new_cache(self, rows: int, capacity: int) -> Cache:
        """An empty cache; a single row's is in fp32, those of many in the backbone's dtype.

        Args:
            rows: Size of the batch.
            capacity: Most tokens of a row, as far as is known.
        """
        first = self.layers[0]
        shape = (len(self.layers), 2, rows, first.kv_heads, capacity, first.head_size)
        return Cache(shape, self.device, torch.float32 if rows == 1 else self.dtype)

    def experts(self, route: Route | None) -> BatchExperts:
        """What a planned route adds to the layers; None adds nothing."""
        return BatchExperts.of((layer.groups for layer in self.layers), route)

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
            kind: dataclasses.replace(place, reach=reach_of(start, count, self.windows[kind]))
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
            first, seen = seen_keys(positions, window, end, alike=start is not None)
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
