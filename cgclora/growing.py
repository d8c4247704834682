"""Add tasks to a trained cluster, or drop them, and leave all others as they are, bit for bit.

A new task brings its specific experts and its row of the gate. Only these are trained: gradients of
everything else are masked, so that Adam, whose moments stay zero there, never touches it, and the
other tasks' tensors are compared with the parent's before the adapter is saved.

The new experts start as a new adapter's do, A random and B zero. The new row of the gate starts as
the mean of the other tasks' rows, and the logits of its own experts as the mean of the others' own:
the new task begins with the mix that a task of this cluster usually has (our choice).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cgclora import provenance, storage
from cgclora.adapter import Adapter
from cgclora.backbone import Backbone
from cgclora.config import AdapterConfig, ConfigError
from cgclora.data import Record
from cgclora.layer import initial_A
from cgclora.settings import TrainingSettings
from cgclora.shapes import WEIGHTS_FILE
from cgclora.storage import AdapterError
from cgclora.training import train

Tensors = Mapping[str, Tensor]

EMBEDDING, PROJECTION = "gate.embedding", "gate.projection"


def grown(config: AdapterConfig, tasks: Sequence[str]) -> AdapterConfig:
    """The config with more tasks, after the others; every task keeps its scale.

    Raises:
        ConfigError: A task is there already, none is named, or a task has nothing of its own that
            could be trained.
    """
    if not tasks:
        raise ConfigError("name at least one task to add.")
    if known := sorted(set(tasks) & set(config.tasks)):
        raise ConfigError(f"the adapter knows {known} already: choose other names.")
    if config.specific == 0 and config.gate != "task":
        raise ConfigError(
            "all of this adapter's experts belong to all tasks, and its gate is fixed: there is "
            "nothing of a new task's own to train."
        )
    return _with_scale(replace(config, tasks=(*config.tasks, *tasks)), config.scale)


def shrunk(config: AdapterConfig, tasks: Sequence[str]) -> AdapterConfig:
    """The config without some tasks; every other task keeps its scale.

    Raises:
        ConfigError: A task is unknown, none is named, or none would be left.
    """
    if not tasks:
        raise ConfigError("name at least one task to drop.")
    for task in tasks:
        config.task_index(task)
    left = tuple(task for task in config.tasks if task not in tasks)
    if not left:
        raise ConfigError("an adapter needs a task: these are all that it has.")
    return _with_scale(replace(config, tasks=left), config.scale)


def _with_scale(config: AdapterConfig, scale: float) -> AdapterConfig:
    """The config with the alpha that gives exactly this scale: its rule may count all experts."""
    alpha = scale * config.alpha / config.scale
    for candidate in (config.alpha, alpha, math.nextafter(alpha, 0), math.nextafter(alpha, 1e300)):
        found = replace(config, alpha=candidate)
        if found.scale == scale:
            return found
    raise ConfigError(
        f"no alpha gives the scale {scale!r} with {len(config.tasks)} tasks exactly, so that the "
        "other tasks would change: choose the scale rule `expert` or `active` when training."
    )


def add_experts(tensors: Tensors, config: AdapterConfig, more: int, seed: int) -> dict[str, Tensor]:
    """An adapter's tensors with rows and columns for so many more tasks.

    Args:
        tensors: By name, as stored.
        config: Of the adapter that they are of.
        more: How many tasks.
        seed: Of the new experts' A.
    """
    ranks = more * config.specific * config.expert_rank
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(".expert_A"):
            new = initial_A(ranks, tensor.shape[1], generator).to(tensor.dtype)
            found[name] = torch.cat([tensor, new])
        elif name.endswith(".expert_B"):
            found[name] = torch.cat([tensor, tensor.new_zeros(len(tensor), ranks)], dim=1)
        elif name == EMBEDDING:
            found[name] = torch.cat([tensor, tensor.mean(dim=0, keepdim=True).expand(more, -1)])
        else:
            own = tensor[:, config.common :].unflatten(1, (len(config.tasks), config.specific))
            usual = own.mean(dim=1, keepdim=True).expand(-1, more, -1, -1).flatten(1, 2)
            found[name] = torch.cat([tensor, usual], dim=1)
    return found


def take_experts(
    tensors: Tensors, config: AdapterConfig, tasks: Sequence[str]
) -> dict[str, Tensor]:
    """An adapter's tensors for some of its tasks only, in the adapter's order."""
    kept = [place for place, task in enumerate(config.tasks) if task in tasks]
    experts = list(range(config.common))
    for place in kept:
        first = config.common + place * config.specific
        experts += range(first, first + config.specific)
    rank = config.expert_rank
    ranks = [expert * rank + within for expert in experts for within in range(rank)]
    places = {".expert_A": (0, ranks), ".expert_B": (1, ranks)}
    gate = {EMBEDDING: (0, kept), PROJECTION: (1, experts)}
    found = {}
    for name, tensor in tensors.items():
        dim, wanted = gate.get(name) or places[name[name.rindex(".") :]]
        found[name] = tensor.index_select(dim, torch.tensor(wanted, dtype=torch.long)).contiguous()
    return found


def add_tasks(
    folder: str | Path,
    tasks: Sequence[str],
    backbone: Backbone | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train_records: Sequence[Record],
    dev_records: Sequence[Record],
    settings: TrainingSettings,
    run_folder: str | Path,
    *,
    facts: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train new tasks of a saved adapter, and nothing else of it, or go on with such a run.

    Args:
        folder: The adapter, which is left as it is.
        tasks: New names.
        backbone: The one that it was trained on.
        tokenizer: The backbone's.
        train_records: Of the new tasks alone.
        dev_records: Of the new tasks alone.
        settings: How; without weight decay, which would reach the other tasks.
        run_folder: Where the run lives; `adapter` in it is the result.
        facts: More for its manifest.
        options: As for `train`.

    Returns:
        The manifest of the grown adapter.

    Raises:
        ConfigError: As `grown`; or there is weight decay.
        AdapterError: The folder is not an adapter of this backbone, or the training touched more
            than it may.
        DataError, TrainingError: As `train`.
    """
    if settings.weight_decay:
        raise ConfigError("weight_decay would change the other tasks: leave it at 0.")
    manifest, config = storage.read_manifest(folder)
    new = grown(config, tasks)
    parent = storage.read_tensors(folder)
    Adapter.load(folder, backbone, name="parent").detach()  # is it this backbone's?
    adapter = Adapter.attach(backbone, new, name="grown")
    try:
        adapter.load_state_dict(add_experts(parent, config, len(tasks), settings.seed))
        before = take_experts(adapter.state_dict(), new, config.tasks)
        with _only_of(adapter, tasks):
            found = train(
                adapter,
                tokenizer,
                train_records,
                dev_records,
                settings,
                run_folder,
                only=tasks,
                facts={**inherited(manifest, config.tasks, added=list(tasks)), **(facts or {})},
                check=lambda: _compare(adapter, before, config),
                **options,
            )
    finally:
        adapter.detach()
    return found


