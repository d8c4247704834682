"""The samples of a cell side by side with another method's, and the provenance of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from cgclora.data.sources import FOLDER_VARIABLE
from evals.figures.captions import size, title
from evals.leaderboard.drilldown import KINDS, Said, Sample, SamplesBehind
from evals.runs.facts import run_facts
from evals.runs.run_dir import Run
from evals.tasks import Language
from ui.components import html
from ui.components.texts import text
from ui.tabs.leaderboard.drilldown import DrillDown
from ui.tabs.leaderboard.markers import marker

_HASH = 12
"""Digits of a hash that are shown; a tooltip has all."""


def heading(name: str, method: str, language: Language) -> str:
    """The heading of the samples of an entry; a script gives it the focus."""
    words = text("board_samples", language, name=escape(name))
    return f'<h2 tabindex="-1">{marker(method)}<span>{words}</span></h2>'


def place(shown: DrillDown, language: Language) -> str:
    """Which samples the page shows, and how many there are."""
    if not shown.count:
        return ""
    count = f"{shown.count:,}"
    return html.quiet(text("board_place", language, first=shown.first, last=shown.last, n=count))


def kinds(shown: DrillDown, language: Language) -> list[tuple[str, str]]:
    """The kinds of samples as choices, each with its number of samples."""
    offered = KINDS if shown.other else KINDS[:2]
    return [(text(f"board_only {one}", language, n=shown.cell.count(one)), one) for one in offered]


def samples_table(shown: DrillDown, metric: str, language: Language) -> str:
    """A page of samples.

    Args:
        shown: The samples.
        metric: Of the one task; empty for several tasks.
        language: Of the words.
    """
    notes = html.quiet(*_notes(shown.cell, metric, language))
    if not shown.page:
        return f'{notes}<p class="board-empty">{text("board_no_samples", language)}</p>'
    entries = [shown.entry, *([shown.other] if shown.other else [])]
    has_records = any(sample.record for sample in shown.cell.samples)
    titles = [text("board_input" if has_records else "board_sample", language)]
    titles += [text("board_target", language)] if has_records else []
    columns = [
        *map(escape, titles),
        *(f"{marker(entry.method)}{escape(entry.name)}" for entry in entries),
    ]
    labels = [*titles, *(entry.name for entry in entries)]
    rows = (_row(sample, labels, has_records, not metric, language) for sample in shown.page)
    caption = html.hidden_caption(text("board_samples", language, name=shown.entry.name))
    return f'{notes}<div class="samples">{html.table(columns, rows, caption=caption)}</div>'


def _notes(cell: SamplesBehind, metric: str, language: Language) -> list[str]:
    key = "board_own_score" if metric else "board_own_scores"
    notes = [text(key, language, metric=escape(metric))]
    if cell.problem:
        notes.append(text("board_no_data", language, variable=FOLDER_VARIABLE))
    if cell.other_data:
        tasks = ", ".join(title(task, language) for task in cell.other_data)
        notes.append(text("board_other_data", language, tasks=escape(tasks)))
    return notes


def _row(
    sample: Sample,
    labels: Sequence[str],
    has_records: bool,
    several_tasks: bool,
    language: Language,
) -> str:
    name = f"{title(sample.task, language)} · {sample.id}" if several_tasks else sample.id
    record = sample.record
    cells = [f'<span class="id">{escape(name)}</span>']
    if has_records:
        cells[0] += _prompt(record.prompt if record else "")
        cells.append(f'<div class="said">{escape(record.target if record else "")}</div>')
    cells += [_answer(sample.said, language), _answer(sample.other, language)]
    labelled = zip(labels, cells, strict=False)  # there may be no other entry
    columns = (f'<td data-label="{escape(label)}">{cell}</td>' for label, cell in labelled)
    return f"<tr>{''.join(columns)}</tr>"


def _prompt(prompt: str, most: int = 60) -> str:
    """The prompt, folded to its beginning if it is long."""
    if len(prompt) <= most:
        return f'<div class="said">{escape(prompt)}</div>'
    start = escape(" ".join(prompt[:most].split()))
    return (
        f'<details class="prompt"><summary>{start}…</summary>'
        f'<div class="said">{escape(prompt)}</div></details>'
    )


def _answer(answer: Said | None, language: Language) -> str:
    if answer is None:
        return "–"
    words = escape(answer.text) or f'<em class="quiet">{text("board_silent", language)}</em>'
    cut = f'<span class="quiet">{text("board_cut", language)}</span>' if answer.cut else ""
    return f'<div class="said">{words}</div><p class="point">{_score(answer.score)}{cut}</p>'


def _score(score: float | None) -> str:
    if score is None:
        return ""
    if score in (0, 1):
        return f'<span class="verdict {"right" if score else "wrong"}">{score:.0f}</span>'
    return f'<span class="quiet">{score:.2f}</span>'


# Provenance -------------------------------------------------------------------------------


def provenance(run: Run, name: str, language: Language) -> str:
    """The facts that make a run reproducible, and its raw manifest.

    Args:
        run: The run.
        name: Its name without the server's paths.
        language: Of the words.
    """
    rows = [("board_run", f"<code>{escape(name)}</code>"), *_rows(run_facts(run), language)]
    facts = "".join(
        f"<div><dt>{text(key, language)}</dt><dd>{value}</dd></div>" for key, value in rows if value
    )
    raw = escape(json.dumps(run.manifest, ensure_ascii=False, indent=2))
    return (
        f'<section class="provenance"><h3>{text("board_provenance", language)}</h3>'
        f'<dl>{facts}</dl><details class="folded"><summary>{text("board_manifest", language)}'
        f'</summary><pre tabindex="0">{raw}</pre></details></section>'
    )


def _rows(facts: Mapping[str, Any], language: Language) -> list[tuple[str, str]]:
    backbone, data = _mapping(facts["backbone"]), _mapping(facts["data"])
    code, recipe = _mapping(facts["code"]), _mapping(facts["recipe"])
    return [
        ("board_label", _plain(facts["label"])),
        ("board_seed", _plain(facts["seed"])),
        ("board_split", _plain(facts["split"])),
        ("board_prompt", _plain(facts["prompt"])),
        ("board_data_hash", _hash(data.get("hash"))),
        ("board_adapter_hash", " ".join(_hash(one.get("sha256")) for one in facts["adapters"])),
        ("board_backbone", _plain(backbone.get("name"))),
        ("board_fingerprint", _hash(backbone.get("fingerprint"))),
        ("board_recipe", f"{_plain(recipe.get('name'))} {_hash(recipe.get('hash'))}".strip()),
        ("board_learning_rate", _plain(facts["learning_rate"])),
        ("board_dev_losses", _losses(facts["dev_losses"])),
        ("board_training", _seconds(facts["training_seconds"], language)),
        ("board_answering", _answering(facts, language)),
        ("board_decoding", _pairs(facts["decoding"])),
        ("board_commit", _commit(code, language)),
        ("board_versions", _pairs(facts["versions"])),
        ("board_hardware", _pairs(facts["hardware"])),
        ("board_made", _plain(facts["created"])),
    ]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _plain(value: Any) -> str:
    return "" if value is None else escape(str(value))


def _hash(value: Any) -> str:
    whole = _plain(value)
    return f'<code title="{whole}">{whole[:_HASH]}</code>' if whole else ""


def _pairs(value: Any) -> str:
    """Names and values on one line; other values unchanged."""
    if not isinstance(value, Mapping):
        return _plain(value)
    return ", ".join(f"{escape(str(key))} {escape(str(one))}" for key, one in value.items())


def _losses(value: Any) -> str:
    if not isinstance(value, Mapping):
        return ""
    numbers = {k: f"{v:.3f}" if isinstance(v, int | float) else str(v) for k, v in value.items()}
    return ", ".join(f"{escape(str(rate))}: {escape(one)}" for rate, one in numbers.items())


def _commit(code: Mapping[str, Any], language: Language) -> str:
    if not code.get("commit"):
        return ""
    state = text("board_dirty" if code.get("dirty") else "board_clean", language)
    return f"{_hash(code['commit'])} · {state}"


def _seconds(value: Any, language: Language) -> str:
    is_number = isinstance(value, int | float)
    return size("training_seconds", value, language) if is_number else ""


def _answering(facts: Mapping[str, Any], language: Language) -> str:
    time = _seconds(facts["seconds"], language)
    if not time:
        return ""
    return text("board_answered", language, time=time, tokens=_plain(facts["tokens"]))
