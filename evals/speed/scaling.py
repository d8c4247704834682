"""What growth costs: sizes by arithmetic, and the measurements that back it.

An expert of rank k holds k values for every input and every output feature of every adapted layer.
With w the sum of those features over the layers, in values a rank, and b bytes a value:

    a cluster of T tasks      b k w (C + T S)
    one more task             b k w S
    what a batch reads        b k w (C + S * its tasks), beside the frozen weights
    a task, folded            a copy of the adapted weights

and the gates, which are small. Clusters share nothing but the backbone, so they spread over as many
machines as there are clusters.
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
from evals.speed.workloads import NEW_TOKENS, PROMPT, decode

ROWS = 16
"""Rows of a batch, of as many different tasks as there are."""

MEMORY = 0.9 * 80e9
"""Bytes of a GPU's memory that weights may take; the rest is for caches and activations."""

LINK = 25e9
"""Bytes a second from a machine's memory to a GPU's: what PCIe 4.0 x16 gives in practice."""

CONFIG = AdapterConfig(tuple(f"task {number}" for number in range(16)))
"""A cluster as the shipped ones are: 16 tasks, 4 common experts, 1 specific one a task, rank 2."""

Shapes = Sequence[tuple[int, int]]
"""(in, out) features of the adapted layers."""

BACKBONES: Mapping[str, tuple[float, Shapes]] = {
    # Parameters and shapes, by the configs that Gemma 3 270M, Qwen2.5-7B and Llama-3-70B have.
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
    """What some tasks take.

    Attributes:
        adapters: Bytes of all clusters.
        task: Bytes that one more task adds to a cluster.
        gpus: GPUs of 80 GB that hold backbone and adapters: a backbone each and a share of the
            clusters; or, where the backbone is too large for one, everything in shards.
        swap: Seconds to bring a cluster from a machine's memory to a GPU's.
    """

    adapters: int
    task: int
    gpus: int
    swap: float


def need(config: AdapterConfig, shapes: Shapes, parameters: float, tasks: int) -> Need:
    """What so many tasks take, in clusters as large as the config's, all in bf16.

    Args:
        config: Of one cluster.
        shapes: Of the backbone.
        parameters: Of the backbone.
        tasks: How many in all.
    """
    cluster = adapter_bytes(config, shapes)
    adapters = math.ceil(tasks / len(config.tasks)) * cluster
    backbone = 2 * parameters
    alone = backbone + cluster <= MEMORY
    gpus = adapters / (MEMORY - backbone) if alone else (backbone + adapters) / MEMORY
    task = 2 * config.specific * config.expert_rank * sum(map(sum, shapes))
    return Need(adapters, task, max(1, math.ceil(gpus)), cluster / LINK)


def table(config: AdapterConfig, tasks: Sequence[int] = (10, 1000, 10_000)) -> str:
    """What growth needs by arithmetic, as a Markdown table."""
    lines = [
        "| backbone | tasks | adapters | one more task | GPUs of 80 GB | a cluster swapped in |",
        "|---|---|---|---|---|---|",
    ]
    for name, (parameters, shapes) in BACKBONES.items():
        for number in tasks:
            found = need(config, shapes, parameters, number)
            sizes = f"{found.adapters / 1e9:.3g} GB | {found.task / 1e6:.2g} MB"
            swap = f"{1000 * found.swap:.2g} ms"
            lines.append(f"| {name} | {number:,} | {sizes} | {found.gpus} | {swap} |")
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
        backbone: What to measure on; left as it was.
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
        "backbone": {
            "name": public_name(backbone.name),
            "fingerprint": backbone.fingerprint,
        },
        "banks": [_bank(backbone, config, number, repeats) for number in tasks],
        "swap": _swap(backbone, config, repeats),
        **provenance.stamp(backbone.model),
    }


def _bank(
    backbone: Backbone, config: AdapterConfig, tasks: int, repeats: int
) -> dict[str, float | int]:
    """One adapter that holds so many tasks: its bytes, seconds to plan a batch and to decode."""
    many = replace(config, tasks=tuple(f"task {number}" for number in range(tasks)))
    adapter = Adapter.attach(backbone, many, name="bank")
    try:
        clusters = Clusters(backbone)
        clusters.add("bank", adapter)
        linear = [layer.base_layer for layer in adapter.layers.values()]
        shapes = [(layer.in_features, layer.out_features) for layer in linear]
        held = sum(p.numel() * p.element_size() for _, p in adapter.named_parameters())
        used = [many.tasks[row * tasks // ROWS] for row in range(ROWS)]
        requests = [Request(task, PROMPT) for task in used]
        return {
            "tasks": tasks,
            "bytes": held,
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
    """Seconds to make a saved cluster resident and to let it go."""
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
