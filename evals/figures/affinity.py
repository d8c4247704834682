"""A picture of inter-task affinities: a heat map as SVG, the tasks in the order of their groups.

It is drawn by hand, so that a page can show it without scripts, and the same result gives the same
file. It follows the reader's light or dark scheme where the page lets it know.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from cgclora.analysis.grouping_report import usual_size

Floats = npt.NDArray[np.float64]

MARKS = ("#7a4fa3", "#2c8c74", "#8a6d1d", "#b3445a", "#4a6378", "#6b7d22")
"""Of the prior's groups, in its order."""

_CELL, _CHARACTER, _WIDE, _GAP = 24, 7.0, 12.0, 6
_CERTAIN = 2.0  # standard errors
_REACH = 2.0  # where the scale ends, in what is usual
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1f2933}.title{font-size:15px;font-weight:600}"
    ".quiet{fill:#55606e}.page{fill:#ffffff}.field{fill:#f1f3f5}.helps{fill:#1a5fb4}"
    ".hurts{fill:#c25700}.group{stroke:#1f2933;fill:none;stroke-width:2.5}"
    "@media(prefers-color-scheme:dark){text{fill:#e6e9ee}.quiet{fill:#a5afbc}.page{fill:#14181e}"
    ".field{fill:#232a33}.helps{fill:#62a8f7}.hurts{fill:#f59247}.group{stroke:#e6e9ee}}"
)
"""Blue helps and orange hurts: they stay apart for every kind of colour vision."""


