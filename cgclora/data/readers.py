r"""Read records: our own form, the official files of PromptCBLUE and Firefly, and others like them.

Our own, an object a line or one JSON list; the test file of a benchmark may lack the answers:

    {"task": "NER", "input": "找出句子中的人名：\n王小明到了上海。", "target": "人名：王小明"}

PromptCBLUE (arXiv 2310.14151):

    {"input": "判断下面搜索词的意图：\n尿酸520算高吗\n选项：…", "target": "指标解读",
     "answer_choices": ["治疗方案", "指标解读"], "task_type": "cls", "task_dataset": "KUAKE-QIC",
     "sample_id": "test-0"}

Firefly (github.com/yangjianxin1/Firefly), first the older form, then the newer one:

    {"kind": "Couplet", "input": "上联：…", "target": "…"}
    {"conversation_id": 1, "category": "OpenQA", "conversation": [{"human": "…", "assistant": "…"}]}

A form that a person has filled in; a template of the task makes the prompt:

    {"task": "Couplet", "fields": {"text": "…"}, "reference": "…", "choices": null}

Of a conversation the first turn makes a record. A later turn cannot be understood without those
before it, and Firefly knows no wording that would put them into one prompt; such turns are counted.
"""

import dataclasses
import re
import reprlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cgclora.data.records import DataError, Record
from cgclora.data.sources import VALUE_WIDTH, Entry, FieldError, open_source

TASK_FIELDS = ("task", "task_dataset", "kind")

OFFICIAL_NAMES = MappingProxyType({"CMeIE-V2": "CMeIE"})
"""What published files call a task that has another name here."""

Templates = Mapping[str, Callable[[Mapping[str, str]], str]]
"""For each task what makes a prompt of the fields of a form; raises ValueError where it cannot."""

