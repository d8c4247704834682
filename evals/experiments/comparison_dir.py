"""The layout of a comparison's folder.

OUT/recipe.json                                        recipe, backbone, data hashes
OUT/adapters/<cluster>/<method>/seed-<seed>/rate-<rate>[/<task>]    training runs
OUT/runs/<cluster>/<method>/seed-<seed>/               run folders for the leaderboard
OUT/.locks/                                            a lock file for each piece of work
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cgclora.storage import atomic_io
from cgclora.storage.adapter_dir import read_manifest
from cgclora.storage.run_dir import TrainingError
from evals.methods import Method
from evals.runs.run_dir import MANIFEST_FILE, RunError

RECIPE_FILE = "recipe.json"

CLAIMS = ("hash", "backbone", "data")
"""Fields of `RECIPE_FILE` that must not change within a comparison."""

PROMPT_FORMAT = "prompt_format"
"""Another one, which is there where prompts are not plain."""

OTHERS = "others"
"""In the folder of an added task: the adapter of the cluster's other tasks."""

DIVERGED_FILE = "diverged.json"
"""Replaces the adapter of a training that diverged; holds the reason."""

ADAPTER_RECORD = "adapter.json"
"""Manifest of a training's adapter, restored by `parts` without the weights: tells the dev loss."""


class Busy(Exception):  # noqa: N818 - not an error
    """Another process holds the work, or something that it depends on."""


@dataclass(frozen=True)
class Cell:
    """A method with a seed on a cluster."""

    cluster: str
    method: Method
    seed: int

    @property
    def name(self) -> str:
        """Its path below `runs` and `adapters`."""
        return f"{self.cluster}/{slug(self.method.name)}/seed-{self.seed}"


@dataclass(frozen=True)
class Training:
    """A training run of a cell."""

    cell: Cell  # the cell that needs it
    rate: float  # the experts' learning rate
    tasks: tuple[str, ...]  # tasks of the adapter
    # The task that is added to this adapter afterwards; None for a final adapter.
    added: str | None = None


class DevResult(NamedTuple):
    """How good trained weights are on dev: the least is the best."""

    negative_score: float  # minus the mean of the tasks' scores; 0 where the loss chooses
    loss: float  # in nats a target token; inf if training diverged

    @classmethod
    def of(cls, training: Mapping[str, Any]) -> DevResult:
        """From the `training` of an adapter's manifest."""
        score = training.get("best_dev_score", 0.0)
        return cls(-float(score), float(training["best_dev_loss"]))

    @classmethod
    def mean(cls, results: Sequence[DevResult]) -> DevResult:
        """Of several trainings, field by field."""
        return cls(*(math.fsum(values) / len(results) for values in zip(*results, strict=True)))


DIVERGED = DevResult(math.inf, math.inf)


@dataclass(frozen=True)
class ComparisonFolder:
    """Paths and locks of the comparison in the folder `out`."""

    out: Path

    def run(self, cell: Cell) -> Path:
        """The run folder of a cell."""
        return self.out / "runs" / cell.name

    def training(self, training: Training) -> Path:
        """The folder of a training run."""
        folder = self.rate(training.cell, training.rate)
        if training.added is not None:
            return folder / slug(training.added) / OTHERS
        return folder / slug(training.tasks[0]) if training.cell.method.has_many else folder

    def rate(self, cell: Cell, rate: float) -> Path:
        """The folder of all adapters that a cell trains with a learning rate."""
        return self.out / "adapters" / cell.name / f"rate-{rate:g}"

    def hold(self, work: str) -> AbstractContextManager[Any]:
        """Lock a piece of work; raises Busy if another process holds it."""
        return atomic_io.acquire(self.out / ".locks" / slug(work), Busy())


def read_recipe_file(out: Path) -> dict[str, Any]:
    """Read the recipe.json of a comparison; RunError if it is missing or damaged."""
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
    """The fields that all parts of a comparison share."""
    more = {PROMPT_FORMAT: recipe[PROMPT_FORMAT]} if PROMPT_FORMAT in recipe else {}
    return {name: recipe[name] for name in CLAIMS} | more


def check_same(
    out: Path, recipe: Mapping[str, Any], other: Mapping[str, Any], part: str = ""
) -> None:
    """Raise RunError if the comparison in `out` is another one than that of a part or call."""
    names = (*CLAIMS, PROMPT_FORMAT)
    if differing := [name for name in names if recipe.get(name) != other.get(name)]:
        raise RunError(
            f"{out} holds a comparison that differs in {', '.join(differing)}"
            f"{f' from that of {part}' if part else ''}: choose another folder."
        )


def slug(name: str) -> str:
    """A name as a folder: `CGC-LoRA w/o gate` is `cgc-lora-w-o-gate`, and `换算` is `换算`."""
    cleaned = re.sub(r"[\W_]+", "-", name.lower()).strip("-")
    return cleaned or hashlib.sha256(name.encode()).hexdigest()[:8]


def is_run(folder: Path) -> bool:
    """Whether the run of a cell is finished."""
    atomic_io.recover_folder(folder)
    return (folder / MANIFEST_FILE).exists()


def is_trained(folder: Path) -> bool:
    """Whether a training has ended, with an adapter or diverged."""
    return (folder / "adapter" / MANIFEST_FILE).exists() or diverged(folder)


def diverged(folder: Path) -> bool:
    """Whether a training ended without an adapter."""
    return (folder / DIVERGED_FILE).exists()


def dev_result(folder: Path) -> DevResult:
    """How a training did on dev, from its adapter or `ADAPTER_RECORD`.

    Raises:
        AdapterError: The adapter is damaged.
        TrainingError: `ADAPTER_RECORD` is damaged.
    """
    if (folder / "adapter" / MANIFEST_FILE).exists():
        return DevResult.of(read_manifest(folder / "adapter")[0]["training"])
    record = folder / ADAPTER_RECORD
    try:
        return DevResult.of(atomic_io.read_sealed(record)["training"])
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{record} is damaged ({error!r}): put back a copy, or remove it and give the command "
            "again to train there once more."
        ) from error
