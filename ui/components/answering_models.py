"""Who answers: adapters and the bare backbone, as a visitor knows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evals.figures.palette import colour
from evals.methods import BACKBONE, method_of
from evals.tasks import Language
from ui.components import forms
from ui.components.texts import text
from ui.engine.engine import COMPARED, Engine
from ui.engine.questions import BARE

Side = Literal["adapted", "rival", "bare"]


@dataclass(frozen=True)
class Speaker:
    """One who answers.

    Attributes:
        name: The adapter's, or `BARE`.
        side: `adapted` is the chosen cluster's adapter, `rival` another one.
        title: What it is.
        note: What it was trained on; may be empty.
        colour: Its method's, `#rrggbb`.
    """

    name: str
    side: Side
    title: str
    note: str
    colour: str


def speakers(
    engine: Engine, cluster: str | None, beside: tuple[str, ...], language: Language
) -> tuple[Speaker, ...]:
    """The chosen cluster's adapter, if it is there, then those beside it."""
    own = [_speaker(engine, cluster, "adapted", language)] if cluster in engine.manifests else []
    return (*own, *(_speaker(engine, name, "rival", language) for name in beside))


def clusters(engine: Engine, language: Language) -> list[tuple[str, str]]:
    """All clusters as choices: their titles and names."""
    return [(forms.cluster_title(name, language), name) for name in engine.clusters()]


def title(engine: Engine, name: str, language: Language) -> str:
    """What the adapter is called: the method of one to compare with, the cluster of another."""
    if name == BARE:
        return text("bare", language)
    if name.startswith(f"{COMPARED}/"):
        return method_of(engine.configs[name], engine.manifests[name])
    return forms.cluster_title(name, language)


def _speaker(engine: Engine, name: str, side: Side, language: Language) -> Speaker:
    if name == BARE:
        return Speaker(name, "bare", text("bare", language), "", colour(BACKBONE))
    manifest = engine.manifests[name]
    method = method_of(engine.configs[name], manifest)
    records = manifest.get("training", {}).get("records", {}).get("train")
    note = text("trained_on", language, count=f"{records:,}") if records else ""
    words = (
        method if name.startswith(f"{COMPARED}/") else f"{title(engine, name, language)} · {method}"
    )
    return Speaker(name, side, words, note, colour(method))
