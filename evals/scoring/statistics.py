"""Uncertainty of scores: the noise of samples, of comparisons, and of training.

Each sample has a row of d statistics that add up (right and total; or true positives, predicted and
gold), and a score is a function of the sums. A resample of n samples is a row of n counts, so the
sums of all resamples are one product:

    sums [R, d] = counts [R, n] @ statistics [n, d]

The counts depend on (n, R, seed) only: two methods on the same samples share resamples, and their
replicates may be subtracted index by index. Different tasks are different samples: give each its
`task_seed` before taking the mean over them.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import mean, stdev

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Counts = npt.NDArray[np.uint8]

Score = Callable[[FloatArray], FloatArray]
"""Sums of statistics [..., d] to finite scores [...]."""

RESAMPLES = 10_000
LEVEL = 0.95

_BLOCK = 1 << 18
"""Counts drawn and multiplied at once: 256 KiB, or 2 MiB as float64, which fits a core's cache."""

_CACHED = 256
"""Cached blocks of either kind, 64 MiB: 10,000 resamples of 200 samples for 32 tasks."""

_TIE = 1e-12
"""Permuted scores this close are equal: more than rounding, less than one sample's weight."""


@dataclass(frozen=True)
class Estimate:
    """A score with its item noise: the variation over samples of the same kind.

    If every sample has the same row (all right, say) the interval has no width: the bootstrap knows
    nothing beyond the sample. Read it together with `samples`.

    Attributes:
        value: Score of the whole sample.
        low: Lower end of the percentile interval at `LEVEL`.
        high: Upper end.
        standard_error: Standard deviation over the resamples.
        samples: Number of samples, n.
    """

    value: float
    low: float
    high: float
    standard_error: float
    samples: int


@dataclass(frozen=True)
class Difference:
    """The score of a first method minus that of a second on the same samples.

    The interval is as in `Estimate`, over shared resamples; `p_value` is two-sided.
    """

    value: float
    low: float
    high: float
    standard_error: float
    p_value: float
    samples: int


@dataclass(frozen=True)
class Spread:
    """Training noise: mean, sample standard deviation (n - 1) and range over training seeds.

    One seed gives the standard deviation 0.0, which means "not measured": look at `seeds` first.
    """

    mean: float
    standard_deviation: float
    low: float
    high: float
    seeds: int


# Item noise -------------------------------------------------------------------------------


def task_seed(name: str) -> int:
    """The seed of a task's resamples, the same in every process."""
    return zlib.crc32(name.encode())


def replicates(
    statistics: FloatArray, score: Score, *, resamples: int = RESAMPLES, seed: int = 0
) -> FloatArray:
    """The score of each bootstrap resample (Efron & Tibshirani 1993, chapter 6).

    Args:
        statistics: [n, d], a row for each sample.
        score: Of the sums.
        resamples: R.
        seed: Determines the resamples together with n and R: equal ones are paired by index.
            Replicates for the same `mean_of` need different seeds.

    Returns:
        [R] scores.

    Raises:
        ValueError: There are no samples or no resamples, or a statistic or score is not finite.
    """
    return _scores(score, _sums(_resample, _checked(statistics), resamples, seed))


def estimate(
    statistics: FloatArray, score: Score, *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """A score with its bootstrap interval; arguments and errors are those of `replicates`."""
    statistics = _checked(statistics)
    return summarise(
        float(_scores(score, statistics.sum(axis=0))),
        replicates(statistics, score, resamples=resamples, seed=seed),
        len(statistics),
    )


def mean_estimate(values: FloatArray, *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """The mean of values [n], one a sample, with its bootstrap interval; see `replicates`."""
    rows = np.column_stack([values, np.ones(len(values))])
    return estimate(rows, lambda sums: sums[..., 0] / sums[..., 1], resamples=resamples, seed=seed)


def summarise(value: float, replicates: FloatArray, samples: int) -> Estimate:
    """The percentile interval and standard error (Efron & Tibshirani 1993, chapters 13 and 6).

    Args:
        value: Score of the whole sample.
        replicates: [R] scores of resamples, or differences or means of such.
        samples: Their number of samples.

    Raises:
        ValueError: There are no replicates or no samples, or a number is not finite.
    """
    if replicates.ndim != 1 or not len(replicates):
        raise ValueError(
            f"replicates must be a list of at least one score, got shape {replicates.shape}."
        )
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}: score some first.")
    if not math.isfinite(value) or not np.isfinite(replicates).all():
        raise ValueError("value and replicates must be finite: let the score give 0 for 0 / 0.")
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high), float(replicates.std()), samples)


