"""What is installed here, what it costs, how programs call it, its limits and licences."""

import json
from collections import defaultdict
from collections.abc import Mapping
from html import escape
from typing import Any

import gradio as gr
from gradio.route_utils import get_root_url

from cgclora.storage.provenance import versions
from evals.figures.captions import title
from evals.tasks import TASKS, Language
from ui.components import forms, render
from ui.components.answering_models import adapter_title
from ui.components.html import quiet, script, wide_table
from ui.components.texts import text
from ui.engine.engine import AppEngine
from ui.engine.settings import variable

_SHORT = 8  # letters of a hash that are shown
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

SCRIPT = script("copy")


def backbone_name(engine: AppEngine) -> str:
    """The backbone's name, as the adapters know it."""
    names = (engine.manifests[name].get("backbone", {}).get("name") for name in engine.adapters())
    return next((str(name) for name in names if name), "")


def millions(count: int) -> str:
    """A number of parameters in millions, with about three digits."""
    return f"{count / 1e6:.{0 if count >= 1e8 else 1 if count >= 1e7 else 2}f} M"


# The tree -------------------------------------------------------------------------------------


def tree(engine: AppEngine, language: Language) -> str:
    """Backbone, clusters and tasks as nested lists."""
    facts = [text("about_backbone", language)]
    if (backbone := engine.facts) is not None:
        code, weights = backbone.decoding["pass"], backbone.decoding["weights"]
        facts.append(text("about_size", language, count=millions(backbone.parameters)))
        facts.append(text("about_decoding", language, code=code, weights=weights))
    root = (
        f'<div class="node frozen"><b>{escape(backbone_name(engine))}</b>'
        f'<span class="quiet">{" · ".join(facts)}</span></div>'
    )
    branches = "".join(f"<li>{_branch(engine, n, language)}</li>" for n in engine.clusters())
    return f'<ul class="tree"><li>{root}<ul>{branches}</ul></li></ul>'


def _branch(engine: AppEngine, name: str, language: Language) -> str:
    """One cluster, its tasks by kind."""
    config = engine.configs[name]
    counts = text(
        "about_cluster",
        language,
        common=config.common,
        tasks=len(config.tasks),
        specific=config.specific,
    )
    by_kind: dict[str, str] = defaultdict(str)
    for task in (forms.task_of(engine, name, one) for one in engine.tasks(name)):
        by_kind[task.kind] += f"<li>{escape(title(task, language))}</li>"
    kinds = "".join(
        f'<li><span class="kind">{text(kind, language)}</span><ul class="leaves">{tasks}</ul></li>'
        for kind, tasks in by_kind.items()
    )
    return (
        f'<div class="node common"><b>{escape(forms.cluster_title(name, language))}</b>'
        f'<span class="quiet">{counts}</span></div><ul class="kinds">{kinds}</ul>'
    )


# The budgets ----------------------------------------------------------------------------------


def budgets(engine: AppEngine, language: Language) -> str:
    """A column for each adapter: how large it is and where it comes from."""
    names = engine.adapters()
    if not names:
        return quiet(text("about_no_adapter", language))
    size = engine.facts.parameters if engine.facts else None
    columns = [_facts(engine, name, size, language) for name in names]
    rows = [
        (text(f"about_{key}", language), *(column[key] or "–" for column in columns))
        for key in columns[0]
    ]
    titles = [
        f"{escape(adapter_title(engine, name, language))}<code>{escape(name)}</code>"
        for name in names
    ]
    heads = [text("about_adapter", language), *titles]
    table = wide_table(text("about_budgets", language), heads, rows, "budgets")
    return table + quiet(text("about_budget_note", language))


