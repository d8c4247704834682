"""What a method costs against what it scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go

from evals.figures.captions import estimate_lines, hover, size, size_lines, text
from evals.figures.label_layout import Point, label_places
from evals.figures.palette import faded
from evals.figures.parts import (
    INK,
    MARK,
    Look,
    error_bar,
    layout,
    looks_of,
    marker,
    span,
    value_axis,
)
from evals.leaderboard.board import Board
from evals.methods import CGC_LORA, is_main
from evals.tasks import Language

Quantity = Literal["parameters", "active_rank", "training_seconds"]
"""What an entry costs: one of its fields."""

_HEIGHT = 420
_PLOT_HEIGHT = 340

_PLOT_WIDTHS = (290, 700, 1110)
"""In pixels: on a telephone, in a window, on a wide screen."""

_MOST_TICKS = 6

_SPACE = "\N{NO-BREAK SPACE}"
"""Keeps a name off its point; plotly has no setting for that."""

_DECIMAL = tuple(step * 10.0**power for power in range(13) for step in (1, 2, 5))
_TICKS: Mapping[Quantity, tuple[float, ...]] = MappingProxyType(
    {
        "parameters": _DECIMAL,
        "active_rank": tuple(2.0**power for power in range(16)),
        "training_seconds": (
            *(1, 2, 5, 10, 30, 60, 120, 300, 600, 1800),
            *(3600 * hours for hours in _DECIMAL),
        ),
    }
)
"""Round values of each quantity, none more than 3 times the one before."""

_UNSEEN = {"color": "rgba(0,0,0,0)", "size": MARK}
"""Keeps a name off its line."""


@dataclass(frozen=True)
class _Frame:
    """The part of the plane that is seen: costs, and scores times 100."""

    left: float
    right: float
    bottom: float
    top: float

    def cost(self, x: float) -> float:
        """The cost at a place in [0, 1] from the left."""
        return float(self.left * (self.right / self.left) ** x)

    def score(self, y: float) -> float:
        """The score times 100 at a place in [0, 1] from the bottom."""
        return self.bottom + y * (self.top - self.bottom)

    def point(self, look: Look, cost: float | None) -> Point:
        """Where an entry lies; one without a cost is a line across."""
        at = 0.0 if cost is None else np.log(cost / self.left) / np.log(self.right / self.left)
        overall = look.entry.overall
        y, low, high = (
            (100 * value - self.bottom) / (self.top - self.bottom)
            for value in (overall.value, overall.low, overall.high)
        )
        return Point(float(at), y, low, high, _short(look.entry.name), across=cost is None)


def pareto(board: Board, language: Language = "zh", x: Quantity = "parameters") -> go.Figure:
    """What an entry costs, on a logarithmic axis, against its mean score with its interval.

    The frontier joins those that nothing cheaper equals. An entry without such a cost, such as the
    backbone, is a dotted line across. Names that would collide are left to the legend.

    Args:
        board: Where.
        language: Of labels and hover details.
        x: The cost.

    Raises:
        ValueError: The board has no entry.
    """
    looks = looks_of(board)
    costs = {look.entry.name: getattr(look.entry, x) or None for look in looks}
    frame = _frame(board, [cost for cost in costs.values() if cost is not None])
    points = {look.entry.name: frame.point(look, costs[look.entry.name]) for look in looks}
    frontier = _frontier(points)
    places = _places(looks, points, frontier)
    figure = go.Figure()
    if frontier:
        steps = _steps([points[name] for name in frontier])
        figure.add_scatter(
            x=[frame.cost(at) for at, _ in steps],
            y=[frame.score(at) for _, at in steps],
            mode="lines",
            line={"width": 1.5, "color": faded(INK, 0.6)},
            name=text("frontier", language),
            hoverinfo="skip",
        )
    for look in looks:
        name = look.entry.name
        _add_entry(figure, look, costs[name], places[name], frame, language)
    figure.update_layout(
        layout(
            _HEIGHT,
            legend=len(looks) + bool(frontier),
            columns=2,
            xaxis=value_axis(text(x, language), **_cost_axis(x, frame, language)),
            yaxis=value_axis(text("score_axis", language), range=[frame.bottom, frame.top]),
        )
    )
    return figure


def _frontier(points: Mapping[str, Point]) -> list[str]:
    """Names of the entries that no cheaper one equals, the cheapest first."""
    best, names = float("-inf"), []
    for name, point in sorted(points.items(), key=lambda one: (one[1].x, -one[1].y)):
        if not point.across and point.y > best:
            best = point.y
            names.append(name)
    return names


def _steps(points: Sequence[Point]) -> list[tuple[float, float]]:
    """The corners of the stairs through the frontier's points, up to the right side."""
    corners = []
    ends = [*(point.x for point in points[1:]), 1.0]
    for point, end in zip(points, ends, strict=False):  # without a point there are no stairs
        corners += [(point.x, point.y), (end, point.y)]
    return corners


