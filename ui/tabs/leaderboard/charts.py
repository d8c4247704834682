"""The pictures of a board that a visitor may choose, each with its numbers as a table."""

from __future__ import annotations

from typing import Any, cast

from evals.figures import charts
from evals.figures.charts import Quantity
from evals.leaderboard import tables
from evals.leaderboard.board import Board, wins
from evals.leaderboard.tables import Table
from evals.methods import is_main
from evals.tasks import Language
from ui.tabs.leaderboard.query import Sight

_FEW = 5
"""So many outlines may lie above each other before none can be followed."""


def picture(sight: Sight, language: Language) -> Any:
    """The figure of the view that is asked for; None for the table, and where nothing fits."""
    view, board = sight.asked.view, sight.drawn
    if view == "table" or not board.entries:
        return None
    if view == "seesaw":
        seen = _with_reference(sight)
        if len(seen.entries) < 2:
            return None
        return charts.seesaw(seen, sight.asked.reference, language)
    if view == "pareto":
        return charts.pareto(board, language, cast(Quantity, sight.asked.cost))
    if view == "radar":
        return charts.radar(board, _outlines(board), language)
    draw = {
        "tasks": charts.per_task,
        "heat": charts.heat_map,
        "wins": charts.win_matrix,
        "noise": charts.seeds,
    }
    return draw[view](board, language)


def numbers(sight: Sight) -> Table | None:
    """What the picture shows, as a table; None where there is no picture."""
    view, board = sight.asked.view, sight.drawn
    if view == "table" or not board.entries:
        return None
    if view == "seesaw":
        seen = _with_reference(sight)
        return tables.seesaw_table(seen, sight.asked.reference) if len(seen.entries) > 1 else None
    if view == "wins":
        return _duels(board)
    return tables.overall_table(board) if view in ("pareto", "noise") else tables.task_table(board)


def _with_reference(sight: Sight) -> Board:
    """What is drawn, and the reference, which the search may have left out."""
    board, part = sight.drawn, sight.part
    if part is None or any(one.name == sight.asked.reference for one in board.entries):
        return board
    names = {entry.name for entry in board.entries} | {sight.asked.reference}
    kept = tuple(entry for entry in part.entries if entry.name in names)
    return Board(part.id, part.cluster, part.split, part.tasks, kept)


def _outlines(board: Board) -> list[str]:
    names = [entry.name for entry in board.entries]
    main = [entry.name for entry in board.entries if is_main(entry.method)]
    return names if len(names) <= _FEW else (main or names)[:_FEW]


def _duels(board: Board) -> Table:
    found = wins(board)
    names = [entry.name for entry in board.entries]
    return Table(
        f"sure wins of {len(board.tasks)} tasks",
        ("method", *names),
        tuple(
            (one, *("" if one == other else str(found[one][other].won) for other in names))
            for one in names
        ),
    )
