r"""Training records: read JSONL, choose a subset, turn text into token ids.

    {"task": "NER", "input": "找出句子中的人名：\n王小明到了上海。", "target": "人名：王小明"}

The task's name may also stand under `task_dataset` (PromptCBLUE) or `kind` (Firefly).
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgclora.vocabulary import unreadable_word

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase  # slow to import, and reading needs none

TASK_FIELDS = ("task", "task_dataset", "kind")


class DataError(ValueError):
    """Data that cannot be used; the message names file, line, field and value."""


class FieldError(ValueError):
    """A field that no record can be made of.

    Attributes:
        field: Its name; None when the fault lies with the object as a whole.
        message: What is wrong, such as "must be non-empty text".
        value: What was found.
    """

    def __init__(self, field: str | None, message: str, value: object) -> None:
        super().__init__(field, message, value)
        self.field = field
        self.message = message
        self.value = value

    def __str__(self) -> str:
        if self.field is None:
            return self.message
        return f"field {self.field!r} {self.message}, got {self.value!r}"


@dataclass(frozen=True, slots=True)
class Record:
    """One question with its reference answer.

    Attributes:
        id: The file's own `sample_id`, else `<file stem>-<line number>`.
        task: Task name.
        prompt: The whole prompt.
        target: The reference answer.
        choices: Labels, types or terms that the prompt offers; None for free text.
    """

    id: str
    task: str
    prompt: str
    target: str
    choices: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """A record as token ids: the prompt with its start token, then target and end token.

    Attributes:
        ids: Token ids of prompt and target.
        prompt_length: How many of them are the prompt.
        task: Task id.
    """

    ids: list[int]
    prompt_length: int
    task: int


def read_records(path: str | Path, *, tasks: Sequence[str] | None = None) -> list[Record]:
    """Read a JSONL file.

    Args:
        path: The file, UTF-8, one object a line; empty lines are passed over.
        tasks: Keep these tasks only; None keeps all.

    Raises:
        DataError: The file is missing or empty, a line is not a record, or a wanted task has none.
    """
    records = _read(Path(path), ("input", "target"))
    if tasks is None:
        return records
    present = {record.task for record in records}
    if missing := [task for task in tasks if task not in present]:
        raise DataError(f"{path} has no record of {missing}; it has {sorted(present)}.")
    return [record for record in records if record.task in set(tasks)]


def read_prompts(path: str | Path) -> list[Record]:
    """Read a JSONL file whose lines need no `target`; it is empty where it is missing.

    Raises:
        DataError: As `read_records`.
    """
    return _read(Path(path), ("input",))


def _read(path: Path, required: Sequence[str]) -> list[Record]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}.") from error
    records = [
        _parse(line, path, number, required)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not records:
        raise DataError(f"{path} holds no record.")
    return records


def _parse(line: str, path: Path, number: int, required: Sequence[str]) -> Record:
    def fail(problem: str) -> DataError:
        return DataError(f"{path}, line {number}: {problem}.")

    try:
        fields: Any = json.loads(line)
    except ValueError as error:
        raise fail(f"not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise fail(f"expected an object, got {type(fields).__name__}")
    try:
        return parse_fields(fields, f"{path.stem}-{number}", required)
    except FieldError as error:
        raise fail(str(error)) from error


def parse_fields(fields: Mapping[str, Any], default_id: str, required: Sequence[str]) -> Record:
    """The record that the fields of one object make.

    Args:
        fields: The object.
        default_id: The record's id when the object has no `sample_id`.
        required: Which of `input` and `target` must be non-empty text.

    Raises:
        FieldError: A field is missing or is not what it should be.
    """
    name = next((field for field in TASK_FIELDS if field in fields), None)
    if name is None:
        problem = f"none of the fields {TASK_FIELDS} is there to name the task"
        raise FieldError(None, problem, list(fields))
    for field in (name, *required):
        value = fields.get(field)
        if not isinstance(value, str) or not value.strip():
            raise FieldError(field, "must be non-empty text", value)
    choices = fields.get("answer_choices")
    if choices is not None and not (
        isinstance(choices, list) and all(isinstance(choice, str) for choice in choices)
    ):
        raise FieldError("answer_choices", "must be a list of texts or null", choices)
    return Record(
        id=str(fields.get("sample_id", default_id)),
        task=fields[name],
        prompt=fields["input"],
        target=fields.get("target") or "",
        choices=tuple(choices) if choices else None,
    )


def data_hash(records: Iterable[Record]) -> str:
    """sha256 over task, prompt and target of the records in their order."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps([record.task, record.prompt, record.target]).encode())
    return digest.hexdigest()


