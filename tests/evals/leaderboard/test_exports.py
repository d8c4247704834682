"""Boards as files, the names of runs, and the facts of one: nothing says where a folder lies."""

import csv
import dataclasses
import io
import json
from pathlib import Path

import pytest

from evals.leaderboard.board import REFERENCE
from evals.leaderboard.exports import board_as_json, board_csv
from evals.leaderboard.run_sources import Library
from evals.runs.run_dir import RunError, read_run
from evals.runs.scored_run import run_facts
from tests.helpers.run_dirs import around, forgot, write_folder, write_run


@pytest.fixture
def library(tmp_path: Path) -> Library:
    found = Library(tmp_path / "shipped", tmp_path / "local")
    write_run(found.shipped / "single", {"NER": around(0.6)}, method=REFERENCE)
    write_run(found.shipped / "cgc", {"NER": around(0.5, seed=1)})
    return found


def test_csv_has_a_line_an_entry_and_a_score_with_its_interval_a_task(library):
    (board,) = library.leaderboards().boards
    lines = [*csv.DictReader(io.StringIO(board_csv(board.entries, ["NER"])))]
    assert [line["method"] for line in lines] == [entry.name for entry in board.entries]
    estimate = board.entries[0].scores["NER"].estimate
    assert float(lines[0]["NER"]) == estimate.value
    assert float(lines[0]["NER_low"]) == estimate.low
    assert lines[0]["seed_standard_deviation"] == ""
    assert [lines[0][name] for name in ("rank", "rank_low", "rank_high")] == ["1", "1", "1"]


def test_forgetting_is_exported_with_its_interval(library):
    write_run(library.local / "x", {"NER": around(0.4)}, method="X", forgetting=forgot([0.1, 0.3]))
    (board,) = library.leaderboards().boards
    lines = [*csv.DictReader(io.StringIO(board_csv(board.entries, [])))]
    columns = ("method", "forgetting", "forgetting_low", "forgetting_high")
    assert [tuple(line[name] for name in columns) for line in lines][-1] == (
        *("X", "0.2", "0.1", "0.3"),
    )
    assert lines[0]["forgetting"] == lines[0]["forgetting_high"] == ""
    of = {entry["name"]: entry["forgetting"] for entry in board_as_json(board, library)["entries"]}
    assert of[REFERENCE] is None
    assert of["X"]["high"] == 0.3


@pytest.mark.parametrize("name", ["=1+1", "@x", "-1", "+1", "\t=1"])
def test_csv_holds_no_formula(library, name):
    write_run(library.local / "bad", {"NER": around(0.4)}, method=name)
    (board,) = library.leaderboards().boards
    lines = [*csv.DictReader(io.StringIO(board_csv(board.entries, [])))]
    assert f"'{name}" in [line["method"] for line in lines]


def test_a_board_with_every_entry_filtered_out_is_still_a_file(library):
    (board,) = library.leaderboards().boards
    empty = dataclasses.replace(board, entries=())
    written = board_as_json(empty, library)
    assert (written["entries"], written["leaders"]) == ([], {"NER": []})
    assert len(board_csv(empty.entries, ["NER"]).splitlines()) == 1


def test_json_names_runs_without_their_folders(library, tmp_path):
    write_run(library.local / "mine", {"NER": around(0.7)}, method="Mine")
    (board,) = library.leaderboards().boards
    written = board_as_json(board, library)
    assert [entry["runs"] for entry in written["entries"]] == [
        *(["local/mine"], ["shipped/single"], ["shipped/cgc"]),
    ]
    assert written["reference"] == REFERENCE
    assert str(tmp_path) not in json.dumps(written)


def test_json_of_a_board_without_the_reference_has_no_gains(tmp_path):
    write_run(tmp_path / "a" / "cgc", {"NER": around(0.5)})
    library = Library(tmp_path / "a", tmp_path / "none")
    (board,) = library.leaderboards().boards
    assert board_as_json(board, library)["gains"] == {}


def test_runs_of_this_machine_can_be_left_out(library):
    write_run(library.local / "mine", {"NER": around(0.7)}, method="Mine")
    (board,) = library.leaderboards().boards
    assert [library.is_local(entry) for entry in board.entries] == [True, False, False]
    assert not library.is_local(board)
    (shipped,) = library.leaderboards(local=False).boards
    assert "Mine" not in [entry.name for entry in shipped.entries]


def test_a_board_of_local_runs_alone_is_local(library):
    write_run(library.local / "mine", {"KUAKE-QIC": around(0.7)})
    assert [library.is_local(board) for board in library.leaderboards().boards] == [False, True]


def test_a_run_is_found_by_its_name_and_by_no_way_out(library):
    assert library.names() == ["shipped/cgc", "shipped/single"]
    assert library.run("shipped/cgc").manifest["method"] == "CGC-LoRA"
    for name in ("shipped/../shipped/cgc", "local/cgc", "/etc", ""):
        with pytest.raises(RunError, match="no run is called"):
            library.run(name)


def test_facts_of_a_run_hold_hashes_and_scores(tmp_path):
    adapter = {
        "tasks": ["NER"],
        "manifest": {
            "code": {"commit": "c" * 40, "dirty": True},
            "training": {"steps": 5, "best_dev_loss": 0.25},
            "files": {"adapter.safetensors": {"sha256": "a" * 64, "bytes": 3}},
        },
    }
    write_run(tmp_path / "run", {"NER": around(0.6)}, adapters=[adapter], learning_rate=0.001)
    facts = run_facts(read_run(tmp_path / "run"))
    assert facts["adapters"] == [
        {
            "tasks": ["NER"],
            "sha256": "a" * 64,
            "code": {"commit": "c" * 40, "dirty": True},
            "steps": 5,
            "dev_loss": 0.25,
        }
    ]
    assert facts["learning_rate"] == 0.001
    assert facts["data"]["tasks"]["NER"] == {"records": 100, "hash": "d" * 64, "version": "1"}
    assert facts["scores"]["NER"]["value"] == 0.6
    assert json.loads(json.dumps(facts)) == facts


def test_facts_of_a_run_that_says_little_are_none(tmp_path):
    nothing = {"tasks": [], "backbone": None, "adapters": None, "code": "?"}
    write_folder(tmp_path / "run", None, b"", **nothing)
    facts = run_facts(read_run(tmp_path / "run"))
    assert facts["scores"] is None
    assert (facts["data"]["name"], facts["data"]["hash"]) == (None, None)
    assert facts["data"]["tasks"]["NER"]["version"] is None
    assert facts["adapters"] == []
