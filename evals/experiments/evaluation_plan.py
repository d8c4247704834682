"""The plan of an evaluation: its data, its expected duration and its command line."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from evals.tasks.recognition import Entry


@dataclass(frozen=True)
class TaskSize:
    """The records of a task."""

    records: int  # how many
    work: float  # mean of a record: characters, weighted by cost
    # See `datasets.examples`; of tasks that are not built in. Texts have no place in a log.
    examples: tuple[Record, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class DataFacts:
    """A summary of a data set."""

    name: str  # see `cgclora.data.readers.RecordSet`
    split: str | None  # likewise
    tasks: Mapping[str, TaskSize]  # in the order of the dataset
    own: tuple[Entry, ...]  # descriptions of the tasks that are not built in
    problems: tuple[Problem, ...]  # lines that are not records


@dataclass(frozen=True)
class EvaluationPlan:
    """An evaluation to run."""

    method: str  # name on the leaderboard
    tasks: tuple[str, ...] | None = None  # None takes all tasks of the data that the adapter has
    per_task: int = 0  # maximum records of a task; 0 takes all
    adapter: Path | None = None  # adapter folder; None evaluates the bare backbone
    label: str = ""  # tells runs of one method apart
    # File or folder of the data; None takes the folder in `CGCLORA_DATA`.
    source: Path | None = None
    skip_bad: bool = False  # whether lines that are not records are skipped
    backbone: str | None = None  # local folder or hub id; None takes the embedded one

    def command(self, run: Path, seen_from: Path | None = None) -> tuple[str, ...]:
        """The arguments of `python` that run this evaluation.

        Args:
            run: Run folder to make.
            seen_from: Paths below this folder become relative to it; None takes the working
                directory.
        """
        base = seen_from or Path.cwd()
        method = METHODS.get(self.method)
        prompt = method.prompt if method else "plain"
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


def data_facts(source: Path | None, split: str = "test") -> DataFacts:
    """Summarise a file, or a split of a folder; None takes the folder in `CGCLORA_DATA`.

    Raises:
        DataError: The data cannot be read, or holds no usable record.
    """
    path = data_folder(None) if source is None else source
    files = [path] if path.is_file() else sorted(path.glob("**/*.json*"))
    stats = [(str(file), file.stat()) for file in files]
    return _data_facts(path, split, tuple((name, s.st_mtime_ns, s.st_size) for name, s in stats))


@lru_cache(maxsize=16)
def _data_facts(path: Path, split: str, _file_versions: object) -> DataFacts:
    dataset = datasets.read(path, split=split, skip_bad=True)
    own = {entry["name"] for entry in dataset.own}
    sizes = {
        name: TaskSize(
            len(records),
            statistics.fmean(map(_work, records)),
            datasets.examples(records) if name in own else (),
        )
        for name in dataset.tasks
        for records in [dataset.of_task(name)]
    }
    return DataFacts(
        dataset.name, dataset.split, MappingProxyType(sizes), dataset.own, dataset.problems
    )


def _work(record: Record) -> float:
    return len(record.prompt) + ANSWER_WEIGHT * len(record.target)


@dataclass(frozen=True)
class Earlier:
    """A finished evaluation on this machine."""

    work: float  # of all its records, see `TaskSize`
    answering: float  # seconds of answering
    whole: float  # seconds from the start to the scores


def total(facts: DataFacts, tasks: Sequence[str], per_task: int) -> tuple[int, float]:
    """Number of records to answer, up to `per_task` of each task (0: all), and their work."""
    sizes = [facts.tasks[name] for name in tasks]
    counts = [min(size.records, per_task or size.records) for size in sizes]
    return sum(counts), sum(size.work * n for size, n in zip(sizes, counts, strict=True))


def seconds_needed(work: float, earlier: Sequence[Earlier]) -> float | None:
    """Expected duration of an evaluation from earlier ones; None without any."""
    measured = [one for one in earlier if one.work > 0 and one.answering > 0]
    if not measured:
        return None
    pace = sum(one.answering for one in measured) / sum(one.work for one in measured)
    overhead = statistics.median(max(0.0, one.whole - one.answering) for one in measured)
    return work * pace + overhead


def is_official_data_known() -> bool:
    """Whether `CGCLORA_DATA` names a folder."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return bool(folder) and Path(folder or "").is_dir()
