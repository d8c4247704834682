"""A comparison on a user's data: how it begins, and its state so far.

    OUT/plan.json    see `plan`
    OUT/data/        the splits, see `evals.data.splits`
    OUT/...          see `evals.experiments.comparison_dir`

It becomes certain in three steps: dev losses, scores of one training seed, scores of all.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

from cgclora.storage import atomic_io
from evals.data.splits import Splits
from evals.experiments.comparison_dir import Cell, ComparisonFolder, Training, diverged
from evals.experiments.own_data.plan import PLAN_FILE, ComparisonPlan, Pace, read_plan
from evals.experiments.recipe import Recipe
from evals.experiments.training_log import TrainingLog, read_log
from evals.leaderboard.board import Board, boards
from evals.runs.run_dir import MANIFEST_FILE, METRICS_FILE, RunError

DATA_FOLDER = "data"

Certainty = Literal["none", "dev loss", "one seed", "all seeds"]


def begin(out: Path, splits: Splits, plan: ComparisonPlan) -> None:
    """Write the data, and then the plan, of a comparison in a new folder.

    Raises:
        RunError: The folder holds a comparison already.
    """
    if (out / PLAN_FILE).exists():
        raise RunError(f"{out} holds a comparison already: choose another folder.")
    splits.write(out / DATA_FOLDER)
    plan.write(out)


@dataclass(frozen=True)
class Step:
    """A training of a comparison."""

    training: Training
    share: float  # of the work of its method with this rate: one of T adapters a task has 1 / T
    log: TrainingLog | None  # None before its first step
    seconds: float | None  # that it took; None until it has ended, like the next
    dev_loss: float | None  # the lowest one, in nats a target token; inf if it diverged

    @property
    def done(self) -> float:
        """The share of its steps that are taken, in [0, 1]."""
        if self.dev_loss is not None:
            return 1.0
        return self.log.step / self.log.steps if self.log and self.log.steps else 0.0


@dataclass(frozen=True)
class Comparison:
    """The state of a comparison."""

    out: Path
    plan: ComparisonPlan
    steps: tuple[Step, ...]  # trainings in the order of work, those with a chosen rate once known
    answered: tuple[Cell, ...]  # cells with scores

    @cached_property
    def board(self) -> Board | None:
        """The leaderboard of the scored cells; None before the first one."""
        return next(iter(boards(self.out / "runs").boards), None)

    @property
    def dev_losses(self) -> dict[str, dict[float, float]]:
        """Dev loss by method and rate, of the first seed and of finished trainings.

        Of a method with an adapter a task it is their mean; inf where training diverged.
        """
        first = self.plan.recipe.seeds[0]
        return _dev_losses(step for step in self.steps if step.training.cell.seed == first)

    @property
    def certainty(self) -> Certainty:
        """How far it has come, see the module's text."""
        recipe = self.plan.recipe
        left = Counter(cell.seed for cell in recipe.cells() if cell not in self.answered)
        if not left.total():
            return "all seeds"
        if not left[recipe.seeds[0]]:
            return "one seed"
        return "dev loss" if self.dev_losses else "none"

    @property
    def shares(self) -> tuple[float, float]:
        """The shares of the training and of the answering that are done, in [0, 1]."""
        done = math.fsum(step.share * step.done for step in self.steps)
        return done / max(1, self._passes), len(self.answered) / len(self.plan.recipe.cells())

    @property
    def share_done(self) -> float:
        """The share of the expected time that has passed, in [0, 1]."""
        return 1 - self.seconds_left / max(1e-9, self.plan.work.seconds(self.pace))

    @property
    def seconds_left(self) -> float:
        """The expected time of the remaining work, at the pace so far."""
        trained, answered = self.shares
        return self.plan.work.seconds(self.pace, 1 - trained, 1 - answered)

    @cached_property
    def pace(self) -> Pace:
        """The pace of the finished work; the default one where there is none yet."""
        work, expected, (_, answered) = self.plan.work, Pace(), self.shares
        finished = [step for step in self.steps if step.seconds is not None]
        trained = math.fsum(step.share for step in finished) / max(1, self._passes)
        training = math.fsum(step.seconds or 0.0 for step in finished)
        answering = math.fsum(_answering_seconds(self.out, cell) for cell in self.answered)
        return Pace(
            training / (work.training * trained) if trained else expected.training,
            answering / (work.answering * answered) if answered else expected.answering,
            is_measured=bool(trained and answered),
        )

    @property
    def _passes(self) -> int:
        """How often a method learns from the data, counted over methods, rates and seeds."""
        recipe = self.plan.recipe
        tuned = {one.method.name for cell in recipe.cells() if (one := recipe.tuned(cell))}
        return len(tuned) * (len(recipe.learning_rates) + len(recipe.seeds) - 1)


