"""Backups of finished evaluations, from which a Space with a wiped disk restores them.

A backup is a folder that outlasts the disk, such as a mounted bucket, or a dataset repository,
written to with the token in HF_TOKEN; a missing repository is made, and private. It holds

    evaluations/<process>.jsonl     a line a run, appended by one process

Of two lines of one run the later counts. A line is an object:

    format    version of this layout
    run       path from the folder of all runs to the run's
    sha256    of its manifest
    files     content of each of its files in base64; the manifest has the others' hashes

Incomplete and damaged lines are skipped with a warning.
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
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from cgclora.storage import atomic_io
from evals.runs.run_dir import MANIFEST_FILE, METRICS_FILE, find_runs

if TYPE_CHECKING:
    from huggingface_hub import CommitScheduler, HfApi

FORMAT = 1
FOLDER = "evaluations"
"""Folder of the files in a backup."""

_LOOK_SECONDS = 10.0  # between two looks at the runs
_MAX_PAUSE_SECONDS = 600.0  # between two tries after failures
_PUSH_MINUTES = 5  # between two tries to push what could not be pushed at once

_log = logging.getLogger(__name__)


class BackupLog:
    """The backup of the finished runs below a folder.

    Args:
        runs: Folder of the runs.
        folder: Holds `FOLDER`, where this process writes its own file.
    """

    def __init__(self, runs: Path, folder: Path) -> None:
        self.runs = runs
        self.folder = folder / FOLDER
        name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(4)}.jsonl"
        self._file = self.folder / name
        self._hashes: dict[str, str] = {}  # of each run's manifest

    def restore(self, *folders: Path) -> list[str]:
        """Restore the runs that are missing here, also from other backups; returns their names.

        Raises:
            OSError: A run cannot be written.
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
        """Back up scored runs that are new or have changed; returns their names.

        Raises:
            OSError: The file cannot be written to; the next call tries again.
        """
        added = []
        for folder in find_runs(self.runs):
            name = folder.relative_to(self.runs).as_posix()
            try:
                manifest = (folder / MANIFEST_FILE).read_bytes()
                sha256 = atomic_io.sha256(manifest)
                if self._hashes.get(name) == sha256:
                    continue
                names = map(str, json.loads(manifest)["files"])
                files = {file: (folder / file).read_bytes() for file in names}
                content = _checked({MANIFEST_FILE: manifest, **files})
            except (OSError, ValueError, KeyError, TypeError):
                continue  # damaged, or being replaced; the leaderboard reports which
            if METRICS_FILE in content:
                encoded = {file: base64.b64encode(data).decode() for file, data in content.items()}
                self._append({"format": FORMAT, "run": name, "sha256": sha256, "files": encoded})
                self._hashes[name] = sha256
                added.append(name)
        return added

    def _append(self, value: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        line = json.dumps(value).encode() + b"\n"
        with self._file.open("a+b") as stream:
            if end := stream.seek(0, os.SEEK_END):
                stream.seek(end - 1)
                if stream.read(1) != b"\n":  # a full disk cut off the line before
                    line = b"\n" + line
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())


def _checked(content: dict[str, bytes]) -> dict[str, bytes]:
    """The same content of a run's files; ValueError, KeyError or TypeError if it is damaged."""
    hashes = json.loads(content[MANIFEST_FILE])["files"]
    if {MANIFEST_FILE, *hashes} != content.keys():
        raise ValueError("its files are not those that its manifest names")
    for name, sha256 in hashes.items():
        if PurePosixPath(name).name != name or name.startswith("."):
            raise ValueError(f"{name!r} is no name of a file")
        if atomic_io.sha256(content[name]) != sha256:
            raise ValueError(f"{name} is damaged")
    return content


