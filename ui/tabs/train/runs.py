"""The training runs in their tab: losses and gates over the steps."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr

from evals.experiments.training_log import TrainingLog, read_log
from evals.jobs.queue import Job, Jobs
from evals.tasks import Language
from ui.components.bilingual import Bilingual
from ui.engine.engine import Engine
from ui.tabs.jobs.panel import JobPanel
from ui.tabs.train import run_view
from ui.tabs.train.figures import gate_figure, loss_figure


class TrainingRuns(JobPanel):
    """Lists training runs and shows the chosen one.

    Args:
        add: Makes components with words.
        engine: Loads the adapters of finished runs.
        jobs: The queue.
        folder: Holds a run folder for each adapter.
        allowed: Whether visitors see and change the runs.
    """

    kind, prefix, tab, link_key = "train", "train", "train", "run"

    def __init__(
        self, add: Bilingual, engine: Engine, jobs: Jobs, folder: Path, *, allowed: bool
    ) -> None:
        super().__init__(add, jobs, allowed=allowed)
        self.engine = engine
        self.folder = folder

    def lay_out_details(self) -> list[Any]:
        """Two figures."""
        self.losses = gr.Plot(show_label=False, container=False, visible=False)
        self.gates = gr.Plot(show_label=False, container=False, visible=False)
        return [self.losses, self.gates]

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

    def show(self, job: Job, language: Language, language_asked: str) -> str:
        """Progress, and the newest losses and gate shares of each task."""
        return run_view.run(job, self._log(job), language, language_asked)

    def show_details(self, job: Job, language: Language) -> dict[Any, Any]:
        """Losses and gate shares over the steps."""
        log, tasks = self._log(job), [str(task) for task in job.facts["tasks"]]
        losses = gates = None
        if log and log.loss:
            losses = loss_figure(log, tasks, language)
            if shares := run_view.specific_shares(job, log):
                specific = int(job.facts["specific"])
                even = specific / (int(job.facts["common"]) + specific)
                gates = gate_figure(log, shares, even, language)
        return {
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

    def _log(self, job: Job) -> TrainingLog | None:
        if job.state == "queued" and job.started is None:
            return None
        with suppress(OSError):
            return read_log(self.folder / job.title)
        return None
