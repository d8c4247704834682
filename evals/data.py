r"""Readers for the official files of PromptCBLUE and Firefly, and for others of the same form.

PromptCBLUE (arXiv 2310.14151), an object a line or one JSON list; the test file has no answers:

    {"input": "判断下面搜索词的意图：\n尿酸520算高吗\n选项：…", "target": "指标解读",
     "answer_choices": ["治疗方案", "指标解读"], "task_type": "cls", "task_dataset": "KUAKE-QIC",
     "sample_id": "test-0"}

Firefly (github.com/yangjianxin1/Firefly), first the older form, then the newer one:

    {"kind": "Couplet", "input": "上联：…", "target": "…"}
    {"conversation_id": 1, "category": "OpenQA", "conversation": [{"human": "…", "assistant": "…"}]}

The examples that come with the project, as a person fills them in; the task makes the prompt:

    {"task": "Couplet", "fields": {"text": "…"}, "reference": "…", "choices": null}

Of a conversation the first turn makes a record. A later turn cannot be understood without those
before it, and Firefly knows no wording that would put them into one prompt; such turns are counted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import reprlib
import unicodedata
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cgclora.data import DataError, FieldError, Record, data_hash, parse_fields
from evals.sources import FAMILIES, SPLITS, VALUE_WIDTH, Entry, data_folder, open_source
from evals.tasks import TASKS

__all__ = [
    "FAMILIES",
    "SPLITS",
    "Dataset",
    "Problem",
    "data_folder",
    "draw",
    "letters_and_digits",
    "limit",
    "only",
    "overlap",
    "read",
]

_CONVERSATION_FIELDS = {
    "kind": "category",
    "input": "conversation[0].human",
    "target": "conversation[0].assistant",
}
_FORM_FIELDS = {"input": "fields", "target": "reference", "answer_choices": "choices"}
_NO_LETTER_OR_DIGIT = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a line is not a record.

    Attributes:
        file: The file, relative to the folder that was read; a hub id for a row of its dataset.
        line: Line or row number, from 1; None when the file as a whole is meant.
        field: The field at fault; None when the object as a whole is.
        value: What was found, as Python writes it, cut to 80 characters; "" when there is nothing
            to show.
        message: What is wrong, such as "must be non-empty text".
    """

    file: str
    line: int | None
    field: str | None
    value: str
    message: str

    def __str__(self) -> str:
        line = "" if self.line is None else f", line {self.line}"
        field = "" if self.field is None else f", field {self.field!r}"
        value = f", got {self.value}" if self.value else ""
        return f"{self.file}{line}{field}: {self.message}{value}"


