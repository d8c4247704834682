"""What is installed here: backbone, clusters and tasks, and what each adapter costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from html import escape
from typing import Any

from evals.methods import method_of
from evals.tasks import TASKS, Language
from ui.components import answering_models, forms
from ui.components.html import wide_table
from ui.components.texts import text
from ui.engine.engine import Engine

_SHORT = 8  # letters of a hash that are shown


def adapter_title(engine: Engine, name: str, language: Language) -> str:
    """An adapter's title where all are listed: its cluster and its method."""
    method = method_of(engine.configs[name], engine.manifests[name])
    if name not in engine.clusters():
        return text("about_compared", language, method=method)
    return f"{answering_models.title(engine, name, language)} · {method}"


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
    with backbone.lock:  # an adapter may be attached meanwhile
        return backbone_parameters(backbone.model)


def millions(count: int) -> str:
    """A number of parameters in millions, with about three digits."""
    return f"{count / 1e6:.{0 if count >= 1e8 else 1 if count >= 1e7 else 2}f} M"


# The tree -------------------------------------------------------------------------------------


def tree(engine: Engine, language: Language) -> str:
    """Backbone, clusters and tasks as nested lists."""
    facts = [text("about_backbone", language)]
    if (size := backbone_size(engine)) is not None:
        from cgclora.inference.runtime import Runtime  # noqa: PLC0415 - torch is loaded by now

        decoding = Runtime.of(engine.loaded(engine.adapters()[0])[0]).facts()
        code, weights = decoding["pass"], decoding["weights"]
        facts.append(text("about_size", language, count=millions(size)))
        facts.append(text("about_decoding", language, code=code, weights=weights))
    root = (
        f'<div class="node frozen"><b>{escape(backbone_name(engine))}</b>'
        f'<span class="quiet">{" · ".join(facts)}</span></div>'
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
    by_kind: dict[str, str] = defaultdict(str)
    for task in map(forms.task_named, engine.tasks(name)):
        by_kind[task.kind] += f"<li>{escape(forms.title(task, language))}</li>"
    kinds = "".join(
        f'<li><span class="kind">{text(kind, language)}</span><ul class="leaves">{tasks}</ul></li>'
        for kind, tasks in by_kind.items()
    )
    return (
        f'<div class="node common"><b>{escape(forms.cluster_title(name, language))}</b>'
        f'<span class="quiet">{counts}</span></div><ul class="kinds">{kinds}</ul>'
    )


# The budgets ----------------------------------------------------------------------------------


def budgets(engine: Engine, language: Language) -> str:
    """A column for each adapter: how large it is and where it comes from."""
    names = engine.adapters()
    if not names:
        return f'<p class="quiet">{text("about_no_adapter", language)}</p>'
    size = backbone_size(engine)
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
    note = f'<p class="quiet">{text("about_budget_note", language)}</p>'
    return wide_table(text("about_budgets", language), heads, rows, "budgets") + note


def _facts(engine: Engine, name: str, backbone: int | None, language: Language) -> dict[str, str]:
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
    """The beginning of a hash.

    Args:
        value: The hash; None if unknown.
        changed: Stands behind the hash of a commit whose tree was changed.
    """
    if not value:
        return ""
    whole = escape(str(value))
    return f'<code title="{whole}{changed}">{whole[:_SHORT]}{changed}</code>'
