"""Runs on several clusters that are one system: a backbone with an adapter for each cluster.

A recipe's runs belong together by the recipe's hash. Runs without a recipe do so if one folder
holds them, since nothing else says that they are meant as one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, product

from evals.leaderboard.entries import Entry, entry_of, joined, mean_of_known, usual_texts
from evals.runs.scored_run import Key, Place, Scored, entry_names
from evals.tasks import clusters

ByKey = Mapping[Key, Sequence[Scored]]
"""The runs of a board of one cluster, by entry."""

Places = tuple[Place, ...]
"""A board of several clusters: the place of each, in the order of `clusters`."""


def systems(at: Mapping[Place, ByKey]) -> dict[Places, list[Entry]]:
    """The entries, not yet ranked, of each board of several clusters.

    Such a board has the systems with runs on each of its places, with the seeds that a system has
    on all of them.
    """
    boards: dict[Places, dict[Key, Entry]] = defaultdict(dict)
    for group in _groups(at):
        for places in _combinations(group):
            texts = usual_texts(
                run for place in places for runs in at[place].values() for run in runs
            )
            if entry := _entry([(place, *group[place]) for place in places], texts):
                key = replace(
                    group[places[0]][0],
                    parameters=entry.parameters,
                    total_rank=entry.total_rank,
                    active_rank=entry.active_rank,
                )
                boards[places][key] = entry
    return {
        places: [
            replace(entry, name=name)
            for name, entry in zip(entry_names([*by_key]), by_key.values(), strict=True)
        ]
        for places, by_key in boards.items()
    }


Group = Mapping[Place, tuple[Key, Sequence[Scored]]]
"""The runs of one system by board of one cluster."""


def _groups(at: Mapping[Place, ByKey]) -> list[Group]:
    """The systems; one that is several entries on a board is left out there."""
    order = [place for cluster in clusters() for place in at if place.cluster == cluster]
    held: dict[str, Places] = defaultdict(tuple)  # by folder
    for place in order:
        for run in chain.from_iterable(at[place].values()):
            held[run.folder] += (place,)
    groups: dict[tuple[Key, object], dict[Place, list[tuple[Key, Sequence[Scored]]]]] = {}
    for place in order:
        for key, runs in at[place].items():
            facts = replace(key, parameters=None, total_rank=None, active_rank=None)
            origins: dict[object, list[Scored]] = defaultdict(list)
            for run in runs:
                origins[key.recipe or held[run.folder]].append(run)
            for origin, of_origin in origins.items():
                group = groups.setdefault((facts, origin), defaultdict(list))
                group[place].append((key, of_origin))
    return [
        {place: found[0] for place, found in group.items() if len(found) == 1}
        for group in groups.values()
    ]


def _combinations(group: Group) -> list[Places]:
    """Each choice of one place of every cluster, of splits and resamples that agree."""
    by_cluster: dict[str, list[Place]] = defaultdict(list)
    for place in group:
        by_cluster[place.cluster].append(place)
    if len(by_cluster) < 2:
        return []
    return [
        places
        for places in product(*by_cluster.values())
        if len({(place.split, place.resamples) for place in places}) == 1
    ]


def _entry(parts: Sequence[tuple[Place, Key, Sequence[Scored]]], texts: str | None) -> Entry | None:
    """The entry of a system; None if no seed is there on all places."""
    seeds = set.intersection(*({run.seed for run in runs} for _, _, runs in parts))
    if not seeds:
        return None
    kept = [(place, key, [run for run in runs if run.seed in seeds]) for place, key, runs in parts]
    entry = joined("", [entry_of("", key, place.tasks, runs, texts) for place, key, runs in kept])
    folders = [{run.folder for run in runs} for _, _, runs in kept]
    if folders[1:] != folders[:-1]:
        return entry
    # One adapter may answer several clusters and must not count twice.
    wholes = [run.whole for run in kept[0][2]]
    return replace(
        entry,
        parameters=wholes[0].parameters,
        total_rank=wholes[0].total_rank,
        active_rank=wholes[0].active_rank,
        training_seconds=mean_of_known(one.training_seconds for one in wholes),
    )
