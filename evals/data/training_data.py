"""What a training run learns from: a train and a dev set, from wherever they come."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cgclora.data.readers import Problem
from cgclora.data.records import DataError, Record
from cgclora.storage import atomic_io
from evals.data.datasets import Dataset, draw, letters_and_digits, only, read


@dataclass(frozen=True)
class Source:
    """Where train and dev records lie.

    Attributes:
        train: A file, or a folder that has the split.
        dev: Likewise; None splits it off the train records.
        split: Of a folder, what is trained on.
    """

    train: Path
    dev: Path | None = None
    split: str = "train"


@dataclass(frozen=True)
class TrainingData:
    """Records to learn from, and those that the dev loss is taken on.

    Attributes:
        train: To learn from.
        dev: For the dev loss; they have no other tasks than `train`.
        split_off: Whether `dev` was part of the same file.
        problems: Lines of either that are no record.
    """

    train: Dataset
    dev: Dataset
    split_off: bool

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Lines of either that are no record."""
        return self.train.problems if self.split_off else self.train.problems + self.dev.problems

    def records(self, most: int) -> int:
        """How many train records take part when each task gives at most so many; 0 takes all."""
        counts = Counter(record.task for record in self.train.records)
        return sum(min(count, most or count) for count in counts.values())

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write both as the JSONL that `python -m cgclora train` reads; returns their paths."""
        paths = folder / "train.jsonl", folder / "dev.jsonl"
        for path, dataset in zip(paths, (self.train, self.dev), strict=True):
            atomic_io.write_text(path, "".join(map(_line, dataset.records)))
        return paths


def read_source(source: Source) -> tuple[Dataset, Dataset | None]:
    """The train and the dev records of a source; lines that are no record are listed as problems.

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
    """What a run learns from.

    Args:
        train: All train records.
        dev: All dev records; None splits them off the train records.
        tasks: Keep these tasks only, those that are not there aside; without any, keep all.
        fraction: Of each task's records that make the dev set, where there is none.
        seed: Of that split.

    Raises:
        DataError: A task has no dev record, or none can be split off.
    """
    train = _of_tasks(train, tasks)
    if dev is None:
        train, dev = split_off(train, fraction, seed)
        return TrainingData(train, dev, split_off=True)
    return TrainingData(train, only(dev, train.tasks), split_off=False)


def _of_tasks(dataset: Dataset, tasks: Sequence[str]) -> Dataset:
    wanted = [task for task in dataset.tasks if task in tasks]
    return only(dataset, wanted) if wanted else dataset


def split_off(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """A dataset in two: what is left, and a share of each task's records.

    Records with the same prompt stay together, so that none of them is seen in training and asked
    on dev. Both parts have a record of every task.

    Args:
        dataset: What to split.
        fraction: Of each task's records that go into the second part, in (0, 1).
        seed: Of the draw.

    Raises:
        DataError: The fraction is out of range, or a task has one prompt only.
    """
    if not 0 < fraction < 1:
        raise DataError(f"the share of dev records must lie between 0 and 1, got {fraction!r}.")
    dev: set[str] = set()
    for task, groups in _by_prompt(dataset.records).items():
        if len(groups) < 2:
            raise DataError(
                f"task {task!r} has one prompt only, so no dev records can be split off: give it "
                "more records, or give a dev file."
            )
        wanted = max(1, round(fraction * sum(map(len, groups.values()))))
        chosen: list[str] = []
        # The last group stays, whatever its size.
        for prompt in sorted(groups, key=lambda prompt: draw(prompt, seed))[:-1]:
            if len(chosen) >= wanted:
                break
            chosen += groups[prompt]
        dev.update(chosen)
    rest, part = (
        tuple(record for record in dataset.records if (record.id in dev) is inside)
        for inside in (False, True)
    )
    return dataclasses.replace(dataset, records=rest), dataclasses.replace(
        dataset, split="dev", records=part
    )


def _by_prompt(records: Sequence[Record]) -> dict[str, dict[str, list[str]]]:
    """Ids by prompt by task."""
    groups: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        groups[record.task][letters_and_digits(record.prompt)].append(record.id)
    return groups


def _line(record: Record) -> str:
    fields = {
        "sample_id": record.id,
        "task": record.task,
        "input": record.prompt,
        "target": record.target,
    }
    if record.choices:
        fields["answer_choices"] = list(record.choices)  # type: ignore[assignment]
    return json.dumps(fields, ensure_ascii=False) + "\n"
