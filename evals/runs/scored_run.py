"""A scored run as a leaderboard needs it: read once, checked, and split by cluster."""

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
from evals.tasks import TASKS, get_task

N = TypeVar("N", int, float)

UNREADABLE = (
    *(RunError, OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError),
    NotImplementedError,  # a column of a type that pyarrow cannot hand over
)
"""What `load` may raise of a folder that another program wrote, or a hand edited."""


@dataclass(frozen=True)
class TaskFacts:
    """What a board's entries have in common on one task.

    Attributes:
        name: The task.
        metric: Name of its main metric.
        samples: Records answered.
        data: Hash of these records.
        version: Of the task.
        metric_version: Of the metric, with the libraries that it rests on.
    """

    name: str
    metric: str
    samples: int
    data: str
    version: str
    metric_version: str = ""


@dataclass(frozen=True)
class Key:
    """What the runs of one method have in common, whatever their seeds.

    Attributes:
        method: What the manifest calls it.
        label: See the manifest; may be empty.
        backbone: Name of the backbone; empty when a server answered.
        prompt: One of `evals.runs.evaluate.PROMPTS`.
        total_rank: Ranks that are stored, see `AdapterConfig`; None without an adapter.
        active_rank: Ranks that one task uses.
        parameters: Trained values.
        recipe: Hash of the recipe; empty without one.
        fingerprint: Of the backbone.
    """

    method: str
    label: str
    backbone: str
    prompt: str
    total_rank: int | None
    active_rank: int | None
    parameters: int | None
    recipe: str
    fingerprint: str


@dataclass(frozen=True)
class Place:
    """What runs must have in common to stand on one board.

    Attributes:
        cluster: `medical` or `general`.
        split: Part of the data, such as `test`.
        tasks: In the order of `evals.tasks.TASKS`.
        resamples: Number of replicates, R.
    """

    cluster: str
    split: str | None
    tasks: tuple[TaskFacts, ...]
    resamples: int


@dataclass(frozen=True, eq=False)
class Scored:
    """A run on the tasks of one cluster. Equal to itself alone: what is read once is the same.

    Attributes:
        folder: Where it lies.
        place: The board that it stands on.
        key: The entry of that board.
        seed: Of the training; None where nothing was trained.
        created: When, in ISO 8601, UTC.
        values: [T] main scores, in [0, 1].
        replicates: [T, R] main scores on shared resamples.
        training_seconds: Of this cluster's adapters; None where nothing was trained.
        peak_memory: While answering in bytes; None if not known.
        tokens: Generated.
        seconds: Of answering.
    """

    folder: str
    place: Place
    key: Key
    seed: int | None
    created: str
    values: tuple[float, ...]
    replicates: npt.NDArray[np.float32]
    training_seconds: float | None
    peak_memory: float | None
    tokens: float
    seconds: float


def task_facts(run: Run) -> dict[str, TaskFacts]:
    """What another run must have in common with this one to be compared on a task, by task.

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

    What was read stays in memory under the hash of the manifest, which holds the hashes of the
    run's other files: as long as the manifest is the same, nothing else is read again.

    Raises:
        RunError: It is damaged.
        Exception: Any other of `UNREADABLE`, if it is no run of ours.
    """
    mark = _mark(folder)
    try:
        return _read(folder, mark)
    except RunError:
        now = _mark(folder)
        if now == mark:
            raise
        return _read(folder, now)  # it was scored anew in between


def _mark(folder: Path) -> str:
    return atomic_io.sha256((folder / MANIFEST_FILE).read_bytes())


@lru_cache(maxsize=4096)
def _read(folder: Path, mark: str) -> tuple[Scored, ...] | None:
    """As `load`; a RunError too if the manifest has not this hash."""
    run = read_run(folder)
    facts = None if run.metrics is None else task_facts(run)
    drawn = {} if facts is None else run.replicates()
    if _mark(folder) != mark:
        raise RunError(f"{folder} changed while it was read: try again.")
    if facts is None:
        return None
    order = {name: place for place, name in enumerate(TASKS)}
    of_cluster: dict[str, list[TaskFacts]] = defaultdict(list)
    for task in sorted(map(get_task, facts), key=lambda task: order[task.name]):
        of_cluster[task.cluster].append(facts[task.name])
    return tuple(_scored(run, cluster, own, drawn) for cluster, own in of_cluster.items())


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
        place=Place(cluster, _text(manifest.get("split")), tuple(tasks), replicates.shape[1]),
        key=Key(
            method=str(manifest["method"]),
            label=str(manifest.get("label") or ""),
            backbone=str(backbone.get("name", "")),
            prompt=str(manifest.get("prompt", "plain")),
            total_rank=_number(int, sizes.get("total_rank")),
            active_rank=_number(int, sizes.get("active_rank")),
            parameters=_number(int, sizes.get("trainable_parameters")),
            recipe=str((manifest.get("recipe") or {}).get("hash", "")),
            fingerprint=str(backbone.get("fingerprint", "")),
        ),
        seed=_number(int, manifest.get("seed")),
        created=str(manifest.get("created", "")),
        values=values,
        replicates=replicates,
        training_seconds=_number(float, sizes.get("training_seconds")),
        peak_memory=_number(float, manifest.get("peak_memory")),
        tokens=float(manifest.get("tokens") or 0),
        seconds=float(manifest.get("seconds") or 0),
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _sizes(manifest: Mapping[str, Any], tasks: set[str]) -> Mapping[str, Any]:
    """What the manifest says of its adapters, or of those alone that answered these tasks."""
    adapters = manifest.get("adapters") or []
    own = [one["manifest"] for one in adapters if tasks.intersection(one["tasks"])]
    if not adapters:
        return manifest
    seconds = [one.get("training", {}).get("seconds") for one in own]
    return {
        "trainable_parameters": _of_all(sum, [one.get("trainable_parameters") for one in own]),
        "total_rank": _of_all(sum, [one.get("total_rank") for one in own]),
        "active_rank": _of_all(max, [one.get("active_rank") for one in own]),
        "training_seconds": _of_all(sum, seconds),
    }


def _of_all(fold: Callable[[Sequence[Any]], Any], values: Sequence[Any]) -> Any:
    return None if not values or None in values else fold(values)


def _number(kind: type[N], value: Any) -> N | None:
    return None if value is None else kind(value)
