"""Parts of the page as HTML. Text of visitors and models is escaped here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from html import escape
from typing import Literal

from evals.figures.captions import title
from evals.tasks import Language, Parsed, Task
from ui.components.answering_models import AnsweringModel
from ui.components.figures import expert_names
from ui.components.forms import description
from ui.components.html import hidden_table, quiet, row, table
from ui.components.texts import STAGES, Word, text
from ui.engine.engine import AppEngine, Status
from ui.engine.task_gates import TaskGates

_TRAIN = "python -m cgclora train --data train.jsonl --dev dev.jsonl --run runs/mine"

_ALIKE = 0.25  # texts with a lower similarity are not marked: all of one would be
_LONG = 40_000  # product of lengths above which a comparison would take seconds
_TOP_LABELS = 6  # those with the highest probability of any model

State = Literal["empty", "live", "done"]


@dataclass(frozen=True)
class Reply:
    """The answer of one model so far."""

    state: State = "empty"
    text: str = ""
    facts: tuple[str, ...] = ()  # notes on it, such as its speed
    right: bool | None = None  # whether it agrees with the reference; None if that cannot be judged
    hint: str = ""  # shown in place of an empty text
    against: str = ""  # another answer; what differs from it is marked


def header(word: Word) -> str:
    """The idea in one line, and the legend of the three colours."""
    legend = "".join(
        f'<li class="{part}">{word(part)}</li>' for part in ("frozen", "common", "specific")
    )
    return (
        f'<header><p class="name">CGC-LoRA</p><h1>{word("tagline")}</h1>'
        f'<p class="idea">{word("idea")}</p><ul class="legend">{legend}</ul></header>'
    )


def status(now: Status, language: Language) -> str:
    """The progress of loading in one line."""
    if now.problem:
        return ""
    if now.ready:
        return f'<p class="status ready">{text("ready", language)}</p>'
    return (
        f'<p class="status" title="{escape(_stage(now, language))}">{text("loading", language)} '
        f'{now.fraction:.0%}<progress max="1" value="{now.fraction:.2f}"></progress></p>'
    )


def _stage(now: Status, language: Language) -> str:
    if language == "en":
        return now.stage
    return next((words for start, words in STAGES.items() if now.stage.startswith(start)), "")


def problems(engine: AppEngine, language: Language) -> str:
    """Notices about the backbone and adapters that failed to load; empty if none did."""
    notices = []
    if engine.status.problem:
        advice = text("load_failed_advice", language)
        notices.append(notice(text("load_failed", language), advice, engine.status.problem))
    others = text("others_work", language) if engine.clusters() else ""
    notices += [
        notice(text("adapter_failed", language, name=name), others, reason)
        for name, reason in engine.problems.items()
    ]
    if not engine.configs:
        words = text("no_adapters", language, folder=engine.folder)
        notices.append(notice(words, verbatim=_TRAIN))
    return "".join(notices)


def notice(what: str, advice: str = "", verbatim: str = "") -> str:
    """A problem, advice, and a command or a library's own message."""
    more = f"<p>{escape(advice)}</p>" if advice else ""
    more += f'<pre lang="en">{escape(verbatim)}</pre>' if verbatim else ""
    return f'<div class="notice" role="alert"><p><strong>{escape(what)}</strong></p>{more}</div>'


def snippet(code: str, language: Language) -> str:
    """Text with a button that copies it, by the script `copy` of the surrounding `gr.HTML`."""
    copy, copied, selected = (text(key, language) for key in ("copy", "copied", "copy_selected"))
    return (
        f'<div class="snippet"><button type="button" data-copies="{copy}" data-copied="{copied}" '
        f'data-selected="{selected}">{copy}</button>'
        f'<pre lang="en" tabindex="0">{escape(code)}</pre></div>'
    )


def task_head(task: Task, language: Language) -> str:
    """Title, name and one-line explanation of a task."""
    kind, words = text(task.kind, language), description(task, language)
    return (
        f'<div class="task"><h2>{escape(title(task, language))}</h2>'
        f"{f'<p>{escape(words)}</p>' if words else ''}"
        f'<p class="quiet"><code>{escape(task.name)}</code> · {kind}</p></div>'
    )


def answer_card(model: AnsweringModel, reply: Reply, language: Language) -> str:
    """The card of one model: its title, answer, facts and verdict."""
    answer = (
        f'<div class="said">{marked(reply.text, reply.against)}</div>'
        if reply.text
        else f'<div class="said hint">{escape(reply.hint)}</div>'
    )
    facts = "".join(f"<span>{escape(fact)}</span>" for fact in reply.facts)
    judgement = "" if reply.right is None else verdict(reply.right, language)
    note = f"<small>{escape(model.note)}</small>" if model.note else ""
    # Screen readers read a finished answer; the block around the card is the live region.
    busy = ' aria-busy="true"' if reply.state == "live" else ""
    return (
        f'<section class="card {model.role} {reply.state}" style="--colour:{model.colour}"'
        f"{busy}><h3>{escape(model.title)}{note}</h3>{answer}"
        f'<footer>{judgement}<span class="facts">{facts}</span></footer></section>'
    )


@lru_cache(maxsize=256)
def marked(text: str, other: str) -> str:
    """A text as HTML, with `<mark>` around what the other one lacks."""
    if not other:
        return escape(text)
    # Beyond the limit frequent characters are skipped.
    matcher = SequenceMatcher(None, other, text, autojunk=len(text) * len(other) > _LONG)
    if text != other and matcher.ratio() < _ALIKE:
        return escape(text)
    return "".join(
        escape(text[start:end]) if same == "equal" else f"<mark>{escape(text[start:end])}</mark>"
        for same, _, _, start, end in matcher.get_opcodes()
        if end > start
    )


