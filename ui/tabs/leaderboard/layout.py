"""The components of the leaderboard's tab."""

from __future__ import annotations

from typing import Any

import gradio as gr

from evals.leaderboard.drilldown import KINDS
from evals.methods import FAMILIES
from ui.components.bilingual import Bilingual
from ui.components.choices import Choice, Choices, Pick
from ui.tabs.leaderboard.query import COSTS, VIEWS
from ui.tabs.leaderboard.scripts import ON_CLICK


class LeaderboardLayout:
    """The components, made in the tab that is open for building."""

    def __init__(self, bilingual: Bilingual) -> None:
        self.bilingual = bilingual
        add = bilingual
        self.board = add(Choice, {"label": "board"}, elem_id="board-choice", elem_classes="options")
        self.verdict = gr.HTML(elem_id="board-verdict")
        with gr.Column(elem_id="board-body") as self.body:
            self._lay_out_controls()
            self.about = gr.HTML(elem_id="board-about")
            with gr.Row(elem_id="board-settings", visible=False) as self.settings:
                self.reference = add(
                    Pick, {"label": "board_reference"}, filterable=False, elem_id="board-reference"
                )
                self.cost = add(
                    Choice,
                    {"label": "board_cost", "choices": _named("board_cost", COSTS)},
                    value=COSTS[0],
                    elem_classes="options",
                )
            self.plot = gr.Plot(
                visible=False, show_label=False, container=False, elem_id="board-plot"
            )
            self.table = gr.HTML(js_on_load=ON_CLICK, elem_id="board-table")
            with gr.Row(elem_id="board-files"):
                self.csv = add(gr.Button, {"value": "board_csv"}, size="sm", scale=0, min_width=130)
                self.json = add(
                    gr.Button, {"value": "board_json"}, size="sm", scale=0, min_width=130
                )
            self._lay_out_samples()
        self.apart = gr.HTML(elem_id="board-apart")
        self._lay_out_memory()

    def _lay_out_controls(self) -> None:
        add = self.bilingual
        with gr.Row(elem_id="board-controls"):
            self.view = add(
                Choice,
                {"label": "board_view", "choices": _named("board_view", VIEWS)},
                value=VIEWS[0],
                show_label=False,
                container=False,
                elem_id="board-view",
            )
            self.find = add(
                gr.Textbox,
                {"label": "board_find", "placeholder": "board_find_example"},
                show_label=False,
                container=False,
                max_length=200,
                elem_id="board-find",
            )
        with add(
            gr.Accordion, {"label": "board_filters"}, open=False, elem_id="board-filters"
        ) as self.filters:
            self.families = add(
                Choices,
                {"label": "board_families", "choices": _named("board_family", FAMILIES)},
                elem_classes="options",
            )
            self.tasks = add(Choices, {"label": "board_tasks"}, elem_classes="options")
            with gr.Row(elem_id="board-limits"):
                self.budget = add(
                    Pick, {"label": "board_budget"}, filterable=False, elem_id="board-budget"
                )
                self.local = add(
                    gr.Checkbox,
                    {"label": "board_local"},
                    value=True,
                    container=False,
                    elem_id="board-local",
                )
                self.clear = add(
                    gr.Button, {"value": "board_clear"}, size="sm", scale=0, min_width=130
                )

    def _lay_out_samples(self) -> None:
        add = self.bilingual
        with gr.Column(visible=False, elem_id="board-samples") as self.panel:
            with gr.Row(elem_id="samples-head"):
                self.heading = gr.HTML()
                self.close = add(
                    gr.Button, {"value": "board_close_samples"}, size="sm", scale=0, min_width=110
                )
            with gr.Row(elem_id="samples-choice") as self.choice:
                self.cell = add(Pick, {"label": "board_cell"}, filterable=False, min_width=150)
                self.against = add(
                    Pick, {"label": "board_against"}, filterable=False, min_width=150
                )
                self.seed = add(
                    Pick, {"label": "board_seed"}, filterable=False, visible=False, min_width=100
                )
            self.only = add(
                Choice,
                {"label": "board_only"},
                value=KINDS[0],
                elem_classes="options",
            )
            self.samples = gr.HTML(elem_id="samples-list")
            with gr.Row(elem_id="samples-pages") as self.pages:
                size: dict[str, Any] = {"size": "sm", "scale": 0, "min_width": 90}
                self.earlier = add(gr.Button, {"value": "board_earlier"}, **size)
                self.place = gr.HTML(elem_id="samples-place")
                self.later = add(gr.Button, {"value": "board_later"}, **size)
            self.provenance = gr.HTML(elem_id="board-provenance")

    def _lay_out_memory(self) -> None:
        """Hidden inputs of events, kept in the browser."""
        self.sort = gr.Textbox(visible="hidden")
        self.entry = gr.Textbox(visible="hidden")
        self.leaf = gr.Textbox(visible="hidden")
        self.file = gr.Textbox(visible="hidden")


def _named(prefix: str, values: Any) -> Any:
    """Choices with a title each, for any translation."""
    return lambda word: [(word(f"{prefix} {value}"), value) for value in values]
