"""What the benchmarks share: timing in rounds, medians, memory peaks and bars.

Methods of a part are timed in turn, round after round, so that a slow minute of the machine hits
all of them. A bar is judged by the median of the rounds' ratios, which a machine that grows slower
over the minutes does not move.
"""

from __future__ import annotations

import operator
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch

from cgclora.models.hardware import PeakMemory


@dataclass(frozen=True)
class Bar:
    """What a method of a part has to reach.

    Attributes:
        of: The method measured.
        least: The least allowed value of the reference's time or memory over the method's.
        against: The method that is the reference, or a number of seconds.
        what: What is compared: `seconds`, or the `memory` that the process needs at most.
    """

    of: str
    least: float
    against: str | float
    what: Literal["seconds", "memory"] = "seconds"


@dataclass(frozen=True)
class Part:
    """Methods to time against one another, and the bars on their ratios.

    Attributes:
        methods: What to time, by name.
        bars: On ratios of methods.
        grows: What there is more of from method to method, see `evals.speed.bench_growth`.
    """

    methods: Mapping[str, Callable[[], None]]
    bars: Sequence[Bar]
    grows: str | None = None


def measure(part: Part, repeats: int, device: torch.device) -> dict[str, Any]:
    """Time the methods of a part, after one call of each that does not count.

    Returns:
        By method `seconds` of every round, `medians` and peak `memory` in bytes; and the `bars`.
    """
    memory = {}
    for name, warm_up in part.methods.items():
        peak = PeakMemory(device)
        warm_up()
        memory[name] = peak.bytes()
    seconds: dict[str, list[float]] = {name: [] for name in part.methods}
    for _ in range(repeats):
        for name, method in part.methods.items():
            seconds[name].append(seconds_of(method))
    values: dict[str, Mapping[str, Sequence[float]]] = {
        "seconds": seconds,
        "memory": {name: [size] for name, size in memory.items()},
    }
    bars = []
    for bar in part.bars:
        measured = values[bar.what][bar.of]
        fixed = isinstance(bar.against, float)
        reference = (
            [bar.against] * len(measured) if fixed else values[bar.what][cast(str, bar.against)]
        )
        ratio = statistics.median(map(operator.truediv, reference, measured))
        bars.append({**vars(bar), **judge(bar.least, ratio)})
    medians = {name: statistics.median(rounds) for name, rounds in seconds.items()}
    return {"seconds": seconds, "medians": medians, "memory": memory, "bars": bars}


def seconds_of(work: Callable[[], object]) -> float:
    """The wall time of a call, until the device has done all of it."""
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """The median wall time of a call, after one that does not count."""
    work()
    return statistics.median(seconds_of(work) for _ in range(repeats))


def judge(least: float, measured: float, name: str = "ratio") -> dict[str, Any]:
    """A bar's facts in a report: the least value allowed, the value measured, and the verdict."""
    return {"least": least, name: measured, "reached": measured >= least}


def throughput(seconds: float, tokens: int) -> dict[str, float]:
    """What a report says of answers of so many tokens in all, and the time that they took."""
    return {
        "seconds": round(seconds, 2),
        "tokens": tokens,
        "tokens per second": round(tokens / seconds, 1),
    }
