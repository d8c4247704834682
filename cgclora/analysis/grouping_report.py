"""How certain a grouping of tasks is: errors of its gain, held-out gain, stability, and a prior.

All of it comes from affinities measured many times, [M, T, T]. Groups found on all of them look
better on these than they are, so each measurement is also scored with the groups of the others.

`report` gives JSON values:

    groupings     for each number of groups: `groups` (lists of tasks), `gain` over one group for
                  all and its `standard_error`; `held_out_gain` and `held_out_standard_error`, where
                  each measurement is scored with the groups that the others give; `stability`, the
                  mean adjusted Rand index with the groups of bootstrapped measurements; `together`
                  [T, T], how often two tasks are in one group of these; `prior_ari`
    one_group     the score that gains count from
    prior         the prior's groups and gain
    suggested     the smallest number of groups whose held-out gain is within one standard error of
                  the best one's
    split_half    rank correlation of every other measurement's mean with the others'

What needs more measurements than there are is None.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cgclora.analysis.grouping import (
    EXACT_TASKS,
    Floats,
    Labels,
    best_groupings,
    first_seen,
    pair_affinities,
    partition_score,
    search_groupings,
)

DRAWS = 200
"""Bootstrap draws of the measurements."""


def adjusted_rand_index(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """How alike two partitions, labels [T], are: 1 for the same, 0 on average for chance.

    Hubert and Arabie, Comparing partitions (1985). Two partitions that are both all in one, or both
    each on its own, are the same.
    """
    one, other = first_seen(one), first_seen(other)
    table = np.zeros((one.max() + 1, other.max() + 1))
    np.add.at(table, (one, other), 1)

    def pairs(counts: Floats) -> float:
        return float((counts * (counts - 1) / 2).sum())

    both, rows, columns = pairs(table), pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    chance = rows * columns / max(len(one) * (len(one) - 1) / 2, 1)
    highest = (rows + columns) / 2
    return 1.0 if highest == chance else (both - chance) / (highest - chance)


def rank_correlation(one: Floats, other: Floats) -> float | None:
    """Spearman's correlation of two matrices without their diagonals; None if one is constant."""
    from scipy.stats import rankdata  # noqa: PLC0415 - slow to import

    outside = ~np.eye(len(one), dtype=bool)
    first, second = (rankdata(matrix[outside]) for matrix in (one, other))
    first, second = first - first.mean(), second - second.mean()
    if not (first.any() and second.any()):
        return None
    return float(first @ second / np.sqrt((first @ first) * (second @ second)))


def equalised(measured: Floats) -> Floats:
    """Affinities [M, T, T] onto each task in units of the root mean square of its mean ones.

    Tasks with short answers lose a large share of their loss in a step, those with long ones a
    hundredth of it; in these units each has the same say in which groups are best.
    """
    return measured / usual_size(measured.mean(axis=0))


def usual_size(mean: Floats) -> Floats:
    """The root mean square of the affinities onto each task from the others, [T]; 1 for zeros."""
    others = mean * (1 - np.eye(len(mean)))
    size = np.sqrt((others**2).sum(axis=0) / max(len(mean) - 1, 1))
    return np.where(size > 0, size, 1.0)


