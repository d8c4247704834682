"""The form of a comparison, read into data and wishes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgclora.storage.atomic_io import short_path
from evals.data import datasets
from evals.data.splits import Splits, read_splits
from evals.experiments.own_data.wishes import Wishes
from evals.tasks.samples import OWN_EXAMPLE
from ui.components.own_tasks import Examples
from ui.components.remembered import Remembered, Stamp, is_small, stamp
from ui.engine.settings import AppLimits
from ui.server.files import check_upload
from ui.tabs.compare.layout import HUB
from ui.tabs.train.form import folders

EXAMPLE, UPLOAD = "example", "upload"

_FILES = ("train_file", "dev_file", "test_file")


@dataclass(frozen=True)
class DataChoice:
    """Which data to compare on."""

    source: str  # `EXAMPLE`, `UPLOAD`, `HUB`, or a cluster of the data folder
    train_file: str | None
    dev_file: str | None
    test_file: str | None
    hub: str  # id of a dataset
    tasks: tuple[str, ...]  # empty for all

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> DataChoice:
        """From the values of the components; missing ones have defaults."""
        return cls(
            source=str(values["source"] or EXAMPLE),
            **{name: values[name] for name in _FILES},
            hub=str(values["hub"] or "").strip(),
            tasks=tuple(values["tasks"] or ()),
        )

    @property
    def uploads(self) -> list[Path]:
        """The uploaded files that records come from."""
        if self.source != UPLOAD or self.train_file is None:
            return []
        return [Path(file) for name in _FILES if (file := getattr(self, name))]

    def place(self) -> str | Path | None:
        """Where the train records are; None before there are any."""
        if self.source == UPLOAD:
            return Path(self.train_file) if self.train_file else None
        if self.source == HUB:
            return self.hub or None
        return OWN_EXAMPLE if self.source == EXAMPLE else folders().get(self.source)

    def shown_options(self) -> list[str]:
        """The data's part of the command that a visitor would type."""
        if self.source == UPLOAD:
            train, *_ = self.uploads
            given = {"--dev": self.dev_file, "--test": self.test_file}
            others = [part for name, file in given.items() if file for part in (name, _name(file))]
            options = [_name(train), *others]
        else:
            place = self.place()
            options = [short_path(place, Path.cwd()) if isinstance(place, Path) else str(place)]
        return options + [part for task in self.tasks for part in ("--task", task)]


def _name(file: str | Path) -> str:
    return Path(file).name


@dataclass(frozen=True)
class Inspected:
    """A choice of data: all tasks of its source, and the chosen ones in three splits."""

    tasks: tuple[str, ...]
    splits: Splits
    examples: Examples  # of the tasks that are not built in


def inspect(choice: DataChoice, limits: AppLimits) -> Inspected | None:
    """Read and split a choice; None before there is data.

    Raises:
        DataError: The data cannot be used.
        OSError: It is gone.
    """
    place = choice.place()
    if place is None:
        return None
    for upload in choice.uploads:
        check_upload(upload, limits)
    return _inspected(choice, place, _stamp(choice, place))


def is_quick(choice: DataChoice) -> bool:
    """Whether `inspect` takes no time: little is to be read, or it has been read before."""
    place = choice.place()
    if place is None:
        return True
    try:
        now = _stamp(choice, place)
    except OSError:  # `inspect` says so
        return True
    is_here = isinstance(place, Path)
    return (is_here and is_small(now)) or _inspected.has(choice, place, now)


def _stamp(choice: DataChoice, place: str | Path) -> Stamp:
    return stamp(choice.uploads or ([place] if isinstance(place, Path) else []))


def _inspect(choice: DataChoice, place: str | Path, _: Stamp) -> Inspected:
    others = [Path(file) if file else None for file in (choice.dev_file, choice.test_file)]
    if choice.source != UPLOAD:
        others = [None, None]
    whole = read_splits(place, *others)
    tasks = [task for task in choice.tasks if task in whole.tasks]
    splits = read_splits(place, *others, tasks=tasks) if tasks else whole
    shown = {
        entry["name"]: datasets.examples(splits.train.of_task(entry["name"]))
        for entry in splits.train.own
    }
    return Inspected(whole.tasks, splits, shown)


_inspected = Remembered(_inspect)


def wishes_of(values: Mapping[str, Any]) -> Wishes:
    """What the visitor wishes; 0 leaves an amount to the plan.

    Raises:
        ConfigError: A value is out of range.
    """
    return Wishes(
        methods=tuple(values["methods"] or ()),
        seeds=int(values["seeds"] or 0),
        learning_rates=tuple(map(float, values["learning_rates"] or ())),
        minutes=float(values["minutes"] or 0),
        train_records=int(values["train_records"] or 0) or None,
        epochs=values["epochs"] or None,
        test_records=int(values["test_records"] or 0) or None,
    )


def wish_options(values: Mapping[str, Any]) -> list[str]:
    """The command's options for what the visitor wishes; defaults are left out."""
    wishes = wishes_of(values)
    defaults = vars(type(wishes)())
    names = {
        **{"methods": "method", "learning_rates": "rate"},
        **{name: name.replace("_", "-") for name in ("seeds", "minutes", "epochs")},
        **{name: name.replace("_", "-") for name in ("train_records", "test_records")},
    }
    options: list[str] = []
    for field, option in names.items():
        value = getattr(wishes, field)
        if value != defaults[field]:
            values_of = value if isinstance(value, tuple) else (value,)
            options += [part for one in values_of for part in (f"--{option}", f"{one}")]
    return options
