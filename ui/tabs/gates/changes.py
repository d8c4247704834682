"""The part of the tab where experts' weights are changed, and how that changes an answer."""

import logging
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gradio as gr

from cgclora.config import ConfigError
from evals.tasks import Language
from ui.components import forms, render
from ui.components.figures import expert_names, gate_heat_map
from ui.components.html import script
from ui.components.texts import language_of, text
from ui.components.widgets import Bilingual, plot, show_samples
from ui.engine.client import BusyError, EngineError
from ui.engine.engine import AppEngine
from ui.engine.gate_changes import Outcome
from ui.engine.task_gates import TaskGates
from ui.server.page_sessions import PageSessions
from ui.shell import AT_ONCE, LAST, SILENT, Shell, Updates, session_of
from ui.tabs.gates import render as gates_render
from ui.tabs.gates.what_if import WhatIf

SLIDERS = 12
"""How many experts of a task have a slider."""

_AT_A_TIME = 2
_log = logging.getLogger(__name__)

_KEYS = script("slider_keys")


class Changes:
    """The components and their events.

    The hidden `ticket` changes with every request; `parts` are what `show` updates.
    """

    def __init__(
        self, shell: Shell, engine: AppEngine, ticket: gr.Number, cluster: gr.Radio, task: gr.Radio
    ) -> None:
        self.engine = engine
        self._lay_out_what_if(shell.bilingual)
        self._lay_out_effects(shell.bilingual)
        self.ticket = ticket
        self.what_if = WhatIf(engine)
        self._pages = PageSessions[None]()
        shell.on_close(self._pages.forget)
        self._sliders = [slider for _, slider, _ in self.slots]
        self._knocks = [button for _, _, button in self.slots]
        self.parts = [
            *(part for slot in self.slots for part in slot),
            *(self.samples, self.prompt, self.slider_note, self.pending, self.outcome),
            *(self.effect_map, self.effect_words),
        ]
        self._wire(cluster, task)
        shell.on_open(None, js=_KEYS)

    def _lay_out_what_if(self, add: Bilingual) -> None:
        with add.section("gates_what_if", "gates_what_if_hint", elem_id="gates-what-if"):
            with gr.Row(elem_classes="pair"):
                with gr.Column(min_width=300):
                    self.samples = add.text_list("gates_samples", "gates-samples")
                    self.prompt = add(
                        gr.Textbox,
                        "gates_prompt",
                        lines=4,
                        max_lines=8,
                        max_length=self.engine.limits.characters,
                        elem_id="gates-prompt",
                    )
                    self.run = add(
                        gr.Button,
                        "gates_run",
                        variant="primary",
                        elem_id="gates-run",
                        scale=0,
                        min_width=128,
                    )
                with gr.Column(min_width=300, elem_id="gates-sliders"):
                    self.slots = [self._slot(place) for place in range(SLIDERS)]
                    self.slider_note = gr.HTML()
                    with gr.Row(elem_id="gates-sum"):
                        self.keep_sum = add(
                            gr.Checkbox,
                            {"label": "gates_keep_sum", "info": "gates_keep_sum_info"},
                            value=True,
                            container=False,
                        )
                        self.reset = add.small_button("gates_reset", 96, elem_id="gates-reset")
            self.pending = gr.HTML(elem_id="gates-pending")
            self.outcome = gr.HTML(elem_id="gates-outcome")

    def _slot(self, place: int) -> tuple[gr.Row, gr.Slider, gr.Button]:
        with gr.Row(elem_classes="slot", visible=False) as row:
            slider = gr.Slider(0, 2, value=1, step=0.05, buttons=[], elem_id=f"expert-{place}")
            button = gr.Button(size="sm", scale=0, min_width=84, elem_id=f"knock-{place}")
        return row, slider, button

    def _lay_out_effects(self, add: Bilingual) -> None:
        section = add.section("gates_effects", "gates_effects_hint", elem_id="gates-effects")
        with section, gr.Row(elem_classes="pair"):
            with gr.Column(scale=2, min_width=300):
                self.effect_words = gr.HTML()
            with gr.Column(scale=3, min_width=300):
                self.effect_map = plot("gates-effect-map", elem_classes="gates-plot", visible=False)

    def _wire(self, cluster: gr.Radio, task: gr.Radio) -> None:
        begun = [self.ticket, self.pending, *self._knocks]
        moved = [slider.release for slider in self._sliders]
        triggers = [*moved, self.keep_sum.input, self.run.click, self.prompt.submit]
        gr.on(triggers, self.begin, self._sliders, begun, **LAST)
        gr.on(
            [button.click for button in self._knocks],
            self.knock_out,
            self._sliders,
            [*self._sliders, *begun],
            **{**LAST, "trigger_mode": "multiple"},
        )
        self.reset.click(self.reset_all, None, [*self._sliders, *begun], **LAST)
        self.samples.click(
            self.choose_sample,
            [cluster, task, self.samples, *self._sliders],
            [self.prompt, *begun],
            **LAST,
        )
        # A single event for all triggers: while it runs, only the newest of the others waits.
        computed = self.ticket.change(
            self.compute,
            [self.ticket, cluster, task, self.prompt, self.keep_sum, *self._sliders],
            [self.pending, self.outcome, self.effect_map, self.effect_words],
            trigger_mode="always_last",
            concurrency_limit=_AT_A_TIME,
            concurrency_id="what-if",
            api_visibility="private",
            **SILENT,
        )
        computed.failure(self.refuse, None, [self.pending], **AT_ONCE)

    def show(self, cluster: str, gates: TaskGates, request: gr.Request) -> Updates:
        """Show a task with its learned weights; cancels the comparison before it."""
        self._pages.begin(session_of(request), None, busy=True)
        language = language_of(request)
        task = forms.task_of(self.engine, cluster, gates.task)
        samples = forms.samples(task)
        return {
            self.samples: show_samples("gates_samples", task, language),
            self.prompt: task.prompt(samples[0].fields) if samples else "",
            **self._show_sliders(gates, language),
            self.pending: "",
            self.outcome: gates_render.note("gates_before", language),
            self.effect_map: gr.update(value=None, visible=False),
            self.effect_words: gates_render.note("gates_effects_later", language),
        }

    def _show_sliders(self, gates: TaskGates, language: Language) -> Updates:
        """A slider for each of the task's experts, all at the learned weight."""
        updates: Updates = {}
        names, shares = expert_names(gates, language), gates.shares()
        for place, (row, slider, button) in enumerate(self.slots):
            kind = "common" if place < gates.common else "specific"
            updates[row] = gr.update(visible=place < len(names), elem_classes=["slot", kind])
            updates[button] = text("gates_knock", language)
            updates[slider] = gr.update(value=1)
            if place < len(names):
                share = f"{shares[place]:.0%}"
                updates[slider]["label"] = text(
                    "gates_slider", language, name=names[place], share=share
                )
        rest = len(names) - SLIDERS
        counts = {"shown": SLIDERS, "rest": rest}
        note = gates_render.note("gates_slider_more", language, **counts) if rest > 0 else ""
        return {**updates, self.slider_note: note}

    # Events ---------------------------------------------------------------------------------

    def begin(self, request: gr.Request, *factors: float) -> Updates:
        """Begin a new comparison, which cancels the one before it."""
        language = language_of(request)
        return {
            self.ticket: self._pages.begin(session_of(request), None, busy=True),
            self.pending: gates_render.pending(language),
            **{
                button: text("gates_knock" if factor else "gates_restore", language)
                for button, factor in zip(self._knocks, factors, strict=True)
            },
        }

    def knock_out(self, event: gr.EventData, request: gr.Request, *factors: float) -> Any:
        """Knock an expert out, or restore it."""
        # The target is the session's copy of the button.
        pressed = getattr(event.target, "elem_id", None)
        places = {button.elem_id: place for place, button in enumerate(self._knocks)}
        if pressed not in places:
            return gr.skip()
        place = places[pressed]
        changed = [*factors]
        changed[place] = 0 if factors[place] else 1
        return {self._sliders[place]: changed[place], **self.begin(request, *changed)}

    def reset_all(self, request: gr.Request) -> Updates:
        """Restore the learned weights."""
        ones = dict.fromkeys(self._sliders, 1.0)
        return {**ones, **self.begin(request, *ones.values())}

    def choose_sample(
        self, request: gr.Request, cluster: str, task: str, index: int, *factors: float
    ) -> Any:
        """Show the prompt of a sample."""
        form = forms.task_of(self.engine, cluster, task)
        samples = forms.samples(form)
        if not 0 <= index < len(samples):  # a sample of the task before
            return gr.skip()
        prompt = form.prompt(samples[index].fields)
        return {self.prompt: prompt, **self.begin(request, *factors)}

    def compute(
        self,
        request: gr.Request,
        ticket: int,
        cluster: str,
        task: str,
        prompt: str,
        keep_sum: bool,
        *factors: float,
    ) -> Iterator[Updates]:
        """Show the comparison as it grows."""
        language, session = language_of(request), session_of(request)

        def stopped() -> bool:
            return not self._pages.is_newest(session, ticket)

        if stopped() or not self.engine.knows(cluster, task):
            return
        try:
            if prompt.strip():
                self.engine.rates.count(request)
                gates = self.engine.gates(cluster, task)
                outcomes = self.what_if.compare(
                    cluster, task, prompt, factors, keep_sum=keep_sum, stopped=stopped
                )
                with closing(outcomes):
                    for outcome in outcomes:
                        yield self._show_outcome(outcome, gates, language)
                return
            message = gates_render.note("gates_empty_prompt", language)
        except (EngineError, ConfigError, ValueError) as error:
            key = "busy" if isinstance(error, BusyError) else "gates_refused"
            message = render.notice(text(key, language), verbatim=str(error))
        except Exception:  # the visitor reads a sentence, the log has the traceback
            _log.exception("no comparison for task %r", task)
            message = render.notice(text("internal", language))
        yield {self.pending: "", self.outcome: message}

    def _show_outcome(self, outcome: Outcome, gates: TaskGates, language: Language) -> Updates:
        updates: Updates = {self.outcome: gates_render.outcome(outcome, gates, language)}
        if outcome.effects is None or outcome.gates is None:
            return updates
        figure = gate_heat_map(outcome.effects, None, language, measure="effect")
        return {
            **updates,
            self.pending: "",
            self.effect_map: gr.update(value=figure, visible=True),
            self.effect_words: gates_render.effects(outcome.gates, outcome.effects, language)
            + render.gate_table(outcome.effects, None, language, measure="effect"),
        }

    def refuse(self, request: gr.Request) -> Updates:
        """The server's queue is full."""
        return {self.pending: gates_render.note("gates_busy", language_of(request))}
