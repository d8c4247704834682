"""A comparison in steps: train and answer what is missing until the time is up.

A cell is a method with a seed on a cluster; `comparison_dir` has the folder's layout. All learning
rates are trained with the first seed, side by side; the one with the lowest dev loss answers the
test records and trains the other seeds. All cells of a seed are finished before the next seed: a
table of one seed is worth more than one method with all seeds. A call that is stopped, killed or
out of time continues with the next call, also on another machine. Several processes may share one
folder: each skips what another one holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cgclora.adapter import Adapter
from cgclora.inference.continuous.loop import DEFAULT_ROWS, default_rows
from cgclora.inference.engine import answers_of
from cgclora.inference.request import Answer, Request
from cgclora.models.backbone import Backbone
from cgclora.storage import atomic_io, provenance
from cgclora.storage.run_dir import TrainingError, TrainingStopped
from evals.data import datasets
from evals.data.datasets import Dataset
from evals.experiments.comparison_dir import (
    PROMPT_FORMAT,
    RECIPE_FILE,
    Busy,
    Cell,
    ComparisonFolder,
    Training,
    check_same,
    is_run,
    is_trained,
    read_recipe_file,
)
from evals.experiments.grid_training import Trainer
from evals.experiments.lorahub import compose
from evals.experiments.recipe import Recipe
from evals.methods import METHODS, SINGLE
from evals.runs.engines import PLAIN_PROMPTS, LocalEngine
from evals.runs.evaluate import ModelAPI, PendingRun, predict_together
from evals.runs.forgetting import measure_run
from evals.runs.run_dir import MANIFEST_FILE, METRICS_FILE, Run, read_run
from evals.runs.score import score

SPLITS = ("train", "dev", "test")

SCORING = ("jieba", "rouge_chinese", "sacrebleu", "sklearn")
"""Packages without which answers stay unscored."""

SEARCHING = "cma"
"""Package without which LoRAHub is left to another machine."""

DRAW = 0
"""Seed that draws the records: the same for all methods and training seeds."""


class OutOfTime(Exception):  # noqa: N818 - not an error
    """The time is up."""


@dataclass(frozen=True)
class Outcome:
    """The state of a comparison after a call."""

    done: int  # number of answered cells
    left: tuple[str, ...]  # cells without answers, as `cluster/method/seed`
    elsewhere: bool  # whether these wait for another process, or for a machine with `SEARCHING`
    unscored: tuple[Path, ...]  # run folders without scores, because `SCORING` is missing


class Grid:
    """A comparison in a folder.

    Args:
        recipe: The comparison.
        backbone: Shared by all methods.
        source: Data folder or hub id with the splits train, dev and test; None takes the folder in
            `CGCLORA_DATA`.
        out: The folder.
        batch_size: Requests in one batch; None fits the device.
        finished: Called after each cell that this process finishes.
        members: Maximum adapters that train side by side; None fits the device.
        forgetting: Whether each answered cell measures what its adapters cost on other texts.

    Raises:
        RunError: The folder holds another comparison.
        DataError: A task has no record, a split is missing or bad, or a test prompt is in another
            split.
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
        forgetting: bool = False,
    ) -> None:
        self.recipe = recipe
        self.backbone = backbone
        self.out = Path(out)
        self.batch_size = batch_size
        self._finished = finished
        self._forgetting = forgetting
        tasks = [task for tasks in recipe.clusters.values() for task in tasks]
        whole = {split: datasets.read(source, split=split, tasks=tasks) for split in SPLITS}
        datasets.check_apart(whole)
        self.splits: Mapping[str, Dataset] = {
            split: datasets.limit(dataset, getattr(recipe.records, split), DRAW)
            for split, dataset in whole.items()
        }
        self.folder = ComparisonFolder(self.out)
        self.trainer = Trainer(recipe, backbone, self.splits, self.folder, members=members)
        self._claim_folder()

    def run(
        self, seconds: float = float("inf"), report: Callable[[str], None] = lambda _: None
    ) -> Outcome:
        """Work until everything is done or the time is up.

        Args:
            seconds: From now; work ends between two training steps, or within ten seconds while
                records are answered.
            report: Called with a line of progress.

        Raises:
            TrainingError: A method diverged with every learning rate, or a folder is damaged.
        """
        self.trainer.deadline = time.monotonic() + seconds
        self.trainer.report = report
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
            len(self.recipe.cells()) - len(missing),
            tuple(cell.name for cell in missing),
            elsewhere,
            tuple(map(self.folder.run, self._unscored())),
        )

    # Cells --------------------------------------------------------------------------------

    def missing(self) -> list[Cell]:
        """The cells without answers, in the order of work."""
        return [cell for cell in self.recipe.cells() if not is_run(self.folder.run(cell))]

    def _batches(self, seed: int) -> list[list[Cell]]:
        """The missing cells of a seed, together on devices with many rows, else one by one.

        With few rows, many adapters would share few experts, and one finished cell is worth more
        than two half-finished ones.
        """
        cells = [cell for cell in self.missing() if cell.seed == seed]
        if cells and default_rows(self.backbone) > DEFAULT_ROWS:
            return [cells]
        return [[one] for one in cells]

    def _work_on(self, cells: Sequence[Cell]) -> bool:
        """Answer those cells that no other process holds; False if there are none."""
        with ExitStack() as locks, ExitStack() as attached:
            ready: dict[str, tuple[Cell, PendingRun]] = {}
            for cell in cells:
                if cell.method.adapters == "composed" and not find_spec(SEARCHING):
                    continue
                with suppress(Busy):
                    locks.enter_context(self.folder.hold(f"run {cell.name}"))
                    if not is_run(self.folder.run(cell)):
                        ready[cell.name] = (cell, self._questions(cell, len(ready), attached))
            if ready:
                self._answer([*ready.values()])
            return bool(ready)

    def _questions(self, cell: Cell, place: int, attached: ExitStack) -> PendingRun:
        """The questions of a cell with its adapters attached until `attached` closes."""
        tasks = self.recipe.clusters[cell.cluster]
        rate, dev_results = self.trainer.learning_rate(cell)
        adapters = self._adapters(cell, rate, f"cell{place}", attached)
        return PendingRun(
            self.folder.run(cell),
            LocalEngine(
                self.backbone,
                adapters,
                batch_size=self.batch_size,
                bare_format=self.trainer.prompt_format,
            ),
            datasets.only(self.splits["test"], tasks),
            cell.method.name,
            label=self.recipe.name,
            seed=cell.seed if adapters else None,
            prompt=cell.method.prompt,
            facts={
                "recipe": {"name": self.recipe.name, "hash": self.recipe.hash},
                "learning_rate": rate,
                **dev_results,
            },
        )

    def _answer(self, cells: Sequence[tuple[Cell, PendingRun]]) -> None:
        """Answer cells in one batch, and score them if the scoring packages are installed."""
        name = cells[0][0].name if len(cells) == 1 else f"{len(cells)} cells"

        def progress(facts: Mapping[str, Any]) -> None:
            self.trainer.report(f"{name}: answered {facts['done']} of {facts['total']}")
            self._check_time()

        of_run = {pending.run: (cell, pending) for cell, pending in cells}
        for run in predict_together([one for _, one in cells], self._answers, progress):
            cell, pending = of_run[run.folder]
            if _can_score():
                self._score(cell, run)
            if self._forgetting and isinstance(pending.engine, LocalEngine):
                # A cell that has no time for it is finished, too: `evals forgetting` can add it.
                measure_run(
                    read_run(run.folder),
                    pending.engine,
                    tasks_per_text=1,
                    progress=lambda *_: self._check_time(),
                )
            self.trainer.report(f"{cell.name}: done")
            self._finished()

    def _answers(self, pairs: Sequence[tuple[ModelAPI, Request]]) -> Iterator[tuple[int, Answer]]:
        adapters = [
            engine.adapter_of(request) if isinstance(engine, LocalEngine) else None
            for engine, request in pairs
        ]
        requests = [request for _, request in pairs]
        return answers_of(
            self.backbone,
            requests,
            adapters,
            batch_size=self.batch_size,
            bare_format=self.trainer.prompt_format,
        )

    def _unscored(self) -> list[Cell]:
        runs = {cell: self.folder.run(cell) for cell in self.recipe.cells()}
        return [c for c, run in runs.items() if is_run(run) and not (run / METRICS_FILE).exists()]

    def _score_unscored(self) -> None:
        for cell in self._unscored() if _can_score() else ():
            with suppress(Busy), self.folder.hold(f"run {cell.name}"):
                run = read_run(self.folder.run(cell))
                if run.metrics is None:
                    self._score(cell, run)
                    self.trainer.report(f"{cell.name}: scored")

    def _score(self, cell: Cell, run: Run) -> None:
        tasks = self.recipe.clusters[cell.cluster]
        score(run, datasets.only(self.splits["test"], tasks))

    # Adapters -----------------------------------------------------------------------------

    def _train_ahead(self, seed: int) -> None:
        """Train for all cells of a seed side by side: the rates first, then the chosen ones."""
        missing = [cell for cell in self.missing() if cell.seed == seed]
        if not missing:
            return
        cells = [cell for cell in self.recipe.cells() if cell.seed == seed]
        for trainings, weights in ((self.trainer.rates_to_try, False), (self._chosen, True)):
            needed = trainings(missing)
            selected = [  # finished ones keep their place, so that groups do not change
                one
                for one in trainings(cells)
                if one in needed or is_trained(self.folder.training(one))
            ]
            self.trainer.train(selected, skip_busy=True, weights=weights)

    def _chosen(self, cells: Sequence[Cell]) -> list[Training]:
        """The trainings of cells with the chosen rate, where no other process still tunes it."""
        chosen: list[Training] = []
        for cell in cells:
            with suppress(Busy):
                rate, _ = self.trainer.learning_rate(cell)
                if rate is not None and cell.method.adapters != "composed":
                    chosen += self.recipe.trainings(cell, rate)
        return chosen

    def _adapters(
        self, cell: Cell, rate: float | None, name: str, attached: ExitStack
    ) -> dict[str, Adapter]:
        """The adapter of each task, ready for inference, attached until `attached` closes."""
        if rate is None:
            return {}
        if cell.method.adapters == "composed":
            folder = self._compose(cell, rate)
            tasks = self.recipe.clusters[cell.cluster]
            return dict.fromkeys(tasks, self._load(folder, name, attached))
        needed = self.recipe.trainings(cell, rate)
        self.trainer.train(needed)
        folders = [self.folder.training(one) for one in needed]
        if not all((folder / "adapter").exists() for folder in folders):
            raise TrainingError(f"{cell.name} diverged with a learning rate of {rate:g}.")
        adapters: dict[str, Adapter] = {}
        for place, (training, folder) in enumerate(zip(needed, folders, strict=True)):
            adapter = self._load(folder / "adapter", f"{name}-{place}", attached)
            adapters |= dict.fromkeys(training.tasks, adapter)
        return adapters

    def _load(self, folder: Path, name: str, attached: ExitStack) -> Adapter:
        adapter = Adapter.load(folder, self.backbone, name=name)
        attached.callback(adapter.detach)
        return adapter.for_inference()

    def _compose(self, cell: Cell, rate: float) -> Path:
        """The folder of LoRAHub's adapter, which is searched if it is missing."""
        folder = self.folder.rate(cell, rate) / "adapter"
        if not (folder / MANIFEST_FILE).exists():
            self.trainer.report(f"{cell.name}: searching")
            single = Cell(cell.cluster, METHODS[SINGLE], cell.seed)
            train, count = self.splits["train"], self.recipe.search.examples
            with ExitStack() as attached:
                compose(
                    self.backbone,
                    self._adapters(single, rate, "module", attached),
                    {
                        task: datasets.limit(datasets.only(train, [task]), count, DRAW).records
                        for task in self.recipe.clusters[cell.cluster]
                    },
                    self.recipe.search,
                    folder,
                    seed=cell.seed,
                    facts=self.trainer.facts(cell.method, self.recipe.clusters[cell.cluster]),
                    check=self._check_time,
                )
        return folder

    # Folder -------------------------------------------------------------------------------

    def _claim_folder(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / RECIPE_FILE
        facts = {
            "hash": self.recipe.hash,
            "backbone": self.backbone.fingerprint,
            "data": {split: dataset.hash for split, dataset in self.splits.items()},
        }
        if (prompt_format := self.trainer.prompt_format) != PLAIN_PROMPTS:
            facts[PROMPT_FORMAT] = prompt_format.to_dict()
        if path.exists():
            check_same(self.out, read_recipe_file(self.out), facts)
        atomic_io.write_json(
            path, {**facts, "code": provenance.commit(), "recipe": self.recipe.to_dict()}
        )

    def _check_time(self) -> None:
        if self.trainer.is_out_of_time():
            raise OutOfTime


def _can_score() -> bool:
    return all(find_spec(name) for name in SCORING)
