"""The comparisons in their tab: dev losses, then the leaderboard, seesaw, costs and gates."""

from __future__ import annotations

import shutil
from contextlib import suppress
from html import escape
from typing import Any

import gradio as gr
import numpy as np
import plotly.graph_objects as go

from cgclora.storage.atomic_io import replace_folder
from evals.experiments.comparison_dir import slug
from evals.experiments.own_data.comparison import Comparison, adapter_of, read_comparison
from evals.experiments.training_log import read_log
from evals.figures import charts
from evals.figures.captions import title
from evals.figures.parts import layout
from evals.jobs.queue import Job
from evals.leaderboard.tables import reference_name
from evals.methods import CGC_LORA, MOE_LORA
from evals.runs.run_dir import RunError
from evals.tasks import Language
from ui.components import render
from ui.components.figures import expert_heat_map
from ui.components.html import block
from ui.components.texts import language_of, text
from ui.components.widgets import Bilingual, Pick, plot
from ui.shell import AT_ONCE, Shell
from ui.tabs.compare import view
from ui.tabs.jobs.tab import JobPanel
from ui.tabs.jobs.view import link

_FIGURES = ("seesaw", "costs", "gates")
_ROW = 30


class Comparisons(JobPanel):
    """Lists comparisons and shows the chosen one. Its folder has its job's title as name."""

    kind, prefix, tab, link_key = "compare", "compare", "compare", "comparison"
    remove_words, warning = "compare_remove", "compare_remove_warning"

    def lay_out_details(self, add: Bilingual) -> list[Any]:
        """Three figures with a heading each, and the adapter to keep."""
        self.figures: list[tuple[Any, Any]] = []
        for name in _FIGURES:
            heading = gr.HTML(visible=False)
            self.figures.append((heading, plot(f"compare-{name}", visible=False)))
        with gr.Row(visible=False, elem_id="compare-keep") as self.keeping:
            self.method = add(
                Pick, {"label": "compare_keep", "info": "compare_keep_info"}, filterable=False
            )
            self.keep = add.small_button("compare_keep_it", 112)
        self.kept = gr.HTML(visible=False)
        shown = [part for pair in self.figures for part in pair]
        return [*shown, self.keeping, self.method, self.kept]

    def wire(self, shell: Shell, start: Any) -> None:
        """Register the events of the list, and the one that keeps an adapter."""
        super().wire(shell, start)
        if self.allowed:
            inputs = [self.choice, self.method]
            self.keep.click(self.keep_adapter, inputs, self.kept, **AT_ONCE)

    def share_done(self, job: Job) -> float | None:
        """The share of the work that is done."""
        comparison = self.comparison(job)
        return comparison.share_done if comparison else None

    def show(self, job: Job, language: Language, link_language: str) -> str:
        """Progress, and what is known so far."""
        return view.shown(job, self.comparison(job), language, link_language)

    def show_details(self, job: Job, language: Language) -> dict[Any, Any]:
        """Seesaw, costs and gates of the scored methods, and the adapters that can be kept."""
        comparison = self.comparison(job)
        drawn = [None] * len(_FIGURES) if comparison is None else figures(comparison, language)
        updates: dict[Any, Any] = {}
        for (heading, place), figure, name in zip(self.figures, drawn, _FIGURES, strict=True):
            words = f'<h3 class="train-caption">{text(f"compare_{name}", language)}</h3>'
            updates[heading] = gr.update(value=words, visible=figure is not None)
            updates[place] = gr.update(value=figure, visible=figure is not None)
        methods = [] if comparison is None else kept_methods(comparison)
        best = methods[0] if methods else None
        return {
            **updates,
            self.keeping: gr.update(visible=bool(methods)),
            self.method: gr.update(choices=methods, value=best),
            self.kept: block(""),
        }

    def keep_adapter(self, chosen: str | None, method: str | None, request: gr.Request) -> Any:
        """Make a method's adapter one of the page's, for all tabs."""
        language = language_of(request)
        job = next((job for job in self.all() if job.id == chosen), None)
        comparison = self.comparison(job) if job else None
        folder = adapter_of(comparison, str(method)) if comparison else None
        trained = self.engine.trained
        if job is None or folder is None or trained is None:
            return block(render.notice(text("compare_not_kept", language)))
        name = f"{job.title}-{slug(str(method))}"
        if not (trained / name).exists():
            with replace_folder(trained / name) as new:
                shutil.copytree(folder, new / "adapter")
            self.engine.refresh()
        linked = str(request.query_params.get("lang", ""))
        links = [
            link(tab, text(f"compare_go_{tab}", language), linked, cluster=name)
            for tab in ("try", "gates")
        ]
        taken = {"export-adapter": name}
        links.append(link("export", text("compare_go_export", language), linked, **taken))
        words = text("compare_kept", language, name=escape(name))
        return block(f'<p role="status">{words} {"".join(links)}</p>')

    def comparison(self, job: Job) -> Comparison | None:
        """The state of a job's comparison; None if its folder is gone or damaged."""
        with suppress(RunError, OSError):
            return read_comparison(self.folder / job.title)
        return None

    def delete(self, id: str) -> None:  # noqa: A002 - it is the job's
        """Remove a comparison with its data, adapters and scores."""
        folder = self.folder / self.jobs.get(id).title
        super().delete(id)
        shutil.rmtree(folder, ignore_errors=True)


def kept_methods(comparison: Comparison) -> list[str]:
    """The methods with an adapter for all tasks, the best first."""
    entries = comparison.board.entries if comparison.board else ()
    methods = dict.fromkeys(entry.method for entry in entries)
    return [method for method in methods if adapter_of(comparison, method) is not None]


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
        np.where(weights > 0, weights, np.array(None)),  # an expert of another task has no weight
        np.array([place < common for place in range(count)])[None, :],
        x=names,
        y=titles,
        zmin=0,
        zmax=float(weights.max()),
        texttemplate="%{z:.2f}",
        textfont={"color": "black", "size": 11},  # at least 4.5:1 on both colours
        hovertemplate=f"{method} · %{{y}} · %{{x}}: %{{z:.3f}}<extra></extra>",
    )
    figure.update_layout(layout(70 + _ROW * len(titles), margin={"l": 4, "r": 4, "t": 34, "b": 8}))
    figure.update_xaxes(side="top", showgrid=False, fixedrange=True, autotickangles=[0, -90])
    figure.update_yaxes(autorange="reversed", showgrid=False, fixedrange=True, ticks="")
    return figure
