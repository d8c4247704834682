"""How many test records it takes to tell two methods apart."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from evals.scoring.effect_sizes import SIGNIFICANCE, Part

POWER = 0.8
"""Probability that a true difference is told (Cohen 1988)."""

STANDARD_ERRORS = NormalDist().inv_cdf(1 - SIGNIFICANCE / 2) + NormalDist().inv_cdf(POWER)
"""A difference of so many of its standard errors is told with `POWER`, 2.80."""


@dataclass(frozen=True)
class Power:
    """What the records of a comparison can tell of the mean over its tasks.

    "Told" means: a two-sided test at `SIGNIFICANCE` of this comparison alone rejects "no
    difference" with probability `POWER`.
    """

    difference: float  # true difference of the means to be told, in [0, 1]
    detectable: float  # smallest true difference that the present records tell
    more: int  # records to add to each task so that `difference` is told; 0 if they are enough
    records: int  # in all tasks together, with those added


def power(parts: Sequence[Part], difference: float) -> Power | None:
    """The records that it takes to tell a difference between the means of two methods.

    With v_t the variance over records of the difference on task t, n_t its records, m those to add
    and T tasks, the standard error of the mean difference is

        sqrt(sum_t v_t / (n_t + m)) / T

    and `difference` is told once it is `STANDARD_ERRORS` times as large (Miller 2024, arXiv
    2411.00640, chapter 5). v_t comes from the paired replicates: n_t^2 / (n_t - 1) times their
    variance. That is exact for a score that is a mean over records; for one that is not, such as
    F1, it is the first-order variance that such a score has per record, and a rough one while a
    class has few records.

    What is counted is the noise of records, for these very adapters. Records do not remove the
    noise of training: replicates that are means over S seeds average it over S seeds, and a mean of
    other seeds would differ by as much as their spread tells.

    Args:
        parts: For each task the difference of the two scores, its [R] replicates on shared
            resamples, and the number of records.
        difference: Size of the true difference of the means, in (0, 1].

    Returns:
        None if a task has a single record, or if the two differ in no resample: such records say
        nothing about the variance.

    Raises:
        ValueError: There is no task, or the difference is not in (0, 1].
    """
    if not parts:
        raise ValueError("the power over no tasks is not defined: give at least one.")
    if not 0 < difference <= 1:
        raise ValueError(f"a difference of scores must be in (0, 1], got {difference}.")
    samples = np.array([count for _, _, count in parts], dtype=np.float64)  # [T]
    spread = np.array([drawn.var() for _, drawn, _ in parts])  # [T]
    if samples.min() < 2 or not spread.any():
        return None
    variances = spread * samples**2 / (samples - 1)

    def detectable(more: int) -> float:
        error = math.sqrt(float((variances / (samples + more)).sum())) / len(parts)
        return STANDARD_ERRORS * error

    # With m records alone in each task the error is larger than with n_t + m.
    enough = math.ceil(variances.sum() * (STANDARD_ERRORS / (len(parts) * difference)) ** 2)
    more = bisect_left(range(enough + 1), True, key=lambda added: detectable(added) <= difference)
    return Power(difference, detectable(0), more, int(samples.sum()) + more * len(parts))
