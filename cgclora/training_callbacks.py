"""What a training run does between the trainer's steps: its rhythm, stops and progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from cgclora.run_folder import TrainingStopped

if TYPE_CHECKING:
    from cgclora.adapter_trainer import AdapterTrainer


class Rhythm(TrainerCallback):
    """What the trainer's own rhythm leaves out.

    That is the last step's dev loss, a line of the log at each checkpoint, and each epoch's order.

    The trainer tells a sampler its epoch in one process, but not where several share the batches.
    """

    def __init__(self, trainer: AdapterTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Tell the sampler its epoch."""
        # A resumed epoch is a fraction; a whole one may fall short by a rounding error.
        self.trainer.sampler.set_epoch(int((state.epoch or 0) + 1e-6))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Let a log follow each checkpoint, and both the last step."""
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True
        # What was summed since the last line of the log is not in a checkpoint: leave nothing.
        control.should_log = control.should_log or control.should_save


class Stop(TrainerCallback):
    """Ends a run between two steps, after a checkpoint, when it is told to."""

    def __init__(self, wanted: Callable[[], bool]) -> None:
        self.wanted = wanted
        self.stopping = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask, and have a checkpoint written."""
        if state.global_step < state.max_steps and self.wanted():
            self.stopping = control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End the run, if that was wanted."""
        if self.stopping:
            raise TrainingStopped(
                f"stopped at step {state.global_step} of {state.max_steps}: the same call goes on."
            )


class Progress(TrainerCallback):
    """Tells a listener where the run is, on logging steps and evaluations."""

    def __init__(self, listener: Callable[[dict[str, Any]], None]) -> None:
        self.listener = listener
        self.started: tuple[float, int] | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        if self.started is None:
            self.started = (time.monotonic(), state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Tell the listener."""
        if not state.is_world_process_zero or self.started is None:
            return
        seconds, first = time.monotonic() - self.started[0], self.started[1]
        done = state.global_step - first
        left = seconds / done * (state.max_steps - state.global_step) if done else None
        self.listener(
            {"step": state.global_step, "steps": state.max_steps, "seconds_left": left, **logs}
        )


def print_progress(facts: Mapping[str, Any]) -> None:
    """Write a line of progress to standard error."""
    left = facts["seconds_left"]
    parts = [f"step {facts['step']}/{facts['steps']}"]
    parts += [f"{key} {facts[key]:.4f}" for key in ("loss", "eval_loss") if key in facts]
    parts += [] if left is None else [f"{left / 60:.1f} min left"]
    print(" · ".join(parts), file=sys.stderr, flush=True)