def report(
    measured: npt.ArrayLike,
    tasks: Sequence[str],
    sizes: Sequence[int],
    *,
    spread: npt.ArrayLike | None = None,
    prior: Mapping[str, Sequence[str]] | None = None,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """The groups that affinities [M, T, T] suggest, for each of some numbers of groups.

    See the module's text. `spread` [M, T, T] has the values for the standard errors of gains (None:
    the affinities); `prior` is a grouping to compare with, tasks by the name of their group;
    `draws` is the size of the bootstrap.

    Raises:
        ValueError: A number of groups is not within 1 to T, or the prior does not have each task
            once.
    """
    values = np.asarray(measured, dtype=np.float64)
    varying = values if spread is None else np.asarray(spread, dtype=np.float64)
    if min(sizes) < 1:
        raise ValueError(f"{len(tasks)} tasks make 1 to {len(tasks)} groups, not {min(sizes)}.")
    mean = values.mean(axis=0)
    best = best_groupings(mean, max(sizes))
    held_out = _held_out(values, max(sizes))
    drawn = _bootstrap(values, max(sizes), draws)
    labels_of_prior = None if prior is None else prior_labels(prior, tasks)
    groupings = []
    for size in sorted(set(sizes)):
        labels = best[size - 1]
        held, error = _mean(held_out[size - 1]) if held_out else (None, None)
        groupings.append(
            {
                "asked": size,
                "groups": [[tasks[i] for i in group] for group in members(labels)],
                **_gain(varying, labels),
                "held_out_gain": held,
                "held_out_standard_error": error,
                **_stability(labels, drawn[size - 1] if drawn else None),
                "prior_ari": None
                if labels_of_prior is None
                else adjusted_rand_index(labels, labels_of_prior),
            }
        )
    halves = [values[start::2].mean(axis=0) for start in (0, 1)] if len(values) > 1 else None
    return {
        "measurements": len(values),
        "one_group": partition_score(mean, np.zeros(len(tasks), dtype=np.intp)),
        "groupings": groupings,
        "suggested": _suggested(groupings),
        "split_half": halves and rank_correlation(*halves),
        "prior": None
        if prior is None or labels_of_prior is None
        else {
            "groups": {name: list(group) for name, group in prior.items()},
            **_gain(varying, labels_of_prior),
        },
        "exact": len(tasks) <= EXACT_TASKS,
    }


def _gain(values: Floats, labels: Labels) -> dict[str, float | None]:
    gain, error = _mean(_gains(values, labels))
    return {"gain": gain, "standard_error": error}


def _stability(labels: Labels, drawn: Labels | None) -> dict[str, Any]:
    """How alike a grouping is to those of bootstrapped measurements, [draws, T]."""
    if drawn is None:
        return {"stability": None, "together": None}
    alike = [adjusted_rand_index(labels, one) for one in drawn]
    together = (drawn[:, :, None] == drawn[:, None]).mean(axis=0)
    return {"stability": float(np.mean(alike)), "together": together.tolist()}


def members(labels: Labels) -> list[list[int]]:
    """The tasks of each group."""
    return [np.flatnonzero(labels == group).tolist() for group in np.unique(labels)]


def prior_labels(prior: Mapping[str, Sequence[str]], tasks: Sequence[str]) -> Labels:
    """A prior grouping as labels [T].

    Raises:
        ValueError: It does not have each task once.
    """
    named = [task for group in prior.values() for task in group]
    if sorted(named) != sorted(tasks):
        wrong = sorted((set(named) ^ set(tasks)) | {x for x in named if named.count(x) > 1})
        raise ValueError(f"a prior grouping must have each task once; look at {', '.join(wrong)}.")
    group_of = {task: index for index, group in enumerate(prior.values()) for task in group}
    return np.array([group_of[task] for task in tasks])


def _gains(values: Floats, labels: Labels) -> Floats:
    """The score of a grouping less that of a single group, for each measurement, [M]."""
    alone = np.zeros_like(labels)
    return np.array([partition_score(z, labels) - partition_score(z, alone) for z in values])


def _mean(values: Floats) -> tuple[float, float | None]:
    error = None if len(values) < 2 else float(values.std(ddof=1) / math.sqrt(len(values)))
    return float(values.mean()), error


def _held_out(values: Floats, max_groups: int) -> list[Floats]:
    """For each number of groups the gain of each measurement with the others' groups, [M]."""
    count = len(values)
    if count < 2:
        return []
    others = (values.sum(axis=0) - values) / (count - 1)
    return [
        np.array([_gains(z[None], one)[0] for z, one in zip(values, labels, strict=True)])
        for labels in search_groupings(pair_affinities(others), max_groups, chains=8, rounds=6)
    ]


def _bootstrap(values: Floats, max_groups: int, draws: int) -> list[Labels]:
    """For each number of groups the partitions of resampled measurements, [draws, T]."""
    if len(values) < 2 or not draws:
        return []
    picks = np.random.default_rng(0).integers(len(values), size=(draws, len(values)))
    means = np.array([values[pick].mean(axis=0) for pick in picks])
    return search_groupings(pair_affinities(means), max_groups, chains=4, rounds=4)


def _suggested(groupings: Sequence[Mapping[str, Any]]) -> int | None:
    """The smallest number of groups within one standard error of the best held-out gain, if any."""
    if any(one["held_out_standard_error"] is None for one in groupings):
        return None
    best = max(groupings, key=lambda one: float(one["held_out_gain"]))
    bound = best["held_out_gain"] - best["held_out_standard_error"]
    return next(int(one["asked"]) for one in groupings if one["held_out_gain"] >= bound)
