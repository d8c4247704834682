"""Pieces of the tab that trains as HTML: report, budget, and how a run goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from urllib.parse import urlencode

from cgclora.data.readers import Problem
from evals.data.report import COUNTED, Finding, Lengths, Report, TaskReport
from evals.experiments.training_log import TrainingLog
from evals.experiments.training_plan import Budget
from evals.figures.captions import title
from evals.figures.palette import colour
from evals.jobs.queue import Job
from evals.methods import description
from evals.tasks import Language
from ui.components import render
from ui.components.texts import text

_REFUSED = 20  # lines that are shown
_LAST_LINES = 8  # of a failed run's log
_NAMED = 4  # tasks that a finding names
_NOTES = ("split_off", "repeated")  # findings that are no warnings

Rows = Iterable[Sequence[str]]


def figures(pairs: Iterable[tuple[str, str]]) -> str:
    """Large numbers, each with what it counts."""
    items = "".join(
        f"<div><b>{escape(number)}</b><span>{escape(what)}</span></div>" for number, what in pairs
    )
    return f'<div class="train-figures">{items}</div>'


def table(caption: str, columns: Sequence[str], rows: Rows) -> str:
    """A table; the cells are HTML already, and the first of a row is its head."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for first, *cells in rows
    )
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f'<caption class="unseen">{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


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
        + _refused(of.problems, language)
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
    words = [text("train_lengths_note", language)]
    words.append(
        text("train_tokens_note", language, n=COUNTED)
        if counted
        else text("train_tokens_later", language)
    )
    joint = "" if language == "zh" else " "
    return (
        table(text("train_report_table", language), columns, rows)
        + f'<p class="quiet">{joint.join(words)}</p>'
    )


def _bar(share: float, kind: str = "") -> str:
    return f'<span class="train-bar {kind}" style="--share:{share:.3f}" aria-hidden="true"></span>'


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


def _refused(problems: Sequence[Problem], language: Language) -> str:
    if not problems:
        return ""
    shown = problems[:_REFUSED]
    items = "".join(
        f"<li><b>{escape(_line_of(problem, language))}</b> "
        f'<span lang="en">{escape(_reason(problem))}</span></li>'
        for problem in shown
    )
    head = text("train_refused_first", language, n=f"{len(problems):,}", shown=len(shown))
    return (
        f'<details class="train-refused" open><summary>{head}</summary><ul>{items}</ul></details>'
    )


def _line_of(problem: Problem, language: Language) -> str:
    return text("train_refused_line", language, file=problem.file, line=problem.line or "–")


def _reason(problem: Problem) -> str:
    field = "" if problem.field is None else f"field {problem.field!r} "
    value = f", got {problem.value}" if problem.value else ""
    return f"{field}{problem.message}{value}"


# Budget -------------------------------------------------------------------------------------


