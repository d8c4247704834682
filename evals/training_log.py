"""How a training run goes: its losses and gates over the steps, from the log in its run folder."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from cgclora.files import LOG_FILE, whole_lines

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
    """The log of a run folder; None before there is one. A line that is not whole yet is left out.

    Raises:
        OSError: The log is there, and cannot be read.
    """
    if not (run / LOG_FILE).exists():
        return None
    log, times = TrainingLog(), []
    for facts in map(json.loads, whole_lines(run / LOG_FILE)):
        log.step, log.steps = facts["step"], facts["steps"]
        times.append((log.step, facts["time"]))
        if "loss" in facts:
            log.loss.append((log.step, facts["loss"]))
            log.gates.append((log.step, facts["gates"]))
            _add(log.losses, log.step, facts["losses"])
        else:
            log.dev_loss.append((log.step, facts["dev_loss"]))
            _add(log.dev_losses, log.step, facts["dev_losses"])
    log.seconds_a_step = _pace(times)
    return log


def _add(series: dict[str, Points], step: int, values: dict[str, float]) -> None:
    for task, value in values.items():
        series.setdefault(task, []).append((step, value))


def _pace(times: Sequence[tuple[int, float]]) -> float | None:
    """Seconds a step, without the pauses of a run that was stopped and resumed."""
    last = dict(times)  # the dev loss comes after the step's own line
    spans = [
        (later[0] - earlier[0], later[1] - earlier[1]) for earlier, later in pairwise(last.items())
    ]
    if not spans:
        return None
    usual = statistics.median(seconds / steps for steps, seconds in spans)
    kept = [(n, s) for n, s in spans if s / n <= _PAUSE * max(usual, 0.01)]
    return sum(seconds for _, seconds in kept) / sum(steps for steps, _ in kept)