def _read(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The name and the files' content of each run in a file of a backup."""
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    yield _parse(line)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    _log.warning("%s: line %d is skipped: %s", path, number, error)
    except OSError as error:
        _log.warning("%s is skipped: %s", path, error.strerror)


def _parse(line: bytes) -> tuple[str, dict[str, bytes]]:
    value = json.loads(line)
    if value["format"] != FORMAT:
        raise ValueError(f"its format is {value['format']!r}, this version reads {FORMAT}")
    name = PurePosixPath(value["run"])
    if name.is_absolute() or not name.parts or any(part.startswith(".") for part in name.parts):
        raise ValueError(f"{value['run']!r} is no path of a run")
    content = {file: base64.b64decode(data, validate=True) for file, data in value["files"].items()}
    if atomic_io.sha256(content[MANIFEST_FILE]) != value["sha256"]:
        raise ValueError(f"{MANIFEST_FILE} is damaged")
    return str(name), _checked(content)


class Backup:
    """Restores a backup at start and then adds new runs, on its own thread.

    After a failure it tries again: no request waits for a bucket or for the hub.

    Args:
        runs: Folder of the evaluations.
        folder: Holds the backup's files; without a dataset it must exist.
        dataset: Id of a dataset repository that holds the files, too.
        api: The hub; None takes that of the environment, with its token.
        look_seconds: Between two looks at the runs.
    """

    def __init__(
        self,
        runs: Path,
        folder: Path,
        dataset: str | None = None,
        *,
        api: HfApi | None = None,
        look_seconds: float = _LOOK_SECONDS,
    ) -> None:
        self.folder = folder
        self.dataset = dataset
        self._runs = BackupLog(runs, folder)
        self._api = api
        self._look_seconds = look_seconds
        self._restored = False
        self._scheduler: CommitScheduler | None = None
        self._stop = Event()

    def start(self) -> None:
        """Start the thread."""
        Thread(target=self._run, name="backup", daemon=True).start()

    def stop(self) -> None:
        """End after the current look, and push no more."""
        self._stop.set()
        if self._scheduler:
            self._scheduler.stop()

    def _look(self) -> None:
        if not self._restored:  # first, or restored runs would be taken for new ones
            self._runs.restore(*self._downloaded())
            self._restored = True
        if added := self._runs.add_new():
            _log.info("backed up %s", ", ".join(added))
            if self._scheduler:
                self._scheduler.trigger()

    def _downloaded(self) -> list[Path]:
        """Folders with the repository's content."""
        if self.dataset is None:
            if not self.folder.is_dir():
                raise FileNotFoundError(f"{self.folder} is no folder: mount one there")
            return []
        from huggingface_hub import CommitScheduler, HfApi  # noqa: PLC0415 - slow, and rarely used

        api = self._api or HfApi()
        if self._scheduler is None:  # it makes the repository and pushes earlier files
            self._scheduler = CommitScheduler(
                repo_id=self.dataset,
                repo_type="dataset",
                private=True,
                folder_path=self._runs.folder,
                path_in_repo=FOLDER,
                allow_patterns="*.jsonl",
                every=_PUSH_MINUTES,
                hf_api=api,
            )
        snapshot = api.snapshot_download(
            self.dataset, repo_type="dataset", allow_patterns=f"{FOLDER}/*.jsonl"
        )
        return [Path(snapshot)]

    def _run(self) -> None:
        pause = self._look_seconds
        while not self._stop.is_set():
            try:
                self._look()
                pause = self._look_seconds
            except Exception as error:  # of any library: the next try may succeed
                pause = min(2 * pause, _MAX_PAUSE_SECONDS)
                _log.warning("evaluations are not backed up: %s; again in %.0f s", error, pause)
            self._stop.wait(pause)


def backups(runs: Path, folder: Path | None, dataset: str | None) -> list[Backup]:
    """Backups of the runs in `runs/evaluations` in a folder, a dataset repository, or both."""
    requested = [] if folder is None else [Backup(runs / "evaluations", folder)]
    if dataset is not None:
        requested.append(Backup(runs / "evaluations", runs / "kept", dataset))
    return requested
