"""Jobs that outlive the page: a queue on disk, and one worker process that runs them in turn.

    .lock             held while a job changes its state
    .worker.lock      held by the worker as long as it lives
    worker.log        output of the worker itself
    <id>/job.json     one job; see `Job`
    <id>/log.txt      output of its command

A worker, `python -m evals jobs ROOT`, is started when there is something to do and none lives. It
has its own session, so it survives the web server, and it ends when it was idle for a while. If a
job is `running` while no worker lives, it was interrupted: the next reader kills its remaining
processes and marks it stopped.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from evals.jobs.job_files import JOB_FILE, Job, JobError, JobFiles, Kind, inside, waiting
from evals.jobs.processes import start

__all__ = ["Job", "JobError", "Jobs"]

_COMING_SECONDS = 8.0  # in which a new worker takes its lock; none idles and ends that soon
_START_SECONDS = 5.0  # between two starts: a worker that cannot start is not started in a loop


class Jobs(JobFiles):
    """The queue in a folder, which is made with the first job. Several processes may use it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._worker: subprocess.Popen[bytes] | None = None
        self._worker_started = -_START_SECONDS

    def prepare(self) -> Path:
        """Make an empty folder for the files of a job to come; its name is the job's id."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.remove_abandoned()
        while True:
            name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
            with suppress(FileExistsError):
                (self.root / name).mkdir()
                return self.root / name

    def submit(
        self,
        kind: Kind,
        command: Sequence[str],
        *,
        title: str,
        facts: Mapping[str, Any] | None = None,
        id: str | None = None,  # noqa: A002 - the job's
        clean: Iterable[str | Path] = (),
    ) -> Job:
        """Put a job at the end of the queue; its command runs in the present working directory.

        The id is that of a folder from `prepare`; None makes one. Files to clean in that folder are
        removed once the job is done, or `job_files.KEPT_SECONDS` after it was stopped or failed.

        Raises:
            JobError: The kind or folder is invalid, or a file to clean is not in the folder.
            TypeError, ValueError: A fact is not a JSON value.
        """
        folder = self.prepare() if id is None else self.folder(id)
        if kind not in get_args(Kind):
            raise JobError(f"kind is {kind!r}: choose one of {', '.join(get_args(Kind))}.")
        if not folder.is_dir() or (folder / JOB_FILE).exists():
            raise JobError(f"{folder.name} is no folder for a new job: take one from prepare().")
        job = Job(
            id=folder.name,
            folder=folder,
            kind=kind,
            title=title,
            command=tuple(map(str, command)),
            cwd=str(Path.cwd()),
            facts=dict(facts or {}),
            clean=tuple(inside(folder, path) for path in clean),
        )
        with self._change():
            now = self.end_of_queue()
            self.write(replace(job, created=now, queued=now))
        return self.get(job.id)

    def get(self, id: str) -> Job:  # noqa: A002
        """A job by its id; JobError if there is none, or if it is damaged."""
        self.read(id)
        job = next((one for one in self.all() if one.id == id), None)
        if job is None:
            raise JobError(f"there is no job {id}: it may have been removed; reload the page.")
        return job

    def all(self) -> list[Job]:
        """All readable jobs, newest first."""
        jobs = self.read_all()
        if any(map(self.is_due, jobs)):
            with self._change():
                jobs = self.read_all()
        places = {job.id: place for place, job in enumerate(waiting(jobs), start=1)}
        placed = [replace(job, place=places.get(job.id, 0)) for job in jobs]
        return sorted(placed, key=lambda job: (job.created, job.id), reverse=True)

    @property
    def waiting(self) -> int:
        """Number of queued jobs."""
        return sum(job.state == "queued" for job in self.all())

    def stop(self, id: str) -> Job:  # noqa: A002
        """Remove a job from the queue, or stop its command; one that has ended is not changed.

        A running command and its processes get SIGTERM, and SIGKILL if they have not ended after
        `evals.jobs.worker.GRACE_SECONDS`. Their files stay.
        """
        with self._change():
            job = self.read(id)
            if job.state == "queued":
                self.write(job.ended_as("stopped"))
            elif job.state == "running":
                self.write(replace(job, stop=True))
        return self.get(id)

    def resume(self, id: str) -> Job:  # noqa: A002
        """Put a stopped or failed job at the end of the queue, with the same command.

        Raises:
            JobError: There is no such job, it has not ended early, or its uploads are gone.
        """
        with self._change():
            job = self.read(id)
            if job.state not in {"stopped", "failed"}:
                raise JobError(f"the job {id} is {job.state}: only one that ended early resumes.")
            if not job.resumable:
                raise JobError("the uploaded file has been removed: upload it and start anew.")
            now = self.end_of_queue()
            self.write(replace(job, state="queued", queued=now, ended=None, code=None))
        return self.get(id)

    def remove(self, id: str) -> None:  # noqa: A002
        """Remove the folder of a job that has ended, with all its files.

        Raises:
            JobError: There is no such job, or it has not ended.
        """
        folder = self.folder(id)
        gone = folder.with_name(f".{id}.removed")
        with self._change():
            if (state := self.read(id).state) in {"queued", "running"}:
                raise JobError(f"the job {id} is {state}: stop it first.")
            folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    @contextmanager
    def _change(self) -> Iterator[None]:
        """Lock the queue for a change, and start a worker afterwards if one is needed.

        A worker also ends under this lock: so it either sees a new job, or is seen to be gone.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with self.hold():
            lives = self.worker_lives()
            if not lives:
                self.settle()
            yield
            if not lives and waiting(self.read_all()):
                self._start_worker()

    def _start_worker(self) -> None:
        age = time.monotonic() - self._worker_started
        if self._worker is not None and self._worker.poll() is None and age < _COMING_SECONDS:
            return  # it has not taken its lock yet
        if age < _START_SECONDS:
            return
        self._worker_started = time.monotonic()
        with (self.root / "worker.log").open("wb") as log:
            self._worker = start(["-m", "evals", "jobs", str(self.root)], log, Path.cwd())
