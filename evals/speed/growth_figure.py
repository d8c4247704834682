"""How time grows with what there is more of, from a benchmark's report, as an SVG drawing.

A panel for each of experts, tasks, clusters and prompts: sizes to the right, time as a multiple of
the smallest size's upwards, both in logarithms. A straight line's slope is the exponent of growth;
the dashed one grows as the size does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from cgclora.config import ConfigError
from evals.speed.bench_growth import PART_NAMES, SIZES, WORK, label

_WIDTH, _HEIGHT = 320, 230
_LEFT, _TOP, _RIGHT, _BOTTOM = 44, 34, 26, 42
_TIMES = (1, 2, 4, 8, 16, 32)
_LOWEST = 0.7

_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #667085; }
text.title { font-size: 13px; font-weight: 600; fill: #1f2937; }
line, path { fill: none; stroke: #667085; }
line { stroke-opacity: 0.25; }
.linear { stroke-dasharray: 4 4; stroke-opacity: 0.6; }
.step { stroke: #3b7dc4; stroke-width: 2; }
.say { stroke: #d9781f; stroke-width: 2; }
circle { stroke: none; }
circle.step, rect.step { fill: #3b7dc4; stroke: none; }
circle.say, rect.say { fill: #d9781f; stroke: none; }
@media (prefers-color-scheme: dark) { text.title { fill: #e5e7eb; } }
"""

_CLASSES = dict(zip(WORK, ("step", "say"), strict=True))


def growth_figure(report: Mapping[str, Any]) -> str:
    """The drawing.

    Args:
        report: What `evals.speed.bench.run` returns, with all parts on growth.

    Raises:
        ConfigError: A part is missing.
    """
    if missing := [name for name in PART_NAMES.values() if name not in report["parts"]]:
        raise ConfigError(
            f"the report lacks {', '.join(missing)}: run `python -m evals bench` with all parts."
        )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * _WIDTH} {2 * _HEIGHT + 26}" '
        f'role="img" aria-label="Time against experts, tasks, clusters and prompt tokens">',
        f"<style>{_STYLE}</style>",
    ]
    for place, what in enumerate(SIZES):
        part = report["parts"][PART_NAMES[what]]
        x, y = (place % 2) * _WIDTH, (place // 2) * _HEIGHT
        lines.append(f'<g transform="translate({x} {y})">')
        lines += _panel(what, part["medians"], part["exponents"])
        lines.append("</g>")
    for place, work in enumerate(WORK):
        x = _LEFT + 180 * place
        y = 2 * _HEIGHT + 4
        lines.append(f'<rect class="{_CLASSES[work]}" x="{x}" y="{y}" width="12" height="12"/>')
        lines.append(f'<text x="{x + 18}" y="{y + 10}">{escape(work)}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def _panel(what: str, medians: Mapping[str, float], exponents: Mapping[str, float]) -> list[str]:
    sizes = SIZES[what]
    curves = {
        work: [
            medians[label(work, size, what)] / medians[label(work, sizes[0], what)]
            for size in sizes
        ]
        for work in WORK
    }
    highest = max(4.0, *(1.15 * max(values) for values in curves.values()))

    def across(size: float) -> float:
        share = math.log(size / sizes[0]) / math.log(sizes[-1] / sizes[0])
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def up(times: float) -> float:
        share = math.log(times / _LOWEST) / math.log(highest / _LOWEST)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    lines = [f'<text class="title" x="{_LEFT}" y="18">{escape(what)}</text>']
    for multiple in _TIMES:
        if multiple <= highest:
            y = up(multiple)
            lines.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            lines.append(
                f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{multiple}×</text>'
            )
    for size in sizes:
        x = across(size)
        lines.append(f'<text x="{x:.1f}" y="{_HEIGHT - 22}" text-anchor="middle">{size:,}</text>')
    end = min(sizes[-1], sizes[0] * highest)
    lines.append(
        f'<path class="linear" d="M{across(sizes[0]):.1f} {up(1):.1f}'
        f'L{across(end):.1f} {up(end / sizes[0]):.1f}"/>'
    )
    for work, values in curves.items():
        points = [(across(size), up(time)) for size, time in zip(sizes, values, strict=True)]
        way = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        lines.append(f'<path class="{_CLASSES[work]}" d="M{way}"/>')
        for (x, y), size, time in zip(points, sizes, values, strict=True):
            words = (
                f"{work}, {size:,} {what}: {medians[label(work, size, what)]:.3f} s, {time:.2f}×"
            )
            lines.append(
                f'<circle class="{_CLASSES[work]}" cx="{x:.1f}" cy="{y:.1f}" r="3.5">'
                f"<title>{escape(words)}</title></circle>"
            )
    slopes = ", ".join(f"{work} {exponents[work]:.2f}" for work in WORK)
    lines.append(f'<text x="{_LEFT}" y="{_HEIGHT - 4}">exponents: {escape(slopes)}</text>')
    return lines
