r"""Tasks of a user's own: what a task is, recognised from its records or described in a table.

A task that is not built in is described by an entry with the keys of `evals.tasks.family`. Every
key has a value recognised from the records; a file `tasks.toml` beside the data may set any:

    [[tasks]]
    name = "换算"
    title = ["单位换算", "Unit conversion"]
    kind = "number"
    max_new_tokens = 12

`kind` is one of `classification` (one label), `extraction` (a list of items, or lines of key and
values), `number` and `generation` (free text). `python -m evals tasks DATA` prints the whole table.

An adapter's manifest describes its tasks by such entries, too, whole ones or parts.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from string import Formatter
from types import MappingProxyType
from typing import Any, get_args

from cgclora.data.records import DataError, Record
from cgclora.data.task_table import TABLE_FILE, Entries, descriptions_in, parse_table, read_table
from evals.scoring.metrics import METRICS
from evals.tasks import TASKS, parsing
from evals.tasks.family import make_task
from evals.tasks.task import CHOICES, Kind, Task

OWN = "own"
"""The `dataset` and `cluster` of a task that is not built in."""

MOST_FIELDS = 3
"""Fields of a task, at most: a form has room for them."""

Entry = Mapping[str, Any]

_CLEAR = 0.9
"""Share of the targets that must have a form for the task to have it."""

_MAX_LABELS = 60
_MAX_LABEL = 24
"""Characters of a label."""

_RECORDS_A_LABEL = 3
"""Mean number of records of a label, at least: of fewer they are texts that recur by chance."""

_MAX_ITEM = 16
"""Characters of a list's item in the median, at most."""

_MAX_UNIT = 8
_SENTENCE = re.compile(r"[。！？!?]|\.\s")
_LINE = re.compile(r"\s*[^\s：:][^：:\n]{0,19}[：:]")
_BOUNDARY = "\n：:。，,？?！! "
_MIN_FRAME = 3
"""Characters that the prompts of a task must have in common to be a template."""

_MAX_TOKENS = 512


def recognise(name: str, records: Sequence[Record]) -> dict[str, Any]:
    """The entry of a task, recognised from its records.

    Args:
        name: Of the task.
        records: Its records, with targets; best those that it is trained on.

    Raises:
        DataError: There is no record with a target.
    """
    targets = [record.target.strip() for record in records if record.target.strip()]
    if not targets:
        raise DataError(
            f"{name} has no record with a target, by which it could be recognised: add some."
        )
    template, field = _template([record.prompt for record in records])
    return {
        **_any_task(name),
        **_answer_form(targets, records),
        "max_new_tokens": _max_tokens(targets),
        "template": template,
        "fields": [{"name": "text", "label": list(field), "multiline": True}],
    }


def _any_task(name: str) -> dict[str, Any]:
    """The entry of a task of which only the name is known."""
    return {
        "name": name,
        "dataset": OWN,
        "cluster": OWN,
        "licence": "",
        "title": [name, name],
        "description": ["", ""],
        "kind": "generation",
        "reader": "free_text",
        "max_new_tokens": 128,
        "template": "{text}",
        "fields": [{"name": "text", "label": ["提示词", "Prompt"], "multiline": True}],
    }


def own_tasks(
    records: Mapping[str, Sequence[Record]],
    table: Path,
    trained: Entries = MappingProxyType({}),
) -> list[Entry]:
    """The entries of tasks that are not built in; those without any record are left out.

    Args:
        records: Records with targets, by task.
        table: The file that may describe the tasks; it need not exist.
        trained: Descriptions that adapters were trained with, for tasks that it does not describe.

    Raises:
        DataError: The table is damaged, or a task is described wrongly.
    """
    written = {
        **{name: (entry, "the adapter") for name, entry in trained.items()},
        **{name: (entry, str(table)) for name, entry in read_table(table).items()},
    }
    return [
        _merged(recognise(name, group), *written.get(name, ({}, "")))
        for name, group in records.items()
        if group
    ]


def corrected(own: Sequence[Entry], content: str) -> tuple[Entry, ...]:
    """Entries with the keys of a written table in place of their own.

    Raises:
        DataError: The table is damaged, describes other tasks, or describes one wrongly.
    """
    table = parse_table(content, TABLE_FILE)
    names = [entry["name"] for entry in own]
    if unknown := [name for name in table if name not in names]:
        raise DataError(
            f"{TABLE_FILE} describes {', '.join(unknown)}, but the data's own tasks are "
            f"{', '.join(names)}: use their names."
        )
    return tuple(_merged(entry, table.get(entry["name"], {}), TABLE_FILE) for entry in own)


