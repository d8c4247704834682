"""The part of the tab where answers are shown: one card a model, parsed and compared."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import gradio as gr

from evals.tasks import Language
from ui.components import render
from ui.components.answering_models import answering_models, title
from ui.components.texts import language_of, text
from ui.components.theme import MENTIONS
from ui.components.widgets import Bilingual, Choices
from ui.engine.engine import AppEngine
from ui.engine.questions import BARE
from ui.server.page_sessions import PageSessions
from ui.shell import Updates, session_of
from ui.tabs.try_it import answering
from ui.tabs.try_it.answering import Form, View

MAX_BESIDE = 3
"""How many other models can be asked beside the chosen adapter."""


class Answers:
    """The components, made in the column that is open for building, and their events.

    Of the buttons `run` and `stop` one is shown. `beside` chooses other models; the hidden `ticket`
    is the number of the newest event, see `ui.server.page_sessions`.
    """

    def __init__(self, add: Bilingual, engine: AppEngine, run: gr.Button, stop: gr.Button) -> None:
        self.engine = engine
        self.run, self.stop = run, stop
        self.pages = PageSessions[View]()
        self.ticket = gr.Number(visible="hidden", precision=0)
        with add.section("answers"):
            self.beside = Choices(visible=False, elem_classes="options", elem_id="beside")
            with gr.Row(equal_height=True, elem_id="answers"):
                self.cards = [
                    gr.HTML(elem_id=f"answer-{place}", min_width=220, visible=place < 2)
                    for place in range(1 + MAX_BESIDE)
                ]
        with add.section("parsed"):
            self.highlights = add(
                gr.HighlightedText, "in_text", visible=False, show_label=False, elem_id="highlights"
            )
            self.parsed = gr.HTML(elem_id="parsed")
            self.labels = gr.HTML(elem_id="labels")
        self.parts = [
            *(self.ticket, self.run, self.stop, *self.cards, self.highlights, self.parsed),
            self.labels,
        ]

    def available(self, beside: list[str] | None, task: str | None = None) -> tuple[str, ...]:
        """The chosen models that exist and, where a task is given, know it."""
        adapters = [
            name
            for name in self.engine.adapters()
            if task is None or task in self.engine.configs[name].tasks
        ]
        return tuple(name for name in beside or () if name in (BARE, *adapters))[:MAX_BESIDE]

    # Updates --------------------------------------------------------------------------------

    def reset(self, cluster: str, task: str, request: gr.Request) -> Updates:
        """Offer the models that know a task, and show no answer yet."""
        language = language_of(request)
        names = (BARE, *self.engine.rivals(cluster, task))
        offered = gr.update(
            choices=[(title(self.engine, name, language), name) for name in names],
            value=[BARE],
            label=text("beside", language, most=MAX_BESIDE),
            visible=len(names) > 1,
        )
        view = self._empty(cluster, [BARE], language)
        return {self.beside: offered, **self._show(view, request, busy=False)}

    def _empty(self, cluster: str, beside: list[str] | None, language: Language) -> View:
        models = answering_models(self.engine, cluster, self.available(beside), language)
        return answering.empty_view(models, language)

    def _show(self, view: View, request: gr.Request, *, busy: bool) -> Updates:
        """Show something new, which cancels the answer in progress on this page."""
        ticket = self.pages.begin(session_of(request), view, busy=busy)
        return {self.ticket: ticket, **self._updates(view, language_of(request), busy=busy)}

    def _updates(self, view: View, language: Language, *, busy: bool) -> Updates:
        html = [
            render.answer_card(model, reply, language)
            for model, reply in zip(view.models, view.replies, strict=True)
        ]
        if view.problem:
            html[:1] = [render.notice(view.problem, verbatim=view.detail)]
        cards = dict.fromkeys(self.cards, gr.update(visible=False))
        for card, value in zip(self.cards, html, strict=False):
            cards[card] = gr.update(value=value, visible=True)
        kinds = dict.fromkeys(kind for _, kind in view.highlights if kind)
        return {
            self.run: gr.update(visible=not busy),
            self.stop: gr.update(visible=busy),
            **cards,
            self.highlights: gr.update(
                value=list(view.highlights),
                visible=bool(view.highlights),
                show_inline_category=len(kinds) > 1,
                color_map=dict(zip(kinds, MENTIONS * len(kinds), strict=False)),
            ),
            self.parsed: view.parsed,
            self.labels: gr.update(value=view.labels, visible=bool(view.labels)),
        }

    # Events ---------------------------------------------------------------------------------

    def choose_beside(self, cluster: str, beside: list[str], request: gr.Request) -> Updates:
        """Choose other models, as many as there is room for."""
        chosen = [*self.available(beside)]
        view = self._empty(cluster, chosen, language_of(request))
        shown = self._show(view, request, busy=False)
        return shown if chosen == beside else {**shown, self.beside: chosen}

    def begin(self, cluster: str, beside: list[str], request: gr.Request) -> Updates:
        """Show that the models are about to answer."""
        language = language_of(request)
        models = self._empty(cluster, beside, language).models
        ready = self.engine.status.ready
        view = answering.waiting_view(models, language, ready=ready)
        return self._show(view, request, busy=True)

    def stream(self, form: Form, ticket: int, request: gr.Request) -> Iterator[Updates]:
        """Show the answers to a form as they grow, until something newer is shown."""
        language, session = language_of(request), session_of(request)
        view = None
        views = answering.answer(
            self.engine,
            form,
            language,
            lambda: not self.pages.is_newest(session, ticket),
            lambda: self.engine.rates.count(request),
        )
        with closing(views):
            for view in views:
                if not self.pages.update(session, ticket, view, busy=True):
                    return
                yield self._updates(view, language, busy=True)
        if view is not None and self.pages.update(session, ticket, view, busy=False):
            yield self._updates(view, language, busy=False)

    def catch_up(self, request: gr.Request) -> Any:
        """Show the current state again.

        The last piece of a cancelled answer may have reached the page after its successor.
        """
        shown = self.pages.shown(session_of(request))
        if shown is None:
            return gr.skip()
        return self._updates(shown.view, language_of(request), busy=shown.busy)

    def refuse(self, cluster: str, beside: list[str], request: gr.Request) -> Updates:
        """Show that the question was not accepted: the queue is full, or the connection failed."""
        language = language_of(request)
        view = self._empty(cluster, beside, language)
        problem = text("not_taken", language)
        return self._show(replace(view, problem=problem), request, busy=False)

    def cancel(self, cluster: str, beside: list[str], request: gr.Request) -> Updates:
        """Stop the answer in progress and keep what it has so far."""
        language, shown = language_of(request), self.pages.shown(session_of(request))
        view = shown.view if shown else self._empty(cluster, beside, language)
        return self._show(answering.stopped_view(view, language), request, busy=False)

    def finished(self, ticket: int, request: gr.Request) -> str | None:
        """The complete answer of the chosen adapter; None if something newer is shown."""
        shown = self.pages.shown(session_of(request))
        if shown is None or shown.ticket != ticket or shown.view.replies[0].state != "done":
            return None
        return shown.view.replies[0].text
