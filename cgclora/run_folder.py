"""A training run on disk: what it is, its log, and the checkpoints that it resumes from.

    .lock               held by the process that trains here
    run.json            settings, config, data hash: what a resumed run must agree with
    log.jsonl           a line per logging step and per evaluation
    seconds.json        training time up to the last checkpoint, over all processes
    checkpoints/        what an interrupted run resumes from
    adapter/            the result: the weights with the lowest dev loss

A checkpoint counts only when the hashes of all its files are there, which are written last: a run
that was killed while it wrote one resumes from the one before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from cgclora import files

COMPLETE_FILE = "complete.json"
SECONDS_FILE = "seconds.json"


class TrainingError(RuntimeError):
    """A training run that cannot start or go on; the message says why and what to do."""


class TrainingDiverged(TrainingError):  # noqa: N818 - as TrainingStopped
    """The loss or its gradient is no number any more."""


class TrainingStopped(TrainingError):  # noqa: N818 - no error: somebody wanted it
    """A training run that was told to stop, and can be gone on with."""


def hold(folder: Path) -> AbstractContextManager[Any]:
    """Keep other processes out of a run folder; the system lets go when the holder dies.

    Raises:
        TrainingError: Another process holds it.
    """
    try:
        return FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout as error:
        raise TrainingError(
            f"another process trains in this folder, {folder}: wait for it, or choose another one."
        ) from error


def claim(folder: Path, identity: Mapping[str, Any]) -> None:
    """Note what this run is, or check that the folder's run is this one.

    Raises:
        TrainingError: The folder holds a run with other settings, config or data, or its note of
            them is damaged.
    """
    path = folder / "run.json"
    if not path.exists():
        files.write_json(path, identity)
        return
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(earlier, dict):
            raise ValueError(f"a {type(earlier).__name__} where a table should be")
    except ValueError as error:
        raise TrainingError(
            f"{path} is damaged ({error}), and nothing else says what this run is: put back a "
            "copy, or choose another folder."
        ) from error
    differing = [
        key for key in identity if json.dumps(earlier.get(key)) != json.dumps(identity[key])
    ]
    if differing:
        raise TrainingError(
            f"{folder} holds a run that differs in {', '.join(differing)}: "
            "repeat its settings to resume it, or choose another folder."
        )


class Stopwatch:
    """The training time of a run: that before this process, and that since it was made.

    It is noted with each checkpoint, so that steps which a killed process lost, and another one
    takes again, count once.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / SECONDS_FILE
        self._before = seconds_spent(folder)
        self._started = time.monotonic()

    def note(self) -> None:
        """Write it down."""
        seconds = self._before + time.monotonic() - self._started
        files.write_sealed(self._path, {"seconds": round(seconds, 1)})


def seconds_spent(folder: Path) -> float:
    """The training time of a run so far.

    Raises:
        TrainingError: The note of it is damaged.
    """
    path = folder / SECONDS_FILE
    if not path.exists():
        return 0.0
    try:
        return float(files.read_sealed(path)["seconds"])
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path} is damaged ({error!r}): put back a copy, or remove it and give the command "
            "again; the time before is not counted then."
        ) from error


def cut_log(log_file: Path, checkpoint: Path | None) -> None:
    """Drop what was logged after the checkpoint: those steps are run again."""
    if not log_file.exists():
        return
    step = step_of(checkpoint) if checkpoint else 0
    kept = []
    for line in files.whole_lines(log_file):
        with suppress(ValueError, KeyError, TypeError):  # a damaged line; the others stay
            if json.loads(line)["step"] <= step:
                kept.append(line)
    files.write_text(log_file, "".join(f"{line}\n" for line in kept))


def mark_complete(checkpoint: Path) -> None:
    """Write the hashes of a checkpoint's files; without them a checkpoint does not count."""
    hashes = {
        path.name: files.sha256_file(path)
        for path in sorted(checkpoint.iterdir())
        if path.is_file() and path.name != COMPLETE_FILE
    }
    files.write_json(checkpoint / COMPLETE_FILE, hashes)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint under a folder whose files all have the hashes noted for them."""
    found = sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True)
    return next((path for path in found if _is_complete(path)), None)


def best_checkpoint(folder: Path, step: int | None) -> Path:
    """The checkpoint under a folder that was written at the step with the lowest dev loss.

    The path that the trainer notes for it is that of the folder where the run began, which may have
    been copied or moved since.

    Raises:
        TrainingError: It is not there, or its files do not have the hashes noted for them.
    """
    checkpoint = folder / f"checkpoint-{step}"
    if not _is_complete(checkpoint):
        raise TrainingError(
            f"{checkpoint}, which has the lowest dev loss, is missing or damaged: put back a copy, "
            f"or remove {folder} and give the command again to train anew."
        )
    return checkpoint


def step_of(checkpoint: Path) -> int:
    """The step at which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def _is_complete(checkpoint: Path) -> bool:
    try:
        hashes = json.loads((checkpoint / COMPLETE_FILE).read_text(encoding="utf-8"))
        return all(files.sha256_file(checkpoint / name) == value for name, value in hashes.items())
    except (OSError, ValueError):
        return False


def state_at_the_end(checkpoint: Path | None) -> TrainerState | None:
    """The trainer's state at a checkpoint, if it is the one at which the run ended."""
    if checkpoint is None:
        return None
    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    ended = state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]
    return state if ended else None
