"""The report on training data and the budget of a plan as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from evals.data.report import COUNTED, Finding, Lengths, Report, TaskReport
from evals.experiments.training_plan import Budget
from evals.figures.captions import title
from evals.figures.palette import colour
from evals.methods import description
from evals.tasks import Language
from ui.components import render
from ui.components.html import wide_table
from ui.components.texts import text
from ui.tabs.jobs.view import refused_lines, span

_NAMED = 4  # tasks that a finding names
_NOTES = ("split_off", "repeated")  # findings that are no warnings


def figures(pairs: Iterable[tuple[str, str]]) -> str:
    """Large numbers, each with what it counts."""
    items = "".join(
        f"<div><b>{escape(number)}</b><span>{escape(what)}</span></div>" for number, what in pairs
    )
    return f'<div class="train-figures">{items}</div>'


# Report -------------------------------------------------------------------------------------


def report(of: Report, language: Language) -> str:
    """What is in the data, and what to know before training."""
    numbers = [
        (f"{len(of.tasks)}", text("train_n_tasks", language)),
        (f"{sum(task.train for task in of.tasks):,}", text("train_n_train", language)),
        (f"{sum(task.dev for task in of.tasks):,}", text("train_n_dev", language)),
    ]
    if of.problems:
        numbers.append((f"{len(of.problems):,}", text("train_n_refused", language)))
    return (
        figures(numbers)
        + _findings(of.findings, len(of.tasks), language)
        + _report_table(of.tasks, language)
        + refused_lines(of.problems, language)
    )


def _findings(findings: Sequence[Finding], tasks: int, language: Language) -> str:
    items = "".join(
        f'<li class="{"note" if finding.kind in _NOTES else "warning"}">'
        f"{escape(_finding(finding, tasks, language))}</li>"
        for finding in findings
    )
    return f'<ul class="train-findings">{items}</ul>' if items else ""


def _finding(finding: Finding, tasks: int, language: Language) -> str:
    names = [title(task, language) for task in finding.tasks]
    more = " …" if len(names) > _NAMED else ""
    joint = "、" if language == "zh" else ", "
    named = joint.join(names[:_NAMED]) + more
    if len(names) == tasks > 1 and finding.kind != "unequal":
        named = text("train_find_all", language)
    return text(f"train_find_{finding.kind}", language, n=f"{finding.count:,}", tasks=named)


def _report_table(tasks: Sequence[TaskReport], language: Language) -> str:
    most = max(task.train for task in tasks)
    counted = any(task.too_long is not None for task in tasks)
    names = ("task", "records", "prompt", "target", "labels", *(("too_long",) if counted else ()))
    columns = [text(f"train_col_{name}", language) for name in names]
    rows = [
        (
            escape(title(task.name, language)),
            f'{task.train:,} <span class="quiet">/ {task.dev:,}</span>{_bar(task.train / most)}',
            _lengths(task.prompt),
            _lengths(task.target),
            _labels(task, language),
            *([f"{task.too_long:.0%}"] if task.too_long is not None else []),
        )
        for task in tasks
    ]
    lengths = text("train_lengths_note", language)
    tokens = text("train_tokens_note" if counted else "train_tokens_later", language, n=COUNTED)
    caption = text("train_report_table", language)
    return wide_table(caption, columns, rows) + f'<p class="quiet">{lengths}<br>{tokens}</p>'


def _bar(share: float) -> str:
    return f'<span class="train-bar" style="--share:{share:.3f}" aria-hidden="true"></span>'


def _lengths(of: Lengths) -> str:
    return f'{of.median:,} <span class="quiet">/ {of.high:,} / {of.longest:,}</span>'


def _labels(task: TaskReport, language: Language) -> str:
    if task.labels is None:
        return "–"
    commonest = task.labels.commonest
    short = commonest if len(commonest) <= 12 else f"{commonest[:11]}…"
    share = task.labels.share
    words = text(
        "train_labels", language, n=task.labels.count, commonest=short, share=f"{share:.0%}"
    )
    return escape(words) + _bar(share)


# Budget -------------------------------------------------------------------------------------


def budget(
    budgets: Sequence[Budget],
    chosen: str,
    backbone: int | None,
    steps: int,
    seconds: float | None,
    language: Language,
) -> str:
    """What a plan trains and how long that takes, and what other methods would.

    Args:
        budgets: Of all methods.
        chosen: The plan's method.
        backbone: Number of the backbone's parameters; None if unknown.
        steps: Of the run.
        seconds: It will take; None if unknown.
        language: Of the words.
    """
    own = next(one for one in budgets if one.method == chosen)
    later = text("train_after_loading", language)
    share = f"{own.parameters / backbone:.2%}" if own.parameters and backbone else later
    numbers = [
        (_millions(own.parameters, later), text("train_trained", language)),
        (share, text("train_share", language)),
        (_megabytes(own.file_bytes, later), text("train_file_size", language)),
        (f"{steps:,}", text("train_steps", language)),
        ("–", text("train_time_unknown", language))
        if seconds is None
        else (span(seconds, language), text("train_time", language)),
    ]
    names = ("method", "parameters", "file", "total", "active")
    columns = [text(f"train_col_{name}", language) for name in names]
    most = max((one.parameters or 0 for one in budgets), default=0) or 1
    rows = [_budget_row(one, one.method == chosen, most, later, language) for one in budgets]
    caption = text("train_budget_table", language)
    return (
        figures(numbers)
        + f'<h3 class="train-caption">{caption}</h3>'
        + wide_table(caption, columns, rows)
    )


def _budget_row(
    of: Budget, is_chosen: bool, most: int, later: str, language: Language
) -> tuple[str, ...]:
    name = (
        f'<span title="{escape(description(of.method, language))}"><span class="train-dot" '
        f'style="--colour:{colour(of.method)}"></span>{escape(of.method)}</span>'
    )
    if is_chosen:
        name = f"<strong>{name}</strong>"
    if of.problem:
        why = text("train_impossible", language)
        return name, f'<span class="quiet" title="{escape(of.problem)}">{why}</span>', "–", "–", "–"
    bar = _bar((of.parameters or 0) / most) if of.parameters else ""
    parameters, size = _millions(of.parameters, later) + bar, _megabytes(of.file_bytes, later)
    return name, parameters, size, f"{of.total_rank}", f"{of.active_rank}"


def _millions(count: int | None, unknown: str) -> str:
    return unknown if count is None else f"{count / 1e6:.2f} M"


def _megabytes(size: int | None, unknown: str) -> str:
    return unknown if size is None else f"{size / 1e6:.1f} MB"


def no_data(key: str, language: Language) -> str:
    """What stands in place of report or budget before there is data."""
    return f'<p class="train-empty">{text(key, language)}</p>'


def bad_settings(words: str, language: Language) -> str:
    """Why nothing can be trained with these settings."""
    advice = text("train_bad_settings_advice", language)
    return render.notice(text("train_bad_settings", language), advice, words)
