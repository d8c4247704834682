"""What growth costs: sizes by arithmetic, and measurements.

An expert of rank k holds k values for every input and every output feature of every adapted layer.
With w the sum of those features over the layers, and b bytes a value:

    a cluster of T tasks      b k w (C + T S)
    one more task             b k w S
    what a batch reads        b k w (C + S * its tasks), beside the frozen weights
    a task, folded            a copy of the adapted weights

and the gates, which are small. Clusters share only the backbone, so each may have its own machine.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig
from cgclora.inference.multi_adapter import Clusters
from cgclora.inference.request import Request
from cgclora.models.backbone import Backbone, public_name
from cgclora.storage import provenance
from evals.speed.harness import median_seconds, seconds_of
from evals.speed.workloads import NEW_TOKENS, PROMPT, TASKS, decode

ROWS = 16
"""Rows of a batch, of as many different tasks as there are."""

MEMORY = 0.9 * 80e9
"""Bytes of a GPU's memory for weights; the rest is for caches and activations."""

LINK = 25e9
"""Bytes a second from a machine's memory to a GPU's: PCIe 4.0 x16 in practice."""

CONFIG = AdapterConfig(TASKS)
"""Like the shipped clusters: 16 tasks, 4 common experts, 1 specific expert a task, rank 2."""

Shapes = Sequence[tuple[int, int]]
"""(in, out) features of the adapted layers."""

BACKBONES: Mapping[str, tuple[float, Shapes]] = {
    # Parameters and shapes of Gemma 3 270M, Qwen2.5-7B and Llama-3-70B.
    "270M": (
        0.268e9,
        18 * [(640, 1024), (640, 256), (640, 256), (1024, 640), *[(640, 2048)] * 2, (2048, 640)],
    ),
    "7B": (
        7.6e9,
        28 * [*[(3584, 3584)] * 2, *[(3584, 512)] * 2, *[(3584, 18944)] * 2, (18944, 3584)],
    ),
    "70B": (
        70.6e9,
        80 * [*[(8192, 8192)] * 2, *[(8192, 1024)] * 2, *[(8192, 28672)] * 2, (28672, 8192)],
    ),
}


def adapter_bytes(config: AdapterConfig, shapes: Shapes, bytes_a_value: int = 2) -> int:
    """Bytes of an adapter for layers of these shapes."""
    return bytes_a_value * config.trainable_parameters(shapes)


@dataclass(frozen=True)
class Need:
    """Resources for a number of tasks.

    Attributes:
        adapters: Bytes of all clusters.
        task: Bytes that one more task adds to a cluster.
        gpus: GPUs of 80 GB that hold backbone and adapters: each a backbone and a share of the
            clusters; or, if the backbone is too large for one, everything in shards.
        swap: Seconds to bring a cluster from a machine's memory to a GPU's.
    """

    adapters: int
    task: int
    gpus: int
    swap: float


def need(config: AdapterConfig, shapes: Shapes, parameters: float, tasks: int) -> Need:
    """Resources for `tasks` tasks in clusters of this config, all in bf16.

    `shapes` and `parameters` are those of the backbone.
    """
    cluster = adapter_bytes(config, shapes)
    adapters = math.ceil(tasks / len(config.tasks)) * cluster
    backbone = 2 * parameters
    alone = backbone + cluster <= MEMORY
    gpus = adapters / (MEMORY - backbone) if alone else (backbone + adapters) / MEMORY
    task = 2 * config.specific * config.expert_rank * sum(map(sum, shapes))
    return Need(adapters, task, max(1, math.ceil(gpus)), cluster / LINK)


def table(config: AdapterConfig, tasks: Sequence[int] = (10, 1000, 10_000)) -> str:
    """The resources for growing numbers of tasks, as a Markdown table."""
    lines = [
        "| backbone | tasks | adapters | one more task | GPUs of 80 GB | a cluster swapped in |",
        "|---|---|---|---|---|---|",
    ]
    for name, (parameters, shapes) in BACKBONES.items():
        for number in tasks:
            one = need(config, shapes, parameters, number)
            sizes = f"{one.adapters / 1e9:.3g} GB | {one.task / 1e6:.2g} MB"
            swap = f"{1000 * one.swap:.2g} ms"
            lines.append(f"| {name} | {number:,} | {sizes} | {one.gpus} | {swap} |")
    return "\n".join(lines)


def measure(
    backbone: Backbone,
    config: AdapterConfig,
    *,
    tasks: Sequence[int] = (16, 64, 256, 1024),
    repeats: int = 5,
) -> dict[str, Any]:
    """Measure bank sizes, planning, decoding and swapping.

    Args:
        backbone: To measure on; unchanged afterwards.
        config: Of a cluster.
        tasks: Numbers of resident tasks.
        repeats: Timings of each; medians are reported.

    Raises:
        ValueError: A number of tasks is less than the rows of a batch.
    """
    if min(tasks) < ROWS:
        raise ValueError(f"tasks must be at least {ROWS} each, got {list(tasks)}.")
    return {
        "config": config.to_dict(),
        "rows": ROWS,
        "new_tokens": NEW_TOKENS,
        "backbone": {"name": public_name(backbone.name), "fingerprint": backbone.fingerprint},
        "banks": [_bank(backbone, config, number, repeats) for number in tasks],
        "swap": _swap(backbone, config, repeats),
        **provenance.stamp(backbone.model),
    }


def _bank(
    backbone: Backbone, config: AdapterConfig, tasks: int, repeats: int
) -> dict[str, float | int]:
    """An adapter of `tasks` tasks: its bytes, seconds to plan a batch and to decode."""
    many = replace(config, tasks=tuple(f"task {number}" for number in range(tasks)))
    adapter = Adapter.attach(backbone, many, name="bank")
    try:
        clusters = Clusters(backbone)
        clusters.add("bank", adapter)
        linear = [layer.base_layer for layer in adapter.layers.values()]
        shapes = [(layer.in_features, layer.out_features) for layer in linear]
        used = [many.tasks[row * tasks // ROWS] for row in range(ROWS)]
        requests = [Request(task, PROMPT) for task in used]
        return {
            "tasks": tasks,
            "bytes": sum(p.numel() * p.element_size() for _, p in adapter.named_parameters()),
            "bytes_by_arithmetic": adapter_bytes(many, shapes),
            "plan_seconds": median_seconds(lambda: _plan(clusters, requests), repeats),
            "decode_seconds": median_seconds(lambda: decode(backbone, used, clusters), repeats),
        }
    finally:
        adapter.detach()


@torch.inference_mode()
def _plan(clusters: Clusters, requests: Sequence[Request]) -> None:
    clusters.snapshot().plan_rows(requests)


def _swap(backbone: Backbone, config: AdapterConfig, repeats: int) -> dict[str, float]:
    """Seconds to load and to remove a saved cluster."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter"
        adapter = Adapter.attach(backbone, config, name="saved")
        adapter.save(path, dtype=torch.bfloat16)
        adapter.detach()
        clusters = Clusters(backbone)
        added, removed = [], []
        for _ in range(repeats):
            added.append(seconds_of(lambda: clusters.add("one", path)))
            removed.append(seconds_of(lambda: clusters.remove("one")))
        size = sum(file.stat().st_size for file in path.iterdir())
    return {
        "bytes": size,
        "add_seconds": statistics.median(added),
        "remove_seconds": statistics.median(removed),
    }
