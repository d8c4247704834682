"""Differences of two sides on each task, from replicates on shared resamples, with p-values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evals.scoring.statistics import Difference, FloatArray, holm, mean_of, summarise

OVERALL = "overall"
"""Key of the mean over the tasks, beside the tasks' names."""

SIGNIFICANCE = 0.05

_ROUNDING = 1e-6
"""Replicates are stored in float32: smaller differences count as 0."""

Part = tuple[float, FloatArray, int]
"""A task's score or difference of scores, its [R] replicates, and the number of samples."""


@dataclass(frozen=True)
class Gain(Difference):
    """A difference of scores in [0, 1] that may be one of several.

    `p_value` is for this task alone; `adjusted` is by Holm's rule over the tasks compared together,
    or the p-value itself for the overall gain.
    """

    adjusted: float

    @property
    def significant(self) -> bool:
        """Whether the adjusted p-value is below `SIGNIFICANCE`."""
        return self.adjusted < SIGNIFICANCE

    def reversed(self) -> Gain:
        """The gain of the other side."""
        return replace(self, value=-self.value, low=-self.high, high=-self.low)


def p_values(differences: FloatArray) -> FloatArray:
    """Two-sided bootstrap p-values.

    Twice the smaller of the shares of differences <= 0 and >= 0 (Efron & Tibshirani 1993, chapter
    15.4), at most 1. The whole sample counts as one more resample on both sides, so that p is never
    0 (Phipson & Smyth 2010): with 2,000 resamples at least 2 / 2,001.

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


def probability_better(differences: FloatArray) -> FloatArray:
    """The probability that the first side is the better one on other records of the same kind.

    The share of resamples in which it is ahead; ties count half.

    Args:
        differences: [..., R] replicates, R >= 1.

    Returns:
        [...] shares in [0, 1].
    """
    ahead = (differences > _ROUNDING).mean(axis=-1)
    behind = (differences < -_ROUNDING).mean(axis=-1)
    share: FloatArray = (1 + ahead - behind) / 2
    return share


def gain(part: Part) -> Gain:
    """A single difference with its bootstrap p-value.

    Raises:
        ValueError: See `evals.scoring.statistics.summarise`.
    """
    value, differences, samples = part
    estimate = summarise(value, differences, samples)
    p_value = float(p_values(differences))
    return Gain(**vars(estimate), p_value=p_value, adjusted=p_value)


def adjust(gains: Sequence[Gain]) -> list[Gain]:
    """The same gains in the same order, adjusted by Holm's rule over all of them."""
    adjusted = holm([one.p_value for one in gains])
    return [replace(one, adjusted=value) for one, value in zip(gains, adjusted, strict=True)]


def over_tasks(parts: Mapping[str, Part]) -> dict[str, Gain]:
    """The gain of each task, adjusted over the tasks, and that of their mean as `OVERALL`.

    The replicates must be drawn as `evals.scoring.statistics.mean_of` requires.

    Raises:
        ValueError: There is no task, or the numbers of replicates differ.
    """
    tasks = adjust([gain(part) for part in parts.values()])
    overall = gain(mean_of([*parts.values()]))
    return {**dict(zip(parts, tasks, strict=True)), OVERALL: overall}
