"""Groups of tasks: the best ones are found, and how sure they are is said rightly."""

import json
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgclora.analysis.grouping import (
    EXACT_TASKS,
    best_groupings,
    exact_groupings,
    first_seen,
    pair_affinities,
    partition_score,
    search_groupings,
)
from cgclora.analysis.grouping_report import (
    adjusted_rand_index,
    equalised,
    prior_labels,
    rank_correlation,
    report,
)

TASKS = tuple("abcdefgh")


def random_affinity(tasks: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(tasks, tasks)) + generator.normal()


def partitions(tasks: int) -> Iterator[list[int]]:
    """All of them, each once: a task joins an earlier group or opens the next one."""
    if tasks == 0:
        yield []
        return
    for labels in partitions(tasks - 1):
        for group in range(max(labels, default=-1) + 2):
            yield [*labels, group]


def planted(tasks: int, groups: int, noise: float, seed: int, count: int = 0) -> np.ndarray:
    """1 within a group and 0 between, task i in group i % groups, with noise."""
    labels = np.arange(tasks) % groups
    shape = (count, tasks, tasks) if count else (tasks, tasks)
    noisy = np.random.default_rng(seed).normal(scale=noise, size=shape)
    return (labels[:, None] == labels).astype(float) + noisy


def test_the_score_is_the_mean_over_tasks_of_the_mean_affinity_from_their_group():
    affinity = np.array([[9, 1, 2], [3, 9, 4], [5, 6, 9]], dtype=float)
    assert partition_score(affinity, [0, 0, 0]) == pytest.approx(((3 + 5) + (1 + 6) + (2 + 4)) / 6)
    assert partition_score(affinity, [0, 0, 1]) == pytest.approx((3 + 1) / 3)
    assert partition_score(affinity, [0, 1, 2]) == 0


