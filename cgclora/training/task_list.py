"""The config of an adapter with more tasks, or fewer; every other task keeps its scale."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cgclora.config import AdapterConfig, ConfigError


def grown(config: AdapterConfig, tasks: Sequence[str]) -> AdapterConfig:
    """The config with more tasks, after the others; every task keeps its scale.

    Raises:
        ConfigError: A task is there already, none is named, or a task has nothing of its own that
            could be trained.
    """
    if not tasks:
        raise ConfigError("name at least one task to add.")
    if present := sorted(set(tasks) & set(config.tasks)):
        raise ConfigError(f"the adapter knows {present} already: choose other names.")
    check_takes_tasks(config)
    return _with_scale(replace(config, tasks=(*config.tasks, *tasks)), config.scale)


def check_takes_tasks(config: AdapterConfig) -> None:
    """Refuse an adapter in which a new task would have nothing of its own.

    Raises:
        ConfigError: It has nothing of a task's own that could be trained.
    """
    if config.shared_A:
        return  # its matrix is the task's own
    if config.specific == 0 and not config.learns_gate:
        raise ConfigError(
            "all of this adapter's experts belong to all tasks, and its gate is fixed: there is "
            "nothing of a new task's own to train."
        )
    if config.specific == 0 and config.common == 1:
        raise ConfigError(
            "all tasks of this adapter share one expert, which any gate gives weight 1: there is "
            "nothing of a new task's own to train. Grow an adapter with specific experts or with "
            "several common ones."
        )


def shrunk(config: AdapterConfig, tasks: Sequence[str]) -> AdapterConfig:
    """The config without some tasks; every other task keeps its scale.

    Raises:
        ConfigError: A task is unknown, none is named, or none would be left.
    """
    if not tasks:
        raise ConfigError("name at least one task to drop.")
    for task in tasks:
        config.task_index(task)
    kept = tuple(task for task in config.tasks if task not in tasks)
    if not kept:
        raise ConfigError("an adapter needs a task: these are all that it has.")
    return _with_scale(replace(config, tasks=kept), config.scale)


def _with_scale(config: AdapterConfig, scale: float) -> AdapterConfig:
    """The config with an alpha that gives this scale, whatever its rule: one may count all experts.

    Where no float gives it exactly, one gives what rounds to the same float32, in which the layers
    compute.
    """
    alpha = scale * config.alpha / config.scale
    near = (config.alpha, alpha, math.nextafter(alpha, 0), math.nextafter(alpha, math.inf))
    return min(
        (replace(config, alpha=candidate) for candidate in near),
        key=lambda one: (np.float32(one.scale) != np.float32(scale), abs(one.scale - scale)),
    )
