"""The model in a process of its own, so that page and model are imported at once.

The page then neither waits for the model's threads and memory nor ends with it. A call is a
connection: it sends a generator function, such as those of `ui.engine.questions`, with its
arguments, and gets the values that it yields there; closing the connection stops the work.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from multiprocessing.connection import Client
from typing import IO, Any, TypeVar

from evals.jobs.processes import KILL, importing
from ui.engine.client import EngineError
from ui.engine.model_server import Start, drain, loading, queue
from ui.engine.models import SECONDS_UNTIL_ROOM, BackboneFacts, Models, Progress, loader
from ui.engine.settings import Settings
from ui.engine.zero_gpu import ZERO_GPU

T = TypeVar("T")

_COMMAND = "from ui.engine.model_server import main; main()"
_ENDING_SECONDS = 5.0


class ModelEndedError(EngineError):
    """The model's process has ended."""


class ModelProcess:
    """Has the methods of `Models`, but they run in another process, which begins to load at once.

    Attributes:
        limits: Largest prompts, answers and queues.
        waiting: How many requests wait.
        seconds_until_room: When to retry after the queue was full.
    """

    def __init__(self, start: Start) -> None:
        self._start = start
        self.limits = start.limits
        self._ending = False
        self.waiting, self.seconds_until_room = 0, SECONDS_UNTIL_ROOM
        self._process = self._spawn()
        self._address: Any = None

    def load(self, progress: Progress) -> BackboneFacts:
        """Wait until the backbone is loaded; a process that has ended is started again.

        Raises:
            EngineError: It cannot be loaded, or the process ends meanwhile.
        """
        if self._process.poll() is not None:
            _close(self._process.stdin)
            _close(self._process.stdout)
            self._process, self._address = self._spawn(), None
        if self._address is None:
            try:
                with self._told:
                    self._address = pickle.load(self._told)  # noqa: S301 - of our own process
            except EOFError as error:
                raise _ended(self._process) from error
        for step in self.run(loading):
            if isinstance(step, BackboneFacts):
                return step
            progress(*step)
        raise RuntimeError("the model's process neither loaded the backbone nor said why.")

    def run(self, work: Callable[..., Generator[T]], *arguments: object) -> Generator[T]:
        """The values of `work(models, *arguments)`; closing the iterator stops the work.

        Raises:
            ModelEndedError: The process has ended, ends meanwhile, or has hardly been started.
            RuntimeError: An error that nobody expected, which the process has logged.
            The errors of `work` otherwise.
        """
        process = self._process  # another one takes its place when it has ended
        if self._address is None:
            raise ModelEndedError("the model's process is being started: ask again in a minute.")
        try:
            connection = Client(self._address, authkey=self._start.key)
        except (OSError, EOFError) as error:
            raise _ended(process) from error
        with connection:
            try:
                connection.send((work, arguments))
                while (reply := connection.recv()) is not None:
                    value, refusal = reply
                    if refusal is not None:
                        raise refusal
                    yield value
            except (EOFError, OSError) as error:
                raise _ended(process) from error

    def watch(self) -> None:
        """Follow the queue; returns when the process has ended without being told to."""
        with suppress(ModelEndedError):
            for waiting, seconds in self.run(queue):
                self.waiting, self.seconds_until_room = waiting, seconds
        self.waiting = 0
        if self._ending:
            threading.Event().wait()

    def end(self, seconds: float) -> None:
        """Take no more requests, finish those in progress within so many seconds, and end."""
        self._ending = True
        with suppress(EngineError):
            list(self.run(drain, seconds))
        _close(self._process.stdin)
        try:
            self._process.wait(_ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.send_signal(KILL)

    def _spawn(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(  # noqa: S603 - its command is above
            [sys.executable, "-c", _COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=importing(),
        )
        assert process.stdin is not None  # noqa: S101 - for the types
        with suppress(OSError):  # it has ended already, as `load` will say
            pickle.dump(self._start, process.stdin)
            process.stdin.flush()
        return process

    @property
    def _told(self) -> IO[bytes]:
        """Where the process writes its address."""
        assert self._process.stdout is not None  # noqa: S101 - for the types
        return self._process.stdout


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        with suppress(OSError):  # of what could not be written
            pipe.close()


def _ended(process: subprocess.Popen[bytes]) -> ModelEndedError:
    with suppress(subprocess.TimeoutExpired):
        process.wait(_ENDING_SECONDS)
    code = process.returncode
    if code is None:
        return ModelEndedError("the model's process hung up; its log says why: ask again.")
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    memory = "; perhaps the memory was full" if code == -KILL else ""
    return ModelEndedError(f"the model's process ended {how}{memory}: ask again in a minute.")


def open_models(settings: Settings) -> Models | ModelProcess:
    """The model of the app: in a process of its own, except on ZeroGPU, which forks this one."""
    source, int8, limits = settings.backbone, settings.int8, settings.limits
    if ZERO_GPU:
        return Models(loader(source, int8=int8), limits)
    return ModelProcess(Start(source, int8, limits, settings.json_log))
