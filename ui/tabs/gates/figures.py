"""Figures of the tab: entropy by layer, task similarity, the gates during training."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from cgclora.analysis.gates import GatePath, average_linkage
from evals.figures.palette import faded
from evals.figures.parts import INK, layout
from evals.tasks import Language
from ui.components.figures import (
    depth_axis,
    drawn_once,
    expert_heat_map,
    expert_names,
    is_common,
    split_kinds,
)
from ui.components.texts import text
from ui.components.theme import COMMON, FROZEN, SPECIFIC
from ui.engine.task_gates import AdapterGates, TaskGates

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_STOPS = 40
"""Most stops of the slider over the training steps."""
_ROW = 24
_TREE = 46
_AXIS: dict[str, Any] = {
    "title": {"font": {"size": 12}, "standoff": 8},
    "gridcolor": faded(INK, 0.18),
    "zeroline": False,
    "fixedrange": True,
    "ticks": "",
    "automargin": True,
}


@drawn_once
def entropy_lines(gates: TaskGates, module: str | None, language: Language) -> go.Figure:
    """Normalised gate entropy of each transformer layer; the chosen module's line is thick.

    Args:
        gates: Of the task, with at least two experts.
        module: The chosen kind of linear layer; None for the mean over all.
        language: Of the words.
    """
    figure = go.Figure()
    kinds: list[str | None] = [None, *gates.modules()]
    for kind in sorted(kinds, key=lambda kind: kind == module):  # the chosen one on top
        depths, values = gates.entropy(kind)
        chosen = kind == module
        name = kind or text("all_modules", language)
        hover = f"{name} · {text('layer', language, n='%{x}')}: %{{y:.2f}}<extra></extra>"
        figure.add_scatter(
            x=[str(depth) for depth in depths],
            y=values.tolist(),
            mode="lines+markers" if chosen else "lines",
            line={"color": INK if chosen else faded(INK, 0.35), "width": 2.5 if chosen else 1},
            marker_size=5,
            name=name,
            hovertemplate=hover,
        )
    lowest = min(min(trace.y) for trace in figure.data)
    figure.update_layout(layout(252, margin={"l": 44, "r": 8, "t": 8, "b": 44}))
    figure.update_xaxes(_AXIS)
    figure.update_xaxes(**depth_axis(depths), title_text=text("gates_layer_axis", language))
    figure.update_yaxes(
        _AXIS,
        title_text=text("gates_entropy_axis", language),
        range=[min(0.9, lowest) - 0.02, 1.02],
        nticks=5,
    )
    return figure


def similarity_map(
    names: Sequence[str], cosines: NDArray[np.float64], language: Language
) -> go.Figure:
    """Cosine similarity [T, T] of two or more tasks, in clustered order below the dendrogram."""
    merges, order = average_linkage(1 - cosines)
    names = [escape(name) for name in names]
    count = len(order)
    figure = make_subplots(
        rows=2, shared_xaxes=True, row_heights=[_TREE, _ROW * count], vertical_spacing=0
    )
    figure.add_heatmap(
        z=cosines[np.ix_(order, order)].tolist(),
        zmin=-1,
        zmax=1,
        xgap=1,
        ygap=1,
        colorscale=[
            [0, FROZEN],
            [0.5, faded(FROZEN, 0.06)],
            [0.5, faded(COMMON, 0.06)],
            [1, COMMON],
        ],
        showscale=False,
        customdata=[[[names[one], names[other]] for other in order] for one in order],
        hovertemplate="%{customdata[0]}<br>%{customdata[1]}<br><b>%{z:.2f}</b><extra></extra>",
        row=2,
        col=1,
    )
    position: dict[int, tuple[float, float]] = {task: (at, 0.0) for at, task in enumerate(order)}
    x: list[float | None] = []
    y: list[float | None] = []
    for number, merge in enumerate(merges):
        (left, low), (right, high) = position[merge.left], position[merge.right]
        x += [left, left, right, right, None]
        y += [low, merge.height, merge.height, high, None]
        position[count + number] = (left + right) / 2, merge.height
    line = {"color": INK, "width": 1}
    figure.add_scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", row=1, col=1)
    figure.update_layout(
        layout(_ROW * count + _TREE + 26, margin={"l": 4, "r": 4, "t": 2, "b": 24})
    )
    ticks = range(0, count, 1 if count <= 8 else 2)  # fits a telephone
    figure.update_xaxes(_AXIS, showgrid=False, tickangle=0, range=[-0.5, count - 0.5])
    figure.update_xaxes(tickvals=[*ticks], ticktext=[str(at + 1) for at in ticks], row=2)
    figure.update_yaxes(_AXIS, showgrid=False)
    figure.update_yaxes(visible=False, rangemode="tozero", row=1)
    figure.update_yaxes(
        tickvals=[*range(count)],
        ticktext=[f"{names[task]} {at + 1}" for at, task in enumerate(order)],
        range=[count - 0.5, -0.5],
        row=2,
    )
    return figure


def path_lines(path: GatePath, gates: AdapterGates, task: str, language: Language) -> go.Figure:
    """The share of each expert of one task over the training steps."""
    shares = np.stack([gates.shares(step) for step in path.gates])[:, gates.config.task_index(task)]
    experts = gates.of(task)
    figure = go.Figure()
    for place, (name, common) in enumerate(
        zip(expert_names(experts, language), is_common(experts), strict=True)
    ):
        ordinal = place if common else place - experts.common
        figure.add_scatter(
            x=list(path.steps),
            y=shares[:, place].tolist(),
            mode="lines",
            name=name,
            line={
                "color": COMMON if common else SPECIFIC,
                "width": 1.8,
                "dash": _DASHES[ordinal % len(_DASHES)],
            },
            hovertemplate=(
                f"{name} · {text('gates_step', language, n='%{x}')}: %{{y:.1%}}<extra></extra>"
            ),
        )
    figure.update_layout(layout(230, legend=len(figure.data), columns=2))
    figure.update_xaxes(_AXIS, title_text=text("gates_step_axis", language), nticks=7)
    figure.update_yaxes(
        _AXIS, title_text=text("gates_share_axis", language), tickformat=".0%", nticks=6
    )
    return figure


def path_map(
    path: GatePath, gates: AdapterGates, names: Mapping[str, str], language: Language
) -> go.Figure:
    """The shares of all tasks at one training step, with a slider over the steps.

    The titles in `names` stand by task, in the order of the rows.
    """
    last = len(path.steps) - 1
    stops = sorted({round(at) for at in np.linspace(0, last, num=min(_STOPS, last + 1))})
    order = [gates.config.task_index(task) for task in names]
    shares = np.stack([gates.shares(path.gates[stop])[order] for stop in stops]).round(4)
    experts = gates.of(gates.config.tasks[0])
    common = np.array(is_common(experts))
    figure = expert_heat_map(
        shares[-1],
        common,
        x=expert_names(experts, language),
        y=[escape(name) for name in names.values()],
        zmin=float(shares.min()),
        zmax=float(shares.max()),
        hovertemplate="%{y}<br>%{x}: %{z:.1%}<extra></extra>",
    )
    slider = {
        "active": len(stops) - 1,
        "steps": [
            {
                "method": "restyle",
                "args": [{"z": split_kinds(step, common)}, [0, 1]],
                "label": str(path.steps[stop]),
            }
            for stop, step in zip(stops, shares, strict=True)
        ],
        "pad": {"t": 20, "l": 4, "r": 4},
        "currentvalue": {"prefix": f"{text('gates_step_axis', language)} "},
        "bgcolor": faded(INK, 0.25),
        "tickcolor": INK,
    }
    figure.update_layout(
        layout(_ROW * len(names) + 150, margin={"l": 4, "r": 12, "t": 26, "b": 4}), sliders=[slider]
    )
    figure.update_xaxes(_AXIS, side="top", showgrid=False)
    figure.update_yaxes(_AXIS, autorange="reversed", showgrid=False)
    return figure
