"""The plan of a comparison on a user's data: its recipe, and how long that takes.

Epochs and numbers of records are chosen so that the comparison fits a time. The plan is kept in the
comparison's folder, which from then on does not depend on the pace of the machine.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from cgclora.storage import atomic_io
from cgclora.training.settings import TrainingSettings
from evals.data.datasets import Dataset
from evals.data.prose import read_prose
from evals.data.splits import SPLITS, Splits
from evals.experiments.own_data.wishes import Wishes
from evals.experiments.recipe import Recipe, Records, recipe_from_dict
from evals.methods import METHODS, SINGLE
from evals.runs.run_dir import RunError
from evals.runs.time_left import ANSWER_WEIGHT
from evals.tasks.recognition import OWN

PLAN_FILE = "plan.json"

_SIZES = (
    *((40, 1.0, 20), (80, 1.0, 30), (80, 2.0, 50), (150, 2.0, 50), (150, 3.0, 100)),
    *((300, 3.0, 100), (600, 3.0, 200), (1200, 3.0, 300), (0, 3.0, 0)),
)
"""Train records of a task, epochs, and test records of a task to choose from; 0 takes all."""

_DEV_RECORDS = 32  # of a task
_TRAINING = TrainingSettings(batch_size=8, weighting="record", max_length=640, evaluations=4)
_FORWARD = 1 / 3  # time of a record without its gradient, relative to one that is trained on
_START_SECONDS = 20.0  # for loading the backbone


@dataclass(frozen=True)
class Pace:
    """The speed of a machine."""

    training: float = 4e-3  # seconds a character of a record that is trained on
    answering: float = 4e-4  # seconds a unit of `Work.answering`
    is_measured: bool = False  # whether an earlier comparison on this machine measured it


@dataclass(frozen=True)
class Work:
    """The work of a comparison."""

    training: float  # characters of prompts and targets, over all steps of all adapters
    answering: float  # characters of prompts, and `ANSWER_WEIGHT` times those of targets
    forgetting: float = 0.0  # characters of the texts on which forgetting is measured

    def seconds(self, pace: Pace, training: float = 1.0, answering: float = 1.0) -> float:
        """Expected time of shares of the training, and of answering and what follows it."""
        answers = self.answering * pace.answering + self.forgetting * _FORWARD * pace.training
        return self.training * training * pace.training + answers * answering


@dataclass(frozen=True)
class ComparisonPlan:
    """See the module's text."""

    recipe: Recipe
    work: Work
    seconds: float  # expected when the plan was made
    is_measured: bool  # whether that rests on an earlier comparison of this machine
    sizes: Mapping[str, Mapping[str, int]]  # records by task, then by split, before any limit
    made: Sequence[str]  # see `Splits`, like `leaked`
    leaked: Mapping[str, int]

    def write(self, out: Path) -> None:
        """Keep it in the folder of the comparison."""
        values = {**vars(self), "work": vars(self.work), "recipe": self.recipe.to_dict()}
        atomic_io.write_sealed(out / PLAN_FILE, values)


def read_plan(out: Path) -> ComparisonPlan | None:
    """The plan in the folder of a comparison; None if there is none.

    Raises:
        RunError: It is damaged.
    """
    path = out / PLAN_FILE
    if not path.exists():
        return None
    try:
        stored = atomic_io.read_sealed(path)
        values = {one.name: stored[one.name] for one in fields(ComparisonPlan)}
        values["recipe"] = recipe_from_dict(values["recipe"])
        values["work"] = Work(**values["work"])
        return ComparisonPlan(**values)
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error}): put back a copy.") from error


def make_plan(name: str, splits: Splits, wishes: Wishes, pace: Pace) -> ComparisonPlan:
    """The largest plan of `_SIZES` that fits the wished time, else the smallest.

    Args:
        name: Of the comparison, on leaderboards.
        splits: The data.
        wishes: What the user chose.
        pace: Of this machine.

    Raises:
        ConfigError: A wish is out of range, or names what does not exist.
    """
    smallest = None
    for train, epochs, test in reversed(_SIZES):
        recipe = _recipe(
            name,
            splits.tasks,
            wishes,
            Records(
                train=train if wishes.train_records is None else wishes.train_records,
                dev=_DEV_RECORDS,
                test=test if wishes.test_records is None else wishes.test_records,
            ),
            epochs if wishes.epochs is None else wishes.epochs,
        )
        work = _work(recipe, splits)
        seconds = _START_SECONDS + work.seconds(pace)
        smallest = ComparisonPlan(
            recipe, work, seconds, pace.is_measured, splits.sizes(), splits.made, splits.leaked
        )
        if seconds <= 60 * wishes.minutes:
            break
    assert smallest is not None  # noqa: S101 - there are sizes
    return smallest


def _recipe(
    name: str, tasks: Sequence[str], wishes: Wishes, records: Records, epochs: float
) -> Recipe:
    return Recipe(
        name=name,
        clusters={OWN: tuple(tasks)},
        methods=wishes.methods,
        seeds=tuple(range(wishes.seeds)),
        learning_rates=wishes.learning_rates,
        records=records,
        training=replace(_TRAINING, epochs=epochs),
    )


# Time -------------------------------------------------------------------------------------


def _work(recipe: Recipe, splits: Splits) -> Work:
    """Each training reads every train record in each epoch, whether for one adapter or many."""
    train, dev, test = (
        _Texts.of(getattr(splits, name), getattr(recipe.records, name)) for name in SPLITS
    )
    training = recipe.training
    one = training.epochs * train.characters + _FORWARD * training.evaluations * dev.characters
    methods = [METHODS[name] for name in recipe.methods]
    composed = [method for method in methods if method.adapters == "composed"]
    trained = {method.name for method in methods if method.config is not None}
    if composed:
        trained.add(SINGLE)  # whose adapters are composed
    seeds = len(recipe.seeds)
    search = recipe.search.evaluations * recipe.search.examples * train.of_one_each
    cells = sum(1 if method.adapters == "none" else seeds for method in methods)
    return Work(
        training=len(trained) * (len(recipe.learning_rates) + seeds - 1) * one
        + len(composed) * seeds * _FORWARD * search,
        answering=cells * test.answering,
        # The bare backbone reads the texts, too.
        forgetting=(cells + 1) * sum(len(one.text) for one in read_prose().passages),
    )


@dataclass(frozen=True)
class _Texts:
    """Characters of some records."""

    characters: float  # of prompts and targets
    of_one_each: float  # the same for one record of each task
    answering: float  # see `Work`

    @classmethod
    def of(cls, dataset: Dataset, limit: int) -> _Texts:
        """Of at most so many records of each task; 0 takes all."""
        characters = of_one_each = answering = 0.0
        for task in dataset.tasks:
            records = dataset.of_task(task)
            count = min(len(records), limit or len(records))
            prompt = statistics.fmean(len(record.prompt) for record in records)
            target = statistics.fmean(len(record.target) for record in records)
            characters += count * (prompt + target)
            of_one_each += prompt + target
            answering += count * (prompt + ANSWER_WEIGHT * target)
        return cls(characters, of_one_each, answering)
