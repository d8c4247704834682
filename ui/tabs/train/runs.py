"""The training runs in their tab: the list, and the chosen one as it goes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr

from cgclora.storage.atomic_io import LOG_FILE
from evals.experiments.training_log import TrainingLog, read_log
from evals.jobs.queue import Job, JobError, Jobs
from evals.tasks import Language
from ui.components.texts import language_of
from ui.engine.engine import Engine
from ui.shell import AT_ONCE, Shell, remember
from ui.tabs.train import view as train_view
from ui.tabs.train.figures import gate_figure, loss_figure
from ui.tabs.train.layout import TrainLayout

Updates = dict[Any, Any]

_LIVE = ("queued", "running")

_IN_VIEW = """(chosen, seen) =>
  [chosen, seen, document.querySelector("#train")?.offsetParent != null]"""


class TrainRuns:
    """What the lower part of the tab shows and does.

    Args:
        layout: Its components.
        engine: Takes in the adapters that are done.
        jobs: The queue.
        folder: Holds a run folder for each adapter.
        allowed: Whether visitors may stop, resume and remove runs.
    """

    def __init__(
        self, layout: TrainLayout, engine: Engine, jobs: Jobs, folder: Path, *, allowed: bool
    ) -> None:
        self._layout = layout
        self._engine = engine
        self._jobs = jobs
        self._folder = folder
        self._allowed = allowed
        part = layout
        self.parts: list[Any] = [
            *(part.runs, part.runs_row, part.no_runs, part.run_head, part.stop, part.resume),
            *(part.remove, part.losses, part.gates, part.run_table, part.seen, part.clock),
        ]
        """What `updates` writes."""

    def wire(self, shell: Shell) -> None:
        """Say what happens when."""
        if not self._allowed:
            return
        part = self._layout
        shell.on_show("train", self._show, [part.runs], self.parts)
        seen = [part.runs, part.seen, part.in_view]
        part.clock.tick(self._watch, seen, self.parts, js=_IN_VIEW, **AT_ONCE)
        chosen = part.runs.input(
            self._choose, part.runs, self.parts, trigger_mode="always_last", **AT_ONCE
        )
        remember(chosen, run=part.runs)
        for button, action in (
            (part.stop, self._jobs.stop),
            (part.resume, self._jobs.resume),
            (part.remove, self._jobs.remove),
        ):
            button.click(self._doing(action), part.runs, [*self.parts, part.outcome], **AT_ONCE)

    # Events ---------------------------------------------------------------------------------

    def _show(self, chosen: str | None, request: gr.Request) -> Updates:
        return self.updates(chosen or request.query_params.get("run"), request)

    def _choose(self, chosen: str | None, request: gr.Request) -> Updates:
        return self.updates(chosen, request)

    def _watch(self, chosen: str | None, seen: str, in_view: bool, request: gr.Request) -> Any:
        """Nothing, unless something has changed since the page was last drawn."""
        if not in_view:
            return {self._layout.clock: gr.Timer(active=False)}  # until the tab is shown again
        is_old = self._signature(self.all(), chosen) != seen
        return self.updates(chosen, request) if is_old else gr.skip()

    def _doing(self, action: Any) -> Any:
        def do(chosen: str | None, request: gr.Request) -> Updates:
            problem = ""
            try:
                if chosen:
                    action(chosen)
            except JobError as error:
                language = language_of(request)
                problem = train_view.refusal("train_refused_action", language, verbatim=str(error))
            return {**self.updates(chosen, request), self._layout.outcome: problem}

        return do

    # What is shown --------------------------------------------------------------------------

    def all(self) -> list[Job]:
        """The runs, newest first; adapters of those that are done can be used from now on."""
        runs = [job for job in self._jobs.all() if job.kind == "train"]
        if any(job.state == "done" and job.title not in self._engine.configs for job in runs):
            self._engine.refresh()
        return runs

    def updates(self, chosen: str | None, request: gr.Request) -> Updates:
        """The list of runs, and the chosen one, else the newest."""
        part, language = self._layout, language_of(request)
        runs = self.all()
        job = next((job for job in runs if job.id == chosen), runs[0] if runs else None)
        shown = None if job is None else job.id
        updates: Updates = {
            part.runs: gr.update(
                choices=[
                    (f"{each.title}\n{train_view.state(each, language)}", each.id) for each in runs
                ],
                value=shown,
            ),
            part.runs_row: gr.update(visible=bool(runs)),
            part.no_runs: gr.update(visible=not runs),
            part.seen: self._signature(runs, shown),
            part.clock: gr.Timer(active=any(each.state in _LIVE for each in runs)),
        }
        if job is None:
            return updates
        log = self._log(job)
        return {
            **updates,
            part.run_head: train_view.run_head(
                job, log, language, str(request.query_params.get("lang", ""))
            ),
            part.stop: gr.update(visible=job.state in _LIVE, interactive=not job.stopping),
            part.resume: gr.update(visible=job.resumable),
            part.remove: gr.update(visible=job.state not in _LIVE),
            **self._pictures(job, log, language),
        }

    def _pictures(self, job: Job, log: TrainingLog | None, language: Language) -> Updates:
        part = self._layout
        tasks = [str(task) for task in job.facts["tasks"]]
        common, specific = int(job.facts["common"]), int(job.facts["specific"])
        losses = gates = None
        shares = {}
        if log and log.loss:
            losses = loss_figure(log, tasks, language)
            if common and specific:
                shares = log.specific_shares(tasks, common)
                gates = gate_figure(log, shares, specific / (common + specific), language)
        newest = {task: points[-1][1] for task, points in shares.items() if points}
        return {
            part.losses: gr.update(value=losses, visible=losses is not None),
            part.gates: gr.update(value=gates, visible=gates is not None),
            part.run_table: train_view.run_table(job, log, newest, language),
        }

    def seconds_a_character(self) -> float | None:
        """Of training, by the newest run that has a pace; None if there is none."""
        for job in self.all():
            log, characters = self._log(job), job.facts.get("characters_a_step")
            if log and log.seconds_a_step and characters:
                return log.seconds_a_step / float(characters)
        return None

    def run_folder(self, job: Job) -> Path:
        """Where a job trains."""
        return self._folder / job.title

    def _log(self, job: Job) -> TrainingLog | None:
        if job.state == "queued" and job.started is None:
            return None
        with suppress(OSError):
            return read_log(self.run_folder(job))
        return None

    def _signature(self, runs: list[Job], chosen: str | None) -> str:
        """What changes when something of the runs does."""
        states = [f"{job.id} {job.state} {job.place} {job.stopping}" for job in runs]
        job = next((job for job in runs if job.id == chosen), None)
        size = 0
        if job is not None:
            with suppress(OSError):
                size = (self.run_folder(job) / LOG_FILE).stat().st_size
        return f"{chosen} {size} " + ", ".join(states)
