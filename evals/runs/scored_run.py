"""Scored runs for leaderboards: checked, cached, split by cluster; and what a manifest says."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from cgclora.storage import atomic_io
from evals.runs.run_dir import MANIFEST_FILE, Run, RunError, read_run
from evals.tasks import TASKS
from evals.tasks.recognition import tasks_of

N = TypeVar("N", int, float, str)

UNREADABLE = (
    *(RunError, OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError),
    NotImplementedError,  # a column of a type that pyarrow cannot hand over
)
"""What `load` may raise for a folder that another program wrote or that was edited by hand."""

_DISTINCTIONS = {
    "prompt": "prompt",
    "total_rank": "rank",
    "active_rank": "active rank",
    "parameters": "parameters",
    "recipe": "recipe",
    "fingerprint": "backbone",
}
"""Fields of a key that tell entries of one method, label and backbone apart, with their words."""

_SUMMARY = (
    *("method", "label", "seed", "split", "prompt", "recipe", "learning_rate", "dev_losses"),
    *("trainable_parameters", "total_rank", "active_rank", "training_seconds"),
    *("seconds", "tokens", "peak_memory", "decoding", "created", "code", "versions", "hardware"),
)
"""Fields of a manifest that its summary has as they are."""


@dataclass(frozen=True)
class TaskFacts:
    """The facts of a task that all entries of a board share."""

    name: str
    metric: str  # its main metric
    samples: int  # number of answered records
    data: str  # hash of these records
    version: str  # of the task
    metric_version: str = ""  # of the metric and its libraries


@dataclass(frozen=True)
class Key:
    """The facts that the runs of one entry share, whatever their seeds."""

    method: str  # as in the manifest, like the label
    label: str
    backbone: str  # name of the backbone; empty when a server answered
    prompt: str  # one of `evals.runs.evaluate.PROMPTS`
    total_rank: int | None  # stored rank; None without an adapter, like the two below
    active_rank: int | None  # rank that one task uses
    parameters: int | None  # trainable parameters
    recipe: str  # hash of the recipe; empty without one
    fingerprint: str  # of the backbone


@dataclass(frozen=True)
class Sizes:
    """Costs of the adapters that answered some tasks; None where unknown or nothing was trained."""

    parameters: int | None  # trainable, of all adapters together
    total_rank: int | None  # stored, of all adapters together
    active_rank: int | None  # the largest that one task uses
    training_seconds: float | None  # of all adapters together


@dataclass(frozen=True)
class Place:
    """The facts that the runs of one board share."""

    cluster: str  # `medical` or `general`
    split: str | None  # part of the data, such as `test`
    tasks: tuple[TaskFacts, ...]  # in the order of `evals.tasks.TASKS`
    resamples: int  # number of replicates, R


@dataclass(frozen=True, eq=False)
class Scored:
    """A run on the tasks of one cluster; compared by identity, since runs are cached."""

    folder: str
    place: Place  # its board
    key: Key  # its entry on the board
    seed: int | None  # of the training; None where nothing was trained
    created: str  # in ISO 8601, UTC
    values: tuple[float, ...]  # [T] main scores, in [0, 1]
    replicates: npt.NDArray[np.float32]  # [T, R] main scores on shared resamples
    sizes: Sizes  # of this cluster's adapters
    whole: Sizes  # of all adapters of the folder, which may answer several clusters
    peak_memory: float | None  # in bytes while answering; None if unknown
    tokens: float  # generated
    seconds: float  # of answering
    # Hash of the texts, and for each what the model forgot of it, in nats a token; of all tasks of
    # the run. None where it was not measured.
    forgetting: tuple[str, tuple[float, ...]] | None


def entry_names(keys: Sequence[Key]) -> list[str]:
    """Unique names of a board's entries: the method, with what tells it apart from others of it."""
    names = [key.method for key in keys]
    for field in ("label", "backbone"):
        values = [getattr(key, field) for key in keys]
        if len(set(values)) > 1:
            names = [
                f"{name} · {one}".rstrip(" ·") for name, one in zip(names, values, strict=True)
            ]
    for field, word in _DISTINCTIONS.items():
        values = [str(getattr(key, field))[:12] for key in keys]
        sharers: dict[str, set[str]] = defaultdict(set)
        for name, one in zip(names, values, strict=True):
            sharers[name].add(one)
        names = [
            f"{name} · {word} {one}" if len(sharers[name]) > 1 else name
            for name, one in zip(names, values, strict=True)
        ]
    return names


