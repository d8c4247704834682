"""The tab about the method and this installation."""

import gradio as gr

from cgclora.storage.layer_shapes import LayerKind, layer_kinds
from evals.tasks import Language
from ui.components import forms
from ui.components.answering_models import adapter_title
from ui.components.html import quiet
from ui.components.texts import language_of, text
from ui.components.widgets import Pick
from ui.engine.engine import AppEngine
from ui.shell import AT_ONCE, LAST, Shell, Updates, remember
from ui.tabs.about import facts
from ui.tabs.about.layer import SCRIPT, LayerView, layer

_LINK_KEYS = ("about-adapter", "about-layer", "about-task")
_POLL_SECONDS = 1.0  # until the backbone is loaded


class About:
    """The tab's components and event handlers."""

    def __init__(self, shell: Shell, engine: AppEngine) -> None:
        self.engine = engine
        add = shell.bilingual
        with add.section("about_layer", "about_layer_intro", elem_id="about", elem_classes=[]):
            with gr.Row(elem_classes="choices") as self.choices:
                self.adapter, self.kind, self.task = (
                    add(Pick, f"about_{name}", min_width=200, elem_id=f"about-{name}")
                    for name in ("adapter", "linear", "task")
                )
            self.layer = gr.HTML(elem_id="about-layer", js_on_load=SCRIPT)
            self.installed = gr.HTML(elem_id="about-installed", js_on_load=None)
            self.use = gr.HTML(elem_id="about-use", js_on_load=facts.SCRIPT)
        self.clock = gr.Timer(_POLL_SECONDS, active=False)
        chosen = [self.adapter, self.kind, self.task]
        drawn = [*chosen, self.choices, self.layer]
        shell.on_show("about", self.show, chosen, [*drawn, self.installed, self.use, self.clock])
        self.clock.tick(self.watch, None, [self.installed, self.clock], **AT_ONCE)
        changed = gr.on([one.input for one in chosen], self.draw, chosen, drawn, **LAST)
        remember(changed, **dict(zip(_LINK_KEYS, chosen, strict=True)))

    def show(self, request: gr.Request, *chosen: str | None) -> Updates:
        """The tab comes into view; the address counts until something is chosen."""
        if chosen[0] is None:
            chosen = tuple(map(request.query_params.get, _LINK_KEYS))
        language = language_of(request)
        return {
            **self.draw(request, *chosen),
            **self.watch(request),
            self.use: self._use(request, language),
        }

    def draw(self, request: gr.Request, *chosen: str | None) -> Updates:
        """The expert layer of an adapter; what it does not have gives way to its first."""
        adapter, kind, task = chosen
        language, engine = language_of(request), self.engine
        adapters = readable_adapters(engine)
        if not adapters:
            note = quiet(text("about_no_adapter", language))
            return {self.choices: gr.update(visible=False), self.layer: note}
        name = adapter if adapter in adapters else next(iter(adapters))
        kinds = {f"{one.name} {one.outer}x{one.inner}": one for one in adapters[name]}
        shown = kind if kind in kinds else next(iter(kinds))
        titles = forms.titles(engine, name, language)
        task = task if task in titles else next(iter(titles))
        view = LayerView(engine.configs[name], kinds[shown], titles, task)
        labels = [(adapter_title(engine, one, language), one) for one in adapters]
        layers = [(f"{one.name} · {one.outer} × {one.inner}", key) for key, one in kinds.items()]
        tasks = [(words, one) for one, words in titles.items()]
        return {
            self.choices: gr.update(visible=True),
            self.adapter: gr.update(choices=labels, value=name),
            self.kind: gr.update(choices=layers, value=shown),
            self.task: gr.update(choices=tasks, value=task, interactive=view.has_gate),
            self.layer: layer(view, language),
        }

    def watch(self, request: gr.Request) -> Updates:
        """What is installed; polled until the backbone is loaded."""
        now, language = self.engine.status, language_of(request)
        tree = quiet(text("about_tree_intro", language)) + facts.tree(self.engine, language)
        budgets = facts.budgets(self.engine, language)
        parts = {"about_tree": tree, "about_budgets": budgets}
        return {
            self.installed: _sections(parts, language),
            self.clock: gr.Timer(active=not (now.ready or now.problem)),
        }

    def _use(self, request: gr.Request, language: Language) -> str:
        address, mcp = facts.address_of(request), facts.has_mcp(request)
        parts = {
            "about_programs": facts.programs(self.engine, address, mcp, language),
            "about_limits": facts.limits(self.engine, language),
            "about_licences": facts.licences(self.engine, language),
            "about_cite": facts.citation(language),
            "about_versions": facts.installed(),
        }
        return _sections(parts, language)


def readable_adapters(engine: AppEngine) -> dict[str, tuple[LayerKind, ...]]:
    """The layers of all adapters whose files can be read."""
    layers = {}
    for name in engine.adapters():
        try:
            layers[name] = layer_kinds(engine.path(name))
        except ValueError:  # loading reports it
            continue
    return layers


def _sections(parts: dict[str, str], language: Language) -> str:
    return "".join(
        f'<section class="about"><h2>{text(key, language)}</h2>{content}</section>'
        for key, content in parts.items()
    )
