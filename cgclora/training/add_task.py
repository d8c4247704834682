"""Add tasks to a trained cluster, or drop them, and leave all others as they are, bit for bit.

Only a new task's specific experts and its row of the gate are trained: all other gradients are
masked, so that Adam's moments stay zero there, and the other tasks' tensors are compared with the
parent's before the adapter is saved.

New experts start with A random and B zero. The new row of the gate starts as the mean of the other
tasks' rows, and the logits of its own experts as the mean of the others' own (our choice): a random
row would weight the trained common experts at random, and a row of zeros could not learn the logits
of its own experts while their projection is zero, too. So does the matrix with which a task turns a
shared A, which then stays as it is: it belongs to all tasks.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cgclora.adapter import Adapter, initial_A
from cgclora.config import AdapterConfig, ConfigError
from cgclora.data.records import Record
from cgclora.data.task_table import description_facts, descriptions_in
from cgclora.inference.router import TaskRouter
from cgclora.models.backbone import Backbone
from cgclora.storage import adapter_dir, provenance
from cgclora.storage.adapter_dir import AdapterError
from cgclora.storage.hub import adapter_folder
from cgclora.storage.layer_shapes import WEIGHTS_FILE
from cgclora.training.settings import TrainingSettings
from cgclora.training.task_list import grown, shrunk
from cgclora.training.train import fit_router, train

Tensors = Mapping[str, Tensor]

EMBEDDING, PROJECTION = "gate.embedding", "gate.projection"
ROWS_OF_TASKS = ("gate.logits", "gate.turns")
"""What else a gate may hold: [layers, T, ...]."""

_HISTORY = ("created", "code", "training", "imported", "router", "origin", "hub")
"""What a manifest says of how its adapter came about."""


def add_experts(tensors: Tensors, config: AdapterConfig, more: int, seed: int) -> dict[str, Tensor]:
    """An adapter's tensors by name with experts for `more` tasks, whose A are drawn with `seed`."""
    ranks = more * config.specific * config.expert_rank
    generator = torch.Generator().manual_seed(seed)
    grown: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(".expert_A"):
            missing = 0 if config.shared_A else ranks
            new = initial_A(missing, tensor.shape[1], generator).to(tensor.dtype)
            grown[name] = torch.cat([tensor, new])
        elif name.endswith(".expert_B"):
            grown[name] = torch.cat([tensor, tensor.new_zeros(len(tensor), ranks)], dim=1)
        elif name in ROWS_OF_TASKS:
            row = tensor.float().mean(dim=1, keepdim=True).to(tensor.dtype)
            grown[name] = torch.cat([tensor, *[row] * more], dim=1)
    if EMBEDDING in tensors:
        embedding, projection = tensors[EMBEDDING], tensors[PROJECTION]
        row, own = _mean_gate(embedding, projection[:, config.common :], config.specific)
        grown[EMBEDDING] = torch.cat([embedding, row.expand(more, -1)])
        grown[PROJECTION] = torch.cat([projection, own.repeat(1, more, 1)], dim=1)
    return grown


def _mean_gate(embedding: Tensor, projection: Tensor, specific: int) -> tuple[Tensor, Tensor]:
    """What makes all logits of a new task the mean of the other tasks'.

    From the embedding [T, D] of the other tasks and the projection [L, T * S, D] of their own
    experts. Returns the new task's embedding [1, D], and the smallest projection of its own experts
    that does it, [L, S, D].
    """
    rows = embedding.float()
    row = rows.mean(dim=0, keepdim=True)
    own = projection.float().unflatten(1, (len(rows), specific))
    logits = (own * rows[:, None]).sum(dim=-1, keepdim=True).mean(dim=1)
    norm = row.square().sum().clamp(min=torch.finfo(torch.float32).tiny)
    return row.to(embedding.dtype), (logits * row / norm).to(projection.dtype)


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
    of_A = [*range(rank)] if config.shared_A else ranks
    places = {".expert_A": (0, of_A), ".expert_B": (1, ranks)}
    gate = {EMBEDDING: (0, kept), PROJECTION: (1, experts)}
    gate |= dict.fromkeys(ROWS_OF_TASKS, (1, kept))
    taken = {}
    for name, tensor in tensors.items():
        dim, index = gate.get(name) or places[name[name.rindex(".") :]]
        taken[name] = tensor.index_select(dim, torch.tensor(index, dtype=torch.long)).contiguous()
    return taken


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
    facts: Mapping[str, Any] = MappingProxyType({}),
    **options: Any,
) -> dict[str, Any]:
    """Train new tasks of a saved adapter, and nothing else of it; resumes an interrupted run.

    The folder is left as it is; the grown adapter is `adapter` in the run folder. Records are of
    the new tasks alone. `facts` go into its manifest, licence and descriptions of tasks beside the
    parent's; `options` are `progress`, `stop`, `report_to` and `judge` as for `train`. Returns
    the manifest of the grown adapter.

    Raises:
        ConfigError: As `grown`; or there is weight decay, or the result would replace the adapter.
        AdapterError: Not of this backbone; a new task has nothing to learn; or others changed.
    """
    folder = adapter_folder(folder)
    manifest, config = adapter_dir.read_manifest(folder)
    if settings.weight_decay:
        raise ConfigError("weight_decay would change the other tasks: leave it at 0.")
    if (result := Path(run_folder) / "adapter").exists() and result.samefile(folder):
        raise ConfigError(
            f"the run in {run_folder} would put the grown adapter in the place of {folder}, which "
            "is left as it is: choose another --run."
        )
    new, tensors = grown(config, tasks), adapter_dir.read_tensors(folder)
    _check_gate(tensors, new)
    parent = Adapter.load(folder, backbone, name="parent")  # checks the backbone
    parent.detach()
    adapter = Adapter.attach(backbone, new, name="grown")
    origin = inherited(manifest, config, config.tasks, added=list(tasks))
    licences = dict.fromkeys(some["licence"] for some in (origin, facts) if "licence" in some)
    described = {**descriptions_in(origin), **descriptions_in(facts)}
    dtypes = {tensor.dtype for tensor in tensors.values()}
    try:
        adapter.load_state_dict(add_experts(tensors, config, len(tasks), settings.seed))
        before = take_experts(adapter.state_dict(), new, config.tasks)
        if router := TaskRouter.of(parent.files, parent.config.tasks, parent.name):
            adapter.files = router.plus(fit_router(train_records, tasks)).to_files()
        return train(
            adapter,
            tokenizer,
            train_records,
            dev_records,
            settings,
            run_folder,
            only=tasks,
            learns=_masks(adapter, tasks),
            facts={
                **origin,
                **facts,
                **description_facts(described, new.tasks),
                **({"licence": "; ".join(licences)} if licences else {}),
            },
            dtype=dtypes.pop() if len(dtypes) == 1 else None,  # several fit into float32
            check=lambda: _compare(adapter, before, config),
            **options,
        )
    finally:
        adapter.detach()


