"""Parts of the tab as HTML. Text of visitors and models is escaped here."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgclora.analysis.gates import LEARNED, GatePath, gate_health
from evals.figures.captions import points
from evals.scoring.effect_sizes import SIGNIFICANCE
from evals.tasks import Language
from ui.components.answering_models import AnsweringModel
from ui.components.figures import expert_names, is_common
from ui.components.html import hidden_table, quiet, row, table, wide_table
from ui.components.render import bar_cell, gate_shares, label_bars, marked
from ui.components.texts import text
from ui.engine.gate_changes import Outcome, Side
from ui.engine.task_gates import AdapterGates, TaskGates

_COLOURS = {"original": "var(--neutral-400)", "changed": "var(--body-text-color)"}


def note(key: str, language: Language, **values: object) -> str:
    """A line of explanation."""
    return quiet(escape(text(key, language, **values)))


def pending(language: Language) -> str:
    """A line while a newer result is being computed."""
    return f'<p class="quiet live" role="status">{text("gates_waiting", language)}</p>'


# One task -------------------------------------------------------------------------------------


def shares(gates: AdapterGates, task: str, language: Language) -> str:
    """The shares of common and specific experts, and the kind of gate if it is unusual."""
    config = gates.config
    kind = ""
    if not config.learns_gate:
        kind = note(f"gates_unlearned {config.gate}", language)
    elif config.gate_scope == "model":
        kind = note("gates_one_scope", language)
    return gate_shares(gates.of(task), language) + kind


def ablation(report: Mapping[str, Any], task: str, language: Language) -> str:
    """The scores of a task, or of all (`OVERALL`), with other gates: a sentence and a table.

    Args:
        report: See `evals.runs.gate_ablation.ablate`; empty where nothing was measured.
        task: Name of the task, or `OVERALL`.
        language: Of the page.
    """
    of_task = {
        name: scores[task] for name, scores in report.get("variants", {}).items() if task in scores
    }
    if not of_task:
        return note("gates_unmeasured", language)
    rows, sure = [], []
    for name, score in of_task.items():
        change = ""
        if difference := score.get("difference"):
            low, high = (points(difference[end], signed=True) for end in ("low", "high"))
            change = f"{points(difference['value'], signed=True)} ({low} … {high})"
            if difference["adjusted"] < SIGNIFICANCE:
                sure.append((difference["value"], text(f"gates {name}", language), change))
        rows.append((text(f"gates {name}", language), points(score["value"]), change))
    words = text("gates_no_effect", language)
    if sure:
        _, name, change = min(sure)
        words = text("gates_effect", language, variant=name, change=change)
    count = of_task[LEARNED]["samples"]
    columns = [text(f"gates_{key}", language) for key in ("variant", "score", "change")]
    return (
        f'<p class="gates-effect">{escape(words)}</p>'
        + wide_table(text("gates_ablation", language), columns, rows)
        + note("gates_measured", language, n=f"{count:,}")
    )


def health(gates: AdapterGates, titles: Mapping[str, str], language: Language) -> str:
    """What looks wrong with the learned gates, and what to try; empty where nothing does."""
    if not gates.config.learns_gate:
        return ""
    found = gate_health(gates.weights, gates.config.access())
    names, tasks = expert_names(gates.of(gates.config.tasks[0]), language), gates.config.tasks
    lines = []
    if found.is_uniform:
        lines.append(note("gates_uniform", language))
    if unused := [str(number + 1) for number in found.unused]:
        lines.append(note("gates_unused", language, experts=", ".join(unused), n=len(names)))
    if found.collapsed:
        shown = ", ".join(titles[tasks[number]] for number in found.collapsed)
        lines.append(note("gates_collapsed", language, tasks=shown))
    return "".join(lines)


def entropy_table(gates: TaskGates, module: str | None, language: Language) -> str:
    """The numbers of the entropy line for screen readers."""
    rows = (
        (text("layer", language, n=depth), [f"{value:.2f}"])
        for depth, value in zip(*gates.entropy(module), strict=True)
    )
    columns = [text("gates_entropy_axis", language)]
    return hidden_table(text("gates_entropy", language), columns, rows)


def outcome(result: Outcome, gates: TaskGates, language: Language) -> str:
    """Both answers, whether they differ, and the label probabilities."""
    sides = {"original": result.original, "changed": result.changed}
    longest = max(sum(side.split) for side in sides.values() if side)
    cards = []
    for (name, side), other in zip(sides.items(), reversed(sides.values()), strict=True):
        body = (
            f'<p class="hint">{text("gates_unchanged", language)}</p>'
            if side is None
            else _split_bar(side, gates, longest, language)
            + _answer(side, other, result.limit, language)
        )
        title = text(f"gates_{name}", language)
        cards.append(f'<section class="card {name}"><h3>{title}</h3>{body}</section>')
    probabilities = {
        AnsweringModel(
            name, "rival", text(f"gates_{name}", language), "", _COLOURS[name]
        ): side.labels
        for name, side in sides.items()
        if side and side.labels
    }
    bars = label_bars(result.labels, probabilities, "", language)
    return f'<div class="sides">{"".join(cards)}</div>{_difference(result, language)}{bars}'


def _split_bar(side: Side, gates: TaskGates, longest: float, language: Language) -> str:
    """The weights as one bar, whose length is their sum."""
    names = expert_names(gates, language)
    parts = "".join(
        f'<i class="{"common" if common else "specific"}" style="width:{share / longest:.2%}" '
        f'title="{name}: {share:.1%}"></i>'
        for name, share, common in zip(names, side.split, is_common(gates), strict=True)
    )
    words = ", ".join(f"{name} {share:.0%}" for name, share in zip(names, side.split, strict=True))
    label = f"{text('gates_split_table', language)}: {words}"
    return f'<div class="split" role="img" aria-label="{label}">{parts}</div>'


def _answer(side: Side, other: Side | None, limit: int, language: Language) -> str:
    if not side.text:
        key = "empty_answer" if side.ended else "gates_waiting"
        return f'<div class="said hint">{text(key, language)}</div>'
    both_ended = other is not None and side.ended and other.ended
    words = marked(side.text, other.text) if other and both_ended else escape(side.text)
    cut = note("gates_cut", language, most=limit) if side.state == "cut" else ""
    return f'<div class="said">{words}</div>{cut}'


def _difference(result: Outcome, language: Language) -> str:
    """Whether the answers differ; the line is there from the start so that nothing moves."""
    words = ""
    if result.changed and result.changed.ended and result.original.ended:
        same = result.changed.text == result.original.text
        words = text("gates_same" if same else "gates_different", language)
    return f'<p class="change">{words}</p>'


def effects(gates: TaskGates, measured: TaskGates, language: Language) -> str:
    """Each expert's share of the weight beside its share of the effect."""
    if not measured.weights.sum():
        return note("gates_effects_nothing", language)
    weight, effect = gates.shares(), measured.shares()
    names = expert_names(gates, language)
    rows = []
    for place, common in enumerate(is_common(gates)):
        colour = f"var(--{'common' if common else 'specific'})"
        faint = f"color-mix(in srgb, {colour} 45%, transparent)"
        cells = bar_cell(weight[place], faint), bar_cell(effect[place], colour)
        rows.append(row(names[place], cells))
    columns = ["", *(text(key, language) for key in ("gates_gate_share", "gates_effect_share"))]
    strongest = int(np.argmax(effect / weight.clip(1e-9)))
    line = note(
        "gates_more_effect",
        language,
        name=names[strongest],
        gate=f"{weight[strongest]:.0%}",
        effect=f"{effect[strongest]:.0%}",
    )
    return f'<div class="label-bars table">{table(columns, rows)}</div>{line}'


