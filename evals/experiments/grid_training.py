"""The training runs of a comparison, as many side by side as memory allows."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from cgclora.adapter import Adapter
from cgclora.data.records import Record
from cgclora.data.task_table import description_facts
from cgclora.models.backbone import Backbone
from cgclora.models.hardware import free_memory
from cgclora.models.target_modules import linear_paths
from cgclora.storage import atomic_io
from cgclora.storage.run_dir import TrainingDiverged, TrainingError
from cgclora.training.add_task import add_tasks
from cgclora.training.settings import TrainingRun
from cgclora.training.train import train_side_by_side
from evals.data import datasets
from evals.data.datasets import Dataset
from evals.experiments.comparison_dir import (
    ADAPTER_RECORD,
    DIVERGED,
    DIVERGED_FILE,
    Busy,
    Cell,
    ComparisonFolder,
    DevResult,
    Training,
    dev_result,
    diverged,
    is_trained,
)
from evals.experiments.recipe import Recipe
from evals.methods import Method
from evals.runs.evaluate import prompted
from evals.scoring.dev_scores import TaskJudge

CPU_MEMBERS = 4
"""Maximum members of a pass on a CPU: more are not faster, and all of them would end late."""

_BYTES_A_PARAMETER = 20
"""Of a trained parameter: fp32 value, gradient and two moments, a bf16 value and gradient."""


class Trainer:
    """Trains the adapters of a comparison, at most `members` side by side (None fits the device).

    Attributes:
        prompt_format: What all prompts of the comparison get.
        report: Called with a line of progress.
        deadline: By `time.monotonic`; training stops then.
    """

    def __init__(
        self,
        recipe: Recipe,
        backbone: Backbone,
        splits: Mapping[str, Dataset],
        folder: ComparisonFolder,
        *,
        members: int | None = None,
    ) -> None:
        self.recipe = recipe
        self.backbone = backbone
        self.splits = splits
        self.folder = folder
        self.members = members
        self.prompt_format = recipe.prompts.format_for(backbone.tokenizer)
        self.report: Callable[[str], None] = lambda _: None
        self.deadline = math.inf
        self._dev_results: dict[Cell, dict[float, DevResult]] = {}
        self._records: dict[tuple[str, tuple[str, ...], str], list[Record]] = {}

    def is_out_of_time(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() > self.deadline

    def is_known(self, training: Training) -> bool:
        """Whether a training has ended, here or by its `ADAPTER_RECORD`."""
        return is_trained(self.folder.training(training)) or self._is_recorded(training)

    def _is_recorded(self, training: Training) -> bool:
        """Whether only the `ADAPTER_RECORD` of a training is here."""
        folder = self.folder.training(training)
        return not is_trained(folder) and (folder / ADAPTER_RECORD).exists()

    # Learning rates -----------------------------------------------------------------------

    def rates_to_try(self, cells: Sequence[Cell]) -> list[Training]:
        """The trainings that decide the learning rate of these cells."""
        tuned = dict.fromkeys(self.recipe.tuned(cell) for cell in cells)
        return [
            training
            for cell in tuned
            if cell is not None
            for rate in self.recipe.learning_rates
            for training in self.recipe.trainings(cell, rate)
        ]

    def learning_rate(self, cell: Cell) -> tuple[float | None, dict[str, Any]]:
        """The best rate on dev, and what shows it for the manifest of a run.

        That is `dev_losses` by rate, None where it diverged, and where scores choose `dev_scores`
        likewise; `dev_losses` alone is None if nothing is trained.

        Raises:
            Busy, TrainingStopped: As `train`.
            TrainingError: As `train`, or training diverged with every rate.
        """
        tuned = self.recipe.tuned(cell)
        if tuned is None:
            return None, {"dev_losses": None}
        if tuned not in self._dev_results:  # each look at an adapter reads all of its files
            self._dev_results[tuned] = {
                rate: self._dev_result(tuned, rate) for rate in self.recipe.learning_rates
            }
        results = self._dev_results[tuned]
        best = min(results, key=results.__getitem__)
        if math.isinf(results[best].loss):
            raise TrainingError(
                f"{tuned.method.name} diverged with every learning rate: give the recipe lower "
                "ones."
            )

        def by_rate(values: Mapping[float, float]) -> dict[str, float | None]:
            return {
                f"{rate:g}": None if math.isinf(value) else round(value, 6)
                for rate, value in values.items()
            }

        facts = {"dev_losses": by_rate({rate: one.loss for rate, one in results.items()})}
        if self.recipe.training.best_by == "score":
            scores = {rate: -one.negative_score for rate, one in results.items()}
            facts["dev_scores"] = by_rate(scores)
        return best, facts

    def _dev_result(self, cell: Cell, rate: float) -> DevResult:
        """The mean of a cell's trainings, which run if needed; `DIVERGED` if one did."""
        needed = self.recipe.trainings(cell, rate)
        self.train(needed, weights=False)
        folders = [self.folder.training(one) for one in needed]
        if any(diverged(folder) for folder in folders):
            return DIVERGED
        return DevResult.mean([dev_result(folder) for folder in folders])

    # Training -----------------------------------------------------------------------------

    def train(
        self, trainings: Sequence[Training], *, skip_busy: bool = False, weights: bool = True
    ) -> None:
        """Run the missing trainings side by side; finished ones keep their place, see `groups`.

        Args:
            trainings: In the order of work.
            skip_busy: Skip what another process holds.
            weights: Whether weights are needed; if not, an `ADAPTER_RECORD` is enough.

        Raises:
            Busy: Another process holds a training.
            TrainingError, TrainingStopped: As `train_side_by_side`.
        """
        if not weights:
            trainings = [one for one in trainings if not self._is_recorded(one)]
        added = [one for one in trainings if one.cell.method.adapters == "added"]
        parents = [self._parent_of(one) for one in added]
        for group in self.groups([*(one for one in trainings if one not in added), *parents]):
            self._train_group(group, skip_busy)
        for training, parent in zip(added, parents, strict=True):
            with suppress(Busy) if skip_busy else ExitStack():
                self._add_task(training, parent)

    def groups(self, trainings: Sequence[Training]) -> Iterator[list[Training]]:
        """The groups that train at once, each as large as memory allows, in order.

        Finished trainings keep their place in an unfinished group: a common checkpoint resumes bit
        for bit only with the same members.
        """
        remaining = iter(trainings)
        while group := [*islice(remaining, self._max_members(trainings))]:
            if not all(is_trained(self.folder.training(one)) for one in group):
                yield group

    def _max_members(self, trainings: Sequence[Training]) -> int:
        if self.members is not None:
            return self.members
        device = self.backbone.model.device
        free = free_memory(device)
        if device.type != "cuda" or free is None:
            return CPU_MEMBERS
        return max(1, int(free / 3 // max(map(self._bytes, trainings))))

    def _bytes(self, training: Training) -> int:
        """The memory of a member, its share of a pass aside."""
        config = self.recipe.config(training.cell.method.name, training.tasks)
        model = self.backbone.model
        shapes = []
        for path in linear_paths(model, config.target_modules):
            module: Any = model.get_submodule(path)
            shapes.append((module.in_features, module.out_features))
        return _BYTES_A_PARAMETER * config.trainable_parameters(shapes)

    def _train_group(self, group: Sequence[Training], skip_busy: bool) -> None:
        with ExitStack() as stack:
            runs: dict[Training, TrainingRun] = {}
            for training in group:
                folder = self.folder.training(training)
                if is_trained(folder) and not (folder / "checkpoints").exists():
                    continue
                with suppress(Busy) if skip_busy else ExitStack():
                    stack.enter_context(self._hold(folder))
                    if (folder / ADAPTER_RECORD).exists():
                        shutil.rmtree(folder)  # log and time of the earlier training
                    runs[training] = self.run(training, f"member{len(runs)}", folder)
                    stack.callback(runs[training].adapter.detach)
            if not all(is_trained(self.folder.training(training)) for training in runs):
                self._take_steps(runs)
            for run in runs.values():
                # A killed process may have left them.
                shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)

    def _hold(self, folder: Path) -> AbstractContextManager[Any]:
        return self.folder.hold(f"train {folder.relative_to(self.folder.out)}")

    def _take_steps(self, runs: Mapping[Training, TrainingRun]) -> None:
        beside = f" ({len(runs)} side by side)" if len(runs) > 1 else ""
        for run in runs.values():
            self.report(f"{self._name(run.folder)}: training{beside}")
        outcomes = train_side_by_side(
            [*runs.values()],
            self.backbone.tokenizer,
            progress=lambda _: None,
            stop=self.is_out_of_time,
        )
        for run, outcome in zip(runs.values(), outcomes, strict=True):
            self._record(run.folder, outcome)

    def _name(self, folder: Path) -> str:
        return str(folder.relative_to(self.folder.out / "adapters"))

    def _record(self, folder: Path, outcome: Mapping[str, Any] | TrainingDiverged) -> None:
        if isinstance(outcome, TrainingDiverged):
            atomic_io.write_json(folder / DIVERGED_FILE, str(outcome))
            self.report(f"{self._name(folder)}: {outcome}")
            return
        training = outcome["training"]
        result = f"dev loss {training['best_dev_loss']:.3f}, {training['seconds']:.0f} s"
        if "scoring" in training:
            seconds = training["scoring"]["seconds"]
            result = f"dev score {training['best_dev_score']:.3f} ({seconds:.0f} s), {result}"
        self.report(f"{self._name(folder)}: {result}")

    def run(self, training: Training, name: str, folder: Path) -> TrainingRun:
        """A training as a run in a folder; its adapter is attached under a name."""
        method = training.cell.method
        config = self.recipe.config(method.name, training.tasks)
        config = dataclasses.replace(config, **vars(self.prompt_format))
        return TrainingRun(
            Adapter.attach(self.backbone, config, name=name, seed=training.cell.seed),
            self.records("train", training.tasks, method.prompt),
            self.records("dev", training.tasks, method.prompt),
            self.recipe.settings(training.rate, training.cell.seed),
            folder,
            facts=self.facts(method, training.tasks),
            dtype=torch.bfloat16,
            judge=self._judge(),
        )

    def _judge(self) -> TaskJudge | None:
        if self.recipe.training.best_by == "loss":
            return None
        return TaskJudge(self.splits["dev"].descriptions)

    def facts(self, method: Method, tasks: Sequence[str]) -> dict[str, Any]:
        """Entries of the manifest of an adapter for these tasks."""
        own = {entry["name"]: entry for entry in self.splits["train"].own}
        return {
            "method": method.name,
            "recipe": self.recipe.name,
            **description_facts(own, tasks),
        }

    def records(self, split: str, tasks: tuple[str, ...], prompt: str) -> list[Record]:
        """Records with a method's prompts; equal arguments give the same list."""
        key = (split, tasks, prompt)
        if key not in self._records:
            descriptions = self.splits[split].descriptions
            self._records[key] = [
                prompted(record, prompt, descriptions[record.task])
                for record in datasets.only(self.splits[split], tasks).records
            ]
        return self._records[key]

    # Added tasks --------------------------------------------------------------------------

    def _parent_of(self, training: Training) -> Training:
        """The training of the cluster's other tasks, to whose adapter a task is added."""
        tasks = self.recipe.clusters[training.cell.cluster]
        others = tuple(task for task in tasks if task not in training.tasks)
        return dataclasses.replace(training, tasks=others, added=training.tasks[0])

    def _add_task(self, training: Training, parent: Training) -> None:
        """Add a task to the parent's adapter, in as many steps as its share of a joint training.

        Each step has as many of its records as in the joint training, too.
        """
        folder, others = self.folder.training(training), self.folder.training(parent)
        if is_trained(folder) or not is_trained(others):
            return
        with self._hold(folder):
            if diverged(others):
                shutil.copy(others / DIVERGED_FILE, folder / DIVERGED_FILE)
                return
            settings = self.recipe.settings(training.rate, training.cell.seed)
            tasks = self.recipe.clusters[training.cell.cluster]
            share = max(1, settings.batch_size // len(tasks))
            prompt = training.cell.method.prompt
            self.report(f"{self._name(folder)}: training")
            try:
                outcome: Mapping[str, Any] | TrainingDiverged = add_tasks(
                    others / "adapter",
                    training.tasks,
                    self.backbone,
                    self.backbone.tokenizer,
                    self.records("train", training.tasks, prompt),
                    self.records("dev", training.tasks, prompt),
                    dataclasses.replace(settings, batch_size=share),
                    folder,
                    facts=self.facts(training.cell.method, tasks),
                    progress=lambda _: None,
                    stop=self.is_out_of_time,
                    judge=self._judge(),
                )
            except TrainingDiverged as error:
                outcome = error
            self._record(folder, outcome)
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