def described_task(manifest: Mapping[str, Any], name: str) -> Task | None:
    """A task of its own as the manifest of an adapter describes it.

    None if it is built in, not described, or described wrongly, which a manifest of somebody else's
    may do: the adapter can be used without it.
    """
    entry = {} if name in TASKS else descriptions_in(manifest).get(name, {})
    if entry:
        with suppress(DataError):
            return task_of(_merged(_any_task(name), {**entry, "name": name}, "the manifest"))
    return None


def described(manifest: Mapping[str, Any]) -> dict[str, Task]:
    """All tasks that the manifest of an adapter describes, by name; see `described_task`."""
    tasks = {name: described_task(manifest, name) for name in descriptions_in(manifest)}
    return {name: task for name, task in tasks.items() if task is not None}


def task_of(entry: Entry) -> Task:
    """The task of an entry; its version is a hash of the entry.

    Raises:
        DataError: The entry lacks a key, or has a wrong one.
    """
    content = {key: value for key, value in entry.items() if key not in {"title", "description"}}
    version = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
    try:
        _check(entry)
        return make_task({**entry, "version": version})
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"the task {entry.get('name')!r} is described wrongly ({error}): see the keys in "
            "docs/data.md."
        ) from error


def tasks_of(manifest: Mapping[str, Any]) -> dict[str, Task]:
    """The tasks of a run by name, in the order of its manifest: built-in ones, and its own.

    Raises:
        KeyError: A task is neither built in nor described.
        DataError: A task is described wrongly.
    """
    return {
        name: task_of(facts["description"]) if "description" in facts else TASKS[name]
        for name, facts in manifest["tasks"].items()
    }


def to_toml(entries: Iterable[Entry]) -> str:
    """The table of some entries, for `tasks.toml`."""
    hidden = {"dataset", "cluster"}
    tables = (
        "[[tasks]]\n" + "".join(f"{k} = {_toml(v)}\n" for k, v in entry.items() if k not in hidden)
        for entry in entries
    )
    return "\n".join(tables)


