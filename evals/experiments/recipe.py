"""A recipe: the data, sizes, steps and tuning that all methods of a comparison share.

    name = "small"
    seeds = [0]
    learning_rates = [6e-4, 2e-3, 6e-3]

    [records]            # of each task; 0 takes all
    train = 200
    dev = 25
    test = 50

    [clusters]           # tasks that are not built in may be in the cluster `own` only
    medical = ["KUAKE-QIC", "CHIP-CTC"]

    [sizes]              # of `Sizes`
    [training]           # of `TrainingSettings`, without rates, seed and record numbers
    [search]             # of `Search`, for LoRAHub
    [prompts]            # of `Prompts`

Missing keys have their default. Seeds and methods may be added to a recipe during a comparison;
any other change makes it a different comparison.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cgclora.config import AdapterConfig, ConfigError, PromptFormat, number, whole
from cgclora.data.template import choose_format
from cgclora.training.settings import TrainingSettings
from evals.experiments.comparison_dir import Cell, Training, slug
from evals.methods import METHODS, SINGLE, Sizes, compared
from evals.tasks import TASKS
from evals.tasks.recognition import OWN

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FOLDER = Path(__file__).parent / "recipes"
"""The recipes that can be named without a path."""

_SET_ELSEWHERE = ("learning_rate", "gate_learning_rate", "seed", "records_per_task", "records_of")

T = TypeVar("T")


@dataclass(frozen=True)
class Records:
    """Number of records of each task by split; 0 takes all."""

    train: int = 0
    dev: int = 0
    test: int = 0

    def __post_init__(self) -> None:
        """Check every field."""
        for name, value in vars(self).items():
            whole(f"records.{name}", value, 0)


@dataclass(frozen=True)
class Search:
    """Settings of LoRAHub's search; the defaults are those of its published code."""

    examples: int = 5  # number of the task's records for the loss
    evaluations: int = 40  # maximum evaluations of the loss
    l1: float = 0.05  # factor of the mean absolute weight

    def __post_init__(self) -> None:
        """Check every field."""
        for name in ("examples", "evaluations"):
            whole(f"search.{name}", getattr(self, name), 1)
        number("search.l1", self.l1, 0)


@dataclass(frozen=True)
class Prompts:
    """How prompts are written, by all methods alike; see `cgclora.data.template.choose_format`."""

    template: str | None = None  # `chat`, `plain` or a file; None takes the backbone's, if any
    template_options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    system: str | None = None  # system text of records that have none

    def format_for(self, tokenizer: PreTrainedTokenizerBase) -> PromptFormat:
        """The prompt format on a backbone; raises ConfigError where it cannot have it."""
        return choose_format(
            tokenizer, self.template, options=self.template_options, system=self.system
        )