def drop_tasks(folder: str | Path, tasks: Sequence[str], out: str | Path) -> dict[str, Any]:
    """Write an adapter, and its router if it has one, without some tasks; returns the manifest.

    Needs no backbone. The folder is left as it is unless it is `out`, where an older adapter is
    replaced.

    Raises:
        ConfigError: As `shrunk`.
        AdapterError: The folder is not an adapter, or `out` holds something else.
    """
    folder = adapter_folder(folder)
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
    """What a manifest keeps of the parent's: method, licence, and what it says of these tasks.

    `tasks` are those of the parent that are there unchanged, `change` those `added` or `dropped`.
    """
    origin = {
        "sha256": manifest["files"][WEIGHTS_FILE]["sha256"],
        "tasks": list(config.tasks),
        **{name: manifest[name] for name in _HISTORY if name in manifest},
        **change,
    }
    kept = {name: manifest[name] for name in ("method", "licence") if name in manifest}
    scores = manifest.get("classification") or {"tasks": {}}
    if own := {task: score for task, score in scores["tasks"].items() if task in tasks}:
        kept["classification"] = {**scores, "tasks": own}
    return {**kept, **description_facts(descriptions_in(manifest), tasks), "origin": origin}


def _check_gate(tensors: Tensors, config: AdapterConfig) -> None:
    """Refuse a gate of common experts alone that gives all the same weight for every embedding.

    A new task has only its embedding to learn then, and gets no gradient.
    """
    if config.specific or PROJECTION not in tensors or config.shared_A:
        return
    projection = tensors[PROJECTION]
    if torch.equal(projection, projection[:, :1].expand_as(projection)):
        raise AdapterError(
            "the gate of this adapter was not trained and weighs all experts alike, and a new task "
            "would have nothing else to learn: train the adapter on its own tasks first, or grow "
            "one with specific experts."
        )


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
    none = torch.zeros(1, 1, dtype=torch.bool)
    kinds = {"expert_A": none if config.shared_A else ranks[:, None], "expert_B": ranks[None]}
    kinds |= {"embedding": rows[:, None], "projection": own[None, :, None]}
    kinds |= {"logits": rows[None, :, None], "turns": rows[None, :, None, None]}
    return {
        name: kinds[name.rpartition(".")[2]].expand_as(parameter)
        for name, parameter in adapter.named_parameters()
    }


def changed_tensors(before: Tensors, after: Tensors) -> list[str]:
    """Names of the tensors that are not there in both with the same bits."""
    # As bytes: a zero may change its sign, and what is no number differs from itself.
    return sorted(
        before.keys() ^ after.keys()
        | {
            name
            for name in before.keys() & after.keys()
            if before[name].dtype != after[name].dtype
            or not torch.equal(before[name].view(torch.uint8), after[name].view(torch.uint8))
        }
    )


def _compare(adapter: Adapter, before: Tensors, config: AdapterConfig) -> None:
    """Refuse an adapter whose other tasks are not what they were."""
    after = take_experts(adapter.state_dict(), adapter.config, config.tasks)
    if changed := changed_tensors(before, after):
        raise AdapterError(
            f"{changed[0]} of the other tasks changed while new ones were trained: nothing is "
            "saved."
        )