def sample_per_task(items: Sequence[Encoded], most: Sequence[int], seed: int) -> list[Encoded]:
    """At most so many items of each task, drawn with `seed`, in their first order.

    Args:
        items: What to draw from.
        most: How many of task 0, 1, ...; 0 takes all.
        seed: Of the draw.
    """
    groups = defaultdict(list)
    for index, item in enumerate(items):
        groups[item.task].append(index)
    generator = random.Random(seed)  # noqa: S311 - a reproducible draw, not a secret
    chosen: set[int] = set()
    for task, group in sorted(groups.items()):
        chosen.update(generator.sample(group, min(most[task] or len(group), len(group))))
    return [item for index, item in enumerate(items) if index in chosen]


def encode(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    *,
    separator: str,
    max_length: int,
    needed: Sequence[str] | None = None,
    known: int = sys.maxsize,
) -> tuple[list[Encoded], Counter[str]]:
    """Token ids of records that fit, and how many a task were too long.

    Prompt and target are tokenised apart, so that decoding, which sees the prompt alone, meets the
    same ids.

    Args:
        records: What to encode.
        tokenizer: The backbone's.
        tasks: Task names in the order of their ids.
        separator: Text between prompt and target.
        max_length: Most tokens of prompt and target together.
        needed: Tasks that must have a record, and that alone may have some; None for all.
        known: How many token ids the backbone can read, see `cgclora.vocabulary.readable`.

    Raises:
        DataError: A record's task is not among them, one of them has no record that fits, a record
            has a word that the backbone cannot read, or the tokenizer has no token to end a target
            with.
    """
    if tokenizer.eos_token_id is None:
        raise DataError(
            "the backbone's tokenizer has no end token, so no target could end: "
            "name its `eos_token` in tokenizer_config.json."
        )
    ids = {task: index for index, task in enumerate(tasks) if needed is None or task in needed}
    if unknown := sorted({record.task for record in records} - ids.keys()):
        where = "the adapter does not know" if needed is None else "are not to be trained here"
        raise DataError(f"the data has tasks that {where}: {unknown}.")
    encoded, too_long = [], Counter[str]()
    prompts = encode_prompts([record.prompt for record in records], tokenizer, separator)
    targets = tokenizer([record.target for record in records] or [""], add_special_tokens=False)[
        "input_ids"
    ]
    for record, prompt, target in zip(records, prompts, targets, strict=False):
        whole = [*prompt, *target, tokenizer.eos_token_id]
        if len(whole) > max_length:
            too_long[record.task] += 1
        elif (word := unreadable_word(whole, known, tokenizer)) is not None:
            raise DataError(
                f"record {record.id!r} of task {record.task!r} has {word!r}, which this backbone "
                "cannot read: leave it out of input and target."
            )
        else:
            encoded.append(Encoded(whole, len(prompt), ids[record.task]))
    kept = Counter(item.task for item in encoded)
    for task, index in ids.items():
        if not kept[index]:
            raise DataError(
                f"task {task!r} has no record within {max_length} tokens "
                f"({too_long[task]} are longer): give it data, or raise max_length as far as the "
                "backbone goes."
            )
    return encoded, too_long


def encode_prompts(
    prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, separator: str | Sequence[str]
) -> list[list[int]]:
    """Token ids of prompts, each with the backbone's start token and the separator, or its own."""
    if not prompts:
        return []
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    separators = [separator] * len(prompts) if isinstance(separator, str) else separator
    texts = [prompt + after for prompt, after in zip(prompts, separators, strict=True)]
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [[*start, *ids] for ids in encoded]
