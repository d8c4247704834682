"""A comparison bit by bit: train and answer what is missing until the time is up.

A cell is a method with a seed on a cluster; `comparison_dir` says where it keeps what.
With the first seed all learning rates are trained, side by side, and the one with the lowest dev
loss answers the test records; other seeds train with that one. All cells of a seed come before the
next seed: a table of one seed is worth more than one method with all seeds. A call that is stopped,
killed or out of time goes on where it was, here or wherever the folder is copied to. Several
processes may work on one folder: each passes over what another holds.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from cgclora.adapter import Adapter
from cgclora.data.records import DataError
from cgclora.inference.continuous.loop import FEW, answers_of, default_rows
from cgclora.inference.request import Answer, Request
from cgclora.models.backbone import Backbone
from cgclora.storage import atomic_io, provenance
from cgclora.storage.run_dir import TrainingError, TrainingStopped
from evals.data import datasets
from evals.data.datasets import Dataset
from evals.experiments.comparison_dir import (
    Busy,
    Cell,
    ComparisonFolder,
    Training,
    is_run,
    is_trained,
    slug,
)
from evals.experiments.grid_training import Trainer
from evals.experiments.lorahub import Composer, Found
from evals.experiments.recipe import Recipe
from evals.methods import METHODS, SINGLE
from evals.runs import evaluate
from evals.runs.engines import LocalEngine
from evals.runs.evaluate import Engine, Questions, predict_together
from evals.runs.run_dir import MANIFEST_FILE, METRICS_FILE, RunError, read_run

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


class Matrix:
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
        _check_apart(whole)
        self.splits: Mapping[str, Dataset] = {
            split: datasets.limit(found, getattr(recipe.records, split), DRAW)
            for split, found in whole.items()
        }
        self._tried: dict[Cell, dict[float, float]] = {}
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
            self._score_what_was_only_answered()
            for seed in self.recipe.seeds:
                self._train_ahead(seed)
                while any(self._work_on(cells) for cells in self._batches(seed)):
                    pass
            elsewhere = bool(self.missing())
        except (OutOfTime, TrainingStopped):
            elsewhere = False
        runs = [self.folder.run(cell) for cell in self._cells()]
        unscored = [run for run in runs if is_run(run) and not (run / METRICS_FILE).exists()]
        return Outcome(
            sum(map(is_run, runs)),
            tuple(cell.name for cell in self.missing()),
            elsewhere,
            tuple(unscored),
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
        rate, tried = self._learning_rate(cell)
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
        found = {questions.run: (cell, questions) for cell, questions in cells}
        for run in predict_together([one for _, one in cells], self._said, self._progress(name)):
            cell, questions = found[run.folder]
            if _can_score():
                evaluate.score(run, questions.dataset)
            self._say(f"{cell.name}: done")
            self._finished()

    def _said(self, asked: Sequence[tuple[Engine, Request]]) -> Iterator[tuple[int, Answer]]:
        adapters = [
            engine.adapter_of(request) if isinstance(engine, LocalEngine) else None
            for engine, request in asked
        ]
        requests = [request for _, request in asked]
        return answers_of(self.backbone, requests, adapters, batch_size=self.batch_size)

    def _progress(self, name: str) -> Callable[[Mapping[str, Any]], None]:
        def progress(facts: Mapping[str, Any]) -> None:
            self._say(f"{name}: answered {facts['done']} of {facts['total']}")
            self._check()

        return progress

    def _score_what_was_only_answered(self) -> None:
        if not _can_score():
            return
        for cell in self._cells():
            folder = self.folder.run(cell)
            if is_run(folder) and not (folder / METRICS_FILE).exists():
                with suppress(Busy), self.folder.hold(f"run {cell.name}"):
                    run = read_run(folder)
                    if run.metrics is None:
                        tasks = self.recipe.clusters[cell.cluster]
                        evaluate.score(run, datasets.only(self.splits["test"], tasks))
                        self._say(f"{cell.name}: scored")

    # Adapters -----------------------------------------------------------------------------

    def _train_ahead(self, seed: int) -> None:
        """Train what the cells of a seed need, side by side: the rates first, then those chosen."""
        missing = [cell for cell in self.missing() if cell.seed == seed]
        if not missing:
            return
        cells = [cell for cell in self._cells() if cell.seed == seed]
        wanted = self._in_order(self.rates_to_try(missing), self.rates_to_try(cells))
        self.trainer.train(wanted, pass_over=True, weights=False)
        self.trainer.train(
            self._in_order(self._chosen(missing), self._chosen(cells)), pass_over=True
        )

    def _in_order(self, needed: Sequence[Training], known: Sequence[Training]) -> list[Training]:
        """What is needed, among what was trained before, so that groups stay what they were."""
        return [one for one in known if one in needed or is_trained(self.folder.training(one))]

    def _chosen(self, cells: Sequence[Cell]) -> list[Training]:
        """What cells train with the rate that was chosen, as far as that is known."""
        chosen: list[Training] = []
        for cell in cells:
            with suppress(Busy):
                rate, _ = self._learning_rate(cell)
                if rate is not None and cell.method.adapters != "composed":
                    chosen += self.trainer.needs(cell, rate)
        return chosen

    def rates_to_try(self, cells: Sequence[Cell]) -> list[Training]:
        """The trainings that tell which rate these cells take."""
        tuned = dict.fromkeys(self._tuned(cell) for cell in cells)
        return [
            training
            for cell in tuned
            if cell is not None
            for rate in self.recipe.learning_rates
            for training in self.trainer.needs(cell, rate)
        ]

    def _tuned(self, cell: Cell) -> Cell | None:
        """The cell whose rates are tried for a cell; None where nothing is trained."""
        if cell.method.adapters == "none":
            return None
        # What is composed of others has their rate.
        trained = METHODS[SINGLE] if cell.method.adapters == "composed" else cell.method
        return Cell(self.recipe.tune_on or cell.cluster, trained, self.recipe.seeds[0])

    def _learning_rate(self, cell: Cell) -> tuple[float | None, dict[str, float | None] | None]:
        """The rate with the lowest dev loss, and the dev loss of each, None where it diverged."""
        tuned = self._tuned(cell)
        if tuned is None:
            return None, None
        if tuned not in self._tried:  # each look at an adapter reads all of its files
            self._tried[tuned] = {
                rate: self.trainer.loss(tuned, rate) for rate in self.recipe.learning_rates
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
            folder = self._composed_folder(cell, rate)
            if not (folder / MANIFEST_FILE).exists():
                self._compose(cell, tasks, rate)
            return dict.fromkeys(tasks, self._load(folder, name, attached))
        needed = self.trainer.needs(cell, rate)
        self.trainer.train(needed)
        folders = [self.folder.training(one) for one in needed]
        if not all((folder / "adapter").exists() for folder in folders):
            raise TrainingError(f"{cell.name} diverged with a learning rate of {rate:g}.")
        loaded = {
            training.tasks: self._load(folder / "adapter", f"{name}-{place}", attached)
            for place, (training, folder) in enumerate(zip(needed, folders, strict=True))
        }
        return {task: adapter for own, adapter in loaded.items() for task in own}

    def _load(self, folder: Path, name: str, attached: ExitStack) -> Adapter:
        adapter = Adapter.load(folder, self.backbone, name=name)
        attached.callback(adapter.detach)
        return adapter.for_inference()

    def _compose(self, cell: Cell, tasks: tuple[str, ...], rate: float) -> None:
        """Make LoRAHub's adapter. What is found for a task stays, should the time be up."""
        self._say(f"{cell.name}: searching")
        folder = self._composed_folder(cell, rate)
        single = Cell(cell.cluster, METHODS[SINGLE], cell.seed)
        with ExitStack() as attached:
            modules = self._adapters(single, tasks, rate, "module", attached)
            composer = Composer(self.backbone, modules, tasks)
            attached.callback(composer.adapter.detach)
            found = {}
            for task in tasks:
                path = folder.parent / f"{slug(task)}.json"
                if path.exists():
                    found[task] = Found(**json.loads(path.read_text(encoding="utf-8")))
                    composer.set(task, [found[task].weights[name] for name in composer.names])
                    continue
                own = datasets.only(self.splits["train"], [task])
                examples = datasets.limit(own, self.recipe.search.examples, DRAW).records
                found[task] = composer.search(
                    task, examples, self.recipe.search, seed=cell.seed, check=self._check
                )
                path.parent.mkdir(parents=True, exist_ok=True)
                atomic_io.write_json(path, dataclasses.asdict(found[task]))
            spent = sum(one.seconds for one in found.values())
            trained = [module.manifest["training"]["seconds"] for module in modules.values()]
            composer.adapter.save(
                folder,
                dtype=torch.bfloat16,
                facts={
                    "method": cell.method.name,
                    "recipe": self.recipe.name,
                    "training": {
                        "seconds": round(spent + sum(trained), 1),
                        "search": {task: dataclasses.asdict(one) for task, one in found.items()},
                    },
                },
            )

    # Folder -------------------------------------------------------------------------------

    def _claim(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / "recipe.json"
        facts = {
            "hash": self.recipe.hash,
            "backbone": self.backbone.fingerprint,
            "data": {split: found.hash for split, found in self.splits.items()},
        }
        if path.exists():
            earlier = json.loads(path.read_text(encoding="utf-8"))
            if differing := [name for name in facts if earlier.get(name) != facts[name]]:
                raise RunError(
                    f"{self.out} holds a comparison that differs in {', '.join(differing)}: "
                    "choose another folder."
                )
        atomic_io.write_json(
            path, {**facts, "code": provenance.commit(), "recipe": self.recipe.to_dict()}
        )

    def _composed_folder(self, cell: Cell, rate: float) -> Path:
        return self.folder.rate(cell, rate) / "adapter"

    def _check(self) -> None:
        if time.monotonic() > self._ends:
            raise OutOfTime


def _check_apart(splits: Mapping[str, Dataset]) -> None:
    """Refuse data that would let a method see what it is tested on.

    Raises:
        DataError: Splits are one and the same file, or prompts of one are in the test split.
    """
    for split, found in splits.items():
        if found.split != split:
            raise DataError(
                f"{found.name} is one file, and not the {split} split: give a folder with "
                f"{', '.join(splits)}."
            )
    for split in ("train", "dev"):
        if shared := datasets.overlap(splits[split], splits["test"]):
            raise DataError(
                f"{len(shared)} prompts of the test split are in the {split} split too, the first "
                f"is {shared[0][1]} as {shared[0][0]}: take them out of one."
            )


def _can_score() -> bool:
    return all(find_spec(name) for name in SCORING)


def print_line(line: str) -> None:
    """Write a line of progress to standard error."""
    print(line, file=sys.stderr, flush=True)
