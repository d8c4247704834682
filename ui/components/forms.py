"""A task's form: its fields, its samples, and where its answer occurs in the input."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, cast

from evals.figures.captions import title
from evals.tasks import CHOICES, TASKS, Field, Language, Parsed, Task, parsing
from evals.tasks.recognition import MOST_FIELDS, described_task
from evals.tasks.samples import Sample, load_samples
from ui.components.texts import TEXTS, text
from ui.engine.engine import AppEngine

SLOTS = max(MOST_FIELDS, *(len(task.fields) for task in TASKS.values()))
"""How many fields a form has room for."""


def task_of(engine: AppEngine, cluster: str, name: str) -> Task:
    """A task of an adapter: built in, or as the adapter's manifest describes it.

    An undescribed one maps a text to a text.
    """
    if name in TASKS:
        return TASKS[name]
    return described_task(engine.manifests.get(cluster, {}), name) or _undescribed(name)


def titles(engine: AppEngine, cluster: str, language: Language) -> dict[str, str]:
    """The titles of an adapter's tasks by name, in its order."""
    return {name: title(task_of(engine, cluster, name), language) for name in engine.tasks(cluster)}


def _undescribed(name: str) -> Task:
    return Task(
        name=name,
        dataset=cast(Any, ""),  # of no collection and no cluster
        cluster=cast(Any, ""),
        title_zh=name,
        title_en=name,
        description_zh=text("unknown_task", "zh"),
        description_en=text("unknown_task", "en"),
        kind="generation",
        max_new_tokens=128,
        fields=(Field("text", *TEXTS["text"], multiline=True),),
        template="{text}",
        reader=parsing.free_text,
        licence="",
    )


def description(task: Task, language: Language) -> str:
    """The task's one-line explanation in a language; empty if a user's own task has none."""
    return task.description_zh if language == "zh" else task.description_en


def label(field: Field, language: Language) -> str:
    """A field's label in a language."""
    return field.label_zh if language == "zh" else field.label_en


def cluster_title(cluster: str, language: Language) -> str:
    """A cluster's title; a user's own adapter has its folder's name."""
    key = f"cluster {cluster}"
    return text(key, language) if key in TEXTS else cluster


_all_samples = cache(load_samples)


def samples(task: Task) -> list[Sample]:
    """The samples of a task that come with the project."""
    return _all_samples().get(task.name, [])


def beginning(values: Mapping[str, str]) -> str:
    """The beginning of the first value, on one line."""
    return shortened(next(iter(values.values()), ""), 22)


def shortened(words: str, max_length: int) -> str:
    """The beginning of a text, on one line."""
    flat = " ".join(words.split())
    return flat if len(flat) <= max_length else f"{flat[: max_length - 1]}…"


def missing_field(task: Task, values: Mapping[str, str]) -> Field | None:
    """The first field that must be filled in and is not; a list must have an item."""
    return next((field for field in task.fields if not _is_filled(field, values)), None)


def _is_filled(field: Field, values: Mapping[str, str]) -> bool:
    value = values[field.name]
    return bool(parsing.split_list(value) if field.name == CHOICES else value.strip())


def searched(task: Task, values: Mapping[str, str]) -> str:
    """The text in which the answer's mentions occur: the longest one except the choices.

    Answers of normalization occur in the choices instead.
    """
    from_choices = task.kind == "normalization"
    texts = (value for name, value in values.items() if (name == CHOICES) == from_choices)
    return max(texts, key=len, default="")


def sample_with(task: Task, values: Mapping[str, str]) -> Sample | None:
    """The sample with exactly these values, whose reference then applies."""
    return next((sample for sample in samples(task) if sample.fields == dict(values)), None)


def highlighted(text: str, parsed: Parsed, language: Language) -> list[tuple[str, str | None]]:
    """A text in pieces, each with the kind that the answer gives it, or None.

    Every occurrence of a mention counts; longer mentions win over shorter ones inside them. Empty
    if nothing occurs.
    """
    kinds = dict(sorted(_mentions(parsed, language)))
    longest_first = sorted(kinds, key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, longest_first))})", text) if kinds else []
    pieces = [(part, kinds.get(part)) for part in parts if part]
    return pieces if any(kind for _, kind in pieces) else []


def _mentions(parsed: Parsed, language: Language) -> set[tuple[str, str]]:
    if parsed.kind == "entities":
        return {(mention, kind) for kind, mention in parsed.items}
    if parsed.kind == "terms":
        (name,), _ = parsed.table(language)
        return {(term, name) for (term,) in parsed.items}
    if parsed.kind == "triples":
        heads = {(first, text("head", language)) for first, _, _ in parsed.items}
        return heads | {(last, text("tail", language)) for _, _, last in parsed.items}
    return set()
