"""A training run on disk: what it is, its log, and the checkpoints that it resumes from.

    .lock               held by the process that trains here
    run.json            settings, config, data hash: what a resumed run must agree with
    log.jsonl           a line per logging step and per evaluation
    checkpoints/        what an interrupted run resumes from, each a folder:
        state.json                where the run stands
        adapter.safetensors       the weights
        optimizer.safetensors     Adam's moments of each of them
        best.safetensors          the weights with the lowest dev loss, where they are others
        complete.json             the hashes of these files
    adapter/            the result: the weights with the lowest dev loss

A checkpoint counts only when the hashes of all its files are there, which are written last: a run
that was killed while it wrote one resumes from the one before. It needs no other checkpoint.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgclora.storage import atomic_io
from cgclora.storage.adapter_dir import write_tensors
from cgclora.storage.atomic_io import in_short

if TYPE_CHECKING:
    from torch import Tensor

COMPLETE_FILE = "complete.json"
STATE_FILE = "state.json"
BEST_FILE = "best.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"


class TrainingError(RuntimeError):
    """A training run that cannot start or go on; the message says why and what to do."""


class TrainingDiverged(TrainingError):  # noqa: N818 - as TrainingStopped
    """The loss or its gradient is no number any more."""


class TrainingStopped(TrainingError):  # noqa: N818 - no error, but a request
    """A training run that was asked to stop, and can be resumed."""


def hold(folder: Path) -> AbstractContextManager[Any]:
    """Keep other processes out of a run folder; the system lets go when the holder dies.

    Raises:
        TrainingError: Another process holds it.
    """
    return atomic_io.acquire(
        folder / ".lock",
        TrainingError(
            f"another process trains in this folder, {folder}: wait for it, or choose another one."
        ),
    )


def claim(folder: Path, identity: Mapping[str, Any]) -> None:
    """Write `run.json`, or check that the folder's run is this one.

    Raises:
        TrainingError: The folder holds a run with other settings, config or data, or a damaged one.
    """
    atomic_io.claim(folder / "run.json", identity, TrainingError, atomic_io.write_json)


def cut_log(log_file: Path, checkpoint: Path | None) -> None:
    """Drop what was logged after the checkpoint: those steps are taken again."""
    if not log_file.exists():
        return
    step = step_of(checkpoint) if checkpoint else 0
    kept = []
    for line in atomic_io.whole_lines(log_file):
        with suppress(ValueError, KeyError, TypeError):  # a damaged line; the others stay
            if json.loads(line)["step"] <= step:
                kept.append(line)
    atomic_io.write_text(log_file, "".join(f"{line}\n" for line in kept))


def write_checkpoint(
    checkpoint: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> None:
    """Write a checkpoint's tensors by file and name, then remove all but the one before.

    `state` is what else a resumed run must know, as JSON values.

    Raises:
        TrainingError: It cannot be written; those that were there count as before.
    """
    try:
        shutil.rmtree(checkpoint, ignore_errors=True)  # begun by a process that was killed
        checkpoint.mkdir(parents=True)
        for name, table in tensors.items():
            write_tensors(checkpoint / name, table)
        atomic_io.write_json(checkpoint / STATE_FILE, state)
        hashes = {path.name: atomic_io.sha256_file(path) for path in sorted(checkpoint.iterdir())}
        atomic_io.write_json(checkpoint / COMPLETE_FILE, hashes)
    except OSError as error:
        raise TrainingError(
            f"no checkpoint could be written to {checkpoint.parent}: free room there and give the "
            f"command again, it goes on from the one before. ({in_short(error)})"
        ) from error
    for older in checkpoints(checkpoint.parent)[2:]:
        shutil.rmtree(older)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints under a folder that count, the newest first."""
    newest_first = sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True)
    return [path for path in newest_first if _is_complete(path)]


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What `write_checkpoint` was given as state."""
    state: dict[str, Any] = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    return state


def step_of(checkpoint: Path) -> int:
    """The step at which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def _is_complete(checkpoint: Path) -> bool:
    try:
        hashes = json.loads((checkpoint / COMPLETE_FILE).read_text(encoding="utf-8"))
        return all(
            atomic_io.sha256_file(checkpoint / name) == value for name, value in hashes.items()
        )
    except (OSError, ValueError):
        return False
