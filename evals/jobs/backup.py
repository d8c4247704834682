"""Backs up the evaluations of visitors where a restarted Space finds them again.

That is a folder that outlasts the disk, such as a mounted bucket, or a dataset repository, written
to with the token in HF_TOKEN; one that is not there yet is made, and private.

All of it happens on a thread of its own and is tried again when it fails: no visitor waits for a
bucket or for the hub, and the runs here stay what they are.
"""

from __future__ import annotations

import logging
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

from evals.jobs.backup_log import FOLDER, BackupLog

if TYPE_CHECKING:
    from huggingface_hub import CommitScheduler, HfApi

_LOOK_SECONDS = 10.0  # between two looks at the runs
_MOST_SECONDS = 600.0  # between two tries when nothing helps
_PUSH_MINUTES = 5  # between two tries to push what could not be pushed at once

_log = logging.getLogger(__name__)


class Backup:
    """Restores at start what was backed up, then adds what is new.

    Args:
        runs: Folder of the evaluations.
        folder: Where the files lie here; without a dataset it must be there.
        dataset: Id of a dataset repository that holds the files, too.
        api: The hub; by default the one of the environment, with its token.
        look_seconds: Between two looks.
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
        """Begin, on a thread of its own."""
        Thread(target=self._run, name="backup", daemon=True).start()

    def stop(self) -> None:
        """End with the look that is under way, and push no more."""
        self._stop.set()
        if self._scheduler:
            self._scheduler.stop()

    def _look(self) -> None:
        if not self._restored:
            # First, lest what comes back be taken for new.
            self._runs.restore(*self._downloaded())
            self._restored = True
        if added := self._runs.add_new():
            _log.info("backed up %s", ", ".join(added))
            if self._scheduler:
                self._scheduler.trigger()

    def _downloaded(self) -> list[Path]:
        """Folders with what the repository holds."""
        if self.dataset is None:
            if not self.folder.is_dir():
                raise FileNotFoundError(f"{self.folder} is no folder: mount one there")
            return []
        from huggingface_hub import CommitScheduler, HfApi  # noqa: PLC0415 - slow, and rarely used

        api = self._api or HfApi()
        if self._scheduler is None:  # it makes the repository and pushes what was left behind
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
        there = api.snapshot_download(
            self.dataset, repo_type="dataset", allow_patterns=f"{FOLDER}/*.jsonl"
        )
        return [Path(there)]

    def _run(self) -> None:
        pause = self._look_seconds
        while not self._stop.is_set():
            try:
                self._look()
                pause = self._look_seconds
            except Exception as error:  # a library's, too: the next try may do better
                pause = min(2 * pause, _MOST_SECONDS)
                _log.warning("evaluations are not backed up: %s; again in %.0f s", error, pause)
            self._stop.wait(pause)


def backups(runs: Path, folder: Path | None, dataset: str | None) -> list[Backup]:
    """Those that are asked for.

    Args:
        runs: Holds `evaluations`, the folder of the runs.
        folder: Of a backup in a folder.
        dataset: Id of the repository of a backup in one.
    """
    found = [] if folder is None else [Backup(runs / "evaluations", folder)]
    if dataset is not None:
        found.append(Backup(runs / "evaluations", runs / "kept", dataset))
    return found
