"""Exports on the server: their queue, their downloads, and their removal after an hour."""

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from evals.jobs.queue import Job, JobError, Jobs
from ui.engine.settings import Settings

KEPT_SECONDS = 3600.0
"""How long an export stays after it was made, or after a push of it began."""

_LOOK_SECONDS = 300.0  # between two removals
_PATH = "exports"


def export_jobs(settings: Settings) -> Jobs:
    """The queue of exports. It is not that of trainings, behind which an export would wait."""
    return Jobs(settings.runs / "exports")


def archive(job: Job) -> Path | None:
    """The packed export of a job that is done; None before, and where it is gone."""
    path = job.folder / f"{job.facts.get('name')}.zip"
    return path if job.state == "done" and path.is_file() else None


def download_link(job: Job) -> str:
    """The address of a packed export, relative to the page's."""
    return f"{_PATH}/{job.id}/download"


def keep(job: Job) -> None:
    """Let the export's hour begin anew."""
    os.utime(job.folder)


def remove_expired(jobs: Jobs) -> None:
    """Remove exports that ended an hour ago, with all their files."""
    for job in jobs.read_all():
        with suppress(OSError, JobError):
            age = time.time() - job.folder.stat().st_mtime  # its file was written at its end
            if job.state not in {"queued", "running"} and age > KEPT_SECONDS:
                jobs.remove(job.id)


def remove_expired_regularly(jobs: Jobs) -> None:
    """Remove expired exports now and every few minutes, on a thread of its own."""

    def run() -> None:
        while True:
            remove_expired(jobs)
            time.sleep(_LOOK_SECONDS)

    threading.Thread(target=run, name="exports", daemon=True).start()


def routes(settings: Settings) -> list[Route]:
    """The route that downloads exports; none where visitors may not export."""
    if not settings.exports_allowed:
        return []
    jobs = export_jobs(settings)

    def download(request: Request) -> Response:
        try:
            job = jobs.get(request.path_params["job"])
        except JobError:
            return _gone()
        path = archive(job)
        return FileResponse(path, filename=path.name) if path else _gone()

    return [Route(f"/{_PATH}/{{job}}/download", download, methods=["GET"])]


def _gone() -> JSONResponse:
    return JSONResponse({"detail": "The export has been removed: make it again."}, 404)
