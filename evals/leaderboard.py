"""Leaderboards from run folders alone: who answers a set of tasks best, and how sure that is.

A board holds the runs that answered the same records of the same tasks of one cluster by the same
prompts' version. An entry of it is a method; its runs differ in the training seed alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evals.statistics import Estimate, Spread

REFERENCE = "LoRA (Single)"
"""Whom the seesaw compares with: one adapter a task, which shares nothing."""


@dataclass(frozen=True)
class TaskFacts:
    """What a board's entries have in common on one task.

    Attributes:
        name: The task.
        metric: Name of its main metric.
        samples: Records answered.
        data: Hash of these records.
        version: Of the task.
    """

    name: str
    metric: str
    samples: int
    data: str
    version: str


@dataclass(frozen=True)
class TaskScore:
    """An entry's main score on one task, in [0, 1].

    Attributes:
        estimate: Mean over the seeds, with item noise.
        spread: Over the seeds: training noise.
        replicates: [R], mean over the seeds on each shared resample.
    """

    estimate: Estimate
    spread: Spread
    replicates: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Entry:
    """One method on a board.

    Attributes:
        name: Unique on the board: the method, with label and backbone where it takes them to tell
            two entries apart.
        method: What the manifest calls it.
        label: See the manifest.
        backbone: Name of the backbone; None when a server answered.
        folders: Its run folders, one a seed.
        seeds: Of the training, in the order of the folders; None where nothing was trained.
        scores: By task, in the board's order.
        overall: Mean over the tasks, in [0, 1], with item noise.
        spread: Of the overall mean over the seeds.
        rank: 1 + the number of entries whose interval lies wholly above this one's.
        parameters: Trained values; None without an adapter.
        total_rank: Ranks that are stored, see `AdapterConfig`.
        active_rank: Ranks that one task uses.
        training_seconds: Mean over the seeds; None where nothing was trained.
        peak_memory: Of the answering process in bytes, mean over the seeds; None if not known.
        tokens_per_second: Answered, over all runs; None if not known.
    """

    name: str
    method: str
    label: str
    backbone: str | None
    folders: tuple[str, ...]
    seeds: tuple[int | None, ...]
    scores: Mapping[str, TaskScore]
    overall: Estimate
    spread: Spread
    rank: int
    parameters: int | None
    total_rank: int | None
    active_rank: int | None
    training_seconds: float | None
    peak_memory: int | None
    tokens_per_second: float | None


@dataclass(frozen=True)
class Board:
    """A table of methods that answered the same records.

    Attributes:
        id: Short hash of what the entries have in common.
        cluster: `medical` or `general`.
        split: Part of the data, such as `test`.
        tasks: In the order of `evals.tasks.TASKS`.
        entries: The best first.
    """

    id: str
    cluster: str
    split: str | None
    tasks: tuple[TaskFacts, ...]
    entries: tuple[Entry, ...]
