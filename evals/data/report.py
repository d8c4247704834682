"""What training data looks like, task by task, and what somebody should know before training."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from cgclora.data.readers import Problem
from cgclora.data.records import Record
from evals.data.datasets import letters_and_digits, overlap
from evals.data.training_data import TrainingData

CountTokens = Callable[[Sequence[str]], Sequence[int]]
"""The number of tokens of each text."""

FEW = 50
"""Train records below which a task hardly learns."""

FEW_DEV = 20
"""Dev records below which a task's dev loss says little."""

UNEQUAL = 20
"""How many times as many records as the smallest task the largest may have."""

COUNTED = 200
"""Most records of a task whose tokens are counted."""

_MOST_LABELS = 100
_LONGEST_LABEL = 60  # characters

Kind = Literal[
    "leakage",
    "conflicts",
    "repeated",
    "few",
    "few_dev",
    "one_task",
    "unequal",
    "one_label",
    "too_long",
    "split_off",
]


@dataclass(frozen=True)
class Lengths:
    """Lengths of some texts, in characters: the median, the 95th percentile and the longest."""

    median: int
    high: int
    longest: int


@dataclass(frozen=True)
class Labels:
    """Answers that repeat: how many there are, the commonest one, and its share in [0, 1]."""

    count: int
    commonest: str
    share: float


@dataclass(frozen=True)
class TaskReport:
    """One task.

    Attributes:
        name: Of the task.
        train: Number of train records.
        dev: Number of dev records.
        prompt: Lengths of the train prompts.
        target: Lengths of the train targets.
        labels: Of the train targets; None where they do not look like labels.
        tokens: Of prompt and target together, mean over the counted train records; None where
            nobody counted.
        too_long: Share of the counted train records that are longer than the limit; None likewise.
    """

    name: str
    train: int
    dev: int
    prompt: Lengths
    target: Lengths
    labels: Labels | None
    tokens: float | None
    too_long: float | None


@dataclass(frozen=True)
class Finding:
    """Something to know before training.

    Attributes:
        kind: What it is.
        tasks: Of which it holds; empty where it is about all of them together.
        count: How many records, or how many times as many.
    """

    kind: Kind
    tasks: tuple[str, ...] = ()
    count: int = 0


@dataclass(frozen=True)
class Report:
    """All of it.

    Attributes:
        tasks: In the order of the train set.
        findings: The gravest first.
        problems: Lines that are no record.
        characters: Of prompt and target together, mean over the train records.
    """

    tasks: tuple[TaskReport, ...]
    findings: tuple[Finding, ...]
    problems: tuple[Problem, ...]
    characters: float


def report(data: TrainingData, max_length: int, count_tokens: CountTokens | None = None) -> Report:
    """Look at training data.

    Args:
        data: What to look at.
        max_length: Most tokens of prompt and target together.
        count_tokens: The backbone's tokenizer, where it is there; it counts for at most `COUNTED`
            records of a task, evenly spread.
    """
    by_task: dict[str, list[Record]] = defaultdict(list)
    for record in data.train.records:
        by_task[record.task].append(record)
    dev = Counter(record.task for record in data.dev.records)
    tasks = tuple(
        _task_report(name, by_task[name], dev[name], max_length, count_tokens)
        for name in data.train.tasks
    )
    characters = statistics.fmean(
        len(record.prompt) + len(record.target) for record in data.train.records
    )
    return Report(tasks, tuple(_findings(data, tasks)), data.problems, characters)


def _task_report(
    name: str,
    records: Sequence[Record],
    dev: int,
    max_length: int,
    count_tokens: CountTokens | None,
) -> TaskReport:
    tokens = too_long = None
    if count_tokens is not None:
        some = records[:: -(-len(records) // COUNTED)]
        counts = count_tokens([f"{record.prompt}\n{record.target}" for record in some])
        tokens = statistics.fmean(counts)
        too_long = sum(count > max_length for count in counts) / len(counts)
    targets = [record.target.strip() for record in records]
    return TaskReport(
        name,
        len(records),
        dev,
        _lengths([record.prompt for record in records]),
        _lengths(targets),
        _labels(targets),
        tokens,
        too_long,
    )


def _lengths(texts: Sequence[str]) -> Lengths:
    lengths = sorted(map(len, texts))
    last = len(lengths) - 1
    return Lengths(lengths[last // 2], lengths[round(0.95 * last)], lengths[last])


def _labels(targets: Sequence[str]) -> Labels | None:
    """Answers are labels when they are short, and each stands for two records or more."""
    counts = Counter(targets)
    most = min(_MOST_LABELS, len(targets) // 2)
    if len(counts) > most or max(map(len, counts)) > _LONGEST_LABEL:
        return None
    commonest, number = counts.most_common(1)[0]
    return Labels(len(counts), commonest, number / len(targets))


# Findings -----------------------------------------------------------------------------------


def _findings(data: TrainingData, tasks: Sequence[TaskReport]) -> list[Finding]:
    def where(kind: Kind, holds: Callable[[TaskReport], bool]) -> list[Finding]:
        names = tuple(task.name for task in tasks if holds(task))
        return [Finding(kind, names, len(names))] if names else []

    repeated, conflicts = _repeated(data.train.records)
    found = []
    if leaked := len(overlap(data.train, data.dev)):
        found.append(Finding("leakage", count=leaked))
    if conflicts:
        found.append(Finding("conflicts", count=conflicts))
    found += where("few", lambda task: task.train < FEW)
    if len(tasks) == 1:
        found.append(Finding("one_task", (tasks[0].name,)))
    smallest, largest = (pick(tasks, key=lambda task: task.train) for pick in (min, max))
    if largest.train > UNEQUAL * smallest.train:
        count = round(largest.train / smallest.train)
        found.append(Finding("unequal", (largest.name, smallest.name), count))
    found += where("too_long", lambda task: (task.too_long or 0) > 0.05)
    found += where("one_label", lambda task: task.labels is not None and task.labels.share > 0.9)
    found += where("few_dev", lambda task: task.dev < FEW_DEV)
    if repeated:
        found.append(Finding("repeated", count=repeated))
    if data.split_off:
        found.append(Finding("split_off", count=len(data.dev.records)))
    return found


def _repeated(records: Sequence[Record]) -> tuple[int, int]:
    """How many records have the prompt of an earlier one, and how many of those another target."""
    first: dict[tuple[str, str], str] = {}
    repeated = conflicts = 0
    for record in records:
        key = record.task, letters_and_digits(record.prompt)
        if key in first:
            repeated += 1
            conflicts += first[key].strip() != record.target.strip()
        first.setdefault(key, record.target)
    return repeated, conflicts