def mean_of(parts: Sequence[tuple[float, FloatArray, int]]) -> tuple[float, FloatArray, int]:
    """The mean over tasks with equal weights, for `summarise`.

    Tasks are independent samples. Replicates drawn with the same seed would be correlated and make
    the interval wrong, so draw those of each task with its `task_seed`.

    Args:
        parts: For each task its score, its [R] replicates and its number of samples.

    Returns:
        The mean score, the [R] means, and the number of samples of all tasks together.

    Raises:
        ValueError: There is no task, or the numbers of replicates differ.
    """
    if not parts:
        raise ValueError("the mean over no tasks is not defined: give at least one.")
    values, drawn, samples = zip(*parts, strict=True)
    if len({part.shape for part in drawn}) > 1:
        raise ValueError(
            f"tasks have {sorted({len(part) for part in drawn})} replicates: draw the same number "
            "of resamples for each."
        )
    return math.fsum(values) / len(values), np.mean(drawn, axis=0), sum(samples)


# Comparisons ------------------------------------------------------------------------------


def paired_difference(
    first: FloatArray,
    second: FloatArray,
    score: Score,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """The first method's gain over the second on the same samples, with a p-value.

    The interval is of score(first) - score(second) on shared resamples, so that the difficulty of
    samples cancels (Miller 2024, arXiv 2411.00640). The p-value is that of the paired permutation
    test (Efron & Tibshirani 1993, chapter 15), which swaps each sample's two rows at random:
    p = (1 + swaps that differ no less) / (1 + R), which is never 0 (Phipson & Smyth 2010).

    Args:
        first: [n, d], a row for each sample.
        second: [n, d], rows of the same samples in the same order.
        score: Of the sums.
        resamples: R, both of resamples and of random swaps.
        seed: As in `replicates`.

    Raises:
        ValueError: As `replicates`, or the shapes differ.
    """
    first, second = _checked(first), _checked(second)
    if first.shape != second.shape:
        raise ValueError(
            f"statistics of shapes {first.shape} and {second.shape} are not paired: score both "
            "methods on the same samples."
        )
    sums = np.stack([first.sum(axis=0), second.sum(axis=0)])
    value = float(np.subtract(*_scores(score, sums)))
    differences = replicates(first, score, resamples=resamples, seed=seed) - replicates(
        second, score, resamples=resamples, seed=seed
    )
    moved = _sums(_swap, second - first, resamples, seed)
    low, high = np.minimum(first, second).sum(axis=0), np.maximum(first, second).sum(axis=0)
    permuted = np.subtract(  # clipped, since rounding may take a sum of fractions below 0
        _scores(score, np.clip(sums[0] + moved, low, high)),
        _scores(score, np.clip(sums[1] - moved, low, high)),
    )
    extreme = int(np.count_nonzero(np.abs(permuted) >= abs(value) - _TIE))
    interval = summarise(value, differences, len(first))
    return Difference(**vars(interval), p_value=(1 + extreme) / (1 + resamples))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values in the same order, adjusted for the number of comparisons.

    The step-down rule of Holm (1979): the i-th smallest of m is multiplied by m - i + 1, is no
    smaller than the previous one, and at most 1. The tests may depend on each other.

    Raises:
        ValueError: A p-value is not in [0, 1].
    """
    wrong = [p for p in p_values if not 0 <= p <= 1]
    if wrong:
        raise ValueError(f"p-values must be in [0, 1], got {wrong}: give them unadjusted.")
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    scaled = np.minimum(1.0, np.arange(len(values), 0, -1) * values[order])
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(scaled)
    return [float(value) for value in adjusted]


# Training noise ---------------------------------------------------------------------------


def spread(scores: Sequence[float]) -> Spread:
    """The spread of the scores of several training seeds on the same samples.

    Raises:
        ValueError: There is no score, or one is not finite.
    """
    values = [float(score) for score in scores]
    if not values or not all(map(math.isfinite, values)):
        raise ValueError(f"scores must be at least one finite number, got {values}.")
    return Spread(
        mean=mean(values),  # exact: equal scores have their own value as mean
        standard_deviation=stdev(values) if len(values) > 1 else 0.0,
        low=min(values),
        high=max(values),
        seeds=len(values),
    )


# Drawing ----------------------------------------------------------------------------------


def _checked(statistics: FloatArray) -> FloatArray:
    statistics = np.asarray(statistics, dtype=np.float64)
    if statistics.ndim != 2 or 0 in statistics.shape:
        raise ValueError(
            "statistics must have a row for each sample, at least one, and a column for each "
            f"quantity, got shape {statistics.shape}."
        )
    (wrong,) = np.nonzero(~np.isfinite(statistics).all(axis=1))
    if len(wrong):
        raise ValueError(
            f"statistics must be finite, but row {wrong[0]} is {statistics[wrong[0]]}: let a "
            "sample that lacks a quantity count 0."
        )
    return statistics


def _scores(score: Score, sums: FloatArray) -> FloatArray:
    """The scores [...] of sums [..., d], checked, since users may register metrics."""
    scores = np.asarray(score(sums), dtype=np.float64)
    if scores.shape != sums.shape[:-1]:
        raise ValueError(
            f"the score of sums {sums.shape} must have shape {sums.shape[:-1]}, got "
            f"{scores.shape}: let it read the last axis and keep the others."
        )
    if not np.isfinite(scores).all():
        raise ValueError("a resample has no finite score: let the score give 0 for 0 / 0.")
    return scores


def _sums(
    draw: Callable[[int, int, int, int], Counts],
    statistics: FloatArray,
    resamples: int,
    seed: int,
) -> FloatArray:
    """[R, d] weighted sums of statistics [n, d], with the weights [R, n] drawn block by block.

    In float64, so that sums of whole numbers are exact up to 2^53, in any order of addition.
    """
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}: {RESAMPLES} is usual.")
    rows = max(1, _BLOCK // len(statistics))
    return np.concatenate(
        [
            draw(len(statistics), min(rows, resamples - start), seed, start).astype(np.float64)
            @ statistics
            for start in range(0, resamples, rows)
        ]
    )


@lru_cache(maxsize=_CACHED)
def _resample(samples: int, rows: int, seed: int, start: int) -> Counts:
    """[rows, n] the multinomial count of each sample in the resamples from number `start` on.

    Indices are drawn and counted, which is ten times as fast as numpy's `multinomial`. A byte is
    enough: the probability that one sample of many is drawn 256 times is below 1 / 256!.
    """
    chosen = np.random.default_rng((seed, start, 0)).integers(samples, size=(rows, samples))
    chosen += samples * np.arange(rows)[:, None]  # one bincount for all rows
    counts = np.bincount(chosen.ravel(), minlength=rows * samples).astype(np.uint8)
    counts.setflags(write=False)
    return counts.reshape(rows, samples)


@lru_cache(maxsize=_CACHED)
def _swap(samples: int, rows: int, seed: int, start: int) -> Counts:
    """[rows, n] whether each sample is swapped, 0 or 1 with probability 1/2 each."""
    generator = np.random.default_rng((seed, start, 1))
    swaps = generator.integers(2, size=(rows, samples), dtype=np.uint8)
    swaps.setflags(write=False)
    return swaps
