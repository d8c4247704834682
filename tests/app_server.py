"""The app as a process of its own, as a visitor's browser meets it."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
ADAPTERS = Path(os.environ.get("CGCLORA_ADAPTERS", ROOT / "assets" / "adapters"))
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
"""Chromium's, for tests."""


@contextmanager
def serve(settings: Mapping[str, str] | None = None) -> Iterator[str]:
    """Start the app and yield its address once it answers; the model may be loading still.

    Args:
        settings: More of its environment.

    Raises:
        AssertionError: It ended before it answered, or it said `Traceback`; with all it said.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port)}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "app.py"],
                cwd=ROOT,
                env={**os.environ, **own, "CGCLORA_ADAPTERS": str(ADAPTERS), **(settings or {})},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                deadline = time.monotonic() + 120
                while not _answers(port):
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < deadline, log.read_text()
                    time.sleep(0.2)
                yield f"http://127.0.0.1:{port}"
                assert "Traceback" not in log.read_text(), log.read_text()
            finally:
                process.terminate()
                process.wait(30)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
