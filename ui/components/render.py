"""Pieces of the page as HTML. Whatever a visitor or a model wrote is escaped here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from evals.tasks import Language, Parsed, Task
from ui.components.answering_models import Speaker
from ui.components.differences import marked
from ui.components.figures import expert_names
from ui.components.forms import description, title
from ui.components.texts import STAGES, Word, text
from ui.engine.engine import Engine, Status
from ui.engine.task_gates import TaskGates

_TRAIN = "python -m cgclora train --data train.jsonl --dev dev.jsonl --run runs/mine"

State = Literal["empty", "live", "done"]


@dataclass(frozen=True)
class Reply:
    """One side's answer as far as it has come.

    Attributes:
        state: How far that is.
        text: What has been said.
        facts: About the answer, such as its speed.
        right: Whether it agrees with the reference; None where nobody can say.
        hint: Stands in for a text that is not there.
        against: Another answer; what that one does not say is marked.
    """

    state: State = "empty"
    text: str = ""
    facts: tuple[str, ...] = ()
    right: bool | None = None
    hint: str = ""
    against: str = ""


def header(word: Word) -> str:
    """The idea in one line, and what the three colours mean."""
    legend = "".join(
        f'<li class="{part}">{word(part)}</li>' for part in ("frozen", "common", "specific")
    )
    return (
        f'<header><p class="name">CGC-LoRA</p><h1>{word("tagline")}</h1>'
        f'<p class="idea">{word("idea")}</p><ul class="legend">{legend}</ul></header>'
    )


def heading(key: str) -> Callable[[Word], str]:
    """A section's heading, for any source of words."""
    return lambda word: f"<h2>{word(key)}</h2>"


def paragraph(key: str) -> Callable[[Word], str]:
    """A quiet line of explanation, for any source of words."""
    return lambda word: f'<p class="quiet">{word(key)}</p>'


def status(now: Status, language: Language) -> str:
    """How far loading has come, as one short line."""
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


def problems(engine: Engine, language: Language) -> str:
    """What is wrong with backbone or adapters, and what to do about it; empty if all is well."""
    notes = []
    if engine.status.problem:
        advice = text("load_failed_advice", language)
        notes.append(notice(text("load_failed", language), advice, engine.status.problem))
    others = text("others_work", language) if engine.clusters() else ""
    notes += [
        notice(text("adapter_failed", language, name=name), others, reason)
        for name, reason in engine.problems.items()
    ]
    if not engine.configs:
        words = text("no_adapters", language, folder=engine.folder)
        notes.append(notice(words, verbatim=_TRAIN))
    return "".join(notes)


def notice(what: str, advice: str = "", verbatim: str = "") -> str:
    """A problem, what to do about it, and a command or a library's own words."""
    more = f"<p>{escape(advice)}</p>" if advice else ""
    more += f'<pre lang="en">{escape(verbatim)}</pre>' if verbatim else ""
    return f'<div class="notice" role="alert"><p><strong>{escape(what)}</strong></p>{more}</div>'


def task_head(task: Task, language: Language) -> str:
    """Title, name and one-line explanation of a task."""
    kind = text(task.kind, language)
    return (
        f'<div class="task"><h2>{escape(title(task, language))}</h2>'
        f"<p>{escape(description(task, language))}</p>"
        f'<p class="quiet"><code>{escape(task.name)}</code> · {kind}</p></div>'
    )


def answer_card(speaker: Speaker, reply: Reply, language: Language) -> str:
    """One side's answer: who speaks, what was said, how fast, whether it is right."""
    said = (
        f'<div class="said">{marked(reply.text, reply.against)}</div>'
        if reply.text
        else f'<div class="said hint">{escape(reply.hint)}</div>'
    )
    facts = "".join(f"<span>{escape(fact)}</span>" for fact in reply.facts)
    mark = "" if reply.right is None else verdict(reply.right, language)
    note = f"<small>{escape(speaker.note)}</small>" if speaker.note else ""
    # What grows is read out once it is complete; the block around the card is the live region.
    busy = ' aria-busy="true"' if reply.state == "live" else ""
    return (
        f'<section class="card {speaker.side} {reply.state}" style="--colour:{speaker.colour}"'
        f"{busy}><h3>{escape(speaker.title)}{note}</h3>{said}"
        f'<footer>{mark}<span class="facts">{facts}</span></footer></section>'
    )


