"""A task: the fields of its form, the prompt made of them, the parsing of an answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evals.tasks.parsing import SEPARATOR, Parsed, Reader, split_list

CHOICES = "choices"
"""Name of the field for a record's own choices, in tasks that have one."""

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
        name: Key in the mapping for `Task.prompt`.
        label_zh: Label in Chinese.
        label_en: Label in English.
        multiline: Whether the value usually has several lines.
        default: The value if none is given; "" makes the field required.
        options: The only values allowed; empty for free text.
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
        name: The dataset's name for it, such as `CHIP-CTC` or `TextMatching`.
        dataset: The collection, such as `promptcblue`.
        cluster: The group of tasks that share one adapter, such as `medical`.
        title_zh: Title in Chinese.
        title_en: Title in English.
        description_zh: One line in Chinese.
        description_en: One line in English.
        kind: Of an answer; decides the default metrics.
        max_new_tokens: About the 99th percentile of the training targets in tokens of the embedded
            backbone; the longest label for classification; a round number without data.
        fields: Of the form.
        template: The prompt with `{field}` for each value; `{choices}` is the choices field or, in
            tasks without one, `labels`.
        reader: Parses an answer by the dataset's rules.
        strict_reader: Parses by stricter rules; None if `reader` is strict.
        labels: Labels, entity types or relations; a record's own choices take precedence.
        catch_all: The label for "none of those offered", never among the choices itself.
        metrics: Names, the main metric first; by default those of the kind.
        version: Changes with the prompt or the parsing.
        licence: SPDX id of the data.
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
        """Fill in the default metrics."""
        if not self.metrics:
            object.__setattr__(self, "metrics", _METRICS[self.kind])  # the class is frozen

    def prompt(self, fields: Mapping[str, str]) -> str:
        """The full prompt for these fields, in the wording of the training data.

        Raises:
            ValueError: A required field is empty, a field is unknown, or a value is not one of the
                options; the message names the field.
        """
        return self.template.format(
            **{CHOICES: SEPARATOR.join(self.labels), **self._complete(fields)}
        )

    def choices(self, fields: Mapping[str, str]) -> tuple[str, ...] | None:
        """The choices in the prompt, a record's `answer_choices`; None for free text.

        Raises:
            ValueError: As `prompt`.
        """
        if f"{{{CHOICES}}}" not in self.template:
            return None
        return split_list(self._complete(fields).get(CHOICES, SEPARATOR.join(self.labels)))

    def answers(self, choices: Sequence[str] | None = None) -> tuple[str, ...]:
        """All possible labels for the record's choices or the task's own, the catch-all first."""
        catch_all = (self.catch_all,) if self.catch_all else ()
        return (*catch_all, *(choices or self.labels))

    def parse(
        self, text: str, choices: Sequence[str] | None = None, *, strict: bool = False
    ) -> Parsed:
        """Parse any answer, with the record's choices or the task's own.

        `strict` rejects malformed answers even where the dataset's rules accept them.
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
