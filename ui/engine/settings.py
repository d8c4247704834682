"""All that the app is told by its environment, in one place: folders, switches, limits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parents[2]
_AT_HOME = ("", "127.0.0.1", "localhost", "::1")


class SettingsError(ValueError):
    """A variable of the environment cannot be used; the message names it and says what may be."""


@dataclass(frozen=True)
class Limits:
    """What one server takes on. Each is read from `CGCLORA_MAX_` and its name in capitals.

    Attributes:
        characters: Of the longest prompt.
        prompt_tokens: Of the longest prompt, as the backbone counts.
        answer_tokens: Of the longest answer.
        answer_seconds: That an answer may take once it was begun.
        at_once: Questions in one batch.
        waiting: Questions that wait while batches are full.
        per_minute: Questions of one visitor within a minute.
        upload_mb: Megabytes of an uploaded file.
        upload_lines: Lines of an uploaded file.
        uploads_mb: Megabytes of all uploads within an hour, which is how long they are kept.
        jobs: Evaluations and trainings that wait.
    """

    characters: int = 6000
    prompt_tokens: int = 4096
    answer_tokens: int = 512
    answer_seconds: int = 120
    at_once: int = 16
    waiting: int = 64
    per_minute: int = 60
    upload_mb: int = 64
    upload_lines: int = 200_000
    uploads_mb: int = 1024
    jobs: int = 20

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Limits:
        """The defaults, but for what the environment says.

        Raises:
            SettingsError: A variable is no whole number of at least 1.
        """
        said = {one.name: environment.get(variable(one.name), "") for one in fields(cls)}
        return cls(**{name: _whole(name, value) for name, value in said.items() if value})


def variable(limit: str) -> str:
    """The environment's name of a limit."""
    return f"CGCLORA_MAX_{limit.upper()}"


def _whole(limit: str, value: str) -> int:
    # Beyond nine digits nothing is limited any more, and some of who reads it would overflow.
    if not (value.isascii() and value.isdecimal() and len(value) < 10 and int(value)):
        raise SettingsError(f"{variable(limit)} is {value!r}: give a whole number of at least 1.")
    return int(value)


@dataclass(frozen=True)
class Settings:
    """What `app.py` is told.

    Attributes:
        adapters: Holds the adapters' folders.
        runs: Where evaluations and trainings are kept.
        keep: A folder where evaluations are kept as well, see `evals.jobs.backup`.
        keep_dataset: A dataset repository where they are.
        backbone: A local folder or hub id; None is the embedded backbone.
        int8: Whether CPUs decode by copies of the weights in few bits.
        jobs_end: Whether those end with the server, as in a container, or outlive it.
        jobs_allowed: Whether visitors may start evaluations and trainings.
        on_space: Whether this is a Hugging Face Space.
        proxied: Whether requests come through a proxy that says whose they are.
        json_log: Whether the log is for programs.
        ending_seconds: That all has to end in when the server is told to stop.
        limits: What is taken on.
    """

    adapters: Path = _HERE / "assets" / "adapters"
    runs: Path = _HERE / "runs"
    keep: Path | None = None
    keep_dataset: str | None = None
    backbone: str | None = None
    int8: bool = True
    jobs_end: bool = False
    jobs_allowed: bool = True
    on_space: bool = False
    proxied: bool = False
    json_log: bool = False
    ending_seconds: int = 20
    limits: Limits = field(default_factory=Limits)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """As the environment says; see `app.py` for the variables.

        Raises:
            SettingsError: A variable has a value that means nothing.
        """
        get = environment.get
        on_space = "SPACE_ID" in environment
        told: dict[str, Any] = {
            "jobs_allowed": _switch(environment, "CGCLORA_ALLOW_JOBS", _at_home(environment)),
            "jobs_end": _switch(environment, "CGCLORA_END_JOBS", on_space),
            "int8": _switch(environment, "CGCLORA_INT8", True),
            "proxied": _switch(environment, "CGCLORA_PROXIED", on_space),
            "json_log": _switch(environment, "CGCLORA_JSON_LOG", on_space),
            "on_space": on_space,
            "backbone": get("CGCLORA_BACKBONE") or None,
            "keep_dataset": get("CGCLORA_KEEP_DATASET") or None,
            "limits": Limits.from_environment(environment),
        }
        for name in ("adapters", "runs", "keep"):
            if folder := get(f"CGCLORA_{name.upper()}"):
                told[name] = Path(folder)
        return cls(**told)


def _switch(environment: Mapping[str, str], name: str, default: bool) -> bool:
    said = environment.get(name, "")
    if said not in ("", "0", "1"):
        raise SettingsError(f"{name} is {said!r}: give 1 for yes or 0 for no.")
    return said == "1" if said else default


def _at_home(environment: Mapping[str, str]) -> bool:
    """Whether only this machine's own people reach the page: others could fill the disk."""
    shared = environment.get("GRADIO_SHARE", "").lower() == "true" or "SPACE_ID" in environment
    return not shared and environment.get("GRADIO_SERVER_NAME", "") in _AT_HOME
