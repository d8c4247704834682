"""An entry of a leaderboard: a method's scores and costs, on one cluster or on several together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TypeVar

import numpy as np

from evals.runs.scored_run import Key, Scored, TaskFacts
from evals.scoring.effect_sizes import Part
from evals.scoring.ranking import rank_intervals, ranks
from evals.scoring.statistics import (
    Estimate,
    FloatArray,
    Spread,
    mean_estimate,
    mean_of,
    spread,
    summarise,
)

N = TypeVar("N", int, float)


@dataclass(frozen=True)
class TaskScore:
    """An entry's main score on one task, in [0, 1]."""

    estimate: Estimate  # mean over the seeds, with item noise
    spread: Spread  # over the seeds: training noise
    replicates: FloatArray  # [R] means over the seeds on each shared resample
    seeds: tuple[float, ...]  # the score of each run, in the order of the entry's seeds


@dataclass(frozen=True)
class Entry:
    """One method on a board.

    On a board of several clusters it is one backbone with an adapter for each: parameters, stored
    rank and training time are sums over the clusters; memory and the rank that one task uses are
    the largest; forgetting is the mean of the adapters.
    """

    name: str  # unique on the board, see `scored_run.entry_names`
    method: str  # as in the manifest, like the label
    label: str
    backbone: str | None  # name of the backbone; None when a server answered
    folders: tuple[str, ...]  # its run folders, one a seed, cluster after cluster
    seeds: tuple[int | None, ...]  # of the training; None where nothing was trained
    scores: Mapping[str, TaskScore]  # by task, in the board's order
    replicates: FloatArray  # [R] means over the tasks on each shared resample
    overall: Estimate  # mean over the tasks, in [0, 1], with item noise
    spread: Spread  # of the overall mean over the seeds
    parameters: int | None  # see `scored_run.Sizes`, like the three below
    total_rank: int | None
    active_rank: int | None
    training_seconds: float | None  # mean over the seeds
    peak_memory: int | None  # in bytes while answering, mean over the seeds
    tokens: float  # of answers, over all runs
    seconds: float  # of answering them
    # What the model forgot of each text, in nats a token, mean over the seeds and adapters, and its
    # estimate with the noise of texts: more than the bare backbone's loss on texts unlike the
    # tasks. None if not measured, or on other texts than most of the board's runs.
    forgotten: tuple[float, ...] | None
    forgetting: Estimate | None
    created: str  # when its newest run was made, in ISO 8601, UTC
    rank: int = 1  # 1 + the number of entries whose interval lies wholly above this one's
    rank_interval: tuple[int, int] = (1, 1)  # see `evals.scoring.ranking.rank_intervals`
    parts: tuple[Entry, ...] = ()  # on several clusters: its entry on each

    @property
    def tokens_per_second(self) -> float | None:
        """Speed of answering; None if it was not measured."""
        return self.tokens / self.seconds if self.seconds else None

    def folder(self, task: str, seed: int) -> str:
        """The folder of the run that answered a task.

        Args:
            task: Name of one of the entry's tasks.
            seed: Index of the seed; the first one takes the place of one that is not there.
        """
        of_task = next(part for part in self.parts or (self,) if task in part.scores)
        return of_task.folders[seed if seed < len(of_task.folders) else 0]


def usual_texts(runs: Iterable[Scored]) -> str | None:
    """Hash of the texts on which most of these runs measured forgetting; None if none did."""
    read = Counter(run.forgetting[0] for run in runs if run.forgetting)
    return max(read, key=lambda one: (read[one], one), default=None)


def entry_of(
    name: str,
    key: Key,
    tasks: Sequence[TaskFacts],
    of_seeds: Sequence[Scored],
    texts: str | None,
) -> Entry:
    """The entry of runs on one cluster that differ in the seed only.

    Args:
        name: Of the entry.
        key: What the runs share.
        tasks: In the order of the runs' values.
        of_seeds: The runs.
        texts: See `usual_texts`.
    """
    runs = sorted(of_seeds, key=lambda run: (run.seed is not None, run.seed or 0))
    drawn = np.stack([run.replicates for run in runs]).mean(axis=0, dtype=np.float64)  # [T, R]
    scores: dict[str, TaskScore] = {}
    for number, task in enumerate(tasks):
        values = tuple(run.values[number] for run in runs)
        over_seeds = spread(values)
        estimate = summarise(over_seeds.mean, drawn[number], task.samples)
        scores[task.name] = TaskScore(estimate, over_seeds, drawn[number], values)
    memory = mean_of_known(run.peak_memory for run in runs)
    forgotten = _mean_text([of[1] for run in runs if (of := run.forgetting) and of[0] == texts])
    replicates, overall, overall_spread = _over_tasks(scores)
    return Entry(
        name=name,
        method=key.method,
        label=key.label,
        backbone=key.backbone or None,
        folders=tuple(run.folder for run in runs),
        seeds=tuple(run.seed for run in runs),
        scores=scores,
        replicates=replicates,
        overall=overall,
        spread=overall_spread,
        parameters=key.parameters,
        total_rank=key.total_rank,
        active_rank=key.active_rank,
        training_seconds=mean_of_known(run.sizes.training_seconds for run in runs),
        peak_memory=None if memory is None else round(memory),
        tokens=sum(run.tokens for run in runs),
        seconds=sum(run.seconds for run in runs),
        forgotten=forgotten,
        forgetting=_forgetting(forgotten),
        created=max(run.created for run in runs),
    )


