"""A comparison bit by bit: train and answer what is missing until the time is up.

    OUT/recipe.json                            what it is
    OUT/adapters/<cluster>/<method>/...        training runs, a folder for each rate and seed
    OUT/runs/<cluster>/<method>/seed-<seed>/   the run folders that a leaderboard reads

A cell is a method with a seed on a cluster. With the first seed all learning rates are trained, and
the one with the lowest dev loss answers the test records; other seeds train with that one. A call
that is stopped, killed or out of time goes on where it was, here or wherever the folder is copied
to. Several processes may work on one folder: each passes over what another holds.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from cgclora import files, provenance
from cgclora.adapter import Adapter
from cgclora.backbone import Backbone
from cgclora.data import DataError, Record
from cgclora.growing import add_tasks
from cgclora.run_folder import TrainingDiverged, TrainingError, TrainingStopped
from cgclora.storage import read_manifest
from cgclora.training import train
from evals import benchmark, data
from evals.benchmark import PROMPTS
from evals.data import Dataset
from evals.engines import LocalEngine
from evals.lorahub import Composer, Found
from evals.methods import METHODS, SINGLE, Method
from evals.recipe import Recipe
from evals.results import MANIFEST_FILE, METRICS_FILE, RunError, read_run
from evals.tasks import TASKS

SPLITS = ("train", "dev", "test")

OTHERS = "others"
"""Folder, in that of a task that is added, of the adapter for the other tasks."""

DIVERGED_FILE = "diverged.json"
"""Stands in a training folder instead of an adapter, and says how it went."""

ADAPTER_RECORD = "adapter.json"
"""The manifest of a training folder's adapter, where `evals.parts` put it back.

