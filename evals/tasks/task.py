"""What a task is: the fields a person fills in, the prompt they make, the answer read back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evals.tasks.parsing import SEPARATOR, Parsed, Reader, split_list

CHOICES = "choices"
"""Name of the field that lists a record's choices, in the tasks whose records bring their own."""

Kind = Literal["classification", "extraction", "normalization", "number", "generation"]

_METRICS: dict[Kind, tuple[str, ...]] = {
    "classification": ("accuracy", "macro-f1"),
    "extraction": ("micro-f1/items", "exact-match"),
    "normalization": ("micro-f1/items", "exact-match"),
    "number": ("numeric-match", "exact-match"),
    "generation": (
        *("rouge-l/jieba", "rouge-1/jieba", "rouge-2/jieba", "rouge-l/char", "bleu-4/char"),
        "chrf",
    ),
}


@dataclass(frozen=True)
class Field:
    """One input of a task's form.

    Attributes:
        name: key in the mapping given to `Task.prompt`.
        label_zh: label in Chinese.
        label_en: label in English.
        multiline: the value usually has several lines.
        default: the value when none is given; "" makes the field required.
        options: the only values allowed; empty for free text.
    """

    name: str
    label_zh: str
    label_en: str
    multiline: bool = False
    default: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """One task of a dataset.

    Attributes:
        name: the dataset's own name for it, such as `CHIP-CTC` or `TextMatching`.
        dataset: name of the collection it belongs to, such as `promptcblue`.
        cluster: the group of tasks that share one adapter, such as `medical`.
        title_zh: title in Chinese.
        title_en: title in English.
        description_zh: one line for people, in Chinese.
        description_en: one line for people, in English.
        kind: what an answer is; it decides how the task is scored, unless `metrics` says.
        max_new_tokens: cap on an answer: about the 99th percentile of the training targets, in
            tokens of the embedded backbone; the longest label for classification; a round number
            where we have no data.
        fields: what a person fills in.
        template: the prompt wording, with `{field}` where a value goes; `{choices}` is the choices
            field or, in tasks without one, `labels`.
        reader: reads an answer by the dataset's own rules.
        strict_reader: reads it by stricter rules; None when `reader` is strict already.
        labels: labels, entity types or relations that the task knows. A record's own choices win.
        catch_all: the label for "none of those offered", which is never among the choices itself.
        metrics: names of the metrics, the main one first; without any, those of the kind.
        version: changes when the prompt or the reading of an answer changes.
        licence: SPDX id of the data that the task comes from.
    """

    name: str
    dataset: str
    cluster: str
    title_zh: str
    title_en: str
    description_zh: str
    description_en: str
    kind: Kind
    max_new_tokens: int
    fields: tuple[Field, ...]
    template: str
    reader: Reader
    licence: str
    strict_reader: Reader | None = None
    labels: tuple[str, ...] = ()
    catch_all: str = ""
    metrics: tuple[str, ...] = ()
    version: str = "1"

    def __post_init__(self) -> None:
        """Without metrics of its own, a task has those of its kind."""
        if not self.metrics:
            object.__setattr__(self, "metrics", _METRICS[self.kind])  # the class is frozen

    def prompt(self, fields: Mapping[str, str]) -> str:
        """The full prompt for these fields, in the wording of the training data.

        Raises:
            ValueError: a required field is empty, a field is not this task's, or a value is not
                one of the options; the message names the field.
        """
        return self.template.format(
            **{CHOICES: SEPARATOR.join(self.labels), **self._complete(fields)}
        )

    def choices(self, fields: Mapping[str, str]) -> tuple[str, ...] | None:
        """What the prompt offers to choose from: a record's `answer_choices`; None for free text.

        Raises:
            ValueError: as `prompt`.
        """
        if f"{{{CHOICES}}}" not in self.template:
            return None
        return split_list(self._complete(fields).get(CHOICES, SEPARATOR.join(self.labels)))

    def answers(self, choices: Sequence[str] | None = None) -> tuple[str, ...]:
        """Every label an answer may be, the catch-all first.

        Args:
            choices: the record's own choices; without them those of the task.
        """
        catch_all = (self.catch_all,) if self.catch_all else ()
        return (*catch_all, *(choices or self.labels))

    def parse(
        self, text: str, choices: Sequence[str] | None = None, *, strict: bool = False
    ) -> Parsed:
        """Reads an answer; any text is allowed.

        Args:
            text: what the model said.
            choices: the record's own choices; without them those of the task.
            strict: let nothing malformed count, even where the dataset's own rules do.
        """
        reader = (strict and self.strict_reader) or self.reader
        return reader(text, self.answers(choices))

    def _complete(self, fields: Mapping[str, str]) -> dict[str, str]:
        names = [field.name for field in self.fields]
        if unknown := sorted(set(fields) - set(names)):
            raise ValueError(
                f"{self.name} has no field {', '.join(unknown)}; its fields are {', '.join(names)}"
            )
        return {field.name: self._value(field, fields) for field in self.fields}

    def _value(self, field: Field, fields: Mapping[str, str]) -> str:
        value = fields.get(field.name, field.default).strip()
        if field.name == CHOICES:
            value = SEPARATOR.join(split_list(value))
        if not value:
            raise ValueError(
                f"{self.name}: the field {field.name} ({field.label_zh}) is empty; fill it in"
            )
        if field.options and value not in field.options:
            raise ValueError(
                f"{self.name}: the field {field.name} is {value!r}; "
                f"choose one of: {' | '.join(field.options)}"
            )
        return value
