"""Graceful shutdown: accepted requests are answered, and jobs save what they have."""

from __future__ import annotations

import logging
import signal
import threading
import time
from types import FrameType

import gradio as gr

from evals.jobs.queue import Jobs
from ui.engine.engine import Engine
from ui.server.log import note

_POLL_SECONDS = 0.2

_log = logging.getLogger(__name__)


def shut_down_on_sigterm(
    page: gr.Blocks, engine: Engine, seconds: float, jobs: Jobs | None = None
) -> None:
    """On SIGTERM refuse new requests, wait for answers, and stop serving.

    A second SIGTERM kills the process.

    Args:
        page: What is served.
        engine: Answers prompts.
        seconds: Longest wait for answers and jobs.
        jobs: Evaluations and trainings that end with the server; they save their state and can be
            resumed. None lets them outlive the server.
    """

    def handle(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        threading.Thread(target=end, name="end").start()  # a signal handler must not block

    def end() -> None:
        note(_log, "ending", waiting=engine.waiting)
        deadline = time.monotonic() + seconds
        if jobs is not None:
            for job in _running(jobs):
                jobs.stop(job)
        engine.end(seconds)
        while jobs is not None and _running(jobs) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        page.close(verbose=False)

    signal.signal(signal.SIGTERM, handle)


def _running(jobs: Jobs) -> list[str]:
    return [job.id for job in jobs.all() if job.state == "running"]
