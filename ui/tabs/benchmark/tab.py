"""The tab where visitors evaluate an adapter, watch it answer, and see its scores."""

import shlex
import shutil
from collections.abc import Mapping
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from cgclora.data.records import DataError
from cgclora.data.task_table import TABLE_FILE
from cgclora.storage import atomic_io
from evals.experiments.evaluation_plan import DataFacts, EvaluationPlan, seconds_needed, total
from evals.figures.captions import title
from evals.jobs.queue import Job, JobError, Jobs
from evals.tasks import TASKS, Language
from evals.tasks.recognition import to_toml
from ui.components.html import block, quiet, wide_table
from ui.components.own_tasks import OwnTasks
from ui.components.texts import language_of, text
from ui.components.widgets import Bilingual, Choice, Choices
from ui.engine.engine import AppEngine
from ui.engine.settings import Settings
from ui.server.files import PROJECT, public_path, without_folders
from ui.shell import AT_ONCE, LAST, Shell, Updates, remember
from ui.tabs.benchmark import form as form_of
from ui.tabs.benchmark.form import OWN, UPLOAD, BenchmarkForm
from ui.tabs.benchmark.runs import Evaluations
from ui.tabs.jobs.tab import MAIN, SIDE, JobTab, step, upload
from ui.tabs.jobs.view import refused_lines, span, unreadable


