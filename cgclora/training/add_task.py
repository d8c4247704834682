"""Add tasks to a trained cluster, or drop them, and leave all others as they are, bit for bit.

A new task brings its specific experts and its row of the gate. Only these are trained: gradients of
everything else are masked, so that Adam, whose moments stay zero there, never touches it, and the
other tasks' tensors are compared with the parent's before the adapter is saved.

The new experts start as a new adapter's do, A random and B zero. The new row of the gate starts as
the mean of the other tasks' rows, and its own experts' logits as the mean of the others' own: it
begins with the mix that a task of this cluster usually has (our choice). A random row, as in a new
adapter, would weigh the trained common experts at random; a row of zeros could not learn its own
experts' logits while their projection is zero, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cgclora.adapter import Adapter, initial_A
from cgclora.config import AdapterConfig, ConfigError
from cgclora.data.records import Record
from cgclora.inference.router import TaskRouter
from cgclora.models.backbone import Backbone
from cgclora.storage import adapter_dir, provenance
from cgclora.storage.adapter_dir import AdapterError
from cgclora.storage.layer_shapes import WEIGHTS_FILE
from cgclora.training.settings import TrainingSettings
from cgclora.training.train import train

Tensors = Mapping[str, Tensor]

EMBEDDING, PROJECTION = "gate.embedding", "gate.projection"

_HISTORY = ("created", "code", "training", "imported", "router", "origin")
"""What a manifest says of how its adapter came about."""


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
    if config.specific == 0 and config.common == 1:
        raise ConfigError(
            "all tasks of this adapter share one expert, which any gate gives weight 1: there is "
            "nothing of a new task's own to train. Grow an adapter with specific experts or with "
            "several common ones."
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
    """The config with an alpha that gives this scale, whatever its rule: one may count all experts.

    Where no float gives it exactly, one gives what rounds to the same float32, in which the layers
    compute.
    """
    alpha = scale * config.alpha / config.scale
    near = (config.alpha, alpha, math.nextafter(alpha, 0), math.nextafter(alpha, math.inf))
    return min(
        (replace(config, alpha=candidate) for candidate in near),
        key=lambda one: (_float32(one.scale) != _float32(scale), abs(one.scale - scale)),
    )


def _float32(value: float) -> float:
    return torch.tensor(value, dtype=torch.float32).item()


def add_experts(tensors: Tensors, config: AdapterConfig, more: int, seed: int) -> dict[str, Tensor]:
    """An adapter's tensors by name with experts for `more` tasks, whose A are drawn with `seed`."""
    ranks = more * config.specific * config.expert_rank
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(".expert_A"):
            new = initial_A(ranks, tensor.shape[1], generator).to(tensor.dtype)
            found[name] = torch.cat([tensor, new])
        elif name.endswith(".expert_B"):
            found[name] = torch.cat([tensor, tensor.new_zeros(len(tensor), ranks)], dim=1)
    if EMBEDDING in tensors:
        embedding, projection = tensors[EMBEDDING], tensors[PROJECTION]
        row, own = _usual_gate(embedding, projection[:, config.common :], config.specific)
        found[EMBEDDING] = torch.cat([embedding, row.expand(more, -1)])
        found[PROJECTION] = torch.cat([projection, own.repeat(1, more, 1)], dim=1)
    return found


def _usual_gate(embedding: Tensor, projection: Tensor, specific: int) -> tuple[Tensor, Tensor]:
    """What makes all logits of a new task the mean of the other tasks'.

    From the embedding [T, D] of the other tasks and the projection [L, T * S, D] of their own
    experts. Returns the new task's embedding [1, D], and the smallest projection of its own experts
    that does it, [L, S, D].
    """
    rows = embedding.float()
    row = rows.mean(dim=0, keepdim=True)
    own = projection.float().unflatten(1, (len(rows), specific))
    logits = (own * rows[:, None]).sum(dim=-1, keepdim=True).mean(dim=1)
    least = torch.finfo(torch.float32).tiny
    found = logits * row / row.square().sum().clamp(min=least)
    return row.to(embedding.dtype), found.to(projection.dtype)


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
    """Train new tasks of a saved adapter, and nothing else of it; resumes an interrupted run.

    Args:
        folder: The adapter, which is left as it is.
        tasks: New names.
        backbone: The one that it was trained on.
        tokenizer: The backbone's.
        train_records: Of the new tasks alone.
        dev_records: Likewise.
        settings: How; without weight decay, which would reach the other tasks.
        run_folder: Where the run lives; `adapter` in it is the result.
        facts: More for its manifest; a licence is added to the parent's.
        options: `progress` and `stop`, as for `train`.

    Returns:
        The manifest of the grown adapter.

    Raises:
        ConfigError: As `grown`; or there is weight decay, or the result would replace the adapter.
        AdapterError: Not of this backbone; a new task has nothing to learn; or others changed.
        DataError, TrainingError: As `train`.
    """
    manifest, config = adapter_dir.read_manifest(folder)
    _check_settings(folder, settings, run_folder)
    new, tensors = grown(config, tasks), adapter_dir.read_tensors(folder)
    _check_gate(tensors, new)
    parent = Adapter.load(folder, backbone, name="parent")  # is it this backbone's?
    parent.detach()
    adapter = Adapter.attach(backbone, new, name="grown")
    origin = inherited(manifest, config, config.tasks, added=list(tasks))
    try:
        adapter.load_state_dict(add_experts(tensors, config, len(tasks), settings.seed))
        before = take_experts(adapter.state_dict(), new, config.tasks)
        adapter.files = _grown_router(parent, tasks, train_records)
        return train(
            adapter,
            tokenizer,
            train_records,
            dev_records,
            settings,
            run_folder,
            only=tasks,
            learns=_masks(adapter, tasks),
            facts=_with_licences(origin, facts or {}),
            dtype=_dtype(tensors),
            check=lambda: _compare(adapter, before, config),
            **options,
        )
    finally:
        adapter.detach()


