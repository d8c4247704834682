"""The training form, read into a plan, settings and data; and facts about the backbone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgclora.config import AdapterConfig
from cgclora.data.records import DataError, Record
from cgclora.data.sources import FOLDER_VARIABLE
from cgclora.storage.layer_shapes import LayerKind, layer_kinds
from cgclora.training.settings import TrainingSettings
from evals.data.report import CountTokens, Report, report
from evals.data.training_data import Source, TrainingData, read_source, training_data
from evals.experiments.training_plan import Plan
from evals.methods import CGC_SIZES, Sizes
from evals.tasks import FAMILIES, Language
from evals.tasks.recognition import Entry
from evals.tasks.samples import SAMPLES
from ui.components.forms import cluster_title
from ui.components.remembered import Remembered, Stamp, is_small, stamp
from ui.components.texts import text
from ui.engine.engine import AppEngine
from ui.engine.settings import AppLimits
from ui.server.files import check_upload

SIZES = (*CGC_SIZES, "lora_rank", "moe_experts")

STAND_INS = ("train.jsonl", "dev.jsonl")
"""Names of a run's data files, where the visitor's own files cannot be used unchanged."""


@dataclass(frozen=True)
class DataChoice:
    """Which data to train on."""

    source: str  # `samples`, `upload`, or a cluster of the data folder
    train_file: str | None
    dev_file: str | None
    tasks: tuple[str, ...]  # those to train; empty for all
    fraction: float  # share of dev records, if there is no dev set
    seed: int  # of the split
    known: tuple[str, ...] = ()  # tasks of the adapter to which the others are added

    @classmethod
    def of(cls, values: Mapping[str, Any], known: tuple[str, ...] = ()) -> DataChoice:
        """From the values of the components; missing ones have defaults."""
        return cls(
            source=str(values["source"] or "samples"),
            train_file=values["train_file"],
            dev_file=values["dev_file"],
            tasks=tuple(values["tasks"] or ()),
            fraction=float(values["fraction"] or 0.1),
            seed=int(values["seed"] or 0),
            known=known,
        )

    @property
    def uploads(self) -> list[Path]:
        """The uploaded files that records come from."""
        if self.source != "upload" or self.train_file is None:
            return []
        return [Path(file) for file in (self.train_file, self.dev_file) if file]

    def place(self) -> Source | None:
        """Where the records are; None before there are any."""
        if self.source == "samples":
            return Source(SAMPLES, split="test")
        if self.source == "upload":
            if self.train_file is None:
                return None
            train, *dev = self.uploads
            return Source(train, dev[0] if dev else None)
        folder = folders().get(self.source)
        return None if folder is None else Source(folder, folder)

    def shown_paths(self) -> tuple[str, str]:
        """The files in the shown command: the visitor's own, if they can be used unchanged."""
        folder = folders().get(self.source)
        if folder and all((folder / name).is_file() for name in STAND_INS):
            base = Path(os.environ[FOLDER_VARIABLE])
            inside = (folder / name for name in STAND_INS)
            train, dev = (f"${FOLDER_VARIABLE}/{path.relative_to(base)}" for path in inside)
            return train, dev
        if self.source == "upload" and self.train_file and self.dev_file:
            return Path(self.train_file).name, Path(self.dev_file).name
        return STAND_INS


def folders() -> dict[str, Path]:
    """Folders of training data by cluster, below the one that `CGCLORA_DATA` names."""
    named = os.environ.get(FOLDER_VARIABLE)
    if not named:
        return {}
    existing = {family.cluster: Path(named) / family.name for family in FAMILIES.values()}
    return {cluster: path for cluster, path in existing.items() if path.is_dir()}


def source_choices(language: Language) -> list[tuple[str, str]]:
    """Titles of the sources of data, and their names."""
    choices = [(text("train_source_samples", language), "samples")]
    for cluster in folders():
        words = cluster_title(cluster, language)
        choices.append((text("train_source_folder", language, cluster=words), cluster))
    return [*choices, (text("train_source_upload", language), "upload")]


# Data ---------------------------------------------------------------------------------------


class NoNewTaskError(DataError):
    """The adapter to grow has all tasks of the data; `args` are their names."""


@dataclass(frozen=True)
class Inspected:
    """A choice of data: all tasks of its source, and the chosen ones in a train and a dev set.

    `left_out` are those of the source that the adapter to grow has already.
    """

    tasks: tuple[str, ...]
    left_out: tuple[str, ...]
    data: TrainingData
    report: Report

    @property
    def own(self) -> tuple[Entry, ...]:
        """Descriptions of the chosen tasks that are not built in, as they were recognised."""
        return tuple(e for e in self.data.train.own if e["name"] in self.data.train.tasks)

    @property
    def examples(self) -> dict[str, tuple[Record, ...]]:
        """A few records of each chosen task."""
        return {task.name: task.examples for task in self.report.tasks}


