"""The tab where visitors evaluate an adapter, watch it answer, and see its scores."""

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
from ui.components.bilingual import Bilingual
from ui.components.choices import Choice, Choices
from ui.components.html import block, quiet
from ui.components.texts import language_of, text
from ui.engine.engine import Engine
from ui.engine.settings import Settings
from ui.server.files import PROJECT, public_path, without_folders
from ui.shell import AT_ONCE, LAST, Shell, remember
from ui.tabs.benchmark import form as form_of
from ui.tabs.benchmark import view
from ui.tabs.benchmark.form import OWN, UPLOAD, BenchmarkForm
from ui.tabs.benchmark.runs import Evaluations
from ui.tabs.jobs.layout import MAIN, SIDE, StartLayout, lay_out_notice, step, upload
from ui.tabs.jobs.submit import check_queue, submitted
from ui.tabs.jobs.view import unreadable

Updates = dict[Any, Any]


class Benchmark:
    """The tab's components and event handlers.

    Args:
        shell: Of the page.
        engine: Knows the adapters.
        jobs: The queue.
        settings: Where runs are stored, and whether visitors may start evaluations.
    """

    def __init__(self, shell: Shell, engine: Engine, jobs: Jobs, settings: Settings) -> None:
        self.engine = engine
        self.jobs = jobs
        self.allowed = allowed = settings.jobs_allowed
        self.folder = settings.runs.absolute() / "evaluations"
        self.backbone = settings.backbone
        add = shell.bilingual
        with gr.Column(elem_id="bench", elem_classes="jobs-tab"):
            lay_out_notice(add, "bench", allowed=allowed)
            self._lay_out_form(add)
            self.start = StartLayout(add, "bench", allowed=allowed)
            with self.start.fields:
                self.extent = gr.HTML(elem_id="bench-extent")
            self.runs = Evaluations(add, engine, jobs, self.folder, allowed=allowed)
        self.kept_tasks = gr.Textbox(visible="hidden")  # for the address
        self._wire(shell)

    def _lay_out_form(self, add: Bilingual) -> None:
        with step(add, "bench_what"):
            with gr.Column(**SIDE):
                self.adapter = add(
                    Choice,
                    {"label": "bench_adapter"},
                    elem_id="bench-adapter",
                    elem_classes="job-rows",
                )
            with gr.Column(**MAIN):
                self.source = add(Choice, {"label": "bench_source"}, elem_id="bench-source")
                self.source_note = gr.HTML()
                with gr.Column(visible=False) as self.uploading:
                    self.upload = upload(add, "bench_file", "bench-file", visible=self.allowed)
                self.report = gr.HTML(elem_id="bench-report")
                self.tasks = add(
                    Choices, {"label": "bench_tasks"}, show_select_all=True, elem_id="bench-tasks"
                )
                self.per_task = add(
                    gr.Number,
                    {"label": "bench_per_task", "info": "bench_per_task_info"},
                    precision=0,
                    value=50,
                    elem_id="bench-per-task",
                )

    # Events ---------------------------------------------------------------------------------

    def _wire(self, shell: Shell) -> None:
        form = [self.adapter, self.source, self.upload, self.tasks, self.per_task]
        start = self.start
        line = [start.command, self.extent, start.button, self.kept_tasks, start.outcome]
        data = [self.source_note, self.uploading, self.report, self.tasks, *line]
        shown = [self.adapter, self.source, self.per_task, *data]
        shell.on_show("benchmark", self.show, form, shown)
        kept = {
            "bench": self.adapter,
            "bench_data": self.source,
            "bench_tasks": self.kept_tasks,
            "bench_n": self.per_task,
        }
        sources = [self.adapter.input, self.source.input, self.upload.upload, self.upload.clear]
        remember(gr.on(sources, self.choose_data, form, data, **LAST), **kept)
        details = [self.tasks.input, self.per_task.input]
        remember(gr.on(details, self.choose_tasks, form, line, **LAST), **kept)
        begun = start.button.click(
            self.submit, form, [self.upload, *data, *self.runs.parts], **AT_ONCE
        )
        self.runs.wire(shell, begun)

    def show(  # Gradio hands over no `*values` before a request
        self,
        adapter: Any,
        source: Any,
        upload: Any,
        tasks: Any,
        per_task: Any,
        request: gr.Request,
    ) -> Updates:
        """The tab comes into view: what can be chosen, and at first what the address chose."""
        language = language_of(request)
        first = adapter is None
        form = BenchmarkForm.read(self.engine, adapter, source, upload, tasks, per_task)
        if first:
            form = self._from_address(form, dict(request.query_params))
        return {
            **self._data(form, language, every=first and not form.tasks),
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
            adapter=adapter if adapter in form_of.adapter_names(self.engine) else form.adapter,
            source=source if source in sources else sources[0],
            tasks=tuple(task for task in tasks if task in TASKS),
            per_task=int(number) if number.isascii() and number.isdecimal() else form.per_task,
        )

    def choose_data(self, request: gr.Request, *values: Any) -> Updates:
        """Adapter or data were chosen: all tasks that both know are selected."""
        form = BenchmarkForm.read(self.engine, *values)
        return self._data(form, language_of(request), every=True)

    def choose_tasks(self, request: gr.Request, *values: Any) -> Updates:
        """Tasks or their number of records were chosen."""
        form, language = BenchmarkForm.read(self.engine, *values), language_of(request)
        try:
            return self._line(form, form.facts(self.engine.limits), language)
        except DataError:
            return self._data(form, language, every=False)

    # What the page shows --------------------------------------------------------------------

    def _data(self, form: BenchmarkForm, language: Language, *, every: bool) -> Updates:
        """Report, tasks and command for the chosen data; with `every`, all tasks are selected."""
        own_file = "bench_file_note" if self.allowed else "bench_stand_in"
        note = {OWN: "bench_samples_note", UPLOAD: own_file}.get(form.source)
        updates: Updates = {
            self.uploading: gr.update(visible=self.allowed and form.source == UPLOAD),
            self.source_note: block(quiet(text(note, language)) if note else ""),
        }
        try:
            facts = form.facts(self.engine.limits)
        except DataError as error:
            words = without_folders(str(error), form.uploads)
            return {
                **updates,
                self.report: block(unreadable(words, language)),
                self.tasks: gr.update(choices=[], value=[], visible=False),
                **self._line(form, None, language),
            }
        known = form.known(self.engine, facts)
        if every:
            form = replace(form, tasks=known)
        report = view.data_report(facts, language) if facts and form.source == UPLOAD else ""
        if not known:
            report += quiet(text("bench_no_common_task", language))
        choices = [(_task_row(task, facts, language), task) for task in known]
        return {
            **updates,
            self.report: block(report),
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
            extent = quiet(text("bench_upload_first", language)) if self.allowed else ""
        elif not tasks:
            extent = quiet(text("bench_choose_task", language))
        else:
            extent = self._extent(form, facts, language)
        every = tasks == form.known(self.engine, facts)
        return {
            self.start.command: line if tasks else "",
            self.extent: extent,
            self.start.button: gr.update(interactive=bool(facts and tasks)),
            self.kept_tasks: "" if every else ",".join(tasks),
            self.start.outcome: "",
        }

    def _shown_command(self, plan: EvaluationPlan) -> tuple[str, ...]:
        name = plan.label or "backbone"
        if self.allowed:
            return plan.command(self.folder / name)
        # Visitors of somebody else's server are not shown where its files lie.
        adapter, backbone = plan.adapter, plan.backbone
        plan = replace(
            plan,
            adapter=adapter and PROJECT / public_path(adapter),
            backbone=backbone and public_path(backbone),
        )
        return plan.command(PROJECT / "runs" / "evaluations" / name, seen_from=PROJECT)

    def _extent(self, form: BenchmarkForm, facts: DataFacts, language: Language) -> str:
        records, work = total(facts, form.wanted(self.engine, facts), form.per_task)
        if not self.allowed:  # the speed of the visitor's own machine is unknown
            return view.extent(records, "", language)
        seconds = seconds_needed(work, self.runs.earlier(form.adapter))
        return view.extent(records, view.time_needed(seconds, language), language)

    # Start ----------------------------------------------------------------------------------

    def submit(self, request: gr.Request, *values: Any) -> Updates:
        """A new evaluation, at the end of the queue."""
        form, language = BenchmarkForm.read(self.engine, *values), language_of(request)
        job, outcome = submitted(lambda: self._submit(form, language), form.uploads, language)
        if job is None:
            return {self.start.outcome: outcome}
        updates = {}
        if form.source == UPLOAD:  # the file was moved to the job
            form = replace(form, upload=None)
            updates = {self.upload: None, **self._data(form, language, every=False)}
        return {**updates, **self.runs.updates(job.id, request), self.start.outcome: outcome}

    def _submit(self, form: BenchmarkForm, language: Language) -> Job:
        """A new job.

        Raises:
            JobError: It cannot be started; in the visitor's language.
            DataError, OSError: The data cannot be used.
        """
        check_queue(self.jobs, self.engine.limits, language, allowed=self.allowed)
        if form.source == UPLOAD and not (form.upload and form.upload.is_file()):
            raise JobError(text("bench_gone", language))
        jobs = self.jobs.all()
        if form.source == OWN and any(_trained_on_examples(job, form.adapter) for job in jobs):
            raise JobError(text("bench_trained_on_it", language))
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
        return self.jobs.submit(
            "evaluate",
            plan.command(self.folder / folder.name),
            title=f"{plan.label} {plan.method}".strip(),
            facts={
                "adapter": form.adapter,
                "method": plan.method,
                "source": form.source,
                "data": facts.name,
                "tasks": tasks,
                "per_task": form.per_task,
                "records": records,
                "work": work,
            },
            id=folder.name,
            clean=[uploaded] if uploaded else [],
        )


def _task_row(task: str, facts: DataFacts | None, language: Language) -> str:
    name = title(task, language)
    return f"{name} · {facts.tasks[task].records:,}" if facts else name


def _trained_on_examples(job: Job, adapter: str) -> bool:
    return job.kind == "train" and job.title == adapter and job.facts.get("source") == OWN
