"""A board as files that another program reads: CSV and JSON, scores in [0, 1]."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from evals.leaderboard.board import Board
from evals.leaderboard.entries import Entry
from evals.leaderboard.run_sources import Library
from evals.leaderboard.tables import board_values, reference_name
from evals.scoring.statistics import Estimate

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters of a cell that a spreadsheet would compute."""


def board_csv(entries: Sequence[Entry], tasks: Sequence[str]) -> str:
    """A line an entry, in the given order, with the scores of some tasks.

    Unknown numbers are empty. Names that a spreadsheet would take for formulas get a `'`.
    """
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(
        [
            *("rank", "rank_low", "rank_high", "method", "label", "backbone", *_columns("overall")),
            *("seeds", "seed_standard_deviation", "parameters", "total_rank", "active_rank"),
            *("training_seconds", "tokens_per_second", "peak_memory", *_columns("forgetting")),
            *(column for task in tasks for column in _columns(_text(task))),
        ]
    )
    for entry in entries:
        table.writerow(
            [
                *(
                    entry.rank,
                    *entry.rank_interval,
                    _text(entry.name),
                    _text(entry.label),
                    _text(entry.backbone or ""),
                ),
                *_numbers(entry.overall),
                entry.spread.seeds,
                entry.spread.standard_deviation if entry.spread.seeds > 1 else None,
                *(entry.parameters, entry.total_rank, entry.active_rank),
                *(entry.training_seconds, entry.tokens_per_second, entry.peak_memory),
                *(_numbers(entry.forgetting) if entry.forgetting else [None] * 3),
                *(one for task in tasks for one in _numbers(entry.scores[task].estimate)),
            ]
        )
    return stream.getvalue()


def board_as_json(board: Board, library: Library) -> dict[str, Any]:
    """A board, or a part of one, as JSON values, with gains over `REFERENCE`.

    Runs are named by `Library.name`.
    """
    values = board_values(board, reference_name(board))
    for entry in values["entries"]:
        entry["runs"] = [library.name(folder) for folder in entry.pop("folders")]
    return values


def _columns(name: str) -> list[str]:
    return [name, f"{name}_low", f"{name}_high"]


def _numbers(estimate: Estimate) -> list[float]:
    return [estimate.value, estimate.low, estimate.high]


def _text(value: str) -> str:
    return f"'{value}" if value.startswith(_FORMULA) else value
