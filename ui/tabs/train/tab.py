"""The tab where a visitor trains an adapter of their own and watches it learn."""

from __future__ import annotations

import re
import shlex
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from cgclora.config import ConfigError
from cgclora.data.records import DataError
from cgclora.storage.atomic_io import short_path
from evals.experiments.training_plan import Plan, budgets, command, trainable
from evals.jobs.queue import JobError, Jobs
from evals.methods import CGC_SIZES, METHODS
from evals.tasks import Language
from ui.components import forms
from ui.components.texts import language_of, text
from ui.engine.engine import COMPARED, Engine
from ui.engine.questions import BARE
from ui.server.public_paths import shown_place
from ui.shell import AT_ONCE, LAST, Shell, remember
from ui.tabs.train import view as train_view
from ui.tabs.train.backbone import BackboneFacts
from ui.tabs.train.data import DataDesk, Look
from ui.tabs.train.form import (
    SIZES,
    STAND_INS,
    DataChoice,
    folders,
    plan_of,
    settings_of,
)
from ui.tabs.train.layout import TrainLayout
from ui.tabs.train.runs import TrainRuns

if TYPE_CHECKING:
    from cgclora.training.settings import TrainingSettings

Updates = dict[Any, Any]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,39}", re.ASCII)  # `-a` would be an option


@dataclass(frozen=True)
class _Ready:
    """All that a run needs."""

    look: Look
    plan: Plan
    settings: TrainingSettings


