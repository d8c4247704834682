"""Pieces of the tab as HTML. Whatever a visitor or a model wrote is escaped here."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from cgclora.analysis.gates import GatePath
from evals.tasks import Language
from ui.components.answering_models import Speaker
from ui.components.differences import marked
from ui.components.figures import expert_names, is_common
from ui.components.forms import task_named
from ui.components.label_bars import bar_cell, label_bars
from ui.components.render import gate_shares
from ui.components.texts import text
from ui.engine.task_gates import AdapterGates, TaskGates
from ui.tabs.gates.what_if import MAX_TOKENS, Outcome, Side

_INK = "var(--body-text-color)"
_QUIET = "var(--neutral-400)"


def note(key: str, language: Language, **values: object) -> str:
    """A quiet line."""
    return f'<p class="quiet">{escape(text(key, language, **values))}</p>'


def pending(language: Language) -> str:
    """Something newer is being computed."""
    return f'<p class="quiet live" role="status">{text("gates_waiting", language)}</p>'


# One task -------------------------------------------------------------------------------------


def shares(gates: AdapterGates, task: str, language: Language) -> str:
    """The two shares in large figures, and what the adapter's kind of gate is if not the usual."""
    config = gates.config
    parts = [gate_shares(gates.of(task), language)]
    if config.gate != "task":
        parts.append(note(f"gates_unlearned {config.gate}", language))
    elif config.gate_scope == "model":
        parts.append(note("gates_one_scope", language))
    return "".join(parts)


def entropy_table(gates: TaskGates, module: str | None, language: Language) -> str:
    """The numbers of the entropy's line, for those who cannot see it."""
    depths, values = gates.entropy(module)
    rows = [(text("layer", language, n=depth), [f"{value:.2f}"]) for depth, value in
            zip(depths, values, strict=True)]  # fmt: skip
    head = [text("gates_entropy_axis", language)]
    return _unseen(text("gates_entropy", language), head, rows)


def outcome(found: Outcome, gates: TaskGates, language: Language) -> str:
    """The two answers, whether they differ, and how likely each label is."""
    sides = {"original": found.original, "changed": found.changed}
    names = expert_names(gates, language)
    common = is_common(gates)
    most = min(task_named(gates.task).max_new_tokens, MAX_TOKENS)
    room = max(sum(side.split) for side in sides.values() if side)
    cards = []
    for place, (name, side) in enumerate(sides.items()):
        other = list(sides.values())[1 - place]
        body = (
            f'<p class="hint">{text("gates_unchanged", language)}</p>'
            if side is None
            else _split(side, names, common, room, language) + _said(side, other, most, language)
        )
        title = text(f"gates_{name}", language)
        cards.append(f'<section class="card {name}"><h3>{title}</h3>{body}</section>')
    bars = {
        _speaker(name, language): side.labels
        for name, side in sides.items()
        if side and side.labels
    }
    labels = label_bars(found.labels, bars, "", language) if bars else ""
    return f'<div class="sides">{"".join(cards)}</div>{_change(found, language)}{labels}'


def _speaker(name: str, language: Language) -> Speaker:
    colour = _QUIET if name == "original" else _INK
    return Speaker(name, "rival", text(f"gates_{name}", language), "", colour)


def _split(
    side: Side, names: Sequence[str], common: Sequence[bool], room: float, language: Language
) -> str:
    """The weights as one bar; its length is their sum."""
    parts = "".join(
        f'<i class="{"common" if own else "specific"}" style="width:{100 * share / room:.2f}%" '
        f'title="{name}: {share:.1%}"></i>'
        for name, share, own in zip(names, side.split, common, strict=True)
    )
    words = ", ".join(f"{name} {share:.0%}" for name, share in zip(names, side.split, strict=True))
    label = f"{text('gates_split_table', language)}: {words}"
    return f'<div class="split" role="img" aria-label="{label}">{parts}</div>'


def _said(side: Side, other: Side | None, most: int, language: Language) -> str:
    if not side.text:
        key = "empty_answer" if side.ended else "gates_waiting"
        return f'<div class="said hint">{text(key, language)}</div>'
    both = other is not None and side.ended and other.ended
    words = marked(side.text, other.text) if both and other else escape(side.text)
    cut = note("gates_cut", language, most=most) if side.state == "cut" else ""
    return f'<div class="said">{words}</div>{cut}'


