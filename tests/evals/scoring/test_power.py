"""Power: by the closed form, by hand, and by drawing records until the test tells a difference."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from evals.scoring.metrics import get_metric
from evals.scoring.power import power
from evals.scoring.statistics import replicates


def part(error: float, samples: int, value: float = 0.01) -> tuple[float, np.ndarray, int]:
    """A task's difference, whose replicates have exactly this standard deviation."""
    return value, value + error * np.array([1.0, -1.0] * 50), samples


def test_equal_tasks_need_what_the_closed_form_says():
    tasks = [part(error, 100) for error in (0.02, 0.03, 0.04)]
    found = power(tasks, 0.015)
    variances = np.array([0.02, 0.03, 0.04]) ** 2 * 100**2 / 99
    errors = norm.ppf(0.975) + norm.ppf(0.8)
    records = variances.sum() * (errors / (3 * 0.015)) ** 2
    assert found.more == math.ceil(records - 100)
    assert found.records == 3 * (100 + found.more)
    assert found.detectable == pytest.approx(errors * math.sqrt(variances.sum() / 100) / 3)


def test_tasks_of_different_size_get_the_same_number_more_and_not_one_too_many():
    found = power([part(0.05, 30), part(0.02, 400)], 0.02)
    variances = 0.05**2 * 30**2 / 29, 0.02**2 * 400**2 / 399

    def chance(more: int) -> float:
        """The probability to reject, on either side."""
        error = math.sqrt(variances[0] / (30 + more) + variances[1] / (400 + more)) / 2
        return float(norm.sf(1.959964 - 0.02 / error) + norm.cdf(-1.959964 - 0.02 / error))

    assert found.more > 0
    assert chance(found.more) >= 0.8 > chance(found.more - 1)


def test_enough_records_need_no_more():
    found = power([part(0.01, 100)], 0.05)
    assert found.more == 0
    assert found.records == 100
    assert found.detectable < 0.05


def test_a_difference_is_told_in_four_of_five_cases_with_the_records_it_asks_for():
    rng = np.random.default_rng(0)
    tasks = [(0.06, 60), (0.0, 90)]  # true mean, records
    shares = [np.array([0.5 * (0.3 - mean), 0.7, 0.5 * (0.3 + mean)]) for mean, _ in tasks]

    def draw(task: int, size: int | tuple[int, int]) -> np.ndarray:
        return rng.choice([-1.0, 0.0, 1.0], size=size, p=shares[task])

    # Of the whole population, so that only the planning is tested and not one sample's luck.
    parts = [part(math.sqrt((0.3 - mean**2) * (n - 1)) / n, n) for mean, n in tasks]
    found = power(parts, 0.03)
    drawn = [draw(task, (2000, n + found.more)) for task, (_, n) in enumerate(tasks)]
    mean = sum(one.mean(axis=1) for one in drawn) / 2
    error = np.sqrt(sum(one.var(axis=1, ddof=1) / one.shape[1] for one in drawn)) / 2
    assert (np.abs(mean / error) > norm.ppf(0.975)).mean() == pytest.approx(0.8, abs=0.03)


def test_replicates_give_the_variance_per_record():
    rng = np.random.default_rng(1)
    rows = [np.stack([rng.random(80) < share, np.ones(80)], axis=1) for share in (0.7, 0.6)]
    score = get_metric("accuracy").score
    one, other = (replicates(of.astype(float), score, seed=3) for of in rows)
    found = power([(0.1, one - other, 80)], 0.2)
    exact = (rows[0][:, 0] - rows[1][:, 0]).std(ddof=1) / math.sqrt(80)
    assert found.detectable == pytest.approx(2.80158 * exact, rel=0.03)


def test_an_f1_score_has_the_noise_that_is_foreseen_with_four_times_the_records():
    rng = np.random.default_rng(2)
    score = get_metric("micro-f1/items").score

    def difference(records: int) -> tuple[np.ndarray, np.ndarray]:
        gold = rng.integers(1, 4, records)
        hits = [rng.binomial(gold, share) for share in (0.7, 0.6)]
        return tuple(
            np.stack([hit, hit + rng.binomial(1, 0.4, records), gold], axis=1).astype(float)
            for hit in hits
        )

    one, other = difference(200)
    drawn = replicates(one, score, seed=5) - replicates(other, score, seed=5)
    foreseen = power([(0.1, drawn, 200)], 0.2).detectable / 2.80158 / 2
    many = [[score(rows.sum(axis=0)) for rows in difference(800)] for _ in range(600)]
    seen = np.subtract(*np.array(many).T).std()
    assert foreseen == pytest.approx(seen, rel=0.15)


def test_without_any_difference_no_number_of_records_is_named():
    assert power([(0.0, np.zeros(100), 50)], 0.02) is None
    assert power([part(0.1, 1), part(0.1, 100)], 0.02) is None


@pytest.mark.parametrize(
    ("parts", "difference"), [([], 0.02), ([part(0.1, 9)], 0.0), ([part(0.1, 9)], 2.0)]
)
def test_a_wrong_request_says_so(parts, difference):
    with pytest.raises(ValueError, match=r"at least one|in \(0, 1\]"):
        power(parts, difference)
