"""The one process that runs the jobs of a folder, one after another."""

from __future__ import annotations

import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from filelock import Timeout

from evals.jobs.job_files import LOG_FILE, JobError, JobFiles, ended, waiting
from evals.jobs.processes import KILL, identity, signal_group, start

IDLE_SECONDS = 10.0
"""How long a worker waits for another job before it ends."""

GRACE_SECONDS = 120.0
"""How long a job that is told to stop may take before it is killed: a training ends with a step, an
evaluation of its dev set and a checkpoint."""

_LOOK_SECONDS = 0.2  # between two looks at the job and at the queue
_INTERRUPTED = 130  # see `cgclora.cli.exit_codes`


def work(root: Path, idle: float = IDLE_SECONDS) -> None:
    """Run jobs in turn until there has been none for a while; at once if another process does.

    Args:
        root: Folder of the jobs.
        idle: Seconds to wait for another one.
    """
    root = root.absolute()
    root.mkdir(parents=True, exist_ok=True)
    store = JobFiles(root)
    lock = store.worker_lock(timeout=1.0)  # others hold it for a moment, to ask
    try:
        lock.acquire()
    except Timeout:
        return
    last = time.monotonic()
    try:
        while True:
            with store.hold():
                store.settle()
                begun = _begin_next(store)
                if begun is None and time.monotonic() - last >= idle:
                    lock.release()  # within the same moment, see `Jobs`
                    return
            if begun is None:
                time.sleep(_LOOK_SECONDS)
                continue
            name, child = begun
            _end(store, name, _attend(store, name, child))
            last = time.monotonic()
    finally:
        lock.release()


def _begin_next(store: JobFiles) -> tuple[str, subprocess.Popen[bytes]] | None:
    """Start the job whose turn it is; None when there is none, or when it cannot be started."""
    known = store.read_all()
    if not (names := waiting(known)):
        return None
    name, folder = names[0], store.root / names[0]
    values = {**known[name], "state": "running", "started": time.time()}
    with (folder / LOG_FILE).open("ab") as log:
        log.write(f"$ {store.job(name, values).command_line()}\n".encode())
        log.flush()
        try:
            child = start(values["command"], log, Path(values["cwd"]))
        except (OSError, ValueError) as error:  # no such working directory; a null byte
            log.write(f"{error}\n".encode())
            store.write(name, {**values, **ended("failed", 1)})
            return None
    store.write(name, {**values, "process": identity(child.pid)})
    return name, child


def _attend(store: JobFiles, name: str, child: subprocess.Popen[bytes]) -> int:
    """Wait for a command's end, and see to it when that is wanted; returns the exit code."""
    told: float | None = None
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                return child.wait(_LOOK_SECONDS)
            if told is None and _wants_stop(store, name):
                told = time.monotonic()
                signal_group(child.pid, signal.SIGTERM)
            elif told is not None and time.monotonic() - told > GRACE_SECONDS:
                signal_group(child.pid, KILL)
    finally:
        signal_group(child.pid, KILL)  # what it started; itself too, if the worker has to end


def _wants_stop(store: JobFiles, name: str) -> bool:
    try:
        return bool(store.read(name)["stop"])
    except JobError:  # somebody removed it by hand
        return True


def _end(store: JobFiles, name: str, code: int) -> None:
    with store.hold(), suppress(JobError):
        values = store.read(name)
        if code == 0:
            store.write(name, {**values, **ended("done", code)})
            store.clean(name, values)
        elif values["stop"] or code in {-signal.SIGTERM, _INTERRUPTED}:
            store.write(name, {**values, **ended("stopped", code)})
        else:
            store.write(name, {**values, **ended("failed", code)})
