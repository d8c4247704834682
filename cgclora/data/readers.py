"""Read records from files, folders and the hub; `forms` has the forms that they may have."""

import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from cgclora.data.forms import Reading, Templates, record_of, task_name
from cgclora.data.records import DataError, Record
from cgclora.data.sources import VALUE_WIDTH, Entry, FieldError, open_source

_SHOWN = 3  # bad lines that an error quotes


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


def read(
    source: str | Path | None,
    *,
    split: str = "test",
    skip_bad: bool = False,
    need_target: bool = True,
    templates: Templates = MappingProxyType({}),
    task: str | None = None,
) -> RecordSet:
    """Read a file, a split of a folder, or a split of a dataset on the Hugging Face hub.

    A folder holds `<split>.json` or `<split>.jsonl`, or has folders `promptcblue` and `firefly`
    that do; what both hold is read as one. A record without `sample_id` is called
    `<file stem>-<number>` after its line, or its place in a list, with the name of such a folder
    before it: `firefly-test-7`. Source and split are as for `open_source`.

    Bad lines are an error, or with `skip_bad` left out and listed as problems; a JSON list that
    breaks off is an error all the same, since what it lost is unknown. A record without an answer
    is bad with `need_target`, else its target is "". `templates` are of the tasks whose forms can
    be read. Records that name no task are of `task`; without it they are bad.

    Raises:
        DataError: The source cannot be found or read, lines are bad, or nothing usable remains.
    """
    opened = open_source(source, split)
    kept, problems = _collect(opened.entries, Reading(need_target, templates, task))
    if problems and not skip_bad:
        raise DataError(f"{_quoted(problems)}. Correct {opened.place}, or skip bad lines.")
    if not kept:
        first = f"; {len(problems)} are bad, the first: {problems[0]}" if problems else ""
        raise DataError(f"{opened.place} holds no usable record{first}.")
    return RecordSet(opened.name, opened.split, tuple(kept), tuple(problems))


def read_records(
    source: str | Path,
    *,
    split: str = "train",
    tasks: Sequence[str] | None = None,
    task: str | None = None,
    need_target: bool = True,
) -> list[Record]:
    """What `read` reads, of some tasks only if any are given; every line must be a record.

    Records that name no task are of `task`, or else of `tasks` if that is a single one.

    Raises:
        DataError: As `read`, or one of the tasks has no record.
    """
    if task is None and tasks and len(tasks) == 1:
        (task,) = tasks
    loaded = read(source, split=split, skip_bad=True, need_target=need_target, task=task)
    if loaded.problems:
        raise DataError(f"{_quoted(loaded.problems)}. Correct {source}.")
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


def _collect(entries: Iterator[Entry], how: Reading) -> tuple[list[Record], list[Problem]]:
    """Records and problems."""
    kept: list[Record] = []
    problems: list[Problem] = []
    ids: set[str] = set()
    for entry in entries:
        try:
            record = record_of(entry, how)
            if record.id in ids:
                problem = "must be unique, but an earlier record has it"
                raise FieldError("sample_id", problem, record.id)
        except FieldError as error:
            problem = error.message + entry.note
            value = _shorten(error.value)
            problems.append(Problem(entry.file, entry.line, error.field, value, problem))
        else:
            ids.add(record.id)
            kept.append(record)
    return kept, problems


def _shorten(value: object) -> str:
    # reprlib does not follow deep nesting, and looks at a few items of a long list only.
    text = repr(value[:VALUE_WIDTH]) if isinstance(value, str | bytes) else reprlib.repr(value)
    return text if len(text) <= VALUE_WIDTH else text[: VALUE_WIDTH - 1] + "…"
