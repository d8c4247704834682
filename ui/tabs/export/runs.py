"""The exports in their tab: progress, then a download and a push to the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from html import escape
from pathlib import Path
from threading import Lock
from typing import Any

import gradio as gr

from cgclora.convert.hub import PushError, push
from evals.jobs.queue import Job, JobError
from evals.tasks import Language
from ui.components import render
from ui.components.answering_models import title
from ui.components.html import quiet
from ui.components.texts import language_of, text
from ui.components.widgets import Bilingual
from ui.server.exports import archive, download_link, keep, remove_expired
from ui.server.files import PROJECT, public_path
from ui.shell import AT_ONCE, SILENT, Shell, Updates
from ui.tabs.export.order import format_title, megabytes
from ui.tabs.jobs.tab import JobPanel
from ui.tabs.jobs.view import advice, log_tail, section, state

_NO_AUTOFILL = gr.InputHTMLAttributes(autocomplete="off", spellcheck=False)


class Exports(JobPanel):
    """Lists exports and hands out the chosen one. All files lie in its job's folder."""

    kind, prefix, tab, link_key = "export", "export", "export", "export-job"

    _pushing = Lock()  # one upload at a time in this process

    def lay_out_details(self, add: Bilingual) -> list[Any]:
        """The form that pushes an export."""
        with gr.Column(visible=False, elem_id="export-push") as self.form:
            add(gr.HTML, {"value": lambda word: f"<h3>{word('push_heading')}</h3>"})
            add.paragraph("push_token_info")
            with gr.Row(elem_classes="export-fields"):
                self.repo = add(
                    gr.Textbox,
                    {"label": "push_repo", "placeholder": "push_repo_hint"},
                    max_length=200,
                    min_width=220,
                    html_attributes=_NO_AUTOFILL,
                    elem_id="export-repo",
                )
                self.token = add(
                    gr.Textbox,
                    "push_token",
                    type="password",
                    max_length=4096,
                    min_width=220,
                    html_attributes=_NO_AUTOFILL,
                    elem_id="export-token",
                )
            self.private = add(
                gr.Checkbox, "push_private", value=True, container=False, elem_id="export-private"
            )
            self.push = add.small_button("push_start", 96, elem_id="export-push-start")
            self.outcome = gr.HTML(elem_id="export-push-outcome")
        return [self.form]

    def wire(self, shell: Shell, start: Any) -> None:
        """Register the events, those of a push among them."""
        super().wire(shell, start)
        if self.allowed:
            self.push.click(
                self.push_chosen,
                [self.choice, self.repo, self.private, self.token],
                [self.token, self.push, self.outcome],
                api_visibility="private",
                **SILENT,
                trigger_mode="once",
                concurrency_limit=None,
            )
            self.choice.change(lambda: "", None, self.outcome, **AT_ONCE)

    # Jobs -----------------------------------------------------------------------------------

    def all(self) -> list[Job]:
        """The exports of the last hour, newest first."""
        remove_expired(self.jobs)
        return super().all()

    def title(self, job: Job, language: Language) -> str:
        """Format and adapter."""
        name = str(job.facts["adapter"])
        known = title(self.engine, name, language) if name in self.engine.configs else name
        return f"{format_title(str(job.facts['format']), language)} · {known}"

    def share_done(self, job: Job) -> float | None:
        """The share of bytes that are written; None before the first, and if it is not known."""
        size, written = job.facts.get("bytes"), _written(job)
        return min(0.99, written / _to_write(job)) if size and written else None

    def show(self, job: Job, language: Language, link_language: str) -> str:
        """Progress of an export, or its download."""
        chosen, size = [str(task) for task in job.facts["tasks"]], job.facts.get("bytes")
        known = len(chosen)
        tasks = chosen[0] if known == 1 else text("export_some_tasks", language, n=known)
        facts = [tasks, str(job.facts.get("precision") or "")]
        if size:
            facts.append(text("export_size", language, size=megabytes(float(size))))
        body = _download(job, language) if job.state == "done" else self._progress(job, language)
        return section(job, self.title(job, language), facts, body, language)

    def show_command(self, job: Job, language: Language) -> str:
        """The command without the server's folders, which those who may export need not know."""
        shown = (part.replace(value, public_path(value)) for part, value in _values(job))
        return super().show_command(replace(job, command=tuple(shown)), language)

    def show_details(self, job: Job, language: Language) -> dict[Any, Any]:
        """The form, once there is something to push."""
        return {self.form: gr.update(visible=archive(job) is not None)}

    def _progress(self, job: Job, language: Language) -> str:
        share = self.share_done(job)
        value = f'value="{share:.3f}"' if share is not None else 'max="1" value="0"'
        if job.state == "running" and share is None:
            value = ""  # indeterminate
        bar = f'<progress {value} aria-label="{state(job, language)}"></progress>'
        if job.state == "running" and not job.stopping:
            words = text("export_reading", language)
            if share is not None:
                done, size = megabytes(_written(job)), megabytes(_to_write(job))
                words = text("export_written", language, done=done, size=size)
            return f'{bar}<p class="job-now">{words}</p>'
        return bar + advice(job, "export", language) + _public(log_tail(job, language), job)

    # Push -----------------------------------------------------------------------------------

    def push_chosen(
        self, chosen: str | None, repo: str, private: bool, token: str, request: gr.Request
    ) -> Iterator[Updates]:
        """Upload an export; the token leaves the page at once and is used for this upload alone."""
        language = language_of(request)
        job = self._to_push(chosen)
        if job is None:
            yield self._pushed(render.notice(text("export_gone", language)))
            return
        if not self._pushing.acquire(blocking=False):
            yield self._pushed(render.notice(text("push_busy", language)))
            return
        try:
            size = megabytes(float(job.facts.get("bytes") or 0))
            words = text("push_running", language, size=size)
            yield {
                self.token: "",
                self.push: gr.update(interactive=False),
                self.outcome: f'<div class="job running"><progress></progress>{quiet(words)}</div>',
            }
            yield self._pushed(_push(job, repo, token, private=private, language=language))
        finally:
            self._pushing.release()

    def _to_push(self, chosen: str | None) -> Job | None:
        """The chosen export, if its files are there; None also where nobody may push."""
        if not (self.allowed and chosen):
            return None
        try:
            job = self.jobs.get(chosen)
        except JobError:
            return None
        return job if archive(job) else None

    def _pushed(self, words: str) -> Updates:
        return {self.token: "", self.push: gr.update(interactive=True), self.outcome: words}


