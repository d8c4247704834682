"""The gate as pictures: plotly figures from numbers, readable on light and on dark."""

from typing import Literal

import plotly.graph_objects as go

from evals.figures.palette import faded
from evals.tasks import Language
from ui.components.texts import text
from ui.components.theme import COMMON, FONT, SPECIFIC
from ui.engine.task_gates import TaskGates

_FLAT = 0.01
"""Weights that differ by less are drawn as equal."""


def share_bar(gates: TaskGates, language: Language = "zh") -> go.Figure:
    """One bar of length 1: how the task splits its weight among its experts."""
    figure = go.Figure()
    shares = gates.shares()
    for name, share, common in zip(
        expert_names(gates, language), shares, is_common(gates), strict=True
    ):
        figure.add_bar(
            x=[float(share)],
            y=[""],
            orientation="h",
            name=name,
            text=f"{name}<br>{share:.0%}" if share >= 0.08 else "",
            textangle=0,
            insidetextanchor="middle",
            textposition="inside",
            textfont={"color": "black"},  # at least 4.5:1 on both colours, which white is not
            marker={
                "color": COMMON if common else SPECIFIC,
                "line": {"width": 1, "color": "rgba(255,255,255,0.5)"},
            },
            hovertemplate=f"{name}: %{{x:.1%}}<extra></extra>",
        )
    figure.update_layout(
        layout(height=58),
        barmode="stack",
        bargap=0,
        barcornerradius=6,
        showlegend=False,
        uniformtext={"minsize": 8, "mode": "hide"},
        xaxis={"visible": False, "range": [0, 1], "fixedrange": True},
        yaxis={"visible": False, "fixedrange": True},
    )
    return figure


def heat_map(
    gates: TaskGates,
    module: str | None = None,
    language: Language = "zh",
    *,
    measure: Literal["weight", "effect"] = "weight",
) -> go.Figure:
    """Weights over transformer layers (across) and experts (down), each kind in its colour.

    Args:
        gates: Of the task; or effects of its experts in place of weights.
        module: One kind of linear layer; None averages over all.
        language: Of labels and hover details.
        measure: What the numbers are. An effect's colour starts at zero.
    """
    depths, weights = gates.by_depth(module)
    names = expert_names(gates, language)
    least, most = float(weights.min()), float(weights.max())
    # Learned gates stay near the even split: a scale from zero would show one flat colour.
    lowest = least if measure == "weight" and most - least > _FLAT else 0.0
    digits, ends = (".3f", ".2f") if measure == "weight" else (".2%", ".1%")
    figure = go.Figure()
    for common, colour in ((True, COMMON), (False, SPECIFIC)):
        # Every trace has all rows, the others' empty: plotly misplaces a trace of a single row.
        figure.add_heatmap(
            z=[
                row.tolist() if own is common else [None] * len(depths)
                for row, own in zip(weights.T, is_common(gates), strict=True)
            ],
            x=[str(depth) for depth in depths],
            y=names,
            hoverongaps=False,
            zmin=lowest,
            zmax=most,
            xgap=2,
            ygap=2,
            colorscale=[[0, faded(colour, 0.12)], [1, colour]],
            showscale=False,
            hovertemplate=(
                f"{text('layer', language, n='%{x}')} · %{{y}}<br>"
                f"{text(measure, language)} %{{z:{digits}}}<extra></extra>"
            ),
        )
    figure.update_layout(
        layout(height=82 + 34 * len(names)),
        margin={"l": 4, "r": 4, "t": 4, "b": 58},
        xaxis={
            "title": {
                "text": text(
                    f"{measure}_axis", language, least=f"{lowest:{ends}}", most=f"{most:{ends}}"
                ),
                "standoff": 8,
                "font": {"size": 12},
            },
            "tickangle": 0,
            "dtick": 1 if len(depths) <= 12 else 2,  # on a telephone, too
            "type": "category",
            "showgrid": False,
            "fixedrange": True,
        },
        yaxis={"autorange": "reversed", "showgrid": False, "fixedrange": True, "ticks": ""},
    )
    return figure


def expert_names(gates: TaskGates, language: Language) -> list[str]:
    """A short name for each of the task's experts, in the order of the weights."""
    specific = gates.weights.shape[1] - gates.common
    return [text("common_n", language, n=n + 1) for n in range(gates.common)] + [
        text("specific_n", language, n=n + 1) for n in range(specific)
    ]


def is_common(gates: TaskGates) -> list[bool]:
    """Whether each of the task's experts is a common one."""
    return [place < gates.common for place in range(gates.weights.shape[1])]


def layout(height: int) -> dict[str, object]:
    """What all figures of the gates share."""
    return {
        "height": height,
        "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": ", ".join(FONT), "size": 12, "color": "#667085"},
        "hoverlabel": {"font": {"family": ", ".join(FONT), "size": 13}},
        "dragmode": False,
    }
