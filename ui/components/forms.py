"""A task as a form: its fields, its examples, and the texts in which its answers can be found."""

from collections.abc import Mapping
from functools import cache
from typing import Any, cast

from evals.tasks import CHOICES, TASKS, Field, Language, Parsed, Task, parsing
from evals.tasks.samples import Sample, load_samples
from ui.components.texts import TEXTS, text

SLOTS = max(len(task.fields) for task in TASKS.values())
"""How many fields a form has room for."""


def task_named(name: str) -> Task:
    """A task by name; one that nobody has described takes a text and gives a text."""
    if name in TASKS:
        return TASKS[name]
    return Task(
        name=name,
        dataset=cast(Any, ""),  # it belongs to none of our collections and clusters
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


def title(task: Task, language: Language) -> str:
    """The task's title in a language."""
    return task.title_zh if language == "zh" else task.title_en


def description(task: Task, language: Language) -> str:
    """The task's one-line explanation in a language."""
    return task.description_zh if language == "zh" else task.description_en


def label(field: Field, language: Language) -> str:
    """A field's label in a language."""
    return field.label_zh if language == "zh" else field.label_en


def cluster_title(cluster: str, language: Language) -> str:
    """A cluster's title; that of somebody else's adapter is its folder's name."""
    key = f"cluster {cluster}"
    return text(key, language) if key in TEXTS else cluster


@cache
def _all_samples() -> dict[str, list[Sample]]:
    return load_samples()


def samples(task: Task) -> list[Sample]:
    """Our examples of a task."""
    return _all_samples().get(task.name, [])


def beginning(values: Mapping[str, str], most: int = 22) -> str:
    """The beginning of the first value, on one line."""
    return shortened(next(iter(values.values()), ""), most)


def shortened(words: str, most: int) -> str:
    """The beginning of a text, on one line."""
    flat = " ".join(words.split())
    return flat if len(flat) <= most else f"{flat[: most - 1]}…"


def missing_field(task: Task, values: Mapping[str, str]) -> Field | None:
    """The first field that must be filled in and is not; a list must have an item."""
    return next((field for field in task.fields if not _is_filled(field, values)), None)


def _is_filled(field: Field, values: Mapping[str, str]) -> bool:
    value = values[field.name]
    return bool(parsing.split_list(value) if field.name == CHOICES else value.strip())


def searched(task: Task, values: Mapping[str, str]) -> str:
    """The text in which the answer's mentions stand: the longest, the list of choices aside.

    Normalization alone answers with terms of that list.
    """
    from_choices = task.kind == "normalization"
    texts = (value for name, value in values.items() if (name == CHOICES) == from_choices)
    return max(texts, key=len, default="")


def sample_with(task: Task, values: Mapping[str, str]) -> Sample | None:
    """The sample with exactly these values, whose reference then holds."""
    return next((sample for sample in samples(task) if sample.fields == dict(values)), None)


def highlighted(text: str, parsed: Parsed, language: Language) -> list[tuple[str, str | None]]:
    """A text cut into pieces, each with what the answer says it is, or None.

    Longer mentions win over shorter ones inside them; a mention counts wherever it occurs.
    """
    pieces: list[tuple[str, str | None]] = [(text, None)]
    for mention, kind in sorted(_mentions(parsed, language), key=lambda pair: -len(pair[0])):
        pieces = [
            part
            for piece, known in pieces
            for part in ([(piece, known)] if known else _split(piece, mention, kind))
        ]
    return pieces if any(kind for _, kind in pieces) else []


def _split(piece: str, mention: str, kind: str) -> list[tuple[str, str | None]]:
    around: list[tuple[str, str | None]] = []
    for between in piece.split(mention):
        around += [(between, None), (mention, kind)]
    return [part for part in around[:-1] if part[0]]


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
