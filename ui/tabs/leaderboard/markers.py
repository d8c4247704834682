"""How a method looks in a table: its marker as a small drawing, its interval as a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from evals.figures.palette import colour, symbol
from evals.scoring.statistics import Estimate

_SHAPES: Mapping[str, str] = {
    "circle": '<circle cx="6" cy="6" r="4.5"/>',
    "square": '<path d="M2 2h8v8H2z"/>',
    "diamond": '<path d="M6 .5 11.5 6 6 11.5.5 6z"/>',
    "triangle-up": '<path d="M6 1 11.5 10.5H.5z"/>',
    "triangle-down": '<path d="M6 11 .5 1.5h11z"/>',
    "cross": '<path d="M4 1h4v3h3v4H8v3H4V8H1V4h3z"/>',
    "x": '<path d="M2.5 1 6 4.5 9.5 1 11 2.5 7.5 6 11 9.5 9.5 11 6 7.5 2.5 11 1 9.5 4.5 6z"/>',
}


def mark(method: str) -> str:
    """The method's marker in its colour, as in the pictures."""
    shape = _SHAPES.get(symbol(method), _SHAPES["circle"])
    fill = colour(method)
    return f'<svg class="mark" viewBox="0 0 12 12" fill="{fill}" aria-hidden="true">{shape}</svg>'


def scale(scores: Sequence[Estimate]) -> tuple[float, float]:
    """Ends of a scale for intervals beside each other.

    A few scores far below the others would leave these no room: up to a quarter of them may lie
    off the scale if that halves it.
    """
    lows, most = sorted(one.low for one in scores), max(one.high for one in scores)
    few = lows[: 1 + len(lows) // 4]
    return next((low for low in few if 2 * (most - low) < most - lows[0]), lows[0]), most


def interval(of: Estimate, method: str, least: float, most: float) -> str:
    """A line from the interval's lower to its upper end with a dot at the value.

    Args:
        of: The score.
        method: Whose colour it has.
        least: Left end of the scale; a score below it is an arrow there.
        most: Right end of it.
    """
    width = (most - least) or 1.0
    ends = (100 * (value - least) / width for value in (of.low, of.value, of.high))
    low, at, high = (max(0.0, end) for end in ends)
    kind = "interval" if of.value >= least else "interval below"
    style = f"--low:{low:.1f}%;--at:{at:.1f}%;--high:{high:.1f}%;--colour:{colour(method)}"
    return f'<span class="{kind}" style="{escape(style)}" aria-hidden="true"></span>'
