"""Background processes that can be identified, and ended with their own child processes."""

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

NICENESS_VARIABLE = "CGCLORA_JOB_NICENESS"
"""Environment variable with another niceness."""

NICENESS = 15
"""Background processes only take the processor time that the server's answers leave.

Without it they take nearly all of the server's, even with one thread, because torch's threads spin
while they wait for one another. Alone they are as fast as in a shell, with the same results.
"""

_PACKAGES = Path(__file__).resolve().parents[2]
_own: set[str] = set()  # variables of this process alone


def set_for_this_process(name: str, value: str) -> None:
    """Set an environment variable that processes from `start` do not get; a given value is kept."""
    if name not in os.environ:
        os.environ[name] = value
        _own.add(name)


def start(command: Sequence[str], log: IO[bytes], cwd: Path) -> subprocess.Popen[bytes]:
    """Start Python in its own session, in the background, with these packages importable.

    Args:
        command: Arguments of the interpreter.
        log: Gets its output and errors, unbuffered.
        cwd: Working directory.

    Raises:
        OSError: It cannot be started, for example because `cwd` is gone.
    """
    child = subprocess.Popen(  # noqa: S603 - only callers compose the command
        [sys.executable, *command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        env={**importing(), "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )
    _yield_processors(child.pid)
    return child


def importing() -> dict[str, str]:
    """This process's environment for a Python that can import these packages."""
    path = os.pathsep.join(filter(None, [str(_PACKAGES), os.environ.get("PYTHONPATH")]))
    given = {name: value for name, value in os.environ.items() if name not in _own}
    return {**given, "PYTHONPATH": path}


def job_niceness(environment: Mapping[str, str] = os.environ) -> int:
    """The niceness of background processes, from 0 to 19; ValueError if the variable is wrong."""
    written = environment.get(NICENESS_VARIABLE) or f"{NICENESS}"
    if not (written.isascii() and written.isdecimal() and int(written) <= 19):
        raise ValueError(f"{NICENESS_VARIABLE} is {written!r}: give a whole number from 0 to 19.")
    return int(written)


def _yield_processors(pid: int) -> None:
    """Lower the priority of a process and of its session.

    Linux may divide processor time among sessions first (`autogroup` in sched(7)): a process's
    niceness then only counts within its session, which has its own.
    """
    with suppress(OSError):  # it has ended already
        if hasattr(os, "setpriority"):
            niceness = max(job_niceness(), os.getpriority(os.PRIO_PROCESS, pid))
            os.setpriority(os.PRIO_PROCESS, pid, niceness)
            Path(f"/proc/{pid}/autogroup").write_text(f"{niceness}", encoding="ascii")


def signal_group(pid: int, what: signal.Signals) -> None:
    """Send a signal to a process from `start` and to its child processes."""
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(pid, what)
        else:
            os.kill(pid, what)


def identity(pid: int) -> dict[str, Any]:
    """JSON values that identify a process even after its number was reused."""
    return {"pid": pid, "birth": _birth(pid)}


def kill_leftover(process: Mapping[str, Any] | None) -> None:
    """Kill the group of a process if its `identity` still matches.

    Without start times of processes, as outside of Linux, nothing is killed.
    """
    if process and (birth := process.get("birth")) and _birth(process["pid"]) == birth:
        signal_group(process["pid"], KILL)


def _birth(pid: int) -> str | None:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # The second field, the command's name in brackets, may contain spaces and brackets.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return f"{boot} {fields[19].decode()}"
