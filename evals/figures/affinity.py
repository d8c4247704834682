"""A heat map of inter-task affinities as SVG, the tasks in the order of their groups.

A page shows it without scripts, in the reader's light or dark scheme.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cgclora.analysis.grouping_report import usual_size
from evals.figures.svg import drawing, tag, text, tooltip

Floats = npt.NDArray[np.float64]

MARKS = ("#7a4fa3", "#2c8c74", "#8a6d1d", "#b3445a", "#4a6378", "#6b7d22")
"""Colours of the prior's groups, in its order."""

_CELL, _CHARACTER, _WIDE, _GAP = 24, 7.0, 12.0, 6
_CERTAIN = 2.0  # standard errors
_REACH = 2.0  # where the scale ends, in multiples of the usual size
_SUBTITLE = (
    "How much a training step on the row's task lowers the column's loss, "
    "relative to what is usual in the column"
)
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1f2933}.title{font-size:15px;font-weight:600}"
    ".quiet{fill:#55606e}.page{fill:#ffffff}.field{fill:#f1f3f5}.helps{fill:#1a5fb4}"
    ".hurts{fill:#c25700}.group{stroke:#1f2933;fill:none;stroke-width:2.5}"
    "@media(prefers-color-scheme:dark){text{fill:#e6e9ee}.quiet{fill:#a5afbc}.page{fill:#14181e}"
    ".field{fill:#232a33}.helps{fill:#62a8f7}.hurts{fill:#f59247}.group{stroke:#e6e9ee}}"
)
"""Blue helps and orange hurts: distinct for every kind of colour vision."""


def heat_map(result: Mapping[str, Any], form: str = "first_order", groups: int = 0) -> str:
    """The mean affinity of every pair of tasks as SVG; the diagonal is empty.

    A full tile is more than two standard errors from 0, a small one is not; of a single
    measurement, which has no standard error, all are small.

    Args:
        result: Of `cgclora affinity`, with its `grouping`.
        form: `first_order` or `lookahead`.
        groups: The number of groups to order by; 0 takes the suggested one.

    Raises:
        ValueError: The form was not measured, or not grouped into so many.
    """
    grouped = result["grouping"][form]
    if grouped is None:
        raise ValueError(f"the form {form!r} was not measured.")
    chosen = groups or grouped["suggested"] or grouped["groupings"][-1]["asked"]
    grouping = next((one for one in grouped["groupings"] if one["asked"] == chosen), None)
    if grouping is None:
        asked = [one["asked"] for one in grouped["groupings"]]
        raise ValueError(f"there is no grouping into {chosen}: the file has {asked}.")
    prior = grouped["prior"]["groups"] if grouped["prior"] else {}
    names = _ordered(grouping["groups"], prior)
    index = [result["tasks"].index(name) for name in names]
    mean = np.array(result[form]["mean"])[np.ix_(index, index)]
    error = result[form]["standard_error"]
    errors = None if error is None else np.array(error)[np.ix_(index, index)]
    sizes = [len(group) for group in sorted(grouping["groups"], key=len, reverse=True)]
    words = (
        f"Inter-task affinity, {form.replace('_', ' ')} form: mean of {grouped['measurements']} "
        "measurements"
    )
    return _Picture(names, sizes, prior).draw(mean, errors, words)


def _ordered(groups: Sequence[Sequence[str]], prior: Mapping[str, Sequence[str]]) -> list[str]:
    """The tasks group by group, large groups first, tasks of one prior group side by side."""
    place = {task: number for number, tasks in enumerate(prior.values()) for task in tasks}
    by_size = sorted(groups, key=len, reverse=True)
    return [task for group in by_size for task in sorted(group, key=lambda x: (place.get(x, 0), x))]


