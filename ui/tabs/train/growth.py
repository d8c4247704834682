"""Tasks for an adapter that has others: which one can take them, the cost, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from cgclora.config import ConfigError
from cgclora.storage.atomic_io import read_sealed, short_path
from cgclora.training.task_list import check_takes_tasks
from evals.experiments.training_plan import Addition, Plan
from evals.figures import captions, parts
from evals.figures.captions import title
from evals.figures.palette import faded
from evals.methods import method_of
from evals.scoring.effect_sizes import Gain
from evals.scoring.metrics import metric_title
from evals.scoring.statistics import LEVEL
from evals.tasks import Language
from evals.tasks.recognition import described
from ui.components import forms
from ui.components.html import wide_table
from ui.components.texts import text
from ui.engine.engine import AppEngine
from ui.server.files import public_path
from ui.tabs.train import view

Facts = Mapping[str, Any]
Titles = Mapping[str, str]

# Before the training ------------------------------------------------------------------------


def choices(engine: AppEngine, language: Language) -> list[tuple[str, str]]:
    """What a run may start from: nothing, or an adapter that can take a task; titles and names."""
    added = [
        (
            text(
                "train_base_add",
                language,
                base=forms.cluster_title(name, language),
                n=len(engine.configs[name].tasks),
            ),
            name,
        )
        for name in _bases(engine)
    ]
    return [(text("train_base_new", language), ""), *added]


def known_tasks(engine: AppEngine, base: str | None) -> tuple[str, ...]:
    """The tasks of the adapter that a run starts from."""
    return engine.configs[base].tasks if base in _bases(engine) else ()


def addition(engine: AppEngine, base: str, tasks: tuple[str, ...], language: Language) -> Addition:
    """Tasks to add to an adapter.

    Raises:
        ConfigError: It cannot take a task; in the visitor's language.
    """
    if base not in _bases(engine):
        name = forms.cluster_title(base, language)
        raise ConfigError(text("train_base_gone", language, base=name))
    folder = short_path(engine.path(base), Path.cwd())
    return Addition(Path(folder), engine.configs[base], tasks)


def without_folder(plan: Plan | Addition) -> Plan | Addition:
    """The same plan with no more of the base's path than visitors of a server may see."""
    if isinstance(plan, Plan):
        return plan
    return replace(plan, base=Path(public_path(plan.base.absolute())))


def origin(engine: AppEngine, plan: Plan | Addition, base: str) -> dict[str, Any]:
    """What a job says of its method, and of the adapter to which it adds tasks."""
    if isinstance(plan, Plan):
        return {"method": plan.method}
    method = method_of(plan.before, engine.manifests[base])
    return {"method": method, "base": base, "base_tasks": [*plan.before.tasks]}


def base_titles(engine: AppEngine, base: str) -> dict[str, list[str]]:
    """Titles of an adapter's tasks that are not built in, Chinese and English."""
    tasks = described(engine.manifests[base]) if base else {}
    return {name: [task.title_zh, task.title_en] for name, task in tasks.items()}


def _bases(engine: AppEngine) -> list[str]:
    names = []
    for name in engine.clusters():
        with suppress(ConfigError):
            check_takes_tasks(engine.configs[name])
            names.append(name)
    return names


def budget(
    plan: Addition,
    base: str,
    backbone: int | None,
    steps: int,
    seconds: float | None,
    language: Language,
) -> str:
    """What is added to the adapter `base`, beside what it has; the rest is as for `view.budget`."""
    title_of_base = forms.cluster_title(base, language)
    try:
        budgets = plan.budgets()
    except ValueError:  # a damaged folder, which nobody has loaded yet
        return view.bad_settings(text("train_base_gone", language, base=title_of_base), language)
    added = budgets[1]
    named = view.joined([title(task, language) for task in plan.tasks], language)
    titles = (escape(title_of_base), f"<strong>+ {escape(named)}</strong>")
    rows = [
        (
            name,
            view.millions(one.parameters, ""),
            view.megabytes(one.file_bytes, ""),
            f"{one.total_rank}",
            f"{one.active_rank}" if one is not added else "–",
        )
        for name, one in zip((*titles, text("train_together", language)), budgets, strict=True)
    ]
    columns = ("adapter", "parameters", "file", "total", "active")
    caption = text("train_growth_table", language)
    return (
        view.cost_figures(
            added.parameters, added.file_bytes, backbone, steps, seconds, language, sign="+"
        )
        + f'<h3 class="train-caption">{caption}</h3>'
        + wide_table(caption, [text(f"train_col_{name}", language) for name in columns], rows)
        + f'<p class="quiet">{text("train_growth_note", language)}</p>'
    )


# After the training -------------------------------------------------------------------------


def read_report(folder: Path) -> Facts | None:
    """What adding tasks changed, from an adapter's folder; None before it is measured."""
    with suppress(OSError, ValueError):
        report = read_sealed(folder / "manifest.json").get("added")
        return report if isinstance(report, Mapping) else None
    return None


def outcome(report: Facts, titles: Titles, language: Language) -> str:
    """The new tasks before and after, and the proof that no other task changed."""
    numbers = []
    for task, facts in report["tasks"].items():
        gain = _gain(facts)
        scores = (captions.points(facts[side]["value"]) for side in ("before", "after"))
        words = {"task": titles[task], "metric": metric_title(facts["metric"], language)}
        numbers += [
            (" → ".join(scores), text("train_before_after", language, **words)),
            (captions.points(gain.value, signed=True), _interval(gain, language)),
        ]
    others = report["unchanged"]
    same = sum(bool(facts["identical"]) for facts in others.values())
    numbers.append((f"{same} / {len(others)}", text("train_others_identical", language)))
    records = sum(facts["records"] for facts in report["tasks"].values())
    note = text("train_added_note", language, n=f"{records:,}")
    return (
        f'<h4 class="train-caption">{text("train_added", language)}</h4>'
        + view.figures(numbers)
        + ("" if same == len(others) else _warning(language))
        + f'<p class="quiet">{note}</p>'
        + _proof(others, titles, language)
    )


