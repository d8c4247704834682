"""Datasets: records of known tasks, their duplicates, overlaps and subsets."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import unicodedata
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from cgclora.data.readers import RecordSet, of_tasks
from cgclora.data.readers import read as read_record_set
from cgclora.data.records import DataError, Record, data_hash
from cgclora.data.sources import data_folder
from cgclora.data.task_table import Entries, table_beside
from evals.tasks import TASKS, Task
from evals.tasks.recognition import Entry, own_tasks, task_of

_NO_LETTER_OR_DIGIT = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Dataset(RecordSet):
    """Records with their tasks, hash and duplicates.

    Attributes, beside those of `RecordSet`:
        own: Descriptions of the tasks that are not built in, see `evals.tasks.recognition`.
    """

    own: tuple[Entry, ...] = ()

    @cached_property
    def descriptions(self) -> Mapping[str, Task]:
        """The tasks by name: all that are built in, and the data's own.

        Raises:
            DataError: A task of its own is described wrongly.
        """
        return {**TASKS, **{entry["name"]: task_of(entry) for entry in self.own}}

    @property
    def turns_left_out(self) -> int:
        """The number of later turns of conversations, of which only the first turn is a record."""
        return sum(record.later_answers for record in self.records)

    @cached_property
    def duplicates(self) -> tuple[tuple[str, str], ...]:
        """(first, later) ids of records with equal task, prompt and target.

        Texts are compared after NFKC and folding of white space.
        """
        first: dict[bytes, str] = {}  # by digest: the texts would double the memory
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
        """Names of the tasks, in the order of `evals.tasks.TASKS`, other ones last."""
        present = {record.task for record in self.records}
        known = [name for name in TASKS if name in present]
        return (*known, *sorted(present.difference(known)))

    def of_task(self, name: str) -> tuple[Record, ...]:
        """The records of one task."""
        return tuple(record for record in self.records if record.task == name)


def read(
    source: str | Path | None,
    *,
    split: str = "test",
    tasks: Sequence[str] | None = None,
    skip_bad: bool = False,
    need_target: bool = True,
    trained: Entries = MappingProxyType({}),
) -> Dataset:
    """`cgclora.data.readers.read` with the forms of all known tasks; arguments are as there.

    `tasks` keeps these tasks only. Tasks that are not built in are recognised from the train split
    of a folder, else from the records themselves; `tasks.toml` beside the data may describe them,
    and else the adapters that answer (`trained`, see `evals.tasks.recognition.own_tasks`).

    Raises:
        DataError: As there, one of `tasks` has no record, or `tasks.toml` is damaged.
    """
    records = read_record_set(
        source,
        split=split,
        skip_bad=skip_bad,
        need_target=need_target,
        templates={name: task.prompt for name, task in TASKS.items()},
    )
    own = any(record.task not in TASKS for record in records.records)
    dataset = Dataset(**vars(records), own=_own_tasks(source, records, trained) if own else ())
    return dataset if tasks is None else only(dataset, tasks)


def _own_tasks(
    source: str | Path | None, records: RecordSet, trained: Entries
) -> tuple[Entry, ...]:
    """Descriptions of the tasks that are not built in."""
    path = Path(source) if source else data_folder(None)
    groups: dict[str, list[Record]] = {
        record.task: [] for record in records.records if record.task not in TASKS
    }
    train: Sequence[Record] = ()
    if path.is_dir() and records.split != "train":
        with suppress(DataError):  # there is no train split
            train = read_record_set(path, split="train", skip_bad=True).records
    for shown in (train, records.records):  # the second one for tasks that the first one lacks
        missing = {name for name, group in groups.items() if not group}
        for record in shown:
            if record.task in missing and record.target:
                groups[record.task].append(record)
    return tuple(own_tasks(groups, table_beside(source), trained))


# Sets of records --------------------------------------------------------------------------


def overlap(train: Dataset, test: Dataset) -> tuple[tuple[str, str], ...]:
    """(train id, test id) of test records whose prompt is in the training data.

    Prompts are compared after NFKC, lower-casing and removal of everything but letters and digits.
    Each test record occurs once, with the first training record of the same prompt.
    """
    first: dict[str, str] = {}
    for record in train.records:
        first.setdefault(letters_and_digits(record.prompt), record.id)
    return tuple(
        (first[key], record.id)
        for record in test.records
        if (key := letters_and_digits(record.prompt)) in first
    )


def check_apart(splits: Mapping[str, Dataset]) -> None:
    """Check that no prompt of the test split is in the train or dev split.

    Raises:
        DataError: Splits are the same file, or prompts of one are in the test split.
    """
    for split, dataset in splits.items():
        if dataset.split != split:
            raise DataError(
                f"{dataset.name} is one file, and not the {split} split: give a folder with "
                f"{', '.join(splits)}."
            )
    for split in ("train", "dev"):
        if shared := overlap(splits[split], splits["test"]):
            raise DataError(
                f"{len(shared)} prompts of the test split are in the {split} split too, the first "
                f"is {shared[0][1]} as {shared[0][0]}: take them out of one."
            )


def only(dataset: Dataset, tasks: Sequence[str]) -> Dataset:
    """The records of these tasks, in the same order.

    Raises:
        DataError: A task has no record.
    """
    return dataclasses.replace(dataset, records=of_tasks(dataset, tasks))


def limit(dataset: Dataset, per_task: int, seed: int) -> Dataset:
    """At most `per_task` records of each task, in the same order; 0 takes all.

    A task keeps the records whose ids have the lowest hashes with this seed, so a larger limit
    keeps what a smaller one keeps, whatever the order of the records.

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
    """The first `per_task` records of each of these tasks, task by task."""
    taken: dict[str, list[Record]] = {}
    for record in records:
        if record.task in tasks and len(taken.setdefault(record.task, [])) < per_task:
            taken[record.task].append(record)
    return [record for of_task in taken.values() for record in of_task]


def examples(records: Iterable[Record], most: int = 2) -> tuple[Record, ...]:
    """The first records with different targets, at most so many."""
    found: dict[str, Record] = {}
    for record in records:
        if len(found) == most:
            break
        found.setdefault(record.target, record)
    return tuple(found.values())


def draw(name: str, seed: int) -> bytes:
    """A sort key for a random order that does not depend on the other names."""
    return hashlib.sha256(f"{seed}\n{name}".encode()).digest()


def letters_and_digits(text: str) -> str:
    """The form in which prompts are compared, see `overlap`."""
    return _NO_LETTER_OR_DIGIT.sub("", unicodedata.normalize("NFKC", text).lower())


def _folded_digest(record: Record) -> bytes:
    texts = (record.task, record.prompt, record.target)
    folded = "\n".join(" ".join(unicodedata.normalize("NFKC", text).split()) for text in texts)
    return hashlib.sha256(folded.encode()).digest()