class _Picture:
    """The layout of a heat map, in pixels.

    Args:
        names: The tasks in their order.
        sizes: The number of tasks of each group.
        prior: Tasks by the name of their prior group.
    """

    def __init__(
        self, names: Sequence[str], sizes: Sequence[int], prior: Mapping[str, Sequence[str]]
    ) -> None:
        self.names = names
        self.sizes = sizes
        self.prior = prior
        self.mark_gap = 14 if prior else 0
        self.mark = {
            task: MARKS[number % len(MARKS)]
            for number, tasks in enumerate(prior.values())
            for task in tasks
        }
        label = max(map(_pixels, names)) + self.mark_gap + 2 * _GAP
        self.left, self.top = 24 + label, 60 + label
        self.side = len(names) * _CELL
        self.width = max(self.left + self.side + 20, 620)
        self.height = self.top + self.side + 70

    def draw(self, mean: Floats, errors: Floats | None, title: str) -> str:
        """The whole picture; without standard errors no tile is certain."""
        parts = [
            tooltip(title),
            tag("style", _STYLE),
            tag("rect", class_="page", width=self.width, height=self.height, rx=8),
            text(title, class_="title", x=20, y=28),
            text(_SUBTITLE, class_="quiet", x=20, y=47),
            *self._labels(),
            self._square("field", 0, len(self.names)),
            *self._tiles(mean, errors),
            *self._borders(),
            *self._legend(with_sizes=errors is not None),
        ]
        return drawing(
            self.width, self.height, *parts, width=self.width, height=self.height, role="img"
        )

    def _labels(self) -> Iterator[str]:
        gap = _GAP + self.mark_gap
        for number, name in enumerate(self.names):
            y = self.top + (number + 0.5) * _CELL
            x = self.left + (number + 0.5) * _CELL
            yield text(name, x=self.left - gap, y=y + 4, text_anchor="end")
            yield text(name, transform=f"translate({x + 4:g} {self.top - gap:g}) rotate(-90)")
            if name in self.mark:
                for left, top in ((self.left - 15, y - 5), (x - 5, self.top - 15)):
                    yield tag(
                        "rect", x=left, y=top, width=10, height=10, rx=2, fill=self.mark[name]
                    )

    def _square(self, kind: str, start: int, count: int) -> str:
        """A square on the diagonal, from one task over so many."""
        x, y = self.left + start * _CELL, self.top + start * _CELL
        return tag("rect", class_=kind, x=x, y=y, width=count * _CELL, height=count * _CELL)

    def _tiles(self, mean: Floats, errors: Floats | None) -> Iterator[str]:
        usual = usual_size(mean)
        for row, source in enumerate(self.names):
            for column, target in enumerate(self.names):
                if row == column:
                    continue
                value = mean[row, column]
                error = None if errors is None else errors[row, column]
                inset = 7 if error is None or abs(value) <= _CERTAIN * error else 1
                words = f"{source} → {target}: {100 * value:+.2f} %"
                words += "" if error is None else f" ± {100 * error:.2f}"
                yield tag(
                    "rect",
                    tooltip(words),
                    x=self.left + column * _CELL + inset,
                    y=self.top + row * _CELL + inset,
                    width=_CELL - 2 * inset,
                    height=_CELL - 2 * inset,
                    **_fill(value / usual[column] / _REACH),
                )

    def _borders(self) -> Iterator[str]:
        start = 0
        for size in self.sizes:
            yield self._square("group", start, size)
            start += size

    def _legend(self, *, with_sizes: bool) -> Iterator[str]:
        left, top, width, steps = 20, self.top + self.side + 22, 200, 40
        wide = width / steps
        yield tag("rect", class_="field", x=left, y=top, width=width, height=12)
        for step in range(steps):
            fill = _fill(2 * (step + 0.5) / steps - 1)
            yield tag("rect", x=left + step * wide, y=top, width=wide, height=12, **fill)
        for x, anchor, words in (
            (left, "start", f"−{_REACH:g} hurts"),
            (left + width / 2, "middle", "0"),
            (left + width, "end", f"helps +{_REACH:g}"),
        ):
            yield text(words, x=x, y=top + 28, text_anchor=anchor)
        sizes = [
            (tag("rect", class_="helps", x=inset, y=inset, width=side, height=side), words)
            for inset, side, words in ((0, 14, "beyond two standard errors"), (4, 6, "within two"))
        ]
        marks = [
            (tag("rect", x=2, y=2, width=10, height=10, rx=2, fill=colour), name)
            for name, colour in zip(self.prior, MARKS, strict=False)
        ]
        for row, items in enumerate((sizes, marks) if with_sizes else (marks,)):
            x = left + width + 40
            for shape, words in items:
                place = f"translate({x:g} {top - 1 + 18 * row:g})"
                yield tag("g", shape, text(words, x=20, y=11), transform=place)
                x += 40 + _pixels(words)


def _pixels(words: str) -> float:
    """The approximate width of a label."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in words)
    return wide * _WIDE + (len(words) - wide) * _CHARACTER


def _fill(share: float) -> dict[str, str]:
    """The fill of a value from -1, hurts, to 1, helps; values beyond are clipped."""
    kind = "helps" if share > 0 else "hurts"
    return {"class_": kind, "fill_opacity": f"{min(abs(share), 1.0):.2f}"}