def verdict(right: bool, language: Language) -> str:
    """Right or wrong, as a sign and in words."""
    key = "right" if right else "wrong"
    return f'<span class="verdict {key}">{text(key, language)}</span>'


def parsed_answer(
    parsed: Parsed | None,
    language: Language,
    *,
    reference: Parsed | None = None,
    reference_text: str = "",
    open_ended: bool = False,
) -> str:
    """The parsed answer beside the reference.

    An empty answer is None and is not judged. `reference_text` is the reference as it was written;
    `open_ended` tells that many answers are right.
    """
    parts = [_items(parsed, reference, language)]
    if parsed and parsed.unparsed:
        lines = "".join(f"<li>{escape(line)}</li>" for line in parsed.unparsed)
        parts.append(
            f'<div class="strays"><h4>{text("unparsed", language)}</h4><ul>{lines}</ul></div>'
        )
    if reference is None:
        parts.append(quiet(text("no_reference", language)))
    else:
        parts.append(_comparison(parsed, reference, reference_text, open_ended, language))
    return f'<div class="parsed {parsed.kind if parsed else "silent"}">{"".join(parts)}</div>'


def _items(parsed: Parsed | None, reference: Parsed | None, language: Language) -> str:
    if not (parsed and parsed.items):
        return quiet(text("nothing_found", language))
    if parsed.kind == "label":
        return "".join(f'<p class="chip big">{escape(label)}</p>' for (label,) in parsed.items)
    if parsed.kind == "text":
        return ""  # the answer card shows it
    if parsed.kind == "terms":
        terms = "".join(f'<span class="chip">{escape(term)}</span>' for (term,) in parsed.items)
        return f'<p class="chips">{terms}</p>'
    columns, rows = parsed.table(language)
    right = None if reference is None or parsed.kind == "sections" else set(reference.items)
    lines = []
    for item in rows:
        kind = "" if right is None else f' class="{"right" if tuple(item) in right else "wrong"}"'
        cells = "".join(f"<td>{escape(cell) or '–'}</td>" for cell in item)
        lines.append(f"<tr{kind}>{cells}</tr>")
    return f'<div class="table">{table(map(escape, columns), lines)}</div>'


def _comparison(
    parsed: Parsed | None, reference: Parsed, written: str, open_ended: bool, language: Language
) -> str:
    judgement = ""
    if open_ended:
        judgement = quiet(text("open_ended", language))
    elif parsed is not None:
        expected, predicted = set(reference.items), set(parsed.items)
        judgement = verdict(expected == predicted, language)
        if parsed.kind != "label":
            counts = {"hits": len(expected & predicted), "extra": len(predicted - expected)}
            hits = text("hits", language, expected=len(expected), **counts)
            judgement += f' <span class="quiet">{hits}</span>'
    return (
        f'<div class="reference"><h4>{text("reference", language)}</h4>'
        f"<blockquote>{escape(written)}</blockquote>{judgement}</div>"
    )


def gate_shares(gates: TaskGates, language: Language) -> str:
    """The shares of common and specific experts in large digits."""
    common = gates.common_share()
    even = 1 / gates.weights.shape[1]
    figures = "".join(
        f'<div class="{side}"><b>{share:.0%}</b>{text(f"share_{side}", language)}</div>'
        for side, share in (("common", common), ("specific", 1 - common))
    )
    return (
        f'<div class="shares">{figures}</div>{quiet(text("even", language, share=f"{even:.0%}"))}'
    )


def gate_table(
    gates: TaskGates,
    module: str | None,
    language: Language,
    *,
    measure: Literal["weight", "effect"] = "weight",
) -> str:
    """The numbers of a gate heat map for screen readers; see `gate_heat_map`."""
    depths, weights = gates.by_depth(module)
    digits = ".3f" if measure == "weight" else ".2%"
    rows = (
        (text("layer", language, n=depth), (f"{weight:{digits}}" for weight in row))
        for depth, row in zip(depths, weights, strict=True)
    )
    return hidden_table(text(f"{measure}_table", language), expert_names(gates, language), rows)


def label_bars(
    labels: Sequence[str],
    shares: Mapping[AnsweringModel, Sequence[float]],
    right: str,
    language: Language,
) -> str:
    """A table with a row for each of the most probable labels and a bar for each model.

    Args:
        labels: All L labels of the task.
        shares: The L probabilities of each model.
        right: The reference label, which is marked; empty if there is none.
        language: Of the words around it.
    """
    if not shares:
        return ""
    peak = [max(values) for values in zip(*shares.values(), strict=True)]
    top = sorted(range(len(labels)), key=lambda place: -peak[place])[:_TOP_LABELS]
    rows = (
        row(
            labels[place],
            (bar_cell(values[place], model.colour) for model, values in shares.items()),
            "right" if labels[place] == right else "",
        )
        for place in top
    )
    rest = len(labels) - len(top)
    columns = ["", *(escape(model.title) for model in shares)]
    caption = f"<caption>{text('label_shares', language)}</caption>"
    return (
        f'<div class="label-bars table">{table(columns, rows, caption=caption)}'
        f"{quiet(text('more_labels', language, count=rest)) if rest else ''}</div>"
    )


def bar_cell(share: float, colour: str) -> str:
    """A table cell with a share in [0, 1] as a bar and as a percentage."""
    width = f"width:{share:.1%};background:{colour}"
    return f'<td><span class="bar"><i style="{width}"></i></span><b>{share:.0%}</b></td>'
