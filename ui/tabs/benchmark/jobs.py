"""The list of evaluations in the tab that starts them, and what each of them has come to."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from evals.experiments.evaluation_plan import Earlier
from evals.jobs.queue import Job, JobError, Jobs
from evals.runs.progress import read_progress
from evals.runs.run_dir import MANIFEST_FILE, RunError, partial_folder, read_run
from evals.tasks import Language
from ui.components import render
from ui.components.texts import language_of, text
from ui.engine.engine import Engine
from ui.engine.questions import BARE
from ui.shell import AT_ONCE, LAST, Shell, remember
from ui.tabs.benchmark import view
from ui.tabs.benchmark.form import adapter_title
from ui.tabs.benchmark.layout import BenchmarkLayout

Updates = Any  # by component, or `gr.skip()`

_REMEMBERED = 5  # earlier evaluations that tell how long the next one takes

_IN_VIEW = """(chosen, seen) =>
  [chosen, seen, Boolean(document.getElementById("bench")?.offsetParent)]"""


class Evaluations:
    """What the lower part of the tab does.

    Args:
        layout: Its components.
        engine: Knows what adapters are called.
        jobs: The queue.
        folder: Holds the run folder of each evaluation, named as its job.
        allowed: Whether visitors see and change the jobs.

    Attributes:
        parts: Components that `shown` updates.
    """

    def __init__(
        self, layout: BenchmarkLayout, engine: Engine, jobs: Jobs, folder: Path, *, allowed: bool
    ) -> None:
        self.layout = layout
        self.engine = engine
        self.jobs = jobs
        self.folder = folder
        self.allowed = allowed
        buttons = [layout.stop, layout.resume, layout.remove]
        self.parts = [
            *(layout.no_jobs, layout.jobs_row, layout.jobs_list, layout.job, layout.job_command),
            *(*buttons, layout.seen, layout.clock),
        ]

    def wire(self, shell: Shell) -> None:
        """Say what happens when."""
        layout = self.layout
        chosen = [layout.jobs_list, layout.seen]
        shell.on_show("benchmark", self._show, chosen, self.parts)
        layout.clock.tick(self._look, [*chosen, layout.in_view], self.parts, js=_IN_VIEW, **AT_ONCE)
        picked = layout.jobs_list.input(self._pick, [layout.jobs_list], self.parts, **LAST)
        remember(picked, bench_job=layout.jobs_list)
        for button, act in (
            (layout.stop, self.jobs.stop),
            (layout.resume, self.jobs.resume),
            (layout.remove, self._remove),
        ):
            button.click(self._action(act), [layout.jobs_list], self.parts, **AT_ONCE)

    # Events ---------------------------------------------------------------------------------

    def _show(self, chosen: str | None, seen: str, request: gr.Request) -> Updates:
        """The tab comes into view; the address counts until something is chosen."""
        return self.shown(chosen or request.query_params.get("bench_job"), request)

    def _look(self, chosen: str | None, seen: str, in_view: bool, request: gr.Request) -> Updates:
        if not in_view:
            return {self.layout.clock: gr.Timer(active=False)}
        return self.shown(chosen, request, seen)

    def _pick(self, chosen: str | None, request: gr.Request) -> Updates:
        return self.shown(chosen, request)

    def _action(self, act: Callable[[str], Any]) -> Callable[..., Updates]:
        def handler(chosen: str | None, request: gr.Request) -> Updates:
            if not (self.allowed and chosen):
                return gr.skip()
            try:
                act(chosen)
            except JobError as error:
                words = text("bench_refused_action", language_of(request))
                notice = render.notice(words, verbatim=str(error))
                shown = self.shown(chosen, request)
                return {**shown, self.layout.job: shown.get(self.layout.job, "") + notice}
            return self.shown(chosen, request)

        return handler

    def _remove(self, name: str) -> None:
        """Remove a job; of its run what is unfinished goes too, scores stay."""
        self.jobs.remove(name)
        shutil.rmtree(partial_folder(self.folder / name), ignore_errors=True)

    # What the page shows --------------------------------------------------------------------

    def shown(self, chosen: str | None, request: gr.Request, seen: str = "") -> Updates:
        """Updates for the list and for the chosen job, or else the newest one.

        Args:
            chosen: Id of a job.
            request: Of the visitor.
            seen: What `layout.seen` said: nothing is updated if that has not changed.
        """
        layout, language = self.layout, language_of(request)
        if not self.allowed:
            return gr.skip()
        jobs = self._evaluations()
        one = next((job for job in jobs if job.id == chosen), jobs[0] if jobs else None)
        rows = [(view.row(self._outlook(job, language), language), job.id) for job in jobs]
        asked = str(request.query_params.get("lang", ""))
        html = view.job(self._outlook(one, language), language, asked) if one else ""
        active = any(job.state in {"queued", "running"} for job in jobs)
        now = hashlib.sha256(json.dumps([rows, html, one and one.id, active]).encode()).hexdigest()
        if now == seen:
            return gr.skip()
        return {
            layout.no_jobs: gr.update(visible=not jobs),
            layout.jobs_row: gr.update(visible=bool(jobs)),
            layout.jobs_list: gr.update(choices=rows, value=one.id if one else None),
            layout.job: html,
            layout.job_command: view.command(one, language) if one else "",
            layout.stop: gr.update(visible=bool(one and one.state in {"queued", "running"})),
            layout.resume: gr.update(visible=bool(one and one.resumable)),
            layout.remove: gr.update(
                visible=bool(one and one.state in {"stopped", "failed", "done"})
            ),
            layout.seen: now,
            layout.clock: gr.Timer(active=active),
        }

    def _evaluations(self) -> list[Job]:
        return [job for job in self.jobs.all() if job.kind == "evaluate"]

    def _outlook(self, job: Job, language: Language) -> view.Outlook:
        run = self.folder / job.id
        name = str(job.facts.get("adapter", ""))
        title = adapter_title(self.engine, name, language) if name else job.title
        if job.state != "done":
            progress = read_progress(run)
            answered = progress is None and (run / MANIFEST_FILE).exists()
            return view.Outlook(job, title, progress, answered)
        try:
            found = read_run(run)
        except RunError:
            return view.Outlook(job, title)
        return view.Outlook(job, title, None, True, found.metrics, found.manifest.get("seconds"))

    def earlier(self, adapter: str) -> list[Earlier]:
        """What the newest evaluations of an adapter took, or of the bare backbone."""
        found: list[Earlier] = []
        for job in self._evaluations():
            alike = (job.facts.get("adapter") == BARE) == (adapter == BARE)
            if job.state != "done" or not alike or len(found) == _REMEMBERED:
                continue
            try:
                seconds = read_run(self.folder / job.id).manifest.get("seconds") or 0.0
            except RunError:
                continue
            whole = (job.ended or 0.0) - (job.started or 0.0)
            found.append(Earlier(float(job.facts.get("work") or 0), float(seconds), whole))
        return found
