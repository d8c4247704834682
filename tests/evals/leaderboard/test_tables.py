"""Tables: what stands in which cell, aligned for terminals, escaped for Markdown."""

import json
from pathlib import Path

import numpy as np
import pytest

from evals.__main__ import main
from evals.leaderboard.board import REFERENCE, Board, UnknownEntryError, boards
from evals.leaderboard.report import report, values
from evals.leaderboard.tables import (
    Table,
    facts_table,
    overall_table,
    published_table,
    seesaw_table,
    task_table,
    width,
)
from tests.helpers.run_dirs import forgot, write_folder, write_run


def write_board(root: Path) -> None:
    """Two tasks; the second method is surely better on the first one, by chance on the other."""
    noise = np.array([0.1, -0.1] * 100)
    for seed in (0, 1):
        write_run(
            root / "single" / str(seed),
            {"KUAKE-QIC": (0.6, np.full(200, 0.6)), "CHIP-CTC": (0.4 + seed / 10, 0.45 + noise)},
            method=REFERENCE,
            seed=seed,
        )
    write_run(
        root / "cgc",
        {"KUAKE-QIC": (0.7, np.full(200, 0.7)), "CHIP-CTC": (0.46, np.full(200, 0.46))},
        seed=2,
    )
    write_run(
        root / "bare",
        {"KUAKE-QIC": (0.1, np.full(200, 0.1)), "CHIP-CTC": (0.1, np.full(200, 0.1))},
        method="Backbone",
        seed=None,
        trainable_parameters=None,
        total_rank=None,
        active_rank=None,
        training_seconds=None,
        peak_memory=None,
    )


@pytest.fixture
def board(tmp_path: Path) -> Board:
    write_board(tmp_path)
    return boards(tmp_path).boards[0]


def test_the_ranking_says_scores_seeds_and_costs(board):
    assert overall_table(board).rows == (
        ("1 (1)", "CGC-LoRA", "58.0 [58.0, 58.0]", "1 seed", "5.7 M", "40 / 10", "10.0", "1.0"),
        # Means over seeds and tasks: 0.525 with replicates of 0.475 and 0.575; seeds 0.50, 0.55.
        (
            *("2 (2)", REFERENCE, "52.5 [47.5, 57.5]", "2 seeds, ±3.5", "5.7 M", "40 / 10"),
            *("10.0", "1.0"),
        ),
        ("3 (3)", "Backbone", "10.0 [10.0, 10.0]", "-", "-", "-", "-", "-"),
    )


def test_forgetting_has_a_column_where_it_was_measured(board, tmp_path):
    assert "forgetting" not in overall_table(board).header
    write_run(
        tmp_path / "moe",
        {"KUAKE-QIC": (0.1, np.full(200, 0.1)), "CHIP-CTC": (0.1, np.full(200, 0.1))},
        method="MOE-LoRA",
        forgetting=forgot([-0.0001, -0.0001]),
    )
    table = overall_table(boards(tmp_path).boards[0])
    assert table.header[-1] == "forgetting"
    assert {row[1]: row[-1] for row in table.rows} == {
        "CGC-LoRA": "-",
        REFERENCE: "-",
        "Backbone": "-",
        "MOE-LoRA": "+0.000 [+0.000, +0.000]",
    }
    assert "nats a token" in table.notes[-1]


def test_the_task_table_marks_the_best_and_whom_it_does_not_beat(board):
    table = task_table(board)
    assert table.header == ("method", "CHIP-CTC", "KUAKE-QIC", "mean")
    assert table.rows == (
        ("CGC-LoRA", "46.0 *", "70.0 *", "58.0"),
        (REFERENCE, "45.0 ~", "60.0  ", "52.5"),
        ("Backbone", "10.0  ", "10.0  ", "10.0"),
    )


def test_the_seesaw_marks_what_is_beyond_chance(board):
    table = seesaw_table(board, REFERENCE)
    assert table.rows == (
        (
            "CGC-LoRA",
            "+1.0 [-9.0, +11.0]  ",
            "+10.0 [+10.0, +10.0] *",
            "+5.5 [+0.5, +10.5] *",
        ),
        (
            "Backbone",
            "-35.0 [-45.0, -25.0] *",
            "-50.0 [-50.0, -50.0] *",
            "-42.5 [-47.5, -37.5] *",
        ),
    )


def test_what_was_measured_is_stated_with_split_hash_and_number_of_records(board):
    table = facts_table(board)
    assert "test" in table.title
    assert "n 200" in table.title
    assert table.rows == (
        ("CHIP-CTC", "accuracy", "1", "1", "dddddddd", "100"),
        ("KUAKE-QIC", "accuracy", "1", "1", "dddddddd", "100"),
    )