def _public(words: str, job: Job) -> str:
    """Words of an export's log without the server's folders."""
    given = [value for _, value in _values(job) if Path(value).is_absolute()]
    for path in (*given, str(job.folder), str(PROJECT)):
        words = words.replace(path, public_path(path))
    return words


def _values(job: Job) -> Iterator[tuple[str, str]]:
    """The parts of a job's command, each with its value: `--name=value`, or the whole part."""
    return ((part, part.rpartition("=")[2]) for part in job.command if part)


def _push(job: Job, repo: str, token: str, *, private: bool, language: Language) -> str:
    """Upload an export; returns its address or what went wrong as HTML, without the token."""
    failed = text("push_failed", language)
    try:
        keep(job)
        # An empty token is one that is wrong, never the server's own.
        folder = job.folder / str(job.facts["name"])
        address = push(folder, repo.strip(), token=token or "", private=private)
    except PushError as error:
        said = str(error) if error.reason == "refused" else ""
        return render.notice(failed, text(f"push_failed {error.reason}", language), said)
    except OSError:
        return render.notice(failed, text("push_failed files", language))
    link = f'<a href="{escape(address)}" target="_blank" rel="noopener">{escape(address)}</a>'
    return f'<p role="status">{text("push_done", language)}{link}</p>'


def _download(job: Job, language: Language) -> str:
    path = archive(job)
    if path is None:
        return quiet(text("export_gone", language))
    size = megabytes(path.stat().st_size)
    words = text("export_download", language, name=path.name, size=size)
    licence = job.facts.get("licence")
    terms = (
        text("export_licence", language, licence=licence)
        if licence
        else text("export_no_licence", language)
    )
    link = f'<a class="export-download" href="{download_link(job)}" download>{escape(words)}</a>'
    return f"<p>{link}</p>{quiet(text('export_kept', language))}{quiet(escape(terms))}"


def _to_write(job: Job) -> float:
    """Bytes of the export's files, and of the archive of them."""
    return 2 * float(job.facts["bytes"])


def _written(job: Job) -> int:
    """Bytes of the export and of its archive so far, under whatever name they are written."""
    total = 0
    for path in job.folder.glob(f"*{job.facts['name']}*"):
        for file in path.rglob("*") if path.is_dir() else [path]:
            with suppress(OSError):  # renamed meanwhile
                total += file.stat().st_size if file.is_file() else 0
    return total