def budget(
    budgets: Sequence[Budget],
    chosen: str,
    backbone: int | None,
    steps: int | None,
    seconds: float | None,
    language: Language,
) -> str:
    """What a plan trains and how long that takes, and what other methods would.

    Args:
        budgets: Of all methods.
        chosen: The plan's method.
        backbone: Number of the backbone's parameters; None if unknown.
        steps: Of the run; None if there is no data.
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
    ]
    if steps is not None:
        numbers.append((f"{steps:,}", text("train_steps", language)))
        time = "–" if seconds is None else span(seconds, language)
        key = "train_time_unknown" if seconds is None else "train_time"
        numbers.append((time, text(key, language)))
    names = ("method", "parameters", "file", "total", "active")
    columns = [text(f"train_col_{name}", language) for name in names]
    most = max((one.parameters or 0 for one in budgets), default=0) or 1
    rows = [_budget_row(one, one.method == chosen, most, later, language) for one in budgets]
    caption = text("train_budget_table", language)
    return (
        figures(numbers)
        + f'<h3 class="train-caption">{caption}</h3>'
        + table(caption, columns, rows)
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
    return (
        name,
        _millions(of.parameters, later) + bar,
        _megabytes(of.file_bytes, later),
        f"{of.total_rank}",
        f"{of.active_rank}",
    )


def _millions(count: int | None, unknown: str) -> str:
    return unknown if count is None else f"{count / 1e6:.2f} M"


def _megabytes(size: int | None, unknown: str) -> str:
    return unknown if size is None else f"{size / 1e6:.1f} MB"


def span(seconds: float, language: Language) -> str:
    """A time with two digits at most."""
    for key, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * size:
            number = seconds / size
            return text(
                f"train_{key}", language, n=f"{number:.0f}" if number >= 9.95 else f"{number:.1f}"
            )
    return text("train_seconds", language, n=f"{seconds:.0f}")


# Runs ---------------------------------------------------------------------------------------


def state(job: Job, language: Language) -> str:
    """Where a job stands, in a word or two."""
    key = "stopping" if job.stopping else job.state
    return text(f"train_state_{key}", language, place=job.place)


def run_head(job: Job, log: TrainingLog | None, language: Language, asked: str) -> str:
    """A run's name, how far it is, and what can be done now.

    Args:
        job: The run.
        log: What it has logged; None before it has.
        language: Of the words.
        asked: The language that the address names, if it does.
    """
    facts = [str(job.facts.get("method", ""))]
    if log and log.step:
        facts.append(text("train_step", language, step=log.step, steps=log.steps))
    if job.state == "running" and log and log.seconds_left is not None:
        facts.append(text("train_left", language, time=span(log.seconds_left, language)))
    if log and log.best:
        step, loss = log.best
        facts.append(text("train_best", language, loss=f"{loss:.3f}", step=step))
    details = "".join(f"<span>{escape(fact)}</span>" for fact in facts if fact)
    return (
        f'<section class="train-run {job.state}" role="status"><h3>{escape(job.title)} '
        f'<span class="train-state">{state(job, language)}</span></h3>'
        f"{_progress(job, log, language)}"
        f'<p class="facts quiet">{details}</p>{_advice(job, log, language, asked)}</section>'
    )


def _progress(job: Job, log: TrainingLog | None, language: Language) -> str:
    label = escape(state(job, language))
    if log and log.steps:
        return f'<progress max="{log.steps}" value="{log.step}" aria-label="{label}"></progress>'
    if job.state == "running":
        return f'<progress aria-label="{label}"></progress>'
    return f'<progress max="1" value="0" aria-label="{label}"></progress>'


def _advice(job: Job, log: TrainingLog | None, language: Language, asked: str) -> str:
    if job.state == "done":
        target = {"tab": "try", "cluster": job.title, "task": job.facts["tasks"][0]}
        if asked:
            target["lang"] = asked
        return (
            f'<p><a class="train-go" href="?{escape(urlencode(target))}">'
            f"{text('train_try', language)}</a> "
            f'<span class="quiet">{text("train_evaluate", language)}</span></p>'
        )
    if job.state == "running" and not job.stopping:
        return "" if log else f'<p class="quiet">{text("train_loading_run", language)}</p>'
    if job.state in {"stopped", "failed"} and not job.resumable:
        key = "train_stopped_gone"
    else:
        key = {
            "queued": "train_waiting_run",
            "running": "train_stopping_run",
            "stopped": "train_stopped_run",
            "failed": "train_failed_run",
        }[job.state]
    tail = ""
    if job.state == "failed":
        said = job.log_tail().strip().rpartition("$ python ")[2].splitlines()[1:]
        lines = "\n".join(said[-_LAST_LINES:])
        caption = text("train_log", language)
        tail = f'<pre lang="en" aria-label="{caption}">{escape(lines)}</pre>'
    return f'<p class="quiet">{text(key, language)}</p>{tail}'


def run_table(
    job: Job, log: TrainingLog | None, shares: Mapping[str, float], language: Language
) -> str:
    """The newest losses and gate of each task, and the command.

    Args:
        job: The run.
        log: What it has logged; None before it has.
        shares: Of each task's specific experts; empty where there is no gate.
        language: Of the words.
    """
    parts = []
    if log and log.losses:
        names = ["task", "loss", "dev_loss", *(["gate"] if shares else [])]
        columns = [text(f"train_col_{name}", language) for name in names]
        rows = [
            (
                escape(title(task, language)),
                _last(log.losses.get(task)),
                _last(log.dev_losses.get(task)),
                *([_split(shares[task])] if shares else []),
            )
            for task in map(str, job.facts["tasks"])
        ]
        parts.append(table(text("train_run_table", language), columns, rows))
    parts.append(
        f'<details class="train-refused"><summary>{text("train_run_command", language)}</summary>'
        f'<pre lang="en">{escape(job.command_line())}</pre></details>'
    )
    return "".join(parts)


def _last(points: Sequence[tuple[int, float]] | None) -> str:
    return f"{points[-1][1]:.3f}" if points else "–"


def _split(specific: float) -> str:
    return (
        f"{1 - specific:.0%} / {specific:.0%}"
        f'<span class="train-split" style="--share:{1 - specific:.3f}" aria-hidden="true"></span>'
    )


# Notices ------------------------------------------------------------------------------------


def refusal(key: str, language: Language, verbatim: str = "", **values: object) -> str:
    """Why something was not done."""
    return render.notice(text(key, language, **values), verbatim=verbatim)


def off(language: Language) -> str:
    """That nobody may train here, and how to change that."""
    return f'<p class="train-off">{text("train_not_allowed", language)}</p>'


def upload_first(language: Language) -> str:
    """Stands where the report comes."""
    return f'<p class="train-empty">{text("train_upload_first", language)}</p>'


def no_plan(language: Language) -> str:
    """Stands where the budget comes."""
    return f'<p class="train-empty">{text("train_no_data", language)}</p>'


def unreadable(words: str, language: Language) -> str:
    """Why data cannot be used."""
    advice = text("train_unreadable_advice", language)
    return render.notice(text("train_unreadable", language), advice, words)


def bad_settings(words: str, language: Language) -> str:
    """Why nothing can be trained with these settings."""
    advice = text("train_bad_settings_advice", language)
    return render.notice(text("train_bad_settings", language), advice, words)


def queued(name: str, language: Language) -> str:
    """That a run has been taken."""
    words = text("train_queued_note", language, name=name)
    return f'<p class="quiet" role="status">{escape(words)}</p>'
