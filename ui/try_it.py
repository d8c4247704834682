"""The tab where a visitor asks a task's experts, sees the answer grow, and what the gate did."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from functools import partial
from typing import Any, Literal

import gradio as gr

from evals.tasks import Language
from ui import answering, forms, render
from ui.answering import Form, View
from ui.api import MODEL_LIMIT, MODEL_QUEUE
from ui.bilingual import Bilingual
from ui.engine import MAX_CHARACTERS, MAX_TOKENS, Engine
from ui.figures import heat_map, share_bar
from ui.texts import language_of, text
from ui.theme import MENTIONS

Updates = dict[Any, Any]

_SIDES: tuple[Literal["adapted", "bare"], ...] = ("adapted", "bare")
_ALL_MODULES = ""

# The address says what is shown, so that it can be shared; the list shows what is chosen.
_KEEP_UP = """(cluster, task, otherLanguage) => {
  if (!task) return;
  const address = new URL(location);
  address.searchParams.set("cluster", cluster);
  address.searchParams.set("task", task);
  history.replaceState(null, "", address);
  document.documentElement.lang = otherLanguage === "English" ? "zh-CN" : "en";
  requestAnimationFrame(() => {
    const row = document.querySelector("#tasks label.selected");
    row?.parentElement.scrollTo({ left: row.offsetLeft - 24, top: row.offsetTop - 120 });
  });
}"""
_SWITCH_LANGUAGE = """(name) => {
  const address = new URL(location);
  address.searchParams.set("lang", name === "English" ? "en" : "zh");
  location.assign(address);
}"""


class TryIt:
    """The tab's components and what they do.

    Args:
        page: What the tab stands in, open for building.
        engine: Who answers.
    """

    def __init__(self, page: gr.Blocks, engine: Engine) -> None:
        self.engine = engine
        self.bilingual = Bilingual()
        self._stopped: set[str] = set()
        self._lay_out()
        self._wire(page)

    # Layout ---------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        add = self.bilingual
        with gr.Row(elem_id="top"):
            add(gr.HTML, {"value": render.header}, elem_id="head")
            with gr.Column(scale=0, min_width=200, elem_id="corner"):
                self.other_language = add(
                    gr.Button, {"value": "other_language"}, size="sm", elem_id="language"
                )
                self.status = gr.HTML(elem_id="status")
        self.problems = gr.HTML()
        with gr.Row(elem_id="page") as self.body:
            with gr.Column(scale=0, min_width=272, elem_id="choose"):
                self.cluster = add(
                    gr.Radio, {"label": "cluster"}, container=False, elem_id="clusters"
                )
                self.task = add(gr.Radio, {"label": "task"}, container=False, elem_id="tasks")
            with gr.Column(elem_id="work", min_width=300):
                self.task_head = gr.HTML()
                self._lay_out_input()
                self._lay_out_answers()
                self._lay_out_gates()

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
            self.slots = [
                (
                    gr.Textbox(visible=False, max_length=MAX_CHARACTERS, elem_id=f"field-{place}"),
                    gr.Radio(visible=False, elem_classes="options"),
                )
                for place in range(forms.SLOTS)
            ]
            with add(gr.Accordion, {"label": "prompt_settings"}, open=False, elem_id="settings"):
                self.prompt = add(
                    gr.Textbox,
                    {"label": "prompt", "placeholder": "prompt_placeholder"},
                    lines=4,
                    max_lines=14,
                    max_length=MAX_CHARACTERS,
                    elem_id="prompt",
                )
                self.most = add(
                    gr.Slider, {"label": "most_tokens"}, minimum=1, maximum=MAX_TOKENS, step=1
                )
            # What the fields made; another prompt is the visitor's own. Kept in the browser, as the
            # prompt is: a state on the server would be ahead of it by a message on its way.
            self.made_prompt = gr.Textbox(visible="hidden")
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

    def _lay_out_answers(self) -> None:
        add = self.bilingual
        with gr.Column(elem_classes="step"):
            add(gr.HTML, {"value": render.heading("answers")})
            with gr.Row(equal_height=True, elem_id="answers"):
                self.replies = [gr.HTML(elem_id=side, min_width=260) for side in _SIDES]
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

    def _lay_out_gates(self) -> None:
        add = self.bilingual
        with gr.Column(elem_classes="step", elem_id="gates"):
            add(gr.HTML, {"value": render.heading("gates")})
            add(gr.HTML, {"value": render.paragraph("gates_intro")})
            self.gate_shares = gr.HTML(elem_id="gate-shares")
            self.share_bar = gr.Plot(show_label=False, container=False, elem_id="share-bar")
            self.module = add(
                gr.Radio,
                {"label": "module"},
                visible=False,
                elem_classes="options",
                elem_id="modules",
            )
            self.heat_map = gr.Plot(show_label=False, container=False, elem_id="heat-map")

    # Events ---------------------------------------------------------------------------------

    def _wire(self, page: gr.Blocks) -> None:
        """Say what happens when. Public endpoints are those of `ui.api` alone."""
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        at_once: dict[str, Any] = {**quiet, "queue": False}
        chosen = [self.cluster, self.task]
        boxes = self._boxes = [component for slot in self.slots for component in slot]
        outcome = [self.run, self.stop, *self.replies, self.highlights, self.parsed]
        gate = [self.gate_shares, self.share_bar, self.heat_map, self.module]
        task = [
            *(self.task, self.task_head, self.samples, *boxes, self.prompt, self.made_prompt),
            *(self.most, self.labels_only, *outcome),
        ]

        def then_gates(event: Any) -> None:
            event.then(self._show_gates, [*chosen, self.module], gate, **at_once)

        def keep_up(event: Any) -> None:
            event.then(None, [*chosen, self.other_language], None, js=_KEEP_UP, **at_once)

        opened = page.load(
            self._open,
            None,
            [*self.bilingual.components, self.body, self.cluster, *task],
            **at_once,
        )
        # Waiting costs nothing, so any number of pages may.
        loading = [self.status, self.problems, self.cluster]
        then_gates(opened.then(self._watch, None, loading, concurrency_limit=None, **quiet))
        keep_up(opened)
        page.unload(self._forget)
        self.other_language.click(None, self.other_language, None, js=_SWITCH_LANGUAGE, **at_once)

        for choice, handler in (
            (self.cluster, self._choose_cluster),
            (self.task, self._choose_task),
        ):
            changed = choice.input(handler, choice, task, **at_once)
            keep_up(changed)
            then_gates(changed)
        self.module.input(self._show_gates, [*chosen, self.module], gate, **at_once)

        rewritten = [self.prompt, self.made_prompt]
        for box in boxes:
            # Not `input`, which an input method's or pasted characters do not trigger.
            box.change(
                self._rewrite, [self.task, *boxes], rewritten, trigger_mode="always_last", **at_once
            )

        filled = self.samples.click(
            self._fill, [self.task, self.samples], [*boxes, *rewritten], **at_once
        )
        question = [*chosen, *rewritten, self.labels_only, self.most, *boxes]
        for start in (self.run.click, filled.then, *(box.submit for box, _ in self.slots)):
            start(self._begin, None, outcome, **at_once).then(
                self._answer,
                question,
                outcome,
                concurrency_limit=MODEL_LIMIT,
                concurrency_id=MODEL_QUEUE,
                **quiet,
            )
        self.stop.click(self._stop, None, None, **at_once)

    # What the page shows --------------------------------------------------------------------

    def _open(self, request: gr.Request) -> Updates:
        language = language_of(request)
        clusters = self.engine.clusters()
        updates: Updates = self.bilingual.updates(language)
        if not clusters:
            return {**updates, self.body: gr.update(visible=False)}
        asked = request.query_params
        cluster = asked["cluster"] if asked.get("cluster") in clusters else clusters[0]
        tasks = self.engine.tasks(cluster)
        task = asked["task"] if asked.get("task") in tasks else tasks[0]
        return _merged(
            updates,
            {self.cluster: gr.update(choices=self._clusters(language), value=cluster)},
            self._task_list(cluster, task, language),
            self._task(task, language),
        )

    async def _watch(self, request: gr.Request) -> AsyncIterator[Updates]:
        """Show how far loading has come, until it has ended."""
        language = language_of(request)
        while True:
            now = self.engine.status
            yield {
                self.status: render.status(now, language),
                self.problems: render.problems(self.engine, language),
                self.cluster: gr.update(choices=self._clusters(language)),
            }
            if now.ready or now.problem:
                return
            await asyncio.sleep(0.4)

    def _choose_cluster(self, cluster: str, request: gr.Request) -> Updates:
        language = language_of(request)
        task = self.engine.tasks(cluster)[0]
        return _merged(self._task_list(cluster, task, language), self._task(task, language))

    def _choose_task(self, task: str, request: gr.Request) -> Updates:
        return self._task(task, language_of(request))

    def _clusters(self, language: Language) -> list[tuple[str, str]]:
        return [(forms.cluster_title(name, language), name) for name in self.engine.clusters()]

    def _task_list(self, cluster: str, task: str, language: Language) -> Updates:
        """The tasks of a cluster, titles on one line and explanations on the next."""
        known = [forms.task_named(name) for name in self.engine.tasks(cluster)]
        choices = [
            (f"{forms.title(each, language)}\n{forms.description(each, language)}", each.name)
            for each in known
        ]
        return {self.task: gr.update(choices=choices, value=task)}

    def _task(self, name: str, language: Language) -> Updates:
        """A task's form with the first sample in it, and no answer yet."""
        task = forms.task_named(name)
        samples = forms.samples(task)
        values = samples[0].fields if samples else {}
        prompt = task.prompt(values) if samples else ""
        updates: Updates = {
            self.task_head: render.task_head(task, language),
            self.samples: gr.Dataset(
                label=text("samples", language),
                samples=[[forms.sample_label(sample)] for sample in samples],
                visible=bool(samples),
            ),
            self.prompt: prompt,
            self.made_prompt: prompt,
            self.most: task.max_new_tokens,
            self.labels_only: gr.update(visible=task.kind == "classification", value=False),
        }
        for place, (box, options) in enumerate(self.slots):
            updates[box] = updates[options] = gr.update(visible=False, value=None)
            if place < len(task.fields):
                field = task.fields[place]
                words: dict[str, Any] = {
                    "visible": True,
                    "label": forms.label(field, language),
                    "value": values.get(field.name, field.default),
                }
                if field.options:
                    updates[options] = gr.update(choices=list(field.options), **words)
                else:
                    updates[box] = gr.update(lines=3 if field.multiline else 1, **words)
        return {**updates, **self._outcome(answering.empty_view(language), language, busy=False)}

    def _show_gates(
        self, cluster: str | None, task: str | None, module: str | None, request: gr.Request
    ) -> Updates:
        language = language_of(request)
        if not (self.engine.status.ready and cluster in self.engine.clusters() and task):
            return {
                self.gate_shares: render.paragraph("gates_later")(partial(text, language=language)),
                self.share_bar: None,
                self.heat_map: None,
                self.module: gr.update(visible=False),
            }
        gates = self.engine.gates(cluster, task)
        chosen = module if module in gates.modules() else None
        names = [(text("all_modules", language), _ALL_MODULES)]
        names += [(name, name) for name in gates.modules()]
        return {
            self.gate_shares: render.gate_shares(gates, language),
            self.share_bar: share_bar(gates, language),
            self.heat_map: heat_map(gates, chosen, language),
            self.module: gr.update(choices=names, value=chosen or _ALL_MODULES, visible=True),
        }

    def _outcome(self, view: View, language: Language, *, busy: bool) -> Updates:
        cards = [
            render.answer_card(side, reply, language)
            for side, reply in zip(_SIDES, view.replies, strict=True)
        ]
        kinds = [kind for _, kind in view.highlights if kind]
        if view.problem:
            cards[0] = render.notice(view.problem)
        return {
            self.run: gr.update(visible=not busy),
            self.stop: gr.update(visible=busy),
            **dict(zip(self.replies, cards, strict=True)),
            self.highlights: gr.update(
                value=list(view.highlights),
                visible=bool(view.highlights),
                show_inline_category=len(set(kinds)) > 1,
                color_map=dict(zip(dict.fromkeys(kinds), MENTIONS * len(kinds), strict=False)),
            ),
            self.parsed: view.parsed,
        }

    # Asking ---------------------------------------------------------------------------------

    def _rewrite(self, task: str, *boxes: str | None) -> tuple[str, str]:
        """The prompt that the fields make, once they are filled in."""
        form = forms.task_named(task)
        values = self._values(task, boxes)
        prompt = "" if forms.missing_field(form, values) else form.prompt(values)
        return prompt, prompt

    def _fill(self, task: str, index: int) -> list[Any]:
        """A sample's values in their boxes, and its prompt."""
        form = forms.task_named(task)
        values = forms.samples(form)[index].fields
        boxes: list[Any] = [gr.skip()] * len(self._boxes)
        for place, field in enumerate(form.fields):
            boxes[2 * place + bool(field.options)] = values[field.name]
        prompt = form.prompt(values)
        return [*boxes, prompt, prompt]

    def _values(self, task: str, boxes: tuple[str | None, ...]) -> dict[str, str]:
        """A value for each field of the task, from its text box or its options."""
        return {
            field.name: boxes[2 * place + bool(field.options)] or ""
            for place, field in enumerate(forms.task_named(task).fields)
        }

    def _begin(self, request: gr.Request) -> Updates:
        self._stopped.discard(request.session_hash or "")
        language = language_of(request)
        view = answering.waiting_view(language, ready=self.engine.status.ready)
        return self._outcome(view, language, busy=True)

    def _answer(
        self,
        request: gr.Request,
        cluster: str,
        task: str,
        prompt: str,
        made_prompt: str,
        labels_only: bool,
        most: int,
        *boxes: str | None,  # Gradio wants the request first then
    ) -> Iterator[Updates]:
        language, session = language_of(request), request.session_hash or ""
        form = Form(
            cluster=cluster,
            task=forms.task_named(task),
            values=self._values(task, boxes),
            own_prompt=None if prompt == made_prompt else prompt,
            labels_only=labels_only,
            max_new_tokens=int(most),
        )
        view = answering.empty_view(language)
        views = answering.answer(self.engine, form, language, lambda: session in self._stopped)
        with closing(views):
            for view in views:
                yield self._outcome(view, language, busy=True)
        yield self._outcome(view, language, busy=False)

    def _stop(self, request: gr.Request) -> None:
        """The running answer of this page asks for this after every piece."""
        self._stopped.add(request.session_hash or "")

    def _forget(self, request: gr.Request) -> None:
        self._stopped.discard(request.session_hash or "")


def _merged(*parts: Updates) -> Updates:
    """Several updates as one; those of the same component are joined."""
    merged: Updates = {}
    for part in parts:
        for component, update in part.items():
            earlier = merged.get(component)
            known = earlier if isinstance(earlier, dict) and isinstance(update, dict) else None
            merged[component] = update if known is None else {**known, **update}
    return merged
