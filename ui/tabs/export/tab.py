"""The tab that exports adapters: a form with the size of each format, and the exports."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

import gradio as gr

from cgclora.convert.formats import FORMATS
from cgclora.storage.atomic_io import short_path
from evals.figures.captions import title
from evals.jobs.queue import Job, JobError, Jobs
from evals.tasks import Language
from ui.components.answering_models import adapter_choices
from ui.components.html import quiet
from ui.components.texts import language_of, text
from ui.components.widgets import Bilingual, Choice, Pick
from ui.engine.engine import AppEngine
from ui.engine.settings import Settings
from ui.server.files import public_path
from ui.shell import AT_ONCE, LAST, Shell, Updates, remember
from ui.tabs.export.order import PRECISIONS, Order, format_row, megabytes
from ui.tabs.export.runs import Exports
from ui.tabs.jobs.tab import MAIN, SIDE, JobTab, step

_LINK_KEYS = ("export-adapter", "export-format", "export-tasks")
_POLL_SECONDS = 1.0  # until the backbone is loaded


class ExportTab(JobTab):
    """The tab's components and event handlers."""

    prefix, panel, subfolder, not_allowed = "export", Exports, "exports", "export_not_allowed"
    runs: Exports

    def __init__(self, shell: Shell, engine: AppEngine, jobs: Jobs, settings: Settings) -> None:
        super().__init__(shell, engine, jobs, settings)
        with self.fields:
            self.extent = gr.HTML(elem_id="export-extent")
        self.clock = gr.Timer(_POLL_SECONDS, active=False)
        self._wire(shell)

    @staticmethod
    def is_allowed(settings: Settings) -> bool:
        """Whether visitors may export adapters."""
        return settings.exports_allowed

    def lay_out_form(self, add: Bilingual) -> None:
        """Adapter, format and tasks."""
        with step(add, "export_what"):
            with gr.Column(**SIDE):
                self.adapter = add(
                    Choice, "export_adapter", elem_id="export-adapter", elem_classes="job-rows"
                )
            with gr.Column(**MAIN):
                self.format = add(
                    Choice, "export_format", elem_id="export-format", elem_classes="job-rows"
                )
                self.tasks = add(
                    gr.Dropdown,
                    "export_tasks",
                    multiselect=True,
                    allow_custom_value=True,  # its choices change; the handler checks them
                    elem_id="export-tasks",
                )
                with (
                    add(gr.Accordion, "export_more", open=False, elem_id="export-more"),
                    gr.Row(elem_classes="export-fields"),
                ):
                    self.precision = add(
                        Pick,
                        {"label": "export_precision", "info": "export_precision_info"},
                        min_width=220,
                        elem_id="export-precision",
                    )
                    self.base = add(
                        gr.Textbox,
                        {"label": "export_base", "info": "export_base_info"},
                        max_length=200,
                        min_width=220,
                        elem_id="export-base",
                    )

    # Events ---------------------------------------------------------------------------------

    def _wire(self, shell: Shell) -> None:
        form = [self.adapter, self.format, self.tasks, self.precision, self.base]
        drawn = [*form[:-1], self.extent, self.command, self.start, self.clock]
        shell.on_show("export", self.show, form, drawn)
        self.clock.tick(self.draw, form, drawn, **AT_ONCE)
        changed = gr.on([one.input for one in form], self.draw, form, drawn, **LAST)
        remember(changed, **dict(zip(_LINK_KEYS, form, strict=False)))
        begun = self.start.click(self.submit, form, [self.outcome, *self.runs.parts], **AT_ONCE)
        self.runs.wire(shell, begun)

    def show(self, request: gr.Request, *values: Any) -> Updates:
        """The tab comes into view; the address counts until something is chosen."""
        if values[0] is None:
            adapter, format_, tasks = (request.query_params.get(key) for key in _LINK_KEYS)
            values = (adapter, format_, tasks.split(",") if tasks else [], *values[3:])
        return self.draw(request, *values)

    def draw(self, request: gr.Request, *values: Any) -> Updates:
        """What can be chosen, the size of each format, and the command."""
        language, order = language_of(request), Order.read(self.engine, *values)
        loading = not (self.engine.status.ready or self.engine.status.problem)
        updates: Updates = {self.clock: gr.Timer(active=loading)}
        if order is None:
            empty = quiet(text("export_no_adapter", language))
            return {**updates, self.extent: empty, self.start: gr.update(interactive=False)}
        precisions = [
            (one or text("export_precision_default", language), one) for one in PRECISIONS
        ]
        return {
            **updates,
            self.adapter: gr.update(
                choices=adapter_choices(self.engine, language), value=order.adapter
            ),
            self.format: gr.update(choices=self._formats(order, language), value=order.format),
            self.tasks: gr.update(
                choices=[(title(one, language), one) for one in self.engine.tasks(order.adapter)],
                value=[*order.tasks],
            ),
            self.precision: gr.update(choices=precisions, value=order.precision),
            self.extent: self._extent(order, language),
            self.command: self._command_line(order),
            self.start: gr.update(interactive=not order.lacks_task),
        }

    def _formats(self, order: Order, language: Language) -> list[tuple[str, str]]:
        rows = []
        for name in FORMATS:
            other = Order(order.adapter, name, order.tasks, order.precision, order.base)
            rows.append((format_row(name, self._size(other, language), language), name))
        return rows

    def _size(self, order: Order, language: Language) -> str:
        if not (self.engine.status.ready or self.engine.status.problem):
            return text("export_size_later", language)
        count = order.bytes(self.engine, self.backbone_name)
        if count is None:
            return text("export_size_unknown", language)
        return text("export_size", language, size=megabytes(count))

    def _extent(self, order: Order, language: Language) -> str:
        if order.lacks_task:
            return quiet(text("export_one_task", language))
        size = self._size(order, language)
        return f'<p class="export-size"><b>{size}</b> {text("export_size_whole", language)}</p>'

    def _command_line(self, order: Order) -> str:
        """What a visitor would type."""
        folder = public_path(self.engine.path(order.adapter))
        backbone = self.backbone_name and public_path(self.backbone_name)
        return shlex.join(["python", *order.arguments(folder, order.name, backbone)])

    # Starting -------------------------------------------------------------------------------

    def submit(self, request: gr.Request, *values: Any) -> Updates:
        """A new export, at the end of the queue."""
        language, order = language_of(request), Order.read(self.engine, *values)
        return self.start_job(request, lambda: self._submit(order, language), (), dict)

    def _submit(self, order: Order | None, language: Language) -> Job:
        """A new job; JobError, in the visitor's language, if it cannot be started."""
        self.check_queue(language)
        if order is None:
            raise JobError(text("export_no_adapter", language))
        if order.lacks_task:
            raise JobError(text("export_one_task", language))
        count = order.bytes(self.engine, self.backbone_name)
        if count is not None:
            self._check_room(count, language)
        folder = self.jobs.prepare()
        adapter, out = (
            short_path(path, Path.cwd())
            for path in (self.engine.path(order.adapter).absolute(), folder / order.name)
        )
        return self.jobs.submit(
            "export",
            order.arguments(adapter, out, self.backbone_name),
            title=order.name,
            facts={
                "adapter": order.adapter,
                "format": order.format,
                "tasks": [*(order.tasks or self.engine.tasks(order.adapter))],
                "precision": order.precision,
                "bytes": count,
                "name": order.name,
                "licence": self.engine.manifests[order.adapter].get("licence"),
            },
            id=folder.name,
        )

    def _check_room(self, count: int, language: Language) -> None:
        """Refuse an export beyond the limit, or beyond the disk with those that wait or run."""
        limit = self.engine.limits.export_mb * 1e6
        if count > limit:
            facts = {"size": megabytes(count), "limit": megabytes(limit)}
            raise JobError(text("export_too_large", language, **facts))
        live = (job for job in self.jobs.all() if job.state in {"queued", "running"})
        needed = 2 * (count + sum(float(job.facts.get("bytes") or 0) for job in live))
        self.folder.mkdir(parents=True, exist_ok=True)
        if needed > (free := shutil.disk_usage(self.folder).free):
            facts = {"size": megabytes(needed), "free": megabytes(free)}
            raise JobError(text("export_no_room", language, **facts))
