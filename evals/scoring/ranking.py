"""Ranks of methods, and what resampling the records does to them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from evals.scoring.statistics import LEVEL, Estimate, FloatArray

_DECIMALS = 6
"""Replicates are stored in float32: means that agree this far are equal."""


def ranks(estimates: Sequence[Estimate]) -> list[int]:
    """The rank of each method: 1 + the number of methods whose interval lies wholly above.

    The rule of Chatbot Arena (Chiang et al. 2024, arXiv 2403.04132). The intervals are unpaired, so
    `evals.scoring.statistics.paired_difference` may separate two methods of the same rank.
    """
    return [1 + sum(other.low > one.high for other in estimates) for one in estimates]


def rank_intervals(means: FloatArray) -> list[tuple[int, int]]:
    """The interval of each method's rank over the resamples, at `LEVEL`.

    In a resample the rank is 1 + the number of methods with a higher mean, by however little, so
    the interval may lie above the shared rank of `ranks`, which counts sure losses alone. The
    percentiles are ranks that occurred, rounded outwards.

    Args:
        means: [M, R] the mean score of each method on each shared resample.

    Returns:
        [M] the lowest and the highest rank.

    Raises:
        ValueError: There are methods, but no resamples.
    """
    if not len(means):
        return []
    placed = resampled_ranks(means)
    if not placed.shape[1]:
        raise ValueError("ranks need at least one resample: score the runs with replicates.")
    tail = (1 - LEVEL) / 2
    low = np.quantile(placed, tail, axis=1, method="lower")
    high = np.quantile(placed, 1 - tail, axis=1, method="higher")
    return [(int(first), int(last)) for first, last in zip(low, high, strict=True)]


def resampled_ranks(means: FloatArray) -> npt.NDArray[np.intp]:
    """[M, R] each method's rank within each resample, 1 the best; equal means share the better."""
    losses = -np.round(means, _DECIMALS)
    order = losses.argsort(axis=0)
    ordered = np.take_along_axis(losses, order, axis=0)
    places = np.zeros(order.shape, dtype=np.intp)
    # A method starts a new rank unless its mean equals the one before.
    places[1:] = np.where(ordered[1:] != ordered[:-1], np.arange(1, len(order))[:, None], 0)
    placed = np.empty_like(places)
    np.put_along_axis(placed, order, 1 + np.maximum.accumulate(places, axis=0), axis=0)
    return placed
