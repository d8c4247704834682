"""The tab where visitors compare methods on data of their own."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from cgclora.config import ConfigError
from cgclora.data.records import DataError
from cgclora.storage.atomic_io import short_path
from evals.data.splits import Splits
from evals.experiments.own_data.comparison import DATA_FOLDER, begin, newest_pace
from evals.experiments.own_data.plan import ComparisonPlan, make_plan
from evals.experiments.training_plan import Budget
from evals.jobs.queue import Job, JobError, Jobs
from evals.methods import METHODS
from evals.tasks import Language
from ui.components import forms
from ui.components.own_tasks import Corrections
from ui.components.texts import language_of, text
from ui.components.widgets import Bilingual
from ui.engine.engine import AppEngine
from ui.engine.settings import Settings
from ui.server.files import without_folders
from ui.shell import AT_ONCE, LAST, Shell, Updates, remember
from ui.tabs.compare import view
from ui.tabs.compare.form import (
    EXAMPLE,
    UPLOAD,
    DataChoice,
    inspect,
    is_quick,
    wish_options,
    wishes_of,
)
from ui.tabs.compare.layout import HUB, CompareForm
from ui.tabs.compare.runs import Comparisons
from ui.tabs.jobs.tab import NamedJobTab
from ui.tabs.jobs.view import unreadable
from ui.tabs.train.form import BackboneView, folders
from ui.tabs.train.view import bad_settings, no_data

_OWN = ("own_written", "own_recognised")
"""What the values of `OwnTasks.inputs` are called here."""


@dataclass(frozen=True)
class _Run:
    """What is to be compared."""

    splits: Splits
    plan: ComparisonPlan


class Compare(NamedJobTab):
    """The tab's components and event handlers."""

    prefix, panel, subfolder, proposal = "compare", Comparisons, "evaluations", "mine"
    runs: Comparisons

    def __init__(self, shell: Shell, engine: AppEngine, jobs: Jobs, settings: Settings) -> None:
        super().__init__(shell, engine, jobs, settings)
        self.backbone = BackboneView(engine)
        # Counts up when there is much to read, which the event that follows does.
        self.arrived = gr.Number(visible="hidden", precision=0)
        self._wire(shell)

    def lay_out_form(self, add: Bilingual) -> None:
        """Data, methods and budget."""
        self.form = CompareForm(add)

    # Events ---------------------------------------------------------------------------------

    def _wire(self, shell: Shell) -> None:
        form = self.form
        own = dict(zip(_OWN, form.own.inputs, strict=True))
        self.inputs: dict[str, Any] = {**form.data, **form.wishes, **own, "name": self.name}
        inputs = [*self.inputs.values()]
        source, hub = form.data["source"], form.data["hub"]
        found = [form.report, form.uploading, hub, form.data["tasks"], *form.own.parts]
        planned = [form.estimate, self.command]
        arriving = [source, self.name, self.arrived, *found, *planned]
        shell.on_show("compare", self.show, [source, self.arrived], arriving)
        files = [form.data[f"{name}_file"].change for name in ("train", "dev", "test")]
        # Source and tasks are written by handlers, so only what the visitor enters counts.
        of_data = [source.input, *files, hub.submit, hub.blur, form.data["tasks"].input]
        of_data.append(form.own.written.change)
        inspected = gr.on([self.arrived.change, *of_data], self.inspect, inputs, found, **LAST)
        inspected.then(self.plan, inputs, planned, **AT_ONCE)
        remember(inspected, compare_source=source)
        wishes = [
            one.input if isinstance(one, gr.Slider | gr.CheckboxGroup) else one.change
            for one in form.wishes.values()
        ]
        gr.on(wishes, self.plan, inputs, planned, **LAST)
        begun = self.start.click(
            self.submit, inputs, [self.outcome, self.name, *self.runs.parts], **AT_ONCE
        )
        self.name.change(self.rename, inputs, self.command, **LAST)
        self.runs.wire(shell, begun)

    def show(self, request: gr.Request, source: str | None, arrived: float | None) -> Updates:
        """The tab comes into view; at first with report and plan of what the address chose.

        They follow if there is much to read, or if the page holds choices of the visitor's: see
        `ui.tabs.train.tab.Train.show`.
        """
        language = language_of(request)
        sources = self._sources(language)
        field, count = self.form.data["source"], {self.arrived: (arrived or 0) + 1}
        if source:
            return {field: gr.update(choices=sources, value=source), **count}
        names = [name for _, name in sources]
        linked = str(request.query_params.get("compare_source", ""))
        values = {name: part.value for name, part in self.inputs.items()}
        values["source"] = linked if linked in names else names[0]
        updates = self.propose_name()
        values["name"] = updates.get(self.name, values["name"])
        updates[field] = gr.update(choices=sources, value=values["source"])
        if not is_quick(DataChoice.of(values)):
            return {**updates, self.form.report: no_data("train_reading", language), **count}
        chosen = [*values.values()]
        return {**self.inspect(request, *chosen), **self.plan(request, *chosen), **updates}

    def _values(self, values: Iterable[Any]) -> dict[str, Any]:
        return dict(zip(self.inputs, values, strict=True))

    def _sources(self, language: Language) -> list[tuple[str, str]]:
        """Titles of the sources of data, and their names."""
        choices = [
            (text("compare_source_upload", language), UPLOAD),
            (text("compare_source_example", language), EXAMPLE),
        ]
        if self.allowed:  # strangers do not make this server fetch
            choices.append((text("compare_source_hub", language), HUB))
        for cluster in folders():
            words = forms.cluster_title(cluster, language)
            choices.append((text("train_source_folder", language, cluster=words), cluster))
        return choices

    # What is to be compared -----------------------------------------------------------------

    def inspect(self, request: gr.Request, *given: Any) -> Updates:
        """The report on the data."""
        language, form = language_of(request), self.form
        values = self._values(given)
        choice, own = DataChoice.of(values), _corrections(values)
        updates: Updates = {
            **form.own.show((), {}, own, language),
            form.uploading: gr.update(visible=choice.source == UPLOAD),
            form.data["hub"]: gr.update(visible=choice.source == HUB),
        }
        try:
            inspected = inspect(choice, self.engine.limits)
        except (DataError, OSError) as error:
            reason = without_folders(str(error), choice.uploads)
            return {**updates, form.report: unreadable(reason, language)}
        if inspected is None:
            return {**updates, form.report: no_data("compare_upload_first", language)}
        splits = inspected.splits
        tasks = [task for task in choice.tasks if task in inspected.tasks]
        return {
            **updates,
            form.data["tasks"]: gr.update(choices=[*inspected.tasks], value=tasks),
            form.report: view.report(splits, own.tasks(splits.train.own), language),
            **form.own.show(splits.train.own, inspected.examples, own, language),
        }

    def plan(self, request: gr.Request, *given: Any) -> Updates:
        """What it costs, and the command."""
        language, values = language_of(request), self._values(given)
        form, choice = self.form, DataChoice.of(values)
        try:
            run = self._run(choice, values)
        except ConfigError as error:
            return {form.estimate: bad_settings(str(error), language), self.command: ""}
        except (DataError, OSError):
            run = None  # the report says what is wrong
        if run is None:
            return {form.estimate: no_data("compare_no_data", language), self.command: ""}
        minutes = float(values["minutes"] or 0)
        budgets = self._budgets(run.plan)
        line = self._command_line(choice, values)
        return {
            form.estimate: view.estimate(run.plan, budgets, minutes, language),
            self.command: line,
        }

    def _run(self, choice: DataChoice, values: Mapping[str, Any]) -> _Run | None:
        """What is to be compared; None before there is data.

        Raises:
            ConfigError: A setting is out of range.
            DataError, OSError: The data cannot be used.
        """
        wishes = wishes_of(values)
        inspected = inspect(choice, self.engine.limits)
        if inspected is None:
            return None
        name = str(values["name"] or "").strip() or "my-comparison"
        splits = inspected.splits
        splits = splits.with_own(_corrections(values).entries(splits.train.own))
        return _Run(splits, make_plan(name, splits, wishes, newest_pace(self.folder)))

    def _budgets(self, plan: ComparisonPlan) -> Sequence[Budget]:
        """The size of each method's adapters; of one a task their sum."""
        kinds, (tasks,) = self.backbone.kinds(), plan.recipe.clusters.values()
        shapes = [(kind.inner, kind.outer) for kind in kinds or () for _ in range(kind.layers)]
        budgets = []
        for name in plan.recipe.methods:
            method = METHODS[name]
            if method.config is None:
                budgets.append(Budget(name))
                continue
            groups = [(task,) for task in tasks] if method.has_many else [tasks]
            configs = [plan.recipe.config(name, group) for group in groups]
            parameters = sum(config.trainable_parameters(shapes) for config in configs)
            total = sum(config.total_rank for config in configs)
            budgets.append(
                Budget(name, total, configs[0].active_rank, parameters if shapes else None)
            )
        return budgets

    def _command(self, data: Sequence[str], out: str, backbone: str | None) -> list[str]:
        named = ["--backbone", backbone] if backbone else []
        return ["-m", "evals", "compare-methods", *data, "--out", out, *named]

    def _command_line(self, choice: DataChoice, values: Mapping[str, Any]) -> str:
        """What a visitor would type."""
        options = [*choice.shown_options(), *wish_options(values)]
        out = f"runs/evaluations/{values['name'] or 'my-comparison'}"
        return shlex.join(["python", *self._command(options, out, self.shown_backbone)])

    # Starting -------------------------------------------------------------------------------

    def is_taken(self, name: str) -> bool:
        """See `NamedJobTab`."""
        return (self.folder / name).exists() or any(
            job.kind == "compare" and job.title == name for job in self.jobs.all()
        )

    def submit(self, request: gr.Request, *given: Any) -> Updates:
        """A new comparison, at the end of the queue."""
        language, values = language_of(request), self._values(given)
        choice = DataChoice.of(values)
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
        name = str(values["name"] or "").strip()
        run = self._run(choice, values)
        if run is None:
            raise JobError(text("compare_no_data", language))
        return self.with_name(name, lambda: self._queue(run, name, choice), language)

    def _queue(self, run: _Run, name: str, choice: DataChoice) -> Job:
        out = self.folder / name
        begin(out, run.splits, run.plan)
        shown = short_path(out, Path.cwd())
        recipe = run.plan.recipe
        return self.jobs.submit(
            "compare",
            self._command([f"{shown}/{DATA_FOLDER}"], shown, self.backbone_name),
            title=name,
            facts={
                "data": choice.source if choice.source != UPLOAD else run.splits.train.name,
                "tasks": [*run.splits.tasks],
                "titles": {entry["name"]: entry["title"] for entry in run.splits.train.own},
                "methods": [*recipe.methods],
                "seeds": len(recipe.seeds),
            },
        )


def _corrections(values: Mapping[str, Any]) -> Corrections:
    return Corrections.of(*(values[name] for name in _OWN))
