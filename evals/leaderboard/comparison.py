"""Two runs compared task by task, with intervals and tests.

The replicates in the run folders are enough for intervals and a bootstrap test. With the data the
answers are scored again, for a permutation test on the samples themselves. Logs of other harnesses
are compared by their samples, with each other and, where the tasks are ours, with run folders.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from evals.data.datasets import Dataset
from evals.runs.harness.logs import Log, LoggedTask, item_hash, log_of_run
from evals.runs.run_dir import Run, RunError
from evals.runs.score import pairs
from evals.runs.scored_run import TaskFacts, task_facts
from evals.scoring.effect_sizes import OVERALL, Gain, Part, adjust, gain
from evals.scoring.metrics import get_metric
from evals.scoring.statistics import (
    RESAMPLES,
    FloatArray,
    Score,
    mean_of,
    paired_difference,
    replicates,
    task_seed,
)

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
    partly: Mapping[str, str]  # by task of which only some items are in both, how many


def compare(
    first: Run | Log,
    second: Run | Log,
    dataset: Dataset | None = None,
    *,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Compare two scored runs on the tasks of which both answered the same records.

    Args:
        first: The run whose gain is measured, or a log of another harness.
        second: The reference.
        dataset: The answered records; None takes the replicates in the run folders, or the records
            in the log where the other one is a log.
        resamples: With a dataset or a log: resamples of each task, and random swaps.

    Raises:
        RunError: A run is not scored or damaged, or the two have no task in common.
        DataError: The data is not what was answered.
    """
    if isinstance(first, Run):
        if isinstance(second, Run):
            return _compare_runs(first, second, dataset, resamples)
        first = _as_log(first, second, dataset)
    elif isinstance(second, Run):
        second = _as_log(second, first, dataset)
    elif dataset is not None:
        raise RunError("logs of other harnesses hold what was asked: leave out --data.")
    return _compare_logs(first, second, resamples)


def _compare_runs(first: Run, second: Run, dataset: Dataset | None, resamples: int) -> Comparison:
    ours, theirs = task_facts(first), task_facts(second)
    left_out = {
        name: reason
        for name in {**ours, **theirs}
        if (reason := _difference(ours.get(name), theirs.get(name)))
    }
    tasks = tuple(facts for name, facts in ours.items() if name not in left_out)
    if not tasks:
        raise _nothing_in_common(str(first.folder), str(second.folder), left_out)
    measured = (
        _from_replicates(first, second, tasks)
        if dataset is None
        else _from_samples(first, second, tasks, dataset, resamples)
    )
    test: Test = "paired bootstrap" if dataset is None else "paired permutation"
    return _comparison((_title(first), _title(second)), tasks, measured, test, left_out)


def _as_log(run: Run, log: Log, dataset: Dataset | None) -> Log:
    """A run in the form of the log that it is compared with."""
    if not log.records:
        raise RunError(
            f"{log.title} has no task that {run.folder} can have: compare a run with a log of the "
            "tasks of `python -m evals harness`."
        )
    records = dataset or Dataset(log.title, None, log.records)
    return log_of_run(run, _title(run), records, log.tasks)


def _compare_logs(first: Log, second: Log, resamples: int) -> Comparison:
    left_out = {**second.left_out, **first.left_out}
    tasks, measured, partly = [], [], {}
    for name in dict.fromkeys([*first.tasks, *second.tasks]):
        if name in left_out:
            continue
        ours, theirs = first.tasks.get(name), second.tasks.get(name)
        if ours is None or theirs is None:
            left_out[name] = _lacking(ours is None)
        elif reason := _difference_of_logs(ours, theirs):
            left_out[name] = reason
        else:
            common = [one for one in ours.answers if one in theirs.answers]
            if len(common) < max(len(ours.answers), len(theirs.answers)):
                counts = f"{len(ours.answers)} and {len(theirs.answers)}"
                partly[name] = f"{len(common)} of {counts} items"
            data = item_hash([ours.hashes[one] for one in common])
            tasks.append(dataclasses.replace(ours.facts, samples=len(common), data=data))
            one, other = ([task.answers[item] for item in common] for task in (ours, theirs))
            measured.append(_measure(name, one, other, ours.rows, ours.score, resamples))
    if not tasks:
        raise _nothing_in_common(first.title, second.title, left_out)
    titles = first.title, second.title
    return _comparison(titles, tasks, measured, "paired permutation", left_out, partly)