def joined(name: str, parts: Sequence[Entry]) -> Entry:
    """One entry of a method's entries on several clusters, which have the same seeds."""
    if len(parts) == 1:
        return replace(parts[0], name=name)
    scores = {task: score for part in parts for task, score in part.scores.items()}
    replicates, overall, overall_spread = _over_tasks(scores)
    measured = [part.forgotten for part in parts if part.forgotten is not None]
    forgotten = _mean_text(measured) if len(measured) == len(parts) else None
    return replace(
        parts[0],
        name=name,
        folders=tuple(dict.fromkeys(folder for part in parts for folder in part.folders)),
        scores=scores,
        replicates=replicates,
        overall=overall,
        spread=overall_spread,
        parameters=_of_all(sum, [part.parameters for part in parts]),
        total_rank=_of_all(sum, [part.total_rank for part in parts]),
        active_rank=_of_all(max, [part.active_rank for part in parts]),
        training_seconds=_of_all(sum, [part.training_seconds for part in parts]),
        peak_memory=_of_all(max, [part.peak_memory for part in parts]),
        tokens=sum(part.tokens for part in parts),
        seconds=sum(part.seconds for part in parts),
        forgotten=forgotten,
        forgetting=_forgetting(forgotten),
        created=max(part.created for part in parts),
        parts=tuple(parts),
    )


def restricted(entry: Entry, tasks: Sequence[str]) -> Entry:
    """An entry on some of its tasks, with the costs of their clusters."""
    if len(tasks) == len(entry.scores):
        return entry
    parts = [part for part in entry.parts if not part.scores.keys().isdisjoint(tasks)]
    if len(parts) < len(entry.parts):
        entry = joined(entry.name, parts)
    scores = {name: entry.scores[name] for name in tasks}
    replicates, overall, overall_spread = _over_tasks(scores)
    return replace(
        entry, scores=scores, replicates=replicates, overall=overall, spread=overall_spread
    )


def ranked(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """The best first, each with its rank among these and the interval of its rank."""
    ordered = sorted(entries, key=lambda entry: (-entry.overall.value, entry.name))
    placed = ranks([entry.overall for entry in ordered])
    intervals = rank_intervals(np.array([entry.replicates for entry in ordered]))
    return tuple(
        replace(one, rank=rank, rank_interval=interval)
        for one, rank, interval in zip(ordered, placed, intervals, strict=True)
    )


def _over_tasks(scores: Mapping[str, TaskScore]) -> tuple[FloatArray, Estimate, Spread]:
    """The means over the tasks: on each resample, with its interval, and over the seeds."""
    mean = mean_of([part_of(score) for score in scores.values()])
    of_seeds = zip(*(one.seeds for one in scores.values()), strict=True)
    return mean[1], summarise(*mean), spread([fmean(run) for run in of_seeds])


def part_of(score: TaskScore) -> Part:
    """A score as a part of a mean over tasks."""
    return score.estimate.value, score.replicates, score.estimate.samples


def _mean_text(measured: Sequence[Sequence[float]]) -> tuple[float, ...] | None:
    """The mean of several measurements of the same texts, text by text."""
    return tuple(np.mean(measured, axis=0).tolist()) if measured else None


def _forgetting(forgotten: Sequence[float] | None) -> Estimate | None:
    return None if forgotten is None else mean_estimate(np.asarray(forgotten))


def _of_all(fold: Callable[[Sequence[N]], N], values: Sequence[N | None]) -> N | None:
    known = [value for value in values if value is not None]
    return fold(known) if len(known) == len(values) else None


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are known; None if none is."""
    numbers = [value for value in values if value is not None]
    return fmean(numbers) if numbers else None
