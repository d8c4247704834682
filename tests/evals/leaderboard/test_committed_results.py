"""The results in the repository: whole, named by their manifests, and what their answers score."""

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgclora.data import sources
from cgclora.storage.atomic_io import sha256
from evals.data import datasets
from evals.leaderboard.board import boards
from evals.leaderboard.report import report
from evals.methods import ADDED, compared
from evals.runs.run_dir import find_runs, read_run
from evals.runs.score import score

RESULTS = Path(__file__).parents[3] / "assets" / "results"
RUNS = find_runs(RESULTS)
NAMES = [str(run.relative_to(RESULTS)) for run in RUNS]


@pytest.fixture(scope="module")
def test_records() -> datasets.Dataset:
    if sources.FOLDER_VARIABLE not in os.environ:
        pytest.skip(f"{sources.FOLDER_VARIABLE} names no data")
    return datasets.read(None)


def numbers(value: Any, place: str = "") -> dict[str, Any]:
    """The leaves of a JSON value by their place."""
    if isinstance(value, dict):
        return {k: v for key in value for k, v in numbers(value[key], f"{place}/{key}").items()}
    return {place: value}


def test_there_are_results():
    assert len(RUNS) > 0


def test_the_small_comparison_has_every_method_on_both_clusters():
    found = boards(RESULTS / "small")
    assert [board.cluster for board in found.boards] == [
        *("medical + general", "medical", "general"),
    ]
    assert [board.part_of for board in found.boards[1:]] == [found.boards[0].id] * 2
    for board in found.boards:
        assert {entry.method for entry in board.entries} == set(compared())
    assert (found.damaged, found.unscored, found.replaced) == ({}, (), {})


def test_the_first_board_is_the_comparison_of_most_methods_on_both_clusters():
    first = boards(RESULTS).boards[0]
    assert {*first.clusters} == {"medical", "general"}
    assert {entry.method for entry in first.entries} == set(compared())


def test_results_of_different_comparisons_stand_on_different_boards():
    found = boards(RESULTS)
    parts = [boards(path.parent) for path in RESULTS.glob("*/recipe.json")]
    assert len(found.boards) == sum(len(part.boards) for part in parts) > 2
    assert (found.damaged, found.unscored, found.replaced) == ({}, (), {})


def test_a_task_that_is_added_is_as_good_as_one_that_was_there():
    """What README says: at least 95 % of the score, in the mean over tasks and seeds."""
    (board,) = boards(RESULTS / "growth").boards
    means = {entry.method: entry.overall for entry in board.entries}
    assert means[ADDED].value >= 0.95 * means["CGC-LoRA"].value


def test_the_committed_leaderboard_is_the_one_that_report_prints():
    committed = (RESULTS / "leaderboard.md").read_text(encoding="utf-8")
    assert committed == report(boards(RESULTS), markdown=True)


@pytest.mark.parametrize("folder", RUNS, ids=NAMES)
def test_a_committed_run_is_whole_scored_and_from_a_clean_commit(folder):
    run = read_run(folder)
    assert run.metrics is not None
    assert set(run.replicates()) == set(run.metrics) == set(run.manifest["data"]["tasks"])
    assert run.manifest["code"]["dirty"] is False
    for adapter in run.manifest["adapters"]:
        assert adapter["manifest"]["code"]["dirty"] is False


COMPARED = sorted((RESULTS.parent / "adapters" / "compare").iterdir())


@pytest.mark.parametrize("folder", COMPARED, ids=lambda path: path.name)
def test_an_adapter_to_compare_with_is_the_one_whose_scores_are_shown(folder):
    run = read_run(RESULTS / "small" / "runs" / "medical" / folder.name / "seed-0")
    (scored,) = run.manifest["adapters"]
    weights = sha256((folder / "adapter.safetensors").read_bytes())
    assert weights == scored["manifest"]["files"]["adapter.safetensors"]["sha256"]


@pytest.mark.parametrize("folder", RUNS, ids=NAMES)
def test_a_committed_run_holds_nothing_of_the_data_but_ids(folder):
    columns = set(read_run(folder).predictions().columns)
    assert columns == {"task", "id", "prediction", "finish", "tokens", "parsed", "score"}


@pytest.mark.parametrize("folder", RUNS, ids=NAMES)
def test_scoring_the_committed_answers_anew_gives_the_committed_metrics(
    folder, test_records, tmp_path
):
    committed = read_run(folder)
    shutil.copytree(folder, tmp_path / "run")
    anew = score(read_run(tmp_path / "run"), test_records)
    ours, theirs = (numbers(run.metrics) for run in (committed, anew))
    assert ours.keys() == theirs.keys()
    for place, value in ours.items():
        if isinstance(value, float):  # another processor may add fractions in another order
            assert math.isclose(value, theirs[place], rel_tol=0, abs_tol=1e-12), place
        else:
            assert value == theirs[place], place
    for task, drawn in committed.replicates().items():
        np.testing.assert_allclose(drawn, anew.replicates()[task], rtol=0, atol=1e-6)
    assert json.dumps(committed.manifest["data"]) == json.dumps(anew.manifest["data"])
