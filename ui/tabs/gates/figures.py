"""Figures of the tab: entropy over depth, alike tasks, the gates' path in training."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from cgclora.analysis.gates import GatePath, average_linkage
from evals.figures.palette import faded
from evals.figures.parts import INK
from evals.tasks import Language
from ui.components.figures import expert_names, is_common, layout
from ui.components.texts import text
from ui.components.theme import COMMON, FROZEN, SPECIFIC
from ui.engine.task_gates import AdapterGates, TaskGates

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_STOPS = 40
"""Most places of the slider over the training steps."""
_ROW = 24


def entropy_lines(gates: TaskGates, module: str | None, language: Language) -> go.Figure:
    """How even the split is in each transformer layer: the chosen kind of layers thick.

    Args:
        gates: Of the task, with at least two experts.
        module: The chosen kind of linear layer; None for the mean over all.
        language: Of labels and hover details.
    """
    figure = go.Figure()
    kinds: list[str | None] = [None, *gates.modules()]
    for kind in sorted(kinds, key=lambda kind: kind == module):  # the chosen one on top
        depths, values = gates.entropy(kind)
        chosen = kind == module
        name = kind or text("all_modules", language)
        figure.add_scatter(
            x=[str(depth) for depth in depths],
            y=values.tolist(),
            mode="lines+markers" if chosen else "lines",
            line={"color": INK if chosen else faded(INK, 0.35), "width": 2.5 if chosen else 1},
            marker={"size": 5},
            name=name,
            hovertemplate=(
                f"{name} · {text('layer', language, n='%{x}')}: %{{y:.2f}}<extra></extra>"
            ),
        )
    least = min(min(trace.y) for trace in figure.data)
    figure.update_layout(
        layout(height=252),
        margin={"l": 44, "r": 8, "t": 8, "b": 44},
        showlegend=False,
        xaxis=_axis(
            text("gates_layer_axis", language),
            type="category",
            dtick=1 if len(depths) <= 12 else 2,
            tickangle=0,
        ),
        yaxis=_axis(
            text("gates_entropy_axis", language), range=[min(0.9, least) - 0.02, 1.02], nticks=5
        ),
    )
    return figure


def similarity_map(
    names: Sequence[str], cosines: NDArray[np.float64], language: Language
) -> go.Figure:
    """Tasks against tasks, alike ones together, with the tree that puts them together.

    Args:
        names: Titles of T tasks, at least two.
        cosines: [T, T].
        language: Of hover details.
    """
    merges, order = average_linkage(1 - cosines)
    names = [escape(name) for name in names]
    count = len(order)
    rows = [f"{names[task]} {place + 1}" for place, task in enumerate(order)]
    figure = go.Figure()
    figure.add_heatmap(
        z=cosines[np.ix_(order, order)].tolist(),
        x=list(range(count)),
        y=list(range(count)),
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
    )
    place: dict[int, tuple[float, float]] = {task: (at, 0.0) for at, task in enumerate(order)}
    across: list[float | None] = []
    up: list[float | None] = []
    for number, merge in enumerate(merges):
        (one, low), (other, high) = place[merge.left], place[merge.right]
        across += [one, one, other, other, None]
        up += [low, merge.height, merge.height, high, None]
        place[count + number] = (one + other) / 2, merge.height
    figure.add_scatter(
        x=across, y=up, yaxis="y2", mode="lines", line={"color": INK, "width": 1}, hoverinfo="skip"
    )
    tree = 46 / (_ROW * count + 46)
    few = 1 if count <= 8 else 2  # on a telephone, too
    numbers = [str(at + 1) for at in range(0, count, few)]
    figure.update_layout(
        layout(height=_ROW * count + 46 + 26),
        margin={"l": 4, "r": 4, "t": 2, "b": 24},
        showlegend=False,
        xaxis=_axis(
            tickvals=list(range(0, count, few)), ticktext=numbers, showgrid=False, tickangle=0
        )
        | {"range": [-0.5, count - 0.5], "zeroline": False},
        yaxis=_axis(tickvals=list(range(count)), ticktext=rows, showgrid=False)
        | {"range": [count - 0.5, -0.5], "domain": [0, 1 - tree], "zeroline": False},
        yaxis2={
            "domain": [1 - tree, 1],
            "visible": False,
            "fixedrange": True,
            "rangemode": "tozero",
        },
    )
    return figure


def path_lines(path: GatePath, gates: AdapterGates, task: str, language: Language) -> go.Figure:
    """What each expert of one task had of the weight, over the training steps."""
    shares = np.stack([gates.shares(step) for step in path.gates])
    own = gates.of(task)
    figure = go.Figure()
    ordinals = {True: 0, False: 0}
    index = gates.config.task_index(task)
    for place, (name, common) in enumerate(
        zip(expert_names(own, language), is_common(own), strict=True)
    ):
        figure.add_scatter(
            x=list(path.steps),
            y=shares[:, index, place].tolist(),
            mode="lines",
            name=name,
            line={
                "color": COMMON if common else SPECIFIC,
                "width": 1.8,
                "dash": _DASHES[ordinals[common] % len(_DASHES)],
            },
            hovertemplate=(
                f"{name} · {text('gates_step', language, n='%{x}')}: %{{y:.1%}}<extra></extra>"
            ),
        )
        ordinals[common] += 1
    figure.update_layout(
        layout(height=270),
        margin={"l": 52, "r": 8, "t": 34, "b": 44},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "itemclick": False},
        showlegend=True,
        xaxis=_axis(text("gates_step_axis", language), nticks=7),
        yaxis=_axis(text("gates_share_axis", language), tickformat=".0%", nticks=6),
    )
    return figure


def path_map(
    path: GatePath, gates: AdapterGates, names: Mapping[str, str], language: Language
) -> go.Figure:
    """The shares of all tasks at one training step, with a slider over the steps.

    Args:
        path: The gates during training.
        gates: Of the adapter.
        names: A title for each task, in the order of the rows.
        language: Of labels and hover details.
    """
    wanted = np.linspace(0, len(path.steps) - 1, num=min(_STOPS, len(path.steps)))
    stops = sorted({round(at) for at in wanted})
    order = [gates.config.task_index(task) for task in names]
    shares = np.stack([gates.shares(path.gates[stop])[order] for stop in stops])
    experts = gates.of(gates.config.tasks[0])
    common = np.array(is_common(experts))
    columns = expert_names(experts, language)
    rows = [escape(name) for name in names.values()]
    span = {"zmin": float(shares.min()), "zmax": float(shares.max())}

    def part(step: NDArray[np.float64], which: bool) -> list[list[float | None]]:
        # Every trace has all columns, the others' empty, as in `heat_map`.
        return [
            [
                round(float(v), 4) if own == which else None
                for v, own in zip(row, common, strict=True)
            ]
            for row in step
        ]

    figure = go.Figure()
    for which, colour in ((True, COMMON), (False, SPECIFIC)):
        figure.add_heatmap(
            z=part(shares[-1], which),
            x=columns,
            y=rows,
            hoverongaps=False,
            xgap=2,
            ygap=2,
            colorscale=[[0, faded(colour, 0.08)], [1, colour]],
            showscale=False,
            hovertemplate="%{y}<br>%{x}: %{z:.1%}<extra></extra>",
            **span,
        )
    steps = [
        {
            "method": "restyle",
            "args": [{"z": [part(step, True), part(step, False)]}, [0, 1]],
            "label": str(path.steps[stop]),
        }
        for stop, step in zip(stops, shares, strict=True)
    ]
    figure.update_layout(
        layout(height=_ROW * len(rows) + 132),
        margin={"l": 4, "r": 12, "t": 26, "b": 4},
        xaxis=_axis(side="top", showgrid=False),
        yaxis=_axis(autorange="reversed", showgrid=False),
        sliders=[
            {
                "active": len(stops) - 1,
                "steps": steps,
                "pad": {"t": 20, "l": 4, "r": 4},
                "len": 1,
                "x": 0,
                "currentvalue": {"prefix": f"{text('gates_step_axis', language)} ", "offset": 6},
                "bgcolor": faded(INK, 0.25),
                "activebgcolor": INK,
                "bordercolor": "rgba(0,0,0,0)",
                "font": {"color": "rgba(0,0,0,0)", "size": 1},  # the current one alone is read
                "ticklen": 0,
                "minorticklen": 0,
                "tickwidth": 0,
            }
        ],
    )
    figure.layout.sliders[0].currentvalue.font = {"color": INK, "size": 13}
    return figure


def _axis(title: str = "", **more: Any) -> dict[str, Any]:
    return {
        "title": {"text": title, "font": {"size": 12}, "standoff": 8},
        "gridcolor": faded(INK, 0.18),
        "zeroline": False,
        "fixedrange": True,
        "ticks": "",
        "automargin": True,
        **more,
    }
