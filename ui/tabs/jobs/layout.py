"""The layout of a tab with jobs: numbered steps, choices on the left and results on the right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from ui.components import render
from ui.components.bilingual import Bilingual
from ui.components.choices import Choice
from ui.components.texts import Word

SIDE: dict[str, Any] = {"scale": 0, "min_width": 272, "elem_classes": "job-side"}
MAIN: dict[str, Any] = {"min_width": 300, "elem_classes": "job-main"}


@contextmanager
def step(add: Bilingual, heading: str, **column: Any) -> Iterator[None]:
    """A step of the form, to be filled with columns `SIDE` and `MAIN`.

    Args:
        add: Makes components with words.
        heading: Key of its text.
        column: Properties of the column around it.
    """
    with gr.Column(elem_classes="step", **column):
        add(gr.HTML, {"value": render.heading(heading)})
        with gr.Row(elem_classes="job-halves"):
            yield


def lay_out_notice(add: Bilingual, prefix: str, *, allowed: bool) -> None:
    """A notice for visitors who may not start jobs."""

    def notice(word: Word) -> str:
        return f'<p class="jobs-off">{word("jobs_not_allowed")}</p>'

    add(gr.HTML, {"value": notice}, visible=not allowed, elem_id=f"{prefix}-notice")


def upload(add: Bilingual, label: str, elem_id: str, **properties: Any) -> Any:
    """An upload of a file of records."""
    kinds = [".jsonl", ".json"]
    return add(
        gr.File, {"label": label}, file_types=kinds, height=112, elem_id=elem_id, **properties
    )


class StartLayout:
    """The step that starts a job.

    Args:
        add: Makes components with words.
        prefix: Of element ids and texts.
        allowed: Whether visitors may start jobs.
    """

    def __init__(self, add: Bilingual, prefix: str, *, allowed: bool) -> None:
        with step(add, "jobs_start_heading"):
            with gr.Column(**SIDE):
                self.fields = gr.Column()
                self.button = add(
                    gr.Button,
                    {"value": f"{prefix}_start"},
                    variant="primary",
                    visible=allowed,
                    elem_id=f"{prefix}-start",
                )
                self.outcome = gr.HTML(elem_id=f"{prefix}-outcome")
            with gr.Column(**MAIN):
                self.command = add(
                    gr.Textbox,
                    {"label": "jobs_command"},
                    lines=3,
                    max_lines=8,
                    interactive=False,
                    buttons=["copy"],
                    elem_id=f"{prefix}-command",
                )
                self.notes = gr.Column()


class ListLayout:
    """The step that lists jobs and shows the chosen one.

    Args:
        add: Makes components with words.
        prefix: Of element ids and texts.
        allowed: Whether visitors see the jobs.
    """

    def __init__(self, add: Bilingual, prefix: str, *, allowed: bool) -> None:
        with gr.Column(elem_classes="step", visible=allowed, elem_id=f"{prefix}-jobs-step"):
            add(gr.HTML, {"value": render.heading(f"{prefix}_jobs")})
            self.no_jobs = add(gr.HTML, {"value": render.paragraph(f"{prefix}_no_jobs")})
            with gr.Row(elem_classes="job-halves", visible=False) as self.body:
                with gr.Column(**SIDE):
                    self.choice = add(
                        Choice,
                        {"label": f"{prefix}_jobs"},
                        container=False,
                        elem_id=f"{prefix}-jobs",
                        elem_classes="job-rows",
                    )
                    with gr.Row(elem_classes="job-actions"):
                        size = {"scale": 0, "min_width": 112, "size": "sm", "visible": False}
                        self.stop, self.resume, self.remove = (
                            add(gr.Button, {"value": f"jobs_{action}"}, **size)
                            for action in ("stop", "resume", "remove")
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
