"""A board as a reference: the commits and days of its runs, and BibTeX that can be pasted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import cgclora
from evals.leaderboard.board import Board, boards, restrict
from evals.leaderboard.citation import Origin, bibtex, origin
from evals.runs.run_dir import RunError
from tests.helpers.run_dirs import around, write_run


def add(root: Path, method: str, **facts: Any) -> None:
    write_run(root / method, {"NER": around(0.5)}, method=method, **facts)


def only(root: Path) -> Board:
    (board,) = boards(root).boards
    return board


def fields(entry: str) -> dict[str, str]:
    """Names and values of a BibTeX entry; every brace is closed."""
    depth = 0
    for character in entry:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    found = re.findall(r"^  (\w+) += (?:\{(.*)\}|(\w+)),$", entry, re.MULTILINE)
    assert len(found) == entry.count("\n") - 1
    return {name: braced or bare for name, braced, bare in found}


def test_an_entry_names_version_board_commit_and_days_and_no_person(tmp_path):
    add(tmp_path, "A", created="2026-11-24T10:00:00+00:00", code={"commit": "c" * 40})
    add(tmp_path, "B", created="2026-10-02T10:00:00+00:00", code={"commit": "d" * 40})
    board = only(tmp_path)
    entry = bibtex(board, "https://example.org/?tab=leaderboard&board=x")
    assert entry.startswith(f"@misc{{cgclora-{board.id},\n")
    assert fields(entry) == {
        "author": "{The cgclora contributors}",
        "title": f"Leaderboard {board.id} of cgclora: 2 methods on 1 tasks",
        "year": "2026",
        "month": "nov",
        "version": cgclora.__version__,
        "note": "Runs of 2026-10-02 to 2026-11-24, commit ccccccc, ddddddd",
        "url": "https://example.org/?tab=leaderboard&board=x",
    }


def test_uncommitted_changes_are_marked_and_each_commit_is_named_once(tmp_path):
    for method in ("A", "B"):
        add(tmp_path, method, code={"commit": "c" * 40, "dirty": True})
    assert origin(only(tmp_path)) == Origin(("ccccccc*",), "2026-01-01", "2026-01-01")


def test_only_the_runs_of_the_shown_methods_count(tmp_path):
    add(tmp_path, "A", created="2026-11-24T10:00:00+00:00", code={"commit": "c" * 40})
    add(tmp_path, "B", created="2026-10-02T10:00:00+00:00", code={"commit": "d" * 40})
    part = restrict(only(tmp_path), entries=["B"])
    assert origin(part) == Origin(("ddddddd",), "2026-10-02", "2026-10-02")


@pytest.mark.parametrize(
    "facts",
    [
        {"created": "tomorrow", "code": None},
        {"created": "2026-13-01", "code": {"commit": None}},
        {"created": "2026-99", "code": ["x"]},
    ],
)
def test_what_a_manifest_does_not_say_is_left_out(tmp_path, facts):
    add(tmp_path, "A", **facts)
    found = fields(bibtex(only(tmp_path)))
    assert found["note"] == "Runs of unknown date, commit unknown"
    assert found.keys() == {"author", "title", "version", "note"}


def test_nothing_from_outside_can_break_out_of_an_entry(tmp_path):
    add(tmp_path, "A}", code={"commit": "c}\n@misc{"}, created="2026-11-24}{")
    found = fields(bibtex(only(tmp_path), "https://example.org/?x={}\\\n} , author = {me"))
    assert found["author"] == "{The cgclora contributors}"
    assert found["note"] == "Runs of 2026-11-24, commit cmisc"
    assert found["url"] == "https://example.org/?x=,author=me"


def test_a_run_that_is_gone_is_named(tmp_path):
    add(tmp_path, "A")
    board = only(tmp_path)
    (tmp_path / "A" / "manifest.json").unlink()
    with pytest.raises(RunError, match="no manifest that can be read"):
        origin(board)
