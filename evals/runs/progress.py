"""How far a run is, for those who watch: read without its lock, and nothing is changed."""

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
    METRICS_FILE,
    partial_folder,
)


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        tasks: For each task the records that are answered, and of how many.
        seconds_left: Of answering, as the run's log has it; None before anything is known of it.
    """

    tasks: Mapping[str, tuple[int, int]]
    seconds_left: float | None

    @property
    def done(self) -> int:
        """Records answered, of all tasks."""
        return sum(done for done, _ in self.tasks.values())

    @property
    def total(self) -> int:
        """Records to answer, of all tasks."""
        return sum(total for _, total in self.tasks.values())


def read_progress(run: Path) -> Progress | None:
    """How far a run is that is being answered, or was when it was cut short; None otherwise.

    Answers that were left beside the finished run count for nothing.

    Args:
        run: The folder that it will have.
    """
    folder = partial_folder(run)
    if (run / MANIFEST_FILE).exists():
        return None
    try:
        identity = json.loads((folder / IDENTITY_FILE).read_text(encoding="utf-8"))
        totals = {task: int(facts["records"]) for task, facts in identity["data"]["tasks"].items()}
        counts = Counter(json.loads(line)[0] for line in whole_lines(folder / ANSWERS_FILE))
        log = [json.loads(line) for line in whole_lines(folder / LOG_FILE)]
        left = log[-1].get("seconds_left") if log else None
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None
    tasks = {task: (min(counts[task], total), total) for task, total in totals.items()}
    return Progress(tasks, left)


def is_scored(run: Path) -> bool:
    """Whether a run is finished and has its scores."""
    return (run / METRICS_FILE).exists()
