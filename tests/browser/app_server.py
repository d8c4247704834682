"""The app as a process of its own, as a visitor's browser meets it."""

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

ROOT = Path(__file__).parents[2]
ADAPTERS = Path(os.environ.get("CGCLORA_ADAPTERS", ROOT / "assets" / "adapters"))
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
"""Chromium's, for tests."""


@dataclass(frozen=True)
class Running:
    """The app's process.

    Attributes:
        address: Where it listens, or is going to.
        process: Itself.
        log: What it says.
    """

    address: str
    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def start(
    settings: Mapping[str, str | None] | None = None,
    *,
    python: str | Path = sys.executable,
    folder: Path = ROOT,
    tracebacks: int | None = 0,
    **options: Any,
) -> Iterator[Running]:
    """Start the app, and end it afterwards.

    Args:
        settings: More of its environment; None takes a variable out.
        python: Who runs it.
        folder: Where it lies.
        tracebacks: How many it may print; None does not look.
        options: More for `subprocess.Popen`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port)}
    whole = {**os.environ, **own, "CGCLORA_ADAPTERS": str(ADAPTERS), **(settings or {})}
    with tempfile.TemporaryDirectory() as temporary:
        log = Path(temporary) / "log.txt"
        with log.open("w") as output:
            process = subprocess.Popen(
                [python, "app.py"],
                cwd=folder,
                env={name: value for name, value in whole.items() if value is not None},
                stdout=output,
                stderr=subprocess.STDOUT,
                **options,
            )
            try:
                yield Running(f"http://127.0.0.1:{port}", process, log)
                found = log.read_text().count("Traceback")
                assert tracebacks is None or found <= tracebacks, log.read_text()
                maps = Path(f"/proc/{process.pid}/maps")  # Linux's
                if process.poll() is None and maps.is_file():
                    assert "libtorch" not in maps.read_text(), "the page has imported torch"
            finally:
                process.terminate()
                process.wait(30)


@contextmanager
def serve(settings: Mapping[str, str | None] | None = None, **options: Any) -> Iterator[str]:
    """Start the app and yield its address once it answers; the model may be loading still.

    Args:
        settings: As for `start`.
        options: As for `start`.

    Raises:
        AssertionError: It ended before it answered, or it printed tracebacks; with all it said.
    """
    with start(settings, **options) as app:
        deadline = time.monotonic() + 120
        while not _answers(app.address):
            assert app.process.poll() is None, app.log.read_text()
            assert time.monotonic() < deadline, app.log.read_text()
            time.sleep(0.2)
        yield app.address


def wait_until_ready(app: Running, seconds: float = 120) -> None:
    """Wait until the app's model is loaded.

    Raises:
        AssertionError: It ended before, or took too long; with all it said.
    """
    deadline = time.monotonic() + seconds
    while not _ready(app.address):
        assert app.process.poll() is None, app.log.read_text()
        assert time.monotonic() < deadline, app.log.read_text()
        time.sleep(0.2)


def _ready(address: str) -> bool:
    try:
        with urlopen(f"{address}/ready", timeout=30) as reply:
            return bool(reply.status == 200)
    except OSError:  # an HTTPError is one, too
        return False


def held(process: int, what: str) -> int | None:
    """Bytes of memory that a process and its children hold; elsewhere than on Linux None.

    `what` is Linux's name (`VmRSS`, `VmHWM`). Pages that they share count for each.
    """
    folder = Path(f"/proc/{process}")
    try:
        found = re.search(rf"{what}:\s*(\d+) kB", (folder / "status").read_text())
        children = {
            int(child)
            for listed in folder.glob("task/*/children")
            for child in listed.read_text().split()
        }
    except OSError:  # not Linux, or it has ended
        return None
    own = int(found[1]) * 1024 if found else 0
    return own + sum(held(child, what) or 0 for child in children)


def _answers(address: str) -> bool:
    """Whether the app's own page is there; before, another one answers 503."""
    try:
        with urlopen(address, timeout=30) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False
