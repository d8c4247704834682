"""The tasks: their names, prompts and answers.

Nothing here needs a model: the package imports neither torch nor transformers.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from cgclora.data import sources
from cgclora.data.forms import task_name
from evals.tasks.family import DatasetFamily, read_family
from evals.tasks.names import UnknownNameError
from evals.tasks.parsing import Language, Parsed
from evals.tasks.task import CHOICES, Field, Task

__all__ = [
    "CHOICES",
    "FAMILIES",
    "TASKS",
    "DatasetFamily",
    "Field",
    "Language",
    "Parsed",
    "Task",
    "UnknownTaskError",
    "clusters",
    "exact_match",
    "get_task",
    "read_family",
    "register",
]

_FAMILIES: dict[str, DatasetFamily] = {}
_TASKS: dict[str, Task] = {}

FAMILIES: Mapping[str, DatasetFamily] = MappingProxyType(_FAMILIES)
"""Every dataset family by name."""

TASKS: Mapping[str, Task] = MappingProxyType(_TASKS)
"""Every task by name, in a fixed order: PromptCBLUE, then Firefly, the kinds with data first."""


def register(family: DatasetFamily) -> DatasetFamily:
    """Add a dataset family with its tasks; its folder is read below a data folder.

    Call it before the command line or the app starts.

    Raises:
        ValueError: There is a family or a task of this name.
    """
    taken = [family.name] if family.name in FAMILIES else []
    taken += [task.name for task in family.tasks if task.name in TASKS]
    if taken:
        raise ValueError(f"{', '.join(taken)}: known already, choose other names.")
    _FAMILIES[family.name] = family
    _TASKS.update((task.name, task) for task in family.tasks)
    if family.name not in sources.FAMILIES:
        sources.FAMILIES.append(family.name)
    return family


for _name in ("promptcblue", "firefly"):
    register(read_family(Path(__file__).parent / f"{_name}.toml"))


class UnknownTaskError(UnknownNameError):
    """No task has this name."""


def get_task(name: str) -> Task:
    """The task of this name, or of this name in the official files.

    Raises:
        UnknownTaskError: There is none; the message lists similar names, or all.
    """
    if (known_name := task_name(name)) not in TASKS:
        raise UnknownTaskError("task", name, TASKS)
    return TASKS[known_name]


def clusters() -> dict[str, tuple[str, ...]]:
    """Names of the tasks in each cluster, both in the order of `TASKS`.

    An adapter of the cluster may have fewer tasks, see its config.
    """
    names: dict[str, tuple[str, ...]] = {}
    for task in TASKS.values():
        names[task.cluster] = (*names.get(task.cluster, ()), task.name)
    return names


def exact_match(
    task: Task, prediction: str, target: str, choices: Sequence[str] | None = None
) -> bool:
    """Whether two answers have the same items in any order; unparsed lines are ignored."""
    predicted, expected = task.parse(prediction, choices), task.parse(target, choices)
    return frozenset(predicted.items) == frozenset(expected.items)
