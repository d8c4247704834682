"""A job on disk and the folder of all jobs, shared by the queue and its worker."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import BaseFileLock, FileLock, Timeout

from cgclora.storage import atomic_io
from evals.jobs.processes import kill_leftover

Kind = Literal["evaluate", "train", "compare", "export"]
State = Literal["queued", "running", "stopped", "failed", "done"]

JOB_FILE = "job.json"
LOG_FILE = "log.txt"

KEPT_SECONDS = 24 * 3600.0
"""How long a stopped or failed job keeps its uploads, so that it can be resumed."""

_ABANDONED_SECONDS = 3600.0  # age of a prepared folder whose job was never submitted
_CLOCK_SECONDS = 1e-5  # smallest difference of Unix seconds as floats
_LOCK_SECONDS = 30.0  # a change takes milliseconds
_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}", re.ASCII)


class JobError(ValueError):
    """A request that cannot be met; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Job:
    """A command that waits, runs or has ended."""

    id: str  # sorts by time of creation (UTC); the name of its folder
    folder: Path  # holds its log and its files
    kind: Kind
    title: str  # for people; not escaped
    command: tuple[str, ...]  # arguments of the Python interpreter, such as `-m evals run ...`
    cwd: str
    facts: Mapping[str, Any]  # JSON values that were submitted with it
    clean: tuple[str, ...] = ()  # files in the folder that are removed once it is done
    state: State = "queued"  # `stopped` and `failed` jobs can be resumed
    created: float = 0.0  # Unix seconds, like the three below
    queued: float = 0.0  # when it was last put into the queue, later than the jobs before it
    started: float | None = None  # when its command was last started
    ended: float | None = None  # when that ended
    code: int | None = None  # exit code, negative for a signal; None before the command ended
    stop: bool = False  # whether its command must be stopped
    process: Mapping[str, Any] | None = None  # `processes.identity` of the running command
    place: int = 0  # position in the queue, from 1; 0 when it does not wait

    @classmethod
    def from_json(cls, folder: Path, values: Mapping[str, Any]) -> Job:
        """A job from its file; raises ValueError, KeyError, TypeError or AttributeError."""
        if values["state"] not in get_args(State) or values["kind"] not in get_args(Kind):
            raise ValueError("unknown state or kind")
        if values["process"] is not None:
            int(values["process"]["pid"])
        started, ended, code = values["started"], values["ended"], values["code"]
        return cls(
            id=folder.name,
            folder=folder,
            kind=values["kind"],
            title=str(values["title"]),
            command=tuple(map(str, values["command"])),
            cwd=str(values["cwd"]),
            facts=dict(values["facts"]),
            clean=tuple(inside(folder, path) for path in values["clean"]),
            state=values["state"],
            created=float(values["created"]),
            queued=float(values["queued"]),
            started=None if started is None else float(started),
            ended=None if ended is None else float(ended),
            code=None if code is None else int(code),
            stop=bool(values["stop"]),
            process=values["process"],
        )

    def to_json(self) -> dict[str, Any]:
        """The content of its file."""
        values = {"format": 1, **vars(self)}
        for name in ("id", "folder", "place"):
            del values[name]
        return values

    @property
    def stopping(self) -> bool:
        """Whether its command is to be stopped and still runs."""
        return self.state == "running" and self.stop

    @property
    def resumable(self) -> bool:
        """Whether `Jobs.resume` can resume it: it ended early, and its uploads are there."""
        ended_early = self.state in {"stopped", "failed"}
        return ended_early and all((self.folder / name).is_file() for name in self.clean)

    def ended_as(self, state: State, code: int | None = None) -> Job:
        """This job after the end of its command."""
        return replace(self, state=state, ended=time.time(), code=code, stop=False, process=None)

    def command_line(self) -> str:
        """The equivalent command line."""
        return shlex.join(["python", *self.command])

    def log_tail(self, characters: int = 4000) -> str:
        """The end of the command's output; of a progress bar only its last state."""
        try:
            with (self.folder / LOG_FILE).open("rb") as stream:
                stream.seek(0, os.SEEK_END)
                stream.seek(max(0, stream.tell() - 4 * characters))
                text = stream.read().decode(errors="replace")
        except OSError:
            return ""
        lines = (line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
        return "\n".join(lines)[-characters:]


class JobFiles:
    """The folders of all jobs below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()

    def folder(self, id: str) -> Path:  # noqa: A002 - a job's
        """The folder of a job; raises JobError if that is not an id."""
        if not _ID.fullmatch(id):
            raise JobError(f"{id!r} is no job id: reload the page.")
        return self.root / id

    def read(self, id: str) -> Job:  # noqa: A002
        """A job from its file, its place in the queue aside; JobError if missing or damaged."""
        folder = self.folder(id)
        try:
            return Job.from_json(folder, atomic_io.read_sealed(folder / JOB_FILE))
        except FileNotFoundError as error:
            message = f"there is no job {id}: it may have been removed; reload the page."
            raise JobError(message) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise JobError(f"the job {id} is damaged ({error!r}): remove its folder.") from error

    def read_all(self) -> list[Job]:
        """All readable jobs by id."""
        jobs: list[Job] = []
        for path in sorted(self.root.iterdir()) if self.root.is_dir() else ():
            if _ID.fullmatch(path.name):
                with suppress(JobError):
                    jobs.append(self.read(path.name))
        return jobs

    def write(self, job: Job) -> None:
        """Replace a job's file."""
        atomic_io.write_sealed(job.folder / JOB_FILE, job.to_json())

    def remove_uploads(self, job: Job) -> None:
        """Remove the files that a job does not keep."""
        for name in job.clean:
            (job.folder / name).unlink(missing_ok=True)

    def remove_abandoned(self) -> None:
        """Remove prepared folders whose job was never submitted."""
        for folder in self.root.iterdir():
            with suppress(OSError):
                old = time.time() - folder.stat().st_mtime > _ABANDONED_SECONDS
                if old and _ID.fullmatch(folder.name) and not (folder / JOB_FILE).exists():
                    shutil.rmtree(folder)

    def settle(self) -> None:
        """Stop the jobs that a dead worker left running, and remove overdue uploads.

        Call it while the queue is held and no other process is the worker.
        """
        for job in self.read_all():
            if job.state == "running":
                kill_leftover(job.process)
                self.write(job.ended_as("stopped"))
            elif _is_overdue(job):
                self.remove_uploads(job)

    def is_due(self, job: Job) -> bool:
        """Whether a job needs attention: it waits or runs, or its uploads are overdue."""
        return job.state in {"queued", "running"} or (
            _is_overdue(job) and any((job.folder / name).exists() for name in job.clean)
        )

    def end_of_queue(self) -> float:
        """Unix seconds of a job that is queued now, later than those before it.

        The clock may have been set back since. Call it while the queue is held.
        """
        last = max((job.queued for job in self.read_all()), default=0.0)
        return max(time.time(), last + _CLOCK_SECONDS)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Lock the queue for a change; JobError if another process holds it for too long."""
        try:
            with FileLock(self.root / ".lock", timeout=_LOCK_SECONDS):
                yield
        except Timeout as error:
            raise JobError("another process holds the queue: try again in a minute.") from error

    def worker_lock(self, timeout: float) -> BaseFileLock:
        """The lock that the worker holds as long as it lives."""
        return FileLock(self.root / ".worker.lock", timeout=timeout)

    def worker_lives(self) -> bool:
        """Whether a worker process lives."""
        try:
            with self.worker_lock(0):
                return False
        except Timeout:
            return True


def waiting(jobs: Sequence[Job]) -> list[Job]:
    """The queue, the next job first."""
    return sorted(
        (job for job in jobs if job.state == "queued"), key=lambda job: (job.queued, job.id)
    )


def inside(folder: Path, path: str | Path) -> str:
    """A file's name within a job's folder; JobError if it is elsewhere."""
    whole = Path(os.path.normpath(folder / path))
    if not whole.is_relative_to(folder) or whole == folder:
        raise JobError(f"{path} is not in the job's folder: only files there are cleaned up.")
    return whole.relative_to(folder).as_posix()


def _is_overdue(job: Job) -> bool:
    ended_early = job.state in {"stopped", "failed"}
    return ended_early and time.time() - (job.ended or 0) > KEPT_SECONDS
