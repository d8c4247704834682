"""Plotly charts of a board, with intervals and hover details, for light and dark pages.

Scores are shown times 100. Every figure takes the width of its container, a phone's included, and
the height of its rows. The legend below the plot switches methods on and off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from evals.figures import captions, parts
from evals.figures.heatmaps import heat_map, win_matrix
from evals.figures.palette import faded
from evals.figures.pareto import Quantity, pareto
from evals.leaderboard.board import REFERENCE, Board, find_entry, gains
from evals.methods import is_main
from evals.scoring.effect_sizes import OVERALL
from evals.tasks import Language

__all__ = [
    "Quantity",
    "heat_map",
    "overall",
    "pareto",
    "per_task",
    "radar",
    "seeds",
    "seesaw",
    "win_matrix",
]

# A row for each method --------------------------------------------------------------------


def overall(board: Board, language: Language = "zh") -> go.Figure:
    """The mean over the tasks of each entry with its interval, the best first.

    Raises:
        ValueError: The board has no entry.
    """
    figure = go.Figure()
    looks = parts.looks_of(board)
    for look in looks:
        entry = look.entry
        details = (
            *captions.estimate_lines(entry, language),
            *captions.training_lines(entry, language),
            *captions.size_lines(entry, language),
        )
        parts.dots(
            figure, look, [entry.overall], [entry.name], [captions.hover(entry, language, *details)]
        )
        figure.add_annotation(
            text=f"<b>{captions.points(entry.overall.value)}</b>",
            xref="paper",
            x=1,
            xanchor="left",
            xshift=8,
            y=entry.name,
            showarrow=False,
        )
    figure.update_layout(_rows(looks, language) | {"margin": {"l": 4, "r": 44, "t": 8, "b": 8}})
    return figure


def seeds(board: Board, language: Language = "zh") -> go.Figure:
    """Training noise and item noise: lowest, mean and highest seed over the mean's interval.

    Raises:
        ValueError: The board has no entry.
    """
    figure = go.Figure()
    looks = parts.looks_of(board)
    for look in looks:
        entry, training = look.entry, look.entry.spread
        figure.add_scatter(
            x=[100 * entry.overall.low, 100 * entry.overall.high],
            y=[entry.name] * 2,
            mode="lines",
            line={"color": faded(look.colour, 0.3), "width": 10},
            showlegend=False,
            hoverinfo="skip",
        )
        several = training.seeds > 1
        scores = [training.low, training.mean, training.high] if several else [training.mean]
        details = (
            *captions.estimate_lines(entry, language),
            *captions.training_lines(entry, language),
        )
        figure.add_scatter(
            x=[100 * score for score in scores],
            y=[entry.name] * len(scores),
            mode="lines+markers",
            line={"color": look.colour, "width": 1.5},
            marker={
                "color": look.colour,
                "symbol": ["line-ns", "circle", "line-ns"] if several else "circle-open",
                "size": [parts.MARK, 5, parts.MARK] if several else parts.MARK,
                "line": {"color": look.colour, "width": 2},
            },
            showlegend=False,
            hovertext=[captions.hover(entry, language, *details)] * len(scores),
            hovertemplate="%{hovertext}<extra></extra>",
        )
    for key, drawn in (
        ("item_noise", {"mode": "lines", "line": {"color": faded(parts.INK, 0.45), "width": 10}}),
        ("training_noise", {"mode": "lines+markers", "line": {"color": parts.INK, "width": 1.5}}),
    ):
        figure.add_scatter(x=[None], y=[None], name=captions.text(key, language), **drawn)
    figure.update_layout(_rows(looks, language, legend=2))
    return figure


def _rows(looks: Sequence[parts.Look], language: Language, legend: int = 0) -> dict[str, Any]:
    by_name = {look.entry.name: look.entry for look in looks}
    noise = [one for look in looks for one in (look.entry.overall, look.entry.spread)]
    return parts.layout(
        parts.ROW * len(looks) + 60,
        legend=legend,
        xaxis=parts.value_axis(captions.text("score_axis", language), range=parts.span(noise)),
        yaxis=parts.name_axis(
            [*by_name],
            lambda name: f"{captions.method_name(name)}  <b>#{by_name[name].rank}</b>",
            down=True,
        ),
        shapes=parts.bands(len(looks)),
    )


# Every method in each row -----------------------------------------------------------------


def per_task(board: Board, language: Language = "zh") -> go.Figure:
    """The score of each entry on each task with its interval.

    Raises:
        ValueError: The board has no entry.
    """
    figure = go.Figure()
    looks = parts.looks_of(board)
    tasks = [task.name for task in board.tasks]
    for look in looks:
        scores = [captions.estimate_of(look.entry, task) for task in tasks]
        parts.dots(
            figure,
            look,
            scores,
            tasks,
            [captions.score_hover(look.entry, t, language) for t in tasks],
        )
    figure.update_layout(
        _dodged(tasks, len(looks), len(looks), language),
        xaxis=parts.value_axis(
            captions.text("score_axis", language),
            range=parts.span(
                captions.estimate_of(look.entry, task) for look in looks for task in tasks
            ),
        ),
    )
    return figure


def seesaw(board: Board, reference: str = REFERENCE, language: Language = "zh") -> go.Figure:
    """Differences of each entry to a reference, task by task: who pays for sharing.

    A hollow mark is a difference that may be chance. Only the main methods are visible at first,
    see `is_main`; all methods if the board has no main one.

    Raises:
        UnknownEntryError: The board has no such reference, see `find_entry`.
        ValueError: The board has no other entry.
    """
    looks = parts.looks_of(board)
    reference = find_entry(board, reference).name
    others = [look for look in looks if look.entry.name != reference]
    if not others:
        raise ValueError(f"{reference} stands alone on the board: a seesaw needs another entry.")
    differences = gains(board, reference)
    rows = [OVERALL, *(task.name for task in board.tasks)]
    figure = go.Figure()
    main = [look for look in others if is_main(look.entry.method)] or others
    for look in others:
        of_entry = [differences[look.entry.name][row] for row in rows]
        parts.dots(
            figure,
            look,
            of_entry,
            rows,
            [
                captions.hover(
                    look.entry, language, *captions.gain_lines(one, reference, language), task=row
                )
                for row, one in zip(rows, of_entry, strict=True)
            ],
            hollow=[not one.significant for one in of_entry],
            visible=True if look in main else "legendonly",
        )
    axis = captions.text("gain_axis", language, reference=reference)
    axis += f"<br>{captions.text('hollow', language)}"
    figure.update_layout(
        _dodged(rows, max(len(main), len(others) // 2), len(others), language),
        xaxis=parts.value_axis(
            axis,
            autorange=True,  # adapts when an entry is switched on or off
            zeroline=True,
            zerolinecolor=parts.INK,
            zerolinewidth=2,
        ),
        margin={"t": 30},
    )
    above = {"xref": "paper", "yref": "paper", "y": 1, "yanchor": "bottom", "showarrow": False}
    for key, side, anchor in (("loses", 0, "left"), ("wins", 1, "right")):
        figure.add_annotation(text=captions.text(key, language), x=side, xanchor=anchor, **above)
    return figure


def _dodged(rows: Sequence[str], marks: int, legend: int, language: Language) -> dict[str, Any]:
    """The layout of rows that hold several marks, one below another, so none hides another."""
    return parts.layout(
        (parts.DODGED_ROW * marks + 22) * len(rows) + 60,
        legend=legend,
        scattermode="group",
        scattergap=0.2,
        yaxis=parts.name_axis(rows, captions.titles(language), down=True),
        shapes=parts.bands(len(rows)),
    )


# Outlines ---------------------------------------------------------------------------------


def radar(board: Board, methods: Sequence[str], language: Language = "zh") -> go.Figure:
    """The scores of these entries as outlines, a spoke for each task.

    Raises:
        UnknownEntryError: The board has no such entry, see `find_entry`.
        ValueError: No method is given, or the board has no entry.
    """
    looks = {look.entry.name: look for look in parts.looks_of(board)}
    if not methods:
        raise ValueError("a radar needs at least one method.")
    tasks = [task.name for task in board.tasks]
    spokes = [captions.wrapped(captions.title(task, language), 12) for task in tasks]
    figure = go.Figure()
    for method in methods:
        look = looks[find_entry(board, method).name]
        closed = [*tasks, tasks[0]]
        figure.add_scatterpolar(
            r=[100 * captions.estimate_of(look.entry, task).value for task in closed],
            theta=[*spokes, spokes[0]],
            mode="lines+markers",
            name=look.entry.name,
            line={"color": look.colour, "width": 2},
            marker=parts.marker(look),
            fill="toself",
            fillcolor=faded(look.colour, 0.08),
            hovertext=[captions.score_hover(look.entry, task, language) for task in closed],
            hovertemplate="%{hovertext}<extra></extra>",
        )
    grid = faded(parts.INK, 0.25)
    figure.update_layout(
        parts.layout(420, legend=len(methods), margin={"l": 84, "r": 84, "t": 44, "b": 84}),
        polar={
            "bgcolor": "rgba(0,0,0,0)",
            "angularaxis": {
                "direction": "clockwise",
                "tickfont": {"size": 12 if len(tasks) <= 9 else 10},
                "gridcolor": grid,
                "linecolor": grid,
            },
            "radialaxis": {
                "range": [0, 100],
                "nticks": 5,
                "angle": 90 - 180 / len(tasks),  # between two spokes
                "gridcolor": grid,
                "showline": False,
                "tickfont": {"size": 10},
            },
        },
    )
    return figure
