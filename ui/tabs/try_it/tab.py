"""The tab where a visitor asks a task's experts, sees the answer grow, and what the gate did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from evals.tasks import Language
from ui.components import forms, render
from ui.components.answering_models import clusters, speakers, title
from ui.components.figures import heat_map, share_bar
from ui.components.texts import language_of, text
from ui.components.theme import MENTIONS
from ui.engine.engine import Engine
from ui.engine.questions import BARE
from ui.server.page_sessions import Visits
from ui.shell import AT_ONCE, LAST, Shell, session_of
from ui.tabs.try_it import answering
from ui.tabs.try_it.answering import Form, View
from ui.tabs.try_it.layout import MOST_BESIDE, Layout
from ui.tabs.try_it.recent import Asked

Updates = dict[Any, Any]

_QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

# The address says what is chosen, and the list shows it; answers are read out. Read from the page
# itself: an event that follows another one gets values from before it.
_KEEP_UP = """() => {
  const chosen = (part) => document.querySelector(`${part} .selected input`)?.value;
  const keepUp = () => {
    const cluster = chosen("#clusters"), task = chosen("#tasks");
    if (!cluster || !task) return;
    for (const card of document.querySelectorAll("#answers > *")) {
      card.setAttribute("aria-live", "polite");
    }
    const address = new URL(location);
    if (address.searchParams.get("cluster") === cluster
        && address.searchParams.get("task") === task) return;
    address.searchParams.set("cluster", cluster);
    address.searchParams.set("task", task);
    history.replaceState(null, "", address);
    const row = document.querySelector("#tasks label.selected");
    row?.parentElement.scrollTo({ left: row.offsetLeft - 24, top: row.offsetTop - 120 });
  };
  let waiting;
  const soon = () => {
    waiting ??= setTimeout(() => { waiting = undefined; keepUp(); }, 100);
  };
  new MutationObserver(soon).observe(document.getElementById("tabs"), {
    attributeFilter: ["class"], childList: true, subtree: true,
  });
  soon();
}"""


class TryIt(Layout):
    """The tab's components and what they do.

    Args:
        shell: What stands around it.
        engine: Who answers.
    """

    def __init__(self, shell: Shell, engine: Engine) -> None:
        super().__init__(shell.bilingual, engine.limits)
        self.shell = shell
        self.engine = engine
        self.visits = Visits[View]()
        self._wire()

    # Events ---------------------------------------------------------------------------------

    def _wire(self) -> None:
        """Say what happens when. Public endpoints are those of `ui.api` alone."""
        self._chosen = [self.cluster, self.task]
        self._boxes = [component for slot in self.slots for component in slot]
        self._outcome_parts = [
            *(self.ticket, self.run, self.stop, *self.replies, self.highlights, self.parsed),
            self.labels,
        ]
        self._task_parts = [
            *(self.task, self.task_head, self.samples, *self._boxes, self.prompt),
            *(self.made_prompt, self.most, self.labels_only, self.beside, *self._outcome_parts),
            # What follows an event on its own may still read what the page showed before it: gates
            # come with the task that they are of, not after it.
            *(self.gate_shares, self.share_bar, self.heat_map),
        ]
        self._wire_choosing()
        self._wire_asking()
        chooses = [self.cluster, *self._task_parts]
        self.free.wire(self.engine, self.choose, chooses)
        self.recent.wire(self.shell, self.engine, self.choose, chooses)

    def _wire_choosing(self) -> None:
        loading = [self.shell.status, self.shell.problems, self.shell.clock, self.body]
        everything = [self.cluster, *loading, *self._task_parts]
        self.shell.on_open(self._open, [], everything)
        self.shell.on_open(None, js=_KEEP_UP)
        self.shell.clock.tick(self._watch, self._chosen, everything, **AT_ONCE)
        self.shell.on_close(self.visits.forget)
        for choice, handler in (
            (self.cluster, self._choose_cluster),
            (self.task, self._choose_task),
        ):
            choice.input(handler, self._chosen, [self.cluster, *self._task_parts], **LAST)
        self.beside.input(
            self._choose_beside,
            [self.cluster, self.beside],
            [self.beside, *self._outcome_parts],
            **LAST,
        )

    def _wire_asking(self) -> None:
        each: dict[str, Any] = {"trigger_mode": "multiple", **AT_ONCE}
        prompts, outcome = [self.prompt, self.made_prompt], self._outcome_parts
        question = [
            *(self.ticket, *self._chosen, *prompts, self.labels_only, self.most, self.beside),
            *self._boxes,
        ]
        # Not `input`, which an input method's or pasted characters do not trigger. One event for
        # all boxes, so that the last call sees all of them.
        changed = [box.change for box in self._boxes]
        gr.on(changed, self._rewrite, [self.task, *prompts, *self._boxes], prompts, **LAST)
        submitted = [self.run.click, *(box.submit for box, _ in self.slots)]
        asking = [self.cluster, self.beside]
        for begun in (
            gr.on(submitted, self._begin, asking, outcome, **AT_ONCE),
            self.samples.click(
                self._fill,
                [self.task, self.samples, *asking],
                [*self._boxes, *prompts, *outcome],
                **LAST,
            ),
        ):
            answered = begun.success(
                self._answer,
                question,
                outcome,
                trigger_mode="multiple",  # the one before may not have ended yet
                concurrency_limit=None,  # who waits, waits for the engine, and sees how long
                concurrency_id="page",
                **_QUIET,
            )
            # Both, since Gradio calls what comes `then` after a success alone.
            settled = answered.then(self._catch_up, None, outcome, **each)
            answered.failure(self._refused, asking, outcome, **each)
            settled.then(
                self._note,
                [self.recent.kept, self.ticket, *self._chosen, *prompts, *self._boxes],
                self.recent.parts,
                **each,
            )
        self.stop.click(self._stop, asking, outcome, **AT_ONCE)

    # What the page shows --------------------------------------------------------------------

    def _open(self, request: gr.Request) -> Updates:
        language = language_of(request)
        clusters = self.engine.clusters()
        if not clusters:
            return {self.body: gr.update(visible=False), **self._loading(language)}
        asked = request.query_params
        cluster = asked["cluster"] if asked.get("cluster") in clusters else clusters[0]
        tasks = self.engine.tasks(cluster)
        task = asked["task"] if asked.get("task") in tasks else tasks[0]
        return _merged(self._watch(cluster, task, request), self.choose(cluster, task, request))

    def _watch(self, cluster: str | None, task: str | None, request: gr.Request) -> Updates:
        """How far loading has come; once it has ended, the gates, too."""
        language = language_of(request)
        now = self.engine.status
        updates = self._loading(language)
        usable = self.engine.clusters()
        if not (now.ready or now.problem):
            return updates
        if not usable:
            updates[self.shell.clock] = gr.Timer(active=False)
            return {**updates, self.body: gr.update(visible=False)}
        if not (cluster and task) or self._is_between(cluster, task):
            return updates  # the page does not show yet what it will in a moment
        updates[self.shell.clock] = gr.Timer(active=False)
        if cluster in usable:
            return {**updates, **self._show_gates(cluster, task, language)}
        # Its files were found damaged.
        return {**updates, **self.choose(usable[0], self.engine.tasks(usable[0])[0], request)}

    def _loading(self, language: Language) -> Updates:
        return {
            self.shell.status: render.status(self.engine.status, language),
            self.shell.problems: render.problems(self.engine, language),
        }

    def _is_between(self, cluster: str | None, task: str | None) -> bool:
        """Whether the browser has put in a new cluster, but not its tasks yet."""
        return cluster in self.engine.clusters() and task not in self.engine.tasks(str(cluster))

    def _choose_cluster(self, cluster: str | None, _: str | None, request: gr.Request) -> Any:
        if cluster not in self.engine.clusters():
            return gr.skip()
        return self.choose(cluster, self.engine.tasks(cluster)[0], request)

    def choose(
        self,
        cluster: str,
        task: str,
        request: gr.Request,
        values: Mapping[str, str] | None = None,
        own_prompt: str = "",
    ) -> Updates:
        """A task of a cluster.

        Args:
            cluster: Name of the adapter.
            task: One of its tasks.
            request: The visitor's.
            values: Of the fields; None takes those of the first sample.
            own_prompt: In place of the prompt that the fields make.
        """
        language = language_of(request)
        return _merged(
            {self.cluster: gr.update(choices=clusters(self.engine, language), value=cluster)},
            self._task_list(cluster, task, language),
            self._form(cluster, task, request, values),
            {self.prompt: own_prompt} if own_prompt else {},
        )

    def _task_list(self, cluster: str, task: str, language: Language) -> Updates:
        """The tasks of a cluster, titles on one line and explanations on the next."""
        known = [forms.task_named(name) for name in self.engine.tasks(cluster)]
        choices = [
            (f"{forms.title(each, language)}\n{forms.description(each, language)}", each.name)
            for each in known
        ]
        return {self.task: gr.update(choices=choices, value=task)}

    def _choose_task(self, cluster: str, name: str, request: gr.Request) -> Any:
        if not self.engine.knows(cluster, name):  # the browser is between two clusters
            return gr.skip()
        return self._form(cluster, name, request)

    def _form(
        self,
        cluster: str,
        name: str,
        request: gr.Request,
        values: Mapping[str, str] | None = None,
    ) -> Updates:
        """A task's form with the first sample or other values in it, its gates, no answer yet."""
        language = language_of(request)
        task = forms.task_named(name)
        samples = forms.samples(task)
        if values is None:
            values = samples[0].fields if samples else {}
        whole = {field.name: values.get(field.name, field.default) for field in task.fields}
        prompt = "" if forms.missing_field(task, whole) else task.prompt(whole)
        updates: Updates = {
            self.task_head: render.task_head(task, language),
            self.samples: gr.Dataset(
                label=text("samples", language),
                samples=[[forms.beginning(sample.fields)] for sample in samples],
                visible=bool(samples),
            ),
            self.prompt: prompt,
            self.made_prompt: prompt,
            self.most: task.max_new_tokens,
            self.labels_only: gr.update(visible=task.kind == "classification", value=False),
            self.beside: self._offered(cluster, name, language),
        }
        for place, (box, options) in enumerate(self.slots):
            updates[box] = updates[options] = gr.update(visible=False, value=None)
            if place < len(task.fields):
                field = task.fields[place]
                words: dict[str, Any] = {
                    "visible": True,
                    "label": forms.label(field, language),
                    "value": whole[field.name],
                }
                if field.options:
                    updates[options] = gr.update(choices=list(field.options), **words)
                else:
                    updates[box] = gr.update(lines=3 if field.multiline else 1, **words)
        view = answering.empty_view(speakers(self.engine, cluster, (BARE,), language), language)
        return {
            **updates,
            **self._show_gates(cluster, name, language),
            **self._show(view, request, busy=False),
        }

    def _offered(self, cluster: str, task: str, language: Language) -> Any:
        """Who can be asked beside the cluster's adapter."""
        names = (BARE, *self.engine.rivals(cluster, task))
        return gr.update(
            choices=[(title(self.engine, name, language), name) for name in names],
            value=[BARE],
            label=text("beside", language, most=MOST_BESIDE),
            visible=len(names) > 1,
        )

    def _choose_beside(self, cluster: str, beside: list[str], request: gr.Request) -> Updates:
        chosen = [*self._usable(beside)]
        shown = self._show(self._empty(cluster, chosen, request), request, busy=False)
        return shown if chosen == beside else {**shown, self.beside: chosen}

    def _empty(self, cluster: str, beside: list[str] | None, request: gr.Request) -> View:
        language = language_of(request)
        asked = speakers(self.engine, cluster, self._usable(beside), language)
        return answering.empty_view(asked, language)

    def _usable(self, beside: list[str] | None, task: str | None = None) -> tuple[str, ...]:
        """Those of them that are there and, where a task is given, know it."""
        there = [
            name
            for name in self.engine.adapters()
            if task is None or task in self.engine.configs[name].tasks
        ]
        return tuple(name for name in beside or () if name in (BARE, *there))[:MOST_BESIDE]

    def _show_gates(self, cluster: str, task: str, language: Language) -> Updates:
        if not (self.engine.status.ready and cluster in self.engine.clusters()):
            key = "gates_never" if self.engine.status.problem else "gates_later"
            note = render.paragraph(key)(partial(text, language=language))
            return {self.gate_shares: note, self.share_bar: None, self.heat_map: None}
        gates = self.engine.gates(cluster, task)
        return {
            self.gate_shares: render.gate_shares(gates, language)
            + render.gate_table(gates, None, language),
            self.share_bar: share_bar(gates, language),
            self.heat_map: heat_map(gates, None, language),
        }

    def _show(self, view: View, request: gr.Request, *, busy: bool) -> Updates:
        """Something new, which ends whatever was being answered on this page."""
        ticket = self.visits.begin(session_of(request), view, busy=busy)
        return {self.ticket: ticket, **self._outcome(view, language_of(request), busy=busy)}

    def _outcome(self, view: View, language: Language, *, busy: bool) -> Updates:
        cards = [
            render.answer_card(speaker, reply, language)
            for speaker, reply in zip(view.speakers, view.replies, strict=True)
        ]
        kinds = [kind for _, kind in view.highlights if kind]
        if view.problem:
            cards[:1] = [render.notice(view.problem, verbatim=view.detail)]
        rest = [gr.update(visible=False)] * (len(self.replies) - len(cards))
        return {
            self.run: gr.update(visible=not busy),
            self.stop: gr.update(visible=busy),
            **dict(
                zip(
                    self.replies,
                    [*(gr.update(value=card, visible=True) for card in cards), *rest],
                    strict=True,
                )
            ),
            self.highlights: gr.update(
                value=list(view.highlights),
                visible=bool(view.highlights),
                show_inline_category=len(set(kinds)) > 1,
                color_map=dict(zip(dict.fromkeys(kinds), MENTIONS * len(kinds), strict=False)),
            ),
            self.parsed: view.parsed,
            self.labels: gr.update(value=view.labels, visible=bool(view.labels)),
        }

    # Asking ---------------------------------------------------------------------------------

    def _rewrite(
        self, task: str, prompt: str | None, made_prompt: str | None, *boxes: str | None
    ) -> Any:
        """The prompt that the fields make, once they are filled in."""
        form = forms.task_named(task)
        values = self._values(task, boxes)
        if forms.missing_field(form, values):
            is_own = prompt and prompt != made_prompt and not any(values.values())
            return gr.skip() if is_own else ("", "")
        made = form.prompt(values)
        return made, made

    def _fill(
        self, task: str, index: int, cluster: str, beside: list[str], request: gr.Request
    ) -> Any:
        """A sample's values in their boxes, its prompt, and the wait for the answer."""
        form = forms.task_named(task)
        samples = forms.samples(form)
        if not 0 <= index < len(samples):  # the samples of another task were clicked
            return gr.skip()
        values = samples[index].fields
        updates: Updates = {
            self.slots[place][bool(field.options)]: values[field.name]
            for place, field in enumerate(form.fields)
        }
        updates[self.prompt] = updates[self.made_prompt] = form.prompt(values)
        return {**updates, **self._begin(cluster, beside, request)}

    def _values(self, task: str, boxes: tuple[str | None, ...]) -> dict[str, str]:
        """A value for each field of the task, from its text box or its options."""
        return {
            field.name: boxes[2 * place + bool(field.options)] or ""
            for place, field in enumerate(forms.task_named(task).fields)
        }

    def _begin(self, cluster: str, beside: list[str], request: gr.Request) -> Updates:
        language = language_of(request)
        asked = speakers(self.engine, cluster, self._usable(beside), language)
        view = answering.waiting_view(asked, language, ready=self.engine.status.ready)
        return self._show(view, request, busy=True)

    def _answer(
        self,
        request: gr.Request,
        ticket: int,
        cluster: str,
        task: str,
        prompt: str,
        made_prompt: str,
        labels_only: bool,
        most: int,
        beside: list[str],
        *boxes: str | None,  # Gradio wants the request first then
    ) -> Iterator[Updates]:
        language, session = language_of(request), session_of(request)
        form = Form(
            cluster=cluster,
            task=forms.task_named(task),
            values=self._values(task, boxes),
            own_prompt=None if prompt == made_prompt else prompt,
            labels_only=labels_only,
            max_new_tokens=int(most),
            beside=self._usable(beside, task),
        )
        view = self._empty(cluster, beside, request)
        views = answering.answer(
            self.engine,
            form,
            language,
            lambda: not self.visits.is_newest(session, ticket),
            lambda: self.engine.rates.count(request),
        )
        with closing(views):
            for view in views:
                if not self.visits.go_on(session, ticket, view, busy=True):
                    return
                yield self._outcome(view, language, busy=True)
        if self.visits.go_on(session, ticket, view, busy=False):
            yield self._outcome(view, language, busy=False)

    def _note(
        self,
        request: gr.Request,
        kept: object,
        ticket: int,
        cluster: str,
        task: str,
        prompt: str,
        made_prompt: str,
        *boxes: str | None,
    ) -> Any:
        """Keep a question that was answered, unless its prompt is the visitor's own."""
        shown = self.visits.shown(session_of(request))
        if shown is None or shown.ticket != ticket or prompt != made_prompt:
            return gr.skip()
        reply = shown.view.replies[0]
        if reply.state != "done":
            return gr.skip()
        asked = Asked(cluster, task, self._values(task, boxes), reply.text)
        return self.recent.add(kept, asked, language_of(request))

    def _catch_up(self, request: gr.Request) -> Any:
        """What the page must show by now.

        The last piece of an answer that was given up may have reached the page after what took its
        place.
        """
        shown = self.visits.shown(session_of(request))
        if shown is None:
            return gr.skip()
        return self._outcome(shown.view, language_of(request), busy=shown.busy)

    def _refused(self, cluster: str, beside: list[str], request: gr.Request) -> Updates:
        """The question was not even taken: the queue is full, or the connection failed."""
        problem = text("not_taken", language_of(request))
        view = replace(self._empty(cluster, beside, request), problem=problem)
        return self._show(view, request, busy=False)

    def _stop(self, cluster: str, beside: list[str], request: gr.Request) -> Updates:
        """What has been said so far stays; a question that still waits is given up."""
        language, shown = language_of(request), self.visits.shown(session_of(request))
        view = shown.view if shown else self._empty(cluster, beside, request)
        return self._show(answering.stopped_view(view, language), request, busy=False)


def _merged(*parts: Updates) -> Updates:
    """Several updates as one; those of the same component are joined."""
    merged: Updates = {}
    for part in parts:
        for component, update in part.items():
            earlier = merged.get(component)
            known = earlier if isinstance(earlier, dict) and isinstance(update, dict) else None
            merged[component] = update if known is None else {**known, **update}
    return merged
