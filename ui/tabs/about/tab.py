"""The tab about the method and this installation."""

from __future__ import annotations

from typing import Any

import gradio as gr

from cgclora.storage.layer_shapes import LayerKind, layer_kinds
from evals.tasks import Language
from ui.components import forms, render
from ui.components.choices import Pick
from ui.components.texts import language_of, text
from ui.engine.engine import Engine
from ui.shell import AT_ONCE, LAST, Shell, remember
from ui.tabs.about import facts, use
from ui.tabs.about.layer import SCRIPT, LayerView, layer

Updates = dict[Any, Any]

_POLL_SECONDS = 1.0  # until the backbone is loaded


class About:
    """The tab's components and event handlers.

    Args:
        shell: Of the page.
        engine: Its adapters are shown.
    """

    def __init__(self, shell: Shell, engine: Engine) -> None:
        self.engine = engine
        add = shell.bilingual
        with gr.Column(elem_id="about"):
            add(gr.HTML, {"value": render.heading("about_layer")})
            add(gr.HTML, {"value": render.paragraph("about_layer_intro")})
            with gr.Row(elem_classes="choices") as self.choices:
                self.adapter, self.kind, self.task = (
                    add(Pick, {"label": f"about_{name}"}, min_width=200, elem_id=f"about-{name}")
                    for name in ("adapter", "linear", "task")
                )
            self.layer = gr.HTML(elem_id="about-layer", js_on_load=SCRIPT)
            self.installed = gr.HTML(elem_id="about-installed", js_on_load=None)
            self.use = gr.HTML(elem_id="about-use", js_on_load=use.SCRIPT)
        self.clock = gr.Timer(_POLL_SECONDS, active=False)
        chosen = [self.adapter, self.kind, self.task]
        drawn = [*chosen, self.choices, self.layer]
        shell.on_show("about", self.show, chosen, [*drawn, self.installed, self.use, self.clock])
        self.clock.tick(self.watch, None, [self.installed, self.clock], **AT_ONCE)
        changed = gr.on([one.input for one in chosen], self.draw, chosen, drawn, **LAST)
        names = ("about-adapter", "about-layer", "about-task")
        remember(changed, **dict(zip(names, chosen, strict=True)))

    def show(
        self, adapter: str | None, kind: str | None, task: str | None, request: gr.Request
    ) -> Updates:
        """The tab comes into view; the address counts until something is chosen."""
        if adapter is None:
            asked = request.query_params.get
            adapter, kind, task = asked("about-adapter"), asked("about-layer"), asked("about-task")
        language = language_of(request)
        return {
            **self.draw(adapter, kind, task, request),
            **self.watch(request),
            self.use: self._use(request, language),
        }

    def draw(
        self, adapter: str | None, kind: str | None, task: str | None, request: gr.Request
    ) -> Updates:
        """The expert layer of an adapter; what it does not have gives way to its first."""
        language, engine = language_of(request), self.engine
        adapters = readable_adapters(engine)
        if not adapters:
            note = f'<p class="quiet">{text("about_no_adapter", language)}</p>'
            return {self.choices: gr.update(visible=False), self.layer: note}
        name = adapter if adapter in adapters else next(iter(adapters))
        kinds = {f"{one.name} {one.outer}x{one.inner}": one for one in adapters[name]}
        shown = kind if kind in kinds else next(iter(kinds))
        titles = {one: forms.title(forms.task_named(one), language) for one in engine.tasks(name)}
        chosen = task if task in titles else next(iter(titles))
        view = LayerView(engine.configs[name], kinds[shown], titles, chosen)
        labels = [(facts.adapter_title(engine, one, language), one) for one in adapters]
        layers = [(f"{one.name} · {one.outer} × {one.inner}", key) for key, one in kinds.items()]
        tasks = [(title, one) for one, title in titles.items()]
        return {
            self.choices: gr.update(visible=True),
            self.adapter: gr.update(choices=labels, value=name),
            self.kind: gr.update(choices=layers, value=shown),
            self.task: gr.update(choices=tasks, value=chosen, interactive=view.has_gate),
            self.layer: layer(view, language),
        }

    def watch(self, request: gr.Request) -> Updates:
        """What is installed; polled until the backbone is loaded."""
        now, language = self.engine.status, language_of(request)
        intro = f'<p class="quiet">{text("about_tree_intro", language)}</p>'
        tree = intro + facts.tree(self.engine, language)
        budgets = facts.budgets(self.engine, language)
        parts = {"about_tree": tree, "about_budgets": budgets}
        return {
            self.installed: _sections(parts, language),
            self.clock: gr.Timer(active=not (now.ready or now.problem)),
        }

    def _use(self, request: gr.Request, language: Language) -> str:
        address, mcp = use.address_of(request), use.has_mcp(request)
        parts = {
            "about_programs": use.programs(self.engine, address, mcp, language),
            "about_limits": use.limits(self.engine, language),
            "about_licences": use.licences(self.engine, language),
            "about_cite": use.citation(language),
            "about_versions": use.installed(),
        }
        return _sections(parts, language)


def readable_adapters(engine: Engine) -> dict[str, tuple[LayerKind, ...]]:
    """The layers of all adapters whose files can be read."""
    found = {}
    for name in engine.adapters():
        try:
            found[name] = layer_kinds(engine.path(name))
        except ValueError:  # loading reports it
            continue
    return found


def _sections(parts: dict[str, str], language: Language) -> str:
    return "".join(
        f'<section class="about"><h2>{text(key, language)}</h2>{content}</section>'
        for key, content in parts.items()
    )
