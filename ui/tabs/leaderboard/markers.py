"""A method's marker and score interval as small drawings in a table."""

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


def marker(method: str) -> str:
    """The method's marker in its colour, as in the charts."""
    shape = _SHAPES.get(symbol(method), _SHAPES["circle"])
    fill = colour(method)
    return f'<svg class="mark" viewBox="0 0 12 12" fill="{fill}" aria-hidden="true">{shape}</svg>'


def scale(scores: Sequence[Estimate]) -> tuple[float, float]:
    """Ends of a common scale of intervals.

    Outliers far below would compress the others: up to a quarter of the scores may lie off the
    scale if that halves it.
    """
    lows, high = sorted(one.low for one in scores), max(one.high for one in scores)
    outliers = lows[: 1 + len(lows) // 4]
    return next((low for low in outliers if 2 * (high - low) < high - lows[0]), lows[0]), high


def interval(score: Estimate, method: str, low: float, high: float) -> str:
    """A line from the interval's lower to its upper end with a dot at the value.

    Args:
        score: The score.
        method: Gives the colour.
        low: Left end of the scale; a score below it is drawn as an arrow.
        high: Right end of the scale.
    """
    width = (high - low) or 1.0
    left, at, right = (
        max(0.0, 100 * (value - low) / width) for value in (score.low, score.value, score.high)
    )
    kind = "interval" if score.value >= low else "interval below"
    style = f"--low:{left:.1f}%;--at:{at:.1f}%;--high:{right:.1f}%;--colour:{colour(method)}"
    return f'<span class="{kind}" style="{escape(style)}" aria-hidden="true"></span>'