def _places(
    looks: Sequence[Look], points: Mapping[str, Point], frontier: Sequence[str]
) -> dict[str, str | None]:
    """Where each name stands: the main methods choose first, then the frontier."""
    order = [
        look.entry.name
        for look in sorted(
            looks,
            key=lambda look: (not is_main(look.entry.method), look.entry.name not in frontier),
        )
    ]
    steps = _steps([points[name] for name in frontier])
    lines = [
        (x, min(y, next_y), next_x, max(y, next_y)) for (x, y), (next_x, next_y) in pairwise(steps)
    ]
    places = label_places([points[name] for name in order], lines, _PLOT_WIDTHS, _PLOT_HEIGHT)
    return dict(zip(order, places, strict=True))


def _short(name: str) -> str:
    """A name without the words that its ablations share with the method."""
    return name.replace(f"{CGC_LORA} w/o", "w/o")


def _frame(board: Board, costs: Sequence[float]) -> _Frame:
    left, right = (min(costs) / 1.8, max(costs) * 1.8) if costs else (1.0, 10.0)
    return _Frame(left, right, *span(entry.overall for entry in board.entries))


def _cost_axis(x: Quantity, frame: _Frame, language: Language) -> dict[str, Any]:
    ticks = [tick for tick in _TICKS[x] if frame.left <= tick <= frame.right]
    ticks = ticks[:: -(-len(ticks) // _MOST_TICKS) or 1]
    return {
        "type": "log",
        "range": [float(np.log10(frame.left)), float(np.log10(frame.right))],
        "tickmode": "array",
        "tickvals": ticks,
        "ticktext": [size(x, tick, language) for tick in ticks],
    }


def _add_entry(
    figure: go.Figure,
    look: Look,
    cost: float | None,
    place: str | None,
    frame: _Frame,
    language: Language,
) -> None:
    entry = look.entry
    # Several points along a line, so that it answers the pointer wherever that is; none quite at
    # its ends, since rounding would put them, and the name with them, outside the axes.
    xs = [cost] if cost is not None else [frame.cost(x) for x in np.linspace(0.001, 0.999, 40)]
    details = (*estimate_lines(entry.overall, entry, language), *size_lines(entry, language))
    figure.add_scatter(
        x=xs,
        y=[100 * entry.overall.value] * len(xs),
        error_y=error_bar([entry.overall], look.colour) if cost is not None else None,
        mode="markers+text" if cost is not None else "lines+markers+text",
        line={"color": look.colour, "width": 2, "dash": "dot"},
        marker=marker(look) if cost is not None else _UNSEEN,
        text=[f"{_SPACE}{_short(entry.name)}{_SPACE}" if place else "", *[""] * (len(xs) - 1)],
        textposition=place or "middle right",
        cliponaxis=False,
        name=_short(entry.name),
        hovertext=[hover(look.entry, language, *details)] * len(xs),
        hovertemplate="%{hovertext}<extra></extra>",
    )
