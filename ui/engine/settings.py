"""The app's settings from environment variables: folders, switches, limits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from cgclora.storage.adapter_dir import AdapterError
from cgclora.storage.hub import collected
from evals.jobs.processes import job_niceness

_HERE = Path(__file__).resolve().parents[2]
_LOCALHOST = ("", "127.0.0.1", "localhost", "::1")


class SettingsError(ValueError):
    """An environment variable has an invalid value; the message names it and what is allowed."""


@dataclass(frozen=True)
class AppLimits:
    """Limits of one server, each read from `CGCLORA_MAX_` and its name in capitals.

    Attributes:
        characters: Longest prompt.
        prompt_tokens: Longest prompt in tokens.
        answer_tokens: Longest answer in tokens.
        answer_seconds: Time limit of an answer, from its first token.
        at_once: Requests in one batch.
        waiting: Requests in the queue.
        per_minute: Questions of one visitor within a minute.
        upload_mb: Size of an uploaded file in MB.
        upload_lines: Lines of an uploaded file.
        uploads_mb: Size of all uploads within an hour, after which they are deleted, in MB.
        jobs: Queued evaluations and trainings, and as many exports.
        export_mb: Size of an export in MB.
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
    export_mb: int = 4096

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> AppLimits:
        """The defaults, overridden by the environment.

        Raises:
            SettingsError: A variable is no whole number of at least 1.
        """
        values = {limit.name: environment.get(variable(limit.name), "") for limit in fields(cls)}
        return cls(**{name: _whole(name, value) for name, value in values.items() if value})


def variable(limit: str) -> str:
    """The environment variable of a limit."""
    return f"CGCLORA_MAX_{limit.upper()}"


def _whole(limit: str, value: str) -> int:
    # More than nine digits would be no limit, and would overflow in some places.
    if not (value.isascii() and value.isdecimal() and len(value) < 10 and int(value)):
        raise SettingsError(f"{variable(limit)} is {value!r}: give a whole number of at least 1.")
    return int(value)


@dataclass(frozen=True)
class Settings:
    """Settings of `app.py`.

    Attributes:
        adapters: Folder of the adapter folders; the variable may also list folders and hub ids.
        runs: Folder of evaluations and trainings.
        keep: Folder to back up evaluations to, see `evals.jobs.backup`.
        keep_dataset: Dataset repository to back them up to.
        backbone: A local folder or hub id; None is the embedded backbone.
        int8: Whether CPUs decode with quantized weights.
        jobs_end: Whether jobs end with the server, as in a container.
        jobs_allowed: Whether visitors may start evaluations and trainings.
        exports_allowed: Whether visitors may export adapters and push them to the hub.
        on_space: Whether this is a Hugging Face Space.
        proxied: Whether a proxy names the client of each request.
        json_log: Whether the log is JSON.
        ending_seconds: Time limit of the shutdown.
        limits: Largest prompts, answers, queues and uploads.
    """

    adapters: Path = _HERE / "assets" / "adapters"
    runs: Path = _HERE / "runs"
    keep: Path | None = None
    keep_dataset: str | None = None
    backbone: str | None = None
    int8: bool = True
    jobs_end: bool = False
    jobs_allowed: bool = True
    exports_allowed: bool = True
    on_space: bool = False
    proxied: bool = False
    json_log: bool = False
    ending_seconds: int = 20
    limits: AppLimits = field(default_factory=AppLimits)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """The settings of an environment; `docs/deploy.md` lists the variables.

        Raises:
            SettingsError: A variable has an invalid value.
        """
        get = environment.get
        try:
            job_niceness(environment)
        except ValueError as error:
            raise SettingsError(str(error)) from error
        on_space, private = "SPACE_ID" in environment, _is_private(environment)
        values: dict[str, Any] = {
            "jobs_allowed": _switch(environment, "CGCLORA_ALLOW_JOBS", private),
            "exports_allowed": _switch(environment, "CGCLORA_ALLOW_EXPORTS", private),
            "jobs_end": _switch(environment, "CGCLORA_END_JOBS", on_space),
            "int8": _switch(environment, "CGCLORA_INT8", True),
            "proxied": _switch(environment, "CGCLORA_PROXIED", on_space),
            "json_log": _switch(environment, "CGCLORA_JSON_LOG", on_space),
            "on_space": on_space,
            "backbone": get("CGCLORA_BACKBONE") or None,
            "keep_dataset": get("CGCLORA_KEEP_DATASET") or None,
            "limits": AppLimits.from_environment(environment),
        }
        for name in ("runs", "keep"):
            if folder := get(f"CGCLORA_{name.upper()}"):
                values[name] = Path(folder)
        if adapters := get("CGCLORA_ADAPTERS"):
            values["adapters"] = _adapters(adapters, values.get("runs", cls.runs))
        return cls(**values)


def _adapters(sources: str, runs: Path) -> Path:
    """A folder of adapters, or one with those that are listed, which may be on the hub."""
    if Path(sources).is_dir():
        return Path(sources)
    try:
        return collected(sources, runs / ".adapters")
    except AdapterError as error:
        raise SettingsError(f"CGCLORA_ADAPTERS: {error}") from error


def _switch(environment: Mapping[str, str], name: str, default: bool) -> bool:
    value = environment.get(name, "")
    if value not in ("", "0", "1"):
        raise SettingsError(f"{name} is {value!r}: give 1 for yes or 0 for no.")
    return value == "1" if value else default


def _is_private(environment: Mapping[str, str]) -> bool:
    """Whether the page is reachable from this machine alone, so that no stranger fills the disk."""
    shared = environment.get("GRADIO_SHARE", "").lower() == "true" or "SPACE_ID" in environment
    return not shared and environment.get("GRADIO_SERVER_NAME", "") in _LOCALHOST
