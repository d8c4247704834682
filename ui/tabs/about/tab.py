"""The tab about the method and this installation."""

from __future__ import annotations

from typing import Any

import gradio as gr

from evals.tasks import Language
from ui.components import render
from ui.components.texts import language_of, text
from ui.engine.engine import Engine
from ui.shell import AT_ONCE, Shell
from ui.tabs.about import facts as about_facts
from ui.tabs.about import layer as about_layer
from ui.tabs.about import use as about_use

Updates = dict[Any, Any]

_SECONDS_BETWEEN_LOOKS = 1.0  # at whether the backbone's size is known


class About:
    """The tab's components and what they do; made in a tab that is open for building.

    Args:
        shell: What stands around it.
        engine: Whose adapters are shown.
    """

    def __init__(self, shell: Shell, engine: Engine) -> None:
        self.engine = engine
        add = shell.bilingual
        with gr.Column(elem_id="about"):
            add(gr.HTML, {"value": render.heading("about_layer")})
            add(gr.HTML, {"value": render.paragraph("about_layer_intro")})
            self.layer = gr.HTML(elem_id="about-layer", js_on_load=about_layer.SCRIPT)
            self.installed = gr.HTML(elem_id="about-installed", js_on_load=None)
            self.use = gr.HTML(elem_id="about-use", js_on_load=about_use.SCRIPT)
        self.clock = gr.Timer(_SECONDS_BETWEEN_LOOKS, active=False)
        shell.on_show("about", self._show, [], [self.layer, self.installed, self.use, self.clock])
        self.clock.tick(self._look, None, [self.installed, self.clock], **AT_ONCE)

    def _show(self, request: gr.Request) -> Updates:
        language = language_of(request)
        return {
            self.layer: about_layer.layer(self.engine, language),
            self.use: self._programs_and_papers(request, language),
            **self._look(request),
        }

    def _look(self, request: gr.Request) -> Updates:
        """What is installed; again in a second if the backbone is not loaded yet."""
        now = self.engine.status
        return {
            self.installed: self._installed(language_of(request)),
            self.clock: gr.Timer(active=not (now.ready or now.problem)),
        }

    def _installed(self, language: Language) -> str:
        intro = f'<p class="quiet">{text("about_tree_intro", language)}</p>'
        return "".join(
            (
                _section("about_tree", intro + about_facts.tree(self.engine, language), language),
                _section("about_budgets", about_facts.budgets(self.engine, language), language),
            )
        )

    def _programs_and_papers(self, request: gr.Request, language: Language) -> str:
        programs = about_use.programs(
            self.engine, about_use.address_of(request), about_use.has_mcp(request), language
        )
        parts = {
            "about_programs": programs,
            "about_limits": about_use.limits(self.engine, language),
            "about_licences": about_use.licences(self.engine, language),
            "about_cite": about_use.citation(language),
            "about_versions": about_use.installed(),
        }
        return "".join(_section(key, content, language) for key, content in parts.items())


def _section(key: str, content: str, language: Language) -> str:
    return f'<section class="about"><h2>{text(key, language)}</h2>{content}</section>'
