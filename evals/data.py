r"""Readers for the official files of PromptCBLUE and Firefly, and for others of the same form.

PromptCBLUE (arXiv 2310.14151), an object a line or one JSON list; the test file has no answers:

    {"input": "判断下面搜索词的意图：\n尿酸520算高吗\n选项：…", "target": "指标解读",
     "answer_choices": ["治疗方案", "指标解读"], "task_type": "cls", "task_dataset": "KUAKE-QIC",
     "sample_id": "test-0"}

Firefly (github.com/yangjianxin1/Firefly), first the older form, then the newer one:

    {"kind": "Couplet", "input": "上联：…", "target": "…"}
    {"conversation_id": 1, "category": "OpenQA", "conversation": [{"human": "…", "assistant": "…"}]}

Of a conversation the first turn makes a record. A later turn cannot be understood without those
before it, and Firefly knows no wording that would put them into one prompt; such turns are counted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import reprlib
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cgclora.data import DataError, FieldError, Record, data_hash, parse_fields
from evals.tasks import TASKS

FOLDER_VARIABLE = "CGCLORA_DATA"
"""Environment variable that names the data folder where no argument does."""

FAMILIES = ("promptcblue", "firefly")
"""Folders below a data folder in which the files of a split may lie."""

SPLITS = {"train": ("train",), "dev": ("dev", "valid", "validation"), "test": ("test",)}
"""Each split with the names that it goes by."""

_CONVERSATION_FIELDS = {
    "kind": "category",
    "input": "conversation[0].human",
    "target": "conversation[0].assistant",
}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
_FILE_ENDINGS = (".jsonl", ".json")
_MARK = b"\xef\xbb\xbf"
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff")
_SPACE = re.compile(r"[ \t\r\n]*")
_NO_LETTER_OR_DIGIT = re.compile(r"[\W_]+")
_VALUE_WIDTH = 80


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
        duplicates: (first, later) ids of records that say the same: task, prompt and target are
            equal after NFKC and folding of white space.
        turns_left_out: Later turns of the conversations whose first turns are among the records.
    """

    name: str
    split: str | None
    records: tuple[Record, ...]
    problems: tuple[Problem, ...] = ()
    duplicates: tuple[tuple[str, str], ...] = ()
    turns_left_out: int = 0

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


@dataclass(frozen=True, slots=True)
class _Entry:
    """One object of a source.

    Attributes:
        origin: The file with the way to it, or the hub id.
        file: As in `Problem`.
        line: As in `Problem`.
        id: Of the record, when the object brings none.
        content: The object, or why there is none.
        note: Where to look, when the line does not say it.
    """

    origin: str
    file: str
    line: int
    id: str
    content: object
    note: str = ""


# Sources ----------------------------------------------------------------------------------


def data_folder(argument: str | Path | None) -> Path:
    """The folder that an argument names, else the one that `CGCLORA_DATA` names.

    Raises:
        DataError: Neither names one, or it is not a folder.
    """
    named = argument or os.environ.get(FOLDER_VARIABLE)
    if not named:
        raise DataError(
            f"no data folder is known: give one as argument, or set the environment variable "
            f"{FOLDER_VARIABLE} to one."
        )
    folder = Path(named)
    if not folder.is_dir():
        by = "" if argument else f", which {FOLDER_VARIABLE} names,"
        raise DataError(f"the data folder {folder}{by} is not a folder.")
    return folder


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
    name, found, entries = _open(source, _split(split))
    pairs, problems = _collect(entries, skip_bad=skip_bad, need_target=need_target)
    if tasks is not None:
        present = sorted({record.task for record, _ in pairs})
        if missing := [task for task in tasks if task not in present]:
            raise DataError(f"{source or name} has no record of {missing}; it has {present}.")
        pairs = [pair for pair in pairs if pair[0].task in tasks]
    if not pairs:
        first = f"; {len(problems)} are bad, the first: {problems[0]}" if problems else ""
        raise DataError(f"{source or name} holds no usable record{first}.")
    records = tuple(record for record, _ in pairs)
    return Dataset(
        name=name,
        split=found,
        records=records,
        problems=tuple(problems),
        duplicates=_duplicates(records),
        turns_left_out=sum(turns for _, turns in pairs),
    )


def _open(source: str | Path | None, split: str) -> tuple[str, str | None, Iterator[_Entry]]:
    """Name, split and objects of a source."""
    if isinstance(source, str) and _is_hub_id(source):
        return source, split, _hub_entries(source, split)
    path = Path(source) if source else data_folder(None)
    if not path.is_dir():
        known = next((key for key, names in SPLITS.items() if path.stem in names), None)
        return path.name, known, _file_entries(path, path.name)
    entries = (
        entry
        for file in _split_files(path, split)
        for entry in _file_entries(file, file.relative_to(path).as_posix())
    )
    return path.resolve().name, split, entries


def _split(name: str) -> str:
    for split, names in SPLITS.items():
        if name in names:
            return split
    known = ", ".join(known for names in SPLITS.values() for known in names)
    raise DataError(f"there is no split {name!r}; name one of: {known}.")


