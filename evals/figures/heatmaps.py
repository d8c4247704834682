"""Heat maps: scores of methods on tasks, and wins of methods over one another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from evals.figures import captions
from evals.figures.parts import ROW, Look, layout, looks_of, name_axis
from evals.leaderboard.board import Board, leaders, wins
from evals.scoring.effect_sizes import OVERALL
from evals.scoring.statistics import FloatArray
from evals.tasks import Language

_SCALE = [[0.0, "#b0562a"], [0.5, "#6b7280"], [1.0, "#2a6fb3"]]
"""Worst, even, best: white digits have a contrast of 4.5:1; visible on white and on black."""

_MAX_WITH_DECIMAL = 9
"""The most numbers with a decimal that fit side by side on a phone."""

_MIN_SPAN = 0.02
"""Scores that differ by less get pale colours: such a difference is mostly noise."""


def heat_map(board: Board, language: Language = "zh") -> go.Figure:
    """Scores of the entries on tasks, each task coloured from its worst to its best score.

    The best entry of a task and those not significantly worse are bold, see `leaders`. Tasks are
    columns, or rows if there are too many.

    Raises:
        ValueError: The board has no entry.
    """
    looks = looks_of(board)
    names = [look.entry.name for look in looks]
    columns = [OVERALL, *(task.name for task in board.tasks)]
    bold = leaders(board) | {OVERALL: {look.entry.name for look in looks if look.entry.rank == 1}}
    down = len(columns) > _MAX_WITH_DECIMAL
    with_decimal = (len(looks) if down else len(columns)) <= _MAX_WITH_DECIMAL

    def number(look: Look, column: str) -> str:
        value = captions.estimate_of(look.entry, column).value
        written = captions.points(value) if with_decimal else f"{100 * value:.0f}"
        return f"<b>{written}</b>" if look.entry.name in bold[column] else written

    values = np.array(
        [[captions.estimate_of(look.entry, name).value for name in columns] for look in looks]
    )
    middle = (values.max(axis=0) + values.min(axis=0)) / 2
    reach = np.maximum(np.ptp(values, axis=0), _MIN_SPAN) / 2
    tiles = (
        (values - middle) / reach,
        _tiles(looks, columns, number),
        _tiles(looks, columns, lambda look, row: captions.score_hover(look.entry, row, language)),
    )
    if down:
        tiles = (tiles[0].T, tiles[1].T, tiles[2].T)
        rows = name_axis(columns, captions.titles(language), down=True)
        across = name_axis(names, str, tickangle=-90)
    else:
        rows = name_axis(names, captions.method_name, down=True)
        across = name_axis(columns, captions.titles(language, 14), autotickangles=[0, -90])
    return _table(*tiles, rows=rows, columns=across, caption=captions.text("bold", language))


def win_matrix(board: Board, language: Language = "zh") -> go.Figure:
    """P(row better than column) and the tasks on which the row is significantly better, see `Duel`.

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
            captions.text("probability", language, share=f"{captions.percent(duel.probability)} %"),
            captions.text("won", language, other=column, won=duel.won, tasks=duel.tasks),
            captions.text("ahead", language, ahead=duel.ahead, tasks=duel.tasks),
            *captions.gain_lines(duel.overall, column, language),
        )
        return captions.hover(look.entry, language, *lines)

    def words(look: Look, column: str) -> str:
        duel = duels[look.entry.name].get(column)
        if duel is None:
            return ""
        return f"{min(99, max(1, round(100 * duel.probability)))}<br>{duel.won}"

    better = np.array(
        [[duels[a][b].probability if a != b else np.nan for b in names] for a in names]
    )
    return _table(
        2 * better - 1,
        _tiles(looks, names, words),
        _tiles(looks, names, details),
        rows=name_axis(names, captions.method_name, down=True),
        columns=name_axis(names, str, tickangle=-90),
        caption=captions.text("won_axis", language, n=len(board.tasks)),
        lines=2,
    )


def _tiles(
    looks: Sequence[Look], columns: Sequence[str], words: Callable[[Look, str], str]
) -> npt.NDArray[np.str_]:
    return np.array([[words(look, column) for column in columns] for look in looks])


def _table(
    shades: FloatArray,
    numbers: npt.NDArray[np.str_],
    details: npt.NDArray[np.str_],
    *,
    rows: dict[str, Any],
    columns: dict[str, Any],
    caption: str,
    lines: int = 1,
) -> go.Figure:
    """A heat map of [rows, columns] with the text on each tile and that under the pointer.

    A tile's text has so many lines. Shades go from -1, bad, to 1, good; NaN leaves a hole.
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
        textfont={"color": "white", "size": 12 - lines},
        hovertext=details,
        hovertemplate="%{hovertext}<extra></extra>",
        hoverongaps=False,
    )
    title = {"text": caption, "font": {"size": 12}}
    figure.update_layout(
        layout(
            (ROW + 4) * len(shades) + 130 + 8 * (lines - 1) * (2 + len(shades)),
            yaxis=rows,
            xaxis=columns | {"side": "top", "title": title},
        )
    )
    return figure
