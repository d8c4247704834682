"""Where a comparison keeps what: its cells, their trainings, and who works on which.

OUT/recipe.json                                        what it is
OUT/adapters/<cluster>/<method>/seed-<seed>/rate-<rate>[/<task>]    training runs
OUT/runs/<cluster>/<method>/seed-<seed>/               the run folders that a leaderboard reads
OUT/.locks/                                            one for each piece of work
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgclora.storage import atomic_io
from cgclora.storage.adapter_dir import read_manifest
from cgclora.storage.run_dir import TrainingError
from evals.methods import Method
from evals.runs.run_dir import MANIFEST_FILE, RunError

RECIPE_FILE = "recipe.json"

CLAIMS = ("hash", "backbone", "data")
"""What of it may not differ within a comparison."""

OTHERS = "others"
"""Folder, in that of a task that is added, of the adapter for the other tasks."""

DIVERGED_FILE = "diverged.json"
"""Stands in a training folder instead of an adapter, and says how it went."""

ADAPTER_RECORD = "adapter.json"
"""The manifest of a training folder's adapter, where `evals.experiments.parts` put it back.

It tells the dev loss even if the adapter's weights were not brought along.
"""


class Busy(Exception):  # noqa: N818 - no error: it is in good hands
    """Another process works on it, or on what it depends on."""


@dataclass(frozen=True)
class Cell:
    """A method with a seed on a cluster."""

    cluster: str
    method: Method
    seed: int

    @property
    def name(self) -> str:
        """Its place below `runs` and `adapters`."""
        return f"{self.cluster}/{slug(self.method.name)}/seed-{self.seed}"


@dataclass(frozen=True)
class Training:
    """A training run that a cell needs.

    Attributes:
        cell: Whose.
        rate: The experts' learning rate.
        tasks: What the adapter learns.
        added: The task that will be added to it; None where it is a result itself.
    """

    cell: Cell
    rate: float
    tasks: tuple[str, ...]
    added: str | None = None


class ComparisonFolder:
    """See the module's text.

    Args:
        out: The folder.
    """

    def __init__(self, out: Path) -> None:
        self.out = out

    def run(self, cell: Cell) -> Path:
        """Where a cell's answers are."""
        return self.out / "runs" / cell.name

    def training(self, training: Training) -> Path:
        """Where a training run lives."""
        folder = self.rate(training.cell, training.rate)
        if training.added is not None:
            return folder / slug(training.added) / OTHERS
        return folder / slug(training.tasks[0]) if training.cell.method.has_many else folder

    def rate(self, cell: Cell, rate: float) -> Path:
        """Where all that a cell trains with a rate lives."""
        return self.out / "adapters" / cell.name / f"rate-{rate:g}"

    def hold(self, what: str) -> AbstractContextManager[Any]:
        """Keep other processes from the same piece of work.

        Raises:
            Busy: Another process has it.
        """
        return atomic_io.acquire(self.out / ".locks" / slug(what), Busy())


def read_recipe_file(out: Path) -> dict[str, Any]:
    """A comparison's recipe.json, as `evals.experiments.grid` writes it.

    Raises:
        RunError: There is none, or it is damaged.
    """
    path = out / RECIPE_FILE
    try:
        values = json.loads(path.read_bytes())
        claims(values)
        list(values["recipe"]["methods"]), list(values["recipe"]["seeds"])
        return dict(values)
    except FileNotFoundError as error:
        raise RunError(f"{out} holds no comparison: {RECIPE_FILE} is missing.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error!r}): put back a copy.") from error


def claims(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What the parts of a comparison agree in."""
    return {name: recipe[name] for name in CLAIMS}


def slug(name: str) -> str:
    """A name as a folder: `CGC-LoRA w/o gate` is `cgc-lora-w-o-gate`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def is_run(folder: Path) -> bool:
    """Whether a cell was answered there."""
    atomic_io.recover_folder(folder)
    return (folder / MANIFEST_FILE).exists()


def is_trained(folder: Path) -> bool:
    """Whether a training ended there, with an adapter or without."""
    return (folder / "adapter" / MANIFEST_FILE).exists() or diverged(folder)


def diverged(folder: Path) -> bool:
    """Whether a training ended there without an adapter."""
    return (folder / DIVERGED_FILE).exists()


def dev_loss(folder: Path) -> float:
    """The lowest dev loss of an adapter that was trained there.

    Raises:
        AdapterError: The adapter is damaged.
        TrainingError: Its manifest, where that alone is there, is damaged.
    """
    if (folder / "adapter" / MANIFEST_FILE).exists():
        return float(read_manifest(folder / "adapter")[0]["training"]["best_dev_loss"])
    record = folder / ADAPTER_RECORD
    try:
        return float(atomic_io.read_sealed(record)["training"]["best_dev_loss"])
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{record} is damaged ({error!r}): put back a copy, or remove it and give the command "
            "again to train there once more."
        ) from error