def _is_hub_id(source: str) -> bool:
    return (
        _HUB_ID.fullmatch(source) is not None
        and not source.endswith(_FILE_ENDINGS)
        and not Path(source).exists()
    )


def _split_files(folder: Path, split: str) -> list[Path]:
    for places in ([folder], [folder / family for family in FAMILIES]):
        if files := [file for place in places if (file := _split_file(place, split))]:
            return files
    names = " or ".join(f"{name}.jsonl" for name in SPLITS[split])
    raise DataError(
        f"{folder} has no {split} split: put {names} (.json will do) there, or into one of the "
        f"folders {' and '.join(FAMILIES)} below it."
    )


def _split_file(folder: Path, split: str) -> Path | None:
    candidates = [folder / (name + ending) for name in SPLITS[split] for ending in _FILE_ENDINGS]
    files = [file for file in candidates if file.is_file()]
    if len(files) > 1:
        raise DataError(
            f"{folder} has more than one {split} split ({', '.join(file.name for file in files)}): "
            "name the file that is meant."
        )
    return files[0] if files else None


# Objects ----------------------------------------------------------------------------------


def _file_entries(path: Path, name: str) -> Iterator[_Entry]:
    family = path.absolute().parent.name
    stem = f"{family}-{path.stem}" if family in FAMILIES else path.stem
    decoder = _Decoder()
    try:
        with path.open("rb") as file:
            is_first = True
            for number, line in enumerate(file, start=1):
                raw = line
                if number == 1:
                    if raw.startswith(_WIDE_MARKS):
                        raise DataError(f"{path} is UTF-16 or UTF-32 text: save it as UTF-8.")
                    raw = raw.removeprefix(_MARK)
                if not raw or raw.isspace():
                    continue
                if is_first and raw.lstrip().startswith(b"["):
                    yield from _list_entries(path, name, stem)
                    return
                is_first = False
                yield _Entry(str(path), name, number, f"{stem}-{number}", decoder.line(raw))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}.") from error


def _list_entries(path: Path, name: str, stem: str) -> Iterator[_Entry]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {_not_utf8(error, 'file')}.") from error
    decoder, number, line, counted = _Decoder(), 0, 1, 0

    def broken(problem: str, position: int) -> DataError:
        row = text.count("\n", 0, position) + 1
        column = position - text.rfind("\n", 0, position)
        return DataError(
            f"{path}, line {row}, column {column}: {problem} after {number} items of the JSON "
            "list. Is the file cut off? Get it whole."
        )

    at = _skip_space(text, text.index("[") + 1)
    while text[at : at + 1] != "]":
        line, counted = line + text.count("\n", counted, at), at
        try:
            content, end = decoder.item(text, at)
        except json.JSONDecodeError as error:
            raise broken(error.msg, error.pos) from error
        except (ValueError, RecursionError) as error:
            raise broken(str(error), at) from error
        number += 1
        yield _Entry(
            str(path), name, line, f"{stem}-{number}", content, f" (item {number} of the list)"
        )
        at = _skip_space(text, end)
        if text[at : at + 1] == ",":
            at = _skip_space(text, at + 1)
            if text[at : at + 1] == "]":
                raise broken("nothing follows the comma", at)
        elif text[at : at + 1] != "]":
            raise broken("expected ',' or ']'", at)
    if (rest := _skip_space(text, at + 1)) < len(text):
        raise broken("expected nothing more", rest)


def _skip_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _hub_entries(name: str, split: str) -> Iterator[_Entry]:
    try:
        import datasets  # noqa: PLC0415 - an optional extra, and slow to import
        from datasets.exceptions import DatasetsError  # noqa: PLC0415
    except ImportError as error:
        raise DataError(
            f"{name} is neither a file nor a folder here. To load it from the Hugging Face hub: "
            "pip install 'cgclora[data]'"
        ) from error
    try:
        present = datasets.get_dataset_split_names(name)
        chosen = next((known for known in SPLITS[split] if known in present), None)
        if chosen is None:
            raise DataError(f"{name} on the hub has no {split} split; it has {sorted(present)}.")
        rows = datasets.load_dataset(name, split=chosen)
    except DataError:
        raise
    except ConnectionError as error:
        raise DataError(
            f"{name} is neither a file nor a folder here, and the Hugging Face hub cannot be "
            f"reached ({error}): connect to the network, or give a file or folder."
        ) from error
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""  # it often names the file
        raise DataError(f"cannot load {name} from the Hugging Face hub: {error}{cause}") from error
    for number, row in enumerate(rows, start=1):
        # A table has every column in every row; null is how it writes a field that is not there.
        content = {field: value for field, value in row.items() if value is not None}
        yield _Entry(name, name, number, f"{split}-{number}", content)


