"""Child processes that can be told from others, and ended with all that they started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

KILL: signal.Signals = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has the latter alone

FOR_SERVERS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""What a server that answers sets for itself, see `ui.memory`: a training computes other shapes."""

_PACKAGES = Path(__file__).resolve().parents[1]


def start(command: Sequence[str], log: IO[bytes], cwd: Path) -> subprocess.Popen[bytes]:
    """Start Python in a session of its own, where it finds our packages.

    Args:
        command: What comes after the interpreter.
        log: Where its output goes, errors and all, without delay.
        cwd: Its working directory.

    Raises:
        OSError: It cannot be started; the working directory is gone, say.
    """
    path = os.pathsep.join(filter(None, [str(_PACKAGES), os.environ.get("PYTHONPATH")]))
    own = {name: value for name, value in os.environ.items() if name not in FOR_SERVERS}
    return subprocess.Popen(  # noqa: S603 - callers compose the command, nobody else
        [sys.executable, *command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        env={**own, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )


def signal_group(pid: int, what: signal.Signals) -> None:
    """Send a signal to a process that `start` started, and to all that it started in turn."""
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(pid, what)
        else:
            os.kill(pid, what)


def identity(pid: int) -> dict[str, Any]:
    """What tells a process from any other, before or after it; as JSON values."""
    return {"pid": pid, "birth": _birth(pid)}


def kill_leftover(process: Mapping[str, Any] | None) -> None:
    """Kill the group of a process if it still is the one that `identity` was asked about.

    Where the system does not say when a process began, nothing is killed.
    """
    if process and (birth := process.get("birth")) and _birth(process["pid"]) == birth:
        signal_group(process["pid"], KILL)


def _birth(pid: int) -> str | None:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # The second field, the command's name in brackets, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return f"{boot} {fields[19].decode()}"
