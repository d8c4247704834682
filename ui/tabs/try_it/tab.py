"""The tab where a visitor asks a task's experts and sees their answer and their gate."""

from collections.abc import Iterator, Mapping
from typing import Any

import gradio as gr

from evals.tasks import Language
from ui.components import forms, render
from ui.components.answering_models import clusters
from ui.components.figures import gate_heat_map, share_bar
from ui.components.html import quiet, script
from ui.components.texts import language_of, text
from ui.components.widgets import Bilingual, Choice, plot, show_samples
from ui.engine.engine import AppEngine
from ui.shell import AT_ONCE, LAST, SILENT, Shell, Updates
from ui.tabs.try_it.answering import Form
from ui.tabs.try_it.answers import Answers
from ui.tabs.try_it.fields import Fields, FreeInput
from ui.tabs.try_it.recent import Recent, RecentQuestion

_KEEP_UP = script("keep_up")


class TryIt:
    """The tab's components and their events."""

    def __init__(self, shell: Shell, engine: AppEngine) -> None:
        self.shell = shell
        self.engine = engine
        self._lay_out(shell.bilingual)
        self._wire()

    def _lay_out(self, add: Bilingual) -> None:
        engine = self.engine
        with gr.Row(elem_id="page") as self.body:
            with gr.Column(scale=0, min_width=272, elem_id="choose"):
                self.cluster = add(gr.Radio, "cluster", container=False, elem_id="clusters")
                self.task = add(Choice, "task", container=False, elem_id="tasks")
            with gr.Column(elem_id="work", min_width=300):
                self.free = FreeInput(add, engine.limits.characters)
                self.task_head = gr.HTML()
                self._lay_out_input(add)
                self.answers = Answers(add, engine, self.run, self.stop)
                self._lay_out_gates(add)
                self.recent = Recent(add)

    def _lay_out_input(self, add: Bilingual) -> None:
        with add.section("input"):
            self.samples = add.text_list("samples", "samples")
            self.fields = Fields(add, self.engine)
            with gr.Row(elem_id="actions"):
                size = {"scale": 0, "min_width": 128}
                self.run = add(gr.Button, "run", variant="primary", elem_id="run", **size)
                self.stop = add(gr.Button, "stop", visible=False, elem_id="stop", **size)
                self.labels_only = add(
                    gr.Checkbox,
                    {"label": "labels_only", "info": "labels_only_info"},
                    container=False,
                    visible=False,
                    elem_id="labels-only",
                )

    def _lay_out_gates(self, add: Bilingual) -> None:
        with add.section("gates", "gates_intro", elem_id="gates"):
            self.gate_shares = gr.HTML(elem_id="gate-shares")
            self.share_bar = plot("share-bar")
            self.gate_map = plot("heat-map")

    # Events ---------------------------------------------------------------------------------

    def _wire(self) -> None:
        """Connect the events. All are private: `ui.api` has the public endpoints."""
        self._chosen = [self.cluster, self.task]
        self._task_parts = [
            *(self.cluster, self.task, self.task_head, self.samples, *self.fields.parts),
            *(self.labels_only, self.answers.beside, *self.answers.parts),
            # Updated with the task: a chained event could still read the task before it.
            *(self.gate_shares, self.share_bar, self.gate_map),
        ]
        self._wire_choosing()
        self._wire_asking()
        self.free.wire(self.engine, self.choose, self._task_parts)
        self.recent.wire(self.shell, self.engine, self.choose, self._task_parts)

    def _wire_choosing(self) -> None:
        loading = [self.shell.status, self.shell.problems, self.shell.clock, self.body]
        everything = [*loading, *self._task_parts]
        self.shell.on_open(self.open, [], everything)
        self.shell.on_open(None, js=_KEEP_UP)
        self.shell.clock.tick(self.watch, self._chosen, everything, **AT_ONCE)
        self.shell.on_close(self.answers.pages.forget)
        self.cluster.input(self.choose_cluster, self.cluster, self._task_parts, **LAST)
        self.task.input(self.choose_task, self._chosen, self._task_parts, **LAST)
        self.answers.beside.input(
            self.answers.choose_beside,
            [self.cluster, self.answers.beside],
            [self.answers.beside, *self.answers.parts],
            **LAST,
        )

    def _wire_asking(self) -> None:
        each: dict[str, Any] = {"trigger_mode": "multiple", **AT_ONCE}
        answers, fields = self.answers, self.fields
        prompts = [fields.prompt, fields.made_prompt]
        question = [answers.ticket, *self._chosen, *prompts]
        options = [self.labels_only, fields.max_tokens, answers.beside]
        # `input` misses pasted text and input methods. One event for all boxes, so that the last
        # call sees all of them.
        changed = [box.change for box in fields.boxes]
        made_of = [*self._chosen, *prompts, *fields.boxes]
        gr.on(changed, fields.make_prompt, made_of, prompts, **LAST)
        submitted = [self.run.click, *(box.submit for box, _ in fields.slots)]
        asking = [self.cluster, answers.beside]
        for begun in (
            gr.on(submitted, answers.begin, asking, answers.parts, **AT_ONCE),
            self.samples.click(
                self.ask_sample,
                [self.task, self.samples, *asking],
                [*fields.boxes, *prompts, *answers.parts],
                **LAST,
            ),
        ):
            answered = begun.success(
                self.answer,
                [*question, *options, *fields.boxes],
                answers.parts,
                trigger_mode="multiple",  # the one before may still be ending
                concurrency_limit=None,  # requests wait in the engine, which shows their position
                concurrency_id="page",
                api_visibility="private",
                **SILENT,
            )
            # Two events, since Gradio runs `then` after a success alone.
            settled = answered.then(answers.catch_up, None, answers.parts, **each)
            answered.failure(answers.refuse, asking, answers.parts, **each)
            settled.then(
                self.remember,
                [self.recent.kept, *question, *fields.boxes],
                self.recent.parts,
                **each,
            )
        self.stop.click(answers.cancel, asking, answers.parts, **AT_ONCE)

    # Choosing -------------------------------------------------------------------------------

    def open(self, request: gr.Request) -> Updates:
        """Show the choice of the address, or the first task of the first cluster."""
        clusters = self.engine.clusters()
        if not clusters:
            return {self.body: gr.update(visible=False), **self._loading(language_of(request))}
        address = request.query_params
        cluster = address["cluster"] if address.get("cluster") in clusters else clusters[0]
        tasks = self.engine.tasks(cluster)
        task = address["task"] if address.get("task") in tasks else tasks[0]
        return {**self.watch(cluster, task, request), **self.choose(cluster, task, request)}

    def watch(self, cluster: str | None, task: str | None, request: gr.Request) -> Updates:
        """Show the progress of loading and, once it has ended, the gates."""
        language = language_of(request)
        updates = self._loading(language)
        usable = self.engine.clusters()
        if not (self.engine.status.ready or self.engine.status.problem):
            return updates
        ended = {**updates, self.shell.clock: gr.Timer(active=False)}
        if not usable:
            return {**ended, self.body: gr.update(visible=False)}
        if not (cluster and task):
            return updates  # the page has no choice yet
        if cluster not in usable:  # its files were found damaged
            return {**ended, **self.choose_cluster(usable[0], request)}
        if not self.engine.knows(cluster, task):
            return updates  # the tasks of a new cluster are on their way
        return {**ended, **self._show_gates(cluster, task, language)}

    def _loading(self, language: Language) -> Updates:
        return {
            self.shell.status: render.status(self.engine.status, language),
            self.shell.problems: render.problems(self.engine, language),
        }

    def choose_cluster(self, cluster: str | None, request: gr.Request) -> Any:
        """Show the first task of a cluster."""
        if cluster not in self.engine.clusters():
            return gr.skip()
        return self.choose(cluster, self.engine.tasks(cluster)[0], request)

    def choose_task(self, cluster: str, task: str, request: gr.Request) -> Any:
        """Show a task, unless it belongs to the cluster before."""
        if not self.engine.knows(cluster, task):
            return gr.skip()
        return self._show_task(cluster, task, request)

    def choose(
        self,
        cluster: str,
        task: str,
        request: gr.Request,
        values: Mapping[str, str] | None = None,
        own_prompt: str = "",
    ) -> Updates:
        """Show a task of a cluster: its form, its gates, no answer yet.

        Without values the fields hold those of the first sample; `own_prompt` replaces the prompt
        that the fields make.
        """
        language = language_of(request)
        choices = []
        for name, words in forms.titles(self.engine, cluster, language).items():
            form = forms.task_of(self.engine, cluster, name)
            about = forms.description(form, language) or text(form.kind, language)
            choices.append((f"{words}\n{about}", name))
        return {
            self.cluster: gr.update(choices=clusters(self.engine, language), value=cluster),
            self.task: gr.update(choices=choices, value=task),
            **self._show_task(cluster, task, request, values),
            **({self.fields.prompt: own_prompt} if own_prompt else {}),
        }

    def _show_task(
        self, cluster: str, name: str, request: gr.Request, values: Mapping[str, str] | None = None
    ) -> Updates:
        """A task without the choice of it, which would undo a faster visitor's next click."""
        language = language_of(request)
        task = forms.task_of(self.engine, cluster, name)
        samples = forms.samples(task)
        if values is None:
            values = samples[0].fields if samples else {}
        return {
            self.task_head: render.task_head(task, language),
            self.samples: show_samples("samples", task, language),
            self.labels_only: gr.update(visible=task.kind == "classification", value=False),
            **self.fields.show(task, values, language),
            **self._show_gates(cluster, name, language),
            **self.answers.reset(cluster, name, request),
        }

    def _show_gates(self, cluster: str, task: str, language: Language) -> Updates:
        if not (self.engine.status.ready and cluster in self.engine.clusters()):
            key = "gates_never" if self.engine.status.problem else "gates_later"
            note = quiet(text(key, language))
            return {self.gate_shares: note, self.share_bar: None, self.gate_map: None}
        gates = self.engine.gates(cluster, task)
        return {
            self.gate_shares: render.gate_shares(gates, language)
            + render.gate_table(gates, None, language),
            self.share_bar: share_bar(gates, language),
            self.gate_map: gate_heat_map(gates, None, language),
        }

    # Asking ---------------------------------------------------------------------------------

    def ask_sample(
        self, task: str, index: int, cluster: str, beside: list[str], request: gr.Request
    ) -> Any:
        """Put a sample into the fields, and show that the models are about to answer."""
        form = forms.task_of(self.engine, cluster, task)
        samples = forms.samples(form)
        if not 0 <= index < len(samples):  # a sample of the task before
            return gr.skip()
        filled = self.fields.fill(form, samples[index].fields)
        return {**filled, **self.answers.begin(cluster, beside, request)}

    def answer(
        self,
        request: gr.Request,
        ticket: int,
        cluster: str,
        task: str,
        prompt: str,
        made_prompt: str,
        labels_only: bool,
        max_tokens: int,
        beside: list[str],
        *boxes: str | None,  # Gradio wants the request first then
    ) -> Iterator[Updates]:
        """Stream the answers to the form."""
        described = forms.task_of(self.engine, cluster, task)
        form = Form(
            cluster=cluster,
            task=described,
            values=self.fields.values(described, boxes),
            own_prompt=None if prompt == made_prompt else prompt,
            labels_only=labels_only,
            max_new_tokens=int(max_tokens),
            beside=self.answers.available(beside, task),
        )
        yield from self.answers.stream(form, ticket, request)

    def remember(
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
        """Add an answered question to the recent ones, unless its prompt was rewritten."""
        answer = self.answers.finished(ticket, request)
        if answer is None or prompt != made_prompt:
            return gr.skip()
        values = self.fields.values(forms.task_of(self.engine, cluster, task), boxes)
        question = RecentQuestion(cluster, task, values, answer)
        return self.recent.add(kept, question, language_of(request))
