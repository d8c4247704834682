"""A report on training data, task by task, with findings to know before training."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from cgclora.data.readers import Problem
from cgclora.data.records import Record
from evals.data.datasets import examples, letters_and_digits
from evals.data.training_data import TrainingData

CountTokens = Callable[[Sequence[str]], Sequence[int]]
"""The number of tokens of each text."""

FEW = 50
"""Fewer train records than this hardly teach a task."""

FEW_DEV = 20
"""Fewer dev records than this make a task's dev loss unreliable."""

UNEQUAL = 20
"""The largest allowed ratio of the largest task's records to the smallest's."""

COUNTED = 200
"""The most records of a task whose tokens are counted."""

_MAX_LABELS = 100
_MAX_LABEL = 60  # characters

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
    """Lengths of texts in characters: the median, the 95th percentile and the maximum."""

    median: int
    high: int
    longest: int


@dataclass(frozen=True)
class Labels:
    """Repeated answers: their number, the most frequent one, and its share in [0, 1]."""

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
        prompt: Of the train records.
        target: Of the train records.
        labels: Of the train targets; None if they do not look like labels.
        tokens: Of prompt and target together, mean over the counted train records; None without a
            tokenizer.
        too_long: Share of the counted train records above the limit; None without a tokenizer.
        examples: See `evals.data.datasets.examples`.
    """

    name: str
    train: int
    dev: int
    prompt: Lengths
    target: Lengths
    labels: Labels | None
    tokens: float | None
    too_long: float | None
    examples: tuple[Record, ...]


@dataclass(frozen=True)
class Finding:
    """Something to know before training.

    Attributes:
        kind: The problem.
        tasks: Those it concerns; empty if it concerns the data as a whole.
        count: The number of records or tasks, or a ratio.
    """

    kind: Kind
    tasks: tuple[str, ...] = ()
    count: int = 0


@dataclass(frozen=True)
class Report:
    """The whole report.

    Attributes:
        tasks: In the order of the train set.
        findings: The most serious first.
        problems: Lines that are not records.
        characters: Of prompt and target together, mean over the train records.
    """

    tasks: tuple[TaskReport, ...]
    findings: tuple[Finding, ...]
    problems: tuple[Problem, ...]
    characters: float


def report(data: TrainingData, max_length: int, count_tokens: CountTokens | None = None) -> Report:
    """Report on training data.

    Args:
        data: Train and dev records.
        max_length: The most tokens of prompt and target together.
        count_tokens: By the backbone's tokenizer, if loaded; for at most `COUNTED` records of a
            task, evenly spread.
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
        examples(records),
    )


def _lengths(texts: Sequence[str]) -> Lengths:
    lengths = sorted(map(len, texts))
    last = len(lengths) - 1
    return Lengths(lengths[last // 2], lengths[round(0.95 * last)], lengths[last])


def _labels(targets: Sequence[str]) -> Labels | None:
    """Answers are labels if they are short and occur twice on average."""
    counts = Counter(targets)
    if len(counts) > min(_MAX_LABELS, len(targets) // 2) or max(map(len, counts)) > _MAX_LABEL:
        return None
    commonest, number = counts.most_common(1)[0]
    return Labels(len(counts), commonest, number / len(targets))


# Findings -----------------------------------------------------------------------------------


def _findings(data: TrainingData, tasks: Sequence[TaskReport]) -> list[Finding]:
    def where(kind: Kind, holds: Callable[[TaskReport], bool]) -> list[Finding]:
        names = tuple(task.name for task in tasks if holds(task))
        return [Finding(kind, names, len(names))] if names else []

    prompts = [letters_and_digits(record.prompt) for record in data.train.records]
    repeated, conflicts = _repeated(data.train.records, prompts)
    trained, findings = set(prompts), []
    if leaked := sum(letters_and_digits(one.prompt) in trained for one in data.dev.records):
        findings.append(Finding("leakage", count=leaked))
    if conflicts:
        findings.append(Finding("conflicts", count=conflicts))
    findings += where("few", lambda task: task.train < FEW)
    if len(tasks) == 1:
        findings.append(Finding("one_task", (tasks[0].name,)))
    smallest, largest = (pick(tasks, key=lambda task: task.train) for pick in (min, max))
    if largest.train > UNEQUAL * smallest.train:
        count = round(largest.train / smallest.train)
        findings.append(Finding("unequal", (largest.name, smallest.name), count))
    findings += where("too_long", lambda task: (task.too_long or 0) > 0.05)
    findings += where("one_label", lambda task: task.labels is not None and task.labels.share > 0.9)
    findings += where("few_dev", lambda task: task.dev < FEW_DEV)
    if repeated:
        findings.append(Finding("repeated", count=repeated))
    if data.split_off:
        findings.append(Finding("split_off", count=len(data.dev.records)))
    return findings


def _repeated(records: Sequence[Record], prompts: Sequence[str]) -> tuple[int, int]:
    """Numbers of records with the prompt of an earlier one, and of those with another target.

    `prompts` are those of the records as they are compared, see `letters_and_digits`.
    """
    first: dict[tuple[str, str], str] = {}
    repeated = conflicts = 0
    for record, prompt in zip(records, prompts, strict=True):
        key = record.task, prompt
        if key in first:
            repeated += 1
            conflicts += first[key].strip() != record.target.strip()
        first.setdefault(key, record.target)
    return repeated, conflicts
