"""A picture of a board to be shown elsewhere: title, verdict, the best methods, tasks, origin."""

from collections.abc import Sequence
from dataclasses import dataclass

from evals.figures import svg
from evals.figures.captions import points, title
from evals.figures.palette import colour
from evals.leaderboard.entries import Entry
from evals.leaderboard.tables import width
from evals.tasks import Language
from ui.tabs.leaderboard.table import places, scale, shape

WIDTH = 1200
"""In pixels, as link previews have it; twice as many in the file."""

MOST = 8
"""The most methods on a card."""

_EDGE = 56
_ROW = 48
_HEAD = 176  # above the rows
_FOOT = 116  # below them
_NAME, _TRACK, _SCORE, _BOUNDS = 220, 640, 1000, 1020  # left, left, right, left edges of columns
_TRACK_WIDTH = 280
_FONT = "system-ui, 'Segoe UI', 'Noto Sans CJK SC', 'PingFang SC', 'Microsoft YaHei', sans-serif"


@dataclass(frozen=True)
class _Paper:
    """The colours of a card."""

    ground: str
    ink: str
    quiet: str
    line: str


_LIGHT = _Paper("#ffffff", "#16181d", "#5e677b", "#e4e7ec")
_DARK = _Paper("#14161b", "#f2f4f7", "#a3abba", "#2c313b")


@dataclass(frozen=True)
class Card:
    """What a card says."""

    heading: str  # which board it is
    verdict: str  # one sentence
    entries: Sequence[Entry]  # in the order of the view; the first ones are shown
    tasks: Sequence[str]
    more: str  # how many methods are not shown; empty if all are
    origin: str  # date, commit and id of the board
    address: str  # of the view


def card(shown: Card, language: Language, *, dark: bool) -> str:
    """The card as an SVG file, which needs nothing but a font of the system.

    Raises:
        ValueError: There is no entry to show.
    """
    if not shown.entries:
        raise ValueError("a card needs at least one method: clear the filters.")
    paper = _DARK if dark else _LIGHT
    entries = shown.entries[:MOST]
    height = _HEAD + _ROW * len(entries) + _FOOT
    low, high = scale([entry.overall for entry in entries])
    rows = [
        _row(entry, _HEAD + _ROW * place, (low, high), paper) for place, entry in enumerate(entries)
    ]
    foot = height - _FOOT + 36
    comma = "、" if language == "zh" else ", "
    tasks = comma.join(title(task, language) for task in shown.tasks)
    return svg.drawing(
        WIDTH,
        height,
        svg.tag("rect", width=WIDTH, height=height, fill=paper.ground),
        _text("CGC-LoRA", _EDGE, 60, 18, paper.quiet, weight=600),
        _text(_cut(shown.heading, 68), _EDGE, 100, 26, paper.ink, weight=650),
        _text(_cut(shown.verdict, 110), _EDGE, 136, 20, paper.quiet),
        *rows,
        _text(_cut(f"{shown.more}{tasks}", 136), _EDGE, foot, 16, paper.quiet),
        _text(_cut(shown.address, 90), _EDGE, foot + 34, 16, paper.ink),
        _text(shown.origin, WIDTH - _EDGE, foot + 34, 16, paper.quiet, anchor="end"),
        width=WIDTH,
        height=height,
        font_family=_FONT,
    )


def _row(entry: Entry, top: float, ends: tuple[float, float], paper: _Paper) -> str:
    middle = top + _ROW / 2
    score, base = entry.overall, middle + 7
    low, high = ends

    def along(value: float) -> float:
        return _TRACK + _TRACK_WIDTH * max(0.0, (value - low) / ((high - low) or 1.0))

    shade = colour(entry.method)
    left, at, right = map(along, (score.low, score.value, score.high))

    def line(start: float, end: float, width: int, stroke: str, opacity: float = 1) -> str:
        return svg.tag(
            "path",
            d=f"M{start:.1f} {middle}H{end:.1f}",
            stroke=stroke,
            stroke_width=width,
            stroke_linecap="round",
            opacity=opacity,
        )

    return svg.tag(
        "g",
        svg.tag("path", d=f"M{_EDGE} {top}H{WIDTH - _EDGE}", stroke=paper.line),
        _text(f"{entry.rank}", _EDGE, base, 20, paper.ink, weight=600),
        _text(f"({places(entry)})", _EDGE + 32, base, 16, paper.quiet),
        svg.tag(
            "g",
            shape(entry.method),
            transform=f"translate({_NAME - 30} {middle - 8}) scale(1.33)",
            fill=shade,
        ),
        _text(_cut(entry.name, 38), _NAME, base, 20, paper.ink, weight=550),
        line(_TRACK, _TRACK + _TRACK_WIDTH, 1, paper.line),
        line(left, right, 4, shade, 0.5),
        svg.tag("circle", cx=at, cy=middle, r=7, fill=shade),
        _text(points(score.value), _SCORE, base, 22, paper.ink, weight=650, anchor="end"),
        _text(f"{points(score.low)}–{points(score.high)}", _BOUNDS, base, 16, paper.quiet),
    )


def _text(
    words: str,
    x: float,
    y: float,
    size: int,
    fill: str,
    *,
    weight: int = 400,
    anchor: str = "start",
) -> str:
    return svg.text(
        words, x=x, y=y, font_size=size, fill=fill, font_weight=weight, text_anchor=anchor
    )


def _cut(words: str, columns: int) -> str:
    """A text of at most so many columns; Chinese characters take two."""
    if width(words) <= columns:
        return words
    while width(words) > columns - 1:
        words = words[:-1]
    return f"{words.rstrip()}…"
