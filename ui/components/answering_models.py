"""The models that answer: adapters and the bare backbone, with their titles and colours."""

from dataclasses import dataclass
from typing import Literal

from evals.figures.palette import colour
from evals.methods import BACKBONE, method_of
from evals.tasks import Language
from ui.components import forms
from ui.components.texts import text
from ui.engine.engine import COMPARED, AppEngine
from ui.engine.questions import BARE

Role = Literal["adapted", "rival", "bare"]


@dataclass(frozen=True)
class AnsweringModel:
    """A model that answers a question."""

    name: str  # the adapter's, or `BARE`
    role: Role  # `adapted` is the chosen cluster's adapter, `rival` another one
    title: str
    note: str  # its amount of training data; may be empty
    colour: str  # its method's, `#rrggbb`


def answering_models(
    engine: AppEngine, cluster: str | None, beside: tuple[str, ...], language: Language
) -> tuple[AnsweringModel, ...]:
    """The chosen cluster's adapter, if it exists, then those asked beside it."""
    models = [_model(engine, name, "rival", language) for name in beside]
    if cluster in engine.manifests:
        models.insert(0, _model(engine, str(cluster), "adapted", language))
    return tuple(models)


def clusters(engine: AppEngine, language: Language) -> list[tuple[str, str]]:
    """All clusters as choices: their titles and names."""
    return [(forms.cluster_title(name, language), name) for name in engine.clusters()]


def title(engine: AppEngine, name: str, language: Language) -> str:
    """A model's title: a compared adapter has its method's, another one its cluster's."""
    if name == BARE:
        return text("bare", language)
    if name.startswith(f"{COMPARED}/"):
        return method_of(engine.configs[name], engine.manifests[name])
    return forms.cluster_title(name, language)


def adapter_title(engine: AppEngine, name: str, language: Language) -> str:
    """A model's title where all are listed: its cluster and its method."""
    if name == BARE:
        return text("bare", language)
    if name not in engine.configs:
        return name
    method = method_of(engine.configs[name], engine.manifests.get(name, {}))
    if name.startswith(f"{COMPARED}/"):
        return text("compared", language, method=method)
    return f"{forms.cluster_title(name, language)} · {method}"


def adapter_choices(engine: AppEngine, language: Language) -> list[tuple[str, str]]:
    """All adapters as choices: a title, and details on a second line."""
    rows = []
    for name in engine.adapters():
        count = len(engine.configs[name].tasks)
        key = "bench_one_task" if count == 1 else "bench_known_tasks"
        note = f"{name} · {text(key, language, count=count)}"
        rows.append((f"{adapter_title(engine, name, language)}\n{note}", name))
    return rows


def _model(engine: AppEngine, name: str, role: Role, language: Language) -> AnsweringModel:
    if name == BARE:
        return AnsweringModel(name, "bare", text("bare", language), "", colour(BACKBONE))
    manifest = engine.manifests[name]
    method = method_of(engine.configs[name], manifest)
    records = manifest.get("training", {}).get("records", {}).get("train")
    note = text("trained_on", language, count=f"{records:,}") if records else ""
    words = title(engine, name, language)
    if words != method:
        words = f"{words} · {method}"
    return AnsweringModel(name, role, words, note, colour(method))