def task_facts(run: Run) -> dict[str, TaskFacts]:
    """By task, the facts that another run must share to be compared with this one.

    Raises:
        RunError: The run has not been scored, or lacks some of the facts.
    """
    if run.metrics is None:
        raise RunError(f"{run.folder} has no scores yet: python -m evals score.")
    try:
        data = run.manifest["data"]["tasks"]
        return {
            name: TaskFacts(
                name=name,
                metric=str(facts["main"]),
                samples=int(data[name]["records"]),
                data=str(data[name]["hash"]),
                version=str(run.manifest["tasks"][name]["version"]),
                metric_version=str(facts["scores"][facts["main"]]["version"]),
            )
            for name, facts in run.metrics.items()
        }
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"{run.folder} lacks facts of its tasks: {error!r}. Score it again."
        ) from error


def load(folder: Path) -> tuple[Scored, ...] | None:
    """A run, cluster by cluster; None if it has no scores.

    Runs are cached by the hash of their manifest, which has the hashes of the other files.

    Raises:
        RunError: The run is damaged.
        Exception: Another one of `UNREADABLE`, if the folder is not a run.
    """
    version = _manifest_hash(folder)
    try:
        return _read(folder, version)
    except RunError:
        now = _manifest_hash(folder)
        if now == version:
            raise
        return _read(folder, now)  # it was scored meanwhile


def _manifest_hash(folder: Path) -> str:
    return atomic_io.sha256((folder / MANIFEST_FILE).read_bytes())


@lru_cache(maxsize=4096)
def _read(folder: Path, version: str) -> tuple[Scored, ...] | None:
    """As `load`; RunError also if the manifest does not have this hash."""
    run = read_run(folder)
    facts = None if run.metrics is None else task_facts(run)
    drawn = {} if facts is None else run.replicates()
    if _manifest_hash(folder) != version:
        raise RunError(f"{folder} changed while it was read: try again.")
    if facts is None:
        return None
    tasks = tasks_of(run.manifest)
    of_cluster: dict[str, list[TaskFacts]] = defaultdict(list)
    for name in dict.fromkeys([*TASKS, *tasks]):
        if name in facts:
            of_cluster[tasks[name].cluster].append(facts[name])
    return tuple(_scored(run, cluster, tasks, drawn) for cluster, tasks in of_cluster.items())


def _scored(
    run: Run, cluster: str, tasks: Sequence[TaskFacts], drawn: Mapping[str, npt.NDArray[Any]]
) -> Scored:
    manifest, metrics = run.manifest, run.metrics or {}
    values = tuple(float(metrics[t.name]["scores"][t.metric]["value"]) for t in tasks)
    replicates = np.stack([drawn[task.name] for task in tasks]).astype(np.float32)
    if not (all(map(math.isfinite, values)) and np.isfinite(replicates).all() and replicates.size):
        raise ValueError("scores and replicates must be finite numbers")
    if any(task.samples < 1 for task in tasks):
        raise ValueError("a task has no records")
    backbone = manifest.get("backbone") or {}
    sizes = _sizes(manifest, {task.name for task in tasks})
    return Scored(
        folder=str(run.folder),
        place=Place(cluster, _as(str, manifest.get("split")), tuple(tasks), replicates.shape[1]),
        key=Key(
            method=str(manifest["method"]),
            label=str(manifest.get("label") or ""),
            backbone=str(backbone.get("name", "")),
            prompt=str(manifest.get("prompt", "plain")),
            total_rank=sizes.total_rank,
            active_rank=sizes.active_rank,
            parameters=sizes.parameters,
            recipe=str((manifest.get("recipe") or {}).get("hash", "")),
            fingerprint=str(backbone.get("fingerprint", "")),
        ),
        seed=_as(int, manifest.get("seed")),
        created=str(manifest.get("created", "")),
        values=values,
        replicates=replicates,
        sizes=sizes,
        whole=_sizes(manifest, set(metrics)),
        peak_memory=_as(float, manifest.get("peak_memory")),
        tokens=float(manifest.get("tokens") or 0),
        seconds=float(manifest.get("seconds") or 0),
        forgetting=_forgetting(manifest.get("forgetting")),
    )


