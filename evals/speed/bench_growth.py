"""The benchmark's parts on growth: a training step and 16 tokens against a growing size.

Each part times the same work at several sizes. The slope of a line through the logarithms of size
and time is the exponent of growth: 1 if doubling the size doubles the time, 0 if it changes
nothing. For all but the length of prompts it must stay below 0.1.
"""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence

from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig
from cgclora.inference.batch import Batch
from cgclora.inference.multi_adapter import Clusters
from cgclora.inference.request import Request
from cgclora.models.backbone import Backbone
from evals.speed.harness import Bar, Part
from evals.speed.workloads import TASKS, expert_step, own_modules, resident_clusters, training_batch

SIZES: Mapping[str, tuple[int, ...]] = {
    "experts": (4, 16, 64, 256),
    "tasks": (1, 4, 16, 64, 256, 1000),
    "clusters": (1, 2, 4, 8),
    "prompt tokens": (64, 128, 256, 512, 1024, 2048),
}
PART_NAMES = {
    **{what: f"growth of {what}" for what in ("experts", "tasks", "clusters")},
    "prompt tokens": "growth of prompts",
}
"""The benchmark's part for each of `SIZES`."""

WORK = ("training step", "16 tokens")
ROWS = 16
STEPS = 16
SLOPE = 0.1
"""The largest exponent allowed."""

_RANK = 256
"""The total rank of any number of experts."""


def label(work: str, size: int, what: str) -> str:
    """A method's name."""
    return f"{work}, {size} {what}"


def exponents(medians: Mapping[str, float], what: str) -> dict[str, float]:
    """The slope of log time against log size for each kind of work, by least squares.

    Args:
        medians: Seconds of each method of a part.
        what: One of `SIZES`.
    """
    sizes = SIZES[what]
    return {
        work: statistics.linear_regression(
            [math.log(size) for size in sizes],
            [math.log(medians[label(work, size, what)]) for size in sizes],
        ).slope
        for work in WORK
    }


def _part(
    what: str,
    training: Callable[[int], Callable[[], None]],
    answering: Callable[[int], Callable[[], None]],
) -> Part:
    """Both kinds of work at all sizes; `SLOPE` bounds the time of the largest size."""
    sizes = SIZES[what]
    methods = {
        label(work, size, what): make(size)
        for work, make in zip(WORK, (training, answering), strict=True)
        for size in sizes
    }
    first, last = sizes[0], sizes[-1]
    least = (first / last) ** SLOPE
    bars = [Bar(label(work, last, what), least, label(work, first, what)) for work in WORK]
    return Part(methods, [] if what == "prompt tokens" else bars, what)


def _answering(
    backbone: Backbone,
    experts: Adapter | Clusters,
    tasks: Sequence[str],
    *,
    rows: int = ROWS,
    tokens: int = 64,
) -> Callable[[], None]:
    """Decoding of `STEPS` tokens in each of some rows, spread over all tasks, after the prefill."""
    prompts = training_batch(backbone, rows, tokens)["input_ids"].tolist()
    requests = [
        Request(tasks[row * len(tasks) // rows], "-", max_new_tokens=STEPS) for row in range(rows)
    ]
    batch = Batch(backbone, experts, requests, prompts)
    batch.prefill_hidden()

    def decode() -> None:
        for _ in range(STEPS):
            batch.argmax(batch.step_hidden([3] * rows))
        if batch.can_drop_last:  # other caches grow by these few tokens
            batch.drop_last(STEPS)

    return decode


def _of_one_adapter(backbone: Backbone, config: AdapterConfig) -> Callable[[], None]:
    copy = own_modules(backbone)
    adapter = Adapter.attach(copy, config).for_inference()
    return _answering(copy, adapter, config.tasks)


@contextlib.contextmanager
def experts(backbone: Backbone) -> Iterator[Part]:
    """More and smaller common experts of 16 tasks, with the same total rank."""
    batch = training_batch(backbone)

    def config(count: int) -> AdapterConfig:
        return AdapterConfig(TASKS, common=count, specific=0, expert_rank=_RANK // count)

    yield _part(
        "experts",
        lambda count: expert_step(backbone, config(count), batch),
        lambda count: _of_one_adapter(backbone, config(count)),
    )


@contextlib.contextmanager
def tasks(backbone: Backbone) -> Iterator[Part]:
    """A cluster of more and more tasks, each with its expert; the batch keeps its size."""
    batch = training_batch(backbone)
    yield _part(
        "tasks",
        lambda count: expert_step(backbone, AdapterConfig(_named(count)), batch),
        lambda count: _of_one_adapter(backbone, AdapterConfig(_named(count))),
    )


@contextlib.contextmanager
def clusters(backbone: Backbone) -> Iterator[Part]:
    """More and more clusters of 16 tasks on one backbone: one is trained, or all of them answer."""
    batch = training_batch(backbone)

    def training(count: int) -> Callable[[], None]:
        copy = own_modules(backbone)
        for place in range(1, count):
            adapter = Adapter.attach(copy, AdapterConfig(TASKS), name=f"other_{place}")
            for _, parameter in adapter.named_parameters():
                parameter.requires_grad_(False)
        return expert_step(copy, AdapterConfig(TASKS), batch)

    def answering(count: int) -> Callable[[], None]:
        resident, tasks = resident_clusters(backbone, count)
        spread = [name for of_cluster in tasks for name in of_cluster[::count]]
        return _answering(resident.backbone, resident, spread)

    yield _part("clusters", training, answering)


@contextlib.contextmanager
def prompts(backbone: Backbone) -> Iterator[Part]:
    """Longer and longer records and prompts, two at once."""
    config = AdapterConfig(TASKS)
    copy = own_modules(backbone)
    adapter = Adapter.attach(copy, config).for_inference()
    yield _part(
        "prompt tokens",
        lambda count: expert_step(backbone, config, training_batch(backbone, 2, count)),
        lambda count: _answering(copy, adapter, config.tasks, rows=2, tokens=count),
    )


def _named(count: int) -> tuple[str, ...]:
    return tuple(f"task {number}" for number in range(count))