@dataclass(frozen=True)
class Recipe:
    """A comparison; see the module's text.

    Raises:
        ConfigError: A value is out of range, or a task or method is unknown.
    """

    name: str  # on the leaderboard
    clusters: Mapping[str, tuple[str, ...]]  # tasks by cluster
    # Names of methods, in the order in which they are run.
    methods: tuple[str, ...] = field(default_factory=compared)
    seeds: tuple[int, ...] = (0,)  # training seeds; learning rates are tuned with the first
    # Candidates of each method; the best one by `training.best_by` is used: that with the lowest
    # dev loss, or with the highest dev score.
    learning_rates: tuple[float, ...] = (6e-4,)
    # The cluster on which rates are tuned for all clusters; None tunes on each.
    tune_on: str | None = None
    gate_rate: float = 3.0  # the gate's learning rate as a multiple of the experts'
    records: Records = field(default_factory=Records)
    sizes: Sizes = field(default_factory=Sizes)
    training: TrainingSettings = field(default_factory=TrainingSettings)  # without rates and seed
    search: Search = field(default_factory=Search)  # for LoRAHub
    prompts: Prompts = field(default_factory=Prompts)

    def __post_init__(self) -> None:
        """Check every field."""
        if not isinstance(self.name, str) or not self.name.strip():
            raise ConfigError(f"name must be non-empty text, got {self.name!r}.")
        if not self.clusters:
            raise ConfigError("clusters must name the tasks of at least one cluster.")
        for name in ("methods", "seeds", "learning_rates"):
            _each_once(name, getattr(self, name))
        for cluster, tasks in self.clusters.items():
            _each_once(f"clusters.{cluster}", tasks)
            _apart(cluster, tasks)
            for task in tasks if cluster != OWN else ():
                if task not in TASKS or TASKS[task].cluster != cluster:
                    valid = [name for name, one in TASKS.items() if one.cluster == cluster]
                    raise ConfigError(f"clusters.{cluster} has no task {task!r}; it has {valid}.")
        if self.tune_on is not None and self.tune_on not in [*self.clusters]:
            raise ConfigError(f"tune_on is {self.tune_on!r}, not one of {list(self.clusters)}.")
        self._check_training()

    def _check_training(self) -> None:
        if unknown := [name for name in self.methods if name not in METHODS]:
            raise ConfigError(f"methods {unknown} are not known; there are {list(METHODS)}.")
        number("gate_rate", self.gate_rate, 0)
        for seed in self.seeds:
            whole("seeds", seed, 0)
        for rate in self.learning_rates:
            number("learning_rates", rate, 0)
            self.settings(rate, self.seeds[0])
        for seed in self.seeds:
            self.settings(self.learning_rates[0], seed)
        for method in self.methods:
            for cluster, tasks in self.clusters.items():
                if METHODS[method].adapters == "added" and len(tasks) < 2:
                    raise ConfigError(
                        f"{method} adds a task to the others of its cluster, and {cluster} has "
                        "one: give it more, or leave the method out."
                    )
                if METHODS[method].config is not None:
                    self.config(method, tasks)  # reports invalid sizes before training

    def settings(self, learning_rate: float, seed: int) -> TrainingSettings:
        """The settings of one adapter; raises ConfigError if a value is out of range."""
        return dataclasses.replace(
            self.training,
            learning_rate=learning_rate,
            gate_learning_rate=learning_rate * self.gate_rate,
            seed=seed,
        )

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        values: dict[str, Any] = dataclasses.asdict(self) | {"training": self.training.to_dict()}
        values = json.loads(json.dumps(values))
        for name in _SET_ELSEWHERE:
            del values["training"][name]
        if self.prompts == Prompts():  # as recipes were that knew no templates
            del values["prompts"]
        return values

    @property
    def hash(self) -> str:
        """sha256 of everything that must not change during a comparison."""
        fixed = {k: v for k, v in self.to_dict().items() if k != "methods"}
        fixed["seeds"] = self.seeds[0]  # the learning rates are tuned with it
        return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()

    def cells(self) -> list[Cell]:
        """All cells in the order of work: seed by seed, then by cluster and method."""
        return [
            Cell(cluster, METHODS[name], seed)
            for seed in self.seeds
            for cluster in self.clusters
            for name in self.methods
            if METHODS[name].adapters != "none" or seed == self.seeds[0]
        ]

    def trainings(self, cell: Cell, rate: float) -> list[Training]:
        """The trainings of a cell with a learning rate."""
        tasks = self.clusters[cell.cluster]
        groups = [(task,) for task in tasks] if cell.method.has_many else [tuple(tasks)]
        return [Training(cell, rate, group) for group in groups]

    def tuned(self, cell: Cell) -> Cell | None:
        """The cell on which the rate of a cell is tuned; None if nothing is trained."""
        if cell.method.adapters == "none":
            return None
        # A composed adapter takes the rate of its modules.
        trained = METHODS[SINGLE] if cell.method.adapters == "composed" else cell.method
        return Cell(self.tune_on or cell.cluster, trained, self.seeds[0])

    def config(self, method: str, tasks: Sequence[str]) -> AdapterConfig:
        """The config of a trained method's adapter for these tasks."""
        build = METHODS[method].config
        if build is None:
            raise ConfigError(f"{method} trains no adapter.")
        return build(tasks, self.sizes)


def _each_once(name: str, values: Sequence[object]) -> None:
    if not values or any(values.count(value) > 1 for value in values):
        raise ConfigError(f"{name} must have values, each once, got {list(values)!r}.")


def _apart(cluster: str, tasks: Sequence[str]) -> None:
    """Check that the tasks of a cluster have folders of their own."""
    folders: dict[str, str] = {}
    for task in tasks:
        other = folders.setdefault(slug(task), task)
        if other != task:
            raise ConfigError(
                f"the tasks {other!r} and {task!r} of clusters.{cluster} would share the folder "
                f"{slug(task)!r}: rename one."
            )


def read_recipe(source: str | Path) -> Recipe:
    """Read a recipe from a TOML file, or from the package by its name.

    Raises:
        ConfigError: The file is missing or not TOML, or a value is unknown, missing or wrong.
    """
    path = Path(source)
    if not path.suffix and not path.is_file():
        path = FOLDER / f"{source}.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        names = ", ".join(sorted(one.stem for one in FOLDER.glob("*.toml")))
        raise ConfigError(
            f"cannot read the recipe {source}: {error.strerror}. Known by name: {names}."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from error
    try:
        return recipe_from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def recipe_from_dict(values: Mapping[str, Any]) -> Recipe:
    """A recipe from the tables of a TOML file; raises ConfigError as `read_recipe`."""
    kinds = {
        "records": Records,
        "sizes": Sizes,
        "training": TrainingSettings,
        "search": Search,
        "prompts": Prompts,
    }
    values = {
        name: _from_table(kinds[name], value, name) if name in kinds else value
        for name, value in values.items()
    }
    clusters = values.get("clusters", {})
    if not isinstance(clusters, Mapping) or not all(isinstance(v, list) for v in clusters.values()):
        raise ConfigError("clusters must be a table of lists of task names.")
    values["clusters"] = {name: tuple(tasks) for name, tasks in clusters.items()}
    for name in ("methods", "seeds", "learning_rates"):
        if name in values:
            if not isinstance(values[name], list):
                raise ConfigError(f"{name} must be a list, got {values[name]!r}.")
            values[name] = tuple(values[name])
    return _from_table(Recipe, values, "")


def _from_table(kind: type[T], values: object, where: str) -> T:
    """An object of a dataclass from a table of a TOML file."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} must be a table, got {values!r}.")
    valid = {one.name for one in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if kind is TrainingSettings:
        valid -= set(_SET_ELSEWHERE)
    if unknown := sorted(set(values) - valid):
        of = f" of {where}" if where else ""
        raise ConfigError(f"the keys {unknown}{of} are not known; there are {sorted(valid)}.")
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigError(f"{where or 'the recipe'} is not complete: {error}.") from error
