"""Leaderboards from run folders: the ranking of methods on a set of tasks, with its uncertainty.

A board holds the runs that answered the same records of the same tasks in the same version. An
entry of it is a method; its runs differ in the training seed only. There is a board for each
cluster and, where methods have runs on several clusters, one for these together, see `systems`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import chain, combinations
from pathlib import Path

import numpy as np

from cgclora.storage import atomic_io
from evals.leaderboard.entries import (
    Entry,
    TaskScore,
    entry_of,
    ranked,
    restricted,
    usual_texts,
)
from evals.leaderboard.systems import systems
from evals.methods import SINGLE
from evals.runs.run_dir import RunError, find_runs
from evals.runs.scored_run import UNREADABLE, Key, Place, Scored, TaskFacts, entry_names, load
from evals.scoring.effect_sizes import (
    SIGNIFICANCE,
    Gain,
    Part,
    adjust,
    gain,
    over_tasks,
    p_values,
    probability_better,
)
from evals.scoring.statistics import holm, mean_of
from evals.tasks import clusters
from evals.tasks.names import UnknownNameError
from evals.tasks.recognition import OWN

REFERENCE = SINGLE
"""Reference of the seesaw: one adapter a task, which shares nothing."""


@dataclass(frozen=True)
class Board:
    """A table of methods that answered the same records."""

    id: str  # short hash of the facts that the entries share
    clusters: Mapping[str, tuple[str, ...]]  # names of the tasks by cluster, in the order of tasks
    split: str | None  # see `scored_run.Place`
    tasks: tuple[TaskFacts, ...]
    entries: tuple[Entry, ...]  # the best first
    part_of: str | None = None  # id of the board of several clusters that has all its runs

    @property
    def cluster(self) -> str:
        """The name of the cluster, or of several."""
        return " + ".join(self.clusters)


@dataclass(frozen=True)
class Leaderboards:
    """The boards of some folders, and the runs that are on none."""

    boards: tuple[Board, ...]  # the most informative first, see `_precedence`
    unscored: tuple[str, ...]  # folders of runs without scores
    damaged: Mapping[str, str]  # reason by folder
    replaced: Mapping[str, str]  # folder of the newer run of a seed, by the older run's


class UnknownEntryError(UnknownNameError):
    """No entry of the board has this name."""


def boards(roots: Path | Sequence[Path]) -> Leaderboards:
    """The leaderboards of all scored runs below some folders, at any depth.

    Runs that differ in the seed only are one entry; of two with the same seed the newer one counts,
    by the manifest's `created`. A run with tasks of two clusters is on a board of each and on one
    of both. Runs are cached, see `scored_run.load`.
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
    alone = [_board((place,), _entries(place, by_key)) for place, by_key in at.items()]
    together = [_board(places, entries) for places, entries in systems(at).items()]
    together.sort(key=_precedence)
    parts = [replace(part, part_of=_whole_of(part, together)) for part in alone]
    return tuple(sorted([*together, *parts], key=_precedence))


def _entries(place: Place, by_key: Mapping[Key, Sequence[Scored]]) -> list[Entry]:
    named = zip(entry_names([*by_key]), by_key.items(), strict=True)
    texts = usual_texts(chain.from_iterable(by_key.values()))
    return [entry_of(name, key, place.tasks, runs, texts) for name, (key, runs) in named]


def _board(places: Sequence[Place], entries: Iterable[Entry]) -> Board:
    facts = [asdict(place) for place in places]
    shared = json.dumps(facts[0] if len(facts) == 1 else facts, sort_keys=True).encode()
    return Board(
        id=atomic_io.sha256(shared)[:12],
        clusters={place.cluster: tuple(task.name for task in place.tasks) for place in places},
        split=places[0].split,
        tasks=tuple(task for place in places for task in place.tasks),
        entries=ranked(entries),
    )


def _precedence(board: Board) -> tuple[object, ...]:
    """Sorts a comparison before a single method, known tasks before a user's, then by size."""
    order = [*clusters(), OWN]
    return (
        len(board.entries) < 2,
        OWN in board.clusters,
        -len(board.clusters),
        -len(board.tasks),
        -len(board.entries),
        -sum(task.samples for task in board.tasks),
        [order.index(cluster) for cluster in board.clusters],
        board.split or "",
        board.id,
    )


def _whole_of(part: Board, together: Sequence[Board]) -> str | None:
    """The board of several clusters of which a board of one cluster is a part, run by run."""
    folders = {entry.folders for entry in part.entries}
    for whole in together:
        if {*part.tasks} <= {*whole.tasks}:
            inside = restrict(whole, [task.name for task in part.tasks])
            if folders == {entry.folders for entry in inside.entries}:
                return whole.id
    return None


def restrict(
    board: Board, tasks: Collection[str] | None = None, entries: Collection[str] | None = None
) -> Board:
    """A part of a board, with means, intervals and ranks of its own.

    It keeps the board's id and order of tasks. Costs of an entry stay those of all tasks of the
    clusters that are kept.

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
        clusters={
            cluster: kept
            for cluster, names in board.clusters.items()
            if (kept := tuple(name for name in names if name in kept_tasks))
        },
        tasks=tuple(task for task in board.tasks if task.name in kept_tasks),
        entries=ranked(
            restricted(entry, kept_tasks) for entry in board.entries if entry.name in kept_entries
        ),
    )


def _selected(kind: str, names: Sequence[str], selection: Collection[str] | None) -> list[str]:
    if unknown := [name for name in selection or () if name not in names]:
        raise UnknownNameError(kind, unknown[0], names)
    return [name for name in names if selection is None or name in selection]


# Comparisons on a board -------------------------------------------------------------------


@dataclass(frozen=True)
class Duel:
    """One entry against another."""

    won: int  # number of tasks on which it is better with p < 0.05 by Holm's rule over the tasks
    ahead: int  # number of tasks on which its score is higher
    tasks: int  # number of tasks
    probability: float  # that its mean is higher, see `effect_sizes.probability_better`
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
        duels[one.name][other.name], duels[other.name][one.name] = duel(one, other)
    return duels


def duel(one: Entry, other: Entry) -> tuple[Duel, Duel]:
    """Two entries of a board against each other, as each of the two sees it."""
    parts = [_difference(one.scores[task], other.scores[task]) for task in one.scores]
    values = np.array([value for value, _, _ in parts])
    adjusted = holm(p_values(np.stack([drawn for _, drawn, _ in parts])).tolist())
    sure = np.array(adjusted) < SIGNIFICANCE
    overall = gain(mean_of(parts))
    above = float(probability_better(one.replicates - other.replicates))

    def seen(sign: int, probability: float, total: Gain) -> Duel:
        better = sign * values > 0
        won, ahead = int((better & sure).sum()), int(better.sum())
        return Duel(won, ahead, len(parts), probability, total)

    return seen(1, above, overall), seen(-1, 1 - above, overall.reversed())


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
