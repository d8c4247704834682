"""The training runs of a comparison, as many side by side as there is room for."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from cgclora.adapter import Adapter
from cgclora.data.records import Record
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
    DIVERGED_FILE,
    Busy,
    Cell,
    ComparisonFolder,
    Training,
    dev_loss,
    diverged,
    is_trained,
)
from evals.experiments.recipe import Recipe
from evals.methods import METHODS, SINGLE
from evals.runs.evaluate import PROMPTS
from evals.tasks import TASKS

CPU_MEMBERS = 4
"""Members of a pass on a processor: more make it no faster, and all would end late."""

_BYTES_A_PARAMETER = 20
"""Of one that trains: fp32 value, gradient and two moments, a bf16 value and gradient."""


class Trainer:
    """Trains what a comparison needs.

    Args:
        recipe: What is compared.
        backbone: Who is adapted.
        splits: The data, `train` and `dev` among it.
        folder: Where.
        say: Told in a line what is done.
        stop: Whether the time is up.
        members: Most that train side by side; None asks the device.
    """

    def __init__(
        self,
        recipe: Recipe,
        backbone: Backbone,
        splits: Mapping[str, Dataset],
        folder: ComparisonFolder,
        *,
        say: Callable[[str], None],
        stop: Callable[[], bool],
        members: int | None = None,
    ) -> None:
        self.recipe = recipe
        self.backbone = backbone
        self.splits = splits
        self.folder = folder
        self.say = say
        self.stop = stop
        self.members = members
        self._tried: dict[Cell, dict[float, float]] = {}
        self._asked: dict[tuple[str, tuple[str, ...], str], list[Record]] = {}

    # What there is ------------------------------------------------------------------------

    def needs(self, cell: Cell, rate: float) -> list[Training]:
        """What a cell trains with a rate."""
        tasks = self.recipe.clusters[cell.cluster]
        groups = [(task,) for task in tasks] if cell.method.has_many else [tuple(tasks)]
        return [Training(cell, rate, group) for group in groups]

    def _loss(self, cell: Cell, rate: float) -> float:
        """Train what a cell needs with a rate, unless it is there; the mean dev loss over tasks.

        Where the training diverged it is infinite. The record of an adapter is enough, see
        `ADAPTER_RECORD`.
        """
        needed = self.needs(cell, rate)
        self.train(needed, weights=False)
        folders = [self.folder.training(one) for one in needed]
        if any(diverged(folder) for folder in folders):
            return math.inf
        return sum(map(dev_loss, folders)) / len(folders)

    def is_known(self, training: Training) -> bool:
        """Whether its dev loss is known, or that it has none."""
        return is_trained(self.folder.training(training)) or self._is_recorded(training)

    def _is_recorded(self, training: Training) -> bool:
        """Whether its dev loss is all that is known of it."""
        folder = self.folder.training(training)
        return not is_trained(folder) and (folder / ADAPTER_RECORD).exists()

    # Learning rates -----------------------------------------------------------------------

    def rates_to_try(self, cells: Sequence[Cell]) -> list[Training]:
        """The trainings that tell which rate these cells take."""
        tuned = dict.fromkeys(self._tuned(cell) for cell in cells)
        return [
            training
            for cell in tuned
            if cell is not None
            for rate in self.recipe.learning_rates
            for training in self.needs(cell, rate)
        ]

    def _tuned(self, cell: Cell) -> Cell | None:
        """The cell whose rates are tried for a cell; None where nothing is trained."""
        if cell.method.adapters == "none":
            return None
        # What is composed of others has their rate.
        trained = METHODS[SINGLE] if cell.method.adapters == "composed" else cell.method
        return Cell(self.recipe.tune_on or cell.cluster, trained, self.recipe.seeds[0])

    def learning_rate(self, cell: Cell) -> tuple[float | None, dict[str, float | None] | None]:
        """The rate with the lowest dev loss, and the dev loss of each, None where it diverged.

        Raises:
            Busy, TrainingStopped: As `train`.
            TrainingError: As `train`, or it diverged with every rate.
        """
        tuned = self._tuned(cell)
        if tuned is None:
            return None, None
        if tuned not in self._tried:  # each look at an adapter reads all of its files
            self._tried[tuned] = {
                rate: self._loss(tuned, rate) for rate in self.recipe.learning_rates
            }
        tried = self._tried[tuned]
        best = min(tried, key=tried.__getitem__)
        if math.isinf(tried[best]):
            raise TrainingError(
                f"{tuned.method.name} diverged with every learning rate: give the recipe lower "
                "ones."
            )
        return best, {
            f"{rate:g}": None if math.isinf(loss) else round(loss, 6)
            for rate, loss in tried.items()
        }

    # Training -----------------------------------------------------------------------------

    def train(
        self, wanted: Sequence[Training], *, pass_over: bool = False, weights: bool = True
    ) -> None:
        """Train what is not there yet, side by side.

        Args:
            wanted: What.
            pass_over: Leave out what another process holds.
            weights: Whether adapters are wanted, and not their dev losses alone.

        Raises:
            Busy: Another process holds some of it.
            TrainingError, TrainingStopped: As `train_side_by_side`.
        """
        if not weights:
            wanted = [one for one in wanted if not self._is_recorded(one)]
        added = [one for one in wanted if one.cell.method.adapters == "added"]
        others = [self._others_of(one) for one in added]
        for group in self.groups([*(one for one in wanted if one not in added), *others]):
            self._train_group(group, pass_over)
        for training, parent in zip(added, others, strict=True):
            with suppress(Busy) if pass_over else ExitStack():
                self._add(training, parent)

    def groups(self, wanted: Sequence[Training]) -> Iterator[list[Training]]:
        """What is trained at once, in order, each as large as there is room for.

        What is there already keeps its place in a group of which something is missing: the same
        members go on from a common checkpoint bit for bit.
        """
        left = iter(wanted)
        while group := [*islice(left, self._most(wanted))]:
            if not all(is_trained(self.folder.training(one)) for one in group):
                yield group

    def _most(self, wanted: Sequence[Training]) -> int:
        """How many train side by side."""
        if self.members is not None:
            return self.members
        device = self.backbone.model.device
        free = free_memory(device)
        if device.type != "cuda" or free is None:
            return CPU_MEMBERS
        return max(1, int(free / 3 // max(map(self.bytes, wanted))))

    def bytes(self, training: Training) -> int:
        """What a member of a training needs, but for its share of a pass."""
        config = self.recipe.config(training.cell.method.name, training.tasks)
        model = self.backbone.model
        shapes = []
        for path in linear_paths(model, config.target_modules):
            module: Any = model.get_submodule(path)
            shapes.append((module.in_features, module.out_features))
        return _BYTES_A_PARAMETER * config.trainable_parameters(shapes)

    def _train_group(self, group: Sequence[Training], pass_over: bool) -> None:
        with ExitStack() as stack:
            runs: dict[Training, TrainingRun] = {}
            for training in group:
                folder = self.folder.training(training)
                if is_trained(folder) and not (folder / "checkpoints").exists():
                    continue
                with suppress(Busy) if pass_over else ExitStack():
                    place = folder.relative_to(self.folder.out)
                    stack.enter_context(self.folder.hold(f"train {place}"))
                    if (folder / ADAPTER_RECORD).exists():
                        # Of a training whose log and time shall not count here.
                        shutil.rmtree(folder)
                    runs[training] = self.run(training, f"member{len(runs)}", folder)
                    stack.callback(runs[training].adapter.detach)
            if not all(is_trained(self.folder.training(training)) for training in runs):
                self._take_steps(runs)
            for run in runs.values():
                # Nothing resumes any more; a process may have been killed before it removed them.
                shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)

    def _take_steps(self, runs: Mapping[Training, TrainingRun]) -> None:
        names = [str(run.folder.relative_to(self.folder.out / "adapters")) for run in runs.values()]
        for name in names:
            self.say(f"{name}: training" + (f" ({len(names)} side by side)" if names[1:] else ""))
        outcomes = train_side_by_side(
            [*runs.values()],
            self.backbone.tokenizer,
            progress=lambda _: None,
            stop=self.stop,
        )
        for name, run, outcome in zip(names, runs.values(), outcomes, strict=True):
            self._note(name, run.folder, outcome)

    def _note(self, name: str, folder: Path, outcome: Mapping[str, Any] | TrainingDiverged) -> None:
        if isinstance(outcome, TrainingDiverged):
            atomic_io.write_json(folder / DIVERGED_FILE, str(outcome))
            self.say(f"{name}: {outcome}")
            return
        facts = outcome["training"]
        self.say(f"{name}: dev loss {facts['best_dev_loss']:.3f}, {facts['seconds']:.0f} s")

    def run(self, training: Training, name: str, folder: Path) -> TrainingRun:
        """A training as a run in a folder, its adapter attached under a name."""
        method = training.cell.method
        config = self.recipe.config(method.name, training.tasks)
        return TrainingRun(
            Adapter.attach(self.backbone, config, name=name, seed=training.cell.seed),
            self.records("train", training.tasks, method.prompt),
            self.records("dev", training.tasks, method.prompt),
            self.recipe.settings(training.rate, training.cell.seed),
            folder,
            facts=self._facts(training),
            dtype=torch.bfloat16,
        )

    def _facts(self, training: Training) -> dict[str, Any]:
        return {"method": training.cell.method.name, "recipe": self.recipe.name}

    def records(self, split: str, tasks: tuple[str, ...], prompt: str) -> list[Record]:
        """Records as a method asks them, the same list whenever they are asked for."""
        key = (split, tasks, prompt)
        if key not in self._asked:
            ask = PROMPTS[prompt]
            self._asked[key] = [
                dataclasses.replace(record, prompt=ask(record, TASKS[record.task]))
                for record in datasets.only(self.splits[split], tasks).records
            ]
        return self._asked[key]

    # A task that is added -----------------------------------------------------------------

    def _others_of(self, training: Training) -> Training:
        """The training of the adapter that a task is added to: of the cluster's other tasks."""
        tasks = self.recipe.clusters[training.cell.cluster]
        others = tuple(task for task in tasks if task not in training.tasks)
        return dataclasses.replace(training, tasks=others, added=training.tasks[0])

    def _add(self, training: Training, parent: Training) -> None:
        """Add a task to the adapter of the others.

        That takes as many steps as it has part in when all are trained together, with as many of
        its records in each.
        """
        folder, others = self.folder.training(training), self.folder.training(parent)
        if is_trained(folder) or not is_trained(others):
            return
        name = str(folder.relative_to(self.folder.out / "adapters"))
        with self.folder.hold(f"train {folder.relative_to(self.folder.out)}"):
            if diverged(others):
                shutil.copy(others / DIVERGED_FILE, folder / DIVERGED_FILE)
                return
            settings = self.recipe.settings(training.rate, training.cell.seed)
            tasks = self.recipe.clusters[training.cell.cluster]
            share = max(1, settings.batch_size // len(tasks))
            prompt = training.cell.method.prompt
            self.say(f"{name}: training")
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
                    facts=self._facts(training),
                    progress=lambda _: None,
                    stop=self.stop,
                )
            except TrainingDiverged as error:
                outcome = error
            self._note(name, folder, outcome)
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
