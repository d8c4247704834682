"""What the benchmarks share: timing in rounds, medians, memory peaks and bars.

The methods of a part are timed in turn, round after round, so that a slow minute of the machine
affects all of them. A bar is judged by the median of the rounds' ratios, which a gradual slowdown
of the machine does not change.
"""

from __future__ import annotations

import operator
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import torch

from cgclora.models.hardware import PeakMemory

T = TypeVar("T")


@dataclass(frozen=True)
class Bar:
    """A bar for a method of a part.

    Attributes:
        of: The method.
        least: The lowest allowed ratio of the reference's time or memory to the method's.
        against: The reference method, or a number of seconds.
        what: `seconds`, or the process's peak `memory`.
    """

    of: str
    least: float
    against: str | float
    what: Literal["seconds", "memory"] = "seconds"


@dataclass(frozen=True)
class Part:
    """Methods to time by name, and the bars on their ratios.

    `grows` names the quantity that grows from method to method, see `evals.speed.bench_growth`.
    """

    methods: Mapping[str, Callable[[], None]]
    bars: Sequence[Bar]
    grows: str | None = None


def measure(part: Part, repeats: int, device: torch.device) -> dict[str, Any]:
    """Time the methods of a part, after a warm-up call of each.

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


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """The wall time of a call in seconds, until the device has finished, and its result."""
    started = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started, result


def seconds_of(work: Callable[[], object]) -> float:
    """The wall time of a call in seconds, until the device has finished."""
    return timed(work)[0]


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """The median wall time of a call in seconds, after a warm-up call."""
    work()
    return statistics.median(seconds_of(work) for _ in range(repeats))


def judge(least: float, measured: float, name: str = "ratio") -> dict[str, Any]:
    """A bar in a report: the lowest allowed value, the measured value, and the verdict."""
    return {"least": least, name: measured, "reached": measured >= least}


def throughput(seconds: float, tokens: int) -> dict[str, float]:
    """The throughput in a report: seconds, tokens of all answers, tokens per second."""
    return {
        "seconds": round(seconds, 2),
        "tokens": tokens,
        "tokens per second": round(tokens / seconds, 1),
    }
