"""What stands in the tab: its components from top to bottom, without what they do."""

import gradio as gr

from ui.components import forms, render
from ui.components.bilingual import Bilingual
from ui.components.choices import Choice, Choices
from ui.engine.settings import Limits
from ui.tabs.try_it.free_input import FreeInput
from ui.tabs.try_it.recent import Recent

MOST_BESIDE = 3
"""How many others can be asked beside the chosen adapter."""


class Layout:
    """The components, made in the page that is open for building."""

    def __init__(self, bilingual: Bilingual, limits: Limits) -> None:
        self.bilingual = bilingual
        self.limits = limits
        self._lay_out()

    def _lay_out(self) -> None:
        add = self.bilingual
        with gr.Row(elem_id="page") as self.body:
            with gr.Column(scale=0, min_width=272, elem_id="choose"):
                self.cluster = add(
                    gr.Radio, {"label": "cluster"}, container=False, elem_id="clusters"
                )
                self.task = add(Choice, {"label": "task"}, container=False, elem_id="tasks")
            with gr.Column(elem_id="work", min_width=300):
                self.free = FreeInput(add, self.limits.characters)
                self.task_head = gr.HTML()
                self._lay_out_input()
                self._lay_out_answers()
                self._lay_out_gates()
                self.recent = Recent(add)

    def _lay_out_input(self) -> None:
        add = self.bilingual
        with gr.Column(elem_classes="step"):
            add(gr.HTML, {"value": render.heading("input")})
            self.samples = add(
                gr.Dataset,
                {"label": "samples"},
                components=[gr.Textbox(visible=False)],
                samples=[],
                type="index",
                elem_id="samples",
            )
            with gr.Row(elem_id="asking"):
                with gr.Column(min_width=260):
                    self.slots = [self._slot(place) for place in range(forms.SLOTS)]
                with gr.Column(min_width=260):
                    self.prompt = add(
                        gr.Textbox,
                        {"label": "prompt", "placeholder": "prompt_placeholder"},
                        lines=3,
                        max_lines=10,
                        max_length=self.limits.characters,
                        elem_id="prompt",
                    )
                    self.most = add(
                        gr.Slider,
                        {"label": "most_tokens"},
                        minimum=1,
                        maximum=self.limits.answer_tokens,
                        step=1,
                        buttons=[],
                    )
            # What the fields made; another prompt is the visitor's own. Kept in the browser, as the
            # prompt is: a state on the server would be ahead of it by a message on its way.
            self.made_prompt = gr.Textbox(visible="hidden")
            self.ticket = gr.Number(visible="hidden", precision=0)  # see `ui.server.page_sessions`
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

    def _slot(self, place: int) -> tuple[gr.Textbox, gr.Radio]:
        """Room for one field: free text, or a choice among a few."""
        return (
            gr.Textbox(visible=False, max_length=self.limits.characters, elem_id=f"field-{place}"),
            Choice(visible=False, elem_classes="options"),
        )

    def _lay_out_answers(self) -> None:
        add = self.bilingual
        with gr.Column(elem_classes="step"):
            add(gr.HTML, {"value": render.heading("answers")})
            self.beside = Choices(visible=False, elem_classes="options", elem_id="beside")
            with gr.Row(equal_height=True, elem_id="answers"):
                self.replies = [
                    gr.HTML(elem_id=f"answer-{place}", min_width=220, visible=place < 2)
                    for place in range(1 + MOST_BESIDE)
                ]
        with gr.Column(elem_classes="step"):
            add(gr.HTML, {"value": render.heading("parsed")})
            self.highlights = add(
                gr.HighlightedText,
                {"label": "in_text"},
                visible=False,
                show_label=False,
                elem_id="highlights",
            )
            self.parsed = gr.HTML(elem_id="parsed")
            self.labels = gr.HTML(elem_id="labels")

    def _lay_out_gates(self) -> None:
        add = self.bilingual
        with gr.Column(elem_classes="step", elem_id="gates"):
            add(gr.HTML, {"value": render.heading("gates")})
            add(gr.HTML, {"value": render.paragraph("gates_intro")})
            self.gate_shares = gr.HTML(elem_id="gate-shares")
            self.share_bar = gr.Plot(show_label=False, container=False, elem_id="share-bar")
            self.heat_map = gr.Plot(show_label=False, container=False, elem_id="heat-map")
