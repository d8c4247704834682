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
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from cgclora import files, provenance
from cgclora.adapter import Adapter
from cgclora.backbone import Backbone
from cgclora.data import Record
from cgclora.run_folder import TrainingStopped
from cgclora.storage import read_manifest
from cgclora.training import train
from evals import benchmark, data
from evals.benchmark import PROMPTS
from evals.data import Dataset
from evals.engines import LocalEngine
from evals.lorahub import Composer
from evals.methods import METHODS, SINGLE, Method
from evals.recipe import Recipe
from evals.results import MANIFEST_FILE, METRICS_FILE, RunError, read_run
from evals.tasks import TASKS

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

    Raises:
        RunError: The folder holds another comparison.
        DataError: A task of the recipe has no record, or a split is missing or bad.
    """

    def __init__(
        self,
        recipe: Recipe,
        backbone: Backbone,
        source: str | Path | None,
        out: str | Path,
        *,
        batch_size: int = 16,
    ) -> None:
        self.recipe = recipe
        self.backbone = backbone
        self.out = Path(out)
        self.batch_size = batch_size
        tasks = [task for tasks in recipe.clusters.values() for task in tasks]
        self.splits: Mapping[str, Dataset] = {
            split: data.limit(
                data.read(source, split=split, tasks=tasks), getattr(recipe.records, split), DRAW
            )
            for split in ("train", "dev", "test")
        }
        self._ends = float("inf")
        self._say: Callable[[str], None] = lambda _: None
        self._claim()

    def run(
        self, seconds: float = float("inf"), say: Callable[[str], None] = lambda _: None
    ) -> Outcome:
        """Work on what is missing until all is there or the time is up.

        Args:
            seconds: From now; between two training steps or answers the work ends.
            say: Told in a line what is done.

        Raises:
            TrainingError: A training run diverged, or its folder is damaged.
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
        adapters = self._adapters(cell, tasks, rate)
        try:
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
        finally:
            for adapter in {id(one): one for one in adapters.values()}.values():
                adapter.detach()
        self._say(f"{cell.name}: done")

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
                tasks = self.recipe.clusters[cell.cluster]
                benchmark.score(read_run(folder), data.only(self.splits["test"], tasks))
                self._say(f"{cell.name}: scored")

    # Adapters -----------------------------------------------------------------------------

    def _learning_rate(self, cell: _Cell) -> tuple[float | None, dict[str, float] | None]:
        """The rate with the lowest dev loss for a method, and the dev loss of each rate."""
        if cell.method.adapters == "none":
            return None, None
        # What is composed of others has their rate.
        trained = METHODS[SINGLE] if cell.method.adapters == "composed" else cell.method
        first = _Cell(self.recipe.tune_on or cell.cluster, trained, self.recipe.seeds[0])
        tried = {rate: self._train(first, rate) for rate in self.recipe.learning_rates}
        best = min(tried, key=tried.__getitem__)
        return best, {f"{rate:g}": round(loss, 6) for rate, loss in tried.items()}

    def _train(self, cell: _Cell, rate: float) -> float:
        """Train what a cell needs with a rate, unless it is there; the mean dev loss over tasks."""
        tasks = self.recipe.clusters[cell.cluster]
        groups = [(task,) for task in tasks] if cell.method.adapters == "one a task" else [tasks]
        losses = [self._train_one(cell, rate, group) for group in groups]
        return sum(losses) / len(losses)

    def _train_one(self, cell: _Cell, rate: float, tasks: tuple[str, ...]) -> float:
        folder = self._training_folder(cell, rate, tasks)
        if not (folder / "adapter" / MANIFEST_FILE).exists():
            with self._held(f"train {folder.relative_to(self.out)}"):
                if not (folder / "adapter" / MANIFEST_FILE).exists():
                    self._check()
                    self._take_steps(cell, rate, tasks, folder)
        manifest, _ = read_manifest(folder / "adapter")
        return float(manifest["training"]["best_dev_loss"])

    def _take_steps(self, cell: _Cell, rate: float, tasks: Sequence[str], folder: Path) -> None:
        name = folder.relative_to(self.out / "adapters")
        self._say(f"{name}: training")
        config = self.recipe.config(cell.method.name, tasks)
        adapter = Adapter.attach(self.backbone, config, name="learner", seed=cell.seed)
        try:
            manifest = train(
                adapter,
                self.backbone.tokenizer,
                self._records("train", tasks, cell.method.prompt),
                self._records("dev", tasks, cell.method.prompt),
                self.recipe.settings(rate, cell.seed),
                folder,
                dtype=torch.bfloat16,
                facts={"method": cell.method.name, "recipe": self.recipe.name},
                progress=lambda _: None,
                stop=lambda: time.monotonic() > self._ends,
            )
        finally:
            adapter.detach()
        shutil.rmtree(folder / "checkpoints")  # the adapter is there, and nothing resumes any more
        facts = manifest["training"]
        self._say(f"{name}: dev loss {facts['best_dev_loss']:.3f}, {facts['seconds']:.0f} s")

    def _records(self, split: str, tasks: Sequence[str], prompt: str) -> list[Record]:
        ask = PROMPTS[prompt]
        return [
            dataclasses.replace(record, prompt=ask(record, TASKS[record.task]))
            for record in data.only(self.splits[split], tasks).records
        ]

    def _adapters(
        self, cell: _Cell, tasks: tuple[str, ...], rate: float | None
    ) -> dict[str, Adapter]:
        """The adapter of each task, attached and ready to answer."""
        if rate is None:
            return {}
        if cell.method.adapters == "composed":
            adapter = self._composed(cell, tasks, rate)
            return dict.fromkeys(tasks, adapter)
        self._train(cell, rate)
        if cell.method.adapters == "one a task":
            return {
                task: self._load(self._training_folder(cell, rate, (task,)), f"single{place}")
                for place, task in enumerate(tasks)
            }
        return dict.fromkeys(tasks, self._load(self._training_folder(cell, rate, tasks), "one"))

    def _load(self, folder: Path, name: str) -> Adapter:
        return Adapter.load(folder / "adapter", self.backbone, name=name).for_inference()

    def _composed(self, cell: _Cell, tasks: tuple[str, ...], rate: float) -> Adapter:
        """LoRAHub's adapter: searched if it is not there yet."""
        folder = self.out / "adapters" / cell.name
        if not (folder / MANIFEST_FILE).exists():
            single = _Cell(cell.cluster, METHODS[SINGLE], cell.seed)
            self._train(single, rate)
            self._search(cell, tasks, folder, self._adapters(single, tasks, rate))
        return Adapter.load(folder, self.backbone, name="composed").for_inference()

    def _search(
        self, cell: _Cell, tasks: Sequence[str], folder: Path, modules: Mapping[str, Adapter]
    ) -> None:
        self._say(f"{cell.name}: searching")
        composer = Composer(self.backbone, modules, tasks)
        try:
            found = {}
            for task in tasks:
                own = data.only(self.splits["train"], [task])
                examples = data.limit(own, self.recipe.search.examples, DRAW).records
                found[task] = composer.search(
                    task, examples, self.recipe.search, seed=cell.seed, check=self._check
                )
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
        finally:
            for adapter in (composer.adapter, *modules.values()):
                adapter.detach()

    # Folder -------------------------------------------------------------------------------

    def _claim(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / "recipe.json"
        facts = {
            "hash": self.recipe.hash,
            "backbone": {"name": self.backbone.name, "fingerprint": self.backbone.fingerprint},
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
        return folder / _slug(tasks[0]) if cell.method.adapters == "one a task" else folder

    @contextmanager
    def _held(self, what: str) -> Iterator[None]:
        """Keep other processes from the same piece of work.

        Raises:
            _Busy: Another process has it.
        """
        path = self.out / ".locks" / _slug(what)
        path.parent.mkdir(exist_ok=True)
        try:
            with FileLock(path, timeout=0):
                yield
        except Timeout as error:
            raise _Busy from error

    def _check(self) -> None:
        if time.monotonic() > self._ends:
            raise OutOfTime


def _slug(name: str) -> str:
    """A name as a folder: `CGC-LoRA w/o gate` is `cgc-lora-w-o-gate`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _is_run(folder: Path) -> bool:
    return (folder / MANIFEST_FILE).exists()


def _can_score() -> bool:
    return all(find_spec(name) for name in SCORING)


def print_line(line: str) -> None:
    """Write a line of progress to standard error."""
    print(line, file=sys.stderr, flush=True)
