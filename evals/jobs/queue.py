"""Jobs that outlive the page: a queue on disk, and one worker process that takes them in turn.

    .lock             held for the moment in which a job changes its state
    .worker.lock      held by the worker as long as it lives; the system lets go when it dies
    worker.log        what the worker itself had to say
    <id>/job.json     one job; see `Job`
    <id>/log.txt      what its command printed

A worker, `python -m evals jobs ROOT`, is started when there is something to do and none lives. It
has a session of its own, so it goes on when the web server ends, and it ends when it has been idle
for a while. A job that says it is running while no worker lives was cut short: whoever looks next
ends what is left of it and calls it stopped.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, get_args

from evals.jobs.job_files import JOB_FILE, Job, JobError, JobFiles, Kind, ended, inside, waiting
from evals.jobs.processes import start

__all__ = ["Job", "JobError", "Jobs"]

_COMING_SECONDS = 8.0  # in which a worker takes its lock; none idles and ends that soon
_START_SECONDS = 5.0  # between two starts of a worker: one that cannot start must not be a storm


class Jobs:
    """The queue below a folder. Any number of processes may use it at the same time.

    Args:
        root: The folder; made when the first job comes.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()
        self._files = JobFiles(self.root)
        self._worker: subprocess.Popen[bytes] | None = None
        self._worker_started = -_START_SECONDS

    def prepare(self) -> Path:
        """An empty folder for a job to come, whose name is its id: for files that it needs."""
        self.root.mkdir(parents=True, exist_ok=True)
        self._files.forget_prepared()
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
        id: str | None = None,  # noqa: A002 - it is the job's
        clean: Iterable[str | Path] = (),
    ) -> Job:
        """Put a job at the end of the queue; it starts when those before it have ended.

        Args:
            kind: What the command does.
            command: What comes after the Python interpreter; relative paths are seen from the
                present working directory.
            title: What a person calls it.
            facts: JSON values to keep with it.
            id: The name of a folder from `prepare`; None makes one.
            clean: Files in that folder that are removed once the job is done, or some time after
                it was stopped or failed (`evals.jobs.job_files.KEPT_SECONDS`).

        Raises:
            JobError: The kind or the folder is not one, or a file to clean is not in the folder.
            TypeError, ValueError: A fact is no JSON value.
        """
        folder = self.prepare() if id is None else self._files.folder(id)
        if kind not in get_args(Kind):
            raise JobError(f"kind is {kind!r}: choose one of {', '.join(get_args(Kind))}.")
        if not folder.is_dir() or (folder / JOB_FILE).exists():
            raise JobError(f"{folder.name} is no folder for a new job: take one from prepare().")
        values = {
            "format": 1,
            "kind": kind,
            "title": title,
            "command": [str(part) for part in command],
            "cwd": str(Path.cwd()),
            "state": "queued",
            "started": None,
            "ended": None,
            "code": None,
            "stop": False,
            "process": None,
            "clean": [inside(folder, path) for path in clean],
            "facts": dict(facts or {}),
        }
        with self._change():
            now = self._files.end_of_queue()
            self._files.write(folder.name, {**values, "created": now, "queued": now})
        return self.get(folder.name)

    def get(self, id: str) -> Job:  # noqa: A002
        """A job.

        Raises:
            JobError: There is none of this id, or it is damaged.
        """
        self._files.read(id)
        found = next((job for job in self.all() if job.id == id), None)
        if found is None:
            raise JobError(f"there is no job {id}: it may have been removed; reload the page.")
        return found

    def all(self) -> list[Job]:
        """All jobs, newest first. Folders that hold no readable job are passed over."""
        known = self._files.read_all()
        if any(self._files.is_due(name, values) for name, values in known.items()):
            with self._change():
                known = self._files.read_all()
        queue = waiting(known)
        jobs = [
            self._files.job(name, values, queue.index(name) + 1 if name in queue else 0)
            for name, values in known.items()
        ]
        return sorted(jobs, key=lambda job: (job.created, job.id), reverse=True)

    @property
    def waiting(self) -> int:
        """How many jobs wait for their turn."""
        return sum(job.state == "queued" for job in self.all())

    def stop(self, id: str) -> Job:  # noqa: A002
        """Take a job out of the queue, or tell its command to stop; one that has ended stays so.

        A running command gets SIGTERM, with all that it started, and is killed when it has not
        ended after `evals.jobs.worker.GRACE_SECONDS`. What it has written stays.

        Raises:
            JobError: There is no such job.
        """
        with self._change():
            values = self._files.read(id)
            if values["state"] == "queued":
                self._files.write(id, {**values, **ended("stopped")})
            elif values["state"] == "running":
                self._files.write(id, {**values, "stop": True})
        return self.get(id)

    def resume(self, id: str) -> Job:  # noqa: A002
        """Put a job that was stopped or failed at the end of the queue, with the same command.

        Raises:
            JobError: There is no such job, it has not ended early, or its uploads are gone.
        """
        with self._change():
            values = self._files.read(id)
            job = self._files.job(id, values)
            if job.state not in {"stopped", "failed"}:
                raise JobError(f"the job {id} is {job.state}: only one that ended early resumes.")
            if not job.resumable:
                raise JobError("the uploaded file has been removed: upload it and start anew.")
            now = self._files.end_of_queue()
            again = {"state": "queued", "queued": now, "ended": None, "code": None}
            self._files.write(id, {**values, **again})
        return self.get(id)

    def remove(self, id: str) -> None:  # noqa: A002
        """Remove the folder of a job that has ended, with all that lies there.

        Raises:
            JobError: There is no such job, or it has not ended.
        """
        folder = self._files.folder(id)
        gone = folder.with_name(f".{id}.removed")
        with self._change():
            if (state := self._files.read(id)["state"]) in {"queued", "running"}:
                raise JobError(f"the job {id} is {state}: stop it first.")
            folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    @contextmanager
    def _change(self) -> Iterator[None]:
        """The moment of a change: nobody else changes a job, and afterwards somebody works.

        Whether a worker lives is asked within the moment, and a worker that ends does so in one:
        so a job that has just come is seen by the worker, or finds it gone.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with self._files.hold():
            lives = self._files.worker_lives()
            if not lives:
                self._files.settle()
            yield
            if not lives and waiting(self._files.read_all()):
                self._start_worker()

    def _start_worker(self) -> None:
        age = time.monotonic() - self._worker_started
        if self._worker is not None and self._worker.poll() is None and age < _COMING_SECONDS:
            return  # it is on its way; an older one without the lock is about to end
        if time.monotonic() - self._worker_started < _START_SECONDS:
            return
        self._worker_started = time.monotonic()
        with (self.root / "worker.log").open("wb") as log:
            self._worker = start(["-m", "evals", "jobs", str(self.root)], log, Path.cwd())
