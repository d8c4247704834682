"""The tab where a visitor evaluates an adapter, watches it answer, and sees its scores."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from cgclora.data.records import DataError
from evals.experiments.evaluation_plan import (
    DataFacts,
    EvaluationPlan,
    seconds_needed,
    total,
)
from evals.figures.captions import title
from evals.jobs.queue import Job, JobError, Jobs
from evals.tasks import TASKS, Language
from ui.components import render
from ui.components.texts import language_of, text
from ui.engine.engine import Engine
from ui.server.public_paths import PROJECT, shown_place
from ui.shell import AT_ONCE, LAST, Shell, remember
from ui.tabs.benchmark import form as form_of
from ui.tabs.benchmark import view
from ui.tabs.benchmark.form import OWN, UPLOAD, BenchmarkForm
from ui.tabs.benchmark.jobs import Evaluations
from ui.tabs.benchmark.layout import BenchmarkLayout

Updates = dict[Any, Any]


_TO_JOBS = """() => document.getElementById("bench-jobs-step")
  ?.scrollIntoView({ behavior: "smooth", block: "nearest" })"""


class Benchmark(BenchmarkLayout):
    """The tab's components and what they do.

    Args:
        shell: What stands around it.
        engine: Knows the adapters.
        jobs: The queue that evaluations stand in.
        allowed: Whether visitors may start evaluations.
        runs: Holds the run folders; by default `evaluations` beside the folder of the jobs.
        backbone: Local folder or hub id of the backbone, in place of the embedded one.
    """

    def __init__(
        self,
        shell: Shell,
        engine: Engine,
        jobs: Jobs,
        allowed: bool,
        *,
        runs: Path | None = None,
        backbone: str | None = None,
    ) -> None:
        super().__init__(shell.bilingual, allowed=allowed)
        self.engine = engine
        self.jobs = jobs
        self.allowed = allowed
        self.folder = runs or jobs.root.parent / "evaluations"
        self.backbone = backbone
        self.evaluations = Evaluations(self, engine, jobs, self.folder, allowed=allowed)
        self._wire(shell)

    # Events ---------------------------------------------------------------------------------

    def _wire(self, shell: Shell) -> None:
        form = [self.adapter, self.source, self.upload, self.tasks, self.per_task]
        line = [self.command, self.extent, self.start, self.kept_tasks, self.outcome]
        data = [self.source_note, self.uploading, self.report, self.tasks, *line]
        shell.on_show(
            "benchmark",
            self._show,
            form,
            [self.notice, self.adapter, self.source, self.per_task, *data],
        )
        self.evaluations.wire(shell)
        kept = {
            "bench": self.adapter,
            "bench_data": self.source,
            "bench_tasks": self.kept_tasks,
            "bench_n": self.per_task,
        }
        sources = [self.adapter.input, self.source.input, self.upload.upload, self.upload.clear]
        remember(gr.on(sources, self._choose, form, data, **LAST), **kept)
        details = [self.tasks.input, self.per_task.input]
        remember(gr.on(details, self._rewrite, form, line, **LAST), **kept)
        begun = self.start.click(
            self._start, form, [self.upload, *data, *self.evaluations.parts], **AT_ONCE
        )
        remember(begun, bench_job=self.jobs_list)
        begun.success(None, None, None, js=_TO_JOBS, **AT_ONCE)

    def _show(
        self,
        adapter: Any,
        source: Any,
        upload: Any,
        tasks: Any,
        per_task: Any,
        request: gr.Request,
    ) -> Updates:
        """The tab comes into view: what can be chosen, and what the address chose."""
        language, asked = language_of(request), request.query_params
        first = adapter is None
        form = BenchmarkForm.read(self.engine, adapter, source, upload, tasks, per_task)
        if first:
            form = self._from_address(form, dict(asked))
        updates = self._data(form, language, every=first and not form.tasks)
        refused = text("bench_not_allowed", language)
        return {
            **updates,
            self.notice: "" if self.allowed else f'<p class="bench-off">{refused}</p>',
            self.adapter: gr.update(
                choices=form_of.adapter_choices(self.engine, language), value=form.adapter
            ),
            self.source: gr.update(
                choices=[(text(f"bench_{name}", language), name) for name in form_of.sources()],
                value=form.source,
            ),
            self.per_task: form.per_task,
        }

    def _from_address(self, form: BenchmarkForm, asked: dict[str, str]) -> BenchmarkForm:
        adapter, source = asked.get("bench", ""), asked.get("bench_data", "")
        tasks, number = asked.get("bench_tasks", "").split(","), asked.get("bench_n", "")
        sources = form_of.sources()
        return replace(
            form,
            adapter=adapter if adapter in form_of.who(self.engine) else form.adapter,
            source=source if source in sources else sources[0],
            tasks=tuple(task for task in tasks if task in TASKS),
            per_task=int(number) if number.isascii() and number.isdecimal() else form.per_task,
        )

    def _choose(self, request: gr.Request, *values: Any) -> Updates:
        form = BenchmarkForm.read(self.engine, *values)
        return self._data(form, language_of(request), every=True)

    def _rewrite(self, request: gr.Request, *values: Any) -> Updates:
        form, language = BenchmarkForm.read(self.engine, *values), language_of(request)
        try:
            return self._line(form, form.facts(self.engine.limits), language)
        except DataError:
            return self._data(form, language, every=False)

    # What the page shows --------------------------------------------------------------------

    def _data(self, form: BenchmarkForm, language: Language, *, every: bool) -> Updates:
        """Report, tasks and command for the chosen data; with `every`, all tasks are chosen."""
        own_file = "bench_file_note" if self.allowed else "bench_stand_in"
        note = {OWN: "bench_samples_note", UPLOAD: own_file}.get(form.source)
        updates: Updates = {
            self.uploading: gr.update(visible=self.allowed and form.source == UPLOAD),
            self.source_note: _html(view.quiet(note, language) if note else ""),
        }
        try:
            facts = form.facts(self.engine.limits)
        except DataError as error:
            words = form_of.without_folders(str(error), form)
            advice = text("bench_unreadable_advice", language)
            return {
                **updates,
                self.report: _html(
                    render.notice(text("bench_unreadable", language), advice, words)
                ),
                self.tasks: gr.update(choices=[], value=[], visible=False),
                **self._line(form, None, language),
            }
        known = form.known(self.engine, facts)
        if every:
            form = replace(form, tasks=known)
        report = view.data_report(facts, language) if facts and form.source == UPLOAD else ""
        if not known:
            report += view.quiet("bench_no_common_task", language)
        choices = [(_task_row(task, facts, language), task) for task in known]
        return {
            **updates,
            self.report: _html(report),
            self.tasks: gr.update(
                choices=choices, value=[*form.wanted(self.engine, facts)], visible=bool(known)
            ),
            **self._line(form, facts, language),
        }

    def _line(self, form: BenchmarkForm, facts: DataFacts | None, language: Language) -> Updates:
        """The command, how long it takes, and whether it can be started."""
        tasks = form.wanted(self.engine, facts)
        plan = form.plan(self.engine, facts, backbone=self.backbone)
        line = shlex.join(["python", *self._shown_command(plan)])
        if facts is None:
            extent = view.quiet("bench_upload_first", language) if self.allowed else ""
        elif not tasks:
            extent = view.quiet("bench_choose_task", language)
        else:
            extent = self._extent(form, facts, language)
        every = tasks == form.known(self.engine, facts)
        return {
            self.command: line if tasks else "",
            self.extent: extent,
            self.start: gr.update(interactive=bool(facts and tasks)),
            self.kept_tasks: "" if every else ",".join(tasks),
            self.outcome: "",
        }

    def _shown_command(self, plan: EvaluationPlan) -> tuple[str, ...]:
        name = plan.label or "backbone"
        if self.allowed:
            return plan.command(self.folder / name)
        # A stranger need not know where on the server things lie.
        adapter, backbone = plan.adapter, plan.backbone
        plan = replace(
            plan,
            adapter=adapter and PROJECT / shown_place(adapter),
            backbone=backbone and shown_place(backbone),
        )
        return plan.command(PROJECT / "runs" / "evaluations" / name, seen_from=PROJECT)

    def _extent(self, form: BenchmarkForm, facts: DataFacts, language: Language) -> str:
        records, work = total(facts, form.wanted(self.engine, facts), form.per_task)
        if not self.allowed:  # how fast the visitor's own machine is, nobody knows
            return view.extent(records, "", language)
        seconds = seconds_needed(work, self.evaluations.earlier(form.adapter))
        return view.extent(records, view.time_needed(seconds, language), language)

    # Start ----------------------------------------------------------------------------------

    def _start(self, request: gr.Request, *values: Any) -> Updates:
        form, language = BenchmarkForm.read(self.engine, *values), language_of(request)
        try:
            job = self._submitted(form, language)
        except (JobError, DataError, OSError) as error:
            words = form_of.without_folders(str(error), form)
            return {self.outcome: render.notice(text("bench_not_started", language), words)}
        updates = {}
        if form.source == UPLOAD:  # it is the job's now
            form = replace(form, upload=None)
            updates = {self.upload: None, **self._data(form, language, every=False)}
        return {
            **updates,
            **self.evaluations.shown(job.id, request),
            self.outcome: view.quiet("bench_queued", language),
        }

    def _submitted(self, form: BenchmarkForm, language: Language) -> Job:
        """A new job in the queue.

        Raises:
            JobError: It cannot be started; the words are the visitor's.
            DataError, OSError: The data cannot be used.
        """
        if not self.allowed:
            raise JobError(text("bench_not_allowed", language))
        if form.source == UPLOAD and not (form.upload and form.upload.is_file()):
            raise JobError(text("bench_gone", language))
        jobs = self.jobs.all()
        if form.source == OWN and any(_trained_on_examples(job, form.adapter) for job in jobs):
            raise JobError(text("bench_trained_on_it", language))
        waiting = self.jobs.waiting
        if waiting >= self.engine.limits.jobs:
            raise JobError(text("bench_full", language, count=waiting))
        facts = form.facts(self.engine.limits)
        tasks = form.wanted(self.engine, facts)
        if facts is None or not tasks:
            raise JobError(text("bench_choose_task", language))
        folder = self.jobs.prepare()
        uploaded: Path | None = None
        if form.source == UPLOAD and form.upload:
            uploaded = folder / "upload" / form.upload.name  # apart from the job's own files
            uploaded.parent.mkdir()
            shutil.move(form.upload, uploaded)
        plan = form.plan(self.engine, facts, uploaded, self.backbone)
        records, work = total(facts, tasks, form.per_task)
        known = {"adapter": form.adapter, "method": plan.method, "source": form.source}
        size = {
            "data": facts.name,
            "tasks": tasks,
            "per_task": form.per_task,
            "records": records,
            "work": work,
        }
        return self.jobs.submit(
            "evaluate",
            plan.command(self.folder / folder.name),
            title=f"{plan.label} {plan.method}".strip(),
            facts={**known, **size},
            id=folder.name,
            clean=[uploaded] if uploaded else [],
        )


def _html(content: str) -> Any:
    """An update of a block that takes no room when it is empty."""
    return gr.update(value=content, visible=bool(content))


def _task_row(task: str, facts: DataFacts | None, language: Language) -> str:
    name = title(task, language)
    return f"{name} · {facts.tasks[task].records:,}" if facts else name


def _trained_on_examples(job: Job, adapter: str) -> bool:
    return job.kind == "train" and job.title == adapter and job.facts.get("source") == OWN
