"""The process that runs the jobs of a folder, one after another."""

from __future__ import annotations

import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from filelock import Timeout

from evals.jobs.job_files import LOG_FILE, JobError, JobFiles, waiting
from evals.jobs.processes import KILL, identity, signal_group, start

IDLE_SECONDS = 10.0
"""How long a worker waits for another job before it ends."""

GRACE_SECONDS = 120.0
"""Between SIGTERM and SIGKILL: a training still takes a step, its dev loss and a checkpoint."""

_LOOK_SECONDS = 0.2  # between two looks at the job and at the queue
_INTERRUPTED = 130  # see `cgclora.cli.exit_codes`


def work(root: Path, idle: float = IDLE_SECONDS) -> None:
    """Run jobs in turn until there was none for `idle` seconds; at most one process does."""
    store = JobFiles(root)
    store.root.mkdir(parents=True, exist_ok=True)
    lock = store.worker_lock(timeout=1.0)  # others hold it for a moment, see `worker_lives`
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
                    lock.release()  # under the queue's lock, see `Jobs`
                    return
            if begun is None:
                time.sleep(_LOOK_SECONDS)
                continue
            job_id, child = begun
            _end(store, job_id, _wait(store, job_id, child))
            last = time.monotonic()
    finally:
        lock.release()


def _begin_next(store: JobFiles) -> tuple[str, subprocess.Popen[bytes]] | None:
    """Start the next job of the queue; None if there is none, or if it cannot be started."""
    if not (queue := waiting(store.read_all())):
        return None
    job = replace(queue[0], state="running", started=time.time())
    with (job.folder / LOG_FILE).open("ab") as log:
        log.write(f"$ {job.command_line()}\n".encode())
        log.flush()
        try:
            child = start(job.command, log, Path(job.cwd))
        except (OSError, ValueError) as error:  # no such working directory; a null byte
            log.write(f"{error}\n".encode())
            store.write(job.ended_as("failed", 1))
            return None
    store.write(replace(job, process=identity(child.pid)))
    return job.id, child


def _wait(store: JobFiles, job_id: str, child: subprocess.Popen[bytes]) -> int:
    """Wait for a command's end, and stop it on request; returns the exit code."""
    stopped_at: float | None = None
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                return child.wait(_LOOK_SECONDS)
            if stopped_at is None and _is_to_stop(store, job_id):
                stopped_at = time.monotonic()
                signal_group(child.pid, signal.SIGTERM)
            elif stopped_at is not None and time.monotonic() - stopped_at > GRACE_SECONDS:
                signal_group(child.pid, KILL)
    finally:
        signal_group(child.pid, KILL)  # its own processes; and itself, if the worker must end


def _is_to_stop(store: JobFiles, job_id: str) -> bool:
    try:
        return store.read(job_id).stop
    except JobError:  # its file was removed by hand
        return True


def _end(store: JobFiles, job_id: str, code: int) -> None:
    with store.hold(), suppress(JobError):
        job = store.read(job_id)
        if code == 0:
            store.write(job.ended_as("done", code))
            store.remove_uploads(job)
        elif job.stop or code in {-signal.SIGTERM, _INTERRUPTED}:
            store.write(job.ended_as("stopped", code))
        else:
            store.write(job.ended_as("failed", code))
