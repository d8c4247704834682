"""Leaderboards from run folders alone: who answers a set of tasks best, and how sure that is.

A board holds the runs that answered the same records of the same tasks of one cluster in the same
version. An entry of it is a method; its runs differ in the training seed alone.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np
import numpy.typing as npt

from cgclora.storage import atomic_io
from evals.leaderboard.entry_names import entry_names
from evals.methods import SINGLE
from evals.runs.run_dir import RunError, find_runs
from evals.runs.scored_run import UNREADABLE, Key, Place, Scored, TaskFacts, load
from evals.scoring.effect_sizes import SIGNIFICANCE, Gain, Part, adjust, gain, over_tasks, p_values
from evals.scoring.statistics import Estimate, Spread, holm, mean_of, ranks, spread, summarise
from evals.tasks import clusters
from evals.tasks.names import UnknownNameError

REFERENCE = SINGLE
"""Whom the seesaw compares with: one adapter a task, which shares nothing."""


@dataclass(frozen=True)
class TaskScore:
    """An entry's main score on one task, in [0, 1].

    Attributes:
        estimate: Mean over the seeds, with item noise.
        spread: Over the seeds: training noise.
        replicates: [R], mean over the seeds on each shared resample.
        seeds: The score of each run, in the order of the entry's folders.
    """

    estimate: Estimate
    spread: Spread
    replicates: npt.NDArray[np.float64]
    seeds: tuple[float, ...]


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
        peak_memory: While answering in bytes, mean over the seeds; None if not known.
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


@dataclass(frozen=True)
class Leaderboards:
    """What was found in some folders.

    Attributes:
        boards: Medical before general, then those with the most records first.
        unscored: Folders of runs without scores: `python -m evals score` gives them some.
        damaged: Folder to the reason why it could not be read.
        replaced: Folder of a run to that of the newer run with the same seed, which counts.
    """

    boards: tuple[Board, ...]
    unscored: tuple[str, ...]
    damaged: Mapping[str, str]
    replaced: Mapping[str, str]


class UnknownEntryError(UnknownNameError):
    """No entry of the board has this name."""


def boards(roots: Path | Sequence[Path]) -> Leaderboards:
    """The leaderboards of all scored runs below some folders.

    Runs are of one entry if they differ in the seed alone; of two with the same seed the newer one
    counts, by the manifest's `created`. A run that answers tasks of two clusters stands on a board
    of each. What is read stays in memory, see `scored_run.load`: a run whose content changes is
    read again, and no other.

    Args:
        roots: Where to look, at any depth.
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
    """Each run once, even where one root lies within another."""
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
    order = [*clusters()]
    made = [_board(place, by_key) for place, by_key in at.items()]
    return tuple(
        sorted(
            made,
            key=lambda board: (
                order.index(board.cluster),
                # What says most about a cluster comes first.
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
    entries = _ranked(_entry(name, key, place.tasks, runs) for name, (key, runs) in named)
    shared = json.dumps(asdict(place), sort_keys=True).encode()
    return Board(atomic_io.sha256(shared)[:12], place.cluster, place.split, place.tasks, entries)


def _entry(name: str, key: Key, tasks: Sequence[TaskFacts], of_seeds: Sequence[Scored]) -> Entry:
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
    )


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
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def restrict(
    board: Board, tasks: Collection[str] | None = None, entries: Collection[str] | None = None
) -> Board:
    """A part of a board: means, intervals and ranks are those of the tasks and entries that stay.

    It has the board's id and order of tasks. What an entry costs stays that of all tasks.

    Args:
        board: Of which.
        tasks: Names of those that stay, at least one; None keeps all.
        entries: Names of those that stay; None keeps all, and none may be left.

    Raises:
        UnknownNameError: The board has no such task or entry.
        ValueError: No task stays.
    """
    kept = _chosen("task", [task.name for task in board.tasks], tasks)
    stay = _chosen("entry", [entry.name for entry in board.entries], entries)
    if not kept:
        raise ValueError("a board needs at least one task: name some, or None for all.")
    return replace(
        board,
        tasks=tuple(task for task in board.tasks if task.name in kept),
        entries=_ranked(_on(entry, kept) for entry in board.entries if entry.name in stay),
    )


def _chosen(kind: str, known: Sequence[str], wanted: Collection[str] | None) -> list[str]:
    if unknown := [name for name in wanted or () if name not in known]:
        raise UnknownNameError(kind, unknown[0], known)
    return [name for name in known if wanted is None or name in wanted]


def _on(entry: Entry, tasks: Sequence[str]) -> Entry:
    """The entry on some of its tasks."""
    if len(tasks) == len(entry.scores):
        return entry
    scores = {name: entry.scores[name] for name in tasks}
    return replace(entry, scores=scores, overall=_overall(scores), spread=_overall_spread(scores))


# Comparisons on a board -------------------------------------------------------------------


@dataclass(frozen=True)
class Duel:
    """One entry against another.

    Attributes:
        won: Tasks on which it is better, with a p-value by Holm's rule over the tasks below 0.05.
        ahead: Tasks on which its score is higher.
        tasks: All tasks.
        overall: The difference of the means over the tasks.
    """

    won: int
    ahead: int
    tasks: int
    overall: Gain


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
    """The seesaw: what each entry gains over the reference, by entry, then by task and `OVERALL`.

    The reference stands there too, with gains of 0. P-values are adjusted over the tasks within an
    entry, not over the entries.

    Args:
        board: Where.
        reference: See `find_entry`.

    Raises:
        UnknownEntryError: It is not on the board.
    """
    other = find_entry(board, reference)
    return {
        entry.name: over_tasks(
            {task: _difference(entry.scores[task], other.scores[task]) for task in entry.scores}
        )
        for entry in board.entries
    }


def wins(board: Board) -> dict[str, dict[str, Duel]]:
    """Each entry against each other one: by the name of the first, then of the second."""
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
    """For each task the best entry, and those that it does not beat; nobody on an empty board.

    Holm's rule over the other entries: what is left out is worse than the best with p < 0.05.
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