def _toml(value: object) -> str:
    """A value as TOML writes it: its strings, numbers and lists are those of JSON."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


# Answers ----------------------------------------------------------------------------------


def _answer_form(targets: Sequence[str], records: Sequence[Record]) -> dict[str, Any]:
    """`kind`, `reader`, `labels` and `metrics`, as far as they differ from those of the kind."""
    if labels := _labels(targets, records):
        return {"kind": "classification", "reader": "label", "labels": labels}
    if _share(targets, _is_number) >= _CLEAR:
        return {"kind": "number", "reader": "number"}
    lines = [line for target in targets for line in target.split("\n") if line.strip()]
    keys = Counter(re.split("[：:]", line, maxsplit=1)[0].strip() for line in lines)
    recur = 2 * len(keys) <= len(lines)
    if recur and _share(lines, lambda line: _LINE.match(line) is not None) >= _CLEAR:
        return {"kind": "extraction", "reader": "key_values"}
    if _is_list(targets):
        return {"kind": "extraction", "reader": "items"}
    return {"kind": "generation", "reader": "free_text"}


def _share(texts: Sequence[str], has: Callable[[str], bool]) -> float:
    return sum(map(has, texts)) / len(texts)


def _labels(targets: Sequence[str], records: Sequence[Record]) -> list[str]:
    """The labels, most frequent first, those that are only offered last; none if it has none."""
    offered = dict.fromkeys(choice for record in records for choice in record.choices or ())
    counts = Counter(targets)
    if not offered or not set(counts) <= set(offered):
        is_small = len(counts) <= _MAX_LABELS and max(map(len, counts)) <= _MAX_LABEL
        recurs = len(targets) >= _RECORDS_A_LABEL * len(counts)
        if not (is_small and recurs and all("\n" not in label for label in counts)):
            return []
    return list(dict.fromkeys([*(label for label, _ in counts.most_common()), *offered]))


def _is_number(target: str) -> bool:
    folded = unicodedata.normalize("NFKC", target)
    found = parsing.NUMBER.match(folded)
    return found is not None and len(folded) - found.end() <= _MAX_UNIT


def _is_list(targets: Sequence[str]) -> bool:
    """Whether the targets are mostly lists of short items, and hardly any has a sentence."""
    read = parsing.items()
    items = [read(target, ()).items for target in targets]
    lengths = sorted(len(item) for one in items for (item,) in one)
    has_several = sum(len(one) > 1 for one in items) / len(items)
    has_sentence = _share(targets, lambda target: _SENTENCE.search(target) is not None)
    is_short = bool(lengths) and lengths[len(lengths) // 2] <= _MAX_ITEM
    return has_several >= 1 - _CLEAR and has_sentence <= 1 - _CLEAR and is_short


def _max_tokens(targets: Sequence[str]) -> int:
    """Room for the 99th percentile of the targets: a token is seldom more than a character."""
    lengths = sorted(map(len, targets))
    longest = lengths[min(len(lengths) - 1, math.ceil(0.99 * len(lengths)))]
    return min(_MAX_TOKENS, math.ceil(1.25 * longest) + 4)


# Prompts ----------------------------------------------------------------------------------


def _template(prompts: Sequence[str]) -> tuple[str, tuple[str, str]]:
    """What all prompts have in common around `{text}`, and the label of the field."""
    distinct = list(dict.fromkeys(prompts))
    before = _common_prefix(distinct)
    before = before[: max(map(before.rfind, _BOUNDARY)) + 1]
    rests = [prompt[len(before) :][::-1] for prompt in distinct]
    after = _common_prefix(rests)[::-1]
    starts = [at for at in map(after.find, _BOUNDARY) if at >= 0]
    after = after[min(starts) :] if starts else ""
    if len((before + after).strip()) < _MIN_FRAME:
        before = after = ""
    escaped = (part.replace("{", "{{").replace("}", "}}") for part in (before, after))
    return "{text}".join(escaped), ("文本", "Text") if before or after else ("提示词", "Prompt")


def _common_prefix(texts: Sequence[str]) -> str:
    """What all texts begin with; nothing where there is only one."""
    first, last = min(texts), max(texts)  # in order of code points, these differ the earliest
    same = (i for i, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1])
    return first[: next(same, len(first))] if len(texts) > 1 else ""


# The table --------------------------------------------------------------------------------


def _merged(recognised: Entry, table: Entry, name: str) -> dict[str, Any]:
    """An entry with the keys of a table, called `name`, in place of recognised ones.

    Another kind brings its reader along, though a whole table still has the one before.

    Raises:
        DataError: A key is unknown, or as `task_of`.
    """
    unknown = table.keys() - recognised.keys() - {"labels", "metrics", "catch_all"}
    if unknown:
        raise DataError(
            f"{name}: {table['name']} has unknown keys {', '.join(sorted(unknown))}: see "
            "docs/data.md for the keys."
        )
    changed = {key: value for key, value in table.items() if recognised.get(key) != value}
    merged = {**recognised, **changed}
    if "kind" in changed:
        readers = {"classification": "label", "number": "number", "generation": "free_text"}
        merged["reader"] = changed.get("reader", readers.get(changed["kind"], "items"))
        if changed["kind"] != "classification" and "labels" not in changed:
            merged.pop("labels", None)
    task_of(merged)  # for what it raises
    return merged


def _check(entry: Entry) -> None:
    """Refuse values that would fail only when the task is used.

    Templates come from files of others, so that they may name fields and do nothing else:
    `str.format` would also read attributes, and fill memory with a width.

    Raises:
        ValueError: A value is none that its key can have.
        KeyError, TypeError: The entry lacks a key, or a value is of another type.
    """
    fields, labels, kinds = entry["fields"], entry.get("labels", []), get_args(Kind)
    names = {field["name"] for field in fields} - {CHOICES}
    pieces = [piece[1:] for piece in Formatter().parse(entry["template"]) if piece[1] is not None]
    pairs = [entry["title"], entry["description"], *(field["label"] for field in fields)]
    tokens, is_choice = entry["max_new_tokens"], entry["kind"] == "classification"
    for is_right, wanted in (
        (entry["kind"] in kinds, f"kind must be one of {', '.join(kinds)}"),
        (all(map(_are_two, pairs)), "title, description and label are pairs of texts"),
        (_are_texts(labels), "labels must be a list of texts"),
        (labels or not is_choice, "a classification needs its labels"),
        (isinstance(tokens, int) and tokens > 0, "max_new_tokens must be a positive number"),
        (0 < len(fields) <= MOST_FIELDS, f"fields must be 1 to {MOST_FIELDS}"),
        (set(entry.get("metrics", [])) <= METRICS.keys(), f"metrics are {', '.join(METRICS)}"),
        (all(piece[1:] == ("", None) for piece in pieces), "a field in the template has a format"),
        (
            {name for name, *_ in pieces} - {CHOICES} == names,
            f"the template must have the fields in braces: {', '.join(sorted(names))}",
        ),
    ):
        if not is_right:
            raise ValueError(wanted)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _are_two(value: Any) -> bool:
    return _are_texts(value) and len(value) == 2