_CONVERSATION_FIELDS = {
    "kind": "category",
    "input": "conversation[0].human",
    "target": "conversation[0].assistant",
}
_FORM_FIELDS = {"input": "fields", "target": "reference", "answer_choices": "choices"}
_SHOWN = 3  # bad lines that an error quotes
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a line is not a record."""

    file: str  # the file, relative to the folder that was read; a hub id for a row of its dataset
    line: int | None  # line or row number, from 1; None when the file as a whole is meant
    field: str | None  # the field at fault; None when the object as a whole is
    value: str  # as Python writes it, cut to 80 characters; "" when there is nothing to show
    message: str  # what is wrong, such as "must be non-empty text"

    def __str__(self) -> str:
        line = "" if self.line is None else f", line {self.line}"
        field = "" if self.field is None else f", field {self.field!r}"
        value = f", got {self.value}" if self.value else ""
        return f"{self.file}{line}{field}: {self.message}{value}"


@dataclass(frozen=True)
class RecordSet:
    """Records of one split, and the problems of others."""

    name: str  # the name of the file or folder without the way to it, or the hub id
    split: str | None  # `train`, `dev` or `test`; None for a file whose name says none of them
    records: tuple[Record, ...]  # in the order of the file; ids are unique
    problems: tuple[Problem, ...] = ()  # lines that were skipped, whatever their task
    # How many turns of its conversation are left out, by the id of the record that the first turn
    # makes; ids of records that were dropped since do no harm.
    later_turns: Mapping[str, int] = dataclasses.field(default_factory=dict)


def task_name(name: str) -> str:
    """Our name of a task, which a published file may call otherwise: see `OFFICIAL_NAMES`."""
    return OFFICIAL_NAMES.get(name, name)


def read(
    source: str | Path | None,
    *,
    split: str = "test",
    skip_bad: bool = False,
    need_target: bool = True,
    templates: Templates = MappingProxyType({}),
) -> RecordSet:
    """Read a file, a split of a folder, or a split of a dataset on the Hugging Face hub.

    A folder holds `<split>.json` or `<split>.jsonl`, or has folders `promptcblue` and `firefly`
    that do; what both hold is read as one. A record without `sample_id` is called
    `<file stem>-<number>` after its line, or its place in a list, with the name of such a folder
    before it: `firefly-test-7`. Source and split are as for `open_source`.

    Bad lines are an error, or with `skip_bad` left out and listed as problems; a JSON list that
    breaks off is an error all the same, since what it lost is unknown. A record without an answer
    is bad with `need_target`, else its target is "". `templates` are of the tasks whose forms can
    be read.

    Raises:
        DataError: The source cannot be found or read, lines are bad, or nothing usable remains.
    """
    opened = open_source(source, split)
    kept, problems = _collect(opened.entries, need_target, templates)
    if problems and not skip_bad:
        raise DataError(f"{_quoted(problems)}. Correct {opened.place}, or skip bad lines.")
    if not kept:
        first = f"; {len(problems)} are bad, the first: {problems[0]}" if problems else ""
        raise DataError(f"{opened.place} holds no usable record{first}.")
    return RecordSet(
        opened.name,
        opened.split,
        tuple(record for record, _ in kept),
        tuple(problems),
        {record.id: turns for record, turns in kept if turns},
    )


def read_records(
    source: str | Path,
    *,
    split: str = "train",
    tasks: Sequence[str] | None = None,
    need_target: bool = True,
) -> list[Record]:
    """What `read` reads, of some tasks only if any are given; every line must be a record.

    Later turns of conversations, which are left out, are counted on standard error.

    Raises:
        DataError: As `read`, or one of the tasks has no record.
    """
    loaded = read(source, split=split, skip_bad=True, need_target=need_target)
    if loaded.problems:
        raise DataError(f"{_quoted(loaded.problems)}. Correct {source}.")
    if turns := sum(loaded.later_turns.values()):
        print(f"{source}: left out {turns} later turns of conversations", file=sys.stderr)
    return list(loaded.records if tasks is None else of_tasks(loaded, tasks))


def of_tasks(loaded: RecordSet, tasks: Sequence[str]) -> tuple[Record, ...]:
    """The records of these tasks, in the order they had.

    Raises:
        DataError: A task has no record.
    """
    names = dict.fromkeys(map(task_name, tasks))
    present = {record.task for record in loaded.records}
    if missing := [task for task in names if task not in present]:
        raise DataError(
            f"{loaded.name} has no record of {', '.join(missing)}; it has "
            f"{', '.join(sorted(present))}."
        )
    return tuple(record for record in loaded.records if record.task in names)


def _quoted(problems: Sequence[Problem]) -> str:
    """The first few bad lines, and how many there are."""
    shown = "; ".join(map(str, problems[:_SHOWN]))
    return shown if len(problems) == 1 else f"{shown}; {len(problems)} bad lines in all"


def _collect(
    entries: Iterator[Entry], need_target: bool, templates: Templates
) -> tuple[list[tuple[Record, int]], list[Problem]]:
    """Records, each with the number of turns left out, and problems."""
    kept: list[tuple[Record, int]] = []
    problems: list[Problem] = []
    ids: set[str] = set()
    for entry in entries:
        try:
            record, turns_left_out = _record(entry, need_target, templates)
            if record.id in ids:
                problem = "must be unique, but an earlier record has it"
                raise FieldError("sample_id", problem, record.id)
        except FieldError as error:
            problem = error.message + entry.note
            value = _shorten(error.value)
            problems.append(Problem(entry.file, entry.line, error.field, value, problem))
        else:
            ids.add(record.id)
            kept.append((record, turns_left_out))
    return kept, problems


def _record(entry: Entry, need_target: bool, templates: Templates) -> tuple[Record, int]:
    """The record of an entry, and how many turns of its conversation are left out."""
    if isinstance(entry.content, FieldError):
        raise entry.content
    if not isinstance(entry.content, dict):
        raise FieldError(None, "must be an object", entry.content)
    fields, turns_left_out, names = entry.content, 0, {}
    if "conversation" in fields:
        (fields, turns_left_out), names = _first_turn(fields), _CONVERSATION_FIELDS
    elif "fields" in fields and "input" not in fields:
        fields, names = _filled_in(fields, templates), _FORM_FIELDS
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


def _filled_in(fields: dict[str, Any], templates: Templates) -> dict[str, Any]:
    name, values = fields.get("task"), fields["fields"]
    if not templates:
        problem = "make a prompt only in `python -m evals`: give the whole prompt as 'input'"
        raise FieldError("fields", problem, values)
    template = templates.get(task_name(name)) if isinstance(name, str) else None
    if template is None:
        raise FieldError("task", "must be a known task, since it makes the prompt", name)
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise FieldError("fields", "must be an object of texts", values)
    try:
        prompt = template(values)
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
            if isinstance(text, str) and _SURROGATE.search(text):
                problem = "holds half of a surrogate pair, which is no character"
                raise FieldError(field, problem, text)
    identity = fields.get("sample_id")
    identity = default_id if identity is None else identity
    if type(identity) not in (str, int) or not str(identity).strip():
        raise FieldError("sample_id", "must be text or a whole number", identity)
    name = next((field for field in TASK_FIELDS if field in fields), None)
    if name is None:
        problem = f"none of the fields {TASK_FIELDS} is there to name the task"
        raise FieldError(None, problem, list(fields))
    target = fields.get("target")
    if not need_target and not isinstance(target, str | None):
        raise FieldError("target", "must be text or null", target)
    for field in (name, "input", "target") if need_target else (name, "input"):
        value = fields.get(field)
        if not isinstance(value, str) or not value.strip():
            raise FieldError(field, "must be non-empty text", value)
    choices = fields.get("answer_choices")
    if choices is not None and not (
        isinstance(choices, list) and all(isinstance(choice, str) for choice in choices)
    ):
        raise FieldError("answer_choices", "must be a list of texts or null", choices)
    return Record(
        id=str(identity),
        task=task_name(fields[name]),
        prompt=fields["input"],
        target=target or "",
        choices=tuple(choices) if choices else None,
    )


def _shorten(value: object) -> str:
    # reprlib does not follow deep nesting, and looks at a few items of a long list only.
    text = repr(value[:VALUE_WIDTH]) if isinstance(value, str | bytes) else reprlib.repr(value)
    return text if len(text) <= VALUE_WIDTH else text[: VALUE_WIDTH - 1] + "…"
