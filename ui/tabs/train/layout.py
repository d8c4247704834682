"""The components of the training form."""

from typing import Any

import gradio as gr

from evals.experiments.training_plan import trainable
from evals.methods import CGC_LORA
from ui.components.own_tasks import OwnTasks
from ui.components.widgets import Bilingual, Choice, Pick
from ui.tabs.jobs.tab import MAIN, SIDE, step, upload

_SIZES = (  # name, value, maximum
    ("common", 4, 16),
    ("specific", 1, 4),
    ("expert_rank", 2, 16),
    ("lora_rank", 8, 64),
    ("moe_experts", 8, 16),
)
_BASIC_NUMBERS = (("records_per_task", 100), ("epochs", 2.0), ("learning_rate", 2e-3))
_ADVANCED_NUMBERS = (
    *(("gate_rate", 6e-3), ("batch_size", 8), ("accumulation", 1), ("max_length", 512)),
    *(("alpha", 16.0), ("dev_records", 32), ("evaluations", 4), ("patience", 0), ("seed", 0)),
)  # integers take whole numbers only
_CHOICES = {
    "sampling": ["proportional", "uniform", "temperature"],
    "weighting": ["token", "record"],
    "best_by": ["loss", "score"],
}


class TrainForm:
    """The steps for data and method, made in the tab that is open for building.

    Attributes:
        data: Components of the data, by field of `ui.tabs.train.form.DataChoice`.
        settings: Components of plan and training settings, by field.
        own: The tasks of the data that are not built in.
    """

    def __init__(self, bilingual: Bilingual) -> None:
        self._add = bilingual
        self.data: dict[str, Any] = {}
        self.settings: dict[str, Any] = {}
        self._lay_out_data()
        self._lay_out_method()

    def _lay_out_data(self) -> None:
        add = self._add
        with step(add, "train_data"):
            with gr.Column(**SIDE):
                self.data["source"] = add(
                    Choice,
                    "train_source",
                    container=False,
                    elem_id="train-source",
                    elem_classes="job-rows",
                )
                with gr.Column(visible=False) as self.uploading:
                    self.data["train_file"] = upload(add, "train_file", "train-file")
                    self.data["dev_file"] = upload(add, "train_dev_file", "train-dev-file")
                    add.paragraph("train_formats")
                self.data["tasks"] = add(
                    gr.Dropdown,
                    "train_tasks",
                    multiselect=True,
                    allow_custom_value=True,  # its choices change; the handler checks them
                    elem_id="train-tasks",
                )
                bounds = {"minimum": 0.05, "maximum": 0.5, "step": 0.05}
                self.data["fraction"] = add(
                    gr.Slider, "train_fraction", value=0.25, buttons=[], **bounds
                )
            with gr.Column(**MAIN):
                self.report = gr.HTML(elem_id="train-report")
                self.own = OwnTasks(add, "train")

    def _lay_out_method(self) -> None:
        add = self._add
        with step(add, "train_method_and_sizes"):
            with gr.Column(**SIDE):
                # An address may name what is no choice any more: the handlers check it.
                self._setting("base", Pick, choices=[("", "")], value="")
                self._setting("method", gr.Dropdown, choices=[*trainable()], value=CGC_LORA)
                for name, value, maximum in _SIZES:
                    bounds = {"minimum": 1, "maximum": maximum, "step": 1}
                    self._setting(name, gr.Slider, value=value, buttons=[], **bounds)
                for name, number in _BASIC_NUMBERS:
                    self._number(name, number)
            with gr.Column(**MAIN):
                self.budget = gr.HTML(elem_id="train-budget")
                with add(gr.Accordion, "train_advanced", open=False, elem_id="train-advanced"):
                    self._lay_out_advanced()

    def _lay_out_advanced(self) -> None:
        with gr.Row(elem_classes="train-fields"):
            for name, number in _ADVANCED_NUMBERS:
                self._number(name, number)
            for name, choices in _CHOICES.items():
                self._setting(name, gr.Dropdown, choices=choices, value=choices[0], min_width=200)
            self._setting(
                "modules",
                gr.Dropdown,
                multiselect=True,
                allow_custom_value=True,  # its choices are known once the backbone is
                min_width=200,
            )
        self._setting("half", gr.Checkbox, value=True, container=False)

    def _setting(self, name: str, kind: Any, **properties: Any) -> None:
        elem_id = f"train-{name.replace('_', '-')}"
        self.settings[name] = self._add(kind, f"train_{name}", elem_id=elem_id, **properties)

    def _number(self, name: str, value: float) -> None:
        precision = 0 if isinstance(value, int) else None
        self._setting(name, gr.Number, value=value, precision=precision, minimum=0, min_width=200)
