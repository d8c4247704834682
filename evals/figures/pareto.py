"""Costs of methods against their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go

from evals.figures import parts
from evals.figures.captions import estimate_lines, hover, size, size_lines, text
from evals.figures.label_layout import Point, label_places
from evals.figures.palette import faded
from evals.leaderboard.board import Board
from evals.methods import CGC_LORA, is_main
from evals.tasks import Language

Quantity = Literal["parameters", "active_rank", "training_seconds"]
"""A cost of an entry: one of its fields."""

_PLOT_HEIGHT = 340

_PLOT_WIDTHS = (290, 700, 1110)
"""In pixels: on a phone, in a window, on a wide screen."""

_MAX_TICKS = 6

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
"""Round values of each quantity, none more than 3 times the previous one."""

_INVISIBLE = {"color": "rgba(0,0,0,0)", "size": parts.MARK}
"""A marker that keeps a name off its line."""


@dataclass(frozen=True)
class _Frame:
    """The visible range of costs, and of scores times 100."""

    left: float
    right: float
    bottom: float
    top: float

    def cost(self, x: float) -> float:
        """The cost at x in [0, 1] from the left."""
        return float(self.left * (self.right / self.left) ** x)

    def score(self, y: float) -> float:
        """The score times 100 at y in [0, 1] from the bottom."""
        return self.bottom + y * (self.top - self.bottom)

    def point(self, look: parts.Look, cost: float | None) -> Point:
        """The place of an entry; an entry without a cost is a line across."""
        at = 0.0 if cost is None else np.log(cost / self.left) / np.log(self.right / self.left)
        overall = look.entry.overall
        y, low, high = (
            (100 * value - self.bottom) / (self.top - self.bottom)
            for value in (overall.value, overall.low, overall.high)
        )
        return Point(float(at), y, low, high, _short(look.entry.name), across=cost is None)


def pareto(board: Board, language: Language = "zh", x: Quantity = "parameters") -> go.Figure:
    """The cost of each entry, on a logarithmic axis, against its mean score with its interval.

    The frontier joins the entries that no cheaper entry equals. An entry without this cost, such
    as the backbone, is a dotted line across. Names that would collide are in the legend only.

    Raises:
        ValueError: The board has no entry.
    """
    looks = parts.looks_of(board)
    costs = {look.entry.name: getattr(look.entry, x) or None for look in looks}
    known = [cost for cost in costs.values() if cost is not None]
    left, right = (min(known) / 1.8, max(known) * 1.8) if known else (1.0, 10.0)
    frame = _Frame(left, right, *parts.span(entry.overall for entry in board.entries))
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
            line={"width": 1.5, "color": faded(parts.INK, 0.6)},
            name=text("frontier", language),
            hoverinfo="skip",
        )
    for look in looks:
        name = look.entry.name
        _add_entry(figure, look, costs[name], places[name], frame, language)
    figure.update_layout(
        parts.layout(
            420,
            legend=len(looks) + bool(frontier),
            columns=2,
            xaxis=parts.value_axis(text(x, language), **_cost_axis(x, frame, language)),
            yaxis=parts.value_axis(text("score_axis", language), range=[frame.bottom, frame.top]),
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
    """The corners of the step line through the frontier's points, up to the right side."""
    corners = []
    ends = [*(point.x for point in points[1:]), 1.0]
    for point, end in zip(points, ends, strict=False):  # no point, no corners
        corners += [(point.x, point.y), (end, point.y)]
    return corners


def _places(
    looks: Sequence[parts.Look], points: Mapping[str, Point], frontier: Sequence[str]
) -> dict[str, str | None]:
    """The place of each name: the main methods choose first, then the frontier."""
    entries = sorted(
        (look.entry for look in looks),
        key=lambda entry: (not is_main(entry.method), entry.name not in frontier),
    )
    order = [entry.name for entry in entries]
    steps = _steps([points[name] for name in frontier])
    lines = [
        (x, min(y, next_y), next_x, max(y, next_y)) for (x, y), (next_x, next_y) in pairwise(steps)
    ]
    places = label_places([points[name] for name in order], lines, _PLOT_WIDTHS, _PLOT_HEIGHT)
    return dict(zip(order, places, strict=True))


def _short(name: str) -> str:
    """A name, for ablations without the method's name."""
    return name.replace(f"{CGC_LORA} w/o", "w/o")


def _cost_axis(x: Quantity, frame: _Frame, language: Language) -> dict[str, Any]:
    ticks = [tick for tick in _TICKS[x] if frame.left <= tick <= frame.right]
    ticks = ticks[:: -(-len(ticks) // _MAX_TICKS) or 1]
    return {
        "type": "log",
        "range": [float(np.log10(frame.left)), float(np.log10(frame.right))],
        "tickmode": "array",
        "tickvals": ticks,
        "ticktext": [size(x, tick, language) for tick in ticks],
    }


def _add_entry(
    figure: go.Figure,
    look: parts.Look,
    cost: float | None,
    place: str | None,
    frame: _Frame,
    language: Language,
) -> None:
    """Add a point, or a line across for an entry without a cost, with its name at `place`."""
    entry, across = look.entry, cost is None
    # A line has several points, so that all of it shows hover details; none at the very ends, where
    # rounding would put a point and its name outside the axes.
    xs = [cost] if not across else [frame.cost(x) for x in np.linspace(0.001, 0.999, 40)]
    details = (*estimate_lines(entry, language), *size_lines(entry, language))
    name = f"\N{NO-BREAK SPACE}{_short(entry.name)}\N{NO-BREAK SPACE}"  # a gap to the point
    figure.add_scatter(
        x=xs,
        y=[100 * entry.overall.value] * len(xs),
        error_y=None if across else parts.error_bar([entry.overall], look.colour),
        mode="lines+markers+text" if across else "markers+text",
        line={"color": look.colour, "width": 2, "dash": "dot"},
        marker=_INVISIBLE if across else parts.marker(look),
        text=[name if place else "", *[""] * (len(xs) - 1)],
        textposition=place or "middle right",
        cliponaxis=False,
        name=_short(entry.name),
        hovertext=[hover(entry, language, *details)] * len(xs),
        hovertemplate="%{hovertext}<extra></extra>",
    )
