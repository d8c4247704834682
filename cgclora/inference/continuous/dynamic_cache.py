"""Rows that join and leave a cache of `transformers` while it is in use.

Rows are padded on the left, so that the newest token of each is in the last column:

    keys and values      [batch, heads, columns, head size], of a sliding window the last ones only
    keys of an indexer   [batch, columns, size]
    linear attention     convolution and recurrent states [batch, ...], without columns

A row's states do not depend on its padding in models that `may_pad`, so rows of another width are
joined by padding the narrower ones, and columns that pad all rows can be dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, cache_utils


def can_join(cache: DynamicCache) -> bool:
    """Whether all layers are of the kinds above; some models have their own."""
    return all(
        type(layer).__module__ == cache_utils.__name__
        and getattr(layer, "indexer_position_ids", None) is None
        for layer in cache.layers
    )


def keep_rows(cache: DynamicCache, rows: Tensor) -> None:
    """Select rows by index [n]; an index that occurs several times duplicates its row."""
    cache.reorder_cache(
        cast(torch.LongTensor, rows)
    )  # `batch_select_indices` passes over linear attention


def join(cache: DynamicCache, other: DynamicCache) -> None:
    """Append the rows of another cache of the same model."""
    layers: Iterator[tuple[Any, Any]] = zip(cache.layers, other.layers, strict=True)
    for layer, joining in layers:
        for name, columns in _growing(layer):
            both: list[Tensor] = [getattr(one, name) for one in (layer, joining)]
            width = max(states.shape[columns] for states in both)
            setattr(layer, name, torch.cat([_widen(one, columns, width) for one in both]))
        if hasattr(layer, "cumulative_length"):
            layer.cumulative_length = max(layer.cumulative_length, joining.cumulative_length)
        for states, more in zip(_fixed(layer), _fixed(joining), strict=True):
            for place, value in states.items():
                if value is not None:
                    states[place] = torch.cat([value, more[place]])


def drop_first(cache: DynamicCache, columns: int, left: int) -> None:
    """Remove the first columns, of which `left` are left; they must be padding in all rows."""
    layers: list[Any] = cache.layers
    for layer in layers:
        for name, dim in _growing(layer):
            states = getattr(layer, name)
            size = min(states.shape[dim], left)  # a sliding window may hold fewer
            setattr(layer, name, states.narrow(dim, states.shape[dim] - size, size))
        if hasattr(layer, "cumulative_length"):
            layer.cumulative_length -= columns


def _growing(layer: Any) -> list[tuple[str, int]]:
    """Names of a layer's states that grow by a column per token, and their dimension."""
    names = [("keys", -2), ("values", -2), ("indexer_keys", 1)]
    return [(name, dim) for name, dim in names if _has_values(getattr(layer, name, None))]


def _has_values(states: Tensor | None) -> bool:
    return states is not None and states.numel() > 0


def _fixed(layer: Any) -> list[dict[int, Any]]:
    """A layer's states of fixed size."""
    return [getattr(layer, name, {}) for name in ("conv_states", "recurrent_states")]


def _widen(states: Tensor, dim: int, width: int) -> Tensor:
    """Zeros in front: masked keys and values must be finite."""
    missing = width - states.shape[dim]
    return F.pad(states, (0, 0, missing, 0)) if missing else states
