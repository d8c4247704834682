"""A training run as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from evals.experiments.training_log import Points, TrainingLog
from evals.figures.captions import title
from evals.jobs.queue import Job
from evals.tasks import Language
from ui.components.html import wide_table
from ui.components.texts import text
from ui.tabs.jobs.view import advice, link, log_tail, section, span, state


def run(job: Job, log: TrainingLog | None, language: Language, language_asked: str) -> str:
    """Progress of a run, what can be done now, and the newest numbers of each task.

    Args:
        job: The run.
        log: What it has logged; None before there is a log.
        language: Of the words.
        language_asked: The language that the address names; empty if it names none.
    """
    facts = [str(job.facts.get("method", ""))]
    if log and log.step:
        facts.append(text("train_step", language, step=log.step, steps=log.steps))
    if job.state == "running" and log and log.seconds_left is not None:
        facts.append(text("jobs_left", language, time=span(log.seconds_left, language)))
    if log and log.best:
        step, loss = log.best
        facts.append(text("train_best", language, loss=f"{loss:.3f}", step=step))
    if job.state == "done":
        now = _next_steps(job, language, language_asked)
    elif job.state == "running" and log and not job.stopping:
        now = ""
    else:
        now = advice(job, "train", language)
    body = _progress(job, log, language) + now + log_tail(job, language)
    return section(job, job.title, facts, body + _newest(job, log, language), language)


def specific_shares(job: Job, log: TrainingLog) -> dict[str, Points]:
    """The gate share of each task's specific experts, over the steps; empty without a choice."""
    if not (job.facts["common"] and job.facts["specific"]):
        return {}
    return log.specific_shares([str(task) for task in job.facts["tasks"]], job.facts["common"])


def _progress(job: Job, log: TrainingLog | None, language: Language) -> str:
    value = 'max="1" value="0"'
    if log and log.steps:
        value = f'max="{log.steps}" value="{log.step}"'
    elif job.state == "running":
        value = ""  # indeterminate
    return (
        f'<progress class="train-progress" {value} aria-label="{state(job, language)}"></progress>'
    )


def _next_steps(job: Job, language: Language, language_asked: str) -> str:
    asked = {"cluster": job.title, "task": str(job.facts["tasks"][0])}
    go = link("try", text("train_try", language), language_asked, **asked)
    return f'<p>{go} <span class="quiet">{text("train_evaluate", language)}</span></p>'


def _newest(job: Job, log: TrainingLog | None, language: Language) -> str:
    """The newest losses and gate shares of each task."""
    if not (log and log.losses):
        return ""
    shares = _last(specific_shares(job, log))
    losses, dev_losses = _last(log.losses), _last(log.dev_losses)
    names = ["task", "loss", "dev_loss", *(["gate"] if shares else [])]
    rows = [
        (
            escape(title(task, language)),
            _loss(losses.get(task)),
            _loss(dev_losses.get(task)),
            *([_split(shares[task])] if shares else []),
        )
        for task in map(str, job.facts["tasks"])
    ]
    columns = [text(f"train_col_{name}", language) for name in names]
    return wide_table(text("train_run_table", language), columns, rows)


def _last(points: Mapping[str, Sequence[tuple[int, float]]]) -> dict[str, float]:
    return {task: values[-1][1] for task, values in points.items() if values}


def _loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _split(specific: float) -> str:
    return (
        f"{1 - specific:.0%} / {specific:.0%}"
        f'<span class="train-split" style="--share:{1 - specific:.3f}" aria-hidden="true"></span>'
    )
