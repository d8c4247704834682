"""The evaluations in their tab: progress, then scores."""

import shutil
import statistics
from collections.abc import Mapping
from html import escape
from typing import Any

from evals.experiments.evaluation_plan import Earlier
from evals.figures.palette import colour
from evals.jobs.queue import Job
from evals.runs.progress import Progress, read_progress
from evals.runs.run_dir import MANIFEST_FILE, Run, RunError, partial_folder, read_run
from evals.tasks import Language
from ui.components import render
from ui.components.answering_models import adapter_title
from ui.components.html import quiet, wide_table
from ui.components.texts import text
from ui.engine.questions import BARE
from ui.tabs.benchmark.form import OFFICIAL, OWN
from ui.tabs.jobs.tab import JobPanel
from ui.tabs.jobs.view import advice, link, log_tail, section, span, task_title

_REMEMBERED = 5  # earlier evaluations from which the time of the next one is estimated
_MIN_RECORDS = 30  # of a task, below which an interval says little


class Evaluations(JobPanel):
    """Lists evaluations and shows the chosen one. A run folder has its job's name."""

    kind, prefix, tab, link_key = "evaluate", "bench", "benchmark", "bench_job"

    def title(self, job: Job, language: Language) -> str:
        """The adapter's title."""
        name = str(job.facts.get("adapter", ""))
        return adapter_title(self.engine, name, language) if name else job.title

    def share_done(self, job: Job) -> float | None:
        """The share of records that are answered."""
        progress = read_progress(self.folder / job.id)
        return progress.done / progress.total if progress and progress.total else None

    def show(self, job: Job, language: Language, link_language: str) -> str:
        """Progress of an evaluation, or its scores."""
        title, folder = self.title(job, language), self.folder / job.id
        if job.state == "done":
            return scored(job, title, self._run(job), language, link_language)
        progress = read_progress(folder)
        is_answered = progress is None and (folder / MANIFEST_FILE).exists()
        return unscored(job, title, progress, language, is_answered=is_answered)

    def delete(self, id: str) -> None:  # noqa: A002 - it is the job's
        """Remove a job and its unfinished run; scores are kept."""
        super().delete(id)
        shutil.rmtree(partial_folder(self.folder / id), ignore_errors=True)

    def earlier(self, adapter: str) -> list[Earlier]:
        """Durations of the newest evaluations of an adapter, or of the bare backbone."""
        earlier: list[Earlier] = []
        for job in self.all():
            alike = (job.facts.get("adapter") == BARE) == (adapter == BARE)
            if job.state != "done" or not alike or (run := self._run(job)) is None:
                continue
            seconds = float(run.manifest.get("seconds") or 0.0)
            whole = (job.ended or 0.0) - (job.started or 0.0)
            earlier.append(Earlier(float(job.facts.get("work") or 0), seconds, whole))
            if len(earlier) == _REMEMBERED:
                break
        return earlier

    def _run(self, job: Job) -> Run | None:
        """A finished run; None if it is gone."""
        try:
            return read_run(self.folder / job.id)
        except RunError:
            return None


# Jobs -------------------------------------------------------------------------------------


def unscored(
    job: Job, title: str, progress: Progress | None, language: Language, *, is_answered: bool
) -> str:
    """A job that waits, runs, was stopped or failed.

    There is no progress before answering began and after it ended; `is_answered` tells that all
    answers are there, and the scores are not.
    """
    if job.state == "running" and not job.stopping and (progress or is_answered):
        now = f'<p class="job-now">{_progress(progress, language)}</p>'
    else:
        now = advice(job, "bench", language)
    bars = _bars(job, progress, is_answered, language)
    return section(
        job, title, _facts(job, language), now + bars + log_tail(job, language), language
    )


def scored(job: Job, title: str, run: Run | None, language: Language, link_language: str) -> str:
    """A job that is done, with its scores; without a run if its folder is gone."""
    facts = _facts(job, language)
    if run is None or run.metrics is None:
        notice = render.notice(text("bench_no_run", language))
        return section(job, title, facts, notice, language)
    if (seconds := run.manifest.get("seconds")) is not None:
        facts.append(text("bench_took", language, time=span(seconds, language)))
    go = link("leaderboard", text("bench_to_board", language), link_language)
    body = f"{_scores(job, run.metrics, language)}<p>{go}</p>"
    return section(job, title, facts, body, language)


def _facts(job: Job, language: Language) -> list[str]:
    """The data and the number of records."""
    source, name = (str(job.facts.get(key, "")) for key in ("source", "data"))
    data = text(f"bench_{source}", language) if source in {OFFICIAL, OWN} else name
    records = text("bench_total", language, records=f"{job.facts.get('records', 0):,}")
    per_task = job.facts.get("per_task")
    limit = text("bench_of_task", language, count=per_task) if per_task else ""
    return [data, records, limit]


def _progress(progress: Progress | None, language: Language) -> str:
    if progress is None:
        return text("bench_scoring", language)
    words = text("bench_progress", language, done=progress.done, total=progress.total)
    if progress.seconds_left is None or progress.done == progress.total:
        return words
    time = span(max(1, progress.seconds_left), language)
    return f"{words} · {text('jobs_left', language, time=time)}"


def _bars(job: Job, progress: Progress | None, is_answered: bool, language: Language) -> str:
    """A progress bar for each task."""
    if job.state in {"queued", "failed"} and progress is None:
        return ""
    tasks = progress.tasks if progress else dict.fromkeys(map(str, job.facts["tasks"]), (0, 0))
    items = "".join(
        f'<li><span class="name">{escape(task_title(job, name, language))}</span>'
        f'<progress max="{total or 1}" value="{1 if is_answered else done}" '
        f'aria-label="{escape(task_title(job, name, language))}"></progress>'
        f'<span class="count">{f"{done} / {total}" if total else ""}</span></li>'
        for name, (done, total) in tasks.items()
    )
    return f'<ul class="bench-bars">{items}</ul>'


# Scores -----------------------------------------------------------------------------------


def _scores(job: Job, metrics: Mapping[str, Any], language: Language) -> str:
    keys = ("bench_tasks", "bench_score", "bench_interval", "bench_metric", "bench_records")
    hue = colour(str(job.facts.get("method", "")))
    rows = [
        _score_row(task_title(job, name, language), facts, hue) for name, facts in metrics.items()
    ]
    if len(metrics) > 1:
        mean = statistics.fmean(_main(facts)["value"] for facts in metrics.values())
        rows.append((text("bench_mean", language), f"<b>{100 * mean:.1f}</b>", "", "", ""))
    scores = wide_table(text("bench_scores", language), [text(key, language) for key in keys], rows)
    fewest = min(facts["samples"] for facts in metrics.values())
    note = text("bench_few", language, count=_MIN_RECORDS) if fewest < _MIN_RECORDS else ""
    return f'<div class="bench-scores">{scores}</div>{quiet(note)}'


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
