"""Where a result comes from: versions, commit and hardware, for every manifest."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PACKAGES = ("cgclora", "torch", "transformers", "accelerate", "safetensors", "gguf")

CODE = (
    *(":(top)*.py", ":(top)evals/tasks/*.toml", ":(top)requirements.txt", ":(top)pyproject.toml"),
    ":(top,exclude)tests",
)
"""What makes a result, in git's words for paths."""


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Installed versions of Python and of packages, by default those that shape a result."""
    installed = {package: _installed(package) for package in packages}
    present = {package: version for package, version in installed.items() if version is not None}
    return {"python": platform.python_version(), **present}


@cache
def _installed(package: str) -> str | None:
    """A package's version; None if it is not there. Taken once a process, as `commit` is."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@cache
def commit() -> dict[str, Any]:
    """The commit of this code, and whether code or pins were changed since; empty without git.

    Taken once a process, when it is first asked for.
    """
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(  # noqa: S603 - fixed words, no user input
            command, cwd=here, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--", *CODE)),
        }
    except (OSError, subprocess.SubprocessError):
        return {}


def hardware(model: PreTrainedModel | None) -> dict[str, Any]:
    """Processor, threads and accelerator; of a model where it is and in which dtype it computes."""
    import torch  # noqa: PLC0415 - slow to import, and versions and commit need none

    facts: dict[str, Any] = {
        "machine": platform.machine(),
        "processor": _processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
    if model is not None:
        facts["device"] = model.device.type
        facts["dtype"] = str(model.dtype).removeprefix("torch.")
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def _processor() -> str:
    """The processor's name, as far as the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def stamp(model: PreTrainedModel | None) -> dict[str, Any]:
    """All of it for a result that a model gave, with the time in UTC.

    Without a model, which ran elsewhere then, the hardware is not known.
    """
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": commit(),
        "versions": versions(),
        "hardware": None if model is None else hardware(model),
    }
