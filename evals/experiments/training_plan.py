"""The plan of a training run: its method and sizes, its cost and its command line."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgclora.config import AdapterConfig, ConfigError
from cgclora.storage.layer_shapes import WEIGHTS_FILE, LayerKind, layer_kinds
from cgclora.training.task_list import grown
from evals.methods import CGC_SIZES, METHODS, Sizes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cgclora.training.settings import TrainingSettings  # slow to import, and budgets need none


def trainable() -> tuple[str, ...]:
    """Names of the methods that a single training run produces."""
    return tuple(name for name, method in METHODS.items() if method.is_trainable_alone)


@dataclass(frozen=True)
class Plan:
    """An adapter to train."""

    method: str  # one of `trainable()`
    tasks: tuple[str, ...]  # in the order of their ids
    sizes: Sizes  # of the adapter
    # Linear layers to adapt, by the last part of their path; None takes all.
    target_modules: tuple[str, ...] | None = None
    half: bool = True  # whether the adapter is saved in bf16

    def config(self) -> AdapterConfig:
        """The adapter's config.

        Raises:
            ConfigError: The method is not in `trainable()`, or the sizes are invalid.
        """
        if self.method not in trainable():
            raise ConfigError(f"method {self.method!r} is not one of {', '.join(trainable())}.")
        build = METHODS[self.method].config
        assert build is not None  # noqa: S101 - trainable methods have one
        config = build(self.tasks, self.sizes)
        return dataclasses.replace(config, target_modules=self.target_modules)


@dataclass(frozen=True)
class Addition:
    """Tasks to add to a saved adapter."""

    base: Path  # its folder
    before: AdapterConfig  # its config
    tasks: tuple[str, ...]  # the new ones, in the order of their ids

    def config(self) -> AdapterConfig:
        """The config of the adapter with the new tasks.

        Raises:
            ConfigError: The adapter has one of the tasks, or cannot take any.
        """
        return grown(self.before, self.tasks)

    def budgets(self) -> tuple[Budget, Budget, Budget]:
        """The cost of the adapter before, of what is added, and of both.

        Raises:
            ConfigError: As `config`.
            ValueError: The adapter's file is missing or damaged.
        """
        kinds = layer_kinds(self.base)
        shapes = [(kind.inner, kind.outer) for kind in kinds for _ in range(kind.layers)]
        configs = (self.before, self.config())
        before, after = (config.trainable_parameters(shapes) for config in configs)
        # Bytes of a weight: the header of the file is small.
        size = round((self.base / WEIGHTS_FILE).stat().st_size / before)
        ranks, active = [config.total_rank for config in configs], self.before.active_rank
        return (
            Budget("", ranks[0], active, before, size * before),
            Budget("", ranks[1] - ranks[0], 0, after - before, size * (after - before)),
            Budget("", ranks[1], active, after, size * after),
        )


def command(
    plan: Plan | Addition,
    settings: TrainingSettings,
    data: str | Path,
    dev: str | Path,
    run: str | Path,
) -> tuple[str, ...]:
    """The arguments of `python` that train this plan; defaults are left out.

    The files must hold the plan's tasks only, and these must be sorted: the command numbers the
    tasks in this order.
    """
    files = ("--data", str(data), "--dev", str(dev), "--run", str(run))
    if isinstance(plan, Addition):
        base = ("--adapter", str(plan.base))
        return ("-m", "evals", "add-task", *base, *files, *_settings_options(settings))
    package = "cgclora" if settings.best_by == "loss" else "evals"  # which knows the metrics
    return (
        *("-m", package, "train", *files),
        *config_options(plan.config()),
        *_settings_options(settings),
        *(("--half",) if plan.half else ()),
    )


def config_options(config: AdapterConfig) -> list[str]:
    """The options of `python -m cgclora train` for a config, its tasks aside."""
    rank, tasks = config.total_rank, config.tasks
    if config.gate == "none" and (config.common, config.specific) == (1, 0):
        base = AdapterConfig.lora(tasks, rank)
        options = ["--method", "lora", "--rank", str(rank)]
    elif config.shared_A:
        base = AdapterConfig.mtl_lora(tasks, config.common, config.expert_rank)
        options = ["--method", "mtl-lora", "--experts", str(config.common)]
        options += ["--rank", str(config.expert_rank)]
    elif config.gate_scope == "model":
        base = AdapterConfig.moe_lora(tasks, config.common, rank)
        options = ["--method", "moe-lora", "--experts", str(config.common), "--rank", str(rank)]
    else:
        sizes = {name: getattr(config, name) for name in CGC_SIZES}
        is_poly = config.gate == "skills"
        base = AdapterConfig.c_poly(tasks, **sizes) if is_poly else AdapterConfig(tasks)
        options = ["--method", "c-poly" if is_poly else "cgc-lora", *_options(sizes)]
    base = dataclasses.replace(base, dropout=0.0)  # the command's default
    names = ("gate", "gate_scope", "alpha", "dropout")
    changed = {n: getattr(config, n) for n in names if getattr(config, n) != getattr(base, n)}
    modules = [part for name in config.target_modules or () for part in ("--target-module", name)]
    return options + _options(changed) + modules


def _settings_options(settings: TrainingSettings) -> list[str]:
    defaults = vars(type(settings)())
    changed = {name: value for name, value in vars(settings).items() if value != defaults[name]}
    of_tasks = changed.pop("records_of", {})
    numbers = [part for task, n in of_tasks.items() for part in ("--records-of", f"{task}={n}")]
    return _options(changed) + numbers


def _options(values: Mapping[str, object]) -> list[str]:
    options = []
    for name, value in values.items():
        option = f"--{name.replace('_', '-')}"
        options += [option] if value is True else [option, f"{value}"]
    return options


@dataclass(frozen=True)
class Budget:
    """The cost of a method at the sizes of a plan."""

    method: str  # name of the method
    total_rank: int = 0  # stored rank; 0 with a problem
    active_rank: int = 0  # rank that one task uses
    parameters: int | None = None  # trainable parameters; None while the layers are unknown
    file_bytes: int | None = None  # of the saved weights; None likewise
    problem: str = ""  # why these sizes are invalid


def budget(plan: Plan, kinds: Sequence[LayerKind] | None) -> Budget:
    """The cost of a plan.

    Args:
        plan: The adapter to train.
        kinds: The backbone's linear layers without the output head; None if unknown.
    """
    try:
        config = plan.config()
    except ConfigError as error:
        return Budget(plan.method, problem=str(error))
    parameters = file_bytes = None
    if kinds is not None:
        modules = plan.target_modules
        shapes = [
            (kind.inner, kind.outer)
            for kind in kinds
            if modules is None or kind.name in modules
            for _ in range(kind.layers)
        ]
        parameters = config.trainable_parameters(shapes)
        file_bytes = parameters * (2 if plan.half else 4)
    return Budget(plan.method, config.total_rank, config.active_rank, parameters, file_bytes)


def budgets(plan: Plan, kinds: Sequence[LayerKind] | None) -> tuple[Budget, ...]:
    """The cost of each trainable method at the sizes of a plan."""
    return tuple(budget(dataclasses.replace(plan, method=method), kinds) for method in trainable())


def kinds_of_model(model: PreTrainedModel) -> tuple[LayerKind, ...]:
    """The kinds of linear layers of a loaded backbone that an adapter can adapt."""
    from cgclora.models.target_modules import linear_paths  # noqa: PLC0415 - slow: imports torch

    counts: Counter[tuple[str, int, int]] = Counter()
    for path in linear_paths(model):
        layer: Any = model.get_submodule(path)
        layer = getattr(layer, "base_layer", layer)
        counts[path.rpartition(".")[2], layer.in_features, layer.out_features] += 1
    return tuple(LayerKind(*kind, layers) for kind, layers in counts.items())