class _Decoder:
    """JSON as the standard has it: Python would also take NaN, and the last of two equal keys."""

    def __init__(self) -> None:
        self._flaws: list[FieldError] = []
        self._json = json.JSONDecoder(
            object_pairs_hook=self._object, parse_constant=self._constant, parse_float=self._float
        )

    def line(self, raw: bytes) -> object:
        """The value of one line, or a `FieldError`."""
        self._flaws.clear()
        try:
            text = raw.decode()
            value = self._json.decode(text)
        except UnicodeDecodeError as error:
            return FieldError(None, _not_utf8(error, "line"), raw[error.start :][:20])
        except json.JSONDecodeError as error:
            problem = (
                f"not JSON ({error.msg} at column {error.colno}); "
                "expected an object a line, or one list of objects"
            )
            start = max(0, error.pos - 30)
            return FieldError(None, problem, text[start : start + _VALUE_WIDTH])
        except (ValueError, RecursionError) as error:
            return FieldError(None, f"not usable ({error})", text[:_VALUE_WIDTH])
        return self._flaws[0] if self._flaws else value

    def item(self, text: str, at: int) -> tuple[object, int]:
        """The value that starts at a position, or a `FieldError`; and where it ends.

        Raises:
            ValueError: There is none; mostly a `JSONDecodeError`.
            RecursionError: It is nested too deeply.
        """
        self._flaws.clear()
        value, end = self._json.raw_decode(text, at)
        return (self._flaws[0] if self._flaws else value), end

    # These note a flaw instead of raising it, so that what follows in a list can still be read.

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            twice = next(
                name for name, count in Counter(key for key, _ in pairs).items() if count > 1
            )
            values = [value for name, value in pairs if name == twice]
            self._flaws.append(FieldError(twice, "must stand once in an object", values))
        return fields

    def _constant(self, name: str) -> float:
        self._flaws.append(FieldError(None, "a number that JSON does not have", name))
        return math.nan

    def _float(self, digits: str) -> float:
        value = float(digits)
        return value if math.isfinite(value) else self._constant(digits)


def _not_utf8(error: UnicodeDecodeError, what: str) -> str:
    return (
        f"not UTF-8 text (byte 0x{error.object[error.start]:02x} at position {error.start} of the "
        f"{what}); convert the file, for example: iconv -f GB18030 -t UTF-8"
    )


# Records ----------------------------------------------------------------------------------


def _collect(
    entries: Iterator[_Entry], *, skip_bad: bool, need_target: bool
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


def _record(entry: _Entry, need_target: bool) -> tuple[Record, int]:
    """The record of an entry, and how many turns of its conversation are left out.

    Raises:
        FieldError: There is no record in it.
    """
    if isinstance(entry.content, FieldError):
        raise entry.content
    if not isinstance(entry.content, dict):
        raise FieldError(None, "must be an object", entry.content)
    if "conversation" not in entry.content:
        return _flat_record(entry.content, entry.id, need_target), 0
    fields, turns_left_out = _first_turn(entry.content)
    try:
        return _flat_record(fields, entry.id, need_target), turns_left_out
    except FieldError as error:
        name = _CONVERSATION_FIELDS.get(error.field or "", error.field)
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
    text = repr(value[:_VALUE_WIDTH]) if isinstance(value, str | bytes) else reprlib.repr(value)
    return text if len(text) <= _VALUE_WIDTH else text[: _VALUE_WIDTH - 1] + "…"


# Sets of records --------------------------------------------------------------------------


def overlap(train: Dataset, test: Dataset) -> tuple[tuple[str, str], ...]:
    """Test records whose prompt is in the training data: (train id, test id).

    Prompts are compared after NFKC, lower-casing and removal of everything but letters and digits.
    Each test record is named once, with the first training record that has its prompt.
    """
    first: dict[str, str] = {}
    for record in train.records:
        first.setdefault(_letters_and_digits(record.prompt), record.id)
    return tuple(
        (first[key], record.id)
        for record in test.records
        if (key := _letters_and_digits(record.prompt)) in first
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
    return dataclasses.replace(dataset, records=records, duplicates=_duplicates(records))


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
        kept.update(sorted(ids, key=lambda name: _draw(name, seed))[:per_task])
    records = tuple(record for record in dataset.records if record.id in kept)
    return dataclasses.replace(dataset, records=records, duplicates=_duplicates(records))


def _draw(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{name}".encode()).digest()


def _letters_and_digits(text: str) -> str:
    return _NO_LETTER_OR_DIGIT.sub("", unicodedata.normalize("NFKC", text).lower())


def _duplicates(records: Sequence[Record]) -> tuple[tuple[str, str], ...]:
    first: dict[bytes, str] = {}  # by digest: the texts themselves would double the memory
    pairs = []
    for record in records:
        texts = (record.task, record.prompt, record.target)
        folded = "\n".join(" ".join(unicodedata.normalize("NFKC", text).split()) for text in texts)
        key = hashlib.sha256(folded.encode()).digest()
        if key in first:
            pairs.append((first[key], record.id))
        else:
            first[key] = record.id
    return tuple(pairs)