def drop_tasks(folder: str | Path, tasks: Sequence[str], out: str | Path) -> dict[str, Any]:
    """Write an adapter without some of its tasks. Needs no backbone.

    Args:
        folder: The adapter, which is left as it is unless it is `out`.
        tasks: Which of its tasks to drop.
        out: Where the smaller one goes; an older adapter there is replaced.

    Returns:
        Its manifest.

    Raises:
        ConfigError: As `shrunk`.
        AdapterError: The folder is not an adapter, or `out` holds something else.
    """
    manifest, config = storage.read_manifest(folder)
    new = shrunk(config, tasks)
    tensors = take_experts(storage.read_tensors(folder), config, new.tasks)
    stamp = {name: value for name, value in provenance.stamp(None).items() if name != "hardware"}
    return storage.write(
        out,
        new,
        tensors,
        {
            "backbone": manifest["backbone"],
            "tasks": list(new.tasks),
            "total_rank": new.total_rank,
            "active_rank": new.active_rank,
            "trainable_parameters": sum(tensor.numel() for tensor in tensors.values()),
            **stamp,
            **inherited(manifest, new.tasks, dropped=list(dict.fromkeys(tasks))),
        },
    )


def inherited(
    manifest: Mapping[str, Any], tasks: Sequence[str], **change: Sequence[str]
) -> dict[str, Any]:
    """What a manifest keeps of the parent's: method, licence, and what is true of these tasks.

    Args:
        manifest: The parent's.
        tasks: Those of the parent that are there unchanged.
        change: `added` or `dropped` tasks.
    """
    origin = {
        "sha256": manifest["files"][WEIGHTS_FILE]["sha256"],
        "tasks": manifest["tasks"],
        **{name: manifest[name] for name in ("training", "origin") if name in manifest},
        **change,
    }
    kept = {name: manifest[name] for name in ("method", "licence") if name in manifest}
    if scores := manifest.get("classification"):
        own = {task: found for task, found in scores["tasks"].items() if task in tasks}
        if own:
            kept["classification"] = {**scores, "tasks": own}
    return {**kept, "origin": origin}


@contextmanager
def _only_of(adapter: Adapter, tasks: Sequence[str]) -> Iterator[None]:
    """Within this context gradients reach the values of these tasks alone."""
    handles = []
    masks = _masks(adapter, tasks)
    for name, parameter in adapter.named_parameters():
        handles.append(parameter.register_hook(_masked(masks[name].to(parameter.device))))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _masked(mask: Tensor) -> Callable[[Tensor], Tensor]:
    # Not a product: what is no number in a masked place must not stay one.
    return lambda gradient: torch.where(mask, gradient, 0)


def _masks(adapter: Adapter, tasks: Sequence[str]) -> dict[str, Tensor]:
    """Which values of each parameter belong to these tasks alone."""
    config = adapter.config
    own = torch.zeros(config.num_experts, dtype=torch.bool)
    rows = torch.zeros(len(config.tasks), dtype=torch.bool)
    for task in tasks:
        place = config.task_index(task)
        first = config.common + place * config.specific
        own[first : first + config.specific] = True
        rows[place] = True
    ranks = own.repeat_interleave(config.expert_rank)
    kinds = {"expert_A": ranks[:, None], "expert_B": ranks[None]}
    kinds |= {"embedding": rows[:, None], "projection": own[None, :, None]}
    return {
        name: kinds[name.rpartition(".")[2]].expand_as(parameter)
        for name, parameter in adapter.named_parameters()
    }


def _compare(adapter: Adapter, before: Tensors, config: AdapterConfig) -> None:
    """Refuse an adapter whose other tasks are not what they were.

    Raises:
        AdapterError: A value differs.
    """
    after = take_experts(adapter.state_dict(), adapter.config, config.tasks)
    for name, tensor in before.items():
        if not torch.equal(tensor, after[name]):
            raise AdapterError(
                f"{name} of the other tasks changed while new ones were trained: nothing is saved."
            )
