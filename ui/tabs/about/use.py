"""Use from programs, limits, licences and citation."""

from __future__ import annotations

import json
from html import escape
from typing import Any

import gradio as gr
from gradio.route_utils import get_root_url

from cgclora.storage.provenance import versions
from evals.tasks import Language
from ui.components import forms
from ui.components.html import wide_table
from ui.components.texts import text
from ui.engine.engine import Engine
from ui.engine.settings import variable
from ui.tabs.about.facts import backbone_name

PAPER = "https://arxiv.org/abs/2402.01684"
_PACKAGES = ("cgclora", "torch", "transformers", "gradio")
_ENDPOINTS = ("/generate", "/tasks", "/gates", "/leaderboard", "/runs")
_START_WITH_MCP = 'pip install "gradio[mcp]"\npython app.py'
_CODE_LICENCE = ("Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0")
_DATA_LICENCE = "https://creativecommons.org/licenses/by-nc/4.0/"
_GEMMA_TERMS = "https://ai.google.dev/gemma/terms"
_GEMMA_PROHIBITED = "https://ai.google.dev/gemma/prohibited_use_policy"

CITATION = """@misc{song2024cgclora,
  title         = {A Framework to Implement 1+N Multi-task Fine-tuning Pattern in {LLMs} Using the \
{CGC-LoRA} Algorithm},
  author        = {Chao Song and Zhihao Ye and Qiqiang Lin and Qiuying Peng and Jun Wang},
  year          = {2024},
  eprint        = {2402.01684},
  archivePrefix = {arXiv},
  primaryClass  = {cs.CL}
}"""
"""As the README has it."""

# Without a secure context there is no clipboard; then the text is selected instead.
SCRIPT = """
element.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copies]");
  if (!button) return;
  const text = button.parentElement.querySelector("pre");
  let label = button.dataset.copied;
  try {
    await navigator.clipboard.writeText(text.textContent);
  } catch {
    getSelection().selectAllChildren(text);
    label = button.dataset.selected;
  }
  button.textContent = label;
  setTimeout(() => { button.textContent = button.dataset.copies; }, 2000);
});
"""


def address_of(request: gr.Request) -> str:
    """The app's address in the visitor's browser, without a slash at the end."""
    raw: Any = request.request
    return get_root_url(raw, str(raw.url.path), raw.scope.get("root_path"))


def has_mcp(request: gr.Request) -> bool:
    """Whether the app serves MCP."""
    raw: Any = request.request
    app = raw.scope.get("app")
    return bool(getattr(getattr(app, "blocks", None), "mcp_server", False))


def programs(engine: Engine, address: str, mcp: bool, language: Language) -> str:
    """How programs and assistants call the app."""
    names = " ".join(f"<code>{name}</code>" for name in _ENDPOINTS)
    settings = {"mcpServers": {"cgclora": {"url": f"{address}/gradio_api/mcp/"}}}
    return (
        f"<p>{text('about_api', language)}</p>{snippet(_call(engine, address), language)}"
        f'<p class="quiet"><a href="?view=api">{text("about_endpoints", language)}</a> {names}</p>'
        f"<p>{text('about_mcp_on' if mcp else 'about_mcp_off', language)}</p>"
        + snippet(json.dumps(settings, indent=2) if mcp else _START_WITH_MCP, language)
    )


def _call(engine: Engine, address: str) -> str:
    """Three lines of Python that ask the shortest sample."""
    known = [
        (task.prompt(sample.fields), name)
        for cluster in engine.clusters()
        for name in engine.tasks(cluster)
        for task in [forms.task_named(name)]
        for sample in forms.samples(task)
    ]
    prompt, task = min(known, key=lambda pair: len(pair[0]), default=("...", "..."))
    return (
        "from gradio_client import Client\n"
        f"client = Client({address!r})\n"
        f'print(client.predict({task!r}, {prompt!r}, api_name="/generate"))'
    )


def snippet(code: str, language: Language) -> str:
    """Code with a button that copies it."""
    copy, copied, selected = (
        text(f"about_{word}", language) for word in ("copy", "copied", "selected")
    )
    return (
        f'<div class="snippet"><button type="button" data-copies="{copy}" data-copied="{copied}" '
        f'data-selected="{selected}">{copy}</button>'
        f'<pre lang="en" tabindex="0">{escape(code)}</pre></div>'
    )


def licences(engine: Engine, language: Language) -> str:
    """Licences of code, backbone and adapters."""
    name = backbone_name(engine)
    of_gemma = not name or "gemma" in name.lower()
    model = text("about_is_gemma" if of_gemma else "about_is_other", language)
    if of_gemma:
        terms = _link(text("about_gemma_terms", language), _GEMMA_TERMS)
        model += f" {terms} · {_link(text('about_prohibited', language), _GEMMA_PROHIBITED)}"
    research = f"{text('about_research', language)} {_link('CC BY-NC 4.0', _DATA_LICENCE)}"
    rows = {
        "about_code": _link(*_CODE_LICENCE),
        "about_model": model,
        "about_adapters": research,
        "about_medicine": text("about_no_advice", language),
    }
    return _list({text(key, language): words for key, words in rows.items()})


def limits(engine: Engine, language: Language) -> str:
    """What this server accepts, and which variables change that."""
    rows = [
        (text(f"limit_{name}", language), f"{value:,}", f"<code>{variable(name)}</code>")
        for name, value in vars(engine.limits).items()
    ]
    intro = f'<p class="quiet">{text("about_limits_intro", language)}</p>'
    return intro + wide_table(text("about_limits", language), [], rows, "limits")


def citation(language: Language) -> str:
    """The paper, and its BibTeX entry."""
    return (
        f"<p>{text('about_independent', language)} "
        f"{_link('arXiv 2402.01684', PAPER)}</p>{snippet(CITATION, language)}"
    )


def installed() -> str:
    """Versions of what runs here."""
    return _list({name: escape(version) for name, version in versions(_PACKAGES).items()})


def _list(rows: dict[str, str]) -> str:
    entries = "".join(f"<div><dt>{name}</dt><dd>{words}</dd></div>" for name, words in rows.items())
    return f'<dl class="facts-list">{entries}</dl>'


def _link(words: str, address: str) -> str:
    return f'<a href="{address}" target="_blank" rel="noopener">{words}</a>'
