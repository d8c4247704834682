"""Item noise, comparisons and training noise, against scipy, enumeration and closed forms."""

import itertools
import math
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from evals.scoring import statistics
from evals.scoring.statistics import (
    Estimate,
    FloatArray,
    Spread,
    estimate,
    holm,
    mean_estimate,
    mean_of,
    paired_difference,
    replicates,
    spread,
    summarise,
    task_seed,
)

ROOT = Path(__file__).parents[3]


def mean_score(sums: FloatArray) -> FloatArray:
    """The mean of rows (value, 1)."""
    return sums[..., 0] / sums[..., 1]


def f1_score(sums: FloatArray) -> FloatArray:
    """Micro F1 of rows (true positives, predicted, gold); of 3 k columns, macro F1 of k labels."""
    right, predicted, gold = np.moveaxis(sums.reshape(*sums.shape[:-1], -1, 3), -1, 0)
    return (2 * right / np.maximum(predicted + gold, 1)).mean(axis=-1)


def rows_of(values: Any) -> FloatArray:
    return np.stack([np.asarray(values, dtype=np.float64), np.ones(len(values))], axis=1)


def entity_counts(samples: int, seed: int, labels: int = 1) -> FloatArray:
    random = np.random.default_rng(seed)
    predicted, gold = random.integers(0, 6, (2, samples, labels))
    right = random.binomial(np.minimum(predicted, gold), 0.7)
    return np.stack([right, predicted, gold], axis=-1).reshape(samples, -1).astype(np.float64)


def resampled_sums(rows: FloatArray, resamples: int, seed: int = 0) -> FloatArray:
    """[R, d] sums that a score is given; of the unit matrix, how often each sample was drawn."""
    sums: list[FloatArray] = []

    def note(given: FloatArray) -> FloatArray:
        sums.append(given)
        return given[..., 0]

    replicates(rows, note, resamples=resamples, seed=seed)
    (found,) = sums
    return found


# The bootstrap ----------------------------------------------------------------------------


def test_interval_and_standard_error_of_a_mean_are_those_of_scipy() -> None:
    values = np.random.default_rng(1).beta(2, 1, 150)
    ours = estimate(rows_of(values), mean_score)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    )
    error = float(theirs.standard_error)
    assert ours.value == pytest.approx(values.mean())
    assert ours.standard_error == pytest.approx(error, rel=0.03)
    # The Monte-Carlo error of a 2.5 % quantile of 10,000 is about 0.027 standard errors.
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.12 * error)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.12 * error)
    assert ours.samples == 150


def test_a_mean_of_signed_values_is_that_of_its_rows_and_of_scipy() -> None:
    values = np.random.default_rng(4).normal(-0.1, 0.5, 48)
    ours = mean_estimate(values, seed=7)
    assert ours == estimate(rows_of(values), mean_score, seed=7)
    theirs = scipy.stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile")
    error = float(theirs.standard_error)
    assert ours.value == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.12 * error)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.12 * error)


def test_standard_error_of_a_mean_has_its_closed_form() -> None:
    values = np.random.default_rng(3).random(400)
    ours = estimate(rows_of(values), mean_score)
    assert ours.standard_error == pytest.approx(values.std() / math.sqrt(400), rel=0.03)


def test_standard_error_and_interval_of_a_proportion_have_their_closed_forms() -> None:
    ours = estimate(rows_of([1] * 300 + [0] * 200), mean_score)
    error = math.sqrt(0.6 * 0.4 / 500)
    assert ours.value == 0.6
    assert ours.standard_error == pytest.approx(error, rel=0.03)
    exact = scipy.stats.binom(500, 0.6).ppf([0.025, 0.975]) / 500  # resampled n * p is binomial
    assert (ours.low, ours.high) == pytest.approx(tuple(exact), abs=1.5 / 500)


def test_interval_of_bernoulli_data_covers_the_truth_nineteen_times_in_twenty() -> None:
    random = np.random.default_rng(4)
    covered = 0
    for _ in range(2000):
        ours = estimate(rows_of(random.random(200) < 0.75), mean_score, resamples=1000)
        covered += ours.low <= 0.75 <= ours.high
    # counts are whole numbers, so even endless resamples cover it 95.7 % of the time
    assert covered / 2000 == pytest.approx(0.957, abs=0.015)


