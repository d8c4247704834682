"""Leaderboards from run folders: the ranking of methods on a set of tasks, with its uncertainty.

A board holds the runs that answered the same records of the same tasks of one cluster in the same
version. An entry of it is a method; its runs differ in the training seed only.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np
import numpy.typing as npt

from cgclora.storage import atomic_io
from evals.methods import SINGLE
from evals.runs.run_dir import RunError, find_runs
from evals.runs.scored_run import UNREADABLE, Key, Place, Scored, TaskFacts, entry_names, load
from evals.scoring.effect_sizes import SIGNIFICANCE, Gain, Part, adjust, gain, over_tasks, p_values
from evals.scoring.statistics import (
    Estimate,
    Spread,
    holm,
    mean_estimate,
    mean_of,
    ranks,
    spread,
    summarise,
)
from evals.tasks import clusters
from evals.tasks.names import UnknownNameError
from evals.tasks.recognition import OWN

REFERENCE = SINGLE
"""Reference of the seesaw: one adapter a task, which shares nothing."""


@dataclass(frozen=True)
class TaskScore:
    """An entry's main score on one task, in [0, 1]."""

    estimate: Estimate  # mean over the seeds, with item noise
    spread: Spread  # over the seeds: training noise
    replicates: npt.NDArray[np.float64]  # [R] means over the seeds on each shared resample
    seeds: tuple[float, ...]  # the score of each run, in the order of the entry's folders


@dataclass(frozen=True)
class Entry:
    """One method on a board."""

    name: str  # unique on the board, see `scored_run.entry_names`
    method: str  # as in the manifest, like the label
    label: str
    backbone: str | None  # name of the backbone; None when a server answered
    folders: tuple[str, ...]  # its run folders, one a seed
    # Of the training, in the order of the folders; None where nothing was trained.
    seeds: tuple[int | None, ...]
    scores: Mapping[str, TaskScore]  # by task, in the board's order
    overall: Estimate  # mean over the tasks, in [0, 1], with item noise
    spread: Spread  # of the overall mean over the seeds
    rank: int  # 1 + the number of entries whose interval lies wholly above this one's
    parameters: int | None  # see `scored_run.Key`, like the two below
    total_rank: int | None
    active_rank: int | None
    training_seconds: float | None  # mean over the seeds; None where nothing was trained
    peak_memory: int | None  # in bytes while answering, mean over the seeds
    tokens_per_second: float | None  # of answers, over all runs
    # Nats a token more than the bare backbone on texts unlike the tasks, mean over the seeds, with
    # the noise of texts; None if not measured, or on other texts than most of the board's runs.
    forgetting: Estimate | None = None


@dataclass(frozen=True)
class Board:
    """A table of methods that answered the same records."""

    id: str  # short hash of the facts that the entries share
    cluster: str  # see `scored_run.Place`, like the two below
    split: str | None
    tasks: tuple[TaskFacts, ...]
    entries: tuple[Entry, ...]  # the best first


@dataclass(frozen=True)
class Leaderboards:
    """The boards of some folders, and the runs that are on none."""

    boards: tuple[Board, ...]  # medical before general, then those with the most records first
    unscored: tuple[str, ...]  # folders of runs without scores
    damaged: Mapping[str, str]  # reason by folder
    replaced: Mapping[str, str]  # folder of the newer run of a seed, by the older run's


class UnknownEntryError(UnknownNameError):
    """No entry of the board has this name."""


def boards(roots: Path | Sequence[Path]) -> Leaderboards:
    """The leaderboards of all scored runs below some folders, at any depth.

    Runs that differ in the seed only are one entry; of two with the same seed the newer one counts,
    by the manifest's `created`. A run with tasks of two clusters is on a board of each. Runs are
    cached, see `scored_run.load`.
    """
    counted: dict[tuple[Place, Key, int | None], Scored] = {}
    unscored: list[str] = []
    damaged: dict[str, str] = {}
    replaced: dict[str, str] = {}
    for folder in _folders([roots] if isinstance(roots, Path) else roots):
        try:
            runs = load(folder)
        except UNREADABLE as error:
            damaged[str(folder)] = str(error) if isinstance(error, RunError) else repr(error)
            continue
        if runs is None:
            unscored.append(str(folder))
        for run in runs or ():
            key = (run.place, run.key, run.seed)
            older, newer = sorted([counted.get(key, run), run], key=lambda one: one.created)
            if older is not newer:
                replaced[older.folder] = newer.folder
            counted[key] = newer
    return Leaderboards(_boards(tuple(counted.values())), tuple(unscored), damaged, replaced)