def _facts(
    engine: AppEngine, name: str, backbone: int | None, language: Language
) -> dict[str, str]:
    """The cells of an adapter's column by key of their row's title; empty where unknown."""
    config, manifest = engine.configs[name], engine.manifests[name]
    training, code = _dict(manifest, "training"), _dict(manifest, "code")
    trained, loss = manifest.get("trainable_parameters"), training.get("best_dev_loss")
    share = text("about_share_later", language)
    if trained and backbone:
        share = f"{trained / backbone:.2%}"
    size = sum(file.get("bytes", 0) for file in _dict(manifest, "files").values())
    of_data = {TASKS[task].licence for task in config.tasks if task in TASKS}
    return {
        "tasks": f"{len(config.tasks)}",
        "experts": f"{config.common} + {len(config.tasks) * config.specific}",
        "ranks": f"{config.total_rank} / {config.active_rank}",
        "trained_parameters": f'<span title="{trained:,}">{millions(trained)}</span>'
        if trained
        else "",
        "share": share if trained else "",
        "file": f"{size / 1e6:.1f} MB" if size else "",
        "records": _number(_dict(training, "records").get("train")),
        "steps": _number(training.get("steps")),
        "dev_loss": "" if loss is None else f"{loss:.3f}",
        "data": _hash(training.get("train_data")),
        "commit": _hash(code.get("commit"), "+" if code.get("dirty") else ""),
        "licence": escape(str(manifest.get("licence") or ", ".join(sorted(of_data)))),
    }


def _dict(facts: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = facts.get(key)
    return value if isinstance(value, Mapping) else {}


def _number(count: int | None) -> str:
    return "" if count is None else f"{count:,}"


def _hash(value: object, changed: str = "") -> str:
    """The beginning of a hash, empty if unknown, and a mark of a changed tree."""
    if not value:
        return ""
    whole = escape(str(value))
    return f'<code title="{whole}{changed}">{whole[:_SHORT]}{changed}</code>'


# Use -------------------------------------------------------------------------------------------


def address_of(request: gr.Request) -> str:
    """The app's address in the visitor's browser, without a slash at the end."""
    raw: Any = request.request
    return get_root_url(raw, str(raw.url.path), raw.scope.get("root_path"))


def has_mcp(request: gr.Request) -> bool:
    """Whether the app serves MCP."""
    raw: Any = request.request
    app = raw.scope.get("app")
    return bool(getattr(getattr(app, "blocks", None), "mcp_server", False))


def programs(engine: AppEngine, address: str, mcp: bool, language: Language) -> str:
    """How programs and assistants call the app."""
    names = " ".join(f"<code>{name}</code>" for name in _ENDPOINTS)
    settings = {"mcpServers": {"cgclora": {"url": f"{address}/gradio_api/mcp/"}}}
    return (
        f"<p>{text('about_api', language)}</p>{render.snippet(_call(engine, address), language)}"
        f'<p class="quiet"><a href="?view=api">{text("about_endpoints", language)}</a> {names}</p>'
        f"<p>{text('about_mcp_on' if mcp else 'about_mcp_off', language)}</p>"
        + render.snippet(json.dumps(settings, indent=2) if mcp else _START_WITH_MCP, language)
    )


def _call(engine: AppEngine, address: str) -> str:
    """Three lines of Python that ask the shortest sample."""
    prompts = [
        (task.prompt(sample.fields), name)
        for cluster in engine.clusters()
        for name in engine.tasks(cluster)
        for task in [forms.task_of(engine, cluster, name)]
        for sample in forms.samples(task)
    ]
    prompt, task = min(prompts, key=lambda pair: len(pair[0]), default=("...", "..."))
    return (
        "from gradio_client import Client\n"
        f"client = Client({address!r})\n"
        f'print(client.predict({task!r}, {prompt!r}, api_name="/generate"))'
    )


def licences(engine: AppEngine, language: Language) -> str:
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


def limits(engine: AppEngine, language: Language) -> str:
    """What this server accepts, and which variables change that."""
    rows = [
        (text(f"limit_{name}", language), f"{value:,}", f"<code>{variable(name)}</code>")
        for name, value in vars(engine.limits).items()
    ]
    intro = quiet(text("about_limits_intro", language))
    return intro + wide_table(text("about_limits", language), [], rows, "limits")


def citation(language: Language) -> str:
    """The paper, and its BibTeX entry."""
    return (
        f"<p>{text('about_independent', language)} "
        f"{_link('arXiv 2402.01684', PAPER)}</p>{render.snippet(CITATION, language)}"
    )


def installed() -> str:
    """Versions of what runs here."""
    return _list({name: escape(version) for name, version in versions(_PACKAGES).items()})


def _list(rows: dict[str, str]) -> str:
    entries = "".join(f"<div><dt>{name}</dt><dd>{words}</dd></div>" for name, words in rows.items())
    return f'<dl class="facts-list">{entries}</dl>'


def _link(words: str, address: str) -> str:
    return f'<a href="{address}" target="_blank" rel="noopener">{words}</a>'
