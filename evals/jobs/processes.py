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

NICENESS = 15
"""Of what is started here: it takes the processor time that answers for visitors leave.

It keeps all its threads and the way they wait: alone it is as fast as the same command in a shell,
with the same bits. What is not niced takes nearly all from a server on the same cores, even with
one thread: torch's threads spin as they wait for one another.
"""

_PACKAGES = Path(__file__).resolve().parents[2]
_own: set[str] = set()


def set_for_this_process(name: str, value: str) -> None:
    """Set a variable of the environment unless it is given; processes from `start` never get it."""
    if name not in os.environ:
        os.environ[name] = value
        _own.add(name)


def start(command: Sequence[str], log: IO[bytes], cwd: Path) -> subprocess.Popen[bytes]:
    """Start Python in a session of its own, in the background, where it finds our packages.

    Args:
        command: What comes after the interpreter.
        log: Where its output goes, errors and all, without delay.
        cwd: Its working directory.

    Raises:
        OSError: It cannot be started; the working directory is gone, say.
    """
    path = os.pathsep.join(filter(None, [str(_PACKAGES), os.environ.get("PYTHONPATH")]))
    given = {name: value for name, value in os.environ.items() if name not in _own}
    child = subprocess.Popen(  # noqa: S603 - callers compose the command, nobody else
        [sys.executable, *command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        env={**given, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )
    _yield_processors(child.pid)
    return child


def _yield_processors(pid: int) -> None:
    """Lower the priority of a process that has just got a session of its own.

    Linux may share the processors out among sessions first (`autogroup` in sched(7)): a process's
    niceness then counts within its session alone, and the session has one of its own.
    """
    with suppress(OSError):  # it has ended already
        if hasattr(os, "setpriority"):
            niceness = max(NICENESS, os.getpriority(os.PRIO_PROCESS, pid))
            os.setpriority(os.PRIO_PROCESS, pid, niceness)
            Path(f"/proc/{pid}/autogroup").write_text(f"{niceness}", encoding="ascii")


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
