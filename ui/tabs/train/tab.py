"""The tab where visitors train adapters of their own and watch losses and gates."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from cgclora.config import ConfigError
from cgclora.data.records import DataError
from cgclora.storage.atomic_io import short_path
from cgclora.training.settings import TrainingSettings
from evals.experiments.training_plan import Addition, Plan, budgets, command, trainable
from evals.jobs.queue import Job, JobError, Jobs
from evals.methods import CGC_SIZES, METHODS
from evals.tasks import Language
from ui.components import forms
from ui.components.own_tasks import Corrections
from ui.components.texts import language_of, text
from ui.components.widgets import Bilingual
from ui.engine.engine import COMPARED, AppEngine
from ui.engine.questions import BARE
from ui.engine.settings import Settings
from ui.server.files import without_folders
from ui.shell import AT_ONCE, LAST, Shell, Updates, remember
from ui.tabs.jobs.tab import NamedJobTab
from ui.tabs.jobs.view import unreadable
from ui.tabs.train import growth, view
from ui.tabs.train.form import (
    SIZES,
    STAND_INS,
    BackboneView,
    DataChoice,
    Inspected,
    NoNewTaskError,
    inspect,
    is_quick,
    plan_of,
    settings_of,
    source_choices,
)
from ui.tabs.train.layout import TrainForm
from ui.tabs.train.runs import TrainingRuns

_OWN = ("own_written", "own_recognised")
"""What the values of `OwnTasks.inputs` are called here."""

_OF_NEW = ("method", "alpha", "modules", "half")
"""Settings of a new adapter, beside its sizes."""


@dataclass(frozen=True)
class _Run:
    """What is to be trained."""

    inspected: Inspected
    own: Corrections  # of the tasks that are not built in
    base: str  # name of the adapter to which the tasks are added; empty for a new one
    plan: Plan | Addition
    settings: TrainingSettings


class Train(NamedJobTab):
    """The tab's components and event handlers."""

    prefix, panel, subfolder, proposal = "train", TrainingRuns, "training", "my"
    runs: TrainingRuns

    def __init__(self, shell: Shell, engine: AppEngine, jobs: Jobs, settings: Settings) -> None:
        super().__init__(shell, engine, jobs, settings)
        self.backbone = BackboneView(engine)
        with self.notes:
            self.command_note = shell.bilingual.paragraph("train_command_files", visible=False)
        self.load_clock = gr.Timer(1.0, active=False)  # while the backbone is loaded
        # Counts up when there is something to inspect again that no visitor has changed.
        self.arrived = gr.Number(visible="hidden", precision=0)
        self._wire(shell)

    def lay_out_form(self, add: Bilingual) -> None:
        """Data and method."""
        self.form = TrainForm(add)

    # Events ---------------------------------------------------------------------------------

    def _wire(self, shell: Shell) -> None:
        form = self.form
        own = dict(zip(_OWN, form.own.inputs, strict=True))
        self.inputs: dict[str, Any] = {**form.data, **form.settings, **own, "name": self.name}
        inputs = [*self.inputs.values()]
        source, base, method = form.data["source"], form.settings["base"], form.settings["method"]
        sizes = [form.settings[name] for name in (*SIZES, *_OF_NEW)]
        planned = [form.budget, self.command, self.command_note, *sizes]
        found = [form.report, form.uploading, form.data["tasks"], form.data["fraction"]]
        found += form.own.parts
        arriving = [source, base, self.name, self.load_clock, self.arrived, *found, *planned]
        shell.on_show("train", self.show, [source, self.arrived], arriving)
        self.load_clock.tick(self.wait, self.arrived, [self.load_clock, self.arrived], **AT_ONCE)
        # In two steps, so that the quick one does not wait for the one that reads data.
        settings = (form.settings[name] for name in ("base", "seed", "max_length"))
        of_data = [*form.data.values(), *settings, form.own.written]
        inspected = gr.on(
            [self.arrived.change, *map(_changed, of_data)], self.inspect, inputs, found, **LAST
        )
        inspected.then(self.plan, inputs, planned, **AT_ONCE)
        remember(inspected, source=source, base=base)
        others = [one for one in inputs if one not in [*of_data, *form.own.inputs, self.name]]
        changed = gr.on([*map(_changed, others)], self.plan, inputs, planned, **LAST)
        remember(changed, method=method)
        begun = self.start.click(
            self.submit, inputs, [self.outcome, self.name, *self.runs.parts], **AT_ONCE
        )
        self.name.change(self.rename, inputs, self.command, **LAST)
        self.runs.wire(shell, begun)

    def show(self, request: gr.Request, source: str | None, arrived: float | None) -> Updates:
        """The tab comes into view; at first with report and plan of what the address chose.

        They follow if there is much to read, or if the page holds choices of the visitor's: these
        are not inputs here, since the browser slows down with each input of any event.
        """
        values = {**_as_built(self.inputs), "source": source}
        updates = self._choices(request, values)
        count = {self.arrived: (arrived or 0) + 1}
        if source:
            return {**updates, **count}
        if not self._is_quick(values):
            reading = view.no_data("train_reading", language_of(request))
            return {**updates, self.form.report: reading, **count}
        chosen, method = [*values.values()], self.form.settings["method"]
        planned = self.plan(request, *chosen)
        planned[method] |= updates.pop(method)
        return {**self.inspect(request, *chosen), **planned, **updates}

    def _choices(self, request: gr.Request, values: dict[str, Any]) -> Updates:
        """What can be chosen; at first the address chooses, which changes `values`, too."""
        language, address = language_of(request), request.query_params
        sources, settings = source_choices(language), self.form.settings
        bases = gr.update(choices=growth.choices(self.engine, language))
        updates: Updates = {settings["base"]: bases}
        if not values["source"]:
            names = [name for _, name in sources]
            linked, base = str(address.get("source", "")), address.get("base")
            values["source"] = linked if linked in names else names[0]
            updates |= self.propose_name()
            values["name"] = updates.get(self.name, values["name"])
            if (method := str(address.get("method", ""))) in trainable():
                values["method"] = method
            updates[settings["method"]] = gr.update(value=values["method"])
            if base in self.engine.configs:
                values["base"] = bases["value"] = base
        return {
            **updates,
            self.form.data["source"]: gr.update(choices=sources, value=values["source"]),
            self.load_clock: gr.Timer(active=not self._has_loaded()),
        }

    def wait(self, arrived: float | None) -> Any:
        """Update what depends on the backbone, once it is loaded."""
        if not self._has_loaded():
            return gr.skip()
        return {self.load_clock: gr.Timer(active=False), self.arrived: (arrived or 0) + 1}

    def _has_loaded(self) -> bool:
        return self.engine.status.ready or bool(self.engine.status.problem)

    def _values(self, values: Iterable[Any]) -> dict[str, Any]:
        return dict(zip(self.inputs, values, strict=True))

    # What is to be trained ------------------------------------------------------------------

    def inspect(self, request: gr.Request, *given: Any) -> Updates:
        """The report on the data."""
        language, values = language_of(request), self._values(given)
        form, choice = self.form, self._choice(values)
        source, own, base = choice.place(), _corrections(values), _base_title(values, language)
        updates: Updates = {
            form.uploading: gr.update(visible=choice.source == "upload"),
            form.data["fraction"]: gr.update(visible=source is None or source.dev is None),
        }
        nothing = {**updates, **form.own.show((), {}, own, language)}
        try:
            inspected = self._inspect(choice, values)
        except NoNewTaskError as error:
            return {**nothing, form.report: view.all_known(base, error.args, language)}
        except (DataError, OSError) as error:
            reason = without_folders(str(error), choice.uploads)
            return {**nothing, form.report: unreadable(reason, language)}
        if inspected is None:
            return {**nothing, form.report: view.no_data("train_upload_first", language)}
        tasks = [task for task in choice.tasks if task in inspected.tasks]
        return {
            **updates,
            form.data["tasks"]: gr.update(choices=[*inspected.tasks], value=tasks),
            form.report: view.report(
                inspected.report,
                own.tasks(inspected.own),
                language,
                base=base,
                left_out=inspected.left_out,
            ),
            **form.own.show(inspected.own, inspected.examples, own, language),
        }

    def _choice(self, values: Mapping[str, Any]) -> DataChoice:
        return DataChoice.of(values, growth.known_tasks(self.engine, values["base"]))

    def _is_quick(self, values: Mapping[str, Any]) -> bool:
        max_length = values["max_length"] or 0
        return is_quick(self._choice(values), max_length, self.backbone.count_tokens())

    def _inspect(self, choice: DataChoice, values: Mapping[str, Any]) -> Inspected | None:
        """See `ui.tabs.train.form.inspect`."""
        max_length = values["max_length"] or 0
        return inspect(choice, self.engine.limits, max_length, self.backbone.count_tokens())

    def plan(self, request: gr.Request, *given: Any) -> Updates:
        """Budget and command for what is filled in."""
        language, values = language_of(request), self._values(given)
        settings, choice = self.form.settings, self._choice(values)
        is_new = not values["base"]  # else the sizes are those of the adapter
        sizes = method.sizes if (method := METHODS.get(values["method"])) else CGC_SIZES
        updates: Updates = {
            **{settings[name]: gr.update(visible=is_new and name in sizes) for name in SIZES},
            **{settings[name]: gr.update(visible=is_new) for name in _OF_NEW},
            settings["modules"]: gr.update(visible=is_new, choices=self.backbone.modules()),
            self.command_note: gr.update(visible=choice.shown_paths() == STAND_INS),
            self.command: "",
        }
        try:
            run = self._run(choice, values, language)
        except ConfigError as error:
            return {**updates, self.form.budget: view.bad_settings(str(error), language)}
        except (DataError, OSError):
            run = None  # the report says what is wrong
        if run is None:
            return {**updates, self.form.budget: view.no_data("train_no_data", language)}
        return {
            **updates,
            self.form.budget: self._budget(run, language),
            self.command: self._command_line(choice, run, str(values["name"])),
        }

    def _run(
        self, choice: DataChoice, values: Mapping[str, Any], language: Language
    ) -> _Run | None:
        """What is to be trained; None before there is data.

        Raises:
            ConfigError: A setting is out of range.
            DataError, OSError: The data cannot be used.
        """
        inspected = self._inspect(choice, values)
        if inspected is None:
            return None
        tasks, base = tuple(sorted(inspected.data.train.tasks)), str(values["base"] or "")
        plan = (
            growth.addition(self.engine, base, tasks, language) if base else plan_of(values, tasks)
        )
        return _Run(inspected, _corrections(values), base, plan, settings_of(values, plan.config()))

    def _budget(self, run: _Run, language: Language) -> str:
        settings = run.settings
        steps = settings.steps(run.inspected.data.records(settings.records_per_task))
        pace = self.runs.seconds_a_character() if self.allowed else None
        records = steps * settings.batch_size * settings.accumulation
        characters = records * run.inspected.report.characters
        cost = (
            self.backbone.parameters(),
            steps,
            None if pace is None else pace * characters,
            language,
        )
        if isinstance(run.plan, Addition):
            return growth.budget(run.plan, run.base, *cost)
        return view.budget(budgets(run.plan, self.backbone.kinds()), run.plan.method, *cost)

    def _command(self, run: _Run, data: str, dev: str, out: str, source: str | None) -> list[str]:
        """The command for files that hold the chosen tasks alone."""
        backbone = ["--backbone", source] if source else []
        return [*command(run.plan, run.settings, data, dev, out), *backbone]

    def _command_line(self, choice: DataChoice, run: _Run, name: str) -> str:
        """What a visitor would type."""
        train, dev = choice.shown_paths()
        if not self.allowed:
            run = replace(run, plan=growth.without_folder(run.plan))
        shown = self._command(run, train, dev, f"runs/training/{name}", self.shown_backbone)
        tasks = run.plan.tasks if run.inspected.left_out else choice.tasks
        shown += [part for task in tasks for part in ("--task", task)]
        # The shell expands a variable in double quotes, or in none.
        parts = (
            part if part in (train, dev) and "$" in part else shlex.quote(part) for part in shown
        )
        return f"python {' '.join(parts)}"

    # Starting -------------------------------------------------------------------------------

    def is_taken(self, name: str) -> bool:
        """See `NamedJobTab`."""
        return (
            name in (BARE, COMPARED)
            or name in self.engine.configs
            or (self.folder / name).exists()
            or any(job.title == name for job in self.jobs.all())
        )

    def submit(self, request: gr.Request, *given: Any) -> Updates:
        """A new run, at the end of the queue."""
        language, values = language_of(request), self._values(given)
        choice = self._choice(values)
        return self.start_job(
            request,
            lambda: self._submit(choice, values, language),
            choice.uploads,
            lambda: {self.name: self.free_name()},
        )

    def _submit(self, choice: DataChoice, values: Mapping[str, Any], language: Language) -> Job:
        """A new job.

        Raises:
            JobError: It cannot be started; in the visitor's language.
            ConfigError: A setting is out of range.
            DataError, OSError: The data cannot be used.
        """
        self.check_queue(language)
        try:
            run = self._run(choice, values, language)
        except NoNewTaskError as error:
            base = _base_title(values, language)
            raise JobError(view.why_all_known(base, error.args, language)) from error
        name = str(values["name"] or "").strip()
        if run is None:
            raise JobError(text("train_no_data", language))
        return self.with_name(name, lambda: self._queue(run, name, choice.source), language)

    def _queue(self, run: _Run, name: str, source: str) -> Job:
        settings, config = run.settings, run.plan.config()
        own = run.own.entries(run.inspected.own)
        data = run.inspected.data.with_own(own)
        folder = self.jobs.prepare()
        written = data.write(folder)
        places = (*written[:2], self.folder / name)
        train, dev, out = (short_path(path, Path.cwd()) for path in places)
        records = settings.batch_size * settings.accumulation
        return self.jobs.submit(
            "train",
            self._command(run, train, dev, out, self.backbone_name),
            title=name,
            facts={
                **growth.origin(self.engine, run.plan, run.base),
                "source": source,
                "tasks": [*run.plan.tasks],
                "titles": {
                    **growth.base_titles(self.engine, run.base),
                    **{one["name"]: one["title"] for one in own},
                },
                "common": config.common,
                "specific": config.specific,
                "records": len(data.train.records),
                "dev_records": len(data.dev.records),
                "characters_a_step": run.inspected.report.characters * records,
            },
            id=folder.name,
            clean=[file.name for file in written],
        )


def _base_title(values: Mapping[str, Any], language: Language) -> str:
    return forms.cluster_title(str(values["base"] or ""), language)


def _corrections(values: Mapping[str, Any]) -> Corrections:
    return Corrections.of(*(values[name] for name in _OWN))


def _as_built(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The values of components in a page that has just been opened."""
    return {name: part.value for name, part in inputs.items()}


def _changed(component: Any) -> Any:
    """The event of another value that the visitor chose.

    What a handler writes is a `change`, too, and must not call it again. Of texts and files nothing
    is written while they are in use, and text that is pasted is no `input`.
    """
    is_change = isinstance(component, gr.Textbox | gr.File)
    return component.change if is_change else component.input
