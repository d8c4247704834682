"""Tables of tiles: scores of methods on tasks, and who beats whom."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from evals.figures.captions import (
    gain_lines,
    hover,
    method_name,
    points,
    score_hover,
    text,
    titles,
)
from evals.figures.parts import ROW, Look, estimate_of, layout, looks_of, name_axis
from evals.leaderboard.board import Board, leaders, wins
from evals.scoring.effect_sizes import OVERALL
from evals.scoring.statistics import FloatArray
from evals.tasks import Language

TextArray = npt.NDArray[np.str_]

_SCALE = [[0.0, "#b0562a"], [0.5, "#6b7280"], [1.0, "#2a6fb3"]]
"""Worst, even, best: white numbers have 4.5:1 on each, and each is seen on white and on black."""

_MOST_WITH_DECIMAL = 9
"""So many numbers with a decimal fit side by side on a telephone."""

_LEAST_SPAN = 0.02
"""Scores that differ by less get pale colours: such a difference is mostly noise."""


def heat_map(board: Board, language: Language = "zh") -> go.Figure:
    """Scores of the entries on tasks, each task coloured from its worst to its best.

    Bold are the best of a task and those that it does not beat for sure, see `leaders`. The tasks
    stand side by side, or below each other where they are many.

    Raises:
        ValueError: The board has no entry.
    """
    looks = looks_of(board)
    names = [look.entry.name for look in looks]
    columns = [OVERALL, *(task.name for task in board.tasks)]
    bold = leaders(board) | {OVERALL: {look.entry.name for look in looks if look.entry.rank == 1}}
    down = len(columns) > _MOST_WITH_DECIMAL
    with_decimal = (len(looks) if down else len(columns)) <= _MOST_WITH_DECIMAL

    def number(look: Look, column: str) -> str:
        value = estimate_of(look.entry, column).value
        written = points(value) if with_decimal else f"{100 * value:.0f}"
        return f"<b>{written}</b>" if look.entry.name in bold[column] else written

    def details(look: Look, column: str) -> str:
        return score_hover(look.entry, column, estimate_of(look.entry, column), language)

    values = np.array([[estimate_of(look.entry, name).value for name in columns] for look in looks])
    middle = (values.max(axis=0) + values.min(axis=0)) / 2
    reach = np.maximum(np.ptp(values, axis=0), _LEAST_SPAN) / 2
    tiles = (
        (values - middle) / reach,
        np.array([[number(look, column) for column in columns] for look in looks]),
        np.array([[details(look, column) for column in columns] for look in looks]),
    )
    caption = text("bold", language)
    if down:
        return _table(
            *(one.T for one in tiles),
            rows=name_axis(columns, titles(language), down=True),
            columns=name_axis(names, str, tickangle=-90),
            caption=caption,
        )
    return _table(
        *tiles,
        rows=name_axis(names, method_name, down=True),
        columns=name_axis(columns, titles(language, 14), autotickangles=[0, -90]),
        caption=caption,
    )


def win_matrix(board: Board, language: Language = "zh") -> go.Figure:
    """On how many tasks the row is better than the column for sure, see `Duel`.

    Raises:
        ValueError: The board has no entry.
    """
    looks = looks_of(board)
    names = [look.entry.name for look in looks]
    duels = wins(board)

    def details(look: Look, column: str) -> str:
        duel = duels[look.entry.name].get(column)
        if duel is None:
            return ""
        lines = (
            text("won", language, other=column, won=duel.won, tasks=duel.tasks),
            text("ahead", language, ahead=duel.ahead, tasks=duel.tasks),
            *gain_lines(duel.overall, column, language),
        )
        return hover(look.entry, language, *lines)

    won = np.array([[duels[a][b].won if a != b else 0 for b in names] for a in names])
    balance = (won - won.T) / len(board.tasks)
    np.fill_diagonal(balance, np.nan)
    numbers = won.astype(str)
    np.fill_diagonal(numbers, "")
    return _table(
        balance,
        numbers,
        np.array([[details(look, column) for column in names] for look in looks]),
        rows=name_axis(names, method_name, down=True),
        columns=name_axis(names, str, tickangle=-90),
        caption=text("won_axis", language, n=len(board.tasks)),
    )


def _table(
    shades: FloatArray,
    numbers: TextArray,
    details: TextArray,
    *,
    rows: dict[str, Any],
    columns: dict[str, Any],
    caption: str,
) -> go.Figure:
    """A table of tiles.

    Args:
        shades: [rows, columns] from -1, bad, to 1, good; NaN leaves a hole.
        numbers: [rows, columns], what is written on a tile.
        details: [rows, columns], what is shown of it under the pointer.
        rows: Their axis.
        columns: Theirs.
        caption: Above all.
    """
    figure = go.Figure()
    figure.add_heatmap(
        z=shades,
        x=columns["categoryarray"],
        y=rows["categoryarray"],
        zmin=-1,
        zmax=1,
        colorscale=_SCALE,
        showscale=False,
        xgap=2,
        ygap=2,
        text=numbers,
        texttemplate="%{text}",
        textfont={"color": "white", "size": 11},
        hovertext=details,
        hovertemplate="%{hovertext}<extra></extra>",
        hoverongaps=False,
    )
    title = {"text": caption, "font": {"size": 12}}
    figure.update_layout(
        layout(
            (ROW + 4) * len(shades) + 130,
            yaxis=rows,
            xaxis=columns | {"side": "top", "title": title},
        )
    )
    return figure
