"""The data, the plan and the state of a comparison as HTML."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from html import escape

from evals.data.splits import Splits
from evals.experiments.own_data.comparison import Comparison
from evals.experiments.own_data.plan import ComparisonPlan
from evals.experiments.training_plan import Budget
from evals.figures.captions import points, title
from evals.jobs.queue import Job
from evals.leaderboard.board import Board, leaders
from evals.leaderboard.entries import Entry
from evals.leaderboard.verdict.dev_losses import dev_sentences, dev_verdict
from evals.leaderboard.verdict.findings import verdict
from evals.leaderboard.verdict.sentences import sentences
from evals.scoring.metrics import metric_title
from evals.tasks import Language, Task
from ui.components.forms import cluster_title
from ui.components.html import hidden_caption, table, wide_table
from ui.components.texts import text
from ui.tabs.compare.form import EXAMPLE
from ui.tabs.jobs.view import (
    advice,
    link,
    log_tail,
    refused_lines,
    section,
    span,
    state,
    task_title,
)
from ui.tabs.leaderboard.table import interval, marker, places, scale
from ui.tabs.train.view import figures

_FEW = 50  # test records of a task, below which intervals are wide
_STEPS = ("dev loss", "one seed", "all seeds")


# Data ---------------------------------------------------------------------------------------


def report(splits: Splits, tasks: Mapping[str, Task], language: Language) -> str:
    """Sizes, and what was made and left out; `tasks` are those that are not built in."""
    sizes = splits.sizes()
    numbers = [(f"{len(sizes)}", text("compare_n_tasks", language))]
    for split in ("train", "dev", "test"):
        count = sum(size[split] for size in sizes.values())
        numbers.append((f"{count:,}", text(f"compare_n_{split}", language)))
    return (
        figures(numbers)
        + _notes(splits, language)
        + _size_of_tasks(sizes, tasks, language)
        + refused_lines(splits.problems, language)
    )


def _notes(splits: Splits, language: Language) -> str:
    notes = []
    if splits.made:
        joint = "、" if language == "zh" else " and "
        names = joint.join(text(f"compare_n_{name}", language) for name in splits.made)
        notes.append(("note", text("compare_made", language, names=names)))
    for split, count in splits.leaked.items():
        name = text(f"compare_n_{split}", language)
        notes.append(("warning", text("compare_leaked", language, n=f"{count:,}", split=name)))
    if (fewest := min(size["test"] for size in splits.sizes().values())) < _FEW:
        notes.append(("warning", text("compare_few", language, n=fewest, few=_FEW)))
    items = "".join(f'<li class="{kind}">{escape(words)}</li>' for kind, words in notes)
    return f'<ul class="train-findings">{items}</ul>' if items else ""


def _size_of_tasks(
    sizes: Mapping[str, Mapping[str, int]], tasks: Mapping[str, Task], language: Language
) -> str:
    columns = [text(f"compare_col_{name}", language) for name in ("task", "records")]
    rows = [
        (
            escape(title(tasks.get(name, name), language)),
            " / ".join(f"{size[split]:,}" for split in ("train", "dev", "test")),
        )
        for name, size in sizes.items()
    ]
    return wide_table(text("compare_report_table", language), columns, rows)


# Plan ---------------------------------------------------------------------------------------


def estimate(
    plan: ComparisonPlan, budgets: Sequence[Budget], minutes: float, language: Language
) -> str:
    """What would be trained and answered, how long that takes, and the size of each method."""
    recipe = plan.recipe
    limits = recipe.records
    everything = text("compare_all", language)
    numbers = [
        (span(plan.seconds, language), text("compare_expected", language)),
        (f"{recipe.training.epochs:g}", text("compare_n_epochs", language)),
        (f"{limits.train or everything}", text("compare_n_train_each", language)),
        (f"{limits.test or everything}", text("compare_n_test_each", language)),
    ]
    notes = []
    if plan.seconds > 60 * minutes:
        notes.append(("warning", text("compare_too_long", language)))
    if not plan.is_measured:
        notes.append(("note", text("compare_rough", language)))
    items = "".join(f'<li class="{kind}">{escape(words)}</li>' for kind, words in notes)
    found = f'<ul class="train-findings">{items}</ul>' if items else ""
    return figures(numbers) + found + _size_table(budgets, language)


def _size_table(budgets: Sequence[Budget], language: Language) -> str:
    columns = [text(f"compare_col_{name}", language) for name in ("method", "parameters", "ranks")]
    rows = [
        (
            f"{marker(one.method)} {escape(one.method)}",
            "–" if one.parameters is None else f"{one.parameters / 1e6:.2f} M",
            f"{one.total_rank} / {one.active_rank}" if one.total_rank else "–",
        )
        for one in budgets
    ]
    return wide_table(text("compare_sizes_table", language), columns, rows, "compare-marks")


# State --------------------------------------------------------------------------------------


def shown(job: Job, comparison: Comparison | None, language: Language, link_language: str) -> str:
    """A comparison: how far it is, then what is known."""
    facts = [_source(job, language), _counted(job, language)]
    is_live = job.state == "running" and not job.stopping and comparison is not None
    if is_live and comparison is not None:
        now = f'<p class="job-now">{_now(comparison, language)}</p>'
    else:
        now = "" if job.state == "done" else advice(job, "compare", language)
    body = _certainty(comparison, language) + _progress(job, comparison, language) + now
    if comparison is not None:
        body += _verdict(comparison, language) + _dev_losses(comparison, language)
        if (board := comparison.board) is not None:
            words = text("compare_to_board", language)
            go = link("leaderboard", words, link_language, board=board.id)
            body += f"{board_table(board, job, language)}<p>{go}</p>"
    return section(job, job.title, facts, body + log_tail(job, language), language)


def _source(job: Job, language: Language) -> str:
    """The name of the data."""
    name = str(job.facts.get("data", ""))
    if name == EXAMPLE:
        return text("compare_source_example", language).partition("\n")[0]
    return cluster_title(name, language)


def _counted(job: Job, language: Language) -> str:
    return text(
        "compare_counted",
        language,
        tasks=len(job.facts.get("tasks", ())),
        methods=len(job.facts.get("methods", ())),
        seeds=job.facts.get("seeds", 1),
    )


def _certainty(comparison: Comparison | None, language: Language) -> str:
    """The three steps of certainty, those that are reached marked."""
    reached = -1
    if comparison is not None and comparison.certainty != "none":
        reached = _STEPS.index(comparison.certainty)
    seeds = len(comparison.plan.recipe.seeds) if comparison else 1
    steps = _STEPS if seeds > 1 else _STEPS[:2]
    if seeds == 1 and reached == 2:
        reached = 1
    items = "".join(
        f'<li class="{"reached" if place <= reached else ""}">'
        f"{text(f'compare_step_{name}', language)}</li>"
        for place, name in enumerate(steps)
    )
    return f'<ol class="compare-steps">{items}</ol>'


def _progress(job: Job, comparison: Comparison | None, language: Language) -> str:
    if job.state == "done":
        return ""
    value = 'max="1" value="0"'
    if comparison is not None:
        value = f'max="1" value="{comparison.share_done:.3f}"'
    elif job.state == "running":
        value = ""  # indeterminate
    return f'<progress {value} aria-label="{state(job, language)}"></progress>'


def _now(comparison: Comparison, language: Language) -> str:
    recipe = comparison.plan.recipe
    trained, _ = comparison.shares
    words = text(
        "compare_now",
        language,
        trained=f"{trained:.0%}",
        answered=len(comparison.answered),
        cells=len(recipe.cells()),
    )
    time = span(max(1.0, comparison.seconds_left), language)
    return f"{words} · {text('jobs_left', language, time=time)}"


def _dev_losses(comparison: Comparison, language: Language) -> str:
    """A table of dev losses by method and rate; the chosen rate of each method is bold."""
    losses = comparison.dev_losses
    if not losses:
        return ""
    rates = comparison.plan.recipe.learning_rates
    rows = []
    for method, of_rate in losses.items():
        best = min(of_rate.values())
        cells = [_loss(of_rate.get(rate), best) for rate in rates]
        rows.append((f"{marker(method)} {escape(method)}", *cells))
    heading = text("compare_dev_losses", language)
    columns = [text("compare_col_method", language), *(f"{rate:g}" for rate in rates)]
    note = f'<p class="quiet">{text("compare_dev_note", language)}</p>'
    is_open = "" if comparison.board else " open"
    inside = wide_table(heading, columns, rows, "compare-marks") + note
    return f"<details{is_open}><summary>{heading}</summary>{inside}</details>"


def _loss(value: float | None, best: float) -> str:
    if value is None:
        return "…"
    if math.isinf(value):
        return "∞"
    return f"<b>{value:.3f}</b>" if value == best else f"{value:.3f}"


def _verdict(comparison: Comparison, language: Language) -> str:
    """What is known so far, in sentences with their evidence; warnings last."""
    if comparison.board is not None:
        told = sentences(verdict(comparison.board), language)
    elif comparison.dev_losses:
        told = dev_sentences(dev_verdict(comparison.dev_losses), language)
    else:
        return ""
    items = "".join(f'<li class="{one.kind}">{escape(one.text)}</li>' for one in told)
    heading = text("compare_verdict", language)
    return f'<h4 class="compare-heading">{heading}</h4><ul class="compare-verdict">{items}</ul>'


def board_table(board: Board, job: Job, language: Language) -> str:
    """The ranking with intervals, and each task's scores; the best and those close to it marked."""
    close = leaders(board)
    ends = scale([entry.overall for entry in board.entries])
    words = [text(f"compare_col_{name}", language) for name in ("rank", "method", "mean")]
    tasks = [
        f"{escape(task_title(job, task.name, language))}"
        f"<small>{escape(metric_title(task.metric, language))}</small>"
        for task in board.tasks
    ]
    rows = "".join(_row(entry, board, close, ends) for entry in board.entries)
    caption = text("compare_board", language)
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{caption}">'
        + table([*words, *tasks], [rows], caption=hidden_caption(caption), kind="compare-board")
        + f'</div><p class="quiet">{text("compare_board_note", language)}</p>'
    )


def _row(
    entry: Entry,
    board: Board,
    close: Mapping[str, Collection[str]],
    ends: tuple[float, float],
) -> str:
    mean = entry.overall
    cells = [
        f"<td>{entry.rank}<small>{places(entry)}</small></td>",
        f'<th scope="row">{marker(entry.method)} {escape(entry.method)}</th>',
        f"<td><b>{points(mean.value)}</b>{interval(mean, entry.method, *ends)}"
        f"<small>{points(mean.low)}–{points(mean.high)}</small></td>",
    ]
    for task in board.tasks:
        value = entry.scores[task.name].estimate.value
        best = max(one.scores[task.name].estimate.value for one in board.entries)
        kind = "best" if value == best else "close" if entry.name in close[task.name] else "behind"
        cells.append(f'<td class="{kind}">{points(value)}</td>')
    return f"<tr>{''.join(cells)}</tr>"