@dataclass(frozen=True)
class Dataset:
    """Records of one split, and what was found on the way.

    Attributes:
        name: The name of the file or folder without the way to it, or the hub id.
        split: `train`, `dev` or `test`; None for a file whose name says none of them.
        records: In the order of the file; ids are unique.
        problems: Lines that were skipped, whatever their task.
        later_turns: How many turns of its conversation are left out, by the id of the record that
            the first turn makes; ids of records that were dropped since do no harm.
    """

    name: str
    split: str | None
    records: tuple[Record, ...]
    problems: tuple[Problem, ...] = ()
    later_turns: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def turns_left_out(self) -> int:
        """Later turns of the conversations whose first turns are among the records."""
        return sum(self.later_turns.get(record.id, 0) for record in self.records)

    @cached_property
    def duplicates(self) -> tuple[tuple[str, str], ...]:
        """(first, later) ids of records that say the same.

        Task, prompt and target are equal after NFKC and folding of white space.
        """
        first: dict[bytes, str] = {}  # by digest: the texts themselves would double the memory
        pairs = []
        for record in self.records:
            key = _folded_digest(record)
            if key in first:
                pairs.append((first[key], record.id))
            else:
                first[key] = record.id
        return tuple(pairs)

    @cached_property
    def hash(self) -> str:
        """sha256 of the records; see `data_hash`."""
        return data_hash(self.records)

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks there are, in the order of `evals.tasks.TASKS`, unknown ones last."""
        present = {record.task for record in self.records}
        known = [name for name in TASKS if name in present]
        return (*known, *sorted(present.difference(known)))

    def of_task(self, name: str) -> tuple[Record, ...]:
        """The records of one task; none when it is not among `tasks`."""
        return tuple(record for record in self.records if record.task == name)


def read(
    source: str | Path | None,
    *,
    split: str = "test",
    tasks: Sequence[str] | None = None,
    skip_bad: bool = False,
    need_target: bool = True,
) -> Dataset:
    """Read a file, a split of a folder, or a split of a dataset on the Hugging Face hub.

    A folder holds `<split>.json` or `<split>.jsonl`, or has folders `promptcblue` and `firefly`
    that do; what both hold is read as one. A record without `sample_id` is called
    `<file stem>-<number>` after its line, or its place in a list, with the name of such a folder
    before it: `firefly-test-7`.

    Args:
        source: File, folder, or hub id `owner/name`; None takes the folder of `CGCLORA_DATA`.
        split: `train`, `dev` (also `valid`, `validation`) or `test`. It does not matter for a file.
        tasks: Keep these tasks only; None keeps all.
        skip_bad: Leave bad lines out and list them as problems. A JSON list that breaks off is an
            error all the same, since nobody knows what it has lost.
        need_target: A record without an answer is bad; else its target is "".

    Raises:
        DataError: The source cannot be found or read, a line is bad, nothing usable remains, or a
            wanted task has no record.
    """
    opened = open_source(source, split)
    pairs, problems = _collect(opened.entries, skip_bad=skip_bad, need_target=need_target)
    if not pairs:
        first = f"; {len(problems)} are bad, the first: {problems[0]}" if problems else ""
        raise DataError(f"{source or opened.name} holds no usable record{first}.")
    dataset = Dataset(
        name=opened.name,
        split=opened.split,
        records=tuple(record for record, _ in pairs),
        problems=tuple(problems),
        later_turns={record.id: turns for record, turns in pairs if turns},
    )
    return dataset if tasks is None else only(dataset, tasks)


# Records ----------------------------------------------------------------------------------


def _collect(
    entries: Iterator[Entry], *, skip_bad: bool, need_target: bool
) -> tuple[list[tuple[Record, int]], list[Problem]]:
    """Records, each with the number of turns left out, and problems.

    Raises:
        DataError: An entry is bad, and such entries are not to be skipped.
    """
    pairs: list[tuple[Record, int]] = []
    problems: list[Problem] = []
    ids: set[str] = set()
    for entry in entries:
        try:
            record, turns_left_out = _record(entry, need_target)
            if record.id in ids:
                problem = "must be unique, but an earlier record has it"
                raise FieldError("sample_id", problem, record.id)
        except FieldError as error:
            problem = error.message + entry.note
            value = _shorten(error.value)
            problems.append(Problem(entry.file, entry.line, error.field, value, problem))
            if not skip_bad:
                raise DataError(
                    f"{problems[0]}. Correct {entry.origin}, or skip bad lines."
                ) from error
        else:
            ids.add(record.id)
            pairs.append((record, turns_left_out))
    return pairs, problems


def _record(entry: Entry, need_target: bool) -> tuple[Record, int]:
    """The record of an entry, and how many turns of its conversation are left out.

    Raises:
        FieldError: There is no record in it.
    """
    if isinstance(entry.content, FieldError):
        raise entry.content
    if not isinstance(entry.content, dict):
        raise FieldError(None, "must be an object", entry.content)
    fields, turns_left_out, names = entry.content, 0, {}
    if "conversation" in fields:
        (fields, turns_left_out), names = _first_turn(fields), _CONVERSATION_FIELDS
    elif "fields" in fields and "input" not in fields:
        fields, names = _filled_in(fields), _FORM_FIELDS
    try:
        return _flat_record(fields, entry.id, need_target), turns_left_out
    except FieldError as error:
        name = names.get(error.field or "", error.field)
        raise FieldError(name, error.message, error.value) from error


def _first_turn(fields: dict[str, Any]) -> tuple[dict[str, Any], int]:
    turns = fields["conversation"]
    if not isinstance(turns, list) or not turns or not isinstance(turns[0], dict):
        problem = "must be a list of turns, each with 'human' and 'assistant'"
        raise FieldError("conversation", problem, turns)
    return {
        "kind": fields.get("category"),
        "input": turns[0].get("human"),
        "target": turns[0].get("assistant"),
    }, len(turns) - 1


def _filled_in(fields: dict[str, Any]) -> dict[str, Any]:
    name, values = fields.get("task"), fields["fields"]
    if not isinstance(name, str) or name not in TASKS:
        raise FieldError("task", "must be a known task, since it makes the prompt", name)
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise FieldError("fields", "must be an object of texts", values)
    try:
        prompt = TASKS[name].prompt(values)
    except ValueError as error:
        raise FieldError("fields", f"do not make a prompt ({error})", values) from error
    return {
        "task": name,
        "input": prompt,
        "target": fields.get("reference"),
        "answer_choices": fields.get("choices"),
    }


def _flat_record(fields: dict[str, Any], default_id: str, need_target: bool) -> Record:
    for field, value in fields.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not _is_writable(text):
                raise FieldError(
                    field, "holds half of a surrogate pair, which is no character", text
                )
    name = fields.get("sample_id", default_id)
    if name is None:
        fields = {field: value for field, value in fields.items() if field != "sample_id"}
    elif not isinstance(name, str | int) or isinstance(name, bool) or not str(name).strip():
        raise FieldError("sample_id", "must be text or a whole number", name)
    if not need_target and not isinstance(fields.get("target") or "", str):
        raise FieldError("target", "must be text or null", fields["target"])
    required = ("input", "target") if need_target else ("input",)
    return parse_fields(fields, default_id, required)


def _is_writable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shorten(value: object) -> str:
    # reprlib does not follow deep nesting, and looks at a few items of a long list only.
    text = repr(value[:VALUE_WIDTH]) if isinstance(value, str | bytes) else reprlib.repr(value)
    return text if len(text) <= VALUE_WIDTH else text[: VALUE_WIDTH - 1] + "…"


# Sets of records --------------------------------------------------------------------------


def overlap(train: Dataset, test: Dataset) -> tuple[tuple[str, str], ...]:
    """Test records whose prompt is in the training data: (train id, test id).

    Prompts are compared after NFKC, lower-casing and removal of everything but letters and digits.
    Each test record is named once, with the first training record that has its prompt.
    """
    first: dict[str, str] = {}
    for record in train.records:
        first.setdefault(letters_and_digits(record.prompt), record.id)
    return tuple(
        (first[key], record.id)
        for record in test.records
        if (key := letters_and_digits(record.prompt)) in first
    )


def only(dataset: Dataset, tasks: Sequence[str]) -> Dataset:
    """The records of these tasks, in the order they had.

    Raises:
        DataError: A task has no record.
    """
    if missing := [task for task in tasks if task not in dataset.tasks]:
        raise DataError(
            f"{dataset.name} has no record of {', '.join(missing)}; it has "
            f"{', '.join(dataset.tasks)}."
        )
    records = tuple(record for record in dataset.records if record.task in set(tasks))
    return dataclasses.replace(dataset, records=records)


def limit(dataset: Dataset, per_task: int, seed: int) -> Dataset:
    """At most so many records of each task, in the order they had.

    A task keeps those whose ids have the lowest hashes, so a larger limit keeps what a smaller one
    does, and a record's fate does not depend on the others' order.

    Args:
        dataset: What to draw from.
        per_task: Most records of one task; 0 takes all.
        seed: Of the hash.

    Raises:
        DataError: `per_task` is negative.
    """
    if per_task < 0:
        raise DataError(f"the limit of records a task must be 0 or more, got {per_task}.")
    if not per_task:
        return dataset
    kept: set[str] = set()
    for task in dataset.tasks:
        ids = [record.id for record in dataset.of_task(task)]
        kept.update(sorted(ids, key=lambda name: draw(name, seed))[:per_task])
    records = tuple(record for record in dataset.records if record.id in kept)
    return dataclasses.replace(dataset, records=records)


def first_of_each_task(
    records: Iterable[Record], tasks: Container[str], per_task: int
) -> list[Record]:
    """The first so many records of each of these tasks, task by task."""
    taken: dict[str, list[Record]] = {}
    for record in records:
        if record.task in tasks and len(taken.setdefault(record.task, [])) < per_task:
            taken[record.task].append(record)
    return [record for own in taken.values() for record in own]


def draw(name: str, seed: int) -> bytes:
    """Where a name stands in a random order that does not depend on the other names."""
    return hashlib.sha256(f"{seed}\n{name}".encode()).digest()


def letters_and_digits(text: str) -> str:
    """A text in the form in which prompts are compared: see `overlap`."""
    return _NO_LETTER_OR_DIGIT.sub("", unicodedata.normalize("NFKC", text).lower())


def _folded_digest(record: Record) -> bytes:
    texts = (record.task, record.prompt, record.target)
    folded = "\n".join(" ".join(unicodedata.normalize("NFKC", text).split()) for text in texts)
    return hashlib.sha256(folded.encode()).digest()
