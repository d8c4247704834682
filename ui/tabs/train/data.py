"""Training data as visitors choose it: read once, and inspected for each choice."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from evals.data.datasets import Dataset
from evals.data.report import CountTokens, Report, report
from evals.data.training_data import Source, TrainingData, read_source, training_data
from ui.engine.settings import AppLimits
from ui.server.files import check_upload
from ui.tabs.train.form import DataChoice

_CACHED = 4  # sources, and choices within them

Stamp = tuple[int, ...]


@dataclass(frozen=True)
class Inspected:
    """A choice of data, read and split.

    Attributes:
        tasks: All tasks of the source.
        data: The chosen ones, in a train and a dev set.
        report: On them.
    """

    tasks: tuple[str, ...]
    data: TrainingData
    report: Report


def inspect(
    choice: DataChoice, limits: AppLimits, max_length: int, count_tokens: CountTokens | None
) -> Inspected | None:
    """Read, split and report on a choice; None before there is data.

    Args:
        choice: Of the visitor.
        limits: Of uploads.
        max_length: Tokens of a record, beyond which it is left out of training.
        count_tokens: The backbone's tokenizer; None before it is loaded.

    Raises:
        DataError: The data cannot be used.
        OSError: It is gone.
    """
    source = choice.place()
    if source is None:
        return None
    for upload in choice.uploads:
        check_upload(upload, limits)
    return _inspect(choice, source, _stamp(source), max_length, count_tokens)


@lru_cache(maxsize=_CACHED)
def _inspect(
    choice: DataChoice,
    source: Source,
    stamp: Stamp,
    max_length: int,
    count_tokens: CountTokens | None,
) -> Inspected:
    train, dev = _read(source, stamp)
    data = training_data(train, dev, tasks=choice.tasks, fraction=choice.fraction, seed=choice.seed)
    return Inspected(train.tasks, data, report(data, max_length, count_tokens))


@lru_cache(maxsize=_CACHED)
def _read(source: Source, _: Stamp) -> tuple[Dataset, Dataset | None]:
    return read_source(source)


def _stamp(source: Source) -> Stamp:
    """Modification times of a source's files, so that changed ones are read again."""
    paths = [path for path in (source.train, source.dev) if path]
    files = [
        file
        for path in paths
        for file in (sorted(path.rglob("*.json*")) if path.is_dir() else [path])
    ]
    return tuple(file.stat().st_mtime_ns for file in files)