def _warning(language: Language) -> str:
    words = escape(text("train_others_changed", language))
    return f'<ul class="train-findings"><li class="warning">{words}</li></ul>'


def _proof(others: Mapping[str, Facts], titles: Titles, language: Language) -> str:
    """The comparison of each other task, folded away."""
    names = ("task", "weights", "changed", "logits")
    rows = [
        (
            escape(titles[task]),
            f"{facts['weights']:,}",
            _changed(facts["changed"]),
            f"{facts['difference']:.3g} "
            f'<span class="quiet">{text("train_compared", language, **_counts(facts))}</span>',
        )
        for task, facts in others.items()
    ]
    caption = text("train_proof", language)
    columns = [text(f"train_col_{name}", language) for name in names]
    return (
        f'<details class="train-proof"><summary>{caption}</summary>'
        f'<p class="quiet">{text("train_proof_note", language)}</p>'
        f"{wide_table(caption, columns, rows)}</details>"
    )


def _counts(facts: Facts) -> dict[str, str]:
    return {name: f"{facts[name]:,}" for name in ("prompts", "tokens")}


def _changed(tensors: Sequence[str]) -> str:
    shown = escape(f"{tensors[0]} …" if len(tensors) > 1 else "".join(tensors))
    return f"{len(tensors)} <code>{shown}</code>" if tensors else "0"


def seesaw(report: Facts, colour: str, titles: Titles, language: Language) -> go.Figure:
    """The gain of the new tasks over the backbone alone, and a zero for every other task."""
    new = {task: _gain(facts) for task, facts in report["tasks"].items()}
    others = report["unchanged"]
    rows = [*new, *others]
    figure = go.Figure()
    figure.add_bar(
        x=[100 * gain.value for gain in new.values()],
        y=[*new],
        orientation="h",
        width=0.5,
        marker={"color": faded(colour, 0.35), "line": {"color": colour, "width": 1.5}},
        error_x=parts.error_bar([*new.values()], colour),
        hovertext=[_gain_hover(titles[task], report["tasks"][task], language) for task in new],
        hovertemplate="%{hovertext}<extra></extra>",
    )
    figure.add_scatter(
        x=[0] * len(others),
        y=[*others],
        mode="markers",
        marker={"color": parts.INK, "size": parts.MARK, "symbol": "diamond"},
        hovertext=[_other_hover(titles[task], facts, language) for task, facts in others.items()],
        hovertemplate="%{hovertext}<extra></extra>",
    )
    for task in rows:
        _annotate(figure, task, new.get(task), others.get(task), language)
    ends = [0.0, *(100 * end for gain in new.values() for end in (gain.low, gain.high, gain.value))]
    room = max(0.12 * (max(ends) - min(ends)), 4)
    axis = text("train_gain_axis", language, level=f"{LEVEL:.0%}")
    figure.update_layout(
        parts.layout(parts.ROW * len(rows) + 60, margin={"l": 4, "r": 60, "t": 8, "b": 8}),
        xaxis=parts.value_axis(
            axis,
            range=[min(ends) - room, max(ends) + room],
            zeroline=True,
            zerolinecolor=parts.INK,
            zerolinewidth=2,
        ),
        yaxis=parts.name_axis(
            rows, lambda task: captions.wrapped(escape(titles[task]), 20), down=True
        ),
        shapes=parts.bands(len(rows)),
    )
    return figure


def _annotate(
    figure: go.Figure, task: str, gain: Gain | None, other: Facts | None, language: Language
) -> None:
    """Write a new task's gain at the right edge, and beside another task's zero what it means."""
    if gain is not None:
        words = f"<b>{captions.points(gain.value, signed=True)}</b>"
        where: dict[str, Any] = {"xref": "paper", "x": 1, "xshift": 8}
    else:
        identical = other is not None and other["identical"]
        words = text("train_identical" if identical else "train_differs", language)
        where = {"x": 0, "xshift": 10, "font": {"size": 11}}
    figure.add_annotation(text=words, y=task, xanchor="left", showarrow=False, **where)


def _gain(facts: Facts) -> Gain:
    return Gain(**facts["gain"])


def _interval(gain: Gain, language: Language) -> str:
    low, high = (captions.points(end, signed=True) for end in (gain.low, gain.high))
    return captions.text("interval", language, low=low, high=high)


def _gain_hover(name: str, facts: Facts, language: Language) -> str:
    scores = " → ".join(captions.points(facts[side]["value"]) for side in ("before", "after"))
    metric = metric_title(facts["metric"], language)
    head = f"<b>{escape(name)}</b> · {metric} {scores}"
    lines = captions.gain_lines(_gain(facts), text("train_before", language), language)
    return "<br>".join([head, *lines])


def _other_hover(name: str, facts: Facts, language: Language) -> str:
    words = {"weights": f"{facts['weights']:,}", "difference": f"{facts['difference']:.3g}"}
    key = "train_identical_hover" if facts["identical"] else "train_differs_hover"
    line = text(key, language, **words, **_counts(facts))
    return f"<b>{escape(name)}</b><br>{line}"
