"""A tab that starts jobs: a form, the step that starts one, and the list of jobs."""

import hashlib
import json
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import gradio as gr

from cgclora.config import ConfigError
from cgclora.data.records import DataError
from evals.jobs.queue import Job, JobError, Jobs
from evals.tasks import Language
from ui.components import render
from ui.components.html import block
from ui.components.texts import TEXTS, language_of, text
from ui.components.widgets import Bilingual, Choice
from ui.engine.engine import AppEngine
from ui.engine.settings import Settings
from ui.server.files import public_path, without_folders
from ui.shell import AT_ONCE, LAST, Shell, Updates, remember
from ui.tabs.jobs import view

SIDE: dict[str, Any] = {"scale": 0, "min_width": 272, "elem_classes": "job-side"}
MAIN: dict[str, Any] = {"min_width": 300, "elem_classes": "job-main"}

_LIVE = ("queued", "running")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,39}", re.ASCII)  # `-a` would be an option

_IN_VIEW = """(chosen, seen) =>
  [chosen, seen, Boolean(document.getElementById("%s-jobs-step")?.offsetParent)]"""
_ASK = """(chosen) =>
  confirm(document.documentElement.lang.startsWith("zh") ? "%s" : "%s") ? [chosen] : [null]"""
_TO_JOBS = """() => document.getElementById("%s-jobs-step")
  ?.scrollIntoView({ behavior: "smooth", block: "nearest" })"""


