"""The comparisons in their tab: dev losses, then the leaderboard, seesaw, costs and gates."""

from __future__ import annotations

import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
import plotly.graph_objects as go

from evals.experiments.training_log import read_log
from evals.figures import charts
from evals.figures.captions import title
from evals.figures.parts import layout
from evals.jobs.queue import Job
from evals.leaderboard.tables import reference_name
from evals.methods import CGC_LORA, MOE_LORA
from evals.runs.run_dir import RunError
from evals.tasks import Language
from ui.components.figures import expert_heat_map
from ui.components.texts import text
from ui.components.widgets import plot
from ui.tabs.compare import view
from ui.tabs.jobs.tab import JobPanel

if TYPE_CHECKING:
    from evals.experiments.own_data.comparison import Comparison

_ROW = 30


class Comparisons(JobPanel):
    """Lists comparisons and shows the chosen one. Its folder has its job's title as name."""

    kind, prefix, tab, link_key = "compare", "compare", "compare", "comparison"

    def lay_out_details(self) -> list[Any]:
        """Three figures with a heading each."""
        self.figures: list[tuple[Any, Any]] = []
        for name in ("seesaw", "costs", "gates"):
            heading = gr.HTML(visible=False)
            self.figures.append((heading, plot(f"compare-{name}", visible=False)))
        return [part for pair in self.figures for part in pair]

    def share_done(self, job: Job) -> float | None:
        """The share of the work that is done."""
        comparison = self.comparison(job)
        return comparison.share_done if comparison else None

    def show(self, job: Job, language: Language, link_language: str) -> str:
        """Progress, and what is known so far."""
        return view.shown(job, self.comparison(job), language, link_language)

    def show_details(self, job: Job, language: Language) -> dict[Any, Any]:
        """Seesaw, costs and gates of the scored methods."""
        comparison = self.comparison(job)
        drawn = [None, None, None] if comparison is None else figures(comparison, language)
        updates: dict[Any, Any] = {}
        for (heading, place), figure, name in zip(
            self.figures, drawn, ("seesaw", "costs", "gates"), strict=True
        ):
            words = f'<h3 class="train-caption">{text(f"compare_{name}", language)}</h3>'
            updates[heading] = gr.update(value=words, visible=figure is not None)
            updates[place] = gr.update(value=figure, visible=figure is not None)
        return updates

    def comparison(self, job: Job) -> Comparison | None:
        """The state of a job's comparison; None if its folder is gone or damaged."""
        from evals.experiments.own_data.comparison import read_comparison  # noqa: PLC0415 - torch

        with suppress(RunError, OSError):
            return read_comparison(self.folder / job.title)
        return None

    def delete(self, id: str) -> None:  # noqa: A002 - it is the job's
        """Remove a comparison with its data, adapters and scores."""
        folder = self.folder / self.jobs.get(id).title
        super().delete(id)
        shutil.rmtree(folder, ignore_errors=True)


def figures(comparison: Comparison, language: Language) -> list[go.Figure | None]:
    """Seesaw, costs and gates; None where there is nothing to draw yet."""
    board = comparison.board
    if board is None:
        return [None, None, None]
    reference = reference_name(board)
    seesaw = reference is not None and len(board.entries) > 1
    return [
        charts.seesaw(board, reference, language) if seesaw and reference else None,
        charts.pareto(board, language) if len(board.entries) > 1 else None,
        gate_figure(comparison, language),
    ]


def gate_figure(comparison: Comparison, language: Language) -> go.Figure | None:
    """The gate weights [T, E] of CGC-LoRA, else of MOE-LoRA, mean over the layers."""
    from evals.experiments.own_data.comparison import adapter_of  # noqa: PLC0415 - torch

    for method in (CGC_LORA, MOE_LORA):
        folder = adapter_of(comparison, method)
        log = read_log(folder.parent) if folder is not None else None
        if log is None or not log.gates:
            continue
        _, rows = log.gates[-1]
        recipe = comparison.plan.recipe
        tasks = recipe.clusters[next(iter(recipe.clusters))]
        config = recipe.config(method, tasks)
        return _gate_map(np.array(rows), tasks, config.common, f"{method}", language)
    return None


def _gate_map(
    weights: np.ndarray[Any, np.dtype[np.float64]],
    tasks: tuple[str, ...],
    common: int,
    method: str,
    language: Language,
) -> go.Figure:
    count = weights.shape[1]
    names = [text("common_n", language, n=n + 1) for n in range(common)]
    names += [text("specific_n", language, n=n + 1) for n in range(count - common)]
    titles = [title(task, language) for task in tasks]
    figure = expert_heat_map(
        weights,
        np.array([place < common for place in range(count)])[None, :],
        x=names,
        y=titles,
        zmin=0,
        zmax=float(weights.max()),
        texttemplate="%{z:.2f}",
        hovertemplate=f"{method} · %{{y}} · %{{x}}: %{{z:.3f}}<extra></extra>",
    )
    figure.update_layout(layout(70 + _ROW * len(titles), margin={"l": 4, "r": 4, "t": 34, "b": 8}))
    figure.update_xaxes(side="top", showgrid=False, fixedrange=True)
    figure.update_yaxes(autorange="reversed", showgrid=False, fixedrange=True, ticks="")
    return figure
