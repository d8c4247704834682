"""Pieces of the tab that evaluates as HTML: what is in the data, and how a job goes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from evals.experiments.evaluation_plan import DataFacts
from evals.figures.captions import title
from evals.figures.palette import colour
from evals.jobs.queue import Job
from evals.runs.progress import Progress
from evals.tasks import Language
from ui.components import render
from ui.components.texts import TEXTS, text
from ui.tabs.benchmark.form import OFFICIAL, OWN, reason
from ui.tabs.train.view import span, table

_BAD_LINES = 8  # that are shown
_FEW = 30  # records of a task below which an interval is hardly worth its name


@dataclass(frozen=True)
class Outlook:
    """A job and how far it is.

    Attributes:
        job: Which.
        title: Who answers, in the reader's language.
        progress: Of answering; None before it began and after it ended.
        answered: Whether all answers are there, and the scores are not.
        metrics: The run's scores; None before there are any.
        seconds: That answering took; None before.
    """

    job: Job
    title: str
    progress: Progress | None = None
    answered: bool = False
    metrics: Mapping[str, Any] | None = None
    seconds: float | None = None


# Data -------------------------------------------------------------------------------------


def data_report(facts: DataFacts, language: Language) -> str:
    """What was found in an uploaded file."""
    records = sum(size.records for size in facts.tasks.values())
    found = text("bench_found", language, records=f"{records:,}", tasks=len(facts.tasks))
    parts = [f'<p class="bench-found">{escape(facts.name)} · {found}</p>']
    if facts.tasks:
        columns = [text("bench_tasks", language), text("bench_records", language)]
        rows = [
            (escape(title(name, language)), f"{size.records:,}")
            for name, size in facts.tasks.items()
        ]
        parts.append(table(text("bench_report_table", language), columns, rows))
    if facts.unknown:
        names = ", ".join(f"{name} ({count:,})" for name, count in facts.unknown.items())
        parts.append(f"<p>{escape(text('bench_left_out', language, tasks=names))}</p>")
    return f'<div class="bench-report">{"".join(parts)}{_bad_lines(facts, language)}</div>'


def _bad_lines(facts: DataFacts, language: Language) -> str:
    if not facts.problems:
        return ""
    items = "".join(
        f"<li><b>{text('bench_bad_line', language, line=problem.line or '–')}</b> "
        f'<span lang="en">{escape(reason(problem))}</span></li>'
        for problem in facts.problems[:_BAD_LINES]
    )
    if (more := len(facts.problems) - _BAD_LINES) > 0:
        items += f"<li>{text('bench_bad_lines_more', language, count=f'{more:,}')}</li>"
    head = text("bench_bad_lines", language, count=f"{len(facts.problems):,}")
    return f'<div class="bench-bad"><p><strong>{head}</strong></p><ul>{items}</ul></div>'


def quiet(key: str, language: Language) -> str:
    """One line of explanation."""
    return f'<p class="quiet">{text(key, language)}</p>'


def extent(records: int, how_long: str, language: Language) -> str:
    """How much is to be answered, and how long that takes if anybody knows."""
    total = text("bench_total", language, records=f"{records:,}")
    return f'<p class="bench-extent"><b>{total}</b> <span class="quiet">{how_long}</span></p>'


def time_needed(seconds: float | None, language: Language) -> str:
    """An estimate in words."""
    if seconds is None:
        return text("bench_no_time", language)
    return text("bench_time", language, time=span(seconds, language))


# Jobs -------------------------------------------------------------------------------------


def row(outlook: Outlook, language: Language) -> str:
    """A job's row in the list: title, and below it where it stands."""
    job, progress = outlook.job, outlook.progress
    share = ""
    if job.state == "running" and progress and progress.total:
        share = f" {progress.done / progress.total:.0%}"
    when = time.strftime("%m-%d %H:%M", time.localtime(job.created))
    return f"{outlook.title}\n{state(job, language)}{share} · {when}"


def state(job: Job, language: Language) -> str:
    """Where a job stands, in a word or two."""
    key = "stopping" if job.stopping else job.state
    return text(f"bench_state_{key}", language, place=job.place)


def job(outlook: Outlook, language: Language, asked: str) -> str:
    """All that there is to see of a job.

    Args:
        outlook: Of it.
        language: Of the words.
        asked: The language that the address names, if it does.
    """
    one = outlook.job
    facts = [_source_of(one, language), _extent_of(one, language)]
    if outlook.seconds is not None:
        facts.append(text("bench_took", language, time=span(outlook.seconds, language)))
    details = "".join(f"<span>{escape(fact)}</span>" for fact in facts if fact)
    if one.state == "done":
        body = _scores(outlook, language, asked)
    else:
        body = _now(outlook, language) + _bars(outlook, language) + _log(one, language)
    return (
        f'<section class="bench-job {one.state}"><h3>{escape(outlook.title)} '
        f'<span class="bench-state">{state(one, language)}</span></h3>'
        f'<p class="facts quiet">{details}</p>{body}</section>'
    )


