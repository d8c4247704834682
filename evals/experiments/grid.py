"""A comparison bit by bit: train and answer what is missing until the time is up.

A cell is a method with a seed on a cluster; `comparison_dir` says where it keeps what.
With the first seed all learning rates are trained, side by side, and the one with the lowest dev
loss answers the test records; other seeds train with that one. All cells of a seed come before the
next seed: a table of one seed is worth more than one method with all seeds. A call that is stopped,
killed or out of time goes on where it was, here or wherever the folder is copied to. Several
processes may work on one folder: each passes over what another holds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cgclora.adapter import Adapter
from cgclora.inference.continuous.loop import FEW, default_rows
from cgclora.inference.engine import answers_of
from cgclora.inference.request import Answer, Request
from cgclora.models.backbone import Backbone
from cgclora.storage import atomic_io, provenance
from cgclora.storage.run_dir import TrainingError, TrainingStopped
from evals.data import datasets
from evals.data.datasets import Dataset
from evals.experiments.comparison_dir import (
    CLAIMS,
    RECIPE_FILE,
    Busy,
    Cell,
    ComparisonFolder,
    Training,
    is_run,
    is_trained,
)
from evals.experiments.grid_training import Trainer
from evals.experiments.lorahub import compose
from evals.experiments.recipe import Recipe
from evals.methods import METHODS, SINGLE
from evals.runs import evaluate
from evals.runs.engines import LocalEngine
from evals.runs.evaluate import Engine, Questions, predict_together
from evals.runs.run_dir import MANIFEST_FILE, METRICS_FILE, Run, RunError, read_run

SPLITS = ("train", "dev", "test")

SCORING = ("jieba", "rouge_chinese", "sacrebleu", "sklearn")
"""Packages without which answers are kept unscored."""

SEARCHING = "cma"
"""Package without which LoRAHub is left for a machine that has it."""

DRAW = 0
"""Seed of which records take part: the same for all methods and training seeds."""


class OutOfTime(Exception):  # noqa: N818 - no error: somebody wanted it
    """The time is up."""


@dataclass(frozen=True)
class Outcome:
    """Where a comparison stands after a call.

    Attributes:
        done: Cells that are answered.
        left: Cells that are not, as `cluster/method/seed`.
        elsewhere: Whether they wait for another process, or for a machine with `SEARCHING`.
        unscored: Run folders that lack scores, since the scoring packages are not installed.
    """

    done: int
    left: tuple[str, ...]
    elsewhere: bool
    unscored: tuple[Path, ...]


class Grid:
    """A recipe under way in a folder.

    Args:
        recipe: What is compared.
        backbone: Who is adapted, for all methods.
        source: Data folder or hub id with the splits train, dev and test; None takes that of
            `CGCLORA_DATA`.
        out: The folder.
        batch_size: Requests answered in one batch; None takes as many as suit the device.
        finished: Called after each cell that this process finishes.
        members: Most adapters that train side by side; None asks the device.

    Raises:
        RunError: The folder holds another comparison.
        DataError: A task of the recipe has no record, a split is missing or bad, or a prompt of the
            test split is in another one.
    """

    def __init__(
        self,
        recipe: Recipe,
        backbone: Backbone,
        source: str | Path | None,
        out: str | Path,
        *,
        batch_size: int | None = None,
        finished: Callable[[], None] = lambda: None,
        members: int | None = None,
    ) -> None:
        self.recipe = recipe
        self.backbone = backbone
        self.out = Path(out)
        self.batch_size = batch_size
        self._finished = finished
        tasks = [task for tasks in recipe.clusters.values() for task in tasks]
        whole = {split: datasets.read(source, split=split, tasks=tasks) for split in SPLITS}
        datasets.check_apart(whole)
        self.splits: Mapping[str, Dataset] = {
            split: datasets.limit(found, getattr(recipe.records, split), DRAW)
            for split, found in whole.items()
        }
        self._ends = float("inf")
        self._say: Callable[[str], None] = lambda _: None
        self.folder = ComparisonFolder(self.out)
        self.trainer = Trainer(
            recipe,
            backbone,
            self.splits,
            self.folder,
            say=lambda line: self._say(line),  # noqa: PLW0108 - `run` sets it
            stop=lambda: time.monotonic() > self._ends,
            members=members,
        )
        self._claim()

    def run(
        self, seconds: float = float("inf"), say: Callable[[str], None] = lambda _: None
    ) -> Outcome:
        """Work on what is missing until all is there or the time is up.

        Args:
            seconds: From now; the work ends between two training steps, or within ten seconds while
                records are answered.
            say: Told in a line what is done.

        Raises:
            TrainingError: A method diverged with every learning rate, or a folder is damaged.
        """
        self._ends = time.monotonic() + seconds
        self._say = say
        try:
            self._score_unscored()
            for seed in self.recipe.seeds:
                self._train_ahead(seed)
                while any(self._work_on(cells) for cells in self._batches(seed)):
                    pass
            elsewhere = bool(self.missing())
        except (OutOfTime, TrainingStopped):
            elsewhere = False
        missing = self.missing()
        return Outcome(
            len([*self._cells()]) - len(missing),
            tuple(cell.name for cell in missing),
            elsewhere,
            tuple(map(self.folder.run, self._unscored())),
        )

    # Cells --------------------------------------------------------------------------------

    def _cells(self) -> Iterator[Cell]:
        """In order: a table of one seed is worth more than one method with all seeds."""
        for seed in self.recipe.seeds:
            for cluster in self.recipe.clusters:
                for name in self.recipe.methods:
                    method = METHODS[name]
                    if method.adapters != "none" or seed == self.recipe.seeds[0]:
                        yield Cell(cluster, method, seed)

    def missing(self) -> list[Cell]:
        """The cells that have no answers yet, in the order in which they are worked on."""
        return [cell for cell in self._cells() if not is_run(self.folder.run(cell))]

    def _batches(self, seed: int) -> list[list[Cell]]:
        """The cells of a seed that are left, as they are answered: at once where rows are many.

        Few rows of many adapters would share few experts, and a cell that is done is worth more
        than two half ones.
        """
        left = [cell for cell in self.missing() if cell.seed == seed]
        return [left] if left and default_rows(self.backbone) > FEW else [[one] for one in left]

    def _work_on(self, cells: Sequence[Cell]) -> bool:
        """Whether anything of some cells could be done."""
        with ExitStack() as held, ExitStack() as attached:
            ready: dict[str, tuple[Cell, Questions]] = {}
            for cell in cells:
                if cell.method.adapters == "composed" and not find_spec(SEARCHING):
                    continue
                try:
                    held.enter_context(self.folder.hold(f"run {cell.name}"))
                    if not is_run(self.folder.run(cell)):
                        ready[cell.name] = (cell, self._questions(cell, len(ready), attached))
                except Busy:
                    continue
            if ready:
                self._answer([*ready.values()])
            return bool(ready)

    def _questions(self, cell: Cell, place: int, attached: ExitStack) -> Questions:
        """What a cell asks, its adapters ready to answer; `attached` takes them off again."""
        tasks = self.recipe.clusters[cell.cluster]
        rate, tried = self.trainer.learning_rate(cell)
        adapters = self._adapters(cell, tasks, rate, f"cell{place}", attached)
        return Questions(
            self.folder.run(cell),
            LocalEngine(self.backbone, adapters, batch_size=self.batch_size),
            datasets.only(self.splits["test"], tasks),
            cell.method.name,
            label=self.recipe.name,
            seed=cell.seed if adapters else None,
            prompt=cell.method.prompt,
            facts={
                "recipe": {"name": self.recipe.name, "hash": self.recipe.hash},
                "learning_rate": rate,
                "dev_losses": tried,
            },
        )

    def _answer(self, cells: Sequence[tuple[Cell, Questions]]) -> None:
        """Answer cells in one batch, and score them if the packages are here."""
        name = cells[0][0].name if len(cells) == 1 else f"{len(cells)} cells"

        def progress(facts: Mapping[str, Any]) -> None:
            self._say(f"{name}: answered {facts['done']} of {facts['total']}")
            self._check()

        of_run = {questions.run: cell for cell, questions in cells}
        for run in predict_together([one for _, one in cells], self._answers, progress):
            if _can_score():
                self._score(of_run[run.folder], run)
            self._say(f"{of_run[run.folder].name}: done")
            self._finished()

    def _answers(self, asked: Sequence[tuple[Engine, Request]]) -> Iterator[tuple[int, Answer]]:
        adapters = [
            engine.adapter_of(request) if isinstance(engine, LocalEngine) else None
            for engine, request in asked
        ]
        requests = [request for _, request in asked]
        return answers_of(self.backbone, requests, adapters, batch_size=self.batch_size)

    def _unscored(self) -> list[Cell]:
        """The cells that have answers and no scores."""
        runs = {cell: self.folder.run(cell) for cell in self._cells()}
        return [c for c, run in runs.items() if is_run(run) and not (run / METRICS_FILE).exists()]

    def _score_unscored(self) -> None:
        for cell in self._unscored() if _can_score() else ():
            with suppress(Busy), self.folder.hold(f"run {cell.name}"):
                run = read_run(self.folder.run(cell))
                if run.metrics is None:
                    self._score(cell, run)
                    self._say(f"{cell.name}: scored")

    def _score(self, cell: Cell, run: Run) -> None:
        tasks = self.recipe.clusters[cell.cluster]
        evaluate.score(run, datasets.only(self.splits["test"], tasks))

    # Adapters -----------------------------------------------------------------------------

    def _train_ahead(self, seed: int) -> None:
        """Train what the cells of a seed need, side by side: the rates first, then those chosen."""
        missing = [cell for cell in self.missing() if cell.seed == seed]
        if not missing:
            return
        cells = [cell for cell in self._cells() if cell.seed == seed]
        for trainings, weights in ((self.trainer.rates_to_try, False), (self._chosen, True)):
            needed = trainings(missing)
            wanted = [  # among what was trained before, so that groups stay what they were
                one
                for one in trainings(cells)
                if one in needed or is_trained(self.folder.training(one))
            ]
            self.trainer.train(wanted, pass_over=True, weights=weights)

    def _chosen(self, cells: Sequence[Cell]) -> list[Training]:
        """What cells train with the rate that was chosen, as far as that is known."""
        chosen: list[Training] = []
        for cell in cells:
            with suppress(Busy):
                rate, _ = self.trainer.learning_rate(cell)
                if rate is not None and cell.method.adapters != "composed":
                    chosen += self.trainer.needs(cell, rate)
        return chosen

    def _adapters(
        self,
        cell: Cell,
        tasks: tuple[str, ...],
        rate: float | None,
        name: str,
        attached: ExitStack,
    ) -> dict[str, Adapter]:
        """The adapter of each task, ready to answer; `attached` takes them off again."""
        if rate is None:
            return {}
        if cell.method.adapters == "composed":
            folder = self._compose(cell, tasks, rate)
            return dict.fromkeys(tasks, self._load(folder, name, attached))
        needed = self.trainer.needs(cell, rate)
        self.trainer.train(needed)
        folders = [self.folder.training(one) for one in needed]
        if not all((folder / "adapter").exists() for folder in folders):
            raise TrainingError(f"{cell.name} diverged with a learning rate of {rate:g}.")
        return {
            task: adapter
            for place, (training, folder) in enumerate(zip(needed, folders, strict=True))
            for adapter in [self._load(folder / "adapter", f"{name}-{place}", attached)]
            for task in training.tasks
        }

    def _load(self, folder: Path, name: str, attached: ExitStack) -> Adapter:
        adapter = Adapter.load(folder, self.backbone, name=name)
        attached.callback(adapter.detach)
        return adapter.for_inference()

    def _compose(self, cell: Cell, tasks: tuple[str, ...], rate: float) -> Path:
        """The folder of LoRAHub's adapter, which is made unless it is there."""
        folder = self.folder.rate(cell, rate) / "adapter"
        if not (folder / MANIFEST_FILE).exists():
            self._say(f"{cell.name}: searching")
            single = Cell(cell.cluster, METHODS[SINGLE], cell.seed)
            train, count = self.splits["train"], self.recipe.search.examples
            with ExitStack() as attached:
                compose(
                    self.backbone,
                    self._adapters(single, tasks, rate, "module", attached),
                    {
                        task: datasets.limit(datasets.only(train, [task]), count, DRAW).records
                        for task in tasks
                    },
                    self.recipe.search,
                    folder,
                    seed=cell.seed,
                    facts={"method": cell.method.name, "recipe": self.recipe.name},
                    check=self._check,
                )
        return folder

    # Folder -------------------------------------------------------------------------------

    def _claim(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / RECIPE_FILE
        facts = {
            "hash": self.recipe.hash,
            "backbone": self.backbone.fingerprint,
            "data": {split: found.hash for split, found in self.splits.items()},
        }
        if path.exists():
            earlier = json.loads(path.read_text(encoding="utf-8"))
            if differing := [name for name in CLAIMS if earlier.get(name) != facts[name]]:
                raise RunError(
                    f"{self.out} holds a comparison that differs in {', '.join(differing)}: "
                    "choose another folder."
                )
        atomic_io.write_json(
            path, {**facts, "code": provenance.commit(), "recipe": self.recipe.to_dict()}
        )

    def _check(self) -> None:
        if time.monotonic() > self._ends:
            raise OutOfTime


def _can_score() -> bool:
    return all(find_spec(name) for name in SCORING)


def print_line(line: str) -> None:
    """Write a line of progress to standard error."""
    print(line, file=sys.stderr, flush=True)
