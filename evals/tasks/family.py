r"""Dataset families: the tasks of one collection, read from a TOML file in this folder.

It has the family's `cluster` and `licence`, then its `tasks` in order. A task has the attributes of
`Task`, with a pair, Chinese first, for texts in two languages:

    [[tasks]]
    name = "SentimentAnalyze"
    title = ["情感分析", "Sentiment"]
    description = ["判断评论的情感。", "Decide whether a review is positive."]
    kind = "classification"
    max_new_tokens = 8
    template = "判断下面这句评论的情感倾向是积极还是消极：\n{text}"
    reader = "label"  # of `parsing`, or a table: its name as `format`, and its arguments
    labels = ["积极", "消极"]
    fields = [{ name = "text", label = ["评论", "Review"], multiline = true }]

A field may have `offers` in place of a default: so many of the task's labels.
"""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.tasks import parsing
from evals.tasks.task import Field, Task

_READERS: Mapping[str, parsing.Reader] = {
    reader.__name__: reader for reader in (parsing.free_text, parsing.terms, parsing.number)
}
_FORMATS: Mapping[str, Callable[..., parsing.Reader]] = {
    make.__name__: make
    for make in (
        *(parsing.label, parsing.listed_terms, parsing.entities, parsing.triples),
        *(parsing.events, parsing.attributes, parsing.sections),
        *(parsing.items, parsing.key_values),
    )
}


@dataclass(frozen=True)
class DatasetFamily:
    """A collection of tasks in display order, with the `dataset` and `cluster` of all of them.

    `name` is also that of its folder below a data folder.
    """

    name: str
    cluster: str
    tasks: tuple[Task, ...]

    def __post_init__(self) -> None:
        """Check that the tasks are of this family."""
        for task in self.tasks:
            if (task.dataset, task.cluster) != (self.name, self.cluster):
                raise ValueError(
                    f"{task.name} is of dataset {task.dataset!r} and cluster {task.cluster!r}, "
                    f"not of {self.name!r} and {self.cluster!r}."
                )


def read_family(path: Path) -> DatasetFamily:
    """The family of a TOML file, named like the file.

    Raises:
        KeyError: A task lacks an attribute, or its reader is unknown.
    """
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    shared = {"dataset": path.stem, "cluster": table["cluster"], "licence": table["licence"]}
    tasks = tuple(make_task(shared | one) for one in table["tasks"])
    return DatasetFamily(path.stem, table["cluster"], tasks)


def make_task(entry: Mapping[str, Any]) -> Task:
    """The task that an entry of a table describes, with the keys of the table itself.

    Raises:
        KeyError: It lacks an attribute, or its reader is unknown.
        TypeError: It has an attribute that tasks do not have.
    """
    values = dict(entry)
    labels = tuple(values.pop("labels", ()))
    reader, strict_reader = _readers(values.pop("reader"))
    title_zh, title_en = values.pop("title")
    description_zh, description_en = values.pop("description")
    return Task(
        title_zh=title_zh,
        title_en=title_en,
        description_zh=description_zh,
        description_en=description_en,
        reader=reader,
        strict_reader=strict_reader,
        labels=labels,
        fields=tuple(_field(one, labels) for one in values.pop("fields")),
        metrics=tuple(values.pop("metrics", ())),
        **values,
    )


def _field(entry: Mapping[str, Any], labels: Sequence[str]) -> Field:
    values = dict(entry)
    label_zh, label_en = values.pop("label")
    if count := values.pop("offers", 0):
        values["default"] = parsing.SEPARATOR.join(labels[:count])
    options = tuple(values.pop("options", ()))
    return Field(label_zh=label_zh, label_en=label_en, options=options, **values)


def _readers(reader: str | Mapping[str, Any]) -> tuple[parsing.Reader, parsing.Reader | None]:
    """The reader by the dataset's rules, and the strict one unless the first is strict."""
    arguments = {"format": reader} if isinstance(reader, str) else dict(reader)
    name = arguments.pop("format")
    if name in _READERS:
        return _READERS[name], None
    make = _FORMATS[name]
    can_be_strict = "strict" in inspect.signature(make).parameters and "strict" not in arguments
    return make(**arguments), make(**arguments, strict=True) if can_be_strict else None
