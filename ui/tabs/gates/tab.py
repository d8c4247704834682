"""The tab of the gates: of one task, with what its experts do, and of a whole cluster."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from cgclora.analysis.gates import GatePath, find_log, read_path, similarity
from evals.tasks import Language
from ui.components import forms, render
from ui.components.answering_models import clusters
from ui.components.figures import heat_map, share_bar
from ui.components.texts import language_of, text
from ui.engine.engine import Engine
from ui.engine.task_gates import AdapterGates, TaskGates
from ui.shell import AT_ONCE, LAST, Shell, remember
from ui.tabs.gates import render as gates_render
from ui.tabs.gates.changes import Changes
from ui.tabs.gates.figures import entropy_lines, path_lines, path_map, similarity_map
from ui.tabs.gates.layout import VIEWS, GatesLayout

Updates = dict[Any, Any]

_RESULTS = Path(__file__).resolve().parents[3] / "assets" / "results"


class Gates(GatesLayout):
    """The tab's components and what they do.

    Args:
        shell: What stands around the tab.
        engine: Whose gates these are.
    """

    def __init__(self, shell: Shell, engine: Engine) -> None:
        super().__init__(shell.bilingual)
        self.engine = engine
        with self.changes_place:
            self.changes = Changes(shell, engine, self.ticket, self.cluster, self.task)
        self._paths: dict[str, GatePath | None] = {}
        self._wire(shell)

    def _wire(self, shell: Shell) -> None:
        """Say what happens when."""
        chosen = [self.cluster, self.task, self.module, self.view]
        layers = [self.heat_map, self.weights_table, self.entropy, self.entropy_words]
        everything = [
            *(self.notice, self.body, self.timer, *chosen, self.task_view, self.cluster_view),
            *(self.task_head, self.shares, self.share_bar, *layers, *self.changes.parts),
            *(self.matrix, self.similarity_words, self.similarity),
            *(self.path_words, self.path_lines, self.path_map),
        ]
        shell.on_show("gates", self._show, chosen, everything)
        self.timer.tick(self._watch, chosen, everything, **AT_ONCE)
        for changed in (
            *(one.input(self._pick, chosen, everything, **LAST) for one in (self.task, self.view)),
            self.cluster.input(self._pick_cluster, chosen, everything, **LAST),
            self.module.input(self._pick_module, chosen[:3], layers, **LAST),
        ):
            names = ("cluster", "task", "module", "view")
            remember(changed, **dict(zip(names, chosen, strict=True)))

    # Choosing -------------------------------------------------------------------------------

    def _show(
        self,
        cluster: str | None,
        task: str | None,
        module: str | None,
        view: str | None,
        request: gr.Request,
    ) -> Updates:
        """What the address asks for, or what was chosen before."""
        language = language_of(request)
        now = self.engine.status
        usable = self.engine.clusters()
        if not usable or not now.ready:
            waiting = bool(usable) and not now.problem
            key = "gates_none" if not usable else "gates_loading" if waiting else "gates_never"
            return {
                self.notice: gr.update(value=gates_render.note(key, language), visible=True),
                self.body: gr.update(visible=False),
                self.timer: gr.Timer(active=waiting),
            }
        if cluster and task and self.engine.knows(cluster, task):
            # Seen before: what was changed there stays. There may be new adapters.
            return {self.cluster: gr.update(choices=clusters(self.engine, language))}
        asked = request.query_params.get
        cluster, task = cluster or asked("cluster"), task or asked("task")
        module, view = module or asked("module"), view or asked("view")
        cluster = cluster if cluster in usable else self._cluster_of(task) or usable[0]
        return {
            self.notice: gr.update(visible=False),
            self.body: gr.update(visible=True),
            self.timer: gr.Timer(active=False),
            **self._choose(cluster, task, module, view, request),
        }

    def _cluster_of(self, task: str | None) -> str | None:
        clusters = self.engine.clusters()
        return next((name for name in clusters if task in self.engine.tasks(name)), None)

    def _watch(
        self,
        cluster: str | None,
        task: str | None,
        module: str | None,
        view: str | None,
        request: gr.Request,
    ) -> Any:
        now = self.engine.status
        if not (now.ready or now.problem):
            return gr.skip()
        return self._show(cluster, task, module, view, request)

    def _pick_cluster(
        self, cluster: str, task: str, module: str, view: str, request: gr.Request
    ) -> Any:
        if cluster not in self.engine.clusters():
            return gr.skip()
        return self._choose(cluster, task, module, view, request)

    def _pick(self, cluster: str, task: str, module: str, view: str, request: gr.Request) -> Any:
        if not self.engine.knows(cluster, task):  # the browser is between two clusters
            return gr.skip()
        return self._choose(cluster, task, module, view, request)

    def _pick_module(self, cluster: str, task: str, module: str, request: gr.Request) -> Any:
        if not self.engine.knows(cluster, task):
            return gr.skip()
        return self._by_layer(self.engine.gates(cluster, task), module, language_of(request))

    def _choose(
        self,
        cluster: str,
        task: str | None,
        module: str | None,
        view: str | None,
        request: gr.Request,
    ) -> Updates:
        """The pickers, and what they say is to be seen."""
        language = language_of(request)
        tasks = self.engine.tasks(cluster)
        task = task if task in tasks else tasks[0]
        view = view if view in VIEWS else VIEWS[0]
        gates = self.engine.all_gates(cluster)
        titles = self._titles(tasks, language)
        return {
            self.cluster: gr.update(choices=clusters(self.engine, language), value=cluster),
            self.task: gr.update(choices=[(titles[name], name) for name in tasks], value=task),
            self.view: gr.update(
                choices=[(text(f"gates_view {name}", language), name) for name in VIEWS], value=view
            ),
            self.task_view: gr.update(visible=view == "task"),
            self.cluster_view: gr.update(visible=view == "cluster"),
            **(
                self._one_task(gates, task, module, request)
                if view == "task"
                else self._one_cluster(cluster, gates, task, language)
            ),
        }

    def _titles(self, tasks: tuple[str, ...], language: Language) -> dict[str, str]:
        return {name: forms.title(forms.task_named(name), language) for name in tasks}

    # What is seen ---------------------------------------------------------------------------

    def _one_task(
        self, gates: AdapterGates, task: str, module: str | None, request: gr.Request
    ) -> Updates:
        language = language_of(request)
        own, form = gates.of(task), forms.task_named(task)
        kinds = own.modules()
        module = module if module in kinds else ""
        everywhere = (text("all_modules", language), "")
        return {
            self.task_head: render.task_head(form, language),
            self.shares: gates_render.shares(gates, task, language),
            self.share_bar: share_bar(own, language),
            self.module: gr.update(
                choices=[everywhere, *((kind, kind) for kind in kinds)], value=module
            ),
            **self._by_layer(own, module, language),
            **self.changes.show(own, request),
        }

    def _by_layer(self, gates: TaskGates, module: str | None, language: Language) -> Updates:
        module = module or None
        table = render.gate_table(gates, module, language)
        single = gates.weights.shape[1] == 1
        words = gates_render.note("gates_entropy_one" if single else "gates_entropy_hint", language)
        return {
            self.heat_map: heat_map(gates, module, language),
            self.weights_table: table,
            self.entropy: gr.update(
                value=None if single else entropy_lines(gates, module, language),
                visible=not single,
            ),
            self.entropy_words: words
            + ("" if single else gates_render.entropy_table(gates, module, language)),
        }

    def _one_cluster(
        self, cluster: str, gates: AdapterGates, task: str, language: Language
    ) -> Updates:
        titles = self._titles(self.engine.tasks(cluster), language)
        return {
            self.matrix: gates_render.matrix(gates, titles, task, language),
            **self._similarity(gates, [titles[name] for name in gates.config.tasks], language),
            **self._path(cluster, gates, task, titles, language),
        }

    def _similarity(self, gates: AdapterGates, titles: list[str], language: Language) -> Updates:
        config = gates.config
        key = ""
        if len(config.tasks) < 2 or config.common < 2:
            key = "gates_similarity_none"
        elif config.gate != "task":
            key = "gates_similarity_even"
        if key:
            return {
                self.similarity_words: gates_render.note(key, language),
                self.similarity: gr.update(value=None, visible=False),
            }
        cosines = similarity(gates.weights[:, :, : config.common])
        return {
            self.similarity_words: gates_render.similarity_words(titles, cosines, language),
            self.similarity: gr.update(
                value=similarity_map(titles, cosines, language), visible=True
            ),
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
            return {
                self.path_words: gates_render.note(key, language),
                self.path_lines: gr.update(value=None, visible=False),
                self.path_map: gr.update(value=None, visible=False),
            }
        return {
            self.path_words: gates_render.note("gates_path_hint", language)
            + f"<h3>{text('gates_path_of', language, task=escape(titles[task]))}</h3>"
            + gates_render.path_table(path, gates, task, language),
            self.path_lines: gr.update(value=path_lines(path, gates, task, language), visible=True),
            self.path_map: gr.update(value=path_map(path, gates, titles, language), visible=True),
        }

    def _logged(self, cluster: str) -> GatePath | None:
        """The gates in the adapter's training log, read once."""
        if cluster not in self._paths:
            config = self.engine.configs[cluster]
            log = find_log(self.engine.path(cluster), self.engine.manifests[cluster], _RESULTS)
            self._paths[cluster] = read_path(log, config) if log else None
        return self._paths[cluster]