class JobPanel(ABC):
    """Lists jobs, and lets visitors stop, resume and remove them.

    Without `allowed` visitors neither see nor change the jobs. `parts` are the components that
    `updates` writes; `folder` holds the run folders.
    """

    kind: ClassVar[str]  # of the jobs that are listed
    prefix: ClassVar[str]  # of element ids and texts
    tab: ClassVar[str]  # id of the tab
    link_key: ClassVar[str]  # the chosen job's name in the address
    remove_words: ClassVar[str] = "jobs_remove"
    warning: ClassVar[str] = ""  # text that asks before a job is removed

    def __init__(
        self, add: Bilingual, engine: AppEngine, jobs: Jobs, folder: Path, *, allowed: bool
    ) -> None:
        self.engine = engine
        self.jobs = jobs
        self.folder = folder
        self.allowed = allowed
        self._lay_out(add)
        with self.details:
            extra = self.lay_out_details(add)
        self.parts: list[Any] = [
            *(self.no_jobs, self.body, self.choice, self.stop, self.resume, self.remove),
            *(self.problem, self.head, self.command, self.seen, self.clock, *extra),
        ]

    def _lay_out(self, add: Bilingual) -> None:
        prefix = self.prefix
        with add.section(f"{prefix}_jobs", visible=self.allowed, elem_id=f"{prefix}-jobs-step"):
            self.no_jobs = add.paragraph(f"{prefix}_no_jobs")
            with gr.Row(elem_classes="job-halves", visible=False) as self.body:
                with gr.Column(**SIDE):
                    self.choice = add(
                        Choice,
                        f"{prefix}_jobs",
                        container=False,
                        elem_id=f"{prefix}-jobs",
                        elem_classes="job-rows",
                    )
                    with gr.Row(elem_classes="job-actions"):
                        self.stop, self.resume, self.remove = (
                            add.small_button(words, 112, visible=False)
                            for words in ("jobs_stop", "jobs_resume", self.remove_words)
                        )
                with gr.Column(**MAIN):
                    self.problem = gr.HTML(visible=False)
                    self.head = gr.HTML(elem_id=f"{prefix}-job")
                    self.details = gr.Column()
                    # Apart from the head, whose updates would fold it again.
                    self.command = gr.HTML(elem_id=f"{prefix}-job-command")
        self.seen = gr.Textbox(visible="hidden")  # hash of what the page shows
        self.in_view = gr.Checkbox(visible="hidden")  # filled in by the browser
        self.clock = gr.Timer(1.5, active=False)

    # Defined by each kind of jobs ---------------------------------------------------------------

    def lay_out_details(self, add: Bilingual) -> list[Any]:
        """Make the components that `show_details` updates, between head and command."""
        return []

    def title(self, job: Job, language: Language) -> str:
        """A job's title in the list."""
        return job.title

    def share_done(self, job: Job) -> float | None:
        """The share of a running job that is done, in [0, 1]; None if unknown."""
        return None

    @abstractmethod
    def show(self, job: Job, language: Language, link_language: str) -> str:
        """A job as HTML; whenever it changes, the page is updated.

        `link_language` is the language that the address names; empty if it names none.
        """

    def show_command(self, job: Job, language: Language) -> str:
        """A job's command as HTML."""
        return view.command(job, language)

    def show_details(self, job: Job, language: Language) -> dict[Any, Any]:
        """Updates of the components that `lay_out_details` made."""
        return {}

    def delete(self, id: str) -> None:  # noqa: A002 - it is the job's
        """Remove a job that has ended."""
        self.jobs.remove(id)

    # Events -----------------------------------------------------------------------------------

    def wire(self, shell: Shell, start: Any) -> None:
        """Register the events; `start` is the event that submits a job."""
        if not self.allowed:
            return
        remember(start, **{self.link_key: self.choice})
        start.success(None, None, None, js=_TO_JOBS % self.prefix, **AT_ONCE)
        shell.on_show(self.tab, self.arrive, [self.choice], self.parts)
        seen = [self.choice, self.seen, self.in_view]
        self.clock.tick(self.refresh, seen, self.parts, js=_IN_VIEW % self.prefix, **AT_ONCE)
        chosen = self.choice.input(self.updates, self.choice, self.parts, **LAST)
        remember(chosen, **{self.link_key: self.choice})
        for button, action in (
            (self.stop, self.jobs.stop),
            (self.resume, self.jobs.resume),
            (self.remove, self.delete),
        ):
            asked = _ASK % TEXTS[self.warning] if action == self.delete and self.warning else None
            button.click(self.acting(action), self.choice, self.parts, js=asked, **AT_ONCE)

    def arrive(self, request: gr.Request, chosen: str | None) -> Any:
        """The tab comes into view; the address counts until something is chosen."""
        return self.updates(chosen or request.query_params.get(self.link_key), request)

    def refresh(self, chosen: str | None, seen: str, in_view: bool, request: gr.Request) -> Any:
        """What has changed since the page was last updated; out of view the clock stops."""
        if not in_view:
            return {self.clock: gr.Timer(active=False)}
        return self.updates(chosen, request, seen)

    def acting(self, action: Callable[[str], Any]) -> Callable[..., Any]:
        """A handler that changes the chosen job."""

        def handler(chosen: str | None, request: gr.Request) -> Any:
            if not (self.allowed and chosen):
                return gr.skip()
            problem = ""
            try:
                action(chosen)
            except JobError as error:
                failed = text("jobs_action_failed", language_of(request))
                problem = render.notice(failed, verbatim=str(error))
            return {**self.updates(chosen, request), self.problem: block(problem)}

        return handler

    # Updates ----------------------------------------------------------------------------------

    def all(self) -> list[Job]:
        """The jobs of this kind, newest first."""
        return [job for job in self.jobs.all() if job.kind == self.kind]

    def updates(self, chosen: str | None, request: gr.Request, seen: str = "") -> Any:
        """The list, and the chosen job, or else the newest one.

        Nothing is updated if the value `seen` of `self.seen` has not changed.
        """
        if not self.allowed:
            return gr.skip()
        language, jobs = language_of(request), self.all()
        job = next((job for job in jobs if job.id == chosen), jobs[0] if jobs else None)
        rows = [(self._row(each, language), each.id) for each in jobs]
        shown = self.show(job, language, str(request.query_params.get("lang", ""))) if job else ""
        active = any(each.state in _LIVE for each in jobs)
        id = job.id if job else None  # noqa: A001 - it is the job's
        digest = hashlib.sha256(json.dumps([rows, id, shown, active]).encode()).hexdigest()
        if digest == seen:
            return gr.skip()
        return {
            self.no_jobs: gr.update(visible=not jobs),
            self.body: gr.update(visible=bool(jobs)),
            self.choice: gr.update(choices=rows, value=id),
            self.problem: block(""),
            self.seen: digest,
            self.clock: gr.Timer(active=active),
            **(self._chosen(job, shown, language) if job else {}),
        }

    def _chosen(self, job: Job, shown: str, language: Language) -> dict[Any, Any]:
        is_live = job.state in _LIVE
        return {
            self.head: shown,
            self.command: self.show_command(job, language),
            self.stop: gr.update(visible=is_live, interactive=not job.stopping),
            self.resume: gr.update(visible=job.resumable),
            self.remove: gr.update(visible=not is_live),
            **self.show_details(job, language),
        }

    def _row(self, job: Job, language: Language) -> str:
        share = self.share_done(job) if job.state == "running" else None
        return view.row(job, self.title(job, language), share, language)


