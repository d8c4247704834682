"""The components of the leaderboard's tab, and the scripts that the browser runs in it."""

from typing import Any

import gradio as gr

from evals.leaderboard.drilldown import KINDS
from evals.methods import FAMILIES
from ui.components.html import script
from ui.components.widgets import Bilingual, Choice, Choices, Pick, plot
from ui.tabs.leaderboard.query import VIEWS

_ON_CLICK = script("board_click")

LISTEN = script("board_markers")
GO_TO_SAMPLES = script("go_to_samples")
GO_TO_TOP = """() => document.getElementById("samples-list")?.scrollIntoView({ block: "start" })"""
GO_BACK = """() => document.querySelector("#board-table [aria-current]")?.focus()"""
SAVE = script("save_file")
SAVE_PICTURE = script("save_picture")
WITH_ADDRESS = """(_address, _scheme, ...values) => [
  document.boardAddress(), document.body.classList.contains("dark") ? "dark" : "light", ...values,
]"""


class LeaderboardLayout:
    """The components, made in the tab that is open for building."""

    def __init__(self, add: Bilingual) -> None:
        with gr.Row(elem_id="board-top"):
            self.cluster = add(
                Choice,
                "board_cluster",
                show_label=False,
                container=False,
                elem_id="board-cluster",
                elem_classes="segments",
            )
            self.newest = gr.Button(size="sm", scale=0, visible=False, elem_id="board-newest")
        self.verdict = gr.HTML(elem_id="board-verdict")
        with add(gr.Accordion, "board_others", open=False, elem_id="board-others") as self.others:
            self.board = add.options("board", show_label=False, elem_id="board-choice")
        with gr.Column(elem_id="board-body") as self.body:
            self._lay_out_controls(add)
            self.about = gr.HTML(elem_id="board-about")
            with gr.Row(elem_id="board-settings", visible=False) as self.settings:
                self.reference = add(
                    Pick, "board_reference", filterable=False, elem_id="board-reference"
                )
                self.cost = add(Pick, "board_cost", filterable=False, elem_id="board-cost")
                self.versus = add(Pick, "board_versus", filterable=False, elem_id="board-versus")
            self.plot = plot("board-plot", visible=False)
            self.table = gr.HTML(js_on_load=_ON_CLICK, elem_id="board-table")
            with gr.Row(elem_id="board-files"):
                self.share = gr.HTML(js_on_load=script("board_share"), elem_id="board-link")
                self.cite = add.small_button("board_cite", 90)
                self.picture = add.small_button("board_picture", 130)
                self.csv = add.small_button("board_csv", 130)
                self.json = add.small_button("board_json", 130)
            self.citation = gr.HTML(
                visible=False, js_on_load=script("copy"), elem_id="board-citation"
            )
            self._lay_out_samples(add)
        self.apart = gr.HTML(elem_id="board-apart")
        # Inputs of events, kept in the browser.
        self.sort = gr.Textbox(visible="hidden")
        self.entry = gr.Textbox(visible="hidden")
        self.leaf = gr.Textbox(visible="hidden")
        self.file = gr.Textbox(visible="hidden")
        self.address = gr.Textbox(visible="hidden")
        self.scheme = gr.Textbox(visible="hidden")

    def _lay_out_controls(self, add: Bilingual) -> None:
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
            gr.Accordion, "board_filters", open=False, elem_id="board-filters"
        ) as self.filters:
            self.families = add.options(
                {"label": "board_families", "choices": _named("board_family", FAMILIES)}, Choices
            )
            self.tasks = add.options("board_tasks", Choices)
            with gr.Row(elem_id="board-limits"):
                self.budget = add(Pick, "board_budget", filterable=False, elem_id="board-budget")
                self.local = add(
                    gr.Checkbox, "board_local", value=True, container=False, elem_id="board-local"
                )
                self.clear = add.small_button("board_clear", 130)

    def _lay_out_samples(self, add: Bilingual) -> None:
        with gr.Column(visible=False, elem_id="board-samples") as self.panel:
            with gr.Row(elem_id="samples-head"):
                self.heading = gr.HTML()
                self.close = add.small_button("board_close_samples", 110)
            with gr.Row(elem_id="samples-choice") as self.choice:
                self.cell = add(Pick, "board_cell", filterable=False, min_width=150)
                self.against = add(Pick, "board_against", filterable=False, min_width=150)
                self.seed = add(Pick, "board_seed", filterable=False, visible=False, min_width=100)
            self.only = add.options("board_only", value=KINDS[0])
            self.samples = gr.HTML(elem_id="samples-list")
            with gr.Row(elem_id="samples-pages") as self.pages:
                self.earlier = add.small_button("board_earlier", 90)
                self.place = gr.HTML(elem_id="samples-place")
                self.later = add.small_button("board_later", 90)
            self.provenance = gr.HTML(elem_id="board-provenance")


def _named(prefix: str, values: Any) -> Any:
    """Choices with a title each, for any translation."""
    return lambda word: [(word(f"{prefix} {value}"), value) for value in values]
