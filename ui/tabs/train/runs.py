"""The training runs in their tab: losses and gates over the steps."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr
import plotly.graph_objects as go

from evals.experiments.training_log import Points, TrainingLog, read_log
from evals.figures.palette import colour
from evals.figures.parts import INK, layout, value_axis
from evals.jobs.queue import Job
from evals.tasks import Language
from ui.components.texts import text
from ui.components.theme import MENTIONS
from ui.components.widgets import Bilingual, plot
from ui.tabs.jobs.tab import JobPanel
from ui.tabs.jobs.view import task_title
from ui.tabs.train import growth, view

_DASHES = ("solid", "dot")  # colours repeat with another dash
_HEIGHT = 250
_MARGIN = 0.02  # above and below the shares, so that small changes look small


class TrainingRuns(JobPanel):
    """Lists training runs and shows the chosen one. A run folder has its adapter's name."""

    kind, prefix, tab, link_key = "train", "train", "train", "run"

    def lay_out_details(self, _: Bilingual) -> list[Any]:
        """Figures: what adding tasks changed, and losses and gates."""
        self.seesaw = plot(visible=False)
        self.losses = plot(visible=False)
        self.gates = plot(visible=False)
        return [self.seesaw, self.losses, self.gates]

    def all(self) -> list[Job]:
        """The runs, newest first; adapters of finished ones become usable."""
        runs = super().all()
        if any(job.state == "done" and job.title not in self.engine.configs for job in runs):
            self.engine.refresh()
        return runs

    def share_done(self, job: Job) -> float | None:
        """The share of steps that are done."""
        log = self._log(job)
        return log.step / log.steps if log and log.steps else None

    def show(self, job: Job, language: Language, link_language: str) -> str:
        """Progress, what was measured, and the newest losses and gate shares of each task."""
        report, outcome = self._added(job), ""
        if report:
            outcome = growth.outcome(report, _titles(job, report, language), language)
        elif job.state == "running" and "base" in job.facts and self._adapter(job).is_dir():
            outcome = f'<p class="job-now">{text("train_measuring", language)}</p>'
        return view.run(job, self._log(job), language, link_language, outcome)

    def show_details(self, job: Job, language: Language) -> dict[Any, Any]:
        """What adding tasks changed, and losses and gate shares over the steps."""
        report = self._added(job)
        hue = colour(str(job.facts.get("method", "")))
        seesaw = None
        if report:
            seesaw = growth.seesaw(report, hue, _titles(job, report, language), language)
        log, tasks = self._log(job), [str(task) for task in job.facts["tasks"]]
        losses = gates = None
        if log and log.loss:
            titles = {task: task_title(job, task, language) for task in tasks}
            losses = loss_figure(log, titles, language)
            if shares := view.specific_shares(job, log):
                specific = int(job.facts["specific"])
                even = specific / (int(job.facts["common"]) + specific)
                gates = gate_figure(log, shares, titles, even, language)
        return {
            self.seesaw: gr.update(value=seesaw, visible=seesaw is not None),
            self.losses: gr.update(value=losses, visible=losses is not None),
            self.gates: gr.update(value=gates, visible=gates is not None),
        }

    def seconds_a_character(self) -> float | None:
        """Training time per character of data in the newest run that has one; None without."""
        for job in self.all():
            log, characters = self._log(job), job.facts.get("characters_a_step")
            if log and log.seconds_a_step and characters:
                return log.seconds_a_step / float(characters)
        return None

    def _adapter(self, job: Job) -> Path:
        return self.folder / job.title / "adapter"

    def _added(self, job: Job) -> growth.Facts | None:
        """What adding tasks changed; None before that, and for other runs."""
        return growth.read_report(self._adapter(job)) if "base" in job.facts else None

    def _log(self, job: Job) -> TrainingLog | None:
        if job.state == "queued" and job.started is None:
            return None
        with suppress(OSError):
            return read_log(self.folder / job.title)
        return None


def _titles(job: Job, report: growth.Facts, language: Language) -> dict[str, str]:
    """Titles of all tasks of a report on added ones."""
    tasks = [*report["tasks"], *report["unchanged"]]
    return {task: task_title(job, task, language) for task in tasks}


# Figures ------------------------------------------------------------------------------------


def loss_figure(log: TrainingLog, titles: Mapping[str, str], language: Language) -> go.Figure:
    """Training loss of each task and of all, and the dev loss, over the steps."""
    figure = go.Figure()
    _add_lines(figure, log.losses, titles)
    everything = text("train_all_tasks", language)
    _add(figure, log.loss, everything, line={"color": INK, "width": 3})
    dev = text("train_dev", language)
    marker = {"color": INK, "size": 9, "symbol": "diamond-open", "line": {"width": 2}}
    _add(figure, log.dev_loss, dev, mode="markers", marker=marker)
    _finish(figure, log, text("train_loss", language), language, columns=len(titles) + 2)
    return figure


def gate_figure(
    log: TrainingLog,
    shares: Mapping[str, Points],
    titles: Mapping[str, str],
    even: float,
    language: Language,
) -> go.Figure:
    """The share of each task's specific experts over the steps, and that of an even split."""
    figure = go.Figure()
    _add_lines(figure, shares, titles)
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


def _add_lines(figure: go.Figure, lines: Mapping[str, Points], titles: Mapping[str, str]) -> None:
    for place, (task, title) in enumerate(titles.items()):
        line = {
            "color": MENTIONS[place % len(MENTIONS)],
            "dash": _DASHES[place // len(MENTIONS) % len(_DASHES)],
            "width": 1.5,
        }
        _add(figure, lines.get(task, []), title, line=line)


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
