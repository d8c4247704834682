"""The chart of each view of a board, and its numbers as a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from evals.figures import charts
from evals.figures.charts import Quantity
from evals.leaderboard import tables
from evals.leaderboard.board import Board, wins
from evals.leaderboard.tables import Table
from evals.methods import is_main
from evals.tasks import Language
from ui.tabs.leaderboard.query import BoardView

_MOST_OUTLINES = 5
"""How many outlines of a radar chart can be told apart."""


def chart(shown: BoardView, language: Language) -> tuple[Any, Table] | None:
    """The figure of the chosen view and its numbers; None for the table and without data."""
    view = shown.query.view
    board = _with_reference(shown) if view == "seesaw" else shown.drawn
    if view == "table" or len(board.entries) < (2 if view == "seesaw" else 1):
        return None
    draw: dict[str, Callable[[], tuple[Any, Table]]] = {
        "tasks": lambda: (charts.per_task(board, language), tables.task_table(board)),
        "seesaw": lambda: (
            charts.seesaw(board, shown.query.reference, language),
            tables.seesaw_table(board, shown.query.reference),
        ),
        "pareto": lambda: (
            charts.pareto(board, language, cast(Quantity, shown.query.cost)),
            tables.overall_table(board),
        ),
        "heat": lambda: (charts.heat_map(board, language), tables.task_table(board)),
        "wins": lambda: (charts.win_matrix(board, language), _wins_table(board)),
        "radar": lambda: (
            charts.radar(board, _outlines(board), language),
            tables.task_table(board),
        ),
        "noise": lambda: (charts.seeds(board, language), tables.overall_table(board)),
    }
    return draw[view]()


def _with_reference(shown: BoardView) -> Board:
    """The drawn board with the reference, which the search may have left out."""
    board, filtered = shown.drawn, shown.filtered
    if filtered is None or any(one.name == shown.query.reference for one in board.entries):
        return board
    names = {entry.name for entry in board.entries} | {shown.query.reference}
    entries = tuple(entry for entry in filtered.entries if entry.name in names)
    return Board(filtered.id, filtered.cluster, filtered.split, filtered.tasks, entries)


def _outlines(board: Board) -> list[str]:
    names = [entry.name for entry in board.entries]
    main = [entry.name for entry in board.entries if is_main(entry.method)]
    return names if len(names) <= _MOST_OUTLINES else (main or names)[:_MOST_OUTLINES]


def _wins_table(board: Board) -> Table:
    won = wins(board)
    names = [entry.name for entry in board.entries]
    rows = (
        (one, *("" if one == other else str(won[one][other].won) for other in names))
        for one in names
    )
    return Table(f"sure wins of {len(board.tasks)} tasks", ("method", *names), tuple(rows))
