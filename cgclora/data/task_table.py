"""Descriptions of tasks: `tasks.toml` beside the data, and the manifest of an adapter.

Each is a table with the task's `name` and keys such as `title`, `kind` or `template`. Nothing here
reads more than the name: the keys are those of the evaluation.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cgclora.data.records import DataError
from cgclora.data.sources import data_folder

TABLE_FILE = "tasks.toml"
"""Name of the table beside the data."""

DESCRIPTIONS = "task descriptions"
"""The key of a manifest under which an adapter's tasks are described, by name."""

Entries = Mapping[str, Mapping[str, Any]]
"""Descriptions by the names of their tasks."""


def parse_table(content: str, name: str) -> dict[str, dict[str, Any]]:
    """The entries of a table by the names of their tasks; `name` stands in messages.

    Raises:
        DataError: It is not TOML, an entry has no name, two share one, or a value is of a kind that
            JSON, in which a manifest is written, does not have.
    """
    try:
        listed = tomllib.loads(content)["tasks"]
        entries = {str(entry["name"]): dict(entry) for entry in listed}
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{name} cannot be read as TOML: {error}.") from error
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{name} must have a list `tasks`, each with a `name`.") from error
    if len(entries) < len(listed):
        raise DataError(f"{name} describes a task twice: keep one entry of each.")
    for task, entry in entries.items():
        try:
            json.dumps(entry, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise DataError(f"{name}: {task} has a date or no finite number ({error}).") from error
    return entries


def read_table(path: Path) -> dict[str, dict[str, Any]]:
    """The entries of a file; none if it is not there.

    Raises:
        DataError: As `parse_table`, or the file cannot be read.
    """
    if not path.is_file():
        return {}
    try:
        return parse_table(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as TOML: {error}.") from error


def table_beside(source: str | Path | None) -> Path:
    """Where the table of some data is, if it has one: in its folder, or in the folder of its file.

    None takes the folder of `CGCLORA_DATA`.

    Raises:
        DataError: No folder is known.
    """
    path = Path(source) if source else data_folder(None)
    return (path if path.is_dir() else path.parent) / TABLE_FILE


def description_facts(entries: Entries, tasks: Iterable[str]) -> dict[str, Any]:
    """What the manifest of an adapter says of its tasks; empty if none of them is described."""
    described = {task: dict(entries[task]) for task in tasks if task in entries}
    return {DESCRIPTIONS: described} if described else {}


def descriptions_in(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The descriptions in a manifest, which may be another's; what is no table is left out."""
    described = manifest.get(DESCRIPTIONS)
    if not isinstance(described, Mapping):
        return {}
    return {task: dict(entry) for task, entry in described.items() if isinstance(entry, Mapping)}
