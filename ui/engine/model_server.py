"""The process of the model: it loads a backbone and computes what the page asks.

Each call has a connection and a thread; `ui.engine.model_process` is the page's side.
"""

from __future__ import annotations

import gc
import logging
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener
from tempfile import TemporaryDirectory

from cgclora.config import ConfigError
from cgclora.inference.request import DecodingError
from ui.engine.client import EngineError
from ui.engine.memory import bound_memory
from ui.engine.models import BackboneFacts, Load, Models, loader
from ui.engine.settings import AppLimits
from ui.server.log import set_up_log

_POLL_SECONDS = 0.05

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """What the process is told on its standard input, which the page closes to end it.

    Attributes:
        source: See `loader`.
        int8: See `loader`.
        limits: See `Models`.
        json_log: See `set_up_log`.
        key: Of every connection.
    """

    source: str | None = None
    int8: bool = True
    limits: AppLimits = field(default_factory=AppLimits)
    json_log: bool = False
    key: bytes = field(default_factory=lambda: os.urandom(32), repr=False)


class Loading(Models):
    """Models that are loaded without being asked to.

    Attributes:
        stage: The current step and the fraction that is done.
        result: What was loaded, or why it could not be; None until loading has ended.
    """

    def __init__(self, load: Load, limits: AppLimits) -> None:
        super().__init__(load, limits)
        self.stage = ("", 0.0)
        self.result: BackboneFacts | EngineError | None = None

    def begin(self) -> None:
        """Load; returns when it has ended."""
        try:
            self.result = self.load(self._report)
        except Exception as error:  # the page has to know
            _log.exception("the model could not be loaded")
            self.result = EngineError(str(error))
        finally:
            gc.freeze()  # what is imported by now stays
            gc.enable()

    def _report(self, stage: str, fraction: float) -> None:
        self.stage = (stage, fraction)


def loading(models: Loading) -> Generator[tuple[str, float] | BackboneFacts]:
    """The stages of loading, and at last what was loaded.

    Raises:
        EngineError: It could not be loaded.
    """
    told = None
    while models.result is None:
        if models.stage != told:
            told = models.stage
            yield told
        time.sleep(_POLL_SECONDS)
    if isinstance(models.result, EngineError):
        raise models.result
    yield models.result


def queue(models: Models) -> Generator[tuple[int, int]]:
    """`waiting` and `seconds_until_room` whenever they change, without end."""
    told = None
    while True:
        now = models.waiting, models.seconds_until_room
        if now != told:
            told = now
            yield now
        time.sleep(_POLL_SECONDS)


def drain(models: Models, seconds: float) -> Generator[None]:
    """See `Models.end`."""
    models.end(seconds)
    yield


def main() -> None:
    """Serve until standard input is closed."""
    for ignored in (signal.SIGINT, signal.SIGTERM):  # the page gets them, too, and ends this
        signal.signal(ignored, signal.SIG_IGN)
    page = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print
    start: Start = pickle.load(sys.stdin.buffer)  # noqa: S301 - the page's
    set_up_log(as_json=start.json_log)
    bound_memory()
    gc.disable()  # until everything is imported, which takes 15 % longer with it
    models = Loading(loader(start.source, int8=start.int8), start.limits)
    with TemporaryDirectory(prefix="cgclora-") as folder, _listener(folder, start) as listener:
        threading.Thread(target=_accept, args=(listener, models), daemon=True).start()
        with page:
            pickle.dump(listener.address, page)
        threading.Thread(target=models.begin, daemon=True).start()
        sys.stdin.buffer.read()
    os._exit(0)  # threads may be deep within a product


def _listener(folder: str, start: Start) -> Listener:
    address = None if sys.platform == "win32" else f"{folder}/model"  # Windows has pipes by name
    return Listener(address, authkey=start.key)


def _accept(listener: Listener, models: Models) -> None:
    while True:
        with suppress(AuthenticationError, EOFError, OSError):
            connection = listener.accept()
            threading.Thread(target=_serve, args=(connection, models), daemon=True).start()


def _serve(connection: Connection, models: Models) -> None:
    """Answer a call."""
    with connection, suppress(EOFError, BrokenPipeError, ConnectionResetError):  # of the page
        work, arguments = connection.recv()
        try:
            with closing(work(models, *arguments)) as values:
                for value in values:
                    connection.send((value, None))
        except (BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:  # the caller has to know
            connection.send((None, _plain(error)))
        connection.send(None)


def _plain(error: Exception) -> Exception:
    """An error as the page, which has no torch, can read it."""
    if isinstance(error, EngineError | ConfigError | DecodingError):
        return error
    if isinstance(error, ValueError):
        return ValueError(str(error))
    _log.error("an error in the model's process", exc_info=error)
    return RuntimeError(f"{type(error).__name__}: {error}")
