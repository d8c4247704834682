"""Logs of other harnesses, and our runs in their form: by task the answers of each item.

An item is known by its id, and by a hash of what was asked and what is wanted, so that answers to
different data are never paired. A log of lm-evaluation-harness is read by `lm_eval_logs`, one of
inspect by `inspect_logs`; neither package has to be installed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cgclora.data.records import Record, data_hash
from evals.data.datasets import Dataset
from evals.runs.run_dir import Run, RunError
from evals.runs.score import pairs
from evals.runs.scored_run import TaskFacts, task_facts
from evals.scoring.metrics import Pair, get_metric
from evals.scoring.statistics import FloatArray, Score


@dataclass(frozen=True)
class LoggedTask:
    """The answers to a task.

    Attributes:
        facts: Task, metric and their versions; `samples` and `data` are those of the log.
        hashes: Of each item, by its id: what was asked and what is wanted.
        answers: Of each item, by its id: a pair, or its score.
        rows: Answers to statistics [n, d].
        score: Sums of statistics [..., d] to scores [...].
    """

    facts: TaskFacts
    hashes: Mapping[str, str]
    answers: Mapping[str, Any]
    rows: Callable[[Sequence[Any]], FloatArray]
    score: Score


@dataclass(frozen=True)
class Log:
    """What a model answered.

    Attributes:
        title: The model, and where the log lies.
        tasks: By name.
        left_out: Reason by task that cannot be compared.
        records: Those of tasks that are built in; a run folder keeps none itself.
    """

    title: str
    tasks: Mapping[str, LoggedTask]
    left_out: Mapping[str, str] = field(default_factory=dict)
    records: tuple[Record, ...] = ()


def log_of_run(run: Run, title: str, dataset: Dataset, tasks: Iterable[str]) -> Log:
    """A run in the form of a log.

    Args:
        run: The run, scored.
        title: Of the log.
        dataset: The records that it answers.
        tasks: Those that are wanted; tasks that the run lacks are passed over.

    Raises:
        DataError: The data is not what was answered.
        RunError: The run is not scored, or damaged.
    """
    facts = task_facts(run)
    wanted = [name for name in tasks if name in facts]
    rows = run.predictions()
    records = {(record.task, record.id): record for record in dataset.records}
    found = {}
    for name, answered in pairs(run, dataset, wanted).items():
        ids = [one for task, one in zip(rows["task"], rows["id"], strict=True) if task == name]
        found[name] = judged(facts[name], [records[name, one] for one in ids], answered)
    return Log(title, found)


def judged(facts: TaskFacts, records: Sequence[Record], answered: Sequence[Pair]) -> LoggedTask:
    """A task that is built in, whose answers are scored by its metric.

    Args:
        facts: The name of the metric and the versions.
        records: Its records.
        answered: The pair of each record.
    """
    metric = get_metric(facts.metric)
    ids = [record.id for record in records]
    return LoggedTask(
        facts,
        {record.id: data_hash([record]) for record in records},
        dict(zip(ids, answered, strict=True)),
        metric.statistics,
        metric.score,
    )


def scored(
    name: str, metric: str, version: str, items: Iterable[tuple[str, str, float]]
) -> LoggedTask:
    """A task whose score is the mean over its items.

    Args:
        name: Of the task.
        metric: Name of the item's score.
        version: Of the task.
        items: Id, hash and score; of an id that was answered several times the mean counts.

    Raises:
        RunError: There is no item, or an id stands for different items.
    """
    hashes: dict[str, str] = {}
    scores: dict[str, list[float]] = {}
    for one, digest, score in items:
        if hashes.setdefault(one, digest) != digest:
            raise RunError(f"{name} has different items with the id {one}.")
        scores.setdefault(one, []).append(score)
    if not scores:
        raise RunError(f"{name} has no item with a score.")
    means = {one: float(np.mean(values)) for one, values in scores.items()}
    facts = TaskFacts(name, metric, len(means), item_hash(hashes), version)
    return LoggedTask(facts, hashes, means, _value_and_one, _mean)


def item_hash(content: Any) -> str:
    """sha256 of what was asked and what is wanted, as JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def in_range(scores: Iterable[float]) -> bool:
    """Whether all can be scores of items, which a comparison shows in per cent."""
    return all(0 <= score <= 1 for score in scores)


def choose(candidates: Sequence[str], wanted: str | None) -> str | None:
    """The metric that is compared: the first, or the one that is wanted; None without any.

    A name ends at a comma or a slash, behind which its filter or its part stands.
    """
    if wanted is None:
        return next(iter(candidates), None)
    exact = [name for name in candidates if name == wanted]
    family = [name for name in candidates if name.replace("/", ",").split(",")[0] == wanted]
    return next(iter([*exact, *family]), None)


def _value_and_one(values: Sequence[float]) -> FloatArray:
    return np.column_stack([values, np.ones(len(values))])


def _mean(sums: FloatArray) -> FloatArray:
    return np.asarray(sums[..., 0] / sums[..., 1])
