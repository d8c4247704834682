"""The data that visitors choose to train on, read once and looked at for each choice of theirs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from evals.data.datasets import Dataset
from evals.data.report import CountTokens, Report, report
from evals.data.training_data import Source, TrainingData, read_source, training_data
from ui.engine.settings import AppLimits
from ui.server.uploads import check_upload
from ui.tabs.train.form import DataChoice

_KEPT = 4  # sources, and choices within them

Stamp = tuple[int, ...]


@dataclass(frozen=True)
class Look:
    """What a choice of data comes to.

    Attributes:
        tasks: All tasks of the source.
        data: Those chosen, in a train and a dev set.
        report: On them.
    """

    tasks: tuple[str, ...]
    data: TrainingData
    report: Report


class DataDesk:
    """Reads sources and keeps the newest few in memory.

    Args:
        limits: Of what is uploaded.
    """

    def __init__(self, limits: AppLimits) -> None:
        self._limits = limits
        self._read = lru_cache(maxsize=_KEPT)(_read)
        self._look = lru_cache(maxsize=_KEPT)(self._look_anew)

    def look(
        self, choice: DataChoice, max_length: int, count_tokens: CountTokens | None
    ) -> Look | None:
        """What a choice comes to; None before there is data.

        Raises:
            DataError: The data cannot be used.
            OSError: It is not there any more.
        """
        source = choice.place()
        if source is None:
            return None
        for upload in choice.uploads:
            check_upload(upload, self._limits)
        return self._look(choice, source, _stamp(source), max_length, count_tokens)

    def _look_anew(
        self,
        choice: DataChoice,
        source: Source,
        stamp: Stamp,
        max_length: int,
        count_tokens: CountTokens | None,
    ) -> Look:
        train, dev = self._read(source, stamp)
        data = training_data(
            train, dev, tasks=choice.tasks, fraction=choice.fraction, seed=choice.seed
        )
        return Look(train.tasks, data, report(data, max_length, count_tokens))


def _read(source: Source, _: Stamp) -> tuple[Dataset, Dataset | None]:
    return read_source(source)


def _stamp(source: Source) -> Stamp:
    """When the files of a source were changed, so that they are read again then."""
    stamps = []
    for path in filter(None, (source.train, source.dev)):
        stamps += [each.stat().st_mtime_ns for each in _files(path)]
    return tuple(stamps)


def _files(path: Path) -> list[Path]:
    return sorted(path.rglob("*.json*")) if path.is_dir() else [path]
