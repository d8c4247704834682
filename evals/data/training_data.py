"""The data of a training run: a train and a dev set from files or folders."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cgclora.data.readers import Problem
from cgclora.data.records import DataError, Record
from cgclora.data.task_table import TABLE_FILE
from cgclora.storage import atomic_io
from evals.data.datasets import Dataset, draw, letters_and_digits, only, read
from evals.tasks.recognition import Entry, to_toml


@dataclass(frozen=True)
class Source:
    """The location of train and dev records.

    Attributes:
        train: A file, or a folder with the split.
        dev: Likewise; None splits it off the train records.
        split: The split of a folder to train on.
    """

    train: Path
    dev: Path | None = None
    split: str = "train"


@dataclass(frozen=True)
class TrainingData:
    """Train records, and dev records of the same tasks for the dev loss.

    `split_off` says whether the dev records were part of the same file.
    """

    train: Dataset
    dev: Dataset
    split_off: bool

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Lines of either set that are not records."""
        return self.train.problems if self.split_off else self.train.problems + self.dev.problems

    def records(self, limit: int) -> int:
        """The number of train records with at most `limit` for each task; 0 takes all."""
        counts = Counter(record.task for record in self.train.records)
        return sum(min(count, limit or count) for count in counts.values())

    def with_own(self, own: Sequence[Entry]) -> TrainingData:
        """The same records with other descriptions of the tasks that are not built in."""
        train, dev = (dataclasses.replace(one, own=tuple(own)) for one in (self.train, self.dev))
        return dataclasses.replace(self, train=train, dev=dev)

    def write(self, folder: Path) -> tuple[Path, ...]:
        """Write both as JSONL for `python -m cgclora train`, and the tasks that are not built in.

        Returns the paths: of train, of dev and, if there is one, of the table.
        """
        contents = {"train.jsonl": to_jsonl(self.train.records)}
        contents["dev.jsonl"] = to_jsonl(self.dev.records)
        if own := [entry for entry in self.train.own if entry["name"] in self.train.tasks]:
            contents[TABLE_FILE] = to_toml(own)
        for name, content in contents.items():
            atomic_io.write_text(folder / name, content)
        return tuple(folder / name for name in contents)


def read_source(source: Source) -> tuple[Dataset, Dataset | None]:
    """The train and dev records of a source; lines that are not records become problems.

    Raises:
        DataError: A source cannot be read, or no record is usable.
    """
    train = read(source.train, split=source.split, skip_bad=True)
    dev = None if source.dev is None else read(source.dev, split="dev", skip_bad=True)
    return train, dev


def training_data(
    train: Dataset,
    dev: Dataset | None,
    *,
    tasks: Sequence[str] = (),
    fraction: float = 0.1,
    seed: int = 0,
) -> TrainingData:
    """The train and dev records of a run.

    Args:
        train: All train records.
        dev: All dev records; None splits them off the train records.
        tasks: The tasks to keep, if present; without any, all.
        fraction: Of each task's records to split off.
        seed: Of that split.

    Raises:
        DataError: A task has no dev record, or none can be split off.
    """
    if present := [task for task in train.tasks if task in tasks]:
        train = only(train, present)
    if dev is None:
        train, dev = split_off(train, fraction, seed)
        return TrainingData(train, dev, split_off=True)
    return TrainingData(train, only(dev, train.tasks), split_off=False)


def split_off(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Split a dataset into the rest and a share of each task's records.

    Records with the same prompt stay together, and targets that recur, such as labels, keep their
    shares. Both parts have a record of every task.

    Args:
        dataset: To split.
        fraction: Of each task's records in the second part, in (0, 1).
        seed: Of the draw.

    Raises:
        DataError: The fraction is out of range, or a task has one prompt only.
    """
    if not 0 < fraction < 1:
        raise DataError(f"the share of dev records must lie between 0 and 1, got {fraction!r}.")
    chosen: set[str] = set()
    for task in dataset.tasks:
        groups = _by_prompt(dataset.of_task(task))
        if len(groups) < 2:
            raise DataError(
                f"task {task!r} has one prompt only, so no records can be split off: give it more "
                "records, or give files of their own for the other splits."
            )
        chosen.update(_drawn(groups, fraction, seed))
    rest, part = (
        tuple(record for record in dataset.records if (record.id in chosen) is inside)
        for inside in (False, True)
    )
    second = dataclasses.replace(dataset, split="dev", records=part)
    return dataclasses.replace(dataset, records=rest), second


def _by_prompt(records: Sequence[Record]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[letters_and_digits(record.prompt)].append(record)
    return groups


def _drawn(groups: Mapping[str, Sequence[Record]], fraction: float, seed: int) -> list[str]:
    """Ids of about a fraction of the records, in whole groups; at least one group, never all.

    The groups are ordered by target, then at random, and taken at even distances.
    """
    counts = Counter(record.target for group in groups.values() for record in group)

    def place(prompt: str) -> tuple[bytes, bytes]:
        target = groups[prompt][0].target
        return draw(target, seed) if counts[target] > 1 else b"", draw(prompt, seed)

    order = sorted(groups, key=place)
    ids: list[str] = []
    due = 0.0  # records that should have been taken so far and were not
    for prompt in order[:-1]:
        size = len(groups[prompt])
        due += fraction * size
        if due >= size / 2:
            due -= size
            ids += [record.id for record in groups[prompt]]
    return ids or [record.id for record in groups[order[0]]]


def to_jsonl(records: Iterable[Record]) -> str:
    """Records as lines of JSON, which `cgclora.data.readers` reads unchanged."""
    return "".join(map(_line, records))


def _line(record: Record) -> str:
    fields: dict[str, object] = {"sample_id": record.id, "task": record.task}
    if record.messages:
        fields["messages"] = [one.to_openai() for one in record.messages]
    else:
        fields |= {"input": record.prompt, "target": record.target}
    if record.choices:
        fields["answer_choices"] = record.choices
    return json.dumps(fields, ensure_ascii=False) + "\n"
