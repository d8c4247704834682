"""What the charts of a board share: layout, axes and marks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from evals.figures.captions import Interval
from evals.figures.palette import colour, faded, symbol
from evals.leaderboard.board import Board
from evals.leaderboard.entries import Entry
from evals.scoring.statistics import Spread

INK = "#667085"
"""Of text and lines: readable on white and on near-black."""

ROW = 26
"""Height in pixels of a row with one mark."""

DODGED_ROW = 11
"""Height in pixels of each mark in a row with several."""

MARK = 9

_FONT = "system-ui, sans-serif"
"""The system's own font; none is fetched."""

_LEGEND_ROW = 19


@dataclass(frozen=True)
class Look:
    """An entry with its method's colour and symbol; a method's second entry has another filling."""

    entry: Entry
    colour: str
    symbol: str


def looks_of(board: Board) -> list[Look]:
    """Each entry with its look, in the board's order.

    Raises:
        ValueError: The board has no entry.
    """
    if not board.entries:
        raise ValueError(f"the board {board.id} has no entry: score some runs first.")
    seen: Counter[str] = Counter()
    looks = []
    for entry in board.entries:
        method = entry.method
        looks.append(Look(entry, colour(method), symbol(method, seen[method])))
        seen[method] += 1
    return looks


# Layout -----------------------------------------------------------------------------------


def layout(height: int, *, legend: int = 0, columns: int = 1, **more: Any) -> dict[str, Any]:
    """The layout of every figure: any width, transparent, legible in light and dark.

    Args:
        height: Of the plot and its axes in pixels, without the legend.
        legend: The number of legend items; 0 hides the legend.
        columns: Legend columns on a phone: plotly makes a legend no wider than the plot.
        more: Further settings of plotly.
    """
    settings: dict[str, Any] = {
        "height": height + _LEGEND_ROW * math.ceil(legend / columns),
        "margin": {"l": 4, "r": 12, "t": 8, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": _FONT, "size": 12, "color": INK},
        "hoverlabel": {"font": {"family": _FONT, "size": 13}, "align": "left"},
        "hovermode": "closest",
        "dragmode": False,
        "minreducedheight": ROW,  # a plot of one row keeps its axes' margins, too
        "showlegend": legend > 0,
        "legend": {
            "orientation": "h",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
            "xref": "container",
            "x": 0,
            "xanchor": "left",
            "font": {"size": 11},
            "bgcolor": "rgba(0,0,0,0)",
        },
    }
    return settings | more


def span(values: Iterable[Interval | Spread], times: float = 100) -> tuple[float, float]:
    """The range of an axis that shows these intervals times 100, say, with room on both sides."""
    ends = [times * end for one in values for end in (one.low, one.high)]
    low, high = min(ends), max(ends)
    room = max(0.06 * (high - low), 0.005 * times)
    return low - room, high + room


def value_axis(words: str, **more: Any) -> dict[str, Any]:
    """An axis of numbers with a faint grid; `words` may hold line breaks."""
    return {
        "title": {"text": words, "standoff": 8, "font": {"size": 12}},
        "automargin": True,
        "fixedrange": True,
        "gridcolor": faded(INK, 0.18),
        "zeroline": False,
        "nticks": 6,
        **more,
    }


def name_axis(
    keys: Sequence[str], label: Callable[[str], str], *, down: bool = False, **more: Any
) -> dict[str, Any]:
    """An axis of categories in order, with their labels; `down` puts the first one at the top."""
    ends = [-0.5, len(keys) - 0.5]
    return {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": list(keys),
        "range": ends[::-1] if down else ends,
        "tickmode": "array",
        "tickvals": list(keys),
        "ticktext": [label(key) for key in keys],
        "ticks": "",
        "automargin": True,
        "fixedrange": True,
        "showgrid": False,
        "zeroline": False,
        **more,
    }


def bands(rows: int) -> list[dict[str, Any]]:
    """A faint band behind every other row."""
    return [
        {
            "type": "rect",
            "layer": "below",
            "xref": "paper",
            "x0": 0,
            "x1": 1,
            "yref": "y",
            "y0": row - 0.5,
            "y1": row + 0.5,
            "fillcolor": faded(INK, 0.07),
            "line": {"width": 0},
        }
        for row in range(0, rows, 2)
    ]


# Marks ------------------------------------------------------------------------------------


def dots(
    figure: go.Figure,
    look: Look,
    values: Sequence[Interval],
    rows: Sequence[str],
    details: Sequence[str],
    *,
    hollow: Sequence[bool] = (),
    **more: Any,
) -> None:
    """Add an entry's marks with their intervals to a figure, one a row.

    Args:
        figure: To add to.
        look: The entry.
        values: In [-1, 1], shown times 100.
        rows: The category of each value.
        details: The hover text of each value.
        hollow: Which marks are outlines; by default none.
        more: Further settings of the trace.
    """
    outline = look.symbol.removesuffix("-dot") + "-open"
    symbols = [outline if one else look.symbol for one in hollow or [False] * len(values)]
    # The legend shows a trace's first mark, which may be hollow: an invisible one precedes it.
    figure.add_scatter(
        x=[None, *(100 * one.value for one in values)],
        y=[rows[0], *rows],
        orientation="h",
        error_x=error_bar([values[0], *values], look.colour),
        mode="markers",
        name=look.entry.name,
        marker=marker(look) | {"symbol": [look.symbol, *symbols]},
        hovertext=["", *details],
        hovertemplate="%{hovertext}<extra></extra>",
        **more,
    )


def marker(look: Look) -> dict[str, Any]:
    """Plotly's marker of an entry."""
    return {
        "color": look.colour,
        "symbol": look.symbol,
        "size": MARK,
        "line": {"width": 2, "color": look.colour},
    }


def error_bar(of: Sequence[Interval], shade: str, times: float = 100) -> dict[str, Any]:
    """Plotly's interval bars, times 100, say; a percentile interval may not contain its value."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(0.0, times * (one.high - one.value)) for one in of],
        "arrayminus": [max(0.0, times * (one.value - one.low)) for one in of],
        "color": faded(shade, 0.55),
        "thickness": 2,
        "width": 0,
    }
