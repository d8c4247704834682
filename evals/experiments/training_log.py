"""How a training run goes: its losses and gates over the steps, from the log in its run folder."""

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

_PAUSE = 20  # times as long as usual: the run was stopped meanwhile

Points = list[tuple[int, float]]
"""Step and value."""


@dataclass
class TrainingLog:
    """What a run has logged so far; losses in nats a target token.

    Attributes:
        step: The last step that was logged.
        steps: How many there will be, if no patience ends them early.
        loss: Over all tasks.
        losses: By task.
        dev_loss: The mean over the tasks.
        dev_losses: By task.
        gates: Step and a weight for each task and expert, [T][E], mean over the layers.
        seconds_a_step: With the dev losses between; None before there are two lines.
    """

    step: int = 0
    steps: int = 0
    loss: Points = field(default_factory=list)
    losses: dict[str, Points] = field(default_factory=dict)
    dev_loss: Points = field(default_factory=list)
    dev_losses: dict[str, Points] = field(default_factory=dict)
    gates: list[tuple[int, list[list[float]]]] = field(default_factory=list)
    seconds_a_step: float | None = None

    @property
    def seconds_left(self) -> float | None:
        """Until the last step at the present pace; None before there is one."""
        if self.seconds_a_step is None:
            return None
        return self.seconds_a_step * (self.steps - self.step)

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and value of the lowest dev loss; None before there is one."""
        return min(self.dev_loss, key=lambda point: point[1], default=None)

    def specific_shares(self, tasks: Sequence[str], common: int) -> dict[str, Points]:
        """The share of each task's weight that goes to its specific experts, over the steps.

        Args:
            tasks: In the order of their ids.
            common: Number of common experts, which stand first.
        """
        return {
            task: [(step, sum(rows[i][common:]) / sum(rows[i])) for step, rows in self.gates]
            for i, task in enumerate(tasks)
        }


def read_log(run: Path) -> TrainingLog | None:
    """The log of a run folder; None before there is one.

    A line that is not whole yet is left out, and so is a damaged one.

    Raises:
        OSError: The log is there, and cannot be read.
    """
    if not (run / LOG_FILE).exists():
        return None
    log, times = TrainingLog(), []
    for line in whole_lines(run / LOG_FILE):
        with suppress(ValueError, LookupError, TypeError, AttributeError):
            step, steps, when = _take(log, json.loads(line))
            log.step, log.steps = step, steps
            times.append((step, when))
    log.seconds_a_step = _pace(times)
    return log


def _take(log: TrainingLog, facts: dict[str, Any]) -> tuple[int, int, float]:
    """Add a line's losses and gates; returns its step, of how many, and its time."""
    kind = "loss" if "loss" in facts else "dev_loss"
    # All of it is read before anything is added: a damaged line adds nothing.
    step, steps, when = int(facts["step"]), int(facts["steps"]), float(facts["time"])
    loss = float(facts[kind])
    losses = {task: float(value) for task, value in facts[f"{kind}es"].items()}
    gates = [[float(weight) for weight in row] for row in facts["gates"]] if kind == "loss" else []
    whole, by_task = (log.loss, log.losses) if kind == "loss" else (log.dev_loss, log.dev_losses)
    whole.append((step, loss))
    for task, value in losses.items():
        by_task.setdefault(task, []).append((step, value))
    if gates:
        log.gates.append((step, gates))
    return step, steps, when


def _pace(times: Sequence[tuple[int, float]]) -> float | None:
    """Seconds a step, without the pauses of a run that was stopped and resumed.

    Nor do spans count in which the clock was set back.
    """
    last = dict(times)  # the dev loss comes after the step's own line
    spans = [
        (later[0] - earlier[0], later[1] - earlier[1]) for earlier, later in pairwise(last.items())
    ]
    spans = [(steps, seconds) for steps, seconds in spans if steps > 0 and seconds >= 0]
    if not spans:
        return None
    usual = statistics.median(seconds / steps for steps, seconds in spans)
    kept = [(n, s) for n, s in spans if s / n <= _PAUSE * max(usual, 0.01)]
    return sum(seconds for _, seconds in kept) / sum(steps for steps, _ in kept)