def _grown_router(
    parent: Adapter, tasks: Sequence[str], records: Sequence[Record]
) -> dict[str, bytes]:
    """The files of an adapter's router that has learned new tasks' prompts; none without one."""
    if (router := TaskRouter.of(parent.files, parent.config.tasks, parent.name)) is None:
        return {}
    prompts = {task: [one.prompt for one in records if one.task == task] for task in tasks}
    return router.plus(TaskRouter.fit(prompts)).to_files()


def _check_settings(folder: str | Path, settings: TrainingSettings, run_folder: str | Path) -> None:
    """Refuse settings that would change the other tasks, and a run in the adapter's place.

    Raises:
        ConfigError: They would.
    """
    if settings.weight_decay:
        raise ConfigError("weight_decay would change the other tasks: leave it at 0.")
    result = Path(run_folder) / "adapter"
    if result.exists() and result.samefile(folder):
        raise ConfigError(
            f"the run in {run_folder} would put the grown adapter in the place of {folder}, which "
            "is left as it is: choose another --run."
        )


def drop_tasks(folder: str | Path, tasks: Sequence[str], out: str | Path) -> dict[str, Any]:
    """Write an adapter, and its router if it has one, without some tasks; returns the manifest.

    Needs no backbone. The folder is left as it is unless it is `out`, where an older adapter is
    replaced.

    Raises:
        ConfigError: As `shrunk`.
        AdapterError: The folder is not an adapter, or `out` holds something else.
    """
    manifest, config = adapter_dir.read_manifest(folder)
    new = shrunk(config, tasks)
    files = adapter_dir.read_files(folder, manifest)
    router = TaskRouter.of(files, config.tasks, str(folder))
    tensors = take_experts(adapter_dir.read_tensors(folder), config, new.tasks)
    stamp = {name: value for name, value in provenance.stamp(None).items() if name != "hardware"}
    return adapter_dir.write(
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
            **inherited(manifest, config, new.tasks, dropped=list(dict.fromkeys(tasks))),
        },
        files=None if router is None else router.take(new.tasks).to_files(),
    )


def inherited(
    manifest: Mapping[str, Any],
    config: AdapterConfig,
    tasks: Sequence[str],
    **change: Sequence[str],
) -> dict[str, Any]:
    """What a manifest keeps of the parent's: method, licence, and what is true of these tasks.

    `tasks` are those of the parent that are there unchanged, `change` those `added` or `dropped`.
    """
    origin = {
        "sha256": manifest["files"][WEIGHTS_FILE]["sha256"],
        "tasks": list(config.tasks),
        **{name: manifest[name] for name in _HISTORY if name in manifest},
        **change,
    }
    kept = {name: manifest[name] for name in ("method", "licence") if name in manifest}
    if scores := manifest.get("classification"):
        own = {task: found for task, found in scores["tasks"].items() if task in tasks}
        if own:
            kept["classification"] = {**scores, "tasks": own}
    return {**kept, "origin": origin}


def _check_gate(tensors: Tensors, config: AdapterConfig) -> None:
    """Refuse a gate of common experts alone that gives all the same weight for every embedding.

    A new task has only its embedding to learn then, and gets no gradient.
    """
    if config.specific:
        return
    projection = tensors[PROJECTION]
    if torch.equal(projection, projection[:, :1].expand_as(projection)):
        raise AdapterError(
            "the gate of this adapter was not trained and weighs all experts alike, and a new task "
            "would have nothing else to learn: train the adapter on its own tasks first, or grow "
            "one with specific experts."
        )


def _with_licences(kept: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Facts and more of them, under both licences."""
    stated = dict.fromkeys(facts["licence"] for facts in (kept, more) if "licence" in facts)
    return {**kept, **more, **({"licence": "; ".join(stated)} if stated else {})}


def _dtype(tensors: Tensors) -> torch.dtype | None:
    """That of all tensors; None where they have several, which all fit into float32."""
    found = {tensor.dtype for tensor in tensors.values()}
    return found.pop() if len(found) == 1 else None


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
        # As bytes: a zero may change its sign, and what is no number differs from itself.
        if not torch.equal(tensor.view(torch.uint8), after[name].view(torch.uint8)):
            raise AdapterError(
                f"{name} of the other tasks changed while new ones were trained: nothing is saved."
            )