class Benchmark(JobTab):
    """The tab's components and event handlers."""

    prefix, panel, subfolder = "bench", Evaluations, "evaluations"
    runs: Evaluations

    def __init__(self, shell: Shell, engine: AppEngine, jobs: Jobs, settings: Settings) -> None:
        super().__init__(shell, engine, jobs, settings)
        with self.fields:
            self.extent = gr.HTML(elem_id="bench-extent")
        self.kept_tasks = gr.Textbox(visible="hidden")  # for the address
        self._wire(shell)

    def lay_out_form(self, add: Bilingual) -> None:
        """Adapter, data and tasks."""
        with step(add, "bench_what"):
            with gr.Column(**SIDE):
                self.adapter = add(
                    Choice, "bench_adapter", elem_id="bench-adapter", elem_classes="job-rows"
                )
            with gr.Column(**MAIN):
                self.source = add(Choice, "bench_source", elem_id="bench-source")
                self.source_note = gr.HTML()
                with gr.Column(visible=False) as self.uploading:
                    self.upload = upload(add, "bench_file", "bench-file", visible=self.allowed)
                self.report = gr.HTML(elem_id="bench-report")
                self.own = OwnTasks(add, "bench")
                self.tasks = add(
                    Choices, "bench_tasks", show_select_all=True, elem_id="bench-tasks"
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
        form += self.own.inputs
        line = [self.command, self.extent, self.start, self.kept_tasks, self.outcome]
        found = [self.report, self.tasks, *self.own.parts]
        data = [self.source_note, self.uploading, *found, *line]
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
        self.own.written.change(self.correct, form, found, **LAST)
        begun = self.start.click(
            self.submit, form, [self.upload, *data, *self.runs.parts], **AT_ONCE
        )
        self.runs.wire(shell, begun)

    def show(self, request: gr.Request, *values: Any) -> Updates:
        """The tab comes into view: what can be chosen, and at first what the address chose."""
        language = language_of(request)
        first = values[0] is None
        form = BenchmarkForm.read(self.engine, *values)
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

    def _from_address(self, form: BenchmarkForm, address: dict[str, str]) -> BenchmarkForm:
        adapter, source = address.get("bench", ""), address.get("bench_data", "")
        tasks, number = address.get("bench_tasks", "").split(","), address.get("bench_n", "")
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

    def correct(self, request: gr.Request, *values: Any) -> Any:
        """The table of the upload's own tasks was edited."""
        form = BenchmarkForm.read(self.engine, *values)
        try:
            facts = form.facts(self.engine.limits)
        except DataError:
            return gr.skip()
        # The choice of tasks is left alone: it may be on its way to the page.
        return self._found(form, facts, language_of(request))

    def choose_tasks(self, request: gr.Request, *values: Any) -> Updates:
        """Tasks or their number of records were chosen."""
        form, language = BenchmarkForm.read(self.engine, *values), language_of(request)
        try:
            return self._line(form, form.facts(self.engine.limits), language)
        except DataError:
            return self._data(form, language, every=False)

    # Updates --------------------------------------------------------------------------------

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
                **self.own.show((), {}, form.corrections, language),
                **self._line(form, None, language),
            }
        usable = form.usable_tasks(self.engine, facts)
        if every:
            form = replace(form, tasks=usable)
        found = self._found(form, facts, language)
        found[self.tasks] |= {
            "value": [*form.chosen_tasks(self.engine, facts)],
            "visible": bool(usable),
        }
        return {**updates, **found, **self._line(form, facts, language)}

    def _found(self, form: BenchmarkForm, facts: DataFacts | None, language: Language) -> Updates:
        """Report, own tasks and titles of the tasks to choose from."""
        usable = form.usable_tasks(self.engine, facts)
        own = facts.own if facts and form.source == UPLOAD else ()
        titles = {name: title(task, language) for name, task in form.corrections.tasks(own).items()}
        examples = {task: facts.tasks[task].examples for task in titles} if facts else {}
        report = _data_report(facts, titles, language) if facts and form.source == UPLOAD else ""
        if not usable:
            report += quiet(text("bench_no_common_task", language))
        counts = {task: f" · {facts.tasks[task].records:,}" if facts else "" for task in usable}
        choices = [
            (titles.get(task, title(task, language)) + count, task)
            for task, count in counts.items()
        ]
        return {
            self.report: block(report),
            self.tasks: gr.update(choices=choices),
            **self.own.show(own, examples, form.corrections, language),
        }

    def _line(self, form: BenchmarkForm, facts: DataFacts | None, language: Language) -> Updates:
        """The command, how long it takes, and whether it can be started."""
        tasks = form.chosen_tasks(self.engine, facts)
        plan = form.plan(self.engine, facts, backbone=self.shown_backbone)
        line = shlex.join(["python", *self._shown_command(plan)])
        if facts is None:
            extent = quiet(text("bench_upload_first", language)) if self.allowed else ""
        elif not tasks:
            extent = quiet(text("bench_choose_task", language))
        else:
            extent = self._extent(form, facts, language)
        every = tasks == form.usable_tasks(self.engine, facts)
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
        plan = replace(plan, adapter=plan.adapter and PROJECT / public_path(plan.adapter))
        return plan.command(PROJECT / "runs" / "evaluations" / name, seen_from=PROJECT)

    def _extent(self, form: BenchmarkForm, facts: DataFacts, language: Language) -> str:
        """The number of records to be answered, and the estimated time."""
        records, work = total(facts, form.chosen_tasks(self.engine, facts), form.per_task)
        time = ""
        if self.allowed:  # the speed of the visitor's own machine is unknown
            seconds = seconds_needed(work, self.runs.earlier(form.adapter))
            words = span(seconds or 0, language)
            time = text("bench_no_time" if seconds is None else "bench_time", language, time=words)
        count = text("bench_total", language, records=f"{records:,}")
        return f'<p class="bench-extent"><b>{count}</b> <span class="quiet">{time}</span></p>'

    # Start ----------------------------------------------------------------------------------

    def submit(self, request: gr.Request, *values: Any) -> Updates:
        """A new evaluation, at the end of the queue."""
        form, language = BenchmarkForm.read(self.engine, *values), language_of(request)

        def reset() -> Updates:
            if form.source != UPLOAD:
                return {}
            without = replace(form, upload=None)  # the file was moved to the job
            return {self.upload: None, **self._data(without, language, every=False)}

        return self.start_job(request, lambda: self._submit(form, language), form.uploads, reset)

    def _submit(self, form: BenchmarkForm, language: Language) -> Job:
        """A new job.

        Raises:
            JobError: It cannot be started; in the visitor's language.
            DataError, OSError: The data cannot be used.
        """
        self.check_queue(language)
        if form.source == UPLOAD and not (form.upload and form.upload.is_file()):
            raise JobError(text("bench_gone", language))
        jobs = self.jobs.all()
        trained = [job for job in jobs if (job.kind, job.title) == ("train", form.adapter)]
        if form.source == OWN and any(job.facts.get("source") == OWN for job in trained):
            raise JobError(text("bench_trained_on_it", language))
        facts = form.facts(self.engine.limits)
        tasks = form.chosen_tasks(self.engine, facts)
        if facts is None or not tasks:
            raise JobError(text("bench_choose_task", language))
        own = form.corrections.entries(facts.own) if form.source == UPLOAD else ()
        folder = self.jobs.prepare()
        uploaded: Path | None = None
        clean: list[Path] = []
        if form.source == UPLOAD and form.upload:
            uploaded = folder / "upload" / form.upload.name  # apart from the job's own files
            uploaded.parent.mkdir()
            shutil.move(form.upload, uploaded)
            clean.append(uploaded)
        if own and uploaded:
            clean.append(uploaded.with_name(TABLE_FILE))
            atomic_io.write_text(clean[-1], to_toml(own))
        plan = form.plan(self.engine, facts, uploaded, self.backbone_name)
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
                "titles": {entry["name"]: entry["title"] for entry in own},
                "per_task": form.per_task,
                "records": records,
                "work": work,
            },
            id=folder.name,
            clean=clean,
        )


def _data_report(facts: DataFacts, own: Mapping[str, str], language: Language) -> str:
    """What an uploaded file holds; `own` are titles of tasks that are not built in."""
    records = sum(size.records for size in facts.tasks.values())
    summary = text("bench_found", language, records=f"{records:,}", tasks=len(facts.tasks))
    parts = [f'<p class="bench-found">{escape(facts.name)} · {summary}</p>']
    if facts.tasks:
        columns = [text("bench_tasks", language), text("bench_records", language)]
        rows = [
            (escape(own.get(name, title(name, language))), f"{size.records:,}")
            for name, size in facts.tasks.items()
        ]
        parts.append(wide_table(text("bench_report_table", language), columns, rows))
    refused = refused_lines(facts.problems, language)
    return f'<div class="bench-report">{"".join(parts)}{refused}</div>'
