"""Places for the names of points in a scatter plot, so that no two names overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""

_LETTER = 6.8
_LINE = 15.0
_GAP = 9.0
"""Pixels: width and height of a letter, and the distance of a name to its point's centre."""

_PLACES = (
    ("middle right", 1, 0),
    ("middle left", -1, 0),
    ("top right", 1, 1),
    ("bottom right", 1, -1),
    ("top left", -1, 1),
    ("bottom left", -1, -1),
)
"""Plotly's text positions and their directions from the point, the preferred ones first.

None is straight above or below: the point's interval is there.
"""


@dataclass(frozen=True)
class Point:
    """A point of the unit square, its intervals, and its name.

    With `across` it is a horizontal line from side to side, with its name at `x`; with `upright` a
    vertical one from end to end, with its name at `y`.
    """

    x: float
    y: float
    low: float
    high: float
    name: str
    across: bool = False
    upright: bool = False
    left: float | None = None  # ends of the interval of x; None has none
    right: float | None = None


def label_places(
    points: Sequence[Point], lines: Sequence[Box], widths: Sequence[float], height: float
) -> list[str | None]:
    """Plotly's text position for each name; None where there is no room.

    No name covers a point or another name; it crosses a line or an interval only if it must.

    Args:
        points: In the order in which their names choose a place.
        lines: Horizontal or vertical, in the unit square.
        widths: Of the plot in pixels; the places suit all of them.
        height: Of the plot in pixels.
    """
    plots = [_Plot(points, lines, width, height) for width in widths]
    places: list[str | None] = []
    for point in points:
        sides = {name: side for name, *side in _PLACES if side[1] or not point.across}
        place = next(
            (
                name
                for strict in (True, False)
                for name, side in sides.items()
                if all(plot.is_free(plot.label(point, *side), strict=strict) for plot in plots)
            ),
            None,
        )
        if place is not None:
            for plot in plots:
                plot.taken.append(plot.label(point, *sides[place]))
        places.append(place)
    return places


class _Plot:
    """A plot with a size in pixels, its points and lines, and the names placed so far."""

    def __init__(
        self, points: Sequence[Point], lines: Sequence[Box], width: float, height: float
    ) -> None:
        self.width, self.height = width, height
        self.taken: list[Box] = []  # no name may cover these
        self.thin: list[Box] = [  # no name should cross these
            (left * width, bottom * height, right * width, top * height)
            for left, bottom, right, top in lines
        ]
        reach = _GAP / 2
        for point in points:
            x, y = point.x * width, point.y * height
            if point.across:
                self.taken.append((0, y - 1, width, y + 1))
            elif point.upright:
                self.taken.append((x - 1, 0, x + 1, height))
            else:
                self.taken.append((x - reach, y - reach, x + reach, y + reach))
                self.thin.append((x - 1, point.low * height, x + 1, point.high * height))
                if point.left is not None and point.right is not None:
                    self.thin.append((point.left * width, y - 1, point.right * width, y + 1))

    def label(self, point: Point, right: int, up: int) -> Box:
        """The box of a point's name in a direction from the point."""
        long = _LETTER * len(point.name)
        x = point.x * self.width + right * (_GAP + long / 2)
        y = point.y * self.height + up * (_GAP + _LINE / 2)
        return x - long / 2, y - _LINE / 2, x + long / 2, y + _LINE / 2

    def is_free(self, box: Box, *, strict: bool) -> bool:
        """Whether a name fits there; `strict` avoids lines and intervals, too."""
        left, bottom, right, top = box
        inside = left >= 0 and bottom >= 0 and right <= self.width and top <= self.height
        return inside and not any(
            left <= other[2] and other[0] <= right and bottom <= other[3] and other[1] <= top
            for other in (*self.taken, *(self.thin if strict else ()))
        )