def test_published_numbers_stand_apart_and_as_published(board):
    rows = published_table().rows
    assert [row[3] for row in rows] == ["64.66", "64.48", "60.95", "42.08"]
    assert not {row[0] for row in rows} & {row[1] for row in overall_table(board).rows}


def test_columns_stay_aligned_with_wide_characters():
    table = Table("t", ("方法", "n"), (("治疗", "1"), ("é", "10"), ("Ａ", "100")))
    assert table.text().splitlines() == [
        "t",
        "方法    n",
        "治疗    1",
        "é      10",
        "Ａ    100",
    ]
    assert width("治疗e\N{COMBINING ACUTE ACCENT}") == 5


def test_a_name_cannot_steer_the_terminal_or_break_a_markdown_table():
    table = Table("a\nb", ("x",), (("\x1b[2Jred",), ("a|b*c",)), ("n\tote",))
    assert "\x1b" not in table.text()
    assert len(table.text().splitlines()) == 5
    lines = table.markdown().splitlines()
    assert lines[0] == "### a\N{REPLACEMENT CHARACTER}b"
    assert lines[3] == "| :-- |"
    assert lines[5] == r"| a\|b\*c |"


def test_markdown_aligns_words_left_and_numbers_right():
    table = Table("t", ("method", "n"), (("A", "1"),), ("one", "two"))
    assert table.markdown().splitlines() == [
        *("### t", "", "| method | n |", "| :-- | --: |", "| A | 1 |", "", "one  ", "two"),
    ]


def test_a_report_says_what_it_leaves_out(tmp_path):
    write_board(tmp_path / "runs")
    write_folder(tmp_path / "new", None, b"")
    (write_folder(tmp_path / "bad", None, b"") / "manifest.json").write_text("{")
    found = boards(tmp_path)
    for markdown in (False, True):
        text = report(found, markdown=markdown)
        assert (
            f"not scored yet: {tmp_path / 'new'}".replace("_", r"\_" if markdown else "_") in text
        )
        assert "damaged: " in text


def test_a_board_without_the_usual_reference_has_no_seesaw_but_a_wanted_one_must_exist(tmp_path):
    write_run(tmp_path, {"NER": (0.5, np.full(9, 0.5))})
    found = boards(tmp_path)
    assert "gain over" not in report(found)
    assert values(found)["boards"][0]["gains"] == {}
    assert "gain over CGC-LoRA" in report(found, "CGC-LoRA")
    with pytest.raises(UnknownEntryError, match="nobody"):
        report(found, "nobody")


def test_a_reference_need_not_be_on_every_board(tmp_path):
    write_board(tmp_path / "medical")
    write_run(tmp_path / "general", {"NER": (0.5, np.full(9, 0.5))}, method="B")
    assert report(boards(tmp_path), "Backbone").count("gain over") == 1


def test_no_gain_is_minus_nothing(tmp_path):
    for method, value in (("A", 0.5), ("B", 0.4999)):
        write_run(tmp_path / method, {"NER": (value, np.full(9, value))}, method=method)
    table = seesaw_table(boards(tmp_path).boards[0], "A")
    assert table.rows == (("B", "+0.0 [+0.0, +0.0]  ", "+0.0 [+0.0, +0.0]  "),)


def test_the_command_prints_or_writes_text_markdown_and_json(tmp_path, capsys):
    write_board(tmp_path / "runs")
    root = str(tmp_path / "runs")
    assert main(["report", root]) == 0
    text = capsys.readouterr().out
    for title in ("mean over 2 tasks", "scores by task", f"gain over {REFERENCE}", "elsewhere"):
        assert title in text
    assert main(["report", root, "--markdown", "--out", str(tmp_path / "report.md")]) == 0
    assert capsys.readouterr().out == ""
    assert (tmp_path / "report.md").read_text("utf-8").startswith("### medical, test")
    assert main(["report", root, "--json", "--reference", "Backbone"]) == 0
    (board,) = json.loads(capsys.readouterr().out)["boards"]
    assert [entry["name"] for entry in board["entries"]] == ["CGC-LoRA", REFERENCE, "Backbone"]
    assert board["gains"]["CGC-LoRA"]["KUAKE-QIC"]["value"] == pytest.approx(0.6)
    assert board["entries"][1]["scores"]["KUAKE-QIC"]["estimate"]["samples"] == 100
    assert board["leaders"]["CHIP-CTC"] == ["CGC-LoRA", REFERENCE]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["runs", "--reference", "nobody"], 2, "no entry is called 'nobody'"),
        (["nowhere"], 6, "no run lies below"),
    ],
)
def test_what_is_wrong_with_a_report_is_said(tmp_path, words, code, message, capsys):
    write_board(tmp_path / "runs")
    assert main(["report", str(tmp_path / words[0]), *words[1:]]) == code
    assert message in capsys.readouterr().err
