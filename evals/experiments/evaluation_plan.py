"""An evaluation to be: what it would answer, how long that takes, and the command for it."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from cgclora.data.readers import Problem
from cgclora.data.records import Record
from cgclora.data.sources import FOLDER_VARIABLE, data_folder
from cgclora.storage.atomic_io import short_path
from evals.data import datasets
from evals.methods import METHODS
from evals.runs.time_left import ANSWER_WEIGHT
from evals.tasks import TASKS


@dataclass(frozen=True)
class TaskSize:
    """The records of a task.

    Attributes:
        records: How many.
        work: Of answering one of them, on average: characters, weighted by the time they cost.
    """

    records: int
    work: float


@dataclass(frozen=True)
class DataFacts:
    """What some data holds, without its texts.

    Attributes:
        name: See `cgclora.data.readers.RecordSet`.
        split: Likewise.
        tasks: The tasks that can be scored, in the order of `TASKS`.
        unknown: Records of tasks that we do not know, by name.
        problems: Lines that are no record.
    """

    name: str
    split: str | None
    tasks: Mapping[str, TaskSize]
    unknown: Mapping[str, int]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class EvaluationPlan:
    """What to evaluate.

    Attributes:
        method: What the leaderboard calls who answers.
        tasks: Which ones; None takes all that the data has and the adapter knows.
        per_task: Most records of a task; 0 takes all.
        adapter: Its folder; None asks the bare backbone.
        label: What tells it from others of the method.
        source: File or folder of the data; None takes the folder that `CGCLORA_DATA` names.
        skip_bad: Whether lines that are no record are passed over.
        backbone: Local folder or hub id; None takes the embedded one.
    """

    method: str
    tasks: tuple[str, ...] | None = None
    per_task: int = 0
    adapter: Path | None = None
    label: str = ""
    source: Path | None = None
    skip_bad: bool = False
    backbone: str | None = None

    def command(self, run: Path, seen_from: Path | None = None) -> tuple[str, ...]:
        """What `python` is given to do it.

        Args:
            run: Folder of the run to be.
            seen_from: Paths below this folder are relative to it; None takes the working directory.
        """
        base = seen_from or Path.cwd()
        known = METHODS.get(self.method)
        prompt = known.prompt if known else "plain"
        return (
            *("-m", "evals", "run"),
            *(("--adapter", short_path(self.adapter, base)) if self.adapter else ()),
            *(("--backbone", self.backbone) if self.backbone else ()),
            *(("--data", short_path(self.source, base)) if self.source else ()),
            *(("--skip-bad",) if self.skip_bad else ()),
            *(part for task in self.tasks or () for part in ("--task", task)),
            *(("--per-task", str(self.per_task)) if self.per_task else ()),
            *(("--prompt", prompt) if prompt != "plain" else ()),
            *("--method", self.method),
            *(("--label", self.label) if self.label else ()),
            *("--run", short_path(run, base)),
        )


# Data -------------------------------------------------------------------------------------


def data_facts(source: Path | None, split: str = "test") -> DataFacts:
    """What a file, a split of a folder, or the folder that `CGCLORA_DATA` names holds.

    Raises:
        DataError: It cannot be read, or holds no usable record.
    """
    path = data_folder(None) if source is None else source
    return _data_facts(path, split, _stamp(path))


def _stamp(path: Path) -> tuple[tuple[str, int, int], ...]:
    """What changes when one of the files does."""
    found = [path] if path.is_file() else sorted(path.glob("**/*.json*"))
    return tuple((str(one), (s := one.stat()).st_mtime_ns, s.st_size) for one in found)


@lru_cache(maxsize=16)
def _data_facts(path: Path, split: str, _: object) -> DataFacts:
    dataset = datasets.read(path, split=split, skip_bad=True)
    unknown = Counter(record.task for record in dataset.records if record.task not in TASKS)
    sizes = {
        name: TaskSize(len(records), statistics.fmean(map(_work, records)))
        for name in dataset.tasks
        if name in TASKS
        for records in [dataset.of_task(name)]
    }
    return DataFacts(
        dataset.name, dataset.split, MappingProxyType(sizes), dict(unknown), dataset.problems
    )


def _work(record: Record) -> float:
    return len(record.prompt) + ANSWER_WEIGHT * len(record.target)


# Time -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Earlier:
    """An evaluation that was done on this machine.

    Attributes:
        work: Of all its records, see `TaskSize`.
        answering: Seconds that this took.
        whole: Seconds from the start to the scores.
    """

    work: float
    answering: float
    whole: float


def total(facts: DataFacts, tasks: Sequence[str], per_task: int) -> tuple[int, float]:
    """Number of records to answer, and their work.

    Args:
        facts: Of the data.
        tasks: Some of its tasks.
        per_task: Most records of one; 0 takes all.
    """
    counts = {name: facts.tasks[name].records for name in tasks}
    if per_task:
        counts = {name: min(count, per_task) for name, count in counts.items()}
    return sum(counts.values()), sum(facts.tasks[name].work * n for name, n in counts.items())


def seconds_needed(work: float, earlier: Sequence[Earlier]) -> float | None:
    """How long an evaluation takes, judged by earlier ones; None without any."""
    measured = [one for one in earlier if one.work > 0 and one.answering > 0]
    if not measured:
        return None
    pace = sum(one.answering for one in measured) / sum(one.work for one in measured)
    around = statistics.median(max(0.0, one.whole - one.answering) for one in measured)
    return work * pace + around


def is_official_data_known() -> bool:
    """Whether `CGCLORA_DATA` names a folder."""
    named = os.environ.get(FOLDER_VARIABLE)
    return bool(named) and Path(named or "").is_dir()
