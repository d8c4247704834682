"""The judge of dev answers while training: each task's main metric, by its own reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cgclora.config import ConfigError
from cgclora.data.records import DataError, Record
from cgclora.inference.request import Request
from evals.runs.evaluate import request_of
from evals.runs.score import pair_of
from evals.scoring.metrics import get_metric
from evals.tasks import Task


class TaskJudge:
    """A `cgclora.training.settings.Judge` of known tasks.

    Args:
        tasks: By name, such as `Dataset.descriptions`.
    """

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self.tasks = tasks

    def request(self, record: Record) -> Request:
        """The request of an evaluation, with the record's prompt as it is."""
        return request_of(record, task=self.tasks[record.task])

    def score(self, task: str, answers: Sequence[tuple[Record, str]]) -> float:
        """The task's main metric in [0, 1]."""
        known = self.tasks[task]
        metric = get_metric(known.metrics[0])
        pairs = [pair_of(record, text, known) for record, text in answers]
        return float(metric.score(metric.statistics(pairs).sum(axis=0)))

    def metrics(self, tasks: Sequence[str]) -> dict[str, str]:
        """Name and version of each task's main metric.

        Raises:
            DataError: A task is not known.
            ConfigError: A metric's package is not installed, or less of it is better.
        """
        if unknown := [task for task in tasks if task not in self.tasks]:
            raise DataError(
                f"{unknown} cannot be scored: no such task is built in, and no record shows what "
                "is asked for. Describe them in `tasks.toml` beside the data."
            )
        found = {}
        for task in tasks:
            metric = get_metric(self.tasks[task].metrics[0])
            if not metric.higher_is_better:
                raise ConfigError(f"less of {metric.name} is better: give {task} another metric.")
            try:
                self.score(task, [(Record("", task, "", "1"), "1")])
            except ImportError as error:
                raise ConfigError(
                    f"{metric.name}, the metric of {task}, needs a package: run `pip install "
                    f"{error.name}`."
                ) from error
            found[task] = f"{metric.name} {metric.version}"
        return found
