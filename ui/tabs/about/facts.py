"""What is installed here: backbone, clusters and tasks, and what each adapter costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from cgclora.config import AdapterConfig
from evals.tasks import TASKS, Language
from ui.components import forms
from ui.components.texts import text
from ui.engine.engine import Engine
from ui.tabs.about.layer import adapter_title

_SHORT = 8  # letters of a hash that are shown


def backbone_name(engine: Engine) -> str:
    """The backbone's name, as the adapters know it."""
    names = (engine.manifests[name].get("backbone", {}).get("name") for name in engine.adapters())
    return next((str(name) for name in names if name), "")


def backbone_size(engine: Engine) -> int | None:
    """The backbone's number of parameters; None until it is loaded."""
    names = engine.adapters()
    if not (engine.status.ready and names):
        return None
    from cgclora.adapter import backbone_parameters  # noqa: PLC0415 - torch is loaded by now

    backbone, _ = engine.loaded(names[0])
    with backbone.lock:  # an adapter may be about to join
        return backbone_parameters(backbone.model)


# The tree -------------------------------------------------------------------------------------


def decoding(engine: Engine, language: Language) -> str:
    """How answers are computed here; empty until the backbone is loaded."""
    names = engine.adapters()
    if not (engine.status.ready and names):
        return ""
    from cgclora.inference.runtime import Runtime  # noqa: PLC0415 - torch is loaded by now

    facts = Runtime.of(engine.loaded(names[0])[0]).facts()
    return text("about_decoding", language, code=facts["pass"], weights=facts["weights"])


def tree(engine: Engine, language: Language) -> str:
    """Backbone, clusters and tasks as lists within lists."""
    size = backbone_size(engine)
    count = "" if size is None else text("about_size", language, count=millions(size))
    root = (
        f'<div class="node frozen"><b>{escape(backbone_name(engine))}</b>'
        f'<span class="quiet">{text("about_backbone", language)}{" · " if count else ""}{count}'
        f'</span><span class="quiet">{decoding(engine, language)}</span></div>'
    )
    branches = "".join(f"<li>{_branch(engine, n, language)}</li>" for n in engine.clusters())
    return f'<ul class="tree"><li>{root}<ul>{branches}</ul></li></ul>'


def _branch(engine: Engine, name: str, language: Language) -> str:
    """One cluster, its tasks by kind."""
    config = engine.configs[name]
    counts = text(
        "about_cluster",
        language,
        common=config.common,
        tasks=len(config.tasks),
        specific=config.specific,
    )
    by_kind: dict[str, list[str]] = defaultdict(list)
    for task in map(forms.task_named, engine.tasks(name)):
        by_kind[task.kind].append(forms.title(task, language))
    kinds = "".join(
        f'<li><span class="kind">{text(kind, language)}</span><ul class="leaves">'
        + "".join(f"<li>{escape(title)}</li>" for title in titles)
        + "</ul></li>"
        for kind, titles in by_kind.items()
    )
    return (
        f'<div class="node common"><b>{escape(forms.cluster_title(name, language))}</b>'
        f'<span class="quiet">{counts}</span></div><ul class="kinds">{kinds}</ul>'
    )


# The budgets ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Adapter:
    """What is known of one adapter."""

    config: AdapterConfig
    manifest: Mapping[str, Any]
    backbone: int | None
    language: Language

    def found(self, *path: str) -> Any:
        """A value of the manifest; None where a step of the path is missing."""
        value: Any = self.manifest
        for step in path:
            value = value.get(step) if isinstance(value, Mapping) else None
        return value