It tells the dev loss even if the adapter's weights were not brought along.
"""

SCORING = ("jieba", "rouge_chinese", "sacrebleu", "sklearn")
"""Packages without which answers are kept unscored."""

SEARCHING = "cma"
"""Package without which LoRAHub is left for a machine that has it."""

DRAW = 0
"""Seed of which records take part: the same for all methods and training seeds."""


class OutOfTime(Exception):  # noqa: N818 - no error: somebody wanted it
    """The time is up."""


class _Busy(Exception):  # noqa: N818 - no error: it is in good hands
    """Another process works on it, or on what it depends on."""


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


@dataclass(frozen=True)
class _Cell:
    cluster: str
    method: Method
    seed: int

    @property
    def name(self) -> str:
        return f"{self.cluster}/{_slug(self.method.name)}/seed-{self.seed}"


class Matrix:
    """A recipe under way in a folder.

    Args:
        recipe: What is compared.
        backbone: Who is adapted, for all methods.
        source: Data folder or hub id with the splits train, dev and test; None takes that of
            `CGCLORA_DATA`.
        out: The folder.
        batch_size: Requests answered in one batch.
        finished: Called after each cell that this process finishes.

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
        batch_size: int = 16,
        finished: Callable[[], None] = lambda: None,
    ) -> None:
        self.recipe = recipe
        self.backbone = backbone
        self.out = Path(out)
        self.batch_size = batch_size
        self._finished = finished
        tasks = [task for tasks in recipe.clusters.values() for task in tasks]
        whole = {split: data.read(source, split=split, tasks=tasks) for split in SPLITS}
        _check_apart(whole)
        self.splits: Mapping[str, Dataset] = {
            split: data.limit(found, getattr(recipe.records, split), DRAW)
            for split, found in whole.items()
        }
        self._ends = float("inf")
        self._say: Callable[[str], None] = lambda _: None
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
            while any(self._work_on(cell) for cell in self._missing()):
                pass
            elsewhere = bool(self._missing())
        except (OutOfTime, TrainingStopped):
            elsewhere = False
        runs = [self._run_folder(cell) for cell in self._cells()]
        unscored = [run for run in runs if _is_run(run) and not (run / METRICS_FILE).exists()]
        return Outcome(
            sum(map(_is_run, runs)),
            tuple(cell.name for cell in self._missing()),
            elsewhere,
            tuple(unscored),
        )

    # Cells --------------------------------------------------------------------------------

    def _cells(self) -> Iterator[_Cell]:
        """In order: a table of one seed is worth more than one method with all seeds."""
        for seed in self.recipe.seeds:
            for cluster in self.recipe.clusters:
                for name in self.recipe.methods:
                    method = METHODS[name]
                    if method.adapters != "none" or seed == self.recipe.seeds[0]:
                        yield _Cell(cluster, method, seed)

    def _missing(self) -> list[_Cell]:
        return [cell for cell in self._cells() if not _is_run(self._run_folder(cell))]

    def _work_on(self, cell: _Cell) -> bool:
        """Whether anything of a cell could be done."""
        if cell.method.adapters == "composed" and not find_spec(SEARCHING):
            return False
        try:
            with self._held(f"run {cell.name}"):
                if not _is_run(self._run_folder(cell)):
                    self._answer(cell)
        except _Busy:
            return False
        return True

    def _answer(self, cell: _Cell) -> None:
        tasks = self.recipe.clusters[cell.cluster]
        rate, tried = self._learning_rate(cell)
        with ExitStack() as attached:
            adapters = self._adapters(cell, tasks, rate, attached)
            engine = LocalEngine(self.backbone, adapters, batch_size=self.batch_size)
            test = data.only(self.splits["test"], tasks)
            run = benchmark.predict(
                self._run_folder(cell),
                engine,
                test,
                method=cell.method.name,
                label=self.recipe.name,
                seed=cell.seed if adapters else None,
                prompt=cell.method.prompt,
                facts={
                    "recipe": {"name": self.recipe.name, "hash": self.recipe.hash},
                    "learning_rate": rate,
                    "dev_losses": tried,
                },
                progress=self._progress(cell.name),
            )
            if _can_score():
                benchmark.score(run, test)
        self._say(f"{cell.name}: done")
        self._finished()

    def _progress(self, name: str) -> Callable[[Mapping[str, Any]], None]:
        def progress(facts: Mapping[str, Any]) -> None:
            self._say(f"{name}: answered {facts['done']} of {facts['total']}")
            self._check()

        return progress

    def _score_what_was_only_answered(self) -> None:
        if not _can_score():
            return
        for cell in self._cells():
            folder = self._run_folder(cell)
            if _is_run(folder) and not (folder / METRICS_FILE).exists():
                with suppress(_Busy), self._held(f"run {cell.name}"):
                    run = read_run(folder)
                    if run.metrics is None:
                        tasks = self.recipe.clusters[cell.cluster]
                        benchmark.score(run, data.only(self.splits["test"], tasks))
                        self._say(f"{cell.name}: scored")

    # Adapters -----------------------------------------------------------------------------

    def _learning_rate(self, cell: _Cell) -> tuple[float | None, dict[str, float | None] | None]:
        """The rate with the lowest dev loss, and the dev loss of each, None where it diverged."""
        if cell.method.adapters == "none":
            return None, None
        # What is composed of others has their rate.
        trained = METHODS[SINGLE] if cell.method.adapters == "composed" else cell.method
        first = _Cell(self.recipe.tune_on or cell.cluster, trained, self.recipe.seeds[0])
        rates = self.recipe.learning_rates
        tried = {rate: self._train(first, rate, weights=False) for rate in rates}
        best = min(tried, key=tried.__getitem__)
        if math.isinf(tried[best]):
            raise TrainingError(
                f"{trained.name} diverged with every learning rate: give the recipe lower ones."
            )
        return best, {
            f"{rate:g}": None if math.isinf(loss) else round(loss, 6)
            for rate, loss in tried.items()
        }

    def _train(self, cell: _Cell, rate: float, *, weights: bool = True) -> float:
        """Train what a cell needs with a rate, unless it is there; the mean dev loss over tasks.

        Where the training diverged it is infinite. Without `weights` the record of an adapter is
        enough, see `ADAPTER_RECORD`.
        """
        tasks = self.recipe.clusters[cell.cluster]
        groups = [(task,) for task in tasks] if _has_many(cell.method) else [tasks]
        losses = [self._train_one(cell, rate, group, weights=weights) for group in groups]
        return sum(losses) / len(losses)

    def _train_one(
        self, cell: _Cell, rate: float, tasks: tuple[str, ...], *, weights: bool
    ) -> float:
        folder = self._training_folder(cell, rate, tasks)
        record = folder / ADAPTER_RECORD
        if not _is_trained(folder):
            if record.exists() and not weights:
                return _recorded_loss(record)
            with self._held(f"train {folder.relative_to(self.out)}"):
                if not _is_trained(folder):
                    self._check()
                    if record.exists():  # of a training whose log and time shall not count here
                        shutil.rmtree(folder)
                    self._take_steps(cell, rate, tasks, folder)
        if (folder / DIVERGED_FILE).exists():
            return math.inf
        # Nothing resumes any more; a process may have been killed before it removed them.
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        shutil.rmtree(folder / OTHERS / "checkpoints", ignore_errors=True)
        manifest, _ = read_manifest(folder / "adapter")
        return float(manifest["training"]["best_dev_loss"])

    def _take_steps(self, cell: _Cell, rate: float, tasks: Sequence[str], folder: Path) -> None:
        name = folder.relative_to(self.out / "adapters")
        self._say(f"{name}: training")
        try:
            if cell.method.adapters == "added":
                manifest = self._add(cell, rate, tasks[0], folder)
            else:
                manifest = self._fit(cell, rate, tasks, folder)
        except TrainingDiverged as error:
            files.write_json(folder / DIVERGED_FILE, str(error))
            self._say(f"{name}: {error}")
            return
        facts = manifest["training"]
        self._say(f"{name}: dev loss {facts['best_dev_loss']:.3f}, {facts['seconds']:.0f} s")

    def _fit(
        self, cell: _Cell, rate: float, tasks: Sequence[str], folder: Path
    ) -> Mapping[str, Any]:
        """Train a method's adapter for some tasks; its manifest."""
        config = self.recipe.config(cell.method.name, tasks)
        adapter = Adapter.attach(self.backbone, config, name="learner", seed=cell.seed)
        try:
            return train(
                adapter,
                self.backbone.tokenizer,
                self._records("train", tasks, cell.method.prompt),
                self._records("dev", tasks, cell.method.prompt),
                self.recipe.settings(rate, cell.seed),
                folder,
                dtype=torch.bfloat16,
                **self._options(cell),
            )
        finally:
            adapter.detach()

    def _add(self, cell: _Cell, rate: float, task: str, folder: Path) -> Mapping[str, Any]:
        """Train an adapter for the other tasks of the cluster, and add the task to it.

        That takes as many steps as it has part in when all are trained together, with as many of
        its records in each.
        """
        tasks = self.recipe.clusters[cell.cluster]
        others = folder / OTHERS
        if not _is_trained(others):
            self._fit(cell, rate, [other for other in tasks if other != task], others)
        settings = self.recipe.settings(rate, cell.seed)
        share = max(1, settings.batch_size // len(tasks))
        return add_tasks(
            others / "adapter",
            [task],
            self.backbone,
            self.backbone.tokenizer,
            self._records("train", [task], cell.method.prompt),
            self._records("dev", [task], cell.method.prompt),
            dataclasses.replace(settings, batch_size=share),
            folder,
            **self._options(cell),
        )

    def _options(self, cell: _Cell) -> dict[str, Any]:
        return {
            "facts": {"method": cell.method.name, "recipe": self.recipe.name},
            "progress": lambda _: None,
            "stop": lambda: time.monotonic() > self._ends,
        }

    def _records(self, split: str, tasks: Sequence[str], prompt: str) -> list[Record]:
        ask = PROMPTS[prompt]
        return [
            dataclasses.replace(record, prompt=ask(record, TASKS[record.task]))
            for record in data.only(self.splits[split], tasks).records
        ]

    def _adapters(
        self, cell: _Cell, tasks: tuple[str, ...], rate: float | None, attached: ExitStack
    ) -> dict[str, Adapter]:
        """The adapter of each task, ready to answer; `attached` takes them off again."""
        if rate is None:
            return {}
        if cell.method.adapters == "composed":
            folder = self._composed_folder(cell, rate)
            if not (folder / MANIFEST_FILE).exists():
                self._compose(cell, tasks, rate)
            return dict.fromkeys(tasks, self._load(folder, "composed", attached))
        if math.isinf(self._train(cell, rate)):
            raise TrainingError(f"{cell.name} diverged with a learning rate of {rate:g}.")
        if _has_many(cell.method):
            return {
                task: self._load(
                    self._training_folder(cell, rate, (task,)) / "adapter",
                    f"one{place}",
                    attached,
                )
                for place, task in enumerate(tasks)
            }
        folder = self._training_folder(cell, rate, tasks) / "adapter"
        return dict.fromkeys(tasks, self._load(folder, "one", attached))

    def _load(self, folder: Path, name: str, attached: ExitStack) -> Adapter:
        adapter = Adapter.load(folder, self.backbone, name=name)
        attached.callback(adapter.detach)
        return adapter.for_inference()

    def _compose(self, cell: _Cell, tasks: tuple[str, ...], rate: float) -> None:
        """Make LoRAHub's adapter. What is found for a task stays, should the time be up."""
        self._say(f"{cell.name}: searching")
        folder = self._composed_folder(cell, rate)
        single = _Cell(cell.cluster, METHODS[SINGLE], cell.seed)
        with ExitStack() as attached:
            modules = self._adapters(single, tasks, rate, attached)
            composer = Composer(self.backbone, modules, tasks)
            attached.callback(composer.adapter.detach)
            found = {}
            for task in tasks:
                path = folder.parent / f"{_slug(task)}.json"
                if path.exists():
                    found[task] = Found(**json.loads(path.read_text(encoding="utf-8")))
                    composer.set(task, [found[task].weights[name] for name in composer.names])
                    continue
                own = data.only(self.splits["train"], [task])
                examples = data.limit(own, self.recipe.search.examples, DRAW).records
                found[task] = composer.search(
                    task, examples, self.recipe.search, seed=cell.seed, check=self._check
                )
                path.parent.mkdir(parents=True, exist_ok=True)
                files.write_json(path, dataclasses.asdict(found[task]))
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
        files.write_json(
            path, {**facts, "code": provenance.commit(), "recipe": self.recipe.to_dict()}
        )

    def _run_folder(self, cell: _Cell) -> Path:
        return self.out / "runs" / cell.name

    def _training_folder(self, cell: _Cell, rate: float, tasks: Sequence[str]) -> Path:
        folder = self.out / "adapters" / cell.name / f"rate-{rate:g}"
        return folder / _slug(tasks[0]) if _has_many(cell.method) else folder

    def _composed_folder(self, cell: _Cell, rate: float) -> Path:
        return self.out / "adapters" / cell.name / f"rate-{rate:g}" / "adapter"

    @contextmanager
    def _held(self, what: str) -> Iterator[None]:
        """Keep other processes from the same piece of work.

        Raises:
            _Busy: Another process has it.
        """
        path = self.out / ".locks" / _slug(what)
        path.parent.mkdir(exist_ok=True)
        lock = FileLock(path, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise _Busy from error
        try:
            yield
        finally:
            lock.release()

    def _check(self) -> None:
        if time.monotonic() > self._ends:
            raise OutOfTime


def _slug(name: str) -> str:
    """A name as a folder: `CGC-LoRA w/o gate` is `cgc-lora-w-o-gate`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _has_many(method: Method) -> bool:
    """Whether each task has an adapter of its own."""
    return method.adapters in ("one a task", "added")


def _is_run(folder: Path) -> bool:
    files.recover_folder(folder)
    return (folder / MANIFEST_FILE).exists()


def _is_trained(folder: Path) -> bool:
    return (folder / "adapter" / MANIFEST_FILE).exists() or (folder / DIVERGED_FILE).exists()


def _recorded_loss(record: Path) -> float:
    """The dev loss of an adapter by its manifest alone.

    Raises:
        TrainingError: The file is damaged.
    """
    try:
        return float(files.read_sealed(record)["training"]["best_dev_loss"])
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{record} is damaged ({error!r}): put back a copy, or remove it and give the command "
            "again to train there once more."
        ) from error


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
        if shared := data.overlap(splits[split], splits["test"]):
            raise DataError(
                f"{len(shared)} prompts of the test split are in the {split} split too, the first "
                f"is {shared[0][1]} as {shared[0][0]}: take them out of one."
            )


def _can_score() -> bool:
    return all(find_spec(name) for name in SCORING)


def print_line(line: str) -> None:
    """Write a line of progress to standard error."""
    print(line, file=sys.stderr, flush=True)
