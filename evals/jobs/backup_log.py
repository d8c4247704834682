"""Finished runs in files that a wiped disk does not take along, and back from there.

    evaluations/<process>.jsonl     a line a run; a process writes a file of its own

Lines are only ever added; of two of one run the later counts. A line is an object:

    format    version of this layout
    run       the way from the folder of all runs to the run's
    sha256    of its manifest
    files     the content of each of its files, as base64; the manifest knows the others' hashes

A line that a crash cut short, and whatever else is damaged, is passed over with a warning.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from cgclora.storage import atomic_io
from evals.runs.run_dir import MANIFEST_FILE, METRICS_FILE, find_runs

FORMAT = 1
FOLDER = "evaluations"
"""Where the files lie, in a folder of the user's or in a repository."""

_log = logging.getLogger(__name__)


class BackupLog:
    """The finished runs below a folder, and the files that back them up.

    Args:
        runs: Folder of the runs.
        folder: Holds `FOLDER`, where this process writes a file of its own.
    """

    def __init__(self, runs: Path, folder: Path) -> None:
        self.runs = runs
        self.folder = folder / FOLDER
        name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(4)}.jsonl"
        self._own = self.folder / name
        self._hashes: dict[str, str] = {}  # of each run the hash of its manifest

    def restore(self, *folders: Path) -> list[str]:
        """Put back the runs that are not here; what lies here already stays as it is.

        Args:
            folders: Read beside this object's own; each holds `FOLDER`.

        Returns:
            The names of those that were put back, in order.

        Raises:
            OSError: A run cannot be written here.
        """
        restored: dict[str, None] = {}
        for folder in (*(folder / FOLDER for folder in folders), self.folder):
            for path in sorted(folder.glob("*.jsonl")):
                for name, content in _read(path):
                    target = self.runs / name
                    if name in restored or not (target / MANIFEST_FILE).exists():
                        with atomic_io.replace_folder(target) as new:
                            for file, data in content.items():
                                (new / file).write_bytes(data)
                        restored[name] = None
                    self._hashes[name] = atomic_io.sha256(content[MANIFEST_FILE])
        return list(restored)

    def add_new(self) -> list[str]:
        """Back up the scored runs whose present state is in no file; returns their names.

        Raises:
            OSError: The file cannot be written to; the next call tries again.
        """
        added = []
        for folder in find_runs(self.runs):
            name = folder.relative_to(self.runs).as_posix()
            try:
                manifest = (folder / MANIFEST_FILE).read_bytes()
                if self._hashes.get(name) == (mark := atomic_io.sha256(manifest)):
                    continue
                content = _content(folder, manifest)
            except (OSError, ValueError, KeyError, TypeError):
                continue  # damaged, or being replaced just now; the leaderboard says which
            if METRICS_FILE in content:
                files = {file: base64.b64encode(data).decode() for file, data in content.items()}
                self._append({"format": FORMAT, "run": name, "sha256": mark, "files": files})
                self._hashes[name] = mark
                added.append(name)
        return added

    def _append(self, value: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        line = json.dumps(value).encode() + b"\n"
        with self._own.open("a+b") as stream:
            if end := stream.seek(0, os.SEEK_END):
                stream.seek(end - 1)
                if stream.read(1) != b"\n":  # a full disk cut the line before short
                    line = b"\n" + line
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())


def _content(folder: Path, manifest: bytes) -> dict[str, bytes]:
    """What the files of a run hold, the manifest among them.

    Raises:
        OSError: One is missing.
        ValueError, KeyError, TypeError: One is damaged.
    """
    names = json.loads(manifest)["files"]
    files = {str(name): (folder / name).read_bytes() for name in names}
    return _checked({MANIFEST_FILE: manifest, **files})


def _checked(content: dict[str, bytes]) -> dict[str, bytes]:
    """The same, if the manifest says so.

    Raises:
        ValueError, KeyError, TypeError: It does not.
    """
    named = json.loads(content[MANIFEST_FILE])["files"]
    if {MANIFEST_FILE, *named} != content.keys():
        raise ValueError("its files are not those that its manifest names")
    for name, mark in named.items():
        if PurePosixPath(name).name != name or name.startswith("."):
            raise ValueError(f"{name!r} is no name of a file")
        if atomic_io.sha256(content[name]) != mark:
            raise ValueError(f"{name} is damaged")
    return content


def _read(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The runs of a file, each its name and what its files hold."""
    try:
        with path.open("rb") as lines:
            for place, line in enumerate(lines, start=1):
                try:
                    yield _parse(line)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    _log.warning("%s: line %d is passed over: %s", path, place, error)
    except OSError as error:
        _log.warning("%s is passed over: %s", path, error.strerror)


def _parse(line: bytes) -> tuple[str, dict[str, bytes]]:
    value = json.loads(line)
    if value["format"] != FORMAT:
        raise ValueError(f"its format is {value['format']!r}, this version reads {FORMAT}")
    name = PurePosixPath(value["run"])
    if name.is_absolute() or not name.parts or any(part.startswith(".") for part in name.parts):
        raise ValueError(f"{value['run']!r} is no way to a run")
    content = {file: base64.b64decode(data, validate=True) for file, data in value["files"].items()}
    if atomic_io.sha256(content[MANIFEST_FILE]) != value["sha256"]:
        raise ValueError(f"{MANIFEST_FILE} is damaged")
    return str(name), _checked(content)