def test_corpus_f1_is_bootstrapped_as_by_explicit_indices() -> None:
    counts = entity_counts(60, seed=5)
    slow = []
    for weight in resampled_sums(np.eye(60), 300, seed=9):
        indices = np.repeat(np.arange(60), weight.astype(int))
        assert len(indices) == 60
        right = predicted = gold = 0
        for index in indices:
            right += counts[index, 0]
            predicted += counts[index, 1]
            gold += counts[index, 2]
        slow.append(2 * right / (predicted + gold))
    assert len(slow) == 300
    ours = replicates(counts, f1_score, resamples=300, seed=9)
    assert ours == pytest.approx(slow, rel=1e-14)
    assert ours.std() > 0.01


@pytest.mark.parametrize(("samples", "resamples"), [(7, 40_000), (1000, 3000)])
def test_every_sample_is_drawn_as_a_multinomial_draws_it(samples: int, resamples: int) -> None:
    drawn = resampled_sums(np.eye(samples), resamples)
    assert drawn.shape == (resamples, samples)
    assert (drawn.sum(axis=1) == samples).all()
    assert drawn.mean() == 1
    spread_of_mean = 1 / math.sqrt(resamples)
    assert np.abs(drawn.mean(axis=0) - 1).max() < 5 * spread_of_mean
    frequencies = [(drawn == k).mean() for k in range(4)]
    assert frequencies == pytest.approx(
        scipy.stats.binom(samples, 1 / samples).pmf(range(4)), abs=0.005
    )
    pairs = np.cov(drawn[:, :2].T)[0, 1]  # one more of this is one less of another
    assert pairs == pytest.approx(-1 / samples, abs=6 * spread_of_mean)
    halves = np.corrcoef(drawn[: resamples // 2, 0], drawn[resamples // 2 :, 0])[0, 1]
    assert abs(halves) < 0.1  # blocks do not repeat each other
    assert len(np.unique(drawn, axis=0)) > 0.04 * resamples


def test_sums_of_whole_numbers_are_exact() -> None:
    values = np.random.default_rng(6).integers(2**19, 2**20, (900, 3))
    sums = resampled_sums(values.astype(np.float64), 700)
    counts = resampled_sums(np.eye(900), 700).astype(np.int64)
    assert (sums == counts @ values).all()


def test_the_order_of_samples_leaves_the_value_and_barely_moves_the_interval() -> None:
    counts = entity_counts(300, seed=7)
    shuffled = np.random.default_rng(8).permutation(counts)
    one, other = estimate(counts, f1_score), estimate(shuffled, f1_score)
    assert one.value == other.value
    assert (one.low, one.high) != (other.low, other.high)  # other resamples
    assert one.low == pytest.approx(other.low, abs=0.12 * one.standard_error)
    assert one.high == pytest.approx(other.high, abs=0.12 * one.standard_error)


def test_samples_that_are_all_alike_have_an_interval_of_no_width() -> None:
    assert estimate(rows_of([1] * 20), mean_score) == Estimate(1.0, 1.0, 1.0, 0.0, 20)


# Same resamples ---------------------------------------------------------------------------


def test_two_methods_meet_the_same_resamples() -> None:
    first, second = entity_counts(80, seed=10), entity_counts(80, seed=11)
    together = np.concatenate([first, second], axis=1)
    paired = replicates(
        together, lambda sums: f1_score(sums[..., :3]) - f1_score(sums[..., 3:]), seed=3
    )
    apart = replicates(first, f1_score, seed=3) - replicates(second, f1_score, seed=3)
    assert apart == pytest.approx(paired, abs=1e-15)
    unpaired = replicates(first, f1_score, seed=3) - replicates(second, f1_score, seed=4)
    assert np.abs(unpaired - paired).max() > 0.01


def test_resamples_hang_on_their_seed_only() -> None:
    counts = entity_counts(50, seed=12)
    np.random.seed(1)
    state = np.random.get_state()
    first = replicates(counts, f1_score, seed=5)
    assert str(np.random.get_state()) == str(state)
    np.random.seed(2)
    statistics._resample.cache_clear()
    assert (replicates(counts, f1_score, seed=5) == first).all()
    assert (replicates(counts, f1_score, seed=6) != first).any()


def test_another_process_with_more_threads_draws_and_swaps_the_same() -> None:
    program = """
import numpy as np
from evals.scoring.statistics import estimate, paired_difference, replicates, task_seed
first = np.random.default_rng(1).integers(0, 9, (500, 6)).astype(float)
second = first[::-1].copy()
score = lambda sums: sums[..., 0] / sums.sum(axis=-1)
seed = task_seed("CMeEE-V2")
print(replicates(first, score, seed=seed, resamples=1500).tobytes().hex())
print(estimate(first, score, seed=seed), paired_difference(first, second, score, seed=seed))
"""
    said = [
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ
            | {"PYTHONHASHSEED": threads, "OMP_NUM_THREADS": threads, "PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for threads in ("1", "2")
    ]
    assert "p_value" in said[0]
    assert said[0] == said[1]


def test_what_is_remembered_cannot_be_written() -> None:
    for draw in (statistics._resample, statistics._swap):
        with pytest.raises(ValueError, match="read-only"):
            draw(5, 3, 0, 0)[0, 0] = 7


def test_many_samples_do_not_need_the_matrix_of_all_counts() -> None:
    statistics._resample.cache_clear()
    tracemalloc.start()
    values = np.random.default_rng(13).random(20_000)
    ours = estimate(rows_of(values), mean_score)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6  # as bytes the counts are 200 MB, as float64 1.6 GB
    assert ours.standard_error == pytest.approx(values.std() / math.sqrt(20_000), rel=0.03)


# Means over tasks -------------------------------------------------------------------------


def test_seeds_of_tasks_differ_and_are_known() -> None:
    from evals.tasks import TASKS

    assert len({task_seed(name) for name in TASKS}) == len(TASKS)
    assert task_seed("123456789") == 0xCBF43926  # the check value of CRC-32
    assert task_seed("医疗") >= 0


def test_mean_over_tasks_has_the_standard_error_of_independent_means() -> None:
    random = np.random.default_rng(14)
    tasks = {"a": random.random(100), "b": random.random(100), "c": random.random(300) < 0.3}
    drawn = {
        name: replicates(rows_of(values), mean_score, seed=task_seed(name))
        for name, values in tasks.items()
    }
    value, means, samples = mean_of(
        [(float(np.mean(values)), drawn[name], len(values)) for name, values in tasks.items()]
    )
    assert value == pytest.approx(np.mean([np.mean(values) for values in tasks.values()]))
    assert means == pytest.approx((drawn["a"] + drawn["b"] + drawn["c"]) / 3)
    assert samples == 500
    variance = sum(np.var(values) / len(values) for values in tasks.values())
    ours = summarise(value, means, samples)
    assert ours.standard_error == pytest.approx(math.sqrt(variance) / 3, rel=0.03)
    assert ours.low < value < ours.high


def test_mean_over_one_task_is_that_task() -> None:
    drawn = replicates(entity_counts(40, seed=15), f1_score, resamples=50)
    value, means, samples = mean_of([(0.25, drawn, 40)])
    assert (value, samples) == (0.25, 40)
    assert (means == drawn).all()


# Comparisons ------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [1, 7])
def test_a_method_does_not_differ_from_itself(labels: int) -> None:
    counts = entity_counts(90, seed=16, labels=labels)
    ours = paired_difference(counts, counts.copy(), f1_score)
    assert (ours.value, ours.low, ours.high, ours.standard_error) == (0, 0, 0, 0)
    assert ours.p_value == 1
    assert ours.samples == 90


@pytest.mark.parametrize(("shift", "seed"), [(0.0, 17), (0.12, 18), (0.2, 19)])
def test_p_value_of_a_mean_is_that_of_scipys_permutation_test(shift: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    first = random.random(60)
    second = np.clip(first - shift + random.normal(0, 0.4, 60), 0, 1)
    ours = paired_difference(rows_of(first), rows_of(second), mean_score)
    theirs = scipy.stats.permutation_test(
        (first, second),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        n_resamples=20_000,
        vectorized=True,
        rng=np.random.default_rng(20),
    )
    assert ours.value == pytest.approx(theirs.statistic)
    error = math.sqrt(theirs.pvalue * (1 - theirs.pvalue) / 10_000)
    assert ours.p_value == pytest.approx(theirs.pvalue, abs=6 * error + 2e-4)


@pytest.mark.parametrize("seed", [21, 22, 23])
def test_p_value_of_corpus_f1_is_that_of_all_permutations(seed: int) -> None:
    first, second = entity_counts(9, seed), entity_counts(9, seed + 100)
    observed = abs(f1_score(first.sum(axis=0)) - f1_score(second.sum(axis=0)))
    extreme = 0
    for swaps in itertools.product([False, True], repeat=9):
        chosen = np.array(swaps)[:, None]
        one, other = np.where(chosen, second, first), np.where(chosen, first, second)
        difference = f1_score(one.sum(axis=0)) - f1_score(other.sum(axis=0))
        extreme += abs(difference) >= observed - 1e-12
    exact = extreme / 2**9
    assert 0.02 < exact < 0.98
    ours = paired_difference(first, second, f1_score)
    assert ours.p_value == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 10_000))


def test_samples_that_tie_leave_the_sign_test() -> None:
    first, second = rows_of([1] * 6 + [1, 0] * 20), rows_of([0] * 6 + [1, 0] * 20)
    ours = paired_difference(first, second, mean_score)
    # all of six differing samples favour the first, and the same must count as extreme
    assert ours.p_value == pytest.approx(2 / 2**6, abs=0.007)


def test_rounding_does_not_break_ties() -> None:
    random = np.random.default_rng(30)
    for _ in range(20):
        first, second = random.integers(0, 8, (2, 12))
        exact = paired_difference(rows_of(first), rows_of(second), mean_score, resamples=1000)
        tenths = paired_difference(
            rows_of(first / 10), rows_of(second / 10), mean_score, resamples=1000
        )
        assert tenths.p_value == exact.p_value


def test_rounding_does_not_take_a_sum_below_zero() -> None:
    fractions = np.random.default_rng(31).random((20, 6, 1))

    def root(sums: FloatArray) -> FloatArray:
        assert (sums >= 0).all()
        return np.sqrt(sums[..., 0] / 6)

    for rows in fractions:
        paired_difference(rows, 0 * rows, root)
        paired_difference(0 * rows, rows, root)


def test_every_sample_is_swapped_half_the_time_and_no_block_repeats_another() -> None:
    given: list[FloatArray] = []

    def note(sums: FloatArray) -> FloatArray:
        given.append(sums)
        return sums[..., 0]

    paired_difference(np.zeros((1000, 1000)), np.eye(1000), note, resamples=1500)
    swaps, kept = given[-2:]
    assert (swaps + kept == 1).all()
    assert set(np.unique(swaps)) == {0, 1}
    assert np.abs(swaps.mean(axis=0) - 0.5).max() < 5 * 0.5 / math.sqrt(1500)
    assert len(np.unique(swaps, axis=0)) == 1500


def test_p_value_is_at_most_five_percent_once_in_twenty_comparisons_of_equals() -> None:
    random = np.random.default_rng(24)
    found = 0
    for _ in range(600):
        hard = random.random(100)
        first, second = (rows_of(random.random(100) < hard) for _ in range(2))
        found += paired_difference(first, second, mean_score, resamples=500).p_value <= 0.05
    assert 0.02 <= found / 600 <= 0.07


def test_pairing_narrows_the_interval_of_a_difference_and_swapping_turns_it() -> None:
    random = np.random.default_rng(25)
    hard = random.random(200)
    first = rows_of(np.clip(hard + random.normal(0.03, 0.05, 200), 0, 1))
    second = rows_of(np.clip(hard + random.normal(0, 0.05, 200), 0, 1))
    ours = paired_difference(first, second, mean_score)
    differences = first[:, 0] - second[:, 0]
    assert ours.standard_error == pytest.approx(differences.std() / math.sqrt(200), rel=0.03)
    assert ours.standard_error < estimate(first, mean_score).standard_error / 3
    assert 0 < ours.low < ours.value < ours.high
    assert ours.p_value < 0.001
    turned = paired_difference(second, first, mean_score)
    assert (turned.value, turned.low) == pytest.approx((-ours.value, -ours.high))
    assert turned.p_value == ours.p_value


def test_p_value_is_never_below_one_in_all_permutations() -> None:
    sure = paired_difference(rows_of([1] * 50), rows_of([0] * 50), mean_score, resamples=99)
    assert sure.p_value == 1 / 100
    assert (sure.value, sure.low, sure.high) == (1, 1, 1)


def test_holm_adjusts_as_by_hand() -> None:
    # sorted .005 .01 .03 .04, times 4 3 2 1: .02 .03 .06 .04, and .04 may not fall below .06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6, 0.9]) == [1, 1, 1]
    assert holm([0.04]) == [0.04]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_the_step_down_rule_rejects(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    order = np.argsort(p_values, kind="stable")
    for level in (0.01, 0.05, 0.3):
        rejected = set()
        for step, index in enumerate(order):
            if (len(p_values) - step) * p_values[index] > level:
                break
            rejected.add(int(index))
        assert {index for index, p in enumerate(adjusted) if p <= level} == rejected
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))


# Training noise ---------------------------------------------------------------------------


def test_spread_of_seeds_is_that_of_a_sample() -> None:
    ours = spread([0.5, 0.7, 0.9])
    assert ours == Spread(pytest.approx(0.7), pytest.approx(0.2), 0.5, 0.9, 3)


def test_spread_of_equal_scores_or_of_one_is_zero() -> None:
    assert spread([0.1, 0.1, 0.1]) == Spread(0.1, 0.0, 0.1, 0.1, 3)
    assert spread([0.25]) == Spread(0.25, 0.0, 0.25, 0.25, 1)


# Refusals ---------------------------------------------------------------------------------

GOOD = rows_of([1, 0, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: estimate(np.empty((0, 2)), mean_score), r"at least one.*\(0, 2\)"),
        (lambda: estimate(np.empty((3, 0)), mean_score), r"a column.*\(3, 0\)"),
        (lambda: replicates(np.ones(3), mean_score), r"a row for each.*\(3,\)"),
        (lambda: replicates(rows_of([1, math.nan]), mean_score), "row 1 is .*nan"),
        (lambda: estimate(rows_of([math.inf, 0]), mean_score), "row 0 is .*inf"),
        (lambda: paired_difference(GOOD, GOOD[:2], mean_score), r"\(3, 2\) and \(2, 2\)"),
        (lambda: paired_difference(GOOD, GOOD * math.nan, mean_score), "row 0"),
        (lambda: replicates(GOOD, mean_score, resamples=0), "at least 1, got 0"),
        (lambda: paired_difference(GOOD, GOOD, mean_score, resamples=-1), "at least 1, got -1"),
        (lambda: replicates(GOOD, np.sqrt), "must have shape"),
        (lambda: replicates(GOOD, lambda sums: sums[..., 0] * math.nan), "0 for 0 / 0"),
        (lambda: summarise(0.5, np.empty(0), 3), r"at least one score, got shape \(0,\)"),
        (lambda: summarise(0.5, np.ones(9), 0), "at least 1, got 0"),
        (lambda: summarise(math.nan, np.ones(9), 3), "finite"),
        (lambda: summarise(0.5, np.array([0.5, math.nan]), 3), "finite"),
        (lambda: mean_of([]), "at least one"),
        (lambda: mean_of([(0.5, np.ones(9), 3), (0.5, np.ones(8), 3)]), r"\[8, 9\] replicates"),
        (lambda: holm([0.5, 1.5]), r"\[0, 1\], got \[1.5\]"),
        (lambda: holm([-0.1]), "-0.1"),
        (lambda: holm([math.nan]), "nan"),
        (lambda: spread([]), "at least one"),
        (lambda: spread([0.5, math.nan]), "nan"),
    ],
)
def test_what_has_no_answer_is_refused_with_the_remedy(
    call: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# Speed ------------------------------------------------------------------------------------


def test_ten_methods_on_24_tasks_take_seconds() -> None:
    columns = [3, 3, 6, 9, 15, 30, 60, 150] * 3
    tasks = [
        [entity_counts(200, seed=10 * index + method, labels=width // 3) for method in range(10)]
        for index, width in enumerate(columns)
    ]
    statistics._resample.cache_clear()
    start = time.process_time()
    found = [
        estimate(counts, f1_score, seed=task_seed(str(index)))
        for index, methods in enumerate(tasks)
        for counts in methods
    ]
    assert time.process_time() - start < 30  # 4 on an idle core
    assert len(found) == 240
    assert all(one.low < one.value < one.high for one in found)
