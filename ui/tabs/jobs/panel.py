"""The list of one kind of jobs, and the chosen one as it runs."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import gradio as gr

from evals.jobs.queue import Job, JobError, Jobs
from evals.tasks import Language
from ui.components import render
from ui.components.bilingual import Bilingual
from ui.components.html import block
from ui.components.texts import language_of, text
from ui.shell import AT_ONCE, LAST, Shell, remember
from ui.tabs.jobs import view
from ui.tabs.jobs.layout import ListLayout

Updates = Any
"""Updates by component, or `gr.skip()`."""

_LIVE = ("queued", "running")

_IN_VIEW = """(chosen, seen) =>
  [chosen, seen, Boolean(document.getElementById("%s-jobs-step")?.offsetParent)]"""
_TO_JOBS = """() => document.getElementById("%s-jobs-step")
  ?.scrollIntoView({ behavior: "smooth", block: "nearest" })"""


class JobPanel(ListLayout, ABC):
    """Lists jobs, and lets visitors stop, resume and remove them.

    Args:
        add: Makes components with words.
        jobs: The queue.
        allowed: Whether visitors see and change the jobs.

    Attributes:
        kind: Of the jobs that are listed.
        prefix: Of element ids and texts.
        tab: Id of the tab.
        link_key: The chosen job's name in the address.
        parts: Components that `updates` writes.
    """

    kind: ClassVar[str]
    prefix: ClassVar[str]
    tab: ClassVar[str]
    link_key: ClassVar[str]

    def __init__(self, add: Bilingual, jobs: Jobs, *, allowed: bool) -> None:
        super().__init__(add, self.prefix, allowed=allowed)
        self.jobs = jobs
        self.allowed = allowed
        with self.details:
            extra = self.lay_out_details()
        self.parts: list[Any] = [
            *(self.no_jobs, self.body, self.choice, self.stop, self.resume, self.remove),
            *(self.problem, self.head, self.command, self.seen, self.clock, *extra),
        ]

    # What a kind of jobs says of itself -------------------------------------------------------

    def lay_out_details(self) -> list[Any]:
        """Make components for what `details` shows, between head and command."""
        return []

    def title(self, job: Job, language: Language) -> str:
        """What a job is called."""
        return job.title

    def share_done(self, job: Job) -> float | None:
        """How much of a running job is done, in [0, 1]; None if unknown."""
        return None

    @abstractmethod
    def show(self, job: Job, language: Language, language_asked: str) -> str:
        """A job as HTML; whenever it changes, the page is updated.

        Args:
            job: Which.
            language: Of the words.
            language_asked: The language that the address names; empty if it names none.
        """

    def show_details(self, job: Job, language: Language) -> dict[Any, Any]:
        """Updates of the components that `lay_out_details` made."""
        return {}

    def delete(self, id: str) -> None:  # noqa: A002 - it is the job's
        """Remove a job that has ended."""
        self.jobs.remove(id)

    # Events -----------------------------------------------------------------------------------

    def wire(self, shell: Shell, start: Any) -> None:
        """Register the events.

        Args:
            shell: Of the page.
            start: The event that submits a job.
        """
        if not self.allowed:
            return
        remember(start, **{self.link_key: self.choice})
        start.success(None, None, None, js=_TO_JOBS % self.prefix, **AT_ONCE)
        shell.on_show(self.tab, self._arrive, [self.choice], self.parts)
        seen = [self.choice, self.seen, self.in_view]
        self.clock.tick(self.refresh, seen, self.parts, js=_IN_VIEW % self.prefix, **AT_ONCE)
        chosen = self.choice.input(self._choose, self.choice, self.parts, **LAST)
        remember(chosen, **{self.link_key: self.choice})
        for button, action in (
            (self.stop, self.jobs.stop),
            (self.resume, self.jobs.resume),
            (self.remove, self.delete),
        ):
            button.click(self.acting(action), self.choice, self.parts, **AT_ONCE)

    def _arrive(self, chosen: str | None, request: gr.Request) -> Updates:
        """The tab comes into view; the address counts until something is chosen."""
        return self.updates(chosen or request.query_params.get(self.link_key), request)

    def _choose(self, chosen: str | None, request: gr.Request) -> Updates:
        return self.updates(chosen, request)

    def refresh(self, chosen: str | None, seen: str, in_view: bool, request: gr.Request) -> Updates:
        """What has changed since the page was last updated; out of view the clock stops."""
        if not in_view:
            return {self.clock: gr.Timer(active=False)}
        return self.updates(chosen, request, seen)

    def acting(self, action: Callable[[str], Any]) -> Callable[..., Updates]:
        """A handler that changes the chosen job."""

        def handler(chosen: str | None, request: gr.Request) -> Updates:
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

    # What the page shows ----------------------------------------------------------------------

    def all(self) -> list[Job]:
        """The jobs of this kind, newest first."""
        return [job for job in self.jobs.all() if job.kind == self.kind]

    def updates(self, chosen: str | None, request: gr.Request, seen: str = "") -> Updates:
        """The list, and the chosen job, or else the newest one.

        Args:
            chosen: Id of a job.
            request: Of the visitor.
            seen: Value of `self.seen`: nothing is updated if that has not changed.
        """
        if not self.allowed:
            return gr.skip()
        language, jobs = language_of(request), self.all()
        job = next((job for job in jobs if job.id == chosen), jobs[0] if jobs else None)
        asked = str(request.query_params.get("lang", ""))
        rows = [(self._row(each, language), each.id) for each in jobs]
        shown = self.show(job, language, asked) if job else ""
        active = any(each.state in _LIVE for each in jobs)
        now = json.dumps([rows, job.id if job else None, shown, active])
        digest = hashlib.sha256(now.encode()).hexdigest()
        if digest == seen:
            return gr.skip()
        return {
            self.no_jobs: gr.update(visible=not jobs),
            self.body: gr.update(visible=bool(jobs)),
            self.choice: gr.update(choices=rows, value=job.id if job else None),
            self.problem: block(""),
            self.seen: digest,
            self.clock: gr.Timer(active=active),
            **(self._chosen(job, shown, language) if job else {}),
        }

    def _chosen(self, job: Job, shown: str, language: Language) -> dict[Any, Any]:
        is_live = job.state in _LIVE
        return {
            self.head: shown,
            self.command: view.command(job, language),
            self.stop: gr.update(visible=is_live, interactive=not job.stopping),
            self.resume: gr.update(visible=job.resumable),
            self.remove: gr.update(visible=not is_live),
            **self.show_details(job, language),
        }

    def _row(self, job: Job, language: Language) -> str:
        share = self.share_done(job) if job.state == "running" else None
        return view.row(job, self.title(job, language), share, language)