def _source_of(one: Job, language: Language) -> str:
    source, name = (str(one.facts.get(key, "")) for key in ("source", "data"))
    return text(f"bench_{source}", language) if source in {OFFICIAL, OWN} else name


def _extent_of(one: Job, language: Language) -> str:
    words = text("bench_total", language, records=f"{one.facts.get('records', 0):,}")
    per_task = one.facts.get("per_task")
    joint = "，" if language == "zh" else ", "
    return words + (joint + text("bench_of_task", language, count=per_task) if per_task else "")


def _now(outlook: Outlook, language: Language) -> str:
    """What happens, or what the reader can do."""
    one, progress = outlook.job, outlook.progress
    if one.state == "running":
        if one.stopping:
            words = text("bench_stopping", language)
        elif outlook.answered:
            words = text("bench_scoring", language)
        elif progress is None:
            words = text("bench_loading", language)
        else:
            words = text("bench_progress", language, done=progress.done, total=progress.total)
            if progress.seconds_left is not None and progress.done < progress.total:
                left = span(max(1, progress.seconds_left), language)
                words += f" · {text('bench_left', language, time=left)}"
        return f'<p class="bench-now">{words}</p>'
    if one.state == "queued":
        return f'<p class="bench-now">{text("bench_wait", language)}</p>'
    if not one.resumable:
        key = "bench_upload_gone"
    elif one.state == "stopped":
        key = "bench_stopped"
    else:
        key = f"bench_failed {one.code}"
        key = key if key in TEXTS else "bench_failed"
    return f'<p class="bench-now">{text(key, language)}</p>'


def _bars(outlook: Outlook, language: Language) -> str:
    """A bar for each task."""
    one, progress = outlook.job, outlook.progress
    if one.state == "queued" and progress is None:
        return ""
    if one.state == "failed" and progress is None:
        return ""
    tasks = progress.tasks if progress else dict.fromkeys(map(str, one.facts["tasks"]), (0, 0))
    full = outlook.answered
    items = "".join(
        f'<li><span class="name">{escape(title(name, language))}</span>'
        f'<progress max="{total or 1}" value="{1 if full and not total else done}" '
        f'aria-label="{escape(title(name, language))}"></progress>'
        f'<span class="count">{f"{done} / {total}" if total else ""}</span></li>'
        for name, (done, total) in tasks.items()
    )
    return f'<ul class="bench-bars">{items}</ul>'


def _log(one: Job, language: Language) -> str:
    if one.state != "failed":
        return ""
    caption = text("bench_log", language)
    tail = escape(one.log_tail(1500).strip())
    return f'<pre class="bench-log" lang="en" tabindex="0" aria-label="{caption}">{tail}</pre>'


def command(one: Job, language: Language) -> str:
    """A job's command, folded away. Apart from `job`, whose updates would fold it again."""
    return (
        f'<details class="bench-command"><summary>{text("bench_run_command", language)}</summary>'
        f'<pre lang="en">{escape(one.command_line())}</pre></details>'
    )


# Scores -----------------------------------------------------------------------------------


def _scores(outlook: Outlook, language: Language, asked: str) -> str:
    metrics = outlook.metrics
    if metrics is None:
        return render.notice(text("bench_no_run", language))
    hue = colour(str(outlook.job.facts.get("method", "")))
    keys = ("bench_tasks", "bench_score", "bench_interval", "bench_metric", "bench_records")
    rows = [_score_row(title(name, language), facts, hue) for name, facts in metrics.items()]
    if len(metrics) > 1:
        mean = statistics.fmean(_main(facts)["value"] for facts in metrics.values())
        rows.append((text("bench_mean", language), f"<b>{100 * mean:.1f}</b>", "", "", ""))
    scores = table(text("bench_scores", language), [text(key, language) for key in keys], rows)
    fewest = min(facts["samples"] for facts in metrics.values())
    few = text("bench_few", language, count=_FEW) if fewest < _FEW else ""
    note = f'<p class="quiet">{few}</p>' if few else ""
    target = "?tab=leaderboard" + (f"&amp;lang={escape(asked)}" if asked else "")
    go = f'<a class="bench-go" href="{target}">{text("bench_to_board", language)}</a>'
    return f'<div class="bench-scores">{scores}</div>{note}<p>{go}</p>'


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
