"""Figures of a training run: losses and gates over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from evals.experiments.training_log import Points, TrainingLog
from evals.figures.captions import title
from evals.figures.parts import INK, layout, value_axis
from evals.tasks import Language
from ui.components.texts import text
from ui.components.theme import MENTIONS

_DASHES = ("solid", "dot")  # colours repeat with another dash
_HEIGHT = 250
_MARGIN = 0.02  # above and below the shares, so that small changes look small


def loss_figure(log: TrainingLog, tasks: Sequence[str], language: Language) -> go.Figure:
    """Training loss of each task and of all, and the dev loss, over the steps."""
    figure = go.Figure()
    _add_lines(figure, log.losses, tasks, language)
    everything = text("train_all_tasks", language)
    _add(figure, log.loss, everything, line={"color": INK, "width": 3})
    dev = text("train_dev", language)
    marker = {"color": INK, "size": 9, "symbol": "diamond-open", "line": {"width": 2}}
    _add(figure, log.dev_loss, dev, mode="markers", marker=marker)
    _finish(figure, log, text("train_loss", language), language, columns=len(tasks) + 2)
    return figure


def gate_figure(
    log: TrainingLog, shares: Mapping[str, Points], even: float, language: Language
) -> go.Figure:
    """The share of each task's specific experts over the steps.

    Args:
        log: Of the run.
        shares: By task.
        even: Share of an even split.
        language: Of the words.
    """
    figure = go.Figure()
    _add_lines(figure, shares, [*shares], language)
    figure.add_hline(
        even,
        line={"color": INK, "width": 1, "dash": "dash"},
        annotation={"text": text("train_even_split", language), "font": {"size": 11}},
        annotation_position="bottom right",
    )
    values = [even, *(value for points in shares.values() for _, value in points)]
    ends = [min(values) - _MARGIN, max(values) + _MARGIN]
    axis = text("train_gate_axis", language)
    _finish(figure, log, axis, language, columns=len(shares), tickformat=".0%", range=ends)
    return figure


def _add_lines(
    figure: go.Figure, lines: Mapping[str, Points], tasks: Sequence[str], language: Language
) -> None:
    for place, task in enumerate(tasks):
        line = {
            "color": MENTIONS[place % len(MENTIONS)],
            "dash": _DASHES[place // len(MENTIONS) % len(_DASHES)],
            "width": 1.5,
        }
        _add(figure, lines.get(task, []), title(task, language), line=line)


def _add(figure: go.Figure, points: Points, name: str, **look: Any) -> None:
    if len(points) == 1:
        look.setdefault("mode", "markers")  # a line of one point is invisible
    figure.add_scatter(
        x=[step for step, _ in points],
        y=[value for _, value in points],
        name=name,
        hovertemplate=f"{name}: %{{y}}<extra></extra>",
        **{"mode": "lines", **look},
    )


def _finish(
    figure: go.Figure, log: TrainingLog, words: str, language: Language, columns: int, **axis: Any
) -> None:
    settings = layout(_HEIGHT, legend=columns, columns=2)
    figure.update_layout(
        settings,
        hovermode="x",
        uirevision="run",  # hidden lines stay hidden while it grows
        xaxis=value_axis(text("train_step_axis", language), range=[0, 1.02 * max(log.steps, 1)]),
        yaxis=value_axis(words, **{"hoverformat": axis.get("tickformat", ".3f"), **axis}),
    )
