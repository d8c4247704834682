"""Two runs compared task by task, with intervals and tests.

The replicates in the run folders are enough for intervals and a bootstrap test. With the data the
answers are scored again, for a permutation test on the samples themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from evals.runs.run_dir import Run, RunError
from evals.runs.score import pairs
from evals.runs.scored_run import TaskFacts, task_facts
from evals.scoring.effect_sizes import OVERALL, Gain, Part, adjust, gain
from evals.scoring.metrics import get_metric
from evals.scoring.statistics import RESAMPLES, mean_of, paired_difference, replicates, task_seed

if TYPE_CHECKING:
    from evals.data.datasets import Dataset

Test = Literal["paired bootstrap", "paired permutation"]


@dataclass(frozen=True)
class Comparison:
    """The first run against the second."""

    first: str  # title of the first run
    second: str
    tasks: tuple[TaskFacts, ...]  # on which both answered the same records
    scores: Mapping[str, tuple[float, float]]  # of both runs by task and `OVERALL`, in [0, 1]
    gains: Mapping[str, Gain]  # first minus second, likewise; p-values by Holm's rule over tasks
    test: Test  # of the tasks; the overall p-value is always of the bootstrap
    left_out: Mapping[str, str]  # reason by task that cannot be compared


def compare(
    first: Run, second: Run, dataset: Dataset | None = None, *, resamples: int = RESAMPLES
) -> Comparison:
    """Compare two scored runs on the tasks of which both answered the same records.

    Args:
        first: The run whose gain is measured.
        second: The reference.
        dataset: The answered records; None takes the replicates in the run folders.
        resamples: With a dataset: resamples of each task, and random swaps.

    Raises:
        RunError: A run is not scored or damaged, or the two have no task in common.
        DataError: The data is not what was answered.
    """
    ours, theirs = task_facts(first), task_facts(second)
    left_out = {
        name: reason
        for name in {**ours, **theirs}
        if (reason := _difference(ours.get(name), theirs.get(name)))
    }
    tasks = tuple(facts for name, facts in ours.items() if name not in left_out)
    if not tasks:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise RunError(
            f"{first.folder} and {second.folder} have no task in common ({reasons}): give two runs "
            "that answered the same records."
        )
    measured = (
        _from_replicates(first, second, tasks)
        if dataset is None
        else _from_samples(first, second, tasks, dataset, resamples)
    )
    names = [task.name for task in tasks]
    means = np.mean([one.scores for one in measured], axis=0)
    tested = adjust([one.gain for one in measured])
    return Comparison(
        first=_title(first),
        second=_title(second),
        tasks=tasks,
        scores={
            **{name: one.scores for name, one in zip(names, measured, strict=True)},
            OVERALL: (float(means[0]), float(means[1])),
        },
        gains={
            **dict(zip(names, tested, strict=True)),
            OVERALL: gain(mean_of([one.part for one in measured])),
        },
        test="paired bootstrap" if dataset is None else "paired permutation",
        left_out=left_out,
    )


@dataclass(frozen=True)
class _Measured:
    """A task: the scores of both runs, their difference, and its replicates for the mean."""

    scores: tuple[float, float]
    gain: Gain
    part: Part


def _from_replicates(first: Run, second: Run, tasks: Sequence[TaskFacts]) -> list[_Measured]:
    ours, theirs = first.replicates(), second.replicates()
    measured = []
    for task in tasks:
        scores = _score(first, task), _score(second, task)
        one, other = ours[task.name].astype(np.float64), theirs[task.name].astype(np.float64)
        if one.shape != other.shape:
            raise RunError(
                f"{first.folder} and {second.folder} keep {len(one)} and {len(other)} replicates "
                f"of {task.name}: score both again."
            )
        part = (scores[0] - scores[1], one - other, task.samples)
        measured.append(_Measured(scores, gain(part), part))
    return measured


def _from_samples(
    first: Run, second: Run, tasks: Sequence[TaskFacts], dataset: Dataset, resamples: int
) -> list[_Measured]:
    ours, theirs = pairs(first, dataset), pairs(second, dataset)
    measured = []
    for task in tasks:
        metric = get_metric(task.metric)
        # Both at once, because the columns depend on the answers.
        rows = metric.statistics([*ours[task.name], *theirs[task.name]])
        one, other = rows[: task.samples], rows[task.samples :]
        draw = {"resamples": resamples, "seed": task_seed(task.name)}
        exact = paired_difference(one, other, metric.score, **draw)
        drawn = replicates(one, metric.score, **draw) - replicates(other, metric.score, **draw)
        scores = float(metric.score(one.sum(axis=0))), float(metric.score(other.sum(axis=0)))
        tested = Gain(**vars(exact), adjusted=exact.p_value)
        measured.append(_Measured(scores, tested, (exact.value, drawn, exact.samples)))
    return measured


def _score(run: Run, task: TaskFacts) -> float:
    return float((run.metrics or {})[task.name]["scores"][task.metric]["value"])


def _difference(ours: TaskFacts | None, theirs: TaskFacts | None) -> str:
    """Why two runs cannot be compared on a task; empty if they can."""
    if ours is None or theirs is None:
        return f"only the {'second' if ours is None else 'first'} run answers it"
    names = [one for one, value in vars(ours).items() if value != getattr(theirs, one)]
    return f"they differ in {', '.join(names).replace('_', ' ')}" if names else ""


def _title(run: Run) -> str:
    words = [str(run.manifest["method"]), str(run.manifest.get("label") or "")]
    if run.manifest.get("seed") is not None:
        words.append(f"seed {run.manifest['seed']}")
    return f"{' · '.join(filter(None, words))} ({run.folder})"