def _change(found: Outcome, language: Language) -> str:
    """Whether the answer is another one; a line's room is kept for it."""
    words = ""
    if found.changed and found.changed.ended and found.original.ended:
        same = found.changed.text == found.original.text
        words = text("gates_same" if same else "gates_different", language)
    return f'<p class="change">{words}</p>'


def effects(gates: TaskGates, found: TaskGates, language: Language) -> str:
    """Each expert's part of the weight beside its part of the effect."""
    if not found.weights.sum():
        return note("gates_effects_nothing", language)
    of_gate, of_effect = gates.shares(), found.shares()
    names = expert_names(gates, language)
    rows = []
    for name, gate, effect, common in zip(names, of_gate, of_effect, is_common(gates), strict=True):
        colour = f"var(--{'common' if common else 'specific'})"
        faint = f"color-mix(in srgb, {colour} 45%, transparent)"
        rows.append(
            f'<tr><th scope="row">{name}</th>{bar_cell(gate, faint)}{bar_cell(effect, colour)}</tr>'
        )
    head = "".join(
        f'<th scope="col">{text(key, language)}</th>'
        for key in ("gates_gate_share", "gates_effect_share")
    )
    most = int(np.argmax(of_effect / of_gate.clip(1e-9)))
    line = note(
        "gates_more_effect",
        language,
        name=names[most],
        gate=f"{of_gate[most]:.0%}",
        effect=f"{of_effect[most]:.0%}",
    )
    return (
        f'<div class="label-bars table"><table><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{line}"
    )


# One cluster ----------------------------------------------------------------------------------


def matrix(gates: AdapterGates, names: Mapping[str, str], chosen: str, language: Language) -> str:
    """Tasks down, experts across: a table whose cells are tinted by the share.

    Args:
        gates: Of the adapter.
        names: A title for each task, in the order of the rows.
        chosen: The task whose row stands out.
        language: Of the words around it.
    """
    values = gates.shares()
    experts = gates.of(gates.config.tasks[0])
    common = is_common(experts)
    least, most = float(values.min()), float(values.max())
    head = "".join(f'<th scope="col">{name}</th>' for name in expert_names(experts, language))
    rows = []
    for task, title in names.items():
        row = values[gates.config.task_index(task)]
        cells = "".join(
            _cell(share, own, least, most) for share, own in zip(row, common, strict=True)
        )
        now = ' class="now"' if task == chosen else ""
        rows.append(f'<tr{now}><th scope="row">{escape(title)}</th>{cells}</tr>')
    return (
        f'<div class="matrix table" tabindex="0"><table><thead><tr><th scope="col">'
        f"{text('gates_tasks', language)}</th>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(share: float, common: bool, least: float, most: float) -> str:
    strength = 100 * (share - least) / (most - least) if most - least > 0.005 else 40
    kind = "common" if common else "specific"
    return f'<td class="{kind}" style="--strength:{6 + 0.6 * strength:.0f}%">{share:.0%}</td>'


def similarity_words(names: Sequence[str], cosines: NDArray[np.float64], language: Language) -> str:
    """The most alike pair in a line, and all numbers for those who cannot see the figure."""
    apart = cosines - 3 * np.eye(len(names))
    one, other = divmod(int(apart.argmax()), len(names))
    line = note(
        "gates_similar",
        language,
        one=names[one],
        other=names[other],
        value=f"{cosines[one, other]:.2f}",
    )
    rows = [
        (name, [f"{value:.2f}" for value in row]) for name, row in zip(names, cosines, strict=True)
    ]
    return line + _unseen(text("gates_similarity", language), names, rows)


def path_table(path: GatePath, gates: AdapterGates, task: str, language: Language) -> str:
    """The lines' first, middle and last numbers, for those who cannot see them."""
    index = gates.config.task_index(task)
    places = sorted({0, len(path.steps) // 2, len(path.steps) - 1})
    rows = [
        (
            text("gates_step", language, n=path.steps[place]),
            [f"{share:.1%}" for share in gates.shares(path.gates[place])[index]],
        )
        for place in places
    ]
    return _unseen(text("gates_path_table", language), expert_names(gates.of(task), language), rows)


def _unseen(caption: str, head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{value}</td>" for value in values)
        + "</tr>"
        for name, values in rows
    )
    return (
        f'<table class="unseen"><caption>{escape(caption)}</caption><thead><tr><td></td>{columns}'
        f"</tr></thead><tbody>{body}</tbody></table>"
    )