def budgets(engine: Engine, language: Language) -> str:
    """A column for each adapter: how large it is and where it comes from."""
    names = engine.adapters()
    if not names:
        return f'<p class="quiet">{text("about_no_adapter", language)}</p>'
    size = backbone_size(engine)
    adapters = [
        _Adapter(engine.configs[name], engine.manifests[name], size, language) for name in names
    ]
    head = "".join(
        f'<th scope="col">{escape(adapter_title(engine, name, language))}'
        f"<code>{escape(name)}</code></th>"
        for name in names
    )
    rows = "".join(
        f'<tr><th scope="row">{text(key, language)}</th>'
        + "".join(f"<td>{value(adapter)}</td>" for adapter in adapters)
        + "</tr>"
        for key, value in _FACTS.items()
    )
    title = text("about_budgets", language)
    return (
        f'<div class="table" role="region" aria-label="{title}" tabindex="0">'
        f'<table class="budgets"><caption class="unseen">{title}</caption><thead><tr>'
        f'<th scope="col">{text("about_adapter", language)}</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        f'<p class="quiet">{text("about_budget_note", language)}</p>'
    )


def millions(count: int) -> str:
    """A number of parameters in millions, with three figures or so."""
    return f"{count / 1e6:.{0 if count >= 1e8 else 1 if count >= 1e7 else 2}f} M"


def _trained(adapter: _Adapter) -> str:
    count = adapter.found("trainable_parameters")
    return f'<span title="{count:,}">{millions(count)}</span>' if count else _unknown(adapter)


def _share(adapter: _Adapter) -> str:
    count = adapter.found("trainable_parameters")
    if not count:
        return _unknown(adapter)
    if adapter.backbone is None:
        return f'<span class="quiet">{text("about_share_later", adapter.language)}</span>'
    return f"{count / adapter.backbone:.2%}"


def _experts(adapter: _Adapter) -> str:
    config = adapter.config
    return f"{config.common} + {len(config.tasks) * config.specific}"


def _size(adapter: _Adapter) -> str:
    files = adapter.found("files") or {}
    size = sum(file.get("bytes", 0) for file in files.values())
    return f"{size / 1e6:.1f} MB" if size else _unknown(adapter)


def _count(*path: str) -> Callable[[_Adapter], str]:
    def value(adapter: _Adapter) -> str:
        count = adapter.found(*path)
        return _unknown(adapter) if count is None else f"{count:,}"

    return value


def _dev_loss(adapter: _Adapter) -> str:
    loss = adapter.found("training", "best_dev_loss")
    return _unknown(adapter) if loss is None else f"{loss:.3f}"


def _data(adapter: _Adapter) -> str:
    return _hash(adapter.found("training", "train_data"), adapter)


def _commit(adapter: _Adapter) -> str:
    changed = "+" if adapter.found("code", "dirty") else ""
    return _hash(adapter.found("code", "commit"), adapter, changed)


def _hash(value: Any, adapter: _Adapter, more: str = "") -> str:
    if not value:
        return _unknown(adapter)
    whole = escape(str(value))
    return f'<code title="{whole}{more}">{whole[:_SHORT]}{more}</code>'


def _licence(adapter: _Adapter) -> str:
    """What the manifest says, or else the licences of the tasks' data."""
    said = adapter.found("licence") or ", ".join(
        sorted({TASKS[task].licence for task in adapter.config.tasks if task in TASKS})
    )
    return escape(str(said)) or _unknown(adapter)


def _unknown(adapter: _Adapter) -> str:
    return text("about_unknown", adapter.language)


_FACTS: dict[str, Callable[[_Adapter], str]] = {
    "about_tasks": lambda adapter: str(len(adapter.config.tasks)),
    "about_experts": _experts,
    "about_ranks": lambda adapter: f"{adapter.config.total_rank} / {adapter.config.active_rank}",
    "about_trained_parameters": _trained,
    "about_share": _share,
    "about_file": _size,
    "about_records": _count("training", "records", "train"),
    "about_steps": _count("training", "steps"),
    "about_dev_loss": _dev_loss,
    "about_data": _data,
    "about_commit": _commit,
    "about_licence": _licence,
}
"""The rows of the table, by the key of their title."""
