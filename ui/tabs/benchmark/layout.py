"""What stands in the tab that evaluates: its components, without what they do."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui.components import render
from ui.components.bilingual import Bilingual
from ui.components.choices import Choice, Choices

_SIDE: dict[str, Any] = {"scale": 0, "min_width": 272, "elem_classes": "bench-side"}
_MAIN: dict[str, Any] = {"min_width": 300, "elem_classes": "bench-main"}


class BenchmarkLayout:
    """The components, made in the tab that is open for building.

    Args:
        bilingual: Makes components with words.
        allowed: Whether visitors may start evaluations.
    """

    def __init__(self, bilingual: Bilingual, *, allowed: bool) -> None:
        self._add = bilingual
        with gr.Column(elem_id="bench"):
            self.notice = gr.HTML(elem_id="bench-notice", visible=not allowed)
            self._lay_out_form(allowed)
            self._lay_out_start(allowed)
            with gr.Column(elem_classes="step", visible=allowed, elem_id="bench-jobs-step"):
                self._lay_out_jobs()
        # What the page shows of the jobs, so that nothing is drawn anew without need.
        self.seen = gr.Textbox(visible="hidden")
        self.in_view = gr.Checkbox(visible="hidden")  # filled in by the browser
        self.kept_tasks = gr.Textbox(visible="hidden")  # for the address
        self.clock = gr.Timer(1.5, active=False)

    def _lay_out_form(self, allowed: bool) -> None:
        add = self._add
        with gr.Column(elem_classes="step"):
            add(gr.HTML, {"value": render.heading("bench_what")})
            with gr.Row(elem_classes="bench-halves"):
                with gr.Column(**_SIDE):
                    self.adapter = add(Choice, {"label": "bench_adapter"}, elem_id="bench-adapter")
                with gr.Column(**_MAIN):
                    self.source = add(Choice, {"label": "bench_source"}, elem_id="bench-source")
                    self.source_note = gr.HTML()
                    with gr.Column(visible=False) as self.uploading:
                        self.upload = add(
                            gr.File,
                            {"label": "bench_file"},
                            file_types=[".jsonl", ".json"],
                            height=112,
                            visible=allowed,
                            elem_id="bench-file",
                        )
                    self.report = gr.HTML(elem_id="bench-report")
                    self.tasks = add(
                        Choices,
                        {"label": "bench_tasks"},
                        show_select_all=True,
                        elem_id="bench-tasks",
                    )
                    self.per_task = add(
                        gr.Number,
                        {"label": "bench_per_task", "info": "bench_per_task_info"},
                        precision=0,
                        value=50,
                        elem_id="bench-per-task",
                    )

    def _lay_out_start(self, allowed: bool) -> None:
        add = self._add
        with gr.Column(elem_classes="step"):
            add(gr.HTML, {"value": render.heading("bench_start_heading")})
            with gr.Row(elem_classes="bench-halves"):
                with gr.Column(**_SIDE):
                    self.extent = gr.HTML(elem_id="bench-extent")
                    self.start = add(
                        gr.Button,
                        {"value": "bench_start"},
                        variant="primary",
                        visible=allowed,
                        elem_id="bench-start",
                    )
                    self.outcome = gr.HTML(elem_id="bench-outcome")
                with gr.Column(**_MAIN):
                    self.command = add(
                        gr.Textbox,
                        {"label": "bench_command"},
                        lines=3,
                        max_lines=8,
                        interactive=False,
                        buttons=["copy"],
                        elem_id="bench-command",
                    )

    def _lay_out_jobs(self) -> None:
        add = self._add
        add(gr.HTML, {"value": render.heading("bench_jobs")})
        self.no_jobs = add(gr.HTML, {"value": render.paragraph("bench_no_jobs")})
        with gr.Row(elem_classes="bench-halves", visible=False) as self.jobs_row:
            with gr.Column(**_SIDE):
                self.jobs_list = add(
                    Choice, {"label": "bench_jobs"}, container=False, elem_id="bench-jobs"
                )
                with gr.Row(elem_id="bench-actions"):
                    size = {"scale": 0, "min_width": 112, "size": "sm", "visible": False}
                    self.stop = add(gr.Button, {"value": "bench_stop"}, **size)
                    self.resume = add(gr.Button, {"value": "bench_resume"}, **size)
                    self.remove = add(gr.Button, {"value": "bench_remove"}, **size)
            with gr.Column(**_MAIN):
                self.job = gr.HTML(elem_id="bench-job")
                self.job_command = gr.HTML(elem_id="bench-job-command")
