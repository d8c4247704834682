"""A training run to be: its method, sizes and settings, what they cost, and the command for it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgclora.config import AdapterConfig, ConfigError
from cgclora.storage.layer_shapes import LayerKind
from evals.methods import METHODS, Sizes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cgclora.training.settings import TrainingSettings  # slow to import, and budgets need none

_BYTES = {True: 2, False: 4}  # of a weight, by whether it is saved in half precision


def trainable() -> tuple[str, ...]:
    """Names of the methods that one training run makes."""
    return tuple(name for name, method in METHODS.items() if method.is_trainable_alone)


@dataclass(frozen=True)
class Plan:
    """What to train, apart from the data.

    Attributes:
        method: One of `trainable()`.
        tasks: Names of the tasks, in the order of their ids.
        sizes: Of the adapter.
        target_modules: Linear layers to adapt, by the end of their path; None takes all.
        half: Whether the adapter is saved in bf16.
    """

    method: str
    tasks: tuple[str, ...]
    sizes: Sizes
    target_modules: tuple[str, ...] | None = None
    half: bool = True

    def config(self) -> AdapterConfig:
        """The adapter.

        Raises:
            ConfigError: The method is unknown, or no adapter can have these sizes.
        """
        if self.method not in trainable():
            raise ConfigError(f"method {self.method!r} is not one of {', '.join(trainable())}.")
        build = METHODS[self.method].config
        assert build is not None  # noqa: S101 - as those that are trained have
        config = build(self.tasks, self.sizes)
        return dataclasses.replace(config, target_modules=self.target_modules)


# Command line -------------------------------------------------------------------------------


def command(
    plan: Plan, settings: TrainingSettings, data: str | Path, dev: str | Path, run: str | Path
) -> tuple[str, ...]:
    """What `python` is given to train this on files that hold the plan's tasks alone.

    Options that have their default are left out. The plan's tasks must be sorted, as the command
    numbers them.
    """
    return (
        *("-m", "cgclora", "train", "--data", str(data), "--dev", str(dev), "--run", str(run)),
        *config_options(plan.config()),
        *_settings_options(settings),
        *(("--half",) if plan.half else ()),
    )


def config_options(config: AdapterConfig) -> list[str]:
    """The options of `python -m cgclora train` that make this adapter, but for its tasks."""
    rank, tasks = config.total_rank, config.tasks
    if config.gate == "none" and (config.common, config.specific) == (1, 0):
        base = AdapterConfig.lora(tasks, rank)
        options = ["--method", "lora", "--rank", str(rank)]
    elif config.gate_scope == "model":
        base = AdapterConfig.moe_lora(tasks, config.common, rank)
        options = ["--method", "moe-lora", "--experts", str(config.common), "--rank", str(rank)]
    else:
        base = AdapterConfig(tasks)
        sizes = ("common", "specific", "expert_rank")
        options = ["--method", "cgc-lora"]
        options += _options({name: getattr(config, name) for name in sizes})
    base = dataclasses.replace(base, dropout=0.0)  # the command's default, whatever the method's
    names = ("gate", "gate_scope", "alpha", "dropout")
    changed = {n: getattr(config, n) for n in names if getattr(config, n) != getattr(base, n)}
    modules = [part for name in config.target_modules or () for part in ("--target-module", name)]
    return options + _options(changed) + modules


def _settings_options(settings: TrainingSettings) -> list[str]:
    """The options that make these settings."""
    defaults = type(settings)()
    changed = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if getattr(settings, field.name) != getattr(defaults, field.name)
    }
    of_tasks = changed.pop("records_of", {})
    numbers = [part for task, n in of_tasks.items() for part in ("--records-of", f"{task}={n}")]
    return _options(changed) + numbers


def _options(values: Mapping[str, object]) -> list[str]:
    options = []
    for name, value in values.items():
        option = f"--{name.replace('_', '-')}"
        options += [option] if value is True else [option, f"{value}"]
    return options


# What it costs ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Budget:
    """What a method trains at the sizes of a plan.

    Attributes:
        method: Its name.
        total_rank: Stored; 0 where there is a problem.
        active_rank: That one task uses.
        parameters: Trained values; None while the layers are not known.
        file_bytes: Of the saved weights; None likewise.
        problem: Why no adapter can have these sizes.
    """

    method: str
    total_rank: int = 0
    active_rank: int = 0
    parameters: int | None = None
    file_bytes: int | None = None
    problem: str = ""


def budget(plan: Plan, kinds: Sequence[LayerKind] | None) -> Budget:
    """What a plan trains.

    Args:
        plan: What is to be trained.
        kinds: Of the backbone's linear layers, but for the output head; None if unknown.
    """
    try:
        config = plan.config()
    except ConfigError as error:
        return Budget(plan.method, problem=str(error))
    parameters = file_bytes = None
    if kinds is not None:
        parameters = config.trainable_parameters(_adapted(kinds, plan.target_modules))
        file_bytes = parameters * _BYTES[plan.half]
    return Budget(plan.method, config.total_rank, config.active_rank, parameters, file_bytes)


def budgets(plan: Plan, kinds: Sequence[LayerKind] | None) -> tuple[Budget, ...]:
    """What each method would train at the sizes of a plan, the experts of MOE-LoRA made to fit."""
    return tuple(budget(dataclasses.replace(plan, method=method), kinds) for method in trainable())


def fitting_rank(tasks: Sequence[str], sizes: Sizes) -> int:
    """The multiple of MOE-LoRA's number of experts that comes closest to CGC-LoRA's total rank."""
    total = (sizes.common + sizes.specific * len(tasks)) * sizes.expert_rank
    return max(1, round(total / sizes.moe_experts)) * sizes.moe_experts


def _adapted(kinds: Sequence[LayerKind], modules: Sequence[str] | None) -> list[tuple[int, int]]:
    return [
        (kind.inner, kind.outer)
        for kind in kinds
        if modules is None or kind.name in modules
        for _ in range(kind.layers)
    ]


def kinds_of_model(model: PreTrainedModel) -> tuple[LayerKind, ...]:
    """The kinds of linear layers that an adapter of a loaded backbone may stand beside."""
    from cgclora.models.target_modules import linear_paths  # noqa: PLC0415 - there is torch where a model is

    found: Counter[tuple[str, int, int]] = Counter()
    for path in linear_paths(model):
        layer: Any = model.get_submodule(path)
        layer = getattr(layer, "base_layer", layer)
        found[path.rpartition(".")[2], layer.in_features, layer.out_features] += 1
    return tuple(LayerKind(*kind, layers) for kind, layers in found.items())
