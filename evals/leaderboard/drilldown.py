"""The samples behind a score: what was said to each record, beside what another run said.

A run folder holds answers and ids of records, never their text. Where the data lies on this machine
too, each answer stands beside its record's prompt and reference; records are shown only if their
hash says that they are the ones that were answered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from cgclora.data.records import DataError, Record, data_hash
from cgclora.data.sources import FAMILIES, data_folder
from evals.data.datasets import read
from evals.runs.run_dir import Run

Only = Literal["all", "wrong", "disagree", "won", "lost"]

KINDS: tuple[Only, ...] = get_args(Only)
"""Which samples: all; those that score below 1; and beside another run those with another answer,
a higher score, a lower score than its own."""


@dataclass(frozen=True)
class Said:
    """An answer to a record.

    Attributes:
        text: As it came.
        items: What was read from it, as JSON; the text where nothing was read.
        score: The record's own value of the task's main metric, in [0, 1]; None if not scored.
        cut: Whether it reached its most tokens.
    """

    text: str
    items: str
    score: float | None
    cut: bool


@dataclass(frozen=True)
class Sample:
    """A record with what was said to it.

    Attributes:
        task: Of the record.
        id: Of the record.
        said: By the run in question.
        other: By the run that it is compared with; None without one, or if that did not answer.
        record: Its prompt and reference; None where the data is not at hand.
    """

    task: str
    id: str
    said: Said
    other: Said | None
    record: Record | None

    def is_among(self, only: Only) -> bool:
        """Whether it is one of these samples, see `KINDS`."""
        mine, theirs = self.said.score, self.other.score if self.other else None
        if only == "wrong":
            return mine is not None and mine < 1
        if only == "disagree":
            return self.other is not None and self.said.items != self.other.items
        if only in ("won", "lost"):
            if mine is None or theirs is None:
                return False
            return mine > theirs if only == "won" else mine < theirs
        return True


@dataclass(frozen=True)
class SamplesBehind:
    """All samples of some tasks of a run.

    Attributes:
        samples: In the order of the run.
        problem: Why records are not shown; empty if they are.
        other_data: Tasks whose records at hand are others than those that were answered.
    """

    samples: tuple[Sample, ...]
    problem: str = ""
    other_data: tuple[str, ...] = field(default=())

    def count(self, only: Only) -> int:
        """How many there are of a kind."""
        return sum(sample.is_among(only) for sample in self.samples)


def samples_behind(run: Run, tasks: Sequence[str], other: Run | None = None) -> SamplesBehind:
    """The samples of some tasks of a run.

    Args:
        run: Whose.
        tasks: Of which tasks; the run need not have all.
        other: Whose answers stand beside.

    Raises:
        RunError: The predictions of a run are missing or damaged.
    """
    rows = [row for row in _rows(run) if row["task"] in tasks]
    theirs = {} if other is None else {(row["task"], row["id"]): row for row in _rows(other)}
    try:
        known, problem = _records(str(run.manifest.get("split") or "")), ""
    except DataError as error:
        known, problem = {}, str(error)
    facts = run.manifest["data"]["tasks"]
    differing = tuple(
        task
        for task in facts
        if known and task in tasks and not _is_same(rows, task, known, facts[task]["hash"])
    )
    return SamplesBehind(
        tuple(
            Sample(
                row["task"],
                row["id"],
                _said(row),
                _said(theirs[key]) if (key := (row["task"], row["id"])) in theirs else None,
                None if row["task"] in differing else known.get((row["task"], row["id"])),
            )
            for row in rows
        ),
        problem,
        differing,
    )


def _rows(run: Run) -> list[dict[str, Any]]:
    columns = run.predictions().to_dict("list")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _said(row: Mapping[str, Any]) -> Said:
    score = row.get("score")
    return Said(
        text=str(row["prediction"]),
        items=str(row.get("parsed") or row["prediction"]),
        score=None if score is None or not math.isfinite(score) else float(score),
        cut=row["finish"] == "length",
    )


def _is_same(
    rows: Sequence[Mapping[str, Any]],
    task: str,
    known: Mapping[tuple[str, str], Record],
    expected: str,
) -> bool:
    """Whether the records at hand are those that were answered."""
    found = [known.get((task, row["id"])) for row in rows if row["task"] == task]
    return data_hash(record for record in found if record is not None) == expected


def _records(split: str) -> Mapping[tuple[str, str], Record]:
    """The records of a split of the data folder, by task and id.

    Raises:
        DataError: No folder is known, or the split cannot be read.
    """
    if not split:
        raise DataError("the run does not say which split it answered.")
    folder = data_folder(None)
    places = [folder, *(folder / family for family in FAMILIES)]
    found = sorted(file for place in places for file in place.glob("*.json*"))
    return _read(folder, split, tuple((file, file.stat().st_mtime_ns) for file in found))


@lru_cache(maxsize=2)
def _read(
    folder: Path, split: str, _changed: tuple[tuple[Path, int], ...]
) -> Mapping[tuple[str, str], Record]:
    dataset = read(folder, split=split, skip_bad=True, need_target=False)
    return {(record.task, record.id): record for record in dataset.records}