# One cluster ----------------------------------------------------------------------------------


def matrix(gates: AdapterGates, names: Mapping[str, str], chosen: str, language: Language) -> str:
    """Shares of all tasks: tasks down by name and title, experts across; one row stands out."""
    values = gates.shares()
    experts = gates.of(gates.config.tasks[0])
    low, high = float(values.min()), float(values.max())

    def cell(share: float, common: bool) -> str:
        strength = 100 * (share - low) / (high - low) if high - low > 0.005 else 40
        kind = "common" if common else "specific"
        return f'<td class="{kind}" style="--strength:{6 + 0.6 * strength:.0f}%">{share:.0%}</td>'

    rows = (
        row(
            title,
            map(cell, values[gates.config.task_index(task)], is_common(experts)),
            "now" if task == chosen else "",
        )
        for task, title in names.items()
    )
    columns = [text("gates_tasks", language), *expert_names(experts, language)]
    return f'<div class="matrix table" tabindex="0">{table(columns, rows)}</div>'


def similarity_words(names: Sequence[str], cosines: NDArray[np.float64], language: Language) -> str:
    """The most similar pair in a line, and all numbers for screen readers."""
    apart = cosines - 3 * np.eye(len(names))
    one, other = divmod(int(apart.argmax()), len(names))
    value = f"{cosines[one, other]:.2f}"
    line = note("gates_similar", language, one=names[one], other=names[other], value=value)
    rows = (
        (name, (f"{value:.2f}" for value in values))
        for name, values in zip(names, cosines, strict=True)
    )
    return line + hidden_table(text("gates_similarity", language), names, rows)


def path_table(path: GatePath, gates: AdapterGates, task: str, language: Language) -> str:
    """The shares at the first, middle and last training step for screen readers."""
    index = gates.config.task_index(task)
    last = len(path.steps) - 1
    rows = (
        (
            text("gates_step", language, n=path.steps[place]),
            (f"{share:.1%}" for share in gates.shares(path.gates[place])[index]),
        )
        for place in sorted({0, (last + 1) // 2, last})
    )
    columns = expert_names(gates.of(task), language)
    return hidden_table(text("gates_path_table", language), columns, rows)
