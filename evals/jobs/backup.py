"""Keeps the evaluations of visitors where a Space that starts anew finds them again.

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

from evals.jobs.backup_log import FOLDER, KeptRuns

if TYPE_CHECKING:
    from huggingface_hub import CommitScheduler, HfApi

_LOOK_SECONDS = 10.0  # between two looks at the runs
_MOST_SECONDS = 600.0  # between two tries when nothing helps
_PUSH_MINUTES = 5  # between two tries to push what could not be pushed at once

_log = logging.getLogger(__name__)


class Keeper:
    """Puts back at start what was kept, then keeps what is new.

    Args:
        runs: Folder of the evaluations.
        folder: Where they are kept; it must be there.
        look_seconds: Between two looks.
    """

    def __init__(self, runs: Path, folder: Path, *, look_seconds: float = _LOOK_SECONDS) -> None:
        self.folder = folder
        self.kept = KeptRuns(runs, folder)
        self._look_seconds = look_seconds
        self._restored = False
        self._stop = Event()

    def start(self) -> None:
        """Begin, on a thread of its own."""
        Thread(target=self._run, name="keep", daemon=True).start()

    def stop(self) -> None:
        """End with the look that is under way."""
        self._stop.set()

    def look(self) -> None:
        """Put back once what was kept, then keep what is new.

        Raises:
            Exception: Whatever a disk or the hub may come up with; to be called again later.
        """
        if not self._restored:
            # First, lest what comes back be taken for new.
            self._put_back()
            self._restored = True
        if added := self.kept.keep():
            _log.info("kept %s", ", ".join(added))
            self._added()

    def _put_back(self) -> None:
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{self.folder} is no folder: mount one there")
        self.kept.restore()

    def _added(self) -> None:
        """What comes after a run was kept."""

    def _run(self) -> None:
        pause = self._look_seconds
        while not self._stop.is_set():
            try:
                self.look()
                pause = self._look_seconds
            except Exception as error:  # a library's, too: the next try may do better
                pause = min(2 * pause, _MOST_SECONDS)
                _log.warning("evaluations are not kept: %s; again in %.0f s", error, pause)
            self._stop.wait(pause)


class DatasetKeeper(Keeper):
    """As `Keeper`, with the files in a dataset repository as well.

    Args:
        runs: Folder of the evaluations.
        folder: Where the files lie here.
        dataset: Id of the repository.
        api: The hub; by default the one of the environment, with its token.
        look_seconds: Between two looks.
    """

    def __init__(
        self,
        runs: Path,
        folder: Path,
        dataset: str,
        *,
        api: HfApi | None = None,
        look_seconds: float = _LOOK_SECONDS,
    ) -> None:
        super().__init__(runs, folder, look_seconds=look_seconds)
        self._dataset = dataset
        self._api = api
        self._scheduler: CommitScheduler | None = None

    def stop(self) -> None:
        """End with the look that is under way, and push no more."""
        super().stop()
        if self._scheduler:
            self._scheduler.stop()

    def _put_back(self) -> None:
        from huggingface_hub import CommitScheduler, HfApi  # noqa: PLC0415 - slow, and rarely used

        api = self._api or HfApi()
        if self._scheduler is None:  # it makes the repository and pushes what was left behind
            self._scheduler = CommitScheduler(
                repo_id=self._dataset,
                repo_type="dataset",
                private=True,
                folder_path=self.kept.folder,
                path_in_repo=FOLDER,
                allow_patterns="*.jsonl",
                every=_PUSH_MINUTES,
                hf_api=api,
            )
        there = api.snapshot_download(
            self._dataset, repo_type="dataset", allow_patterns=f"{FOLDER}/*.jsonl"
        )
        self.kept.restore(Path(there))

    def _added(self) -> None:
        if self._scheduler:
            self._scheduler.trigger()


def keepers(runs: Path, folder: Path | None, dataset: str | None) -> list[Keeper]:
    """Those that are asked for.

    Args:
        runs: Holds `evaluations`, the folder of the runs.
        folder: Where they are kept, if in a folder.
        dataset: Where they are kept, if in a dataset repository.
    """
    found: list[Keeper] = []
    if folder is not None:
        found.append(Keeper(runs / "evaluations", folder))
    if dataset is not None:
        found.append(DatasetKeeper(runs / "evaluations", runs / "kept", dataset))
    return found
