"""What is asked of every job before it is put into the queue."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from cgclora.config import ConfigError
from cgclora.data.records import DataError
from evals.jobs.queue import Job, JobError, Jobs
from evals.tasks import Language
from ui.components import render
from ui.components.texts import text
from ui.engine.settings import AppLimits
from ui.server.files import without_folders


def check_queue(jobs: Jobs, limits: AppLimits, language: Language, *, allowed: bool) -> None:
    """Refuse a job that may not be started here.

    Raises:
        JobError: Visitors may not start jobs, or too many wait; in the visitor's language.
    """
    if not allowed:
        raise JobError(text("jobs_not_allowed", language))
    if (waiting := jobs.waiting) >= limits.jobs:
        raise JobError(text("jobs_full", language, count=waiting))


def submitted(
    submit: Callable[[], Job], uploads: Iterable[Path], language: Language
) -> tuple[Job | None, str]:
    """A new job and what the page says of it; no job if it was refused.

    Args:
        submit: Puts the job into the queue.
        uploads: Files whose folders are not shown.
        language: Of the words.
    """
    try:
        job = submit()
    except (JobError, ConfigError, DataError, OSError) as error:
        reason = without_folders(str(error), uploads)
        return None, render.notice(text("jobs_not_started", language), reason)
    return job, f'<p class="quiet" role="status">{text("jobs_queued", language)}</p>'
