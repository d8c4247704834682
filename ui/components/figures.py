"""Plotly figures of one task's gate."""

from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import Any, Literal, ParamSpec

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from evals.figures.palette import faded
from evals.figures.parts import layout
from evals.tasks import Language
from ui.components.texts import text
from ui.components.theme import COMMON, SPECIFIC
from ui.engine.task_gates import TaskGates

P = ParamSpec("P")

_FLAT = 0.01
"""Weights that differ by less are drawn as equal."""

_KEPT = 128  # figures of each kind


class _Key:
    """Gates that are equal if their values are."""

    def __init__(self, gates: TaskGates) -> None:
        self.gates = gates
        self._values = (gates.task, gates.layers, gates.common, gates.weights.tobytes())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._values == other._values

    def __hash__(self) -> int:
        return hash(self._values)


def drawn_once(draw: Callable[P, go.Figure]) -> Callable[P, go.Figure]:
    """Keeps the figures that a function of `TaskGates` draws; nobody may change them.

    Plotly takes ten times as long to build and check a figure as to write it out.
    """

    @lru_cache(_KEPT)
    def kept(key: _Key, *others: Any, **options: Any) -> go.Figure:
        return draw(key.gates, *others, **options)  # type: ignore[arg-type]

    @wraps(draw)
    def drawn(*given: P.args, **options: P.kwargs) -> go.Figure:
        gates, *others = given
        return kept(_Key(gates), *others, **options)  # type: ignore[arg-type]

    return drawn


@drawn_once
def share_bar(gates: TaskGates, language: Language = "zh") -> go.Figure:
    """One bar of length 1: how the task splits its weight among its experts."""
    figure = go.Figure()
    for name, share, common in zip(
        expert_names(gates, language), gates.shares().tolist(), is_common(gates), strict=True
    ):
        figure.add_bar(
            x=[share],
            y=[""],
            orientation="h",
            name=name,
            text=f"{name}<br>{share:.0%}" if share >= 0.08 else "",
            textangle=0,
            insidetextanchor="middle",
            textposition="inside",
            textfont_color="black",  # at least 4.5:1 on both colours, which white is not
            marker_color=COMMON if common else SPECIFIC,
            marker_line={"width": 1, "color": "rgba(255,255,255,0.5)"},
            hovertemplate=f"{name}: %{{x:.1%}}<extra></extra>",
        )
    figure.update_layout(
        layout(58, margin=dict.fromkeys("lrtb", 0)),
        barmode="stack",
        bargap=0,
        barcornerradius=6,
        uniformtext={"minsize": 8, "mode": "hide"},
    )
    figure.update_xaxes(visible=False, range=[0, 1], fixedrange=True)
    figure.update_yaxes(visible=False, fixedrange=True)
    return figure


@drawn_once
def gate_heat_map(
    gates: TaskGates,
    module: str | None = None,
    language: Language = "zh",
    *,
    measure: Literal["weight", "effect"] = "weight",
) -> go.Figure:
    """Weights over transformer layers (across) and experts (down).

    Args:
        gates: Of the task; or its experts' effects in place of weights.
        module: One kind of linear layer; None averages over all.
        language: Of the words.
        measure: What the numbers are. The colours of effects start at zero.
    """
    depths, weights = gates.by_depth(module)
    names = expert_names(gates, language)
    low, high = float(weights.min()), float(weights.max())
    # Learned gates stay near the even split: a scale from zero would show one flat colour.
    low = low if measure == "weight" and high - low > _FLAT else 0.0
    digits, ends = (".3f", ".2f") if measure == "weight" else (".2%", ".1%")
    figure = expert_heat_map(
        weights.T,
        np.array(is_common(gates))[:, None],
        x=[str(depth) for depth in depths],
        y=names,
        zmin=low,
        zmax=high,
        hovertemplate=f"{text('layer', language, n='%{x}')} · %{{y}}<br>"
        f"{text(measure, language)} %{{z:{digits}}}<extra></extra>",
    )
    title = text(f"{measure}_axis", language, least=f"{low:{ends}}", most=f"{high:{ends}}")
    figure.update_layout(layout(82 + 34 * len(names), margin={"l": 4, "r": 4, "t": 4, "b": 58}))
    figure.update_xaxes(**depth_axis(depths), title_text=title, showgrid=False)
    figure.update_yaxes(autorange="reversed", showgrid=False, fixedrange=True, ticks="")
    return figure


def expert_heat_map(
    values: NDArray[np.float64], common: NDArray[np.bool_], **options: Any
) -> go.Figure:
    """A heat map with a colour for each kind of expert.

    Args:
        values: [R, C].
        common: Whether a value is of a common expert, of a shape that broadcasts to [R, C].
        options: Of both traces.
    """
    figure = go.Figure()
    for z, colour in zip(split_kinds(values, common), (COMMON, SPECIFIC), strict=True):
        figure.add_heatmap(
            z=z,
            hoverongaps=False,
            xgap=2,
            ygap=2,
            colorscale=[[0, faded(colour, 0.1)], [1, colour]],
            showscale=False,
            **options,
        )
    return figure


def split_kinds(
    values: NDArray[np.float64], common: NDArray[np.bool_]
) -> list[list[list[float | None]]]:
    """Values [R, C] of common and of specific experts, None in place of the other kind's.

    Both keep all rows and columns: plotly misplaces a trace with a single one.
    """
    return [
        np.where(common == kind, values.astype(object), np.array(None)).tolist()
        for kind in (True, False)
    ]


def depth_axis(depths: Sequence[int]) -> dict[str, Any]:
    """Settings of an axis of transformer layers."""
    return {
        "type": "category",
        "tickangle": 0,
        "dtick": 1 if len(depths) <= 12 else 2,  # fits a telephone
        "fixedrange": True,
        "title": {"standoff": 8, "font": {"size": 12}},
    }


def expert_names(gates: TaskGates, language: Language) -> list[str]:
    """A short name for each of the task's experts, in the order of the weights."""
    specific = gates.weights.shape[1] - gates.common
    return [text("common_n", language, n=n + 1) for n in range(gates.common)] + [
        text("specific_n", language, n=n + 1) for n in range(specific)
    ]


def is_common(gates: TaskGates) -> list[bool]:
    """Whether each of the task's experts is a common one."""
    return [place < gates.common for place in range(gates.weights.shape[1])]
