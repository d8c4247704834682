"""The samples of a selection side by side with another method's, and the provenance of a run."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any, TypeVar

from cgclora.data.sources import FOLDER_VARIABLE
from evals.figures.captions import size, title
from evals.leaderboard.board import Board, UnknownEntryError, find_entry
from evals.leaderboard.drilldown import (
    KINDS,
    Sample,
    SampleAnswer,
    SampleSet,
    find_samples,
    together,
)
from evals.leaderboard.entries import Entry
from evals.methods import CGC_LORA, SINGLE
from evals.runs.run_dir import Run, RunError, read_run
from evals.runs.scored_run import UNREADABLE, run_facts
from evals.scoring.effect_sizes import OVERALL
from evals.tasks import Language
from ui.components import html
from ui.components.texts import text
from ui.tabs.leaderboard.query import Selection
from ui.tabs.leaderboard.table import marker

PAGE = 20
"""Samples a page."""

_HASH = 12  # digits that are shown; a tooltip has all
_FOLDED_LENGTH = 60  # characters of a prompt

T = TypeVar("T")


@dataclass(frozen=True)
class DrillDown:
    """The samples of a cell."""

    selection: Selection  # with defaults in place of what does not exist
    entry: Entry  # the entry whose samples they are
    other: Entry | None  # the entry beside it; None for none
    runs: tuple[Run, ...]  # the entry's of the chosen seed: one, or one of each cluster
    cell: SampleSet  # all samples of the cell
    page: tuple[Sample, ...]  # those of the chosen kind on the chosen page
    first: int  # number of the page's first sample among those of its kind, from 1; 0 if none
    count: int  # how many samples of the kind there are

    @property
    def last(self) -> int:
        """Number of the page's last sample."""
        return self.first + len(self.page) - 1 if self.page else 0


def select_marker(board: Board, words: Sequence[str], reference: str = "") -> Selection | None:
    """The selection of a click on a chart's marker; None if it is none.

    The words name the marker, its row and its column, some of them entries or tasks; `reference` is
    the entry that the chart compares with.
    """
    names = {entry.name for entry in board.entries}
    tasks = {OVERALL, *(task.name for task in board.tasks)}
    entries = [word for word in dict.fromkeys(words) if word in names]
    if not entries:
        return None
    cell = next((word for word in words if word in tasks), OVERALL)
    against = (*entries, reference)[1]
    return with_other(board, Selection(entry=entries[0], cell=cell, against=against))


def with_other(board: Board, selection: Selection) -> Selection:
    """The selection with another entry beside it, by default single-task LoRA or CGC-LoRA."""
    others = [entry for entry in board.entries if entry.name != selection.entry]
    if selection.against in [entry.name for entry in others]:
        return selection
    likely = [entry for one in (SINGLE, CGC_LORA) for entry in others if entry.method == one]
    return replace(selection, against=next((entry.name for entry in (*likely, *others)), ""))


def drill_down(board: Board, selection: Selection) -> DrillDown | None:
    """The samples of a selection; None if the board has no such entry.

    Raises:
        RunError: The answers of a run are missing or damaged.
    """
    entry, other = _find(board, selection.entry), _find(board, selection.against)
    if entry is None:
        return None
    other = None if other is entry else other
    tasks = [task.name for task in board.tasks]
    kinds = KINDS if other else KINDS[:2]
    seed = _index(selection.seed, len(entry.seeds))
    cell = selection.cell if selection.cell in tasks else OVERALL
    only = next((kind for kind in kinds if kind == selection.only), KINDS[0])
    asked: dict[tuple[str, str | None], list[str]] = {}  # tasks by the folders that answered them
    for task in tasks if cell == OVERALL else [cell]:
        folders = (entry.folder(task, seed), other.folder(task, seed) if other else None)
        asked.setdefault(folders, []).append(task)
    runs = {folder: _read(folder) for folders in asked for folder in folders if folder}
    samples = _guarded(
        lambda: together(
            [
                find_samples(runs[one], answered, runs[beside] if beside else None)
                for (one, beside), answered in asked.items()
            ]
        )
    )
    matching = [sample for sample in samples.samples if sample.is_among(only)]
    leaf = _index(selection.leaf, -(-len(matching) // PAGE), last=True)
    page = tuple(matching[PAGE * leaf : PAGE * (leaf + 1)])
    against = other.name if other else ""
    selection = Selection(entry.name, cell, against, str(seed), only, str(leaf))
    first = PAGE * leaf + 1 if page else 0
    mine = tuple(runs[folder] for folder in dict.fromkeys(one for one, _ in asked))
    return DrillDown(selection, entry, other, mine, samples, page, first, len(matching))


def _find(board: Board, name: str) -> Entry | None:
    """An entry by name or method: names grow longer when a board gets further runs."""
    try:
        return find_entry(board, name)
    except UnknownEntryError:
        return None


def _index(digits: str, count: int, *, last: bool = False) -> int:
    """A number below a count; one that is too large becomes 0, or the last one."""
    index = int(digits) if digits.isdecimal() else 0
    if index < count:
        return index
    return max(0, count - 1) if last else 0


def _read(folder: str) -> Run:
    return _guarded(lambda: read_run(Path(folder)))


def _guarded(read: Callable[[], T]) -> T:
    """Read files that anybody may change at any time; every error becomes a RunError."""
    try:
        return read()
    except RunError:
        raise
    except UNREADABLE as error:
        raise RunError(f"the run is damaged: {error!r}.") from error


# Page ---------------------------------------------------------------------------------------


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
    """A page of samples; without the `metric` of a task, of several tasks."""
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


def _notes(cell: SampleSet, metric: str, language: Language) -> list[str]:
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
    cells += [_answer(sample.answer, language), _answer(sample.other, language)]
    labelled = zip(labels, cells, strict=False)  # there may be no other entry
    columns = (f'<td data-label="{escape(label)}">{cell}</td>' for label, cell in labelled)
    return f"<tr>{''.join(columns)}</tr>"


def _prompt(prompt: str) -> str:
    """The prompt, folded to its beginning if it is long."""
    if len(prompt) <= _FOLDED_LENGTH:
        return f'<div class="said">{escape(prompt)}</div>'
    start = escape(" ".join(prompt[:_FOLDED_LENGTH].split()))
    return (
        f'<details class="prompt"><summary>{start}…</summary>'
        f'<div class="said">{escape(prompt)}</div></details>'
    )


def _answer(answer: SampleAnswer | None, language: Language) -> str:
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


def provenance(runs: Mapping[str, Run], language: Language) -> str:
    """The facts that make runs reproducible, and their raw manifests; each run has its name."""
    parts = "".join(_provenance(run, name, language) for name, run in runs.items())
    words = text("board_provenance", language)
    return f'<section class="provenance"><h3>{words}</h3>{parts}</section>'


def _provenance(run: Run, name: str, language: Language) -> str:
    rows = [("board_run", f"<code>{escape(name)}</code>"), *_rows(run_facts(run), language)]
    facts = "".join(
        f"<div><dt>{text(key, language)}</dt><dd>{value}</dd></div>" for key, value in rows if value
    )
    raw = escape(json.dumps(run.manifest, ensure_ascii=False, indent=2))
    return (
        f'<dl>{facts}</dl><details class="folded"><summary>{text("board_manifest", language)}'
        f'</summary><pre tabindex="0">{raw}</pre></details>'
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