def _forgetting(facts: Mapping[str, Any] | None) -> tuple[str, tuple[float, ...]] | None:
    if facts is None:
        return None
    differences = tuple(map(float, facts["differences"]))
    if not (differences and all(map(math.isfinite, differences))):
        raise ValueError("forgetting must be finite numbers")
    return str(facts["texts"]["hash"]), differences


def _sizes(manifest: Mapping[str, Any], tasks: set[str]) -> Sizes:
    """Sizes and training time of the adapters of these tasks, or else those of the manifest."""
    values: Mapping[str, Any] = manifest
    if adapters := manifest.get("adapters"):
        used = [one["manifest"] for one in adapters if tasks.intersection(one["tasks"])]
        seconds = [one.get("training", {}).get("seconds") for one in used]
        values = {
            "trainable_parameters": _of_all(sum, [one.get("trainable_parameters") for one in used]),
            "total_rank": _of_all(sum, [one.get("total_rank") for one in used]),
            "active_rank": _of_all(max, [one.get("active_rank") for one in used]),
            "training_seconds": _of_all(sum, seconds),
        }
    return Sizes(
        parameters=_as(int, values.get("trainable_parameters")),
        total_rank=_as(int, values.get("total_rank")),
        active_rank=_as(int, values.get("active_rank")),
        training_seconds=_as(float, values.get("training_seconds")),
    )


def _of_all(fold: Callable[[Sequence[Any]], Any], values: Sequence[Any]) -> Any:
    return None if not values or None in values else fold(values)


def _as(kind: type[N], value: Any) -> N | None:
    return None if value is None else kind(value)


def run_facts(run: Run) -> dict[str, Any]:
    """A short form of the manifest as JSON values, without paths; missing facts are None.

    `backbone` has name and fingerprint; `data` the source's name, its hash and, by task, number and
    hash of the records and the task's version; `adapters` for each its tasks, the hash of its
    weights, the commit of its training, its steps and dev loss; `scores` the main score by task,
    None before scoring. The other fields are as in `evals.runs.run_dir`.
    """
    manifest = run.manifest
    data = _mapping(manifest.get("data"))
    versions = _mapping(manifest.get("tasks"))
    return {
        **{name: manifest.get(name) for name in _SUMMARY},
        "backbone": manifest.get("backbone"),
        "data": {
            "name": data.get("name"),
            "hash": data.get("hash"),
            "tasks": {
                task: {**_mapping(facts), "version": _mapping(versions.get(task)).get("version")}
                for task, facts in _mapping(data.get("tasks")).items()
            },
        },
        "adapters": [_adapter_summary(_mapping(one)) for one in manifest.get("adapters") or ()],
        "scores": None
        if run.metrics is None
        else {t: _main_score(m) for t, m in run.metrics.items()},
    }


def _adapter_summary(facts: Mapping[str, Any]) -> dict[str, Any]:
    manifest = _mapping(facts.get("manifest"))
    training = _mapping(manifest.get("training"))
    weights = _mapping(_mapping(manifest.get("files")).get("adapter.safetensors"))
    return {
        "tasks": facts.get("tasks"),
        "sha256": weights.get("sha256"),
        "code": manifest.get("code"),
        "steps": training.get("steps"),
        "dev_loss": training.get("best_dev_loss"),
    }


def _main_score(facts: Mapping[str, Any]) -> dict[str, Any]:
    name = facts["main"]
    return {"metric": name, **facts["scores"][name]}


def _mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping: manifests of other programs may have other types."""
    return value if isinstance(value, Mapping) else {}