class JobTab(ABC):
    """A form, the step that starts a job, and the list of jobs.

    Attributes:
        allowed: Whether visitors may start jobs.
        fields: Column for what is filled in before the start.
        notes: Column below the command.
    """

    prefix: ClassVar[str]  # of element ids and texts
    panel: ClassVar[type[JobPanel]]  # class of the list of jobs
    subfolder: ClassVar[str]  # of the runs' folder, for this kind of jobs
    not_allowed: ClassVar[str] = "jobs_not_allowed"  # text where visitors may not start them

    def __init__(self, shell: Shell, engine: AppEngine, jobs: Jobs, settings: Settings) -> None:
        self.engine = engine
        self.jobs = jobs
        self.allowed = self.is_allowed(settings)
        self.folder = settings.runs.absolute() / self.subfolder
        self.backbone_name = name = settings.backbone
        # Visitors of somebody else's server are not shown where its files lie.
        self.shown_backbone = name if self.allowed or not name else public_path(name)
        add = shell.bilingual
        with gr.Column(elem_id=self.prefix, elem_classes="jobs-tab"):
            add(
                gr.HTML,
                {"value": lambda word: f'<p class="jobs-off">{word(self.not_allowed)}</p>'},
                visible=not self.allowed,
                elem_id=f"{self.prefix}-notice",
            )
            self.lay_out_form(add)
            self._lay_out_start(add)
            self.runs = self.panel(add, engine, jobs, self.folder, allowed=self.allowed)

    @staticmethod
    def is_allowed(settings: Settings) -> bool:
        """Whether visitors may start jobs of this kind."""
        return settings.jobs_allowed

    @abstractmethod
    def lay_out_form(self, add: Bilingual) -> None:
        """Make the steps before the start."""

    def _lay_out_start(self, add: Bilingual) -> None:
        with step(add, "jobs_start_heading"):
            with gr.Column(**SIDE):
                self.fields = gr.Column()
                self.start = add(
                    gr.Button,
                    f"{self.prefix}_start",
                    variant="primary",
                    visible=self.allowed,
                    elem_id=f"{self.prefix}-start",
                )
                self.outcome = gr.HTML(elem_id=f"{self.prefix}-outcome")
            with gr.Column(**MAIN):
                self.command = add(
                    gr.Textbox,
                    "jobs_command",
                    lines=3,
                    max_lines=8,
                    interactive=False,
                    buttons=["copy"],
                    elem_id=f"{self.prefix}-command",
                )
                self.notes = gr.Column()

    def start_job(
        self,
        request: gr.Request,
        submit: Callable[[], Job],
        uploads: Iterable[Path],
        reset: Callable[[], Updates],
    ) -> Updates:
        """Put a job into the queue, or show why it was refused.

        The folders of uploads are not shown; `reset` gives more updates after success.
        """
        language = language_of(request)
        try:
            job = submit()
        except (JobError, ConfigError, DataError, OSError) as error:
            reason = without_folders(str(error), uploads)
            return {self.outcome: render.notice(text("jobs_not_started", language), reason)}
        queued = f'<p class="quiet" role="status">{text("jobs_queued", language)}</p>'
        return {**reset(), **self.runs.updates(job.id, request), self.outcome: queued}

    def check_queue(self, language: Language) -> None:
        """Refuse a job that may not be started here.

        Raises:
            JobError: Visitors may not start jobs, or too many wait; in the visitor's language.
        """
        if not self.allowed:
            raise JobError(text(self.not_allowed, language))
        if (waiting := self.jobs.waiting) >= self.engine.limits.jobs:
            raise JobError(text("jobs_full", language, count=waiting))


class NamedJobTab(JobTab):
    """A tab whose jobs have names, which visitors choose.

    Attributes:
        name: The field for the name.
    """

    proposal: ClassVar[str]  # `my` proposes my-1, my-2, ...

    def __init__(self, shell: Shell, engine: AppEngine, jobs: Jobs, settings: Settings) -> None:
        super().__init__(shell, engine, jobs, settings)
        self._naming = threading.Lock()
        with self.fields:
            self.name = shell.bilingual(
                gr.Textbox,
                {"label": f"{self.prefix}_name", "info": f"{self.prefix}_name_info"},
                value=self.free_name(),
                max_length=40,
                elem_id=f"{self.prefix}-name",
            )

    def propose_name(self) -> Updates:
        """An update of the name, if another than the built one is proposed by now.

        It is a change of the name like any other, which asks for the command again.
        """
        name = self.free_name()
        return {} if name == self.name.value else {self.name: name}

    def rename(self, request: gr.Request, *given: Any) -> Any:
        """The command with another name."""
        return self.plan(request, *given)[self.command]

    @abstractmethod
    def plan(self, request: gr.Request, *given: Any) -> Updates:
        """Updates of the command and of what starting the form's job would cost."""

    @abstractmethod
    def is_taken(self, name: str) -> bool:
        """Whether a name is in use."""

    def free_name(self) -> str:
        """The first name of the proposed form that is not taken."""
        if not self.allowed:  # names of other visitors' jobs are not revealed
            return f"{self.proposal}-1"
        return next(name for n in count(1) if not self.is_taken(name := f"{self.proposal}-{n}"))

    def with_name(self, name: str, queue: Callable[[], Job], language: Language) -> Job:
        """Put a job with a name into the queue.

        Raises:
            JobError: The name is taken or has other characters; in the visitor's language.
        """
        if not _NAME.fullmatch(name):
            raise JobError(text("jobs_bad_name", language))
        with self._naming:  # every page proposes the same name
            if self.is_taken(name):
                raise JobError(text(f"{self.prefix}_name_taken", language, name=name))
            return queue()


@contextmanager
def step(add: Bilingual, heading: str) -> Iterator[None]:
    """A step of the form, to be filled with columns `SIDE` and `MAIN`."""
    with add.section(heading), gr.Row(elem_classes="job-halves"):
        yield


def upload(add: Bilingual, label: str, elem_id: str, **properties: Any) -> Any:
    """An upload of a file of records."""
    kinds = [".jsonl", ".json"]
    return add(gr.File, label, file_types=kinds, height=112, elem_id=elem_id, **properties)
