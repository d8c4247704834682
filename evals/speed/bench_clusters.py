"""The benchmark's part on 1 + N: what a batch costs as clusters and tasks grow."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator

import torch

from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig
from cgclora.inference.multi_adapter import Clusters
from cgclora.models.backbone import Backbone
from evals.speed.bench_parts import Bar, Part, decode, twin

ROWS = 16
SHAPES = ((1, 1), (1, 4), (1, 16), (2, 8), (4, 4), (8, 2))
"""Clusters that are resident, and how many tasks of each the rows are of."""


@contextlib.contextmanager
def clusters(backbone: Backbone) -> Iterator[Part]:
    """16 rows of ever more tasks of one cluster, and of 16 tasks of ever more clusters."""
    methods = {_words(*shape): _decoding(backbone, *shape) for shape in SHAPES}
    few, one, most = (_words(*shape) for shape in (SHAPES[0], (1, ROWS), SHAPES[-1]))
    yield Part(methods, [Bar(one, 1 / 1.3, few), Bar(most, 1 / 1.3, one)])


def _words(count: int, tasks: int) -> str:
    total = count * tasks
    return f"{count} cluster{'s' * (count > 1)}, {total} task{'s' * (total > 1)}, {ROWS} rows"


def _decoding(backbone: Backbone, count: int, tasks: int) -> Callable[[], None]:
    """Greedy decoding beside so many clusters of 16 tasks, the rows of some tasks of each."""
    own = dataclasses.replace(backbone, model=twin(backbone.model))
    resident = Clusters(own)
    asked: list[str] = []
    for place in range(count):
        config = AdapterConfig(tuple(f"cluster {place} task {task}" for task in range(ROWS)))
        adapter = Adapter.attach(own, config, name=f"cluster_{place}", seed=place)
        _scatter(adapter, place)
        resident.add(str(place), adapter)
        asked += config.tasks[:tasks]
    rows = [asked[row % len(asked)] for row in range(ROWS)]
    return functools.partial(decode, own, rows, resident)


@torch.no_grad()
def _scatter(adapter: Adapter, seed: int) -> None:
    """Random weights where a new adapter has zeros."""
    generator = torch.Generator().manual_seed(seed)
    for layer in adapter.layers.values():
        weight = layer.expert_B[adapter.name]
        weight.copy_(0.01 * torch.randn(weight.shape, generator=generator))
