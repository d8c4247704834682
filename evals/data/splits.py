"""The train, dev and test records of a comparison on a user's data.

Splits that the data lacks are split off its train records. A prompt is in one split only: what the
test split has is left out of the others.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cgclora.data.readers import Problem
from cgclora.data.records import DataError
from cgclora.data.sources import has_split
from cgclora.data.task_table import TABLE_FILE
from cgclora.storage import atomic_io
from evals.data.datasets import Dataset, letters_and_digits, only, read
from evals.data.training_data import split_off, to_jsonl
from evals.tasks.recognition import Entry, to_toml

SPLITS = ("train", "dev", "test")

_FRACTIONS = {"test": (50, 0.2, 0.4), "dev": (20, 0.1, 0.2)}
"""Records of the smallest task that a split should have, and the bounds of its share for that."""


@dataclass(frozen=True)
class Splits:
    """See the module's text."""

    train: Dataset
    dev: Dataset
    test: Dataset
    made: tuple[str, ...]  # splits that were split off the train records
    # Number of records that were left out, by split: their prompt is in a later one, too.
    leaked: Mapping[str, int]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return self.train.tasks

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Lines that are not records."""
        given = [name for name in SPLITS if name not in self.made]
        return tuple(one for name in given for one in getattr(self, name).problems)

    def sizes(self) -> dict[str, dict[str, int]]:
        """Number of records by task, then by split."""
        counts = {
            name: Counter(record.task for record in getattr(self, name).records) for name in SPLITS
        }
        return {task: {name: counts[name][task] for name in SPLITS} for task in self.tasks}

    def with_own(self, own: Sequence[Entry]) -> Splits:
        """The same records with other descriptions of the tasks that are not built in."""
        changed = {
            name: dataclasses.replace(getattr(self, name), own=tuple(own)) for name in SPLITS
        }
        return dataclasses.replace(self, **changed)

    def write(self, folder: Path) -> None:
        """Write a data folder: a file for each split, and the tasks that are not built in."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in SPLITS:
            records = getattr(self, name).records
            atomic_io.write_text(folder / f"{name}.jsonl", to_jsonl(records))
        if self.train.own:
            atomic_io.write_text(folder / TABLE_FILE, to_toml(self.train.own))


def read_splits(
    source: str | Path,
    dev: Path | None = None,
    test: Path | None = None,
    *,
    tasks: Sequence[str] = (),
    seed: int = 0,
) -> Splits:
    """Read or make the three splits.

    Args:
        source: A file of train records; or a folder or hub id, of which all splits are taken.
        dev: A file of dev records.
        test: A file of test records.
        tasks: The tasks to keep; without any, all.
        seed: Of the draw of splits that are made.

    Raises:
        DataError: A source cannot be read, or a task has too few records.
    """
    train = read(source, split="train", skip_bad=True)
    if tasks:
        train = only(train, tasks)
    given = {"dev": _given(source, "dev", dev), "test": _given(source, "test", test)}
    found = {name: only(one, train.tasks) for name, one in given.items() if one is not None}
    leaked: dict[str, int] = {}
    for later in ("test", "dev"):
        if later not in found:
            train, part = split_off(train, _fraction(train, later), seed)
            found[later] = part
        found[later] = dataclasses.replace(found[later], split=later)
        train, leaked["train"] = _without(train, found[later], leaked.get("train", 0))
        if later == "test" and "dev" in found:
            found["dev"], leaked["dev"] = _without(found["dev"], found["test"])
    return Splits(
        dataclasses.replace(train, split="train"),
        # Own tasks are described once: by the train records.
        dataclasses.replace(found["dev"], own=train.own),
        dataclasses.replace(found["test"], own=train.own),
        made=tuple(name for name in SPLITS if given.get(name, train) is None),
        leaked={name: count for name, count in leaked.items() if count},
    )


def _given(source: str | Path, split: str, file: Path | None) -> Dataset | None:
    """A split that exists; None if it must be made."""
    if file is not None:
        return read(file, split=split, skip_bad=True)
    path = Path(source)
    if path.is_file() or (path.is_dir() and not has_split(path, split)):
        return None
    if path.is_dir():
        return read(source, split=split, skip_bad=True)
    with suppress(DataError):  # the hub has a train split only
        return read(source, split=split, skip_bad=True)
    return None


def _fraction(dataset: Dataset, split: str) -> float:
    records, low, high = _FRACTIONS[split]
    smallest = min(Counter(record.task for record in dataset.records).values())
    return min(high, max(low, records / smallest))


def _without(dataset: Dataset, later: Dataset, before: int = 0) -> tuple[Dataset, int]:
    """A dataset without the prompts of a later split, and how many records it has lost."""
    taken = {letters_and_digits(record.prompt) for record in later.records}
    kept = tuple(
        record for record in dataset.records if letters_and_digits(record.prompt) not in taken
    )
    if lost := set(dataset.tasks) - {record.task for record in kept}:
        raise DataError(
            f"every {dataset.split or 'train'} prompt of {', '.join(sorted(lost))} is in the "
            f"{later.split} split too: give records of their own."
        )
    return dataclasses.replace(dataset, records=kept), before + len(dataset.records) - len(kept)
