"""How time grows with experts, tasks, clusters and prompts: a benchmark's report as SVG.

A panel for each: sizes to the right, time as a multiple of the smallest size's upwards, both in
logarithms. A line's slope is the exponent of growth; the dashed line grows as the size does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cgclora.config import ConfigError
from evals.figures.svg import drawing, tag, text, tooltip
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
.tokens { stroke: #d9781f; stroke-width: 2; }
circle { stroke: none; }
circle.step, rect.step { fill: #3b7dc4; stroke: none; }
circle.tokens, rect.tokens { fill: #d9781f; stroke: none; }
@media (prefers-color-scheme: dark) { text.title { fill: #e5e7eb; } }
"""

_CLASSES = dict(zip(WORK, ("step", "tokens"), strict=True))


def growth_figure(report: Mapping[str, Any]) -> str:
    """The drawing as SVG.

    Args:
        report: What `evals.speed.bench.run` returns, with all parts on growth.

    Raises:
        ConfigError: A part is missing.
    """
    if missing := [name for name in PART_NAMES.values() if name not in report["parts"]]:
        raise ConfigError(
            f"the report lacks {', '.join(missing)}: run `python -m evals bench` with all parts."
        )
    lines = [tag("style", _STYLE)]
    for place, what in enumerate(SIZES):
        part = report["parts"][PART_NAMES[what]]
        panel = ["", *_panel(what, part["medians"], part["exponents"]), ""]
        x, y = (place % 2) * _WIDTH, (place // 2) * _HEIGHT
        lines.append(tag("g", "\n".join(panel), transform=f"translate({x} {y})"))
    y = 2 * _HEIGHT + 4
    for place, work in enumerate(WORK):
        x = _LEFT + 180 * place
        lines.append(tag("rect", class_=_CLASSES[work], x=x, y=y, width=12, height=12))
        lines.append(text(work, x=x + 18, y=y + 10))
    label = "Time against experts, tasks, clusters and prompt tokens"
    return drawing(2 * _WIDTH, 2 * _HEIGHT + 26, *lines, role="img", aria_label=label)


def _panel(
    what: str, medians: Mapping[str, float], exponents: Mapping[str, float]
) -> Iterator[str]:
    sizes = SIZES[what]
    curves = {
        work: [
            medians[label(work, size, what)] / medians[label(work, sizes[0], what)]
            for size in sizes
        ]
        for work in WORK
    }
    highest = max(4.0, *(1.15 * max(values) for values in curves.values()))

    def across(size: float) -> str:
        share = math.log(size / sizes[0]) / math.log(sizes[-1] / sizes[0])
        return f"{_LEFT + share * (_WIDTH - _LEFT - _RIGHT):.1f}"

    def up(times: float, shift: float = 0) -> str:
        share = math.log(times / _LOWEST) / math.log(highest / _LOWEST)
        return f"{_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM) + shift:.1f}"

    yield text(what, class_="title", x=_LEFT, y=18)
    for multiple in _TIMES:
        if multiple <= highest:
            y = up(multiple)
            yield tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y)
            yield text(f"{multiple}×", x=_LEFT - 6, y=up(multiple, 4), text_anchor="end")
    for size in sizes:
        yield text(f"{size:,}", x=across(size), y=_HEIGHT - 22, text_anchor="middle")
    end = min(sizes[-1], sizes[0] * highest)
    linear = f"M{across(sizes[0])} {up(1)}L{across(end)} {up(end / sizes[0])}"
    yield tag("path", class_="linear", d=linear)
    for work, values in curves.items():
        kind = _CLASSES[work]
        points = [(across(size), up(time)) for size, time in zip(sizes, values, strict=True)]
        yield tag("path", class_=kind, d="M" + "L".join(f"{x} {y}" for x, y in points))
        for (x, y), size, time in zip(points, sizes, values, strict=True):
            name = label(work, size, what)
            details = tooltip(f"{work}, {size:,} {what}: {medians[name]:.3f} s, {time:.2f}×")
            yield tag("circle", details, class_=kind, cx=x, cy=y, r=3.5)
    slopes = ", ".join(f"{work} {exponents[work]:.2f}" for work in WORK)
    yield text(f"exponents: {slopes}", x=_LEFT, y=_HEIGHT - 4)
