"""What stands in the tab that trains: its components, without what they do."""

from __future__ import annotations

from typing import Any

import gradio as gr

from evals.experiments.training_plan import trainable
from evals.methods import CGC_LORA
from ui.components import render
from ui.components.bilingual import Bilingual
from ui.components.choices import Choice

_SAMPLINGS = ("proportional", "uniform", "temperature")
_WEIGHTINGS = ("token", "record")


class TrainLayout:
    """The components, made in the tab that is open for building.

    Attributes:
        data: Components that say which data, by field of `ui.tabs.train.form.DataChoice`.
        settings: Components that say how to train, by field of the form.
    """

    def __init__(self, bilingual: Bilingual, *, allowed: bool) -> None:
        self.bilingual = bilingual
        self.data: dict[str, Any] = {}
        self.settings: dict[str, Any] = {}
        with gr.Column(elem_id="train"):
            self.notice = gr.HTML(elem_id="train-notice", visible=not allowed)
            self._lay_out_data()
            self._lay_out_method()
            self._lay_out_start(allowed)
            with gr.Column(elem_classes="step", visible=allowed):
                self._lay_out_runs()
        self.clock = gr.Timer(2.0, active=False)  # while something runs
        self.load_clock = gr.Timer(1.0, active=False)  # while the backbone is loaded
        # How often the tab was come to: what follows sees all that the page holds by then.
        self.arrived = gr.Number(visible="hidden", precision=0)

    def _lay_out_data(self) -> None:
        add = self.bilingual
        with gr.Column(elem_classes="step"):
            add(gr.HTML, {"value": render.heading("train_data")})
            with gr.Row(elem_classes="train-halves"):
                with gr.Column(scale=0, min_width=272, elem_classes="train-side"):
                    self.data["source"] = add(
                        Choice, {"label": "train_source"}, container=False, elem_id="train-source"
                    )
                    with gr.Column(visible=False) as self.upload:
                        kinds = {"file_types": [".jsonl", ".json"], "height": 112}
                        self.data["train_file"] = add(
                            gr.File, {"label": "train_file"}, elem_id="train-file", **kinds
                        )
                        self.data["dev_file"] = add(
                            gr.File, {"label": "train_dev_file"}, elem_id="train-dev-file", **kinds
                        )
                        add(gr.HTML, {"value": render.paragraph("train_formats")})
                    self.data["tasks"] = add(
                        gr.Dropdown,
                        {"label": "train_tasks"},
                        multiselect=True,
                        allow_custom_value=True,  # its choices change; the handler knows better
                        elem_id="train-tasks",
                    )
                    self.data["fraction"] = add(
                        gr.Slider,
                        {"label": "train_fraction"},
                        minimum=0.05,
                        maximum=0.5,
                        step=0.05,
                        value=0.25,
                        buttons=[],
                    )
                with gr.Column(min_width=300, elem_classes="train-main"):
                    self.report = gr.HTML(elem_id="train-report")

    def _lay_out_method(self) -> None:
        add = self.bilingual
        with gr.Column(elem_classes="step"):
            add(gr.HTML, {"value": render.heading("train_method_and_sizes")})
            with gr.Row(elem_classes="train-halves"):
                with gr.Column(scale=0, min_width=272, elem_classes="train-side"):
                    self.settings["method"] = add(
                        gr.Dropdown,
                        {"label": "train_method"},
                        choices=[*trainable()],
                        value=CGC_LORA,
                        elem_id="train-method",
                    )
                    for name, value, most in (
                        ("common", 4, 16),
                        ("specific", 1, 4),
                        ("expert_rank", 2, 16),
                        ("lora_rank", 8, 64),
                        ("moe_experts", 8, 16),
                    ):
                        self._slider(name, value, 1, most)
                    self._number("records_per_task", 100)
                    self._number("epochs", 2, precision=None)
                    self._number("learning_rate", 2e-3, precision=None)
                with gr.Column(min_width=300, elem_classes="train-main"):
                    self.budget = gr.HTML(elem_id="train-budget")
            with add(
                gr.Accordion, {"label": "train_advanced"}, open=False, elem_id="train-advanced"
            ):
                self._lay_out_advanced()

    def _lay_out_advanced(self) -> None:
        add, small = self.bilingual, {"min_width": 200}
        with gr.Row(elem_classes="train-fields"):
            self._number("gate_rate", 6e-3, precision=None)
            self._number("batch_size", 8)
            self._number("accumulation", 1)
            self._number("max_length", 512)
            for name, choices in (("sampling", _SAMPLINGS), ("weighting", _WEIGHTINGS)):
                self.settings[name] = add(
                    gr.Dropdown,
                    {"label": f"train_{name}"},
                    choices=[*choices],
                    value=choices[0],
                    **small,
                )
            self._number("alpha", 16, precision=None)
            self._number("dev_records", 32)
            self._number("evaluations", 4)
            self._number("patience", 0)
            self._number("seed", 0)
            self.settings["modules"] = add(
                gr.Dropdown,
                {"label": "train_modules"},
                multiselect=True,
                allow_custom_value=True,  # known once the backbone is
                **small,
            )
        self.settings["half"] = add(
            gr.Checkbox, {"label": "train_half"}, value=True, container=False
        )

    def _lay_out_start(self, allowed: bool) -> None:
        add = self.bilingual
        with gr.Column(elem_classes="step"):
            add(gr.HTML, {"value": render.heading("train_start_heading")})
            with gr.Row(elem_classes="train-halves"):
                with gr.Column(scale=0, min_width=272, elem_classes="train-side"):
                    self.name = add(
                        gr.Textbox,
                        {"label": "train_name", "info": "train_name_info"},
                        max_length=40,
                        elem_id="train-name",
                    )
                    self.start = add(
                        gr.Button,
                        {"value": "train_start"},
                        variant="primary",
                        interactive=allowed,
                        elem_id="train-start",
                    )
                with gr.Column(min_width=300, elem_classes="train-main"):
                    self.command = add(
                        gr.Textbox,
                        {"label": "train_command"},
                        lines=3,
                        max_lines=8,
                        interactive=False,
                        buttons=["copy"],
                        elem_id="train-command",
                    )
                    self.command_note = add(
                        gr.HTML, {"value": render.paragraph("train_command_files")}, visible=False
                    )
                    self.outcome = gr.HTML(elem_id="train-outcome")

    def _lay_out_runs(self) -> None:
        add = self.bilingual
        add(gr.HTML, {"value": render.heading("train_runs")})
        self.no_runs = add(gr.HTML, {"value": render.paragraph("train_no_runs")})
        with gr.Row(elem_classes="train-halves", visible=False) as self.runs_row:
            with gr.Column(scale=0, min_width=272, elem_classes="train-side"):
                self.runs = add(
                    Choice, {"label": "train_runs"}, container=False, elem_id="train-runs"
                )
            with gr.Column(min_width=300, elem_classes="train-main"):
                self.run_head = gr.HTML(elem_id="train-run")
                with gr.Row(elem_id="train-actions"):
                    size = {"scale": 0, "min_width": 128, "size": "sm", "visible": False}
                    self.stop = add(gr.Button, {"value": "train_stop"}, **size)
                    self.resume = add(gr.Button, {"value": "train_resume"}, **size)
                    self.remove = add(gr.Button, {"value": "train_remove"}, **size)
                self.losses = gr.Plot(show_label=False, container=False, visible=False)
                self.gates = gr.Plot(show_label=False, container=False, visible=False)
                self.run_table = gr.HTML(elem_id="train-run-table")
        # What the page shows of the runs, so that nothing is drawn anew without need.
        self.seen = gr.Textbox(visible="hidden")
        self.in_view = gr.Checkbox(visible="hidden")  # filled in by the browser

    def _slider(self, name: str, value: int, least: int, most: int) -> None:
        self.settings[name] = self.bilingual(
            gr.Slider,
            {"label": f"train_{name}"},
            minimum=least,
            maximum=most,
            step=1,
            value=value,
            buttons=[],
            elem_id=f"train-{name.replace('_', '-')}",
        )

    def _number(self, name: str, value: float, precision: int | None = 0) -> None:
        self.settings[name] = self.bilingual(
            gr.Number,
            {"label": f"train_{name}"},
            value=value,
            precision=precision,
            minimum=0,
            min_width=200,
            elem_id=f"train-{name.replace('_', '-')}",
        )
