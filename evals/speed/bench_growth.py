"""The benchmark's parts on growth: a training step and a token against what there is more of.

Each part times the same work at several sizes. A line through the logarithms of size and time has
a slope, the exponent of growth: 1 where twice as much takes twice the time, 0 where it takes the
same. All but the length of prompts is to stay below a tenth.
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
from evals.speed.workloads import expert_step, own_modules, training_batch

SIZES: Mapping[str, tuple[int, ...]] = {
    "experts": (4, 16, 64, 256),
    "tasks": (1, 4, 16, 64, 256, 1000),
    "clusters": (1, 2, 4, 8),
    "prompt tokens": (64, 128, 256, 512, 1024, 2048),
}
PART_NAMES: Mapping[str, str] = {
    "experts": "growth of experts",
    "tasks": "growth of tasks",
    "clusters": "growth of clusters",
    "prompt tokens": "growth of prompts",
}
"""The benchmark's part for each of `SIZES`."""

WORK = ("training step", "16 tokens")
ROWS = 16
STEPS = 16
SLOPE = 0.1
"""The largest exponent of what is to stay as it is."""

_RANK = 256
"""Of the largest number of experts, each of rank 1; fewer experts have the same rank in all."""

_TOKENS = 64
"""Of a prompt, where its length is not what grows."""


def label(work: str, size: int, what: str) -> str:
    """A method's name."""
    return f"{work}, {size} {what}"


def exponents(medians: Mapping[str, float], what: str) -> dict[str, float]:
    """The slope of log time against log size for each kind of work, by least squares.

    Args:
        medians: Seconds of each method of a part.
        what: What grows, one of `SIZES`.
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
    """Both kinds of work at all sizes; the last size may take as much more as `SLOPE` allows."""
    sizes = SIZES[what]
    methods = {
        label(work, size, what): make(size)
        for work, make in zip(WORK, (training, answering), strict=True)
        for size in sizes
    }
    least = (sizes[0] / sizes[-1]) ** SLOPE
    first, last = (
        {work: label(work, size, what) for work in WORK} for size in (sizes[0], sizes[-1])
    )
    bars = [] if what == "prompt tokens" else [Bar(last[w], least, first[w]) for w in WORK]
    return Part(methods, bars, what)


def _answering(
    backbone: Backbone,
    experts: Adapter | Clusters,
    tasks: Sequence[str],
    *,
    rows: int = ROWS,
    tokens: int = _TOKENS,
) -> Callable[[], None]:
    """So many rows, of all tasks in turn, decode `STEPS` tokens after the prefill."""
    prompts = training_batch(backbone, rows, tokens)["input_ids"].tolist()
    # From one end of the tasks to the other, as evenly as there are rows.
    asked = [
        Request(tasks[row * len(tasks) // rows], "-", max_new_tokens=STEPS) for row in range(rows)
    ]
    batch = Batch(backbone, experts, asked, prompts)
    batch.prefill_hidden()

    def decode() -> None:
        for _ in range(STEPS):
            batch.argmax(batch.step_hidden([3] * rows))
        if batch.joins:  # elsewhere the text grows by these few tokens
            batch.forget(STEPS)

    return decode


def _of_one_adapter(backbone: Backbone, config: AdapterConfig) -> Callable[[], None]:
    own = own_modules(backbone)
    adapter = Adapter.attach(own, config).for_inference()
    return _answering(own, adapter, config.tasks)


@contextlib.contextmanager
def experts(backbone: Backbone) -> Iterator[Part]:
    """Ever more and ever smaller common experts of 16 tasks: the total rank stays."""
    batch = training_batch(backbone)

    def config(count: int) -> AdapterConfig:
        return AdapterConfig(_named(16), common=count, specific=0, expert_rank=_RANK // count)

    yield _part(
        "experts",
        lambda count: expert_step(backbone, config(count), batch),
        lambda count: _of_one_adapter(backbone, config(count)),
    )


@contextlib.contextmanager
def tasks(backbone: Backbone) -> Iterator[Part]:
    """A cluster of ever more tasks, each with an expert of its own; the batch stays as large."""
    batch = training_batch(backbone)
    yield _part(
        "tasks",
        lambda count: expert_step(backbone, AdapterConfig(_named(count)), batch),
        lambda count: _of_one_adapter(backbone, AdapterConfig(_named(count))),
    )


@contextlib.contextmanager
def clusters(backbone: Backbone) -> Iterator[Part]:
    """Ever more clusters of 16 tasks on one backbone: one of them learns, or rows of all answer."""
    batch = training_batch(backbone)

    def training(count: int) -> Callable[[], None]:
        own = own_modules(backbone)
        for place in range(1, count):
            adapter = Adapter.attach(own, AdapterConfig(_named(16)), name=f"other_{place}")
            for _, parameter in adapter.named_parameters():
                parameter.requires_grad_(False)
        return expert_step(own, AdapterConfig(_named(16)), batch)

    def answering(count: int) -> Callable[[], None]:
        own = own_modules(backbone)
        resident = Clusters(own)
        every: list[str] = []
        for place in range(count):
            names = tuple(f"cluster {place} {name}" for name in _named(16))
            resident.add(str(place), Adapter.attach(own, AdapterConfig(names), name=f"own_{place}"))
            every += names[::count]
        return _answering(own, resident, every)

    yield _part("clusters", training, answering)


@contextlib.contextmanager
def prompts(backbone: Backbone) -> Iterator[Part]:
    """Ever longer records and prompts, two at once."""
    config = AdapterConfig(_named(16))
    own = own_modules(backbone)
    adapter = Adapter.attach(own, config).for_inference()
    yield _part(
        "prompt tokens",
        lambda count: expert_step(backbone, config, training_batch(backbone, 2, count)),
        lambda count: _answering(own, adapter, config.tasks, rows=2, tokens=count),
    )


def _named(count: int) -> tuple[str, ...]:
    return tuple(f"task {number}" for number in range(count))
