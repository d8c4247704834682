"""The samples behind a cell, side by side with another method's, and where a run comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from cgclora.data.sources import FOLDER_VARIABLE
from evals.figures.captions import size, title
from evals.leaderboard.board import Entry
from evals.leaderboard.drilldown import KINDS, Said, Sample, SamplesBehind
from evals.runs.facts import run_facts
from evals.runs.run_dir import Run
from evals.tasks import Language
from ui.components.texts import text
from ui.tabs.leaderboard.captions import quiet
from ui.tabs.leaderboard.markers import mark

_HASH = 12
"""Letters of a hash that are shown; the rest is under the pointer."""


def heading(name: str, method: str, language: Language) -> str:
    """Whose samples they are; the script that goes there gives it the focus."""
    words = text("board_samples", language, name=escape(name))
    return f'<h2 tabindex="-1">{mark(method)}<span>{words}</span></h2>'


def place(first: int, last: int, count: int, language: Language) -> str:
    """Which samples of how many are on the page."""
    words = text("board_place", language, first=first, last=last, n=f"{count:,}")
    return f'<p class="quiet">{words}</p>' if count else ""


def kinds(found: SamplesBehind, *, beside: bool, language: Language) -> list[tuple[str, str]]:
    """The kinds of samples as choices, each with how many there are."""
    offered = KINDS if beside else KINDS[:2]
    return [(text(f"board_only {one}", language, n=found.count(one)), one) for one in offered]


def samples_table(
    found: SamplesBehind,
    shown: Sequence[Sample],
    entries: Sequence[Entry],
    metric: str,
    language: Language,
) -> str:
    """A page of samples.

    Args:
        found: All of them, for what is to be said about their data.
        shown: Those of the page.
        entries: Whose answers they are, and if there is one, who stands beside.
        metric: Of the one task; empty for several, of which each sample then says its own.
        language: Of the words.
    """
    notes = [
        text("board_own_score", language, metric=escape(metric))
        if metric
        else text("board_own_scores", language)
    ]
    if found.problem:
        notes.append(text("board_no_data", language, variable=FOLDER_VARIABLE))
    if found.other_data:
        tasks = ", ".join(title(task, language) for task in found.other_data)
        notes.append(text("board_other_data", language, tasks=escape(tasks)))
    said = quiet(notes)
    if not shown:
        return f'{said}<p class="board-empty">{text("board_no_samples", language)}</p>'
    known = any(sample.record for sample in found.samples)
    titles = [text("board_input" if known else "board_sample", language)]
    titles += [text("board_target", language)] if known else []
    heads = [escape(name) for name in titles]
    heads += [f"{mark(entry.method)}{escape(entry.name)}" for entry in entries]
    head = "".join(f'<th scope="col">{one}</th>' for one in heads)
    labels = [*titles, *(entry.name for entry in entries)]
    body = "".join(_row(sample, labels, known, not metric, language) for sample in shown)
    return (
        f'{said}<div class="samples"><table><caption class="unseen">'
        f"{text('board_samples', language, name=escape(entries[0].name))}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(
    sample: Sample,
    labels: Sequence[str],
    known: bool,
    several: bool,
    language: Language,
) -> str:
    where = f"{title(sample.task, language)} · {sample.id}" if several else sample.id
    first = f'<span class="id">{escape(where)}</span>'
    cells = [first]
    if known:
        record = sample.record
        cells = [
            first + _prompt(record.prompt if record else ""),
            _text(record.target if record else ""),
        ]
    cells += [_said(sample.said, language), _said(sample.other, language)]
    return (
        "<tr>"
        + "".join(
            f'<td data-label="{escape(label)}">{cell}</td>'
            for label, cell in zip(labels, cells, strict=False)  # nobody may stand beside
        )
        + "</tr>"
    )


def _prompt(prompt: str, most: int = 60) -> str:
    """The prompt's beginning, or all of it when unfolded."""
    if len(prompt) <= most:
        return f'<div class="said">{escape(prompt)}</div>'
    start = escape(" ".join(prompt[:most].split()))
    return (
        f'<details class="prompt"><summary>{start}…</summary>'
        f'<div class="said">{escape(prompt)}</div></details>'
    )


def _text(words: str) -> str:
    return f'<div class="said">{escape(words)}</div>'


def _said(said: Said | None, language: Language) -> str:
    if said is None:
        return "–"
    words = escape(said.text) or f'<em class="quiet">{text("board_silent", language)}</em>'
    cut = f'<span class="quiet">{text("board_cut", language)}</span>' if said.cut else ""
    return f'<div class="said">{words}</div><p class="point">{_score(said.score)}{cut}</p>'


def _score(score: float | None) -> str:
    if score is None:
        return ""
    if score in (0, 1):
        return f'<span class="verdict {"right" if score else "wrong"}">{score:.0f}</span>'
    return f'<span class="quiet">{score:.2f}</span>'


# Where a run comes from -------------------------------------------------------------------


def provenance(run: Run, name: str, language: Language) -> str:
    """What a reader asks before believing a run's numbers, and the manifest as it is.

    Args:
        run: Which.
        name: Its name, which does not say where it lies.
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
    """Names and values on one line; what is no mapping as it is."""
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
    known = isinstance(value, int | float)
    return size("training_seconds", value, language) if known else ""


def _answering(facts: Mapping[str, Any], language: Language) -> str:
    time = _seconds(facts["seconds"], language)
    if not time:
        return ""
    return text("board_answered", language, time=time, tokens=_plain(facts["tokens"]))
