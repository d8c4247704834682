"""How sure a grouping of tasks is: errors of its gain, held-out gain, stability, like to a prior.

All of it comes from affinities measured many times, [M, T, T]. What is found on all of them looks
better on these than it is, so each measurement is also scored with the groups that the others give.

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

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

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
    most = (rows + columns) / 2
    return 1.0 if most == chance else (both - chance) / (most - chance)


def rank_correlation(one: Floats, other: Floats) -> float | None:
    """Spearman's correlation of two matrices without their diagonals; None if one is constant."""
    first, second = _ranks(one), _ranks(other)
    if not (first.any() and second.any()):
        return None
    return float(first @ second / np.sqrt((first @ first) * (second @ second)))


def _ranks(matrix: Floats) -> Floats:
    """Of what stands off the diagonal, less their mean; equal values share theirs."""
    outside = matrix[~np.eye(len(matrix), dtype=bool)]
    _, inverse, counts = np.unique(outside, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return cast(Floats, ranks - ranks.mean() if len(ranks) else ranks)


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
    seed: int = 0,
) -> dict[str, Any]:
    """The groups that affinities suggest, for each wanted number of them; see the module's text.

    Args:
        measured: Affinities [M, T, T].
        tasks: The T names.
        sizes: Numbers of groups.
        spread: Values [M, T, T] for the standard errors of gains; None takes the affinities.
        prior: A grouping to compare with: tasks by the name of their group.
        draws: Of the bootstrap.
        seed: Of the bootstrap and of the search.

    Raises:
        ValueError: A number of groups is not within 1 to T, or the prior does not have each task
            once.
    """
    values = np.asarray(measured, dtype=np.float64)
    varying = values if spread is None else np.asarray(spread, dtype=np.float64)
    most = max(sizes)
    if min(sizes) < 1:
        raise ValueError(f"{len(tasks)} tasks make 1 to {len(tasks)} groups, not {min(sizes)}.")
    mean = values.mean(axis=0)
    found = best_groupings(mean, most, seed=seed)
    held_out = _held_out(values, most, seed)
    drawn = _bootstrap(values, most, draws, seed)
    known = None if prior is None else prior_labels(prior, tasks)

    def facts(size: int) -> dict[str, Any]:
        labels = found[size - 1]
        held, error = _mean(held_out[size - 1]) if held_out else (None, None)
        return {
            "asked": size,
            "groups": [[tasks[i] for i in group] for group in members(labels)],
            **_gain(varying, labels),
            **{"held_out_gain": held, "held_out_standard_error": error},
            **_stability(labels, drawn[size - 1] if drawn else None),
            "prior_ari": None if known is None else adjusted_rand_index(labels, known),
        }

    groupings = [facts(size) for size in sorted(set(sizes))]
    result = {
        "measurements": len(values),
        "one_group": partition_score(mean, np.zeros(len(tasks), dtype=np.intp)),
        "groupings": groupings,
        "suggested": _suggested(groupings),
        "split_half": None,
        "prior": None,
        "exact": len(tasks) <= EXACT_TASKS,
    }
    if len(values) > 1:
        halves = (values[start::2].mean(axis=0) for start in (0, 1))
        result["split_half"] = rank_correlation(*halves)
    if prior is not None and known is not None:
        groups = {name: list(group) for name, group in prior.items()}
        result["prior"] = {"groups": groups, **_gain(varying, known)}
    return result


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
    """The mean and its standard error."""
    error = None if len(values) < 2 else float(values.std(ddof=1) / math.sqrt(len(values)))
    return float(values.mean()), error


def _held_out(values: Floats, most: int, seed: int) -> list[Floats]:
    """For each number of groups the gain of each measurement with the others' groups, [M]."""
    count = len(values)
    if count < 2:
        return []
    others = (values.sum(axis=0) - values) / (count - 1)
    found = search_groupings(pair_affinities(others), most, chains=8, rounds=6, seed=seed)
    return [
        np.array([_gains(z[None], one)[0] for z, one in zip(values, labels, strict=True)])
        for labels in found
    ]


def _bootstrap(values: Floats, most: int, draws: int, seed: int) -> list[Labels]:
    """For each number of groups those of measurements drawn anew, [draws, T]."""
    if len(values) < 2 or not draws:
        return []
    picks = np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
    means = np.array([values[pick].mean(axis=0) for pick in picks])
    return search_groupings(pair_affinities(means), most, chains=4, rounds=4, seed=seed)


def _suggested(groupings: Sequence[Mapping[str, Any]]) -> int | None:
    """The smallest number of groups that does about as well as the best on held-out measurements.

    None where nothing was held out.
    """
    if any(one["held_out_standard_error"] is None for one in groupings):
        return None
    best = max(groupings, key=lambda one: float(one["held_out_gain"]))
    least = best["held_out_gain"] - best["held_out_standard_error"]
    return next(int(one["asked"]) for one in groupings if one["held_out_gain"] >= least)