def verdict(right: bool, language: Language) -> str:
    """Right or wrong, as a sign and as words."""
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
    """What the answer says, beside what the reference says.

    Args:
        parsed: The answer, read; None where nothing was said, which nobody judges.
        language: Of the words around it.
        reference: The right answer, read.
        reference_text: The right answer as it was written.
        open_ended: Whether there is no one right answer.
    """
    parts = [_items(parsed, reference, language)]
    if parsed and parsed.unparsed:
        lines = "".join(f"<li>{escape(line)}</li>" for line in parsed.unparsed)
        parts.append(
            f'<div class="strays"><h4>{text("unparsed", language)}</h4><ul>{lines}</ul></div>'
        )
    if reference is None:
        parts.append(f'<p class="quiet">{text("no_reference", language)}</p>')
    else:
        parts.append(_comparison(parsed, reference, reference_text, open_ended, language))
    return f'<div class="parsed {parsed.kind if parsed else "silent"}">{"".join(parts)}</div>'


def _items(parsed: Parsed | None, reference: Parsed | None, language: Language) -> str:
    if not (parsed and parsed.items):
        return f'<p class="quiet">{text("nothing_found", language)}</p>'
    if parsed.kind == "label":
        return "".join(f'<p class="chip big">{escape(label)}</p>' for (label,) in parsed.items)
    if parsed.kind == "text":
        return ""  # the answer itself stands above already
    if parsed.kind == "terms":
        terms = "".join(f'<span class="chip">{escape(term)}</span>' for (term,) in parsed.items)
        return f'<p class="chips">{terms}</p>'
    return _table(parsed, reference, language)


def _table(parsed: Parsed, reference: Parsed | None, language: Language) -> str:
    columns, rows = parsed.table(language)
    known = None if reference is None or parsed.kind == "sections" else set(reference.items)
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        f"<tr{_row_class(row, known)}>"
        + "".join(f"<td>{escape(cell) or '–'}</td>" for cell in row)
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="table"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _row_class(row: Sequence[str], known: set[tuple[str, ...]] | None) -> str:
    if known is None:
        return ""
    return ' class="right"' if tuple(row) in known else ' class="wrong"'


def _comparison(
    parsed: Parsed | None, reference: Parsed, written: str, open_ended: bool, language: Language
) -> str:
    if open_ended:
        judgement = f'<p class="quiet">{text("open_ended", language)}</p>'
    elif parsed is None:
        judgement = ""
    else:
        expected, found = set(reference.items), set(parsed.items)
        judgement = verdict(expected == found, language)
        if parsed.kind != "label":
            counts = text(
                "hits",
                language,
                hits=len(expected & found),
                expected=len(expected),
                extra=len(found - expected),
            )
            judgement += f' <span class="quiet">{counts}</span>'
    return (
        f'<div class="reference"><h4>{text("reference", language)}</h4>'
        f"<blockquote>{escape(written)}</blockquote>{judgement}</div>"
    )


def gate_shares(gates: TaskGates, language: Language) -> str:
    """The two shares in large figures."""
    common = gates.common_share()
    even = 1 / gates.weights.shape[1]
    figures = "".join(
        f'<div class="{side}"><b>{share:.0%}</b>{text(f"share_{side}", language)}</div>'
        for side, share in (("common", common), ("specific", 1 - common))
    )
    return (
        f'<div class="shares">{figures}</div>'
        f'<p class="quiet">{text("even", language, share=f"{even:.0%}")}</p>'
    )


def gate_table(
    gates: TaskGates,
    module: str | None,
    language: Language,
    *,
    measure: Literal["weight", "effect"] = "weight",
) -> str:
    """The numbers of the heat map, for those who cannot see it; see `heat_map`."""
    depths, weights = gates.by_depth(module)
    digits = ".3f" if measure == "weight" else ".2%"
    head = "".join(f'<th scope="col">{name}</th>' for name in expert_names(gates, language))
    rows = "".join(
        f'<tr><th scope="row">{text("layer", language, n=depth)}</th>'
        + "".join(f"<td>{weight:{digits}}</td>" for weight in row)
        + "</tr>"
        for depth, row in zip(depths, weights, strict=True)
    )
    return (
        f'<table class="unseen"><caption>{text(f"{measure}_table", language)}</caption>'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )
