"""The components of the form for a comparison."""

from typing import Any

import gradio as gr

from evals.experiments.own_data.wishes import DEFAULT_METHODS, DEFAULT_MINUTES, DEFAULT_RATES
from evals.methods import METHODS
from ui.components.own_tasks import OwnTasks
from ui.components.widgets import Bilingual, Choice, Choices
from ui.tabs.jobs.tab import MAIN, SIDE, step, upload

RATES = ("0.0003", "0.001", "0.003", "0.01")
_LIMITS = ("train_records", "epochs", "test_records")

HUB = "hub"


class CompareForm:
    """The steps for data and methods, made in the tab that is open for building.

    Attributes:
        data: Components of the data, by field of `ui.tabs.compare.form.DataChoice`.
        wishes: Components of the methods and of the budget, by field of `Wishes`.
    """

    def __init__(self, bilingual: Bilingual) -> None:
        self._add = bilingual
        self.data: dict[str, Any] = {}
        self.wishes: dict[str, Any] = {}
        self._lay_out_data()
        self._lay_out_methods()

    def _lay_out_data(self) -> None:
        add = self._add
        with step(add, "compare_data"):
            with gr.Column(**SIDE):
                self.data["source"] = add(
                    Choice,
                    "compare_source",
                    container=False,
                    elem_id="compare-source",
                    elem_classes="job-rows",
                )
                with gr.Column(visible=False) as self.uploading:
                    for name in ("train_file", "dev_file", "test_file"):
                        elem_id = f"compare-{name.replace('_', '-')}"
                        self.data[name] = upload(add, f"compare_{name}", elem_id)
                    add.paragraph("compare_formats")
                self.data["hub"] = add(
                    gr.Textbox,
                    {"label": "compare_hub", "placeholder": "compare_hub_example"},
                    max_length=200,
                    visible=False,
                    elem_id="compare-hub",
                )
                self.data["tasks"] = add(
                    gr.Dropdown,
                    "compare_tasks",
                    multiselect=True,
                    allow_custom_value=True,  # its choices change; the handler checks them
                    elem_id="compare-tasks",
                )
            with gr.Column(**MAIN):
                self.report = gr.HTML(elem_id="compare-report")
                self.own = OwnTasks(add, "compare")

    def _lay_out_methods(self) -> None:
        add = self._add
        with step(add, "compare_methods"):
            with gr.Column(**SIDE):
                self.wishes["methods"] = add(
                    Choices,
                    {"label": "compare_which"},
                    choices=[name for name, one in METHODS.items() if one.adapters != "added"],
                    value=[*DEFAULT_METHODS],
                    elem_id="compare-which",
                )
                self.wishes["learning_rates"] = add(
                    Choices,
                    {"label": "compare_rates", "info": "compare_rates_info"},
                    choices=[*RATES],
                    value=[f"{rate:g}" for rate in DEFAULT_RATES],
                    elem_id="compare-rates",
                )
                self.wishes["seeds"] = add(
                    gr.Slider,
                    {"label": "compare_seeds", "info": "compare_seeds_info"},
                    minimum=1,
                    maximum=5,
                    step=1,
                    value=1,
                    buttons=[],
                    elem_id="compare-seeds",
                )
                self._number("minutes", DEFAULT_MINUTES, minimum=1, maximum=10000)
            with gr.Column(**MAIN):
                self.estimate = gr.HTML(elem_id="compare-estimate")
                with (
                    add(gr.Accordion, "compare_advanced", open=False, elem_id="compare-advanced"),
                    gr.Row(elem_classes="train-fields"),
                ):
                    for name in _LIMITS:
                        self._number(name, 0, minimum=0)

    def _number(self, name: str, value: float, **bounds: float) -> None:
        self.wishes[name] = self._add(
            gr.Number,
            f"compare_{name}",
            value=value,
            precision=None if name in {"minutes", "epochs"} else 0,
            min_width=200,
            elem_id=f"compare-{name.replace('_', '-')}",
            **bounds,
        )