def _folders(roots: Sequence[Path]) -> list[Path]:
    """Each run folder once, even if one root lies within another."""
    folders: dict[Path, Path] = {}
    for root in roots:
        at = root.resolve()
        folders |= {at / folder.relative_to(root): folder for folder in find_runs(root)}
    return [*folders.values()]


@lru_cache(maxsize=8)
def _boards(runs: tuple[Scored, ...]) -> tuple[Board, ...]:
    at: dict[Place, dict[Key, list[Scored]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        at[run.place][run.key].append(run)
    order = [*clusters(), OWN]
    made = [_board(place, by_key) for place, by_key in at.items()]
    return tuple(
        sorted(
            made,
            key=lambda board: (
                order.index(board.cluster),
                # The most informative board of a cluster comes first.
                -len(board.tasks),
                -len(board.entries),
                -sum(task.samples for task in board.tasks),
                board.split or "",
                board.id,
            ),
        )
    )


def _board(place: Place, by_key: Mapping[Key, Sequence[Scored]]) -> Board:
    named = zip(entry_names([*by_key]), by_key.items(), strict=True)
    read = Counter(run.forgetting[0] for runs in by_key.values() for run in runs if run.forgetting)
    texts = max(read, key=lambda one: (read[one], one), default=None)
    entries = _ranked(_entry(name, key, place.tasks, runs, texts) for name, (key, runs) in named)
    shared = json.dumps(asdict(place), sort_keys=True).encode()
    return Board(atomic_io.sha256(shared)[:12], place.cluster, place.split, place.tasks, entries)


def _entry(
    name: str,
    key: Key,
    tasks: Sequence[TaskFacts],
    of_seeds: Sequence[Scored],
    texts: str | None,
) -> Entry:
    runs = sorted(of_seeds, key=lambda run: (run.seed is not None, run.seed or 0))
    drawn = np.stack([run.replicates for run in runs]).mean(axis=0, dtype=np.float64)  # [T, R]
    scores: dict[str, TaskScore] = {}
    for number, task in enumerate(tasks):
        values = tuple(run.values[number] for run in runs)
        over_seeds = spread(values)
        estimate = summarise(over_seeds.mean, drawn[number], task.samples)
        scores[task.name] = TaskScore(estimate, over_seeds, drawn[number], values)
    seconds = sum(run.seconds for run in runs)
    memory = _mean(run.peak_memory for run in runs)
    return Entry(
        name=name,
        method=key.method,
        label=key.label,
        backbone=key.backbone or None,
        folders=tuple(run.folder for run in runs),
        seeds=tuple(run.seed for run in runs),
        scores=scores,
        overall=_overall(scores),
        spread=_overall_spread(scores),
        rank=1,
        parameters=key.parameters,
        total_rank=key.total_rank,
        active_rank=key.active_rank,
        training_seconds=_mean(run.training_seconds for run in runs),
        peak_memory=None if memory is None else round(memory),
        tokens_per_second=sum(run.tokens for run in runs) / seconds if seconds else None,
        forgetting=_forgetting(runs, texts),
    )


def _forgetting(runs: Sequence[Scored], texts: str | None) -> Estimate | None:
    measured = [of[1] for run in runs if (of := run.forgetting) and of[0] == texts]
    return mean_estimate(np.mean(measured, axis=0)) if measured else None


def _ranked(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """The best first, each with its rank among these."""
    ordered = sorted(entries, key=lambda entry: (-entry.overall.value, entry.name))
    placed = ranks([entry.overall for entry in ordered])
    return tuple(replace(one, rank=rank) for one, rank in zip(ordered, placed, strict=True))


def _overall(scores: Mapping[str, TaskScore]) -> Estimate:
    return summarise(*mean_of([_part(score) for score in scores.values()]))


def _overall_spread(scores: Mapping[str, TaskScore]) -> Spread:
    return spread([fmean(run) for run in zip(*(one.seeds for one in scores.values()), strict=True)])


def _part(score: TaskScore) -> Part:
    return score.estimate.value, score.replicates, score.estimate.samples


def _mean(values: Iterable[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return fmean(numbers) if numbers else None


def restrict(
    board: Board, tasks: Collection[str] | None = None, entries: Collection[str] | None = None
) -> Board:
    """A part of a board, with means, intervals and ranks of its own.

    It keeps the board's id and order of tasks; costs of an entry stay those of all tasks.

    Args:
        board: The whole board.
        tasks: Names of the tasks to keep, at least one; None keeps all.
        entries: Names of the entries to keep, possibly none; None keeps all.

    Raises:
        UnknownNameError: The board has no such task or entry.
        ValueError: No task is kept.
    """
    kept_tasks = _selected("task", [task.name for task in board.tasks], tasks)
    kept_entries = _selected("entry", [entry.name for entry in board.entries], entries)
    if not kept_tasks:
        raise ValueError("a board needs at least one task: name some, or None for all.")
    return replace(
        board,
        tasks=tuple(task for task in board.tasks if task.name in kept_tasks),
        entries=_ranked(
            _restricted(entry, kept_tasks) for entry in board.entries if entry.name in kept_entries
        ),
    )


def _selected(kind: str, names: Sequence[str], selection: Collection[str] | None) -> list[str]:
    if unknown := [name for name in selection or () if name not in names]:
        raise UnknownNameError(kind, unknown[0], names)
    return [name for name in names if selection is None or name in selection]


def _restricted(entry: Entry, tasks: Sequence[str]) -> Entry:
    if len(tasks) == len(entry.scores):
        return entry
    scores = {name: entry.scores[name] for name in tasks}
    return replace(entry, scores=scores, overall=_overall(scores), spread=_overall_spread(scores))


# Comparisons on a board -------------------------------------------------------------------


@dataclass(frozen=True)
class Duel:
    """One entry against another."""

    won: int  # number of tasks on which it is better with p < 0.05 by Holm's rule over the tasks
    ahead: int  # number of tasks on which its score is higher
    tasks: int  # number of tasks
    overall: Gain  # difference of the means over the tasks


def find_entry(board: Board, name: str) -> Entry:
    """The entry of this name, or the only one whose method has this name.

    Raises:
        UnknownEntryError: There is none, or the method has several.
    """
    exact = [entry for entry in board.entries if entry.name == name]
    matches = exact or [entry for entry in board.entries if entry.method == name]
    if len(matches) != 1:
        raise UnknownEntryError("entry", name, [entry.name for entry in matches or board.entries])
    return matches[0]


def gains(board: Board, reference: str = REFERENCE) -> dict[str, dict[str, Gain]]:
    """The seesaw: each entry's gain over the reference, by entry, then by task and `OVERALL`.

    The reference itself has gains of 0. P-values are adjusted over the tasks within an entry, not
    over the entries.

    Raises:
        UnknownEntryError: The reference is not on the board, see `find_entry`.
    """
    other = find_entry(board, reference)
    return {
        entry.name: over_tasks(
            {task: _difference(entry.scores[task], other.scores[task]) for task in entry.scores}
        )
        for entry in board.entries
    }


def wins(board: Board) -> dict[str, dict[str, Duel]]:
    """Each entry against each other one, by the name of the first, then of the second."""
    duels: dict[str, dict[str, Duel]] = {entry.name: {} for entry in board.entries}
    for one, other in combinations(board.entries, 2):
        parts = [_difference(one.scores[task], other.scores[task]) for task in one.scores]
        values = np.array([value for value, _, _ in parts])
        adjusted = holm(p_values(np.stack([drawn for _, drawn, _ in parts])).tolist())
        sure = np.array(adjusted) < SIGNIFICANCE
        overall = gain(mean_of(parts))
        for first, second, sign, total in (
            (one, other, 1, overall),
            (other, one, -1, overall.reversed()),
        ):
            better = sign * values > 0
            won, ahead = int((better & sure).sum()), int(better.sum())
            duels[first.name][second.name] = Duel(won, ahead, len(parts), total)
    return duels


def leaders(board: Board) -> dict[str, frozenset[str]]:
    """For each task the best entry and those that are not worse with p < 0.05.

    P-values are adjusted by Holm's rule over the other entries. An empty board has no leaders.
    """
    if not board.entries:
        return {task.name: frozenset() for task in board.tasks}
    close_to_best: dict[str, frozenset[str]] = {}
    for task in board.tasks:
        scores = {entry.name: entry.scores[task.name] for entry in board.entries}
        best = max(scores, key=lambda name: scores[name].estimate.value)
        others = [name for name in scores if name != best]
        leads = adjust([gain(_difference(scores[best], scores[name])) for name in others])
        close = [name for name, lead in zip(others, leads, strict=True) if not lead.significant]
        close_to_best[task.name] = frozenset([best, *close])
    return close_to_best


def _difference(score: TaskScore, other: TaskScore) -> Part:
    return (
        score.estimate.value - other.estimate.value,
        score.replicates - other.replicates,
        score.estimate.samples,
    )