@pytest.mark.parametrize("tasks", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("seed", range(4))
def test_exact_and_searched_groups_are_the_best_of_all_partitions(tasks, seed):
    affinity = random_affinity(tasks, seed)
    scored = [(max(p) + 1, partition_score(affinity, p)) for p in partitions(tasks)]
    exact = exact_groupings(affinity, tasks)
    searched = search_groupings(pair_affinities(affinity)[None], tasks)
    for most in range(1, tasks + 1):
        best = max(score for groups, score in scored if groups <= most)
        for labels in (exact[most - 1], searched[most - 1][0]):
            assert labels.max() < most
            assert partition_score(affinity, labels) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_the_search_finds_what_is_exact_for_eleven_tasks(seed):
    affinity = random_affinity(11, seed)
    exact = exact_groupings(affinity, 11)
    for chains, rounds in ((32, 12), (8, 6)):
        found = search_groupings(
            pair_affinities(affinity)[None], 11, chains=chains, rounds=rounds, seed=seed
        )
        for one, other in zip(exact, found, strict=True):
            score = partition_score(affinity, other[0])
            assert score == pytest.approx(partition_score(affinity, one), abs=1e-12)


@given(st.integers(1, 6), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_more_groups_are_never_worse_and_come_in_canonical_order(tasks, seed):
    affinity = random_affinity(tasks, seed)
    found = best_groupings(affinity, tasks)
    scores = [partition_score(affinity, labels) for labels in found]
    assert scores == sorted(scores)
    assert all((first_seen(labels) == labels).all() for labels in found)


def test_a_group_that_brings_nothing_is_not_made():
    found = best_groupings(np.ones((5, 5)), 5)
    assert all(labels.max() == 0 for labels in found)


def test_planted_groups_are_found_among_more_tasks_than_can_be_tried():
    tasks = 2 * EXACT_TASKS
    found = best_groupings(planted(tasks, 4, 0.3, seed=0), 4)
    assert (found[3] == np.arange(tasks) % 4).all()


def test_the_search_depends_on_its_seed_alone():
    affinity = random_affinity(20, 0)
    one, other = (best_groupings(affinity, 6) for _ in range(2))
    assert all((a == b).all() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("affinity", "most"),
    [
        (np.ones((2, 3)), 1),
        (np.ones((0, 0)), 1),
        (np.full((2, 2), np.nan), 1),
        (np.ones((2, 2)), 3),
    ],
)
def test_what_cannot_be_grouped_is_refused(affinity, most):
    with pytest.raises(ValueError, match=r"affinity|groups"):
        best_groupings(affinity, most)


# How sure it is ---------------------------------------------------------------------------


def test_the_adjusted_rand_index_is_that_of_the_book():
    one, other = [0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 2]
    assert adjusted_rand_index(one, other) == pytest.approx(0.24242424)
    assert adjusted_rand_index(one, [5, 5, 5, 2, 2, 2]) == 1
    assert adjusted_rand_index([0] * 4, [0] * 4) == adjusted_rand_index(range(4), range(4)) == 1
    assert adjusted_rand_index([0] * 6, one) == 0


def test_the_adjusted_rand_index_of_chance_is_zero_on_average():
    generator = np.random.default_rng(0)
    values = [adjusted_rand_index(*generator.integers(3, size=(2, 24))) for _ in range(2000)]
    assert abs(np.mean(values)) < 0.005


def test_the_rank_correlation_sees_order_alone_and_not_the_diagonal():
    matrix = random_affinity(5, 0)
    assert rank_correlation(matrix, np.exp(matrix) + 100 * np.eye(5)) == pytest.approx(1)
    assert rank_correlation(matrix, -matrix) == pytest.approx(-1)
    assert rank_correlation(matrix, np.ones((5, 5))) is None


def test_the_report_finds_planted_groups_and_suggests_their_number():
    measured = planted(8, 2, 0.5, seed=1, count=12)
    prior = {"even": TASKS[::2], "odd": TASKS[1::2]}
    found = report(measured, TASKS, range(1, 6), prior=prior, draws=50)
    two = found["groupings"][1]
    assert two["groups"] == [list(TASKS[::2]), list(TASKS[1::2])]
    assert two["prior_ari"] == 1
    assert two["stability"] == 1
    assert two["gain"] == pytest.approx(found["prior"]["gain"])
    assert two["held_out_gain"] == pytest.approx(two["gain"])  # the same groups each time
    assert found["suggested"] == 2
    together = np.array(two["together"])
    assert together[0, 2] == 1
    assert together[0, 1] == 0
    json.dumps(found, allow_nan=False)


def test_the_gain_of_groups_found_in_noise_vanishes_on_held_out_measurements():
    measured = planted(8, 1, 3.0, seed=2, count=40)
    found = report(measured, TASKS, range(1, 5), draws=0)
    three = found["groupings"][2]
    assert three["gain"] > 2 * three["standard_error"]
    assert three["held_out_gain"] < 0.5 * three["gain"]
    assert found["suggested"] == 1


def test_the_standard_error_is_that_of_the_bootstrap():
    measured = planted(6, 2, 1.0, seed=3, count=25)
    one = report(measured, TASKS[:6], [2], draws=0)["groupings"][0]
    labels = prior_labels({str(i): group for i, group in enumerate(one["groups"])}, TASKS[:6])
    generator = np.random.default_rng(0)
    gains = []
    for _ in range(3000):
        mean = measured[generator.integers(25, size=25)].mean(axis=0)
        gains.append(partition_score(mean, labels) - partition_score(mean, np.zeros(6)))
    assert one["standard_error"] == pytest.approx(np.std(gains), rel=0.1)


def test_a_single_measurement_says_nothing_of_certainty():
    found = report(planted(4, 2, 0.0, seed=0, count=1), TASKS[:4], [1, 2])
    assert found["suggested"] is found["split_half"] is None
    assert found["groupings"][1]["standard_error"] is None
    assert found["groupings"][1]["held_out_gain"] is None


@pytest.mark.parametrize(
    "prior", [{"one": ["a"]}, {"one": ["a", "b"], "two": ["b"]}, {"one": ["a", "b", "z"]}]
)
def test_a_prior_must_have_each_task_once(prior):
    with pytest.raises(ValueError, match="each task once"):
        prior_labels(prior, ["a", "b"])


def test_equalised_affinities_give_each_task_the_same_say():
    measured = planted(6, 2, 0.2, seed=0, count=5)
    scale = np.array([1.0, 10.0, 100.0, 0.1, 0.01, 0.0])
    plain, scaled = equalised(measured), equalised(measured * scale)
    np.testing.assert_allclose(scaled[..., :5], plain[..., :5])
    assert not scaled[..., 5].any()
    mean = plain.mean(axis=0)[~np.eye(6, dtype=bool)].reshape(6, 5)
    assert np.square(mean).mean() == pytest.approx(1)
