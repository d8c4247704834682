"""Boards of several clusters: which runs belong together, and what a cluster of them shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evals.leaderboard.board import Board, boards, restrict
from evals.leaderboard.entries import Entry
from evals.leaderboard.run_sources import Library
from evals.scoring.statistics import mean_estimate
from tests.helpers.run_dirs import around, forgot, write_run

MEDICAL, GENERAL = ("KUAKE-QIC", "CHIP-CTC"), ("NER",)
RECIPE = {"recipe": {"name": "small", "hash": "a" * 64}, "label": "small"}


def add(
    root: Path, method: str, tasks: tuple[str, ...], level: float, seed: int = 0, **facts: Any
) -> Path:
    scores = {task: around(level, seed=10 * seed + place) for place, task in enumerate(tasks)}
    folder = root / method / tasks[0] / str(seed)
    return write_run(folder, scores, method=method, seed=seed, **{**RECIPE, **facts})


def by_clusters(root: Path) -> Mapping[str, Board]:
    found = boards(root)
    assert not found.damaged
    return {board.cluster: board for board in found.boards}


def test_methods_of_a_recipe_on_two_clusters_stand_on_one_board_that_comes_first(tmp_path):
    for method, level in (("A", 0.5), ("B", 0.6)):
        add(tmp_path, method, MEDICAL, level)
        add(tmp_path, method, GENERAL, level + 0.2)
    both, *parts = boards(tmp_path).boards
    assert both.clusters == {"medical": ("CHIP-CTC", "KUAKE-QIC"), "general": ("NER",)}
    assert [task.name for task in both.tasks] == ["CHIP-CTC", "KUAKE-QIC", "NER"]
    assert [entry.name for entry in both.entries] == ["B", "A"]
    assert both.entries[0].overall.value == pytest.approx((0.6 + 0.6 + 0.8) / 3)
    # The other boards have nothing that this one lacks.
    assert [part.part_of for part in parts] == [both.id, both.id]
    assert both.part_of is None


def facts(entry: Entry) -> dict[str, Any]:
    """All fields of an entry, in a form that can be compared."""
    scores = {task: (one.estimate, one.spread) for task, one in entry.scores.items()}
    return {**vars(entry), "scores": scores, "replicates": entry.replicates.tolist()}


def test_a_cluster_of_a_joined_board_is_the_board_of_that_cluster(tmp_path):
    for method, level in (("A", 0.5), ("B", 0.51), ("C", 0.4)):
        for seed in (0, 1):
            sizes = {"trainable_parameters": 100, "total_rank": 8, "active_rank": 4}
            add(tmp_path, method, MEDICAL, level, seed, training_seconds=60.0, **sizes)
            sizes = {"trainable_parameters": 70, "total_rank": 5, "active_rank": 5}
            add(tmp_path, method, GENERAL, level, seed, training_seconds=30.0, **sizes)
    found = by_clusters(tmp_path)
    for cluster in ("medical", "general"):
        alone = found[cluster]
        part = restrict(found["medical + general"], alone.clusters[cluster])
        assert (part.clusters, part.tasks) == (alone.clusters, alone.tasks)
        for ours, theirs in zip(part.entries, alone.entries, strict=True):
            assert facts(ours) == facts(theirs)


def test_costs_are_those_of_one_backbone_with_an_adapter_for_each_cluster(tmp_path):
    gib = 2**30
    sizes = {"trainable_parameters": 100, "total_rank": 8, "active_rank": 4}
    facts = {"training_seconds": 60.0, "peak_memory": 3 * gib, "tokens": 300, "seconds": 2.0}
    add(tmp_path, "A", MEDICAL, 0.5, **sizes, **facts)
    sizes = {"trainable_parameters": 70, "total_rank": 5, "active_rank": 5}
    facts = {"training_seconds": 30.0, "peak_memory": 2 * gib, "tokens": 100, "seconds": 6.0}
    add(tmp_path, "A", GENERAL, 0.5, **sizes, **facts)
    (entry,) = by_clusters(tmp_path)["medical + general"].entries
    assert (entry.parameters, entry.total_rank, entry.training_seconds) == (170, 13, 90.0)
    assert (entry.active_rank, entry.peak_memory) == (5, 3 * gib)
    assert entry.tokens_per_second == 400 / 8


def test_forgetting_is_the_mean_of_the_adapters_on_each_text(tmp_path):
    add(tmp_path, "A", MEDICAL, 0.5, forgetting=forgot([0.0, 0.2]))
    add(tmp_path, "A", GENERAL, 0.5, forgetting=forgot([0.4, 0.4]))
    add(tmp_path, "B", MEDICAL, 0.5, forgetting=forgot([0.1, 0.1]))
    add(tmp_path, "B", GENERAL, 0.5)
    both = by_clusters(tmp_path)["medical + general"]
    of = {entry.name: entry.forgetting for entry in both.entries}
    expected = mean_estimate(np.array([0.2, 0.3]))
    assert vars(of["A"]) == pytest.approx(vars(expected))
    assert of["B"] is None
    (part, _) = restrict(both, [*MEDICAL]).entries
    assert part.forgetting == mean_estimate(np.array([0.0, 0.2]))


def test_an_unknown_cost_of_a_cluster_is_unknown_for_both(tmp_path):
    add(tmp_path, "A", MEDICAL, 0.5, peak_memory=None, trainable_parameters=None)
    add(tmp_path, "A", GENERAL, 0.5)
    (entry,) = by_clusters(tmp_path)["medical + general"].entries
    assert (entry.peak_memory, entry.parameters, entry.total_rank) == (None, None, 80)


def test_only_methods_with_runs_on_all_tasks_are_on_the_joined_board(tmp_path):
    add(tmp_path, "A", MEDICAL, 0.5)
    add(tmp_path, "A", GENERAL, 0.5)
    add(tmp_path, "B", MEDICAL, 0.6)
    found = by_clusters(tmp_path)
    assert [entry.name for entry in found["medical + general"].entries] == ["A"]
    assert [entry.name for entry in found["medical"].entries] == ["B", "A"]
    # The medical board has a method more and stands for itself.
    assert found["medical"].part_of is None
    assert found["general"].part_of == found["medical + general"].id
    # It compares two methods, the joined one compares none.
    assert boards(tmp_path).boards[0] == found["medical"]


def test_only_seeds_on_all_clusters_count(tmp_path):
    for seed in (0, 1, 2):
        add(tmp_path, "A", MEDICAL, 0.5 + seed / 10, seed)
    for seed in (1, 2, 3):
        add(tmp_path, "A", GENERAL, 0.2, seed)
    found = by_clusters(tmp_path)
    (entry,) = found["medical + general"].entries
    assert entry.seeds == (1, 2)
    assert entry.overall.value == pytest.approx((0.65 + 0.65 + 0.2) / 3)
    assert len(entry.folders) == 4
    assert found["medical"].part_of is None


@pytest.mark.parametrize(
    "other",
    [
        {"recipe": {"name": "main", "hash": "b" * 64}},
        *({"label": "main"}, {"prompt": "task name"}, {"split": "dev"}),
        {"backbone": {"name": "tiny", "fingerprint": "e" * 64}},
        {"recipe": None},
    ],
    ids=["recipe", "label", "prompt", "split", "backbone", "none"],
)
def test_runs_of_different_comparisons_are_not_joined(tmp_path, other):
    add(tmp_path, "A", MEDICAL, 0.5)
    add(tmp_path, "A", GENERAL, 0.5, **other)
    assert set(by_clusters(tmp_path)) == {"medical", "general"}


def test_runs_without_a_recipe_are_joined_if_one_folder_holds_them(tmp_path):
    add(tmp_path / "apart", "A", MEDICAL, 0.5, recipe=None)
    add(tmp_path / "apart", "A", GENERAL, 0.5, recipe=None)
    assert set(by_clusters(tmp_path / "apart")) == {"medical", "general"}
    for seed in (0, 1):
        add(tmp_path / "one", "A", (*MEDICAL, *GENERAL), 0.5, seed, recipe=None)
    (entry,) = by_clusters(tmp_path / "one")["medical + general"].entries
    assert entry.seeds == (0, 1)
    assert len(entry.folders) == 2


def test_an_adapter_that_answers_both_clusters_counts_once(tmp_path):
    manifest = {"trainable_parameters": 50, "training": {"seconds": 9.0}}
    manifest |= {"total_rank": 6, "active_rank": 3}
    adapters = [{"tasks": [*MEDICAL, *GENERAL], "manifest": manifest}]
    add(tmp_path, "A", (*MEDICAL, *GENERAL), 0.5, recipe=None, adapters=adapters)
    found = by_clusters(tmp_path)
    for board in found.values():
        (entry,) = board.entries
        assert (entry.parameters, entry.total_rank, entry.training_seconds) == (50, 6, 9.0)


def test_each_choice_of_records_has_a_joined_board_of_its_own(tmp_path):
    add(tmp_path / "few", "A", MEDICAL, 0.5, data="e" * 64)
    add(tmp_path, "A", MEDICAL, 0.5)
    add(tmp_path, "A", GENERAL, 0.5)
    joined = [board for board in boards(tmp_path).boards if len(board.clusters) == 2]
    assert {"".join(task.data[0] for task in board.tasks) for board in joined} == {"ddd", "eed"}
    assert len({board.id for board in joined}) == 2


def test_the_folder_of_a_task_is_that_of_its_cluster(tmp_path):
    for seed in (0, 1):
        add(tmp_path, "A", MEDICAL, 0.5, seed)
        add(tmp_path, "A", GENERAL, 0.5, seed)
    (entry,) = by_clusters(tmp_path)["medical + general"].entries
    assert entry.folder("NER", 1) == str(tmp_path / "A" / "NER" / "1")
    assert entry.folder("CHIP-CTC", 0) == str(tmp_path / "A" / "KUAKE-QIC" / "0")
    assert entry.folder("NER", 9) == entry.folder("NER", 0)


def test_the_newest_run_of_this_machine_is_found_with_the_first_board_that_has_it(tmp_path):
    library = Library(tmp_path / "shipped", tmp_path / "local")
    add(library.shipped, "A", MEDICAL, 0.5)
    assert library.newest_local(library.leaderboards()) is None
    add(library.local, "B", MEDICAL, 0.5, created="2026-03-01T00:00:00+00:00")
    add(library.local, "C", MEDICAL, 0.5, created="2026-02-01T00:00:00+00:00")
    add(library.local, "C", GENERAL, 0.5, created="2026-04-01T00:00:00+00:00")
    board, entry = library.newest_local(library.leaderboards())
    assert (board.cluster, entry.name) == ("medical + general", "C")
