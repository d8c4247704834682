"""How the server ends: what was asked is answered, what runs beside it is told to save."""

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

_SECONDS_BETWEEN_LOOKS = 0.2

_log = logging.getLogger(__name__)


def stop_gently(page: gr.Blocks, engine: Engine, seconds: float, jobs: Jobs | None = None) -> None:
    """On SIGTERM take nothing more, let answers end within so many seconds, and stop serving.

    A second SIGTERM ends at once.

    Args:
        page: What is served.
        engine: Who answers.
        seconds: That what is under way may take to end.
        jobs: Evaluations and trainings that end with the server: they are told to save what they
            have, and can be resumed. None lets them go on by themselves.
    """

    def ask(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        threading.Thread(target=end, name="end").start()  # a handler must not wait

    def end() -> None:
        note(_log, "ending", waiting=engine.waiting)
        late = time.monotonic() + seconds
        if jobs is not None:
            for job in _running(jobs):
                jobs.stop(job)
        engine.end(seconds)
        while jobs is not None and _running(jobs) and time.monotonic() < late:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        page.close(verbose=False)

    signal.signal(signal.SIGTERM, ask)


def _running(jobs: Jobs) -> list[str]:
    return [job.id for job in jobs.all() if job.state == "running"]
