"""Two quantities of methods against each other: score, costs, speed, forgetting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
import plotly.graph_objects as go

from evals.figures import parts
from evals.figures.captions import estimate_lines, hover, size, size_lines, text
from evals.figures.label_layout import Point, label_places
from evals.figures.palette import faded
from evals.leaderboard.board import Board
from evals.leaderboard.entries import Entry
from evals.methods import CGC_LORA, is_main
from evals.scoring.statistics import Estimate
from evals.tasks import Language

Quantity = Literal[
    "overall",
    "parameters",
    "active_rank",
    "total_rank",
    "training_seconds",
    "peak_memory",
    "tokens_per_second",
    "forgetting",
]
"""What an axis may show: a field of an entry."""

QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)

_MORE_IS_BETTER = {"overall", "tokens_per_second"}

_PLOT_HEIGHT = 340

_PLOT_WIDTHS = (290, 700, 1110)
"""In pixels: on a phone, in a window, on a wide screen."""

_MAX_TICKS = 6

_DECIMAL = tuple(step * 10.0**power for power in range(13) for step in (1, 2, 5))
_FINE = tuple(step * 10.0**power for power in range(13) for step in (1, 1.5, 2, 3, 5, 7))
_BINARY = tuple(2.0**power for power in range(16))
_TICKS: Mapping[Quantity, tuple[float, ...]] = MappingProxyType(
    {
        "parameters": _DECIMAL,
        "active_rank": _BINARY,
        "total_rank": _BINARY,
        "training_seconds": (
            *(1, 2, 5, 10, 30, 60, 120, 300, 600, 1800),
            *(3600 * hours for hours in _DECIMAL),
        ),
        "peak_memory": _FINE,
        "tokens_per_second": _FINE,
    }
)
"""Round values of each quantity on a logarithmic axis, none more than 3 times the previous one."""

_FACTORS: Mapping[Quantity, float] = MappingProxyType({"overall": 100.0, "forgetting": 1.0})
"""Of each quantity on a linear axis with an interval: what it is shown times."""

_INVISIBLE = {"color": "rgba(0,0,0,0)", "size": parts.MARK}
"""A marker that keeps a name off its line."""


@dataclass(frozen=True)
class _Scale:
    """An axis from `low` to `high`, in the units that it shows."""

    quantity: Quantity
    low: float
    high: float

    @classmethod
    def of(cls, quantity: Quantity, entries: Sequence[Entry]) -> _Scale:
        """The axis on which these entries have room."""
        if quantity in _FACTORS:
            intervals = [one for entry in entries if (one := _interval(entry, quantity))]
            low, high = parts.span(intervals, _FACTORS[quantity]) if intervals else (0.0, 1.0)
            return cls(quantity, low, high)
        values = [value for entry in entries if (value := _value(entry, quantity))]
        return (
            cls(quantity, min(values) / 1.8, max(values) * 1.8) if values else cls(quantity, 1, 10)
        )

    @property
    def is_log(self) -> bool:
        return self.quantity not in _FACTORS

    @property
    def factor(self) -> float:
        return _FACTORS.get(self.quantity, 1.0)

    def value(self, place: float) -> float:
        """The shown value at a place in [0, 1] from the left or from the bottom."""
        if self.is_log:
            return float(self.low * (self.high / self.low) ** place)
        return self.low + place * (self.high - self.low)

    def place(self, value: float) -> float:
        """The inverse of `value`."""
        if self.is_log:
            return float(np.log(value / self.low) / np.log(self.high / self.low))
        return (value - self.low) / (self.high - self.low)

    def reach(self, entry: Entry) -> tuple[float, float, float] | None:
        """An entry's place with the ends of its interval; None if its value is unknown."""
        value, interval = _value(entry, self.quantity), _interval(entry, self.quantity)
        if value is None:
            return None
        ends = (value, value) if interval is None else (interval.low, interval.high)
        at, low, high = (self.place(self.factor * one) for one in (value, *ends))
        return at, low, high

    def layout(self, language: Language) -> dict[str, Any]:
        """Plotly's axis."""
        if not self.is_log:
            words = "score_axis" if self.quantity == "overall" else "forgetting_axis"
            return parts.value_axis(text(words, language), range=[self.low, self.high])
        ticks = [tick for tick in _TICKS[self.quantity] if self.low <= tick <= self.high]
        ticks = ticks[:: -(-len(ticks) // _MAX_TICKS) or 1]
        return parts.value_axis(
            text(self.quantity, language),
            type="log",
            range=[float(np.log10(self.low)), float(np.log10(self.high))],
            tickmode="array",
            tickvals=ticks,
            ticktext=[size(self.quantity, tick, language) for tick in ticks],
        )


def known(board: Board) -> tuple[Quantity, ...]:
    """The quantities that are known of any entry: those that an axis can show."""
    return tuple(
        one for one in QUANTITIES if any(_value(entry, one) is not None for entry in board.entries)
    )


def _value(entry: Entry, quantity: Quantity) -> float | None:
    """In the entry's own units; None if unknown, or 0 on a logarithmic axis."""
    if interval := _interval(entry, quantity):
        return interval.value
    return None if quantity in _FACTORS else getattr(entry, quantity) or None


def _interval(entry: Entry, quantity: Quantity) -> Estimate | None:
    return getattr(entry, quantity) if quantity in _FACTORS else None


def pareto(
    board: Board,
    language: Language = "zh",
    x: Quantity = "parameters",
    y: Quantity = "overall",
) -> go.Figure:
    """Two quantities of each entry, scores and forgetting with their intervals.

    The frontier joins the entries that no other one equals or beats in both. An entry of which one
    quantity is unknown, such as the size of the backbone, is a dotted line across or upright; one
    of which both are is left out. Names that would collide are in the legend only.

    Raises:
        ValueError: The board has no entry.
    """
    scales = _Scale.of(x, board.entries), _Scale.of(y, board.entries)
    looks = [look for look in parts.looks_of(board) if _point(look.entry, *scales)]
    points = {look.entry.name: point for look in looks if (point := _point(look.entry, *scales))}
    front = _Front(x in _MORE_IS_BETTER, y in _MORE_IS_BETTER)
    frontier = front.of(points)
    corners = front.corners([points[name] for name in frontier])
    places = _places(looks, points, frontier, corners)
    figure = go.Figure()
    if frontier:
        figure.add_scatter(
            x=[scales[0].value(at) for at, _ in corners],
            y=[scales[1].value(at) for _, at in corners],
            mode="lines",
            line={"width": 1.5, "color": faded(parts.INK, 0.6)},
            name=text("frontier", language),
            hoverinfo="skip",
        )
    for look in looks:
        name = look.entry.name
        _add_entry(figure, look, points[name], places[name], scales, language)
    figure.update_layout(
        parts.layout(
            420,
            legend=len(looks) + bool(frontier),
            columns=2,
            xaxis=scales[0].layout(language),
            yaxis=scales[1].layout(language),
        )
    )
    return figure


def _point(entry: Entry, x: _Scale, y: _Scale) -> Point | None:
    """The place of an entry; None if it has none."""
    across, up = x.reach(entry), y.reach(entry)
    if across is None and up is None:
        return None
    at, left, right = across or (0.0, 0.0, 0.0)
    height, low, high = up or (0.0, 0.0, 0.0)
    return Point(
        *(at, height, low, high, _short(entry.name)),
        across=across is None,
        upright=up is None,
        left=left,
        right=right,
    )


@dataclass(frozen=True)
class _Front:
    """The Pareto front of points in the unit square, and on which axes more is better."""

    more_x: bool
    more_y: bool

    def _turned(self, x: float, y: float) -> tuple[float, float]:
        """So that less of the first and more of the second is better; its own inverse."""
        return (1 - x if self.more_x else x), (y if self.more_y else 1 - y)

    def of(self, points: Mapping[str, Point]) -> list[str]:
        """Names of the points that no other one equals or beats in both, the best x first."""
        best, names = float("-inf"), []
        turned = {
            name: self._turned(point.x, point.y)
            for name, point in points.items()
            if not (point.across or point.upright)
        }
        for name, (_, y) in sorted(turned.items(), key=lambda one: (one[1][0], -one[1][1])):
            if y > best:
                best = y
                names.append(name)
        return names

    def corners(self, points: Sequence[Point]) -> list[tuple[float, float]]:
        """The step line through the front's points, up to the side where x is worst."""
        turned = [self._turned(point.x, point.y) for point in points]
        ends = [*(x for x, _ in turned[1:]), 1.0]
        return [
            self._turned(*corner)
            for (x, y), end in zip(turned, ends, strict=False)  # no point, no corners
            for corner in ((x, y), (end, y))
        ]


def _places(
    looks: Sequence[parts.Look],
    points: Mapping[str, Point],
    frontier: Sequence[str],
    corners: Sequence[tuple[float, float]],
) -> dict[str, str | None]:
    """The place of each name: the main methods choose first, then the frontier."""
    entries = sorted(
        (look.entry for look in looks),
        key=lambda entry: (not is_main(entry.method), entry.name not in frontier),
    )
    order = [entry.name for entry in entries]
    lines = [
        (min(x, next_x), min(y, next_y), max(x, next_x), max(y, next_y))
        for (x, y), (next_x, next_y) in pairwise(corners)
    ]
    places = label_places([points[name] for name in order], lines, _PLOT_WIDTHS, _PLOT_HEIGHT)
    return dict(zip(order, places, strict=True))


def _short(name: str) -> str:
    """A name, for ablations without the method's name."""
    return name.replace(f"{CGC_LORA} w/o", "w/o")


def _add_entry(
    figure: go.Figure,
    look: parts.Look,
    point: Point,
    place: str | None,
    scales: tuple[_Scale, _Scale],
    language: Language,
) -> None:
    """Add a point, or a line for an entry with one quantity, with its name at `place`."""
    entry, is_line = look.entry, point.across or point.upright
    # A line has several points, so that all of it shows hover details; none at the very ends, where
    # rounding would put a point and its name outside the axes.
    along = np.linspace(0.001, 0.999, 40)
    xs = [scales[0].value(at) for at in (along if point.across else [point.x])]
    ys = [scales[1].value(at) for at in (along if point.upright else [point.y])]
    count = max(len(xs), len(ys))
    details = (*estimate_lines(entry, language), *size_lines(entry, language))
    name = f"\N{NO-BREAK SPACE}{_short(entry.name)}\N{NO-BREAK SPACE}"  # a gap to the point
    bars = {
        f"error_{axis}": parts.error_bar([interval], look.colour, scale.factor)
        for axis, scale in zip("xy", scales, strict=True)
        if not is_line and (interval := _interval(entry, scale.quantity))
    }
    figure.add_scatter(
        x=xs * (count // len(xs)),
        y=ys * (count // len(ys)),
        **bars,
        mode="lines+markers+text" if is_line else "markers+text",
        line={"color": look.colour, "width": 2, "dash": "dot"},
        marker=_INVISIBLE if is_line else parts.marker(look),
        text=[name if place else "", *[""] * (count - 1)],
        textposition=place or "middle right",
        cliponaxis=False,
        name=_short(entry.name),
        hovertext=[hover(entry, language, *details)] * count,
        hovertemplate="%{hovertext}<extra></extra>",
    )