def _comparison(
    titles: tuple[str, str],
    tasks: Sequence[TaskFacts],
    measured: Sequence[_Measured],
    test: Test,
    left_out: Mapping[str, str],
    partly: Mapping[str, str] = MappingProxyType({}),
) -> Comparison:
    names = [task.name for task in tasks]
    means = np.mean([one.scores for one in measured], axis=0)
    tested = adjust([one.gain for one in measured])
    return Comparison(
        first=titles[0],
        second=titles[1],
        tasks=tuple(tasks),
        scores={
            **{name: one.scores for name, one in zip(names, measured, strict=True)},
            OVERALL: (float(means[0]), float(means[1])),
        },
        gains={
            **dict(zip(names, tested, strict=True)),
            OVERALL: gain(mean_of([one.part for one in measured])),
        },
        test=test,
        left_out=left_out,
        partly=dict(partly),
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
        both = ours[task.name], theirs[task.name]
        measured.append(_measure(task.name, *both, metric.statistics, metric.score, resamples))
    return measured


def _measure(
    task: str,
    ours: Sequence[Any],
    theirs: Sequence[Any],
    statistics: Callable[[Sequence[Any]], FloatArray],
    score: Score,
    resamples: int,
) -> _Measured:
    """The difference of two lists of answers to the same items."""
    # Both at once, because the columns depend on the answers.
    one, other = np.split(statistics([*ours, *theirs]), 2)
    draw = {"resamples": resamples, "seed": task_seed(task)}
    exact = paired_difference(one, other, score, **draw)
    drawn = replicates(one, score, **draw) - replicates(other, score, **draw)
    scores = float(score(one.sum(axis=0))), float(score(other.sum(axis=0)))
    tested = Gain(**vars(exact), adjusted=exact.p_value)
    return _Measured(scores, tested, (exact.value, drawn, exact.samples))


def _score(run: Run, task: TaskFacts) -> float:
    return float((run.metrics or {})[task.name]["scores"][task.metric]["value"])


def _difference(ours: TaskFacts | None, theirs: TaskFacts | None) -> str:
    """Why two runs cannot be compared on a task; empty if they can."""
    if ours is None or theirs is None:
        return _lacking(ours is None)
    names = [one for one, value in vars(ours).items() if value != getattr(theirs, one)]
    return f"they differ in {', '.join(names).replace('_', ' ')}" if names else ""


def _lacking(in_first: bool) -> str:
    return f"only the {'second' if in_first else 'first'} run answers it"


def _difference_of_logs(ours: LoggedTask, theirs: LoggedTask) -> str:
    """As `_difference`, but items are told apart one by one, and some may be in one log only."""
    facts = dataclasses.replace(theirs.facts, samples=ours.facts.samples, data=ours.facts.data)
    if reason := _difference(ours.facts, facts):
        return reason
    common = ours.answers.keys() & theirs.answers.keys()
    if other := sorted(one for one in common if ours.hashes[one] != theirs.hashes[one]):
        return f"they were asked different items under one id, such as {other[0]}"
    return "" if common else "they have no item in common"


def _nothing_in_common(first: str, second: str, left_out: Mapping[str, str]) -> RunError:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
    return RunError(
        f"{first} and {second} have no task in common ({reasons}): give two runs that answered the "
        "same records."
    )


def _title(run: Run) -> str:
    words = [str(run.manifest["method"]), str(run.manifest.get("label") or "")]
    if run.manifest.get("seed") is not None:
        words.append(f"seed {run.manifest['seed']}")
    return f"{' · '.join(filter(None, words))} ({run.folder})"
