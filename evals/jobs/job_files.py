"""A job on disk, and the folder of all jobs: what the queue, its worker and readers share."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import BaseFileLock, FileLock, Timeout

from cgclora.storage import atomic_io
from evals.jobs.processes import kill_leftover

Kind = Literal["evaluate", "train"]
State = Literal["queued", "running", "stopped", "failed", "done"]
Values = dict[str, Any]
"""What a job's file says."""

JOB_FILE = "job.json"
LOG_FILE = "log.txt"

KEPT_SECONDS = 24 * 3600.0
"""How long a job that did not come to its end keeps its uploads, for going on with it."""

_FORGOTTEN_SECONDS = 3600.0  # a folder without a job is that of somebody who gave up
_LATER_SECONDS = 1e-5  # which floats of Unix seconds can tell apart
_LOCK_SECONDS = 30.0  # changes take milliseconds; whoever waits longer should be told
_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}", re.ASCII)


class JobError(ValueError):
    """A request that cannot be met; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Job:
    """A command that runs, ran or waits.

    Attributes:
        id: Sorts by time of creation (UTC); the name of its folder.
        kind: What the command does.
        title: What a person calls it; not escaped.
        command: What comes after the Python interpreter, such as `-m evals run ...`.
        state: `stopped` and `failed` jobs can be gone on with.
        place: 1 is the next one of the queue; 0 when it does not wait.
        created: Unix seconds, as the two below.
        started: When its command was last begun; None before.
        ended: When that ended; None before.
        facts: What was noted of it when it was submitted.
        folder: Holds its log; whatever else its command puts there.
        code: Exit code of its command, negative for a signal; None before it ended.
        stopping: Whether it was told to stop and has not yet.
        clean: Names of files in the folder that are removed once it is done.
    """

    id: str
    kind: Kind
    title: str
    command: tuple[str, ...]
    state: State
    place: int
    created: float
    started: float | None
    ended: float | None
    facts: Mapping[str, Any]
    folder: Path
    code: int | None = None
    stopping: bool = False
    clean: tuple[str, ...] = ()

    @property
    def resumable(self) -> bool:
        """Whether `Jobs.resume` can go on with it."""
        ended_early = self.state in {"stopped", "failed"}
        return ended_early and all((self.folder / name).is_file() for name in self.clean)

    def command_line(self) -> str:
        """What a user would type in its place."""
        return shlex.join(["python", *self.command])

    def log_tail(self, characters: int = 4000) -> str:
        """The end of what its command printed; progress bars as they stood last."""
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
    """The folders of all jobs.

    Args:
        root: Holds them.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, name: str) -> Path:
        """Where a job lies.

        Raises:
            JobError: That is no id.
        """
        if not _ID.fullmatch(name):
            raise JobError(f"{name!r} is no job id: reload the page.")
        return self.root / name

    def read(self, name: str) -> Values:
        """What a job's file says.

        Raises:
            JobError: It is missing or damaged.
        """
        try:
            values = atomic_io.read_sealed(self.folder(name) / JOB_FILE)
            self.job(name, values)
            return {**values, "queued": float(values["queued"])}
        except FileNotFoundError as error:
            message = f"there is no job {name}: it may have been removed; reload the page."
            raise JobError(message) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise JobError(f"the job {name} is damaged ({error!r}): remove its folder.") from error

    def read_all(self) -> dict[str, Values]:
        """What can be read, by id."""
        found: dict[str, Values] = {}
        for path in sorted(self.root.iterdir()) if self.root.is_dir() else ():
            if _ID.fullmatch(path.name):
                with suppress(JobError):
                    found[path.name] = self.read(path.name)
        return found

    def write(self, name: str, values: Mapping[str, Any]) -> None:
        """Replace a job's file."""
        atomic_io.write_sealed(self.root / name / JOB_FILE, values)

    def job(self, name: str, values: Mapping[str, Any], place: int = 0) -> Job:
        """A job from what its file says; raises anything where that is damaged."""
        if values["state"] not in get_args(State) or values["kind"] not in get_args(Kind):
            raise ValueError("unknown state or kind")
        if values["process"] is not None:
            int(values["process"]["pid"])
        folder = self.root / name
        return Job(
            id=name,
            kind=values["kind"],
            title=str(values["title"]),
            command=tuple(map(str, values["command"])),
            state=values["state"],
            place=place,
            created=float(values["created"]),
            started=_seconds(values["started"]),
            ended=_seconds(values["ended"]),
            facts=dict(values["facts"]),
            folder=folder,
            code=None if values["code"] is None else int(values["code"]),
            stopping=values["state"] == "running" and bool(values["stop"]),
            clean=tuple(inside(folder, path) for path in values["clean"]),
        )

    def clean(self, name: str, values: Mapping[str, Any]) -> None:
        """Remove a job's uploads."""
        for file in values["clean"]:
            (self.root / name / file).unlink(missing_ok=True)

    def forget_prepared(self) -> None:
        """Remove folders that were prepared for a job that never came, and their uploads."""
        for folder in self.root.iterdir():
            with suppress(OSError):
                old = time.time() - folder.stat().st_mtime > _FORGOTTEN_SECONDS
                if old and _ID.fullmatch(folder.name) and not (folder / JOB_FILE).exists():
                    shutil.rmtree(folder)

    def settle(self) -> None:
        """End what a dead worker left running, and remove uploads that were kept long enough.

        To be called while the queue is held and no other process is the worker.
        """
        for name, values in self.read_all().items():
            if values["state"] == "running":
                kill_leftover(values["process"])
                self.write(name, {**values, **ended("stopped")})
            elif self._is_overdue(values):
                self.clean(name, values)

    def is_due(self, name: str, values: Values) -> bool:
        """Whether something is to be done about a job: it waits or runs, or its uploads must go."""
        folder = self.folder(name)
        return values["state"] in {"queued", "running"} or (
            self._is_overdue(values) and any((folder / file).exists() for file in values["clean"])
        )

    @staticmethod
    def _is_overdue(values: Values) -> bool:
        return (
            values["state"] in {"stopped", "failed"}
            and time.time() - (values["ended"] or 0) > KEPT_SECONDS
        )

    def end_of_queue(self) -> float:
        """The time of a job that comes now, in Unix seconds: later than that of any before it.

        The clock may have been set back since. To be called while the queue is held.
        """
        last: float = max((values["queued"] for values in self.read_all().values()), default=0.0)
        return max(time.time(), last + _LATER_SECONDS)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep others from changing a job for a moment.

        Raises:
            JobError: Somebody else does so for too long.
        """
        try:
            with FileLock(self.root / ".lock", timeout=_LOCK_SECONDS):
                yield
        except Timeout as error:
            raise JobError("another process holds the queue: try again in a minute.") from error

    def worker_lock(self, timeout: float) -> BaseFileLock:
        """The lock of the one worker."""
        return FileLock(self.root / ".worker.lock", timeout=timeout)

    def worker_lives(self) -> bool:
        """Whether some process is the worker."""
        try:
            with self.worker_lock(0):
                return False
        except Timeout:
            return True


def ended(state: State, code: int | None = None) -> Values:
    """What changes in a job's file when its command has ended."""
    return {"state": state, "ended": time.time(), "code": code, "stop": False, "process": None}


def waiting(known: Mapping[str, Values]) -> list[str]:
    """The ids of the queue, the next one first."""
    names = [name for name, values in known.items() if values["state"] == "queued"]
    return sorted(names, key=lambda name: (known[name]["queued"], name))


def inside(folder: Path, path: str | Path) -> str:
    """A file's name within a job's folder.

    Raises:
        JobError: It would lie elsewhere.
    """
    whole = Path(os.path.normpath(folder / path))
    if not whole.is_relative_to(folder) or whole == folder:
        raise JobError(f"{path} is not in the job's folder: only files there are cleaned up.")
    return whole.relative_to(folder).as_posix()


def _seconds(value: float | None) -> float | None:
    return None if value is None else float(value)
