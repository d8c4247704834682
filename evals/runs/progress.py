"""Progress of a run, read without its lock and without changing anything."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cgclora.storage.atomic_io import LOG_FILE, whole_lines
from evals.runs.run_dir import (
    ANSWERS_FILE,
    IDENTITY_FILE,
    MANIFEST_FILE,
    partial_folder,
)


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    tasks: Mapping[str, tuple[int, int]]  # answered records and all records, by task
    seconds_left: float | None  # of answering, from the run's log; None while unknown

    @property
    def done(self) -> int:
        """Records answered, of all tasks."""
        return sum(done for done, _ in self.tasks.values())

    @property
    def total(self) -> int:
        """Records to answer, of all tasks."""
        return sum(total for _, total in self.tasks.values())


def read_progress(run: Path) -> Progress | None:
    """Progress of an unfinished run by the folder that it will have; None if there is none."""
    folder = partial_folder(run)
    if (run / MANIFEST_FILE).exists():
        return None
    try:
        identity = json.loads((folder / IDENTITY_FILE).read_text(encoding="utf-8"))
        totals = {task: int(facts["records"]) for task, facts in identity["data"]["tasks"].items()}
        counts = Counter(json.loads(line)[0] for line in whole_lines(folder / ANSWERS_FILE))
        log = [json.loads(line) for line in whole_lines(folder / LOG_FILE)]
        seconds_left = log[-1].get("seconds_left") if log else None
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None
    tasks = {task: (min(counts[task], total), total) for task, total in totals.items()}
    return Progress(tasks, seconds_left)
