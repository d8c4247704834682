"""The components of the tab from top to bottom."""

import gradio as gr

from ui.components import render
from ui.components.bilingual import Bilingual
from ui.components.choices import Choice
from ui.components.lists import text_list
from ui.engine.engine import Engine
from ui.tabs.try_it.answers import Answers
from ui.tabs.try_it.fields import Fields
from ui.tabs.try_it.free_input import FreeInput
from ui.tabs.try_it.recent import Recent


class Layout:
    """The components, made in the page that is open for building."""

    def __init__(self, add: Bilingual, engine: Engine) -> None:
        with gr.Row(elem_id="page") as self.body:
            with gr.Column(scale=0, min_width=272, elem_id="choose"):
                self.cluster = add(
                    gr.Radio, {"label": "cluster"}, container=False, elem_id="clusters"
                )
                self.task = add(Choice, {"label": "task"}, container=False, elem_id="tasks")
            with gr.Column(elem_id="work", min_width=300):
                self.free = FreeInput(add, engine.limits.characters)
                self.task_head = gr.HTML()
                self._lay_out_input(add, engine)
                self.answers = Answers(add, engine, self.run, self.stop)
                self._lay_out_gates(add)
                self.recent = Recent(add)

    def _lay_out_input(self, add: Bilingual, engine: Engine) -> None:
        with gr.Column(elem_classes="step"):
            add(gr.HTML, {"value": render.heading("input")})
            self.samples = text_list(add, "samples", "samples")
            self.fields = Fields(add, engine.limits)
            with gr.Row(elem_id="actions"):
                size = {"scale": 0, "min_width": 128}
                self.run = add(
                    gr.Button, {"value": "run"}, variant="primary", elem_id="run", **size
                )
                self.stop = add(gr.Button, {"value": "stop"}, visible=False, elem_id="stop", **size)
                self.labels_only = add(
                    gr.Checkbox,
                    {"label": "labels_only", "info": "labels_only_info"},
                    container=False,
                    visible=False,
                    elem_id="labels-only",
                )

    def _lay_out_gates(self, add: Bilingual) -> None:
        with gr.Column(elem_classes="step", elem_id="gates"):
            add(gr.HTML, {"value": render.heading("gates")})
            add(gr.HTML, {"value": render.paragraph("gates_intro")})
            self.gate_shares = gr.HTML(elem_id="gate-shares")
            self.share_bar = gr.Plot(show_label=False, container=False, elem_id="share-bar")
            self.gate_map = gr.Plot(show_label=False, container=False, elem_id="heat-map")
