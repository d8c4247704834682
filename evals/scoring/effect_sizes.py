"""How much better one side is on each task, from replicates on shared resamples, and how sure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evals.scoring.statistics import Difference, FloatArray, holm, mean_of, summarise

OVERALL = "overall"
"""Key of the mean over the tasks, beside the tasks' names."""

SIGNIFICANCE = 0.05

_ROUNDING = 1e-6
"""Replicates are kept in float32: differences this small are none."""

Part = tuple[float, FloatArray, int]
"""Of one task: a difference of scores, its [R] replicates, and the number of samples."""


@dataclass(frozen=True)
class Gain(Difference):
    """A difference of scores, both in [0, 1], that may be one of several.

    Its `p_value` is for this task alone, of whichever test was made.

    Attributes:
        adjusted: The p-value by Holm's rule over the tasks that were compared together; of the
            overall gain, which is a question of its own, the p-value itself.
    """

    adjusted: float

    @property
    def significant(self) -> bool:
        """Whether chance hardly makes such a difference, over all tasks at once."""
        return self.adjusted < SIGNIFICANCE

    def reversed(self) -> Gain:
        """That of the other side."""
        return replace(self, value=-self.value, low=-self.high, high=-self.low)


def p_values(differences: FloatArray) -> FloatArray:
    """Two-sided bootstrap p-values: how often resamples turn the sign of a difference.

    Twice the smaller of the shares of differences <= 0 and >= 0 (Efron & Tibshirani 1993, chapter
    15.4), at most 1. The whole sample counts as one more resample on both sides, so that p is never
    0 (Phipson & Smyth 2010): with 2,000 resamples it is 2 / 2,001 at the least.

    Args:
        differences: [..., R] replicates, R >= 1.

    Returns:
        [...] p-values in (0, 1].
    """
    below = np.count_nonzero(differences <= _ROUNDING, axis=-1)
    above = np.count_nonzero(differences >= -_ROUNDING, axis=-1)
    shares = (1 + np.minimum(below, above)) / (1 + differences.shape[-1])
    doubled: FloatArray = np.minimum(1.0, 2 * shares)
    return doubled


def gain(part: Part) -> Gain:
    """One difference by itself, with its bootstrap p-value.

    Raises:
        ValueError: See `evals.scoring.statistics.summarise`.
    """
    value, differences, samples = part
    estimate = summarise(value, differences, samples)
    p_value = float(p_values(differences))
    return Gain(**vars(estimate), p_value=p_value, adjusted=p_value)


def adjust(gains: Sequence[Gain]) -> list[Gain]:
    """The same gains, with p-values by Holm's rule over all of them, in the order given."""
    adjusted = holm([one.p_value for one in gains])
    return [replace(one, adjusted=value) for one, value in zip(gains, adjusted, strict=True)]


def over_tasks(parts: Mapping[str, Part]) -> dict[str, Gain]:
    """The gain of each task, adjusted over the tasks, and `OVERALL`: that of their mean.

    Args:
        parts: By task, at least one; drawn as `evals.scoring.statistics.mean_of` asks.

    Raises:
        ValueError: There is no task, or the numbers of replicates differ.
    """
    tasks = adjust([gain(part) for part in parts.values()])
    overall = gain(mean_of([*parts.values()]))
    return {**dict(zip(parts, tasks, strict=True)), OVERALL: overall}
