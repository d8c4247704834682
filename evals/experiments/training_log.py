"""Losses and gate weights of a training run over its steps, read from the run's log."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from cgclora.storage.atomic_io import LOG_FILE, whole_lines

_PAUSE = 20  # a span this many times slower than the median is an interruption of the run

Points = list[tuple[int, float]]
"""Step and value."""


@dataclass
class TrainingLog:
    """The log of a run so far; losses in nats a target token."""

    step: int = 0  # the last logged step
    steps: int = 0  # total steps, unless patience ends the run early
    loss: Points = field(default_factory=list)  # over all tasks
    losses: dict[str, Points] = field(default_factory=dict)  # by task
    dev_loss: Points = field(default_factory=list)  # mean over the tasks
    dev_losses: dict[str, Points] = field(default_factory=dict)  # by task
    dev_score: Points = field(default_factory=list)  # mean over the tasks, where scores choose
    dev_scores: dict[str, Points] = field(default_factory=dict)  # by task
    # Step and gate weights [T][E], mean over the layers.
    gates: list[tuple[int, list[list[float]]]] = field(default_factory=list)
    seconds_a_step: float | None = None  # dev evaluations included; None before there are two lines

    @property
    def seconds_left(self) -> float | None:
        """Until the last step at the present pace; None while the pace is unknown."""
        if self.seconds_a_step is None:
            return None
        return self.seconds_a_step * (self.steps - self.step)

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and dev loss of the best weights so far; None before the first dev loss.

        They have the highest dev score, if there are scores, and the lowest dev loss among these.
        """
        scores = dict(self.dev_score)
        return min(
            self.dev_loss, key=lambda point: (-scores.get(point[0], 0.0), point[1]), default=None
        )

    def specific_shares(self, tasks: Sequence[str], common: int) -> dict[str, Points]:
        """The share of each task's gate weight on its specific experts, over the steps.

        Args:
            tasks: In the order of their ids.
            common: Number of common experts, the first columns of the gate.
        """
        return {
            task: [(step, sum(rows[i][common:]) / sum(rows[i])) for step, rows in self.gates]
            for i, task in enumerate(tasks)
        }


def read_log(run: Path) -> TrainingLog | None:
    """Read the log of a run folder, without incomplete or damaged lines; None if there is none.

    Raises:
        OSError: The log cannot be read.
    """
    if not (run / LOG_FILE).exists():
        return None
    log = TrainingLog()
    times: dict[int, float] = {}
    for line in whole_lines(run / LOG_FILE):
        with suppress(ValueError, LookupError, TypeError, AttributeError):
            when = _add_line(log, json.loads(line))
            times[log.step] = when  # the dev loss's line comes after the step's own
    log.seconds_a_step = _pace(times)
    return log


def _add_line(log: TrainingLog, facts: dict[str, Any]) -> float:
    """Add a line to the log and return its time; a damaged line raises and adds nothing."""
    is_training = "loss" in facts
    kind = "loss" if is_training else "dev_loss"
    step, steps, when = int(facts["step"]), int(facts["steps"]), float(facts["time"])
    loss = float(facts[kind])
    losses = {task: float(value) for task, value in facts[f"{kind}es"].items()}
    gates = [[float(weight) for weight in row] for row in facts["gates"]] if is_training else []
    total, by_task = (log.loss, log.losses) if is_training else (log.dev_loss, log.dev_losses)
    added = [(total, by_task, loss, losses)]
    if "dev_score" in facts:
        scores = {task: float(value) for task, value in facts["dev_scores"].items()}
        added.append((log.dev_score, log.dev_scores, float(facts["dev_score"]), scores))
    for points, points_by_task, mean, values in added:
        points.append((step, mean))
        for task, value in values.items():
            points_by_task.setdefault(task, []).append((step, value))
    if gates:
        log.gates.append((step, gates))
    log.step, log.steps = step, steps
    return when


def _pace(times: dict[int, float]) -> float | None:
    """Seconds a step, without interruptions and without spans in which the clock was set back."""
    spans = [
        (after[0] - before[0], after[1] - before[1]) for before, after in pairwise(times.items())
    ]
    spans = [(steps, seconds) for steps, seconds in spans if steps > 0 and seconds >= 0]
    if not spans:
        return None
    usual = statistics.median(seconds / steps for steps, seconds in spans)
    kept = [(n, s) for n, s in spans if s / n <= _PAUSE * max(usual, 0.01)]
    return sum(seconds for _, seconds in kept) / sum(steps for steps, _ in kept)
