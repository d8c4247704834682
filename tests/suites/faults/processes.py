"""Processes that work until they are done or killed, and say how far they have come."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.suites.faults.scene import Scene

Say = Callable[[Any], None]
Work = Callable[..., None]
"""Takes a `Say`, which commits what it says, and what `start` was given."""

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.suites.faults.works"])  # what is slow to import

_SECONDS = 120.0  # no work here takes as long
_OPERATIONS = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate")


@dataclass(frozen=True)
class Operations:
    """How many operations on files work took that has ended.

    Attributes:
        number: So many.
    """

    number: int


@dataclass(frozen=True)
class Failure:
    """How work ended that raised.

    Attributes:
        error: Names of the error's class and of those above it.
        message: What it said.
    """

    error: tuple[str, ...]
    message: str


@dataclass
class Child:
    """A process at work.

    Attributes:
        process: It.
        said: What it has said so far, heard by `hear`.
        operations: Of its work on files, once that has ended well.
        failure: How it ended, where the work raised.
    """

    process: Any
    _pipe: Connection
    said: list[Any] = field(default_factory=list)
    operations: int | None = None
    failure: Failure | None = None

    def hear(self, until: Any = None) -> None:
        """Take in what it says until it ends, or until it says something."""
        ends = time.monotonic() + _SECONDS
        while self._pipe.poll(max(0.0, ends - time.monotonic())):
            try:
                word = self._pipe.recv()
            except (EOFError, OSError):  # killed in the middle of a word, which then was not said
                break
            if isinstance(word, Failure):
                self.failure = word
            elif isinstance(word, Operations):
                self.operations = word.number
            else:
                self.said.append(word)
            if until is not None and word == until:
                return
        else:
            self.process.kill()
            raise TimeoutError("a process neither ended nor said anything")
        self.process.join(_SECONDS)

    def tell(self, word: Any) -> None:
        """Say something to it."""
        self._pipe.send(word)

    def kill(self) -> None:
        """End it at once, if it has not ended, and take in what it said before."""
        self.process.kill()
        self.hear()


def start(work: Work, *arguments: Any, die_at: int | None = None, waits: bool = False) -> Child:
    """Start work in a process of its own.

    Args:
        work: What to do, a function of a module.
        *arguments: What it takes besides `say`.
        die_at: At which of its operations on files it kills itself; counted from 1.
        waits: Whether it waits for a word before it begins.
    """
    ours, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=_main, args=(theirs, work, arguments, die_at, waits))
    process.start()
    theirs.close()
    child = Child(process, ours)
    child.hear(until="begun")
    child.said.clear()
    return child


def _main(
    pipe: Connection, work: Work, arguments: tuple[Any, ...], die_at: int | None, waits: bool
) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - as long as the process
    operations = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal operations
        if event in _OPERATIONS and _changes(event, arguments):
            operations += 1
            if operations == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    pipe.send("begun")
    if waits:
        pipe.recv()
    sys.addaudithook(count)
    try:
        work(pipe.send, *arguments)
        pipe.send(Operations(operations))
    except BaseException as error:
        names = tuple(kind.__name__ for kind in type(error).__mro__)
        pipe.send(Failure(names, str(error)))
        os._exit(1)


def _changes(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether an operation changes what is on the disk."""
    return event != "open" or bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


@dataclass(frozen=True)
class Measure:
    """Work that nothing disturbed.

    Attributes:
        seconds: How long it took.
        operations: How many operations on files it took.
    """

    seconds: float
    operations: int


def measure(work: Work, *arguments: Any) -> Measure:
    """Do work to its end."""
    child = start(work, *arguments)
    began = time.monotonic()
    child.hear()
    seconds = time.monotonic() - began
    assert child.operations is not None, child.failure
    return Measure(seconds, child.operations)


def kill(scene: Scene, usual: Measure, work: Work, *arguments: Any) -> list[Any]:
    """Do work and kill it, by the clock or at an operation on files; returns what it had said.

    Args:
        scene: Draws which, and when.
        usual: The same work undisturbed.
        work: As `start`.
        *arguments: As `start`.
    """
    if scene.random.random() < 0.5:
        number = scene.random.randint(1, usual.operations)
        scene.moment = f"file operation {number} of {usual.operations}"
        child = start(work, *arguments, die_at=number)
        child.hear()
    else:
        seconds = scene.random.uniform(0, usual.seconds)
        scene.moment = f"{1000 * seconds:.0f} of {1000 * usual.seconds:.0f} ms"
        child = start(work, *arguments)
        child.process.join(seconds)
        child.kill()
    assert child.failure is None, child.failure
    return [
        word for word in child.said if not (isinstance(word, tuple) and word[0] == "operations")
    ]
