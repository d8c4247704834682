"""The tab of the gates: those of one task with a what-if, and those of a whole cluster."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from cgclora.analysis.gates import GatePath, find_log, read_path, similarity
from evals.scoring.effect_sizes import OVERALL
from evals.tasks import Language
from ui.components import forms, render
from ui.components.answering_models import clusters
from ui.components.figures import gate_heat_map, share_bar
from ui.components.texts import language_of, text
from ui.components.widgets import Bilingual, Choice, plot
from ui.engine.engine import AppEngine
from ui.engine.task_gates import AdapterGates, TaskGates
from ui.shell import AT_ONCE, LAST, Shell, Updates, remember
from ui.tabs.gates import render as gates_render
from ui.tabs.gates.changes import Changes
from ui.tabs.gates.figures import entropy_lines, path_lines, path_map, similarity_map

Name = str | None

VIEWS = ("task", "cluster")

_HIDDEN = gr.update(value=None, visible=False)
_RESULTS = Path(__file__).resolve().parents[3] / "assets" / "results"


class Gates:
    """The tab's components and their events."""

    def __init__(self, shell: Shell, engine: AppEngine) -> None:
        self.engine = engine
        self._paths: dict[str, GatePath | None] = {}
        self._lay_out(shell, shell.bilingual)
        self._wire(shell)

    def _lay_out(self, shell: Shell, add: Bilingual) -> None:
        self.notice = gr.HTML(elem_id="gates-notice", visible=False)
        self.ticket = gr.Number(visible="hidden", precision=0)
        self.timer = gr.Timer(0.5, active=False)
        with gr.Column(elem_id="gates-page", visible=False) as self.body:
            with gr.Row(elem_id="gates-choose"):
                self.cluster = add(Choice, "cluster", container=False, elem_classes="segments")
                self.view = add(Choice, "gates_view", container=False, elem_classes="segments")
            self.task = add.options("task", container=False, elem_id="gates-tasks")
            with gr.Column(elem_classes="gates-view") as self.task_view:
                self.task_head = gr.HTML()
                with add.section("gates_ablation", "gates_ablation_hint"):
                    self.ablation = gr.HTML(elem_id="gates-ablation")
                self._lay_out_weights(add)
                with gr.Column(elem_id="gates-changes"):
                    self.changes = Changes(shell, self.engine, self.ticket, self.cluster, self.task)
            with gr.Column(elem_classes="gates-view", visible=False) as self.cluster_view:
                self._lay_out_cluster(add)

    def _lay_out_weights(self, add: Bilingual) -> None:
        with add.section("gates_weights", "gates_intro"):
            self.shares = gr.HTML()
            self.share_bar = plot("gates-share-bar", elem_classes="gates-plot")
            self.module = add.options("module", container=False, elem_id="gates-module")
            with gr.Row(elem_classes="pair"):
                with gr.Column(scale=3, min_width=300):
                    _add_subheading(add, "gates_by_layer")
                    self.gate_map = plot("gates-heat-map", elem_classes="gates-plot")
                    self.weights_table = gr.HTML(elem_classes="only-unseen")
                with gr.Column(scale=2, min_width=300):
                    _add_subheading(add, "gates_entropy")
                    self.entropy = plot("gates-entropy", elem_classes="gates-plot")
                    self.entropy_words = gr.HTML()

    def _lay_out_cluster(self, add: Bilingual) -> None:
        with add.section("gates_ablation", "gates_ablation_hint"):
            self.overall = gr.HTML(elem_id="gates-overall")
        with add.section("gates_matrix", "gates_matrix_hint"):
            self.matrix = gr.HTML()
        with add.section("gates_similarity", "gates_similarity_hint"):
            self.similarity_words = gr.HTML()
            self.similarity = plot("gates-similarity", elem_classes="gates-plot")
        with add.section("gates_path"):
            self.path_words = gr.HTML()
            self.path_lines = plot("gates-path-lines", elem_classes="gates-plot")
            self.path_map = plot("gates-path-map", elem_classes="gates-plot")

    # Events ---------------------------------------------------------------------------------

    def _wire(self, shell: Shell) -> None:
        chosen = [self.cluster, self.task, self.module, self.view]
        layers = [self.gate_map, self.weights_table, self.entropy, self.entropy_words]
        everything = [
            *(self.notice, self.body, self.timer, *chosen, self.task_view, self.cluster_view),
            *(self.task_head, self.ablation, self.shares, self.share_bar, *layers),
            *self.changes.parts,
            *(self.overall, self.matrix, self.similarity_words, self.similarity),
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

    def show(self, request: gr.Request, *chosen: Name) -> Updates:
        """Show the choice that the page holds, else that of the address."""
        cluster, task, module, view = chosen
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
            **self.pick(request, cluster, task, module, view),
        }

    def watch(self, request: gr.Request, *chosen: Name) -> Any:
        """Show the gates once loading has ended."""
        if not (self.engine.status.ready or self.engine.status.problem):
            return gr.skip()
        return self.show(request, *chosen)

    def pick_module(self, cluster: str, task: str, module: str, request: gr.Request) -> Any:
        """Show the layers of one kind; changed weights stay as they are."""
        if not self.engine.knows(cluster, task):  # the tasks of a new cluster are on their way
            return gr.skip()
        return self._by_layer(self.engine.gates(cluster, task), module, language_of(request))

    def pick(self, request: gr.Request, *chosen: Name) -> Any:
        """Show a task, or the whole cluster; a task of another cluster gives way to the first."""
        cluster, task, module, view = chosen
        if cluster not in self.engine.clusters():
            return gr.skip()
        language = language_of(request)
        tasks = self.engine.tasks(cluster)
        task = task if task in tasks else tasks[0]
        view = view if view in VIEWS else VIEWS[0]
        gates = self.engine.all_gates(cluster)
        titles = forms.titles(self.engine, cluster, language)
        views = [(text(f"gates_view {name}", language), name) for name in VIEWS]
        return {
            self.cluster: gr.update(choices=clusters(self.engine, language), value=cluster),
            self.task: gr.update(choices=[(titles[name], name) for name in tasks], value=task),
            self.view: gr.update(choices=views, value=view),
            self.task_view: gr.update(visible=view == "task"),
            self.cluster_view: gr.update(visible=view == "cluster"),
            **(
                self._one_task(cluster, gates, task, module, request)
                if view == "task"
                else self._one_cluster(cluster, gates, task, titles, language)
            ),
        }

    # Views ----------------------------------------------------------------------------------

    def _one_task(
        self,
        cluster: str,
        gates: AdapterGates,
        task: str,
        module: str | None,
        request: gr.Request,
    ) -> Updates:
        language = language_of(request)
        task_gates = gates.of(task)
        modules = task_gates.modules()
        module = module if module in modules else ""
        choices = [(text("all_modules", language), ""), *((name, name) for name in modules)]
        return {
            self.task_head: render.task_head(forms.task_of(self.engine, cluster, task), language),
            self.ablation: gates_render.ablation(self._measured(cluster), task, language),
            self.shares: gates_render.shares(gates, task, language),
            self.share_bar: share_bar(task_gates, language),
            self.module: gr.update(choices=choices, value=module),
            **self._by_layer(task_gates, module, language),
            **self.changes.show(cluster, task_gates, request),
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
            self.overall: gates_render.ablation(self._measured(cluster), OVERALL, language)
            + gates_render.health(gates, titles, language),
            self.matrix: gates_render.matrix(gates, titles, task, language),
            **self._similarity(gates, [titles[name] for name in gates.config.tasks], language),
            **self._path(cluster, gates, task, titles, language),
        }

    def _similarity(self, gates: AdapterGates, titles: list[str], language: Language) -> Updates:
        config = gates.config
        comparable = len(config.tasks) > 1 and config.common > 1
        if not comparable or not config.learns_gate:
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
        if path is None or not gates.config.learns_gate:
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

    def _measured(self, cluster: str) -> Mapping[str, Any]:
        """What `python -m evals gates` has written into the adapter's manifest."""
        report: Mapping[str, Any] = self.engine.manifests[cluster].get("gate effects", {})
        return report

    def _logged(self, cluster: str) -> GatePath | None:
        """The gates in the adapter's training log, which is read once."""
        if cluster not in self._paths:
            config = self.engine.configs[cluster]
            log = find_log(self.engine.path(cluster), self.engine.manifests[cluster], _RESULTS)
            self._paths[cluster] = read_path(log, config) if log else None
        return self._paths[cluster]


def _add_subheading(add: Bilingual, key: str) -> None:
    add(gr.HTML, {"value": lambda word: f"<h3>{word(key)}</h3>"})