def read_comparison(out: Path) -> Comparison | None:
    """The state of the comparison in a folder; None if there is none.

    Raises:
        RunError: Its plan is damaged.
    """
    plan = read_plan(out)
    if plan is None:
        return None
    folder = ComparisonFolder(out)
    answered = tuple(
        cell for cell in plan.recipe.cells() if (folder.run(cell) / METRICS_FILE).exists()
    )
    return Comparison(out, plan, tuple(_steps(folder, plan.recipe)), answered)


def newest_pace(folder: Path) -> Pace:
    """The pace of the newest comparison in a folder of comparisons; the default one without any."""
    plans = sorted(folder.glob(f"*/{PLAN_FILE}"), key=lambda path: -path.stat().st_mtime)
    for path in plans:
        with suppress(RunError):
            comparison = read_comparison(path.parent)
            if comparison is not None and comparison.pace.is_measured:
                return comparison.pace
    return Pace()


def adapter_of(comparison: Comparison, method: str) -> Path | None:
    """The adapter with which a method answered all tasks, trained with the first seed.

    None if there is none yet, or one for each task.
    """
    recipe, folder = comparison.plan.recipe, ComparisonFolder(comparison.out)
    cell = next((one for one in comparison.answered if one.method.name == method), None)
    tuned = None if cell is None or cell.method.has_many else recipe.tuned(cell)
    if cell is None or tuned is None:
        return None
    path = folder.rate(cell, _best(comparison.dev_losses[tuned.method.name])) / "adapter"
    return path if path.is_dir() else None


def _best(losses: Mapping[float, float]) -> float:
    """The learning rate with the lowest dev loss."""
    return min(losses, key=losses.__getitem__)


# Reading ----------------------------------------------------------------------------------


def _steps(folder: ComparisonFolder, recipe: Recipe) -> Iterator[Step]:
    """All trainings of the first seed; of the others those whose rate is chosen."""
    tuned = dict.fromkeys(one for cell in recipe.cells() if (one := recipe.tuned(cell)))
    first = [
        step
        for cell in tuned
        for rate in recipe.learning_rates
        for step in _trainings(folder, recipe, cell, rate)
    ]
    yield from first
    losses = _dev_losses(first)
    for cell in recipe.cells():
        of_rate = losses.get(cell.method.name, {})
        is_chosen = len(of_rate) == len(recipe.learning_rates)
        if cell.method.config is not None and cell not in tuned and is_chosen:
            yield from _trainings(folder, recipe, cell, _best(of_rate))


def _dev_losses(steps: Iterable[Step]) -> dict[str, dict[float, float]]:
    """See `Comparison.dev_losses`."""
    groups: dict[str, dict[float, list[Step]]] = {}
    for step in steps:
        of_rate = groups.setdefault(step.training.cell.method.name, {})
        of_rate.setdefault(step.training.rate, []).append(step)
    means: dict[str, dict[float, float]] = {}
    for method, of_rate in groups.items():
        for rate, group in of_rate.items():
            values = [step.dev_loss for step in group if step.dev_loss is not None]
            if len(values) == len(group):
                means.setdefault(method, {})[rate] = math.fsum(values) / len(values)
    return means


def _trainings(folder: ComparisonFolder, recipe: Recipe, cell: Cell, rate: float) -> Iterator[Step]:
    trainings = recipe.trainings(cell, rate)
    for training in trainings:
        path = folder.training(training)
        manifest = path / "adapter" / MANIFEST_FILE
        seconds = loss = None
        if diverged(path):
            loss = math.inf
        elif manifest.exists():
            seconds, loss = _outcome(manifest, manifest.stat().st_mtime_ns)
        log = None
        with suppress(OSError):
            log = read_log(path)
        yield Step(training, 1 / len(trainings), log, seconds, loss)


@lru_cache(maxsize=1024)
def _outcome(manifest: Path, _: int) -> tuple[float, float]:
    """Seconds and dev loss of a finished training, by its manifest and when that was written."""
    training = atomic_io.read_sealed(manifest)["training"]
    return float(training["seconds"]), float(training["best_dev_loss"])


def _answering_seconds(out: Path, cell: Cell) -> float:
    path = ComparisonFolder(out).run(cell) / MANIFEST_FILE
    with suppress(OSError, ValueError):
        return float(json.loads(path.read_bytes()).get("seconds") or 0.0)
    return 0.0
