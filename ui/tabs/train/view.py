"""The report on training data, the budget of a plan, and a run as HTML."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from evals.data.report import COUNTED, Finding, Lengths, Report, TaskReport
from evals.experiments.training_log import Points, TrainingLog
from evals.experiments.training_plan import Budget
from evals.figures.captions import title
from evals.figures.palette import colour
from evals.jobs.queue import Job
from evals.methods import description
from evals.tasks import Language, Task
from ui.components import render
from ui.components.forms import cluster_title, shortened
from ui.components.html import wide_table
from ui.components.texts import text
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

_MAX_NAMES = 4  # of tasks in a finding
_NOTES = ("split_off", "repeated")  # findings that are no warnings


def figures(pairs: Iterable[tuple[str, str]]) -> str:
    """Large numbers, each with what it counts."""
    items = "".join(
        f"<div><b>{escape(number)}</b><span>{escape(what)}</span></div>" for number, what in pairs
    )
    return f'<div class="train-figures">{items}</div>'


# Report -------------------------------------------------------------------------------------


def report(
    of: Report,
    own: Mapping[str, Task],
    language: Language,
    *,
    base: str = "",
    left_out: Sequence[str] = (),
) -> str:
    """The size of the data, findings, and each task's numbers.

    `own` are the tasks that are not built in, by name; `base` is the title of the adapter to which
    the tasks are added, and `left_out` those that it has already.
    """
    titles = {task.name: title(own.get(task.name, task.name), language) for task in of.tasks}
    numbers = [
        (f"{len(of.tasks)}", text("train_n_tasks", language)),
        (f"{sum(task.train for task in of.tasks):,}", text("train_n_train", language)),
        (f"{sum(task.dev for task in of.tasks):,}", text("train_n_dev", language)),
    ]
    if of.problems:
        numbers.append((f"{len(of.problems):,}", text("train_n_refused", language)))
    return (
        figures(numbers)
        + _findings(of.findings, titles, base, left_out, language)
        + _report_table(of.tasks, titles, language)
        + refused_lines(of.problems, language)
    )


def _findings(
    findings: Sequence[Finding],
    titles: Mapping[str, str],
    base: str,
    left_out: Sequence[str],
    language: Language,
) -> str:
    lines = [
        ("note" if finding.kind in _NOTES else "warning", _finding(finding, titles, language))
        for finding in findings
        if not (base and finding.kind == "one_task")  # it shares the experts of the others
    ]
    if left_out:
        names = joined([title(task, language) for task in left_out], language)
        lines.append(("note", text("train_find_known", language, base=base, tasks=names)))
    items = "".join(f'<li class="{kind}">{escape(words)}</li>' for kind, words in lines)
    return f'<ul class="train-findings">{items}</ul>' if items else ""


def _finding(finding: Finding, titles: Mapping[str, str], language: Language) -> str:
    names = [titles[task] for task in finding.tasks]
    named = joined(names, language)
    if len(names) == len(titles) > 1 and finding.kind != "unequal":
        named = text("train_find_all", language)
    return text(f"train_find_{finding.kind}", language, n=f"{finding.count:,}", tasks=named)


def joined(names: Sequence[str], language: Language) -> str:
    """The first of some names in a sentence."""
    more = " …" if len(names) > _MAX_NAMES else ""
    return ("、" if language == "zh" else ", ").join(names[:_MAX_NAMES]) + more


def _report_table(
    tasks: Sequence[TaskReport], titles: Mapping[str, str], language: Language
) -> str:
    largest = max(task.train for task in tasks)
    counted = any(task.too_long is not None for task in tasks)
    names = ("task", "records", "prompt", "target", "labels", *(("too_long",) if counted else ()))
    columns = [text(f"train_col_{name}", language) for name in names]
    rows = [
        (
            escape(titles[task.name]),
            f'{task.train:,} <span class="quiet">/ {task.dev:,}</span>{_bar(task.train / largest)}',
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
    commonest, share = shortened(task.labels.commonest, 12), task.labels.share
    facts = {"n": task.labels.count, "commonest": commonest, "share": f"{share:.0%}"}
    return escape(text("train_labels", language, **facts)) + _bar(share)


# Budget -------------------------------------------------------------------------------------


def budget(
    budgets: Sequence[Budget],
    chosen: str,
    backbone: int | None,
    steps: int,
    seconds: float | None,
    language: Language,
) -> str:
    """The parameters, size and time of a plan beside those of other methods.

    Args:
        budgets: Of all methods.
        chosen: The plan's method.
        backbone: Number of the backbone's parameters; None if unknown.
        steps: Of the run.
        seconds: Estimated time; None if unknown.
        language: Of the words.
    """
    plan = next(one for one in budgets if one.method == chosen)
    later = text("train_after_loading", language)
    names = ("method", "parameters", "file", "total", "active")
    columns = [text(f"train_col_{name}", language) for name in names]
    largest = max((one.parameters or 0 for one in budgets), default=0) or 1
    rows = [_budget_row(one, one.method == chosen, largest, later, language) for one in budgets]
    caption = text("train_budget_table", language)
    return (
        cost_figures(plan.parameters, plan.file_bytes, backbone, steps, seconds, language)
        + f'<h3 class="train-caption">{caption}</h3>'
        + wide_table(caption, columns, rows)
    )


def cost_figures(
    parameters: int | None,
    file_bytes: int | None,
    backbone: int | None,
    steps: int,
    seconds: float | None,
    language: Language,
    *,
    sign: str = "",
) -> str:
    """What is trained, how large it is, and how long it takes; arguments as for `budget`.

    `sign` stands before what is added to an adapter.
    """
    later = text("train_after_loading", language)
    share = f"{parameters / backbone:.2%}" if parameters and backbone else later
    return figures(
        [
            (sign + millions(parameters, later), text("train_trained", language)),
            (share, text("train_share", language)),
            (sign + megabytes(file_bytes, later), text("train_file_size", language)),
            (f"{steps:,}", text("train_steps", language)),
            ("–", text("train_time_unknown", language))
            if seconds is None
            else (span(seconds, language), text("train_time", language)),
        ]
    )


def _budget_row(
    of: Budget, is_chosen: bool, largest: int, later: str, language: Language
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
    bar = _bar((of.parameters or 0) / largest) if of.parameters else ""
    parameters, size = millions(of.parameters, later) + bar, megabytes(of.file_bytes, later)
    return name, parameters, size, f"{of.total_rank}", f"{of.active_rank}"


def millions(count: int | None, unknown: str) -> str:
    """A number of parameters."""
    return unknown if count is None else f"{count / 1e6:.2f} M"


def megabytes(size: int | None, unknown: str) -> str:
    """A number of bytes."""
    return unknown if size is None else f"{size / 1e6:.1f} MB"


def no_data(key: str, language: Language) -> str:
    """A line in place of report or budget before there is data."""
    return f'<p class="train-empty">{text(key, language)}</p>'


def bad_settings(words: str, language: Language) -> str:
    """Why nothing can be trained with these settings."""
    advice = text("train_bad_settings_advice", language)
    return render.notice(text("train_bad_settings", language), advice, words)


def all_known(base: str, tasks: Sequence[str], language: Language) -> str:
    """That an adapter has all tasks of the data already."""
    return render.notice(text("train_all_known", language), why_all_known(base, tasks, language))


def why_all_known(base: str, tasks: Sequence[str], language: Language) -> str:
    """Why no task can be added to an adapter, and what to do."""
    names = joined([title(task, language) for task in tasks], language)
    return text("train_all_known_advice", language, base=base, tasks=names)


# Run ----------------------------------------------------------------------------------------


def run(
    job: Job, log: TrainingLog | None, language: Language, link_language: str, outcome: str = ""
) -> str:
    """Progress of a run, next steps, and the newest numbers of each task.

    `outcome` is HTML of what was measured after the training.
    """
    facts = [str(job.facts.get("method", ""))]
    if base := job.facts.get("base"):
        facts.append(text("train_added_to", language, base=cluster_title(str(base), language)))
    if log and log.step:
        facts.append(text("train_step", language, step=log.step, steps=log.steps))
    if job.state == "running" and log and log.seconds_left is not None:
        facts.append(text("jobs_left", language, time=span(log.seconds_left, language)))
    if log and log.best:
        step, loss = log.best
        facts.append(text("train_best", language, loss=f"{loss:.3f}", step=step))
    if job.state == "done":
        now = _next_steps(job, language, link_language)
    elif job.state == "running" and log and not job.stopping:
        now = ""
    else:
        now = advice(job, "train", language)
    body = _progress(job, log, language) + now + log_tail(job, language)
    body += _newest(job, log, language) + outcome  # whose figure follows
    return section(job, job.title, facts, body, language)


def specific_shares(job: Job, log: TrainingLog) -> dict[str, Points]:
    """The gate share of each task's specific experts, over the steps; empty without a choice."""
    if not (job.facts["common"] and job.facts["specific"]):
        return {}
    trained = [str(task) for task in job.facts["tasks"]]
    tasks = [*map(str, job.facts.get("base_tasks", ())), *trained]
    shares = log.specific_shares(tasks, job.facts["common"])
    return {task: shares[task] for task in trained}


def _progress(job: Job, log: TrainingLog | None, language: Language) -> str:
    value = 'max="1" value="0"'
    if log and log.steps:
        value = f'max="{log.steps}" value="{log.step}"'
    elif job.state == "running":
        value = ""  # indeterminate
    return (
        f'<progress class="train-progress" {value} aria-label="{state(job, language)}"></progress>'
    )


def _next_steps(job: Job, language: Language, link_language: str) -> str:
    question = {"cluster": job.title, "task": str(job.facts["tasks"][0])}
    go = link("try", text("train_try", language), link_language, **question)
    adapter = {"export-adapter": job.title}
    go += link("export", text("train_export", language), link_language, **adapter)
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
            escape(task_title(job, task, language)),
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