def inspect(
    choice: DataChoice, limits: AppLimits, max_length: int, count_tokens: CountTokens | None
) -> Inspected | None:
    """Read, split and report on a choice; None before there is data.

    Records of more than `max_length` tokens are left out of training; without the backbone's
    tokenizer `count_tokens` they are not counted.

    Raises:
        NoNewTaskError: The adapter to grow has all tasks already.
        DataError: The data cannot be used.
        OSError: It is gone.
    """
    source = choice.place()
    if source is None:
        return None
    for upload in choice.uploads:
        check_upload(upload, limits)
    return _inspected(choice, source, _stamp(source), max_length, count_tokens)


def is_quick(choice: DataChoice, max_length: int, count_tokens: CountTokens | None) -> bool:
    """Whether `inspect` takes no time: little is to be read, or it has been read before."""
    source = choice.place()
    try:
        now = _stamp(source) if source else ()
    except OSError:  # `inspect` says so
        return True
    return is_small(now) or _inspected.has(choice, source, now, max_length, count_tokens)


def _inspect(
    choice: DataChoice,
    source: Source,
    stamp: Stamp,
    max_length: int,
    count_tokens: CountTokens | None,
) -> Inspected:
    train, dev = _read(source, stamp)
    known = tuple(task for task in train.tasks if task in choice.known)
    new = tuple(task for task in train.tasks if task not in known)
    if not new:
        raise NoNewTaskError(*known)
    tasks = [task for task in new if task in choice.tasks] or new
    data = training_data(train, dev, tasks=tasks, fraction=choice.fraction, seed=choice.seed)
    return Inspected(new, known, data, report(data, max_length, count_tokens))


_inspected = Remembered(_inspect)
_read = Remembered(lambda source, _: read_source(source))


def _stamp(source: Source) -> Stamp:
    return stamp(path for path in (source.train, source.dev) if path)


# Plan and settings --------------------------------------------------------------------------


def plan_of(values: Mapping[str, Any], tasks: tuple[str, ...]) -> Plan:
    """What to train.

    Raises:
        ConfigError: A size is out of range.
    """
    sizes = {name: _whole(values[name]) for name in SIZES}
    return Plan(
        method=str(values["method"]),
        tasks=tasks,
        sizes=Sizes(**sizes, alpha=values["alpha"]),
        target_modules=tuple(values["modules"]) if values["modules"] else None,
        half=bool(values["half"]),
    )


def settings_of(values: Mapping[str, Any], config: AdapterConfig) -> TrainingSettings:
    """How to train. A method without a learned gate has no learning rate for one.

    Raises:
        ConfigError: A value is out of range.
    """
    numbers = ("batch_size", "accumulation", "max_length", "records_per_task")
    return TrainingSettings(
        **{name: _whole(values[name]) for name in (*numbers, "evaluations", "patience", "seed")},
        epochs=values["epochs"],
        learning_rate=values["learning_rate"],
        gate_learning_rate=values["gate_rate"] if config.learns_gate else None,
        dev_records_per_task=_whole(values["dev_records"]),
        sampling=values["sampling"],
        weighting=values["weighting"],
        best_by=values["best_by"],
    )


def _whole(value: Any) -> Any:
    """A whole number as int; other values are validated later."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


# Backbone --------------------------------------------------------------------------------------


class BackboneView:
    """Layers, size and tokenizer of an engine's backbone, as far as they are known."""

    def __init__(self, engine: AppEngine) -> None:
        self._engine = engine

    def kinds(self) -> tuple[LayerKind, ...] | None:
        """Its linear layers; None if neither the backbone nor an adapter of it can be read yet."""
        if self._engine.facts is not None:
            return self._engine.facts.kinds
        # If the adapter was made for another backbone, loading will find out.
        for name in self._engine.adapters():
            if self._engine.configs[name].target_modules is None:
                with suppress(ValueError):
                    return layer_kinds(self._engine.path(name))
        return None

    def modules(self) -> list[str]:
        """Names of its kinds of linear layers."""
        return [*dict.fromkeys(kind.name for kind in self.kinds() or ())]

    def parameters(self) -> int | None:
        """Number of its parameters; None before it is loaded."""
        return self._engine.facts.parameters if self._engine.facts else None

    def count_tokens(self) -> CountTokens | None:
        """Its tokenizer as a counter, always an equal one; None before it is loaded."""
        return self._count if self._engine.status.ready else None

    def _count(self, texts: Sequence[str]) -> list[int]:
        return [count + 2 for count in self._engine.token_counts(texts)]  # with start and end
