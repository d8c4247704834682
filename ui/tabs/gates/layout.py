"""The components of the tab of the gates."""

from collections.abc import Callable

import gradio as gr

from ui.components import render
from ui.components.bilingual import Bilingual
from ui.components.choices import Choice
from ui.components.texts import Word

VIEWS = ("task", "cluster")


class GatesLayout:
    """The components, made in the tab that is open for building."""

    def __init__(self, bilingual: Bilingual) -> None:
        self.bilingual = bilingual
        add = bilingual
        self.notice = gr.HTML(elem_id="gates-notice", visible=False)
        self.ticket = gr.Number(visible="hidden", precision=0)  # see `Changes`
        self.timer = gr.Timer(0.5, active=False)
        with gr.Column(elem_id="gates-page", visible=False) as self.body:
            with gr.Row(elem_id="gates-choose"):
                self.cluster = add(
                    Choice, {"label": "cluster"}, container=False, elem_classes="segments"
                )
                self.view = add(
                    Choice, {"label": "gates_view"}, container=False, elem_classes="segments"
                )
            self.task = add(
                Choice,
                {"label": "task"},
                container=False,
                elem_id="gates-tasks",
                elem_classes="options",
            )
            with gr.Column(elem_classes="gates-view") as self.task_view:
                self.task_head = gr.HTML()
                self._lay_out_weights()
                self.changes_place = gr.Column(elem_id="gates-changes")  # see `Changes`
            with gr.Column(elem_classes="gates-view", visible=False) as self.cluster_view:
                self._lay_out_cluster()

    def _lay_out_weights(self) -> None:
        add = self.bilingual
        with gr.Column(elem_classes="step"):
            add(gr.HTML, {"value": render.heading("gates_weights")})
            add(gr.HTML, {"value": render.paragraph("gates_intro")})
            self.shares = gr.HTML()
            self.share_bar = plot("gates-share-bar")
            self.module = add(
                Choice,
                {"label": "module"},
                container=False,
                elem_id="gates-module",
                elem_classes="options",
            )
            with gr.Row(elem_classes="pair"):
                with gr.Column(scale=3, min_width=300):
                    add(gr.HTML, {"value": _subheading("gates_by_layer")})
                    self.gate_map = plot("gates-heat-map")
                    self.weights_table = gr.HTML(elem_classes="only-unseen")
                with gr.Column(scale=2, min_width=300):
                    add(gr.HTML, {"value": _subheading("gates_entropy")})
                    self.entropy = plot("gates-entropy")
                    self.entropy_words = gr.HTML()

    def _lay_out_cluster(self) -> None:
        add = self.bilingual
        with gr.Column(elem_classes="step"):
            add(gr.HTML, {"value": render.heading("gates_matrix")})
            add(gr.HTML, {"value": render.paragraph("gates_matrix_hint")})
            self.matrix = gr.HTML()
        with gr.Column(elem_classes="step"):
            add(gr.HTML, {"value": render.heading("gates_similarity")})
            add(gr.HTML, {"value": render.paragraph("gates_similarity_hint")})
            self.similarity_words = gr.HTML()
            self.similarity = plot("gates-similarity")
        with gr.Column(elem_classes="step"):
            add(gr.HTML, {"value": render.heading("gates_path")})
            self.path_words = gr.HTML()
            self.path_lines = plot("gates-path-lines")
            self.path_map = plot("gates-path-map")


def plot(elem_id: str, visible: bool = True) -> gr.Plot:
    """Room for a figure."""
    return gr.Plot(
        show_label=False,
        container=False,
        visible=visible,
        elem_id=elem_id,
        elem_classes="gates-plot",
    )


def _subheading(key: str) -> Callable[[Word], str]:
    return lambda word: f"<h3>{word(key)}</h3>"
