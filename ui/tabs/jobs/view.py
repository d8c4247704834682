"""Jobs, and the data that they are given, as HTML."""

import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from urllib.parse import urlencode

from cgclora.data.readers import Problem
from evals.figures.captions import title
from evals.jobs.queue import Job
from evals.tasks import Language
from ui.components import render
from ui.components.texts import TEXTS, text

_SHOWN_LINES = 20  # of those that cannot be read
_LOG_LINES = 12  # of a failed job


def state(job: Job, language: Language) -> str:
    """The state of a job, with its position while it waits."""
    key = "stopping" if job.stopping else job.state
    return text(f"jobs_state_{key}", language, place=job.place)


def row(job: Job, title: str, share: float | None, language: Language) -> str:
    """A row of the list: title, state, share done, and when the job was submitted."""
    done = f" {share:.0%}" if share is not None else ""
    when = time.strftime("%m-%d %H:%M", time.localtime(job.created))
    return f"{title}\n{state(job, language)}{done} · {when}"


def section(job: Job, title: str, facts: Iterable[str], body: str, language: Language) -> str:
    """The chosen job: title and state, facts, and a body as HTML."""
    details = "".join(f"<span>{escape(fact)}</span>" for fact in facts if fact)
    return (
        f'<section class="job {job.state}"><h3>{escape(title)} '
        f'<span class="job-state" role="status">{state(job, language)}</span></h3>'
        f'<p class="facts quiet">{details}</p>{body}</section>'
    )


def task_title(job: Job, task: str, language: Language) -> str:
    """The title of a job's task; of a user's own as it was described when the job was submitted."""
    own: Mapping[str, Sequence[str]] = job.facts.get("titles", {})
    return own[task][language == "en"] if task in own else title(task, language)


def advice(job: Job, prefix: str, language: Language) -> str:
    """What happens next to a job that is not running, or what the visitor can do."""
    if job.state == "running":
        key = f"{prefix}_stopping" if job.stopping else "jobs_loading"
    elif job.state == "queued":
        key = "jobs_wait"
    elif not job.resumable:
        key = "jobs_upload_gone"
    elif job.state == "stopped":
        key = f"{prefix}_stopped"
    else:
        key = f"jobs_failed {job.code}"
        key = key if key in TEXTS else "jobs_failed"
    return f'<p class="job-now">{text(key, language)}</p>'


def log_tail(job: Job, language: Language) -> str:
    """The last lines that a failed job printed when it was last started."""
    if job.state != "failed":
        return ""
    before, started, printed = job.log_tail(3000).strip().rpartition("$ python ")
    lines = printed.splitlines()[1 if started else 0 :][-_LOG_LINES:]
    caption, lines = text("jobs_log", language), lines or [before.strip()]
    tail = escape("\n".join(lines))
    return f'<pre class="job-log" lang="en" tabindex="0" aria-label="{caption}">{tail}</pre>'


def command(job: Job, language: Language) -> str:
    """A job's command, folded away."""
    return (
        f'<details class="job-command"><summary>{text("jobs_run_command", language)}</summary>'
        f'<pre lang="en">{escape(job.command_line())}</pre></details>'
    )


def link(tab: str, words: str, link_language: str, **keys: str) -> str:
    """A link to another tab, in the language that the address names."""
    query = {"tab": tab, **keys, **({"lang": link_language} if link_language else {})}
    return f'<a class="job-go" href="?{escape(urlencode(query))}">{words}</a>'


def span(seconds: float, language: Language) -> str:
    """A time with two digits at most."""
    for key, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * size:
            number = seconds / size
            digits = f"{number:.0f}" if number >= 9.95 else f"{number:.1f}"
            return text(f"jobs_{key}", language, n=digits)
    return text("jobs_seconds", language, n=f"{seconds:.0f}")


def unreadable(words: str, language: Language) -> str:
    """That data cannot be used, and why."""
    advice = text("jobs_unreadable_advice", language)
    return render.notice(text("jobs_unreadable", language), advice, words)


def refused_lines(problems: Sequence[Problem], language: Language) -> str:
    """Lines that are no records, and why; empty if there are none."""
    if not problems:
        return ""
    shown = problems[:_SHOWN_LINES]
    items = ""
    for problem in shown:
        line = text("jobs_line", language, file=problem.file, line=problem.line or "–")
        field = f"field {problem.field!r} " if problem.field else ""
        value = f", got {problem.value}" if problem.value else ""
        reason = escape(f"{field}{problem.message}{value}")
        items += f'<li><b>{escape(line)}</b> <span lang="en">{reason}</span></li>'
    head = text("jobs_refused_lines", language, n=f"{len(problems):,}", shown=len(shown))
    return f'<details class="job-refused" open><summary>{head}</summary><ul>{items}</ul></details>'
