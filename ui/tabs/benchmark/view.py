"""The data and the jobs of the benchmark tab as HTML."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from html import escape
from typing import Any

from evals.experiments.evaluation_plan import DataFacts
from evals.figures.captions import title as task_title
from evals.figures.palette import colour
from evals.jobs.queue import Job
from evals.runs.progress import Progress
from evals.runs.run_dir import Run
from evals.tasks import Language
from ui.components import render
from ui.components.html import wide_table
from ui.components.texts import text
from ui.tabs.benchmark.form import OFFICIAL, OWN
from ui.tabs.jobs.view import advice, link, log_tail, refused_lines, section, span

_FEW = 30  # records of a task, below which an interval says little


# Data -------------------------------------------------------------------------------------


def data_report(facts: DataFacts, language: Language) -> str:
    """What an uploaded file holds."""
    records = sum(size.records for size in facts.tasks.values())
    found = text("bench_found", language, records=f"{records:,}", tasks=len(facts.tasks))
    parts = [f'<p class="bench-found">{escape(facts.name)} · {found}</p>']
    if facts.tasks:
        columns = [text("bench_tasks", language), text("bench_records", language)]
        rows = [
            (escape(task_title(name, language)), f"{size.records:,}")
            for name, size in facts.tasks.items()
        ]
        parts.append(wide_table(text("bench_report_table", language), columns, rows))
    if facts.unknown:
        names = ", ".join(f"{name} ({count:,})" for name, count in facts.unknown.items())
        parts.append(f"<p>{escape(text('bench_left_out', language, tasks=names))}</p>")
    refused = refused_lines(facts.problems, language)
    return f'<div class="bench-report">{"".join(parts)}{refused}</div>'


def extent(records: int, how_long: str, language: Language) -> str:
    """How much is to be answered, and how long that takes if it is known."""
    total = text("bench_total", language, records=f"{records:,}")
    return f'<p class="bench-extent"><b>{total}</b> <span class="quiet">{how_long}</span></p>'


def time_needed(seconds: float | None, language: Language) -> str:
    """An estimate in words."""
    if seconds is None:
        return text("bench_no_time", language)
    return text("bench_time", language, time=span(seconds, language))


# Jobs -------------------------------------------------------------------------------------


def unscored(
    job: Job, title: str, progress: Progress | None, language: Language, *, is_answered: bool
) -> str:
    """A job that waits, runs, was stopped or failed.

    Args:
        job: Which.
        title: Who answers.
        progress: Of answering; None before it began and after it ended.
        language: Of the words.
        is_answered: Whether all answers are there, and the scores are not.
    """
    if job.state == "running" and not job.stopping and (progress or is_answered):
        now = f'<p class="job-now">{_progress(progress, language)}</p>'
    else:
        now = advice(job, "bench", language)
    bars = _bars(job, progress, is_answered, language)
    return section(
        job, title, _facts(job, language), now + bars + log_tail(job, language), language
    )


def scored(job: Job, title: str, run: Run | None, language: Language, language_asked: str) -> str:
    """A job that is done, with its scores; without a run if its folder is gone."""
    facts = _facts(job, language)
    if run is None or run.metrics is None:
        notice = render.notice(text("bench_no_run", language))
        return section(job, title, facts, notice, language)
    if (seconds := run.manifest.get("seconds")) is not None:
        facts.append(text("bench_took", language, time=span(seconds, language)))
    hue = colour(str(job.facts.get("method", "")))
    go = link("leaderboard", text("bench_to_board", language), language_asked)
    body = f"{_scores(run.metrics, hue, language)}<p>{go}</p>"
    return section(job, title, facts, body, language)


def _facts(job: Job, language: Language) -> list[str]:
    """The data and the number of records."""
    source, name = (str(job.facts.get(key, "")) for key in ("source", "data"))
    data = text(f"bench_{source}", language) if source in {OFFICIAL, OWN} else name
    records = text("bench_total", language, records=f"{job.facts.get('records', 0):,}")
    per_task = job.facts.get("per_task")
    most = text("bench_of_task", language, count=per_task) if per_task else ""
    return [data, records, most]


def _progress(progress: Progress | None, language: Language) -> str:
    if progress is None:
        return text("bench_scoring", language)
    words = text("bench_progress", language, done=progress.done, total=progress.total)
    if progress.seconds_left is None or progress.done == progress.total:
        return words
    left = span(max(1, progress.seconds_left), language)
    return f"{words} · {text('jobs_left', language, time=left)}"


def _bars(job: Job, progress: Progress | None, is_answered: bool, language: Language) -> str:
    """A progress bar for each task."""
    if job.state in {"queued", "failed"} and progress is None:
        return ""
    tasks = progress.tasks if progress else dict.fromkeys(map(str, job.facts["tasks"]), (0, 0))
    items = "".join(
        f'<li><span class="name">{escape(task_title(name, language))}</span>'
        f'<progress max="{total or 1}" value="{1 if is_answered else done}" '
        f'aria-label="{escape(task_title(name, language))}"></progress>'
        f'<span class="count">{f"{done} / {total}" if total else ""}</span></li>'
        for name, (done, total) in tasks.items()
    )
    return f'<ul class="bench-bars">{items}</ul>'


# Scores -----------------------------------------------------------------------------------


def _scores(metrics: Mapping[str, Any], hue: str, language: Language) -> str:
    keys = ("bench_tasks", "bench_score", "bench_interval", "bench_metric", "bench_records")
    rows = [_score_row(task_title(name, language), facts, hue) for name, facts in metrics.items()]
    if len(metrics) > 1:
        mean = statistics.fmean(_main(facts)["value"] for facts in metrics.values())
        rows.append((text("bench_mean", language), f"<b>{100 * mean:.1f}</b>", "", "", ""))
    scores = wide_table(text("bench_scores", language), [text(key, language) for key in keys], rows)
    fewest = min(facts["samples"] for facts in metrics.values())
    few = text("bench_few", language, count=_FEW) if fewest < _FEW else ""
    note = f'<p class="quiet">{few}</p>' if few else ""
    return f'<div class="bench-scores">{scores}</div>{note}'


def _score_row(name: str, facts: Mapping[str, Any], hue: str) -> tuple[str, ...]:
    main = _main(facts)
    low, value, high = (min(1.0, max(0.0, main[key])) for key in ("low", "value", "high"))
    style = f"--low:{low:.4f};--value:{value:.4f};--high:{high:.4f};--colour:{hue}"
    return (
        escape(name),
        f"<b>{100 * value:.1f}</b>",
        f'<span class="bench-interval" style="{style}" aria-hidden="true"></span>'
        f'<span class="ends">{100 * low:.1f}–{100 * high:.1f}</span>',
        escape(str(facts["main"])),
        f"{facts['samples']:,}",
    )


def _main(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    main: Mapping[str, Any] = facts["scores"][facts["main"]]
    return main