def heat_map(result: Mapping[str, Any], form: str = "first_order", groups: int = 0) -> str:
    """The mean affinities of every pair of tasks as SVG.

    A full tile is further than two standard errors from 0, a small one is not; of a single
    measurement, which has none, all are small. The diagonal, which no grouping looks at, is left
    empty.

    Args:
        result: Of `cgclora affinity`, with its `grouping`.
        form: `first_order` or `lookahead`.
        groups: How many groups to order by; 0 takes the number that is suggested.

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
    """The tasks group by group, large ones first, those of one prior group side by side."""
    place = {task: number for number, tasks in enumerate(prior.values()) for task in tasks}
    by_size = sorted(groups, key=len, reverse=True)
    return [task for group in by_size for task in sorted(group, key=lambda x: (place.get(x, 0), x))]


class _Picture:
    """Where everything stands.

    Args:
        names: The tasks in their order.
        sizes: How many of them each group has.
        prior: Tasks by the name of their prior group.
    """

    def __init__(
        self, names: Sequence[str], sizes: Sequence[int], prior: Mapping[str, Sequence[str]]
    ) -> None:
        self.names = names
        self.sizes = sizes
        self.prior = prior
        self.mark = {
            task: MARKS[number % len(MARKS)]
            for number, tasks in enumerate(prior.values())
            for task in tasks
        }
        label = max(map(_pixels, names)) + (14 if prior else 0) + 2 * _GAP
        self.left, self.top = 24 + label, 60 + label
        self.side = len(names) * _CELL
        self.width = max(self.left + self.side + 20, 620)
        self.height = self.top + self.side + 70

    def draw(self, mean: Floats, errors: Floats | None, title: str) -> str:
        """The whole picture; without standard errors no tile is certain."""
        usual = usual_size(mean)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:g} '
            f'{self.height:g}" width="{self.width:g}" height="{self.height:g}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{_STYLE}</style>",
            f'<rect class="page" width="{self.width:g}" height="{self.height:g}" rx="8"/>',
            f'<text class="title" x="20" y="28">{escape(title)}</text>',
            '<text class="quiet" x="20" y="47">How much a training step on the row\'s task lowers '
            "the column's loss, relative to what is usual in the column</text>",
            *self._labels(),
            f'<rect class="field" x="{self.left:g}" y="{self.top:g}" width="{self.side}" '
            f'height="{self.side}"/>',
            *self._tiles(mean, errors, usual),
            *self._borders(),
            *self._legend(with_sizes=errors is not None),
            "</svg>",
        ]
        return "\n".join(parts) + "\n"

    def _labels(self) -> list[str]:
        lines = []
        gap = _GAP + (14 if self.prior else 0)
        for number, name in enumerate(self.names):
            y = self.top + (number + 0.5) * _CELL
            x = self.left + (number + 0.5) * _CELL
            text = escape(name)
            lines.append(
                f'<text x="{self.left - gap:g}" y="{y + 4:g}" text-anchor="end">{text}</text>'
            )
            lines.append(
                f'<text transform="translate({x + 4:g} {self.top - gap:g}) rotate(-90)">'
                f"{text}</text>"
            )
            if name in self.mark:
                for left, top in ((self.left - 15, y - 5), (x - 5, self.top - 15)):
                    lines.append(
                        f'<rect x="{left:g}" y="{top:g}" width="10" height="10" rx="2" '
                        f'fill="{self.mark[name]}"/>'
                    )
        return lines

    def _tiles(self, mean: Floats, errors: Floats | None, usual: Floats) -> list[str]:
        lines = []
        for row, source in enumerate(self.names):
            for column, target in enumerate(self.names):
                if row == column:
                    continue
                value = mean[row, column]
                error = None if errors is None else errors[row, column]
                inset = 7 if error is None or abs(value) <= _CERTAIN * error else 1
                size = _CELL - 2 * inset
                words = f"{source} → {target}: {100 * value:+.2f} %"
                words += "" if error is None else f" ± {100 * error:.2f}"
                lines.append(
                    f'<rect x="{self.left + column * _CELL + inset:g}" '
                    f'y="{self.top + row * _CELL + inset:g}" width="{size}" height="{size}" '
                    f"{shade(value / usual[column] / _REACH)}><title>{escape(words)}</title></rect>"
                )
        return lines

    def _borders(self) -> list[str]:
        lines, start = [], 0
        for size in self.sizes:
            lines.append(
                f'<rect class="group" x="{self.left + start * _CELL:g}" '
                f'y="{self.top + start * _CELL:g}" width="{size * _CELL}" height="{size * _CELL}"/>'
            )
            start += size
        return lines

    def _legend(self, *, with_sizes: bool) -> list[str]:
        left, top, width, steps = 20, self.top + self.side + 22, 200, 40
        wide = width / steps
        lines = [f'<rect class="field" x="{left}" y="{top:g}" width="{width}" height="12"/>']
        for step in range(steps):
            lines.append(
                f'<rect x="{left + step * wide:g}" y="{top:g}" width="{wide:g}" height="12" '
                f"{shade(2 * (step + 0.5) / steps - 1)}/>"
            )
        for x, anchor, words in (
            (left, "start", f"−{_REACH:g} hurts"),
            (left + width / 2, "middle", "0"),
            (left + width, "end", f"helps +{_REACH:g}"),
        ):
            lines.append(f'<text x="{x:g}" y="{top + 28:g}" text-anchor="{anchor}">{words}</text>')
        sizes = [
            (
                f'class="helps" x="{inset}" y="{inset}" width="{14 - 2 * inset}" '
                f'height="{14 - 2 * inset}"',
                words,
            )
            for inset, words in ((0, "beyond two standard errors"), (4, "within two"))
        ]
        marks = [
            (f'x="2" y="2" width="10" height="10" rx="2" fill="{colour}"', name)
            for name, colour in zip(self.prior, MARKS, strict=False)
        ]
        for row, items in enumerate((sizes, marks) if with_sizes else (marks,)):
            x = left + width + 40
            for shape, words in items:
                lines.append(
                    f'<g transform="translate({x:g} {top - 1 + 18 * row:g})"><rect {shape}/>'
                    f'<text x="20" y="11">{escape(words)}</text></g>'
                )
                x += 40 + _pixels(words)
        return lines


def _pixels(text: str) -> float:
    """About how wide a label is."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return wide * _WIDE + (len(text) - wide) * _CHARACTER


def shade(share: float) -> str:
    """How a value from -1, hurts, to 1, helps, is filled; further ones are as these."""
    kind = "helps" if share > 0 else "hurts"
    return f'class="{kind}" fill-opacity="{min(abs(share), 1.0):.2f}"'
