"""The tab of the gates: those of one task with a what-if, and those of a whole cluster."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from cgclora.analysis.gates import GatePath, find_log, read_path, similarity
from evals.tasks import Language
from ui.components import forms, render
from ui.components.answering_models import clusters
from ui.components.figures import gate_heat_map, share_bar
from ui.components.texts import language_of, text
from ui.engine.engine import Engine
from ui.engine.task_gates import AdapterGates, TaskGates
from ui.shell import AT_ONCE, LAST, Shell, remember
from ui.tabs.gates import render as gates_render
from ui.tabs.gates.changes import Changes
from ui.tabs.gates.figures import entropy_lines, path_lines, path_map, similarity_map
from ui.tabs.gates.layout import VIEWS, GatesLayout

Updates = dict[Any, Any]

_HIDDEN = gr.update(value=None, visible=False)
_RESULTS = Path(__file__).resolve().parents[3] / "assets" / "results"


class Gates(GatesLayout):
    """The tab's components and their events.

    Args:
        shell: The frame of the page.
        engine: Its adapters' gates are shown.
    """

    def __init__(self, shell: Shell, engine: Engine) -> None:
        super().__init__(shell.bilingual)
        self.engine = engine
        with self.changes_place:
            self.changes = Changes(shell, engine, self.ticket, self.cluster, self.task)
        self._paths: dict[str, GatePath | None] = {}
        self._wire(shell)

    def _wire(self, shell: Shell) -> None:
        chosen = [self.cluster, self.task, self.module, self.view]
        layers = [self.gate_map, self.weights_table, self.entropy, self.entropy_words]
        everything = [
            *(self.notice, self.body, self.timer, *chosen, self.task_view, self.cluster_view),
            *(self.task_head, self.shares, self.share_bar, *layers, *self.changes.parts),
            *(self.matrix, self.similarity_words, self.similarity),
            *(self.path_words, self.path_lines, self.path_map),
        ]
        shell.on_show("gates", self.show, chosen, everything)
        self.timer.tick(self.watch, chosen, everything, **AT_ONCE)
        pickers = [self.cluster.input, self.task.input, self.view.input]
        for changed in (
            gr.on(pickers, self.pick, chosen, everything, **LAST),
            self.module.input(self.pick_module, chosen[:3], layers, **LAST),
        ):
            names = ("cluster", "task", "module", "view")
            remember(changed, **dict(zip(names, chosen, strict=True)))

    # Choosing -------------------------------------------------------------------------------

    def show(
        self,
        cluster: str | None,
        task: str | None,
        module: str | None,
        view: str | None,
        request: gr.Request,
    ) -> Updates:
        """Show the choice that the page holds, else that of the address."""
        language = language_of(request)
        usable = self.engine.clusters()
        if not usable or not self.engine.status.ready:
            waiting = bool(usable) and not self.engine.status.problem
            key = "gates_none" if not usable else "gates_loading" if waiting else "gates_never"
            return {
                self.notice: gr.update(value=gates_render.note(key, language), visible=True),
                self.body: gr.update(visible=False),
                self.timer: gr.Timer(active=waiting),
            }
        if cluster and task and self.engine.knows(cluster, task):
            # Shown before: keep the changed weights. There may be new adapters.
            return {self.cluster: gr.update(choices=clusters(self.engine, language))}
        address = request.query_params.get
        cluster, task = cluster or address("cluster"), task or address("task")
        module, view = module or address("module"), view or address("view")
        if cluster not in usable:
            cluster = next((name for name in usable if self.engine.knows(name, task)), usable[0])
        return {
            self.notice: gr.update(visible=False),
            self.body: gr.update(visible=True),
            self.timer: gr.Timer(active=False),
            **self.pick(cluster, task, module, view, request),
        }

    def watch(
        self,
        cluster: str | None,
        task: str | None,
        module: str | None,
        view: str | None,
        request: gr.Request,
    ) -> Any:
        """Show the gates once loading has ended."""
        if not (self.engine.status.ready or self.engine.status.problem):
            return gr.skip()
        return self.show(cluster, task, module, view, request)

    def pick_module(self, cluster: str, task: str, module: str, request: gr.Request) -> Any:
        """Show the layers of one kind; changed weights stay as they are."""
        if not self.engine.knows(cluster, task):  # the tasks of a new cluster are on their way
            return gr.skip()
        return self._by_layer(self.engine.gates(cluster, task), module, language_of(request))

    def pick(
        self,
        cluster: str | None,
        task: str | None,
        module: str | None,
        view: str | None,
        request: gr.Request,
    ) -> Any:
        """Show a task, or the whole cluster; a task of another cluster gives way to the first."""
        if cluster not in self.engine.clusters():
            return gr.skip()
        language = language_of(request)
        tasks = self.engine.tasks(cluster)
        task = task if task in tasks else tasks[0]
        view = view if view in VIEWS else VIEWS[0]
        gates = self.engine.all_gates(cluster)
        titles = {name: forms.title(forms.task_named(name), language) for name in tasks}
        views = [(text(f"gates_view {name}", language), name) for name in VIEWS]
        return {
            self.cluster: gr.update(choices=clusters(self.engine, language), value=cluster),
            self.task: gr.update(choices=[(titles[name], name) for name in tasks], value=task),
            self.view: gr.update(choices=views, value=view),
            self.task_view: gr.update(visible=view == "task"),
            self.cluster_view: gr.update(visible=view == "cluster"),
            **(
                self._one_task(gates, task, module, request)
                if view == "task"
                else self._one_cluster(cluster, gates, task, titles, language)
            ),
        }

    # Views ----------------------------------------------------------------------------------

    def _one_task(
        self, gates: AdapterGates, task: str, module: str | None, request: gr.Request
    ) -> Updates:
        language = language_of(request)
        task_gates = gates.of(task)
        modules = task_gates.modules()
        module = module if module in modules else ""
        choices = [(text("all_modules", language), ""), *((name, name) for name in modules)]
        return {
            self.task_head: render.task_head(forms.task_named(task), language),
            self.shares: gates_render.shares(gates, task, language),
            self.share_bar: share_bar(task_gates, language),
            self.module: gr.update(choices=choices, value=module),
            **self._by_layer(task_gates, module, language),
            **self.changes.show(task_gates, request),
        }

    def _by_layer(self, gates: TaskGates, module: str | None, language: Language) -> Updates:
        module = module or None
        updates = {
            self.gate_map: gate_heat_map(gates, module, language),
            self.weights_table: render.gate_table(gates, module, language),
        }
        if gates.weights.shape[1] == 1:
            words = gates_render.note("gates_entropy_one", language)
            return {**updates, self.entropy: _HIDDEN, self.entropy_words: words}
        return {
            **updates,
            self.entropy: gr.update(value=entropy_lines(gates, module, language), visible=True),
            self.entropy_words: gates_render.note("gates_entropy_hint", language)
            + gates_render.entropy_table(gates, module, language),
        }

    def _one_cluster(
        self,
        cluster: str,
        gates: AdapterGates,
        task: str,
        titles: dict[str, str],
        language: Language,
    ) -> Updates:
        return {
            self.matrix: gates_render.matrix(gates, titles, task, language),
            **self._similarity(gates, [titles[name] for name in gates.config.tasks], language),
            **self._path(cluster, gates, task, titles, language),
        }

    def _similarity(self, gates: AdapterGates, titles: list[str], language: Language) -> Updates:
        config = gates.config
        comparable = len(config.tasks) > 1 and config.common > 1
        if not comparable or config.gate != "task":
            key = "gates_similarity_even" if comparable else "gates_similarity_none"
            words = gates_render.note(key, language)
            return {self.similarity_words: words, self.similarity: _HIDDEN}
        cosines = similarity(gates.weights[:, :, : config.common])
        figure = similarity_map(titles, cosines, language)
        return {
            self.similarity_words: gates_render.similarity_words(titles, cosines, language),
            self.similarity: gr.update(value=figure, visible=True),
        }

    def _path(
        self,
        cluster: str,
        gates: AdapterGates,
        task: str,
        titles: dict[str, str],
        language: Language,
    ) -> Updates:
        path = self._logged(cluster)
        if path is None or gates.config.gate != "task":
            key = "gates_path_none" if path is None else "gates_similarity_even"
            words = gates_render.note(key, language)
            return {self.path_words: words, self.path_lines: _HIDDEN, self.path_map: _HIDDEN}
        return {
            self.path_words: gates_render.note("gates_path_hint", language)
            + f"<h3>{text('gates_path_of', language, task=escape(titles[task]))}</h3>"
            + gates_render.path_table(path, gates, task, language),
            self.path_lines: gr.update(value=path_lines(path, gates, task, language), visible=True),
            self.path_map: gr.update(value=path_map(path, gates, titles, language), visible=True),
        }

    def _logged(self, cluster: str) -> GatePath | None:
        """The gates in the adapter's training log, which is read once."""
        if cluster not in self._paths:
            config = self.engine.configs[cluster]
            log = find_log(self.engine.path(cluster), self.engine.manifests[cluster], _RESULTS)
            self._paths[cluster] = read_path(log, config) if log else None
        return self._paths[cluster]
