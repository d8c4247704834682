"""Drill-down: the samples of a score, with the answers of one or two runs to each record.

A run folder holds answers and ids of records, never their text. If the data is on this machine,
each answer is shown with its record's prompt and reference, provided that the records' hash is that
of the answered ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from cgclora.data.records import DataError, Record, data_hash
from cgclora.data.sources import FAMILIES, data_folder
from evals.data.datasets import read
from evals.runs.run_dir import Run

Only = Literal["all", "wrong", "disagree", "won", "lost"]

KINDS: tuple[Only, ...] = get_args(Only)
"""Filters: all samples; those that score below 1; and, compared with another run, those with a
different answer, a higher score, a lower score."""


@dataclass(frozen=True)
class SampleAnswer:
    """An answer to a record."""

    text: str
    items: str  # the parsed items as JSON; the text if there are none
    score: float | None  # of this record by the task's main metric, in [0, 1]; None before scoring
    cut: bool  # whether it reached its maximum of tokens


@dataclass(frozen=True)
class Sample:
    """A record with the answers to it."""

    task: str
    id: str
    answer: SampleAnswer  # of the run
    other: SampleAnswer | None  # of the run that it is compared with
    record: Record | None  # None if the data is not on this machine

    def is_among(self, only: Only) -> bool:
        """Whether the sample passes a filter, see `KINDS`."""
        mine, theirs = self.answer.score, self.other.score if self.other else None
        if only == "wrong":
            return mine is not None and mine < 1
        if only == "disagree":
            return self.other is not None and self.answer.items != self.other.items
        if only in ("won", "lost"):
            if mine is None or theirs is None:
                return False
            return mine > theirs if only == "won" else mine < theirs
        return True


@dataclass(frozen=True)
class SampleSet:
    """All samples of some tasks of a run."""

    samples: tuple[Sample, ...]  # in the order of the run
    problem: str = ""  # why records are not shown; empty if they are
    other_data: tuple[str, ...] = ()  # tasks whose local records differ from the answered ones

    def count(self, only: Only) -> int:
        """Number of samples that pass a filter."""
        return sum(sample.is_among(only) for sample in self.samples)


def together(parts: Sequence[SampleSet]) -> SampleSet:
    """The samples of several runs, one after the other."""
    return SampleSet(
        samples=tuple(sample for part in parts for sample in part.samples),
        problem=next((part.problem for part in parts if part.problem), ""),
        other_data=tuple(task for part in parts for task in part.other_data),
    )


def find_samples(run: Run, tasks: Sequence[str], other: Run | None = None) -> SampleSet:
    """The samples of a run on some tasks, with the answers of another run beside them.

    Raises:
        RunError: The predictions of a run are missing or damaged.
    """
    rows = [row for row in _rows(run) if row["task"] in tasks]
    theirs = {} if other is None else {(row["task"], row["id"]): row for row in _rows(other)}
    try:
        records, problem = _records(run), ""
    except DataError as error:
        records, problem = {}, str(error)
    facts = run.manifest["data"]["tasks"]
    differing = tuple(
        task
        for task in facts
        if records and task in tasks and not _is_same(rows, task, records, facts[task]["hash"])
    )
    samples = []
    for row in rows:
        key = (row["task"], row["id"])
        other_answer = _answer(theirs[key]) if key in theirs else None
        record = None if row["task"] in differing else records.get(key)
        samples.append(Sample(*key, _answer(row), other_answer, record))
    return SampleSet(tuple(samples), problem, differing)


def _rows(run: Run) -> list[dict[str, Any]]:
    columns = run.predictions().to_dict("list")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _answer(row: Mapping[str, Any]) -> SampleAnswer:
    score = row.get("score")
    return SampleAnswer(
        text=str(row["prediction"]),
        items=str(row.get("parsed") or row["prediction"]),
        score=None if score is None or not math.isfinite(score) else float(score),
        cut=row["finish"] == "length",
    )


def _is_same(
    rows: Sequence[Mapping[str, Any]],
    task: str,
    records: Mapping[tuple[str, str], Record],
    expected: str,
) -> bool:
    """Whether the local records of a task are the answered ones."""
    local = [records.get((task, row["id"])) for row in rows if row["task"] == task]
    return data_hash(record for record in local if record is not None) == expected


def _records(run: Run) -> Mapping[tuple[str, str], Record]:
    """The records of the run's split, by task and id, of its comparison or of the data folder.

    Raises:
        DataError: No folder is known, or the split cannot be read.
    """
    split = str(run.manifest.get("split") or "")
    if not split:
        raise DataError("the run does not say which split it answered.")
    folder = _own_data(run.folder) or data_folder(None)
    places = [folder, *(folder / family for family in FAMILIES)]
    files = sorted(file for place in places for file in place.glob("*.json*"))
    return _read(folder, split, tuple((file, file.stat().st_mtime_ns) for file in files))


def _own_data(run: Path) -> Path | None:
    """The data of the comparison on a user's data that a run is part of."""
    folders = (
        parent.with_name("data") for parent in run.absolute().parents if parent.name == "runs"
    )
    return next((folder for folder in folders if folder.is_dir()), None)


@lru_cache(maxsize=2)
def _read(
    folder: Path, split: str, _file_versions: tuple[tuple[Path, int], ...]
) -> Mapping[tuple[str, str], Record]:
    dataset = read(folder, split=split, skip_bad=True, need_target=False)
    return {(record.task, record.id): record for record in dataset.records}
