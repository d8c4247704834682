"""The part of the tab where experts' weights are changed, and what that does to an answer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gradio as gr

from cgclora.config import ConfigError
from evals.tasks import Language
from ui.components import forms, render
from ui.components.bilingual import Bilingual
from ui.components.figures import expert_names, heat_map
from ui.components.texts import language_of, text
from ui.engine.client import BusyError, EngineError
from ui.engine.engine import Engine
from ui.engine.settings import Limits
from ui.engine.task_gates import TaskGates
from ui.server.page_sessions import Visits
from ui.shell import AT_ONCE, LAST, Shell, session_of
from ui.tabs.gates import render as gates_render
from ui.tabs.gates.layout import plot
from ui.tabs.gates.what_if import Case, Outcome, WhatIf

Updates = dict[Any, Any]

SLIDERS = 12
"""How many experts of a task have a slider."""

_AT_A_TIME = 2
_log = logging.getLogger(__name__)

# A slider tells when it is let go, but not when a key moved it.
_KEYS = """() => {
  document.addEventListener("keyup", (event) => {
    const slider = event.target;
    if (slider.type === "range" && slider.closest("#gates-sliders")) {
      slider.dispatchEvent(new PointerEvent("pointerup", { bubbles: true }));
    }
  });
}"""


class ChangesLayout:
    """The components, made in the column that is open for building."""

    def __init__(self, bilingual: Bilingual, limits: Limits) -> None:
        self.bilingual = bilingual
        self.limits = limits
        self._lay_out_what_if()
        self._lay_out_effects()

    def _lay_out_what_if(self) -> None:
        add = self.bilingual
        with gr.Column(elem_classes="step", elem_id="gates-what-if"):
            add(gr.HTML, {"value": render.heading("gates_what_if")})
            add(gr.HTML, {"value": render.paragraph("gates_what_if_hint")})
            with gr.Row(elem_classes="pair"):
                with gr.Column(min_width=300):
                    self.samples = add(
                        gr.Dataset,
                        {"label": "gates_samples"},
                        components=[gr.Textbox(visible=False)],
                        samples=[],
                        type="index",
                        elem_id="gates-samples",
                    )
                    self.prompt = add(
                        gr.Textbox,
                        {"label": "gates_prompt"},
                        lines=4,
                        max_lines=8,
                        max_length=self.limits.characters,
                        elem_id="gates-prompt",
                    )
                    self.run = add(
                        gr.Button,
                        {"value": "gates_run"},
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
                        self.reset = add(
                            gr.Button,
                            {"value": "gates_reset"},
                            size="sm",
                            scale=0,
                            min_width=96,
                            elem_id="gates-reset",
                        )
            self.pending = gr.HTML(elem_id="gates-pending")
            self.outcome = gr.HTML(elem_id="gates-outcome")

    def _slot(self, place: int) -> tuple[gr.Row, gr.Slider, gr.Button]:
        with gr.Row(elem_classes="slot", visible=False) as row:
            slider = gr.Slider(0, 2, value=1, step=0.05, buttons=[], elem_id=f"expert-{place}")
            button = gr.Button(size="sm", scale=0, min_width=84, elem_id=f"knock-{place}")
        return row, slider, button

    def _lay_out_effects(self) -> None:
        add = self.bilingual
        with gr.Column(elem_classes="step", elem_id="gates-effects"):
            add(gr.HTML, {"value": render.heading("gates_effects")})
            add(gr.HTML, {"value": render.paragraph("gates_effects_hint")})
            with gr.Row(elem_classes="pair"):
                with gr.Column(scale=2, min_width=300):
                    self.effect_words = gr.HTML()
                with gr.Column(scale=3, min_width=300):
                    self.effect_map = plot("gates-effect-map", visible=False)


class Changes(ChangesLayout):
    """The components and what they do.

    Args:
        shell: What stands around the tab.
        engine: Who answers.
        ticket: Hidden, and not in what is shown and hidden: counts what was asked.
        cluster: Says which adapter.
        task: Says which of its tasks.

    Attributes:
        parts: What `show` updates.
    """

    def __init__(
        self, shell: Shell, engine: Engine, ticket: gr.Number, cluster: gr.Radio, task: gr.Radio
    ) -> None:
        super().__init__(shell.bilingual, engine.limits)
        self.engine = engine
        self.ticket = ticket
        self.what_if = WhatIf(engine)
        self._visits = Visits[None]()
        shell.on_close(self._visits.forget)
        self._sliders = [slider for _, slider, _ in self.slots]
        self._knocks = [button for _, _, button in self.slots]
        self.parts = [
            *(part for slot in self.slots for part in slot),
            *(self.samples, self.prompt, self.slider_note, self.pending, self.outcome),
            *(self.effect_map, self.effect_words),
        ]
        self._wire(cluster, task)
        shell.on_open(None, js=_KEYS)

    def _wire(self, cluster: gr.Radio, task: gr.Radio) -> None:
        begun = [self.ticket, self.pending, *self._knocks]
        moved = [slider.release for slider in self._sliders]
        asked = [*moved, self.keep_sum.input, self.run.click, self.prompt.submit]
        gr.on(asked, self._begin, self._sliders, begun, **LAST)
        gr.on(
            [button.click for button in self._knocks],
            self._knock,
            self._sliders,
            [*self._sliders, *begun],
            **{**LAST, "trigger_mode": "multiple"},
        )
        self.reset.click(self._reset, None, [*self._sliders, *begun], **LAST)
        self.samples.click(
            self._fill, [task, self.samples, *self._sliders], [self.prompt, *begun], **LAST
        )
        # One event for whatever was done: while it runs, the newest of those to come waits.
        parts = [self.pending, self.outcome, self.effect_map, self.effect_words]
        computed = self.ticket.change(
            self._compute,
            [self.ticket, cluster, task, self.prompt, self.keep_sum, *self._sliders],
            parts,
            trigger_mode="always_last",
            concurrency_limit=_AT_A_TIME,
            concurrency_id="what-if",
            api_visibility="private",
            show_progress="hidden",
        )
        computed.failure(self._refused, None, [self.pending], **AT_ONCE)

    # What is seen ---------------------------------------------------------------------------

    def show(self, gates: TaskGates, request: gr.Request) -> Updates:
        """A task, nothing changed and nothing asked yet; what was asked before is given up."""
        self._visits.begin(session_of(request), None, busy=True)
        language = language_of(request)
        form = forms.task_named(gates.task)
        samples = forms.samples(form)
        return {
            self.samples: gr.Dataset(
                label=text("gates_samples", language),
                samples=[[forms.beginning(sample.fields)] for sample in samples],
                visible=bool(samples),
            ),
            self.prompt: form.prompt(samples[0].fields) if samples else "",
            **self._slots_of(gates, language),
            self.pending: "",
            self.outcome: gates_render.note("gates_before", language),
            self.effect_map: gr.update(value=None, visible=False),
            self.effect_words: gates_render.note("gates_effects_later", language),
        }

    def _slots_of(self, gates: TaskGates, language: Language) -> Updates:
        """A slider for each of the task's experts, all at the learned weight."""
        updates: Updates = {}
        names, shares = expert_names(gates, language), gates.shares()
        for place, (row, slider, button) in enumerate(self.slots):
            there = place < len(names)
            updates[row] = gr.update(
                visible=there,
                elem_classes=["slot", "common" if place < gates.common else "specific"],
            )
            updates[button] = text("gates_knock", language)
            updates[slider] = gr.update(value=1)
            if there:
                share = f"{shares[place]:.0%}"
                label = text("gates_slider", language, name=names[place], share=share)
                updates[slider] = gr.update(value=1, label=label)
        rest = len(names) - SLIDERS
        words = {"shown": SLIDERS, "rest": rest}
        note = gates_render.note("gates_slider_more", language, **words) if rest > 0 else ""
        return {**updates, self.slider_note: note}

    # What if --------------------------------------------------------------------------------

    def _begin(self, request: gr.Request, *factors: float) -> Updates:
        """Something else is asked; what was asked before is given up."""
        language = language_of(request)
        return {
            self.ticket: self._visits.begin(session_of(request), None, busy=True),
            self.pending: gates_render.pending(language),
            **{
                button: text("gates_knock" if factor else "gates_restore", language)
                for button, factor in zip(self._knocks, factors, strict=True)
            },
        }

    def _knock(self, event: gr.EventData, request: gr.Request, *factors: float) -> Any:
        """An expert out, or back in again."""
        # The target is the session's copy of the button.
        pressed = getattr(event.target, "elem_id", None)
        places = {button.elem_id: place for place, button in enumerate(self._knocks)}
        if pressed not in places:
            return gr.skip()
        place = places[pressed]
        changed = [*factors]
        changed[place] = 0 if factors[place] else 1
        return {self._sliders[place]: changed[place], **self._begin(request, *changed)}

    def _reset(self, request: gr.Request) -> Updates:
        ones = [1.0] * SLIDERS
        return {
            **dict(zip(self._sliders, ones, strict=True)),
            **self._begin(request, *ones),
        }

    def _fill(self, request: gr.Request, task: str, index: int, *factors: float) -> Any:
        """A sample's prompt."""
        form = forms.task_named(task)
        samples = forms.samples(form)
        if not 0 <= index < len(samples):  # of the task before
            return gr.skip()
        prompt = form.prompt(samples[index].fields)
        return {self.prompt: prompt, **self._begin(request, *factors)}

    def _compute(
        self,
        request: gr.Request,
        ticket: int,
        cluster: str,
        task: str,
        prompt: str,
        keep_sum: bool,
        *factors: float,
    ) -> Iterator[Updates]:
        language, session = language_of(request), session_of(request)

        def stopped() -> bool:
            return not self._visits.is_newest(session, ticket)

        if stopped() or not self.engine.knows(cluster, task):
            return
        if not prompt.strip():
            yield self._said(gates_render.note("gates_empty_prompt", language))
            return
        try:
            self.engine.rates.count(request)
            gates = self.engine.gates(cluster, task)
            found = self.what_if.compare(
                Case(cluster, task, prompt), factors, keep_sum=keep_sum, stopped=stopped
            )
            with closing(found) as outcomes:
                for outcome in outcomes:
                    yield self._found(outcome, gates, language)
        except (EngineError, ConfigError, ValueError) as error:
            key = "busy" if isinstance(error, BusyError) else "gates_refused"
            words = text(key, language)
            yield self._said(render.notice(words, verbatim=str(error)))
        except Exception:  # a visitor gets a sentence, the log the traceback
            _log.exception("no comparison for task %r", task)
            yield self._said(render.notice(text("internal", language)))

    def _said(self, words: str) -> Updates:
        return {self.pending: "", self.outcome: words}

    def _found(self, found: Outcome, gates: TaskGates, language: Language) -> Updates:
        updates: Updates = {self.outcome: gates_render.outcome(found, gates, language)}
        if found.effects is None or found.gates is None:
            return updates
        table = render.gate_table(found.effects, None, language, measure="effect")
        return {
            **updates,
            self.pending: "",
            self.effect_map: gr.update(
                value=heat_map(found.effects, None, language, measure="effect"), visible=True
            ),
            self.effect_words: gates_render.effects(found.gates, found.effects, language) + table,
        }

    def _refused(self, request: gr.Request) -> Updates:
        """The question was not even taken: the queue is full."""
        return {self.pending: gates_render.note("gates_busy", language_of(request))}