class Train(TrainLayout):
    """The tab's components and what they do.

    Args:
        shell: What stands around it.
        engine: Who answers with the trained adapters.
        jobs: The queue that runs stand in.
        runs: Below its folder `training` is the run folder of each adapter.
        allowed: Whether visitors may start and stop runs.
        backbone: A local folder or hub id to train on; None takes the embedded one.
    """

    def __init__(
        self,
        shell: Shell,
        engine: Engine,
        jobs: Jobs,
        runs: Path,
        allowed: bool,
        *,
        backbone: str | None = None,
    ) -> None:
        super().__init__(shell.bilingual, allowed=allowed)
        self.engine = engine
        self.jobs = jobs
        self.folder = Path(runs) / "training"
        self.allowed = allowed
        self.source = backbone
        self.backbone = BackboneFacts(engine)
        self.desk = DataDesk(engine.limits)
        self.watcher = TrainRuns(self, engine, jobs, self.folder, allowed=allowed)
        self._starting = threading.Lock()
        self._wire(shell)

    # Events ---------------------------------------------------------------------------------

    def _wire(self, shell: Shell) -> None:
        fields = {**self.data, **self.settings, "name": self.name}
        self._names = [*fields]
        inputs = [*fields.values()]
        source, method = self.data["source"], self.settings["method"]
        arriving = [source, method, self.name, self.notice, self.load_clock, self.arrived]
        shell.on_show("train", self._arrive, [source, self.arrived], arriving)
        self.load_clock.tick(self._wait, self.arrived, [self.load_clock, self.arrived], **AT_ONCE)
        # In two steps, so that what is quick does not wait for what reads, and is never behind.
        of_data = [*self.data.values(), self.settings["seed"], self.settings["max_length"]]
        looked = gr.on(
            [self.arrived.change, *map(_changed, of_data)],
            self._look,
            inputs,
            [self.report, self.upload, self.data["tasks"], self.data["fraction"]],
            **LAST,
        )
        sizes = [self.settings[name] for name in SIZES]
        parts = [self.budget, self.command, self.command_note, self.settings["modules"], *sizes]
        looked.then(self._plan, inputs, parts, **AT_ONCE)
        remember(looked, source=source)
        others = [one for one in inputs if one not in of_data]
        planned = gr.on([*map(_changed, others)], self._plan, inputs, parts, **LAST)
        remember(planned, method=method)
        begun = self.start.click(
            self._start, inputs, [self.outcome, self.name, *self.watcher.parts], **AT_ONCE
        )
        remember(begun, run=self.runs)
        self.watcher.wire(shell)

    def _arrive(self, source: str | None, arrived: float | None, request: gr.Request) -> Updates:
        """The tab comes into view: what can be chosen, and at first what the address chose."""
        language, asked = language_of(request), request.query_params
        sources = self._sources(language)
        updates: Updates = {self.notice: train_view.off(language)}
        if not source:
            names = [name for _, name in sources]
            wanted, method = str(asked.get("source", "")), str(asked.get("method", ""))
            source = wanted if wanted in names else names[0]
            updates[self.name] = self._free_name()
            if method in trainable():
                updates[self.settings["method"]] = method
        updates[self.data["source"]] = gr.update(choices=sources, value=source)
        updates[self.load_clock] = gr.Timer(active=not self._has_loaded())
        return {**updates, self.arrived: (arrived or 0) + 1}

    def _wait(self, arrived: float | None) -> Any:
        """What is known of the backbone alone is shown once it is there."""
        if not self._has_loaded():
            return gr.skip()
        return {self.load_clock: gr.Timer(active=False), self.arrived: (arrived or 0) + 1}

    def _has_loaded(self) -> bool:
        return self.engine.status.ready or bool(self.engine.status.problem)

    def _values(self, values: tuple[Any, ...]) -> dict[str, Any]:
        return dict(zip(self._names, values, strict=True))

    # What is to be trained ------------------------------------------------------------------

    def _sources(self, language: Language) -> list[tuple[str, str]]:
        """Words for the sources of data, and their names."""
        known = [(text("train_source_samples", language), "samples")]
        for cluster in folders():
            words = forms.cluster_title(cluster, language)
            known.append((text("train_source_folder", language, cluster=words), cluster))
        return [*known, (text("train_source_upload", language), "upload")]

    def _look(self, request: gr.Request, *given: Any) -> Updates:
        """What is in the data."""
        language, values = language_of(request), self._values(given)
        choice = DataChoice.of(values)
        source = choice.place()
        updates: Updates = {
            self.upload: gr.update(visible=choice.source == "upload"),
            self.data["fraction"]: gr.update(visible=source is None or source.dev is None),
        }
        try:
            look = self._look_at(choice, values)
        except (DataError, OSError) as error:
            problem = train_view.unreadable(_public(error, choice), language)
            return {**updates, self.report: problem}
        if look is None:
            return {**updates, self.report: train_view.upload_first(language)}
        tasks = [task for task in choice.tasks if task in look.tasks]
        return {
            **updates,
            self.data["tasks"]: gr.update(choices=[*look.tasks], value=tasks),
            self.report: train_view.report(look.report, language),
        }

    def _look_at(self, choice: DataChoice, values: Mapping[str, Any]) -> Look | None:
        """See `DataDesk.look`."""
        return self.desk.look(choice, values["max_length"] or 0, self.backbone.count_tokens())

    def _plan(self, request: gr.Request, *given: Any) -> Updates:
        """Budget and command for what is filled in."""
        language, values = language_of(request), self._values(given)
        choice = DataChoice.of(values)
        sizes = method.sizes if (method := METHODS.get(values["method"])) else CGC_SIZES
        updates: Updates = {
            **{self.settings[name]: gr.update(visible=name in sizes) for name in SIZES},
            self.settings["modules"]: gr.update(choices=self.backbone.modules()),
            self.command_note: gr.update(visible=choice.shown_paths() == STAND_INS),
        }
        try:
            ready = self._ready(choice, values)
        except ConfigError as error:
            problem = train_view.bad_settings(str(error), language)
            return {**updates, self.budget: problem, self.command: ""}
        except (DataError, OSError):
            ready = None  # the report says what is wrong
        if ready is None:
            return {**updates, self.budget: train_view.no_plan(language), self.command: ""}
        return {
            **updates,
            self.budget: self._budget(ready, language),
            self.command: self._command_line(choice, ready, str(values["name"])),
        }

    def _ready(self, choice: DataChoice, values: Mapping[str, Any]) -> _Ready | None:
        """All that a run needs; None before there is data.

        Raises:
            ConfigError: A setting is out of range.
            DataError, OSError: The data cannot be used.
        """
        look = self._look_at(choice, values)
        if look is None:
            return None
        plan = plan_of(values, tuple(sorted(look.data.train.tasks)))
        return _Ready(look, plan, settings_of(values, plan.config()))

    def _budget(self, ready: _Ready, language: Language) -> str:
        settings = ready.settings
        steps = settings.steps(ready.look.data.records(settings.records_per_task))
        pace = self.watcher.seconds_a_character() if self.allowed else None
        seconds = None
        if pace is not None:
            records = steps * settings.batch_size * settings.accumulation
            seconds = pace * records * ready.look.report.characters
        return train_view.budget(
            budgets(ready.plan, self.backbone.kinds()),
            ready.plan.method,
            self.backbone.parameters(),
            steps,
            seconds,
            language,
        )

    def _command(
        self, ready: _Ready, data: str, dev: str, run: str, source: str | None
    ) -> list[str]:
        """For files that hold the chosen tasks alone."""
        backbone = ["--backbone", source] if source else []
        return [*command(ready.plan, ready.settings, data, dev, run), *backbone]

    def _command_line(self, choice: DataChoice, ready: _Ready, name: str) -> str:
        """What a visitor would type."""
        train, dev = choice.shown_paths()
        # A stranger need not know where on the server things lie.
        source = self.source if self.allowed or not self.source else shown_place(self.source)
        shown = self._command(ready, train, dev, f"runs/training/{name}", source)
        shown += [part for task in choice.tasks for part in ("--task", task)]
        # The shell fills the variable in where it stands in double quotes, or in none.
        parts = (
            part if part in (train, dev) and "$" in part else shlex.quote(part) for part in shown
        )
        return f"python {' '.join(parts)}"

    # Starting -------------------------------------------------------------------------------

    def _free_name(self) -> str:
        """The first of my-1, my-2, ... that nobody has."""
        if not self.allowed:  # nobody else's jobs are any business of this visitor
            return "my-1"
        return next(name for n in count(1) if not self._is_taken(name := f"my-{n}"))

    def _is_taken(self, name: str) -> bool:
        return (
            name in (BARE, COMPARED)
            or name in self.engine.configs
            or (self.folder / name).exists()
            or any(job.title == name for job in self.jobs.all())
        )

    def _start(self, request: gr.Request, *given: Any) -> Updates:
        """A new run, at the end of the queue."""
        language, values = language_of(request), self._values(given)
        name, choice = str(values["name"] or "").strip(), DataChoice.of(values)
        problem, started = "", None
        try:
            ready = self._ready(choice, values)
            if not self.allowed:
                problem = train_view.off(language)
            elif ready is None:
                problem = train_view.refusal("train_no_data", language)
            elif (waiting := self.jobs.waiting) >= self.engine.limits.jobs:
                problem = train_view.refusal("bench_full", language, count=waiting)
            elif not _NAME.fullmatch(name):
                problem = train_view.refusal("train_bad_name", language)
            else:
                with self._starting:  # every page proposes the same name
                    if self._is_taken(name):
                        problem = train_view.refusal("train_name_taken", language, name=name)
                    else:
                        started = self._submit(name, choice.source, ready)
        except (DataError, ConfigError, JobError, OSError) as error:
            words = _public(error, choice)
            problem = train_view.refusal("train_not_started", language, verbatim=words)
        if started is None:
            return {self.outcome: problem}
        return {
            self.outcome: train_view.queued(name, language),
            self.name: self._free_name(),
            **self.watcher.updates(started, request),
        }

    def _submit(self, name: str, source: str, ready: _Ready) -> str:
        """Put a run into the queue; returns the job's id."""
        look, config = ready.look, ready.plan.config()
        folder = self.jobs.prepare()
        written = look.data.write(folder)
        train, dev, run = (short_path(path, Path.cwd()) for path in (*written, self.folder / name))
        settings = ready.settings
        facts = {
            "method": ready.plan.method,
            "source": source,
            "tasks": [*config.tasks],
            "common": config.common,
            "specific": config.specific,
            "records": len(look.data.train.records),
            "dev_records": len(look.data.dev.records),
            "characters_a_step": look.report.characters
            * settings.batch_size
            * settings.accumulation,
        }
        job = self.jobs.submit(
            "train",
            self._command(ready, train, dev, run, self.source),
            title=name,
            facts=facts,
            id=folder.name,
            clean=[file.name for file in written],
        )
        return job.id


def _changed(component: Any) -> Any:
    """The event of another value."""
    # What is pasted is no `input`, nor is what the address says; but what `_look` and `_plan` write
    # must not call them again.
    own = isinstance(component, gr.Slider | gr.Checkbox) or getattr(component, "multiselect", False)
    return component.input if own else component.change


def _public(error: Exception, choice: DataChoice) -> str:
    """An error's words, without the folders that lead to a file."""
    words = str(error)
    for path in filter(None, (choice.train_file, choice.dev_file)):
        words = words.replace(path, Path(path).name)
    for folder in folders().values():
        words = words.replace(str(folder), folder.name)
    return words
