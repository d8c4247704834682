"""The tasks: their names, prompts, answers, and whether an answer is right.

Nothing here needs a model: the package imports neither torch nor transformers.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from cgclora.data.readers import task_name
from evals.tasks import firefly, firefly_corpus, promptcblue
from evals.tasks.names import UnknownNameError
from evals.tasks.parsing import Language, Parsed
from evals.tasks.task import CHOICES, Field, Task

__all__ = [
    "CHOICES",
    "TASKS",
    "Field",
    "Language",
    "Parsed",
    "Task",
    "UnknownTaskError",
    "clusters",
    "exact_match",
    "get_task",
    "is_correct",
]

TASKS: Mapping[str, Task] = MappingProxyType(
    {task.name: task for task in (*promptcblue.TASKS, *firefly.TASKS, *firefly_corpus.TASKS)}
)
"""Every task by name, in a fixed order: PromptCBLUE, then Firefly, the kinds with data first."""


class UnknownTaskError(UnknownNameError):
    """No task has this name."""


def get_task(name: str) -> Task:
    """The task of this name, or of this name in the official files.

    Raises:
        UnknownTaskError: there is none; the message lists similar names, or all.
    """
    if (own := task_name(name)) not in TASKS:
        raise UnknownTaskError("task", name, TASKS)
    return TASKS[own]


def clusters() -> dict[str, tuple[str, ...]]:
    """Names of the tasks in each cluster, both in the order of `TASKS`.

    An adapter of the cluster may know fewer: its config says which.
    """
    names: dict[str, tuple[str, ...]] = {}
    for task in TASKS.values():
        names[task.cluster] = (*names.get(task.cluster, ()), task.name)
    return names


def exact_match(
    task: Task, prediction: str, target: str, choices: Sequence[str] | None = None
) -> bool:
    """Whether two answers say the same: the same items in any order, unreadable lines aside."""
    predicted, expected = task.parse(prediction, choices), task.parse(target, choices)
    return frozenset(predicted.items) == frozenset(expected.items)


def is_correct(
    task: Task, prediction: str, target: str, choices: Sequence[str] | None = None
) -> bool:
    """Whether a classification answer is the right label.

    Raises:
        ValueError: the task is not a classification task.
    """
    if task.kind != "classification":
        raise ValueError(f"{task.name} is {task.kind}, not classification: use exact_match")
    return exact_match(task, prediction, target, choices)
