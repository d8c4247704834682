"""Ranks on resampled records: against a loop by hand and against scipy, and in time."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import rankdata

from evals.scoring.ranking import rank_intervals, ranks, resampled_ranks
from evals.scoring.statistics import Estimate


def test_methods_that_cannot_be_told_apart_share_a_rank() -> None:
    intervals = [(0.50, 0.60), (0.70, 0.80), (0.55, 0.72), (0.10, 0.20), (0.20, 0.30)]
    found = [Estimate((low + high) / 2, low, high, 0.02, 100) for low, high in intervals]
    # the third reaches up to the second and down to the first; the last two touch
    assert ranks(found) == [2, 1, 1, 4, 4]
    assert ranks([]) == []


def by_hand(means: list[list[float]]) -> list[tuple[int, int]]:
    """The same in plain Python: sort each method's ranks, cut a fortieth off each end."""
    found = []
    for method in means:
        placed = sorted(
            1 + sum(other[place] > score for other in means) for place, score in enumerate(method)
        )
        # The percentiles stand at positions 0.025 (R - 1) and 0.975 (R - 1), in whole numbers.
        low, left = divmod(25 * (len(placed) - 1), 1000)
        high, right = divmod(975 * (len(placed) - 1), 1000)
        assert left == right == 0  # R is chosen so, and nothing has to be rounded
        found.append((placed[low], placed[high]))
    return found


@settings(max_examples=50, deadline=None)
@given(
    arrays.arrays(np.float64, st.tuples(st.integers(1, 6), st.just(81)), elements=st.integers(0, 9))
)
def test_intervals_are_those_of_a_loop_by_hand(levels: np.ndarray) -> None:
    means = levels / 10  # with many ties
    assert rank_intervals(means) == by_hand(means.tolist())


def test_ranks_of_a_resample_are_those_of_scipy() -> None:
    means = np.random.default_rng(0).integers(0, 40, (30, 200)) / 40
    np.testing.assert_array_equal(resampled_ranks(means), rankdata(-means, method="min", axis=0))


def test_percentiles_between_two_ranks_are_rounded_outwards() -> None:
    # Of ten resamples the first method wins nine.
    means = np.array([[1.0] * 9 + [0.0], [0.5] * 10])
    assert rank_intervals(means) == [(1, 2), (1, 2)]
    assert rank_intervals(means[:, :9]) == [(1, 1), (2, 2)]
    assert rank_intervals(means[:1]) == [(1, 1)]
    assert rank_intervals(np.empty((0, 0))) == []
    with pytest.raises(ValueError, match="at least one resample"):
        rank_intervals(np.empty((2, 0)))


def test_rounding_to_float32_decides_no_rank() -> None:
    means = np.array([[0.3], [np.float64(np.float32(0.3))], [0.2]])
    assert rank_intervals(means) == [(1, 1), (1, 1), (3, 3)]


def test_a_board_of_the_size_of_mteb_takes_a_fraction_of_a_second() -> None:
    """332 models on 41 tasks with 1,000 resamples, from the replicates of every task."""
    replicates = np.random.default_rng(0).normal(0.5, 0.05, (332, 41, 1000)).astype(np.float32)
    times = []
    for _ in range(3):
        started = time.process_time()  # other processes shall not count
        found = rank_intervals(replicates.mean(axis=1, dtype=np.float64))
        times.append(time.process_time() - started)
    assert len(found) == 332
    assert min(times) < 0.5  # 0.1 on a slow processor
