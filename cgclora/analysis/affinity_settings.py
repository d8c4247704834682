"""How inter-task affinities are measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from cgclora.config import ConfigError, number, whole
from cgclora.data.sampling import Sampling, Weighting

Step = Literal["adam", "sgd"]


@dataclass(frozen=True)
class AffinitySettings:
    """How affinities are measured, and how the adapter is trained meanwhile.

    Attributes:
        measurements: How many; a later call may ask for more.
        every: Steps of joint training before each of them.
        records: Of a task, for the gradient that makes its step, at least.
        loss_records: Of a task, other ones, for its loss, at least.
        tokens: Of a task, for each of the two: tasks with short records take as many as this makes
            at their mean length, since an answer of one word says little; 0 takes no more.
        lookahead_every: Every how many measurements the lookahead form is taken as well, which
            costs a pass over the loss records of all tasks a task; 0 never takes it.
        step: `adam` divides a task's gradient by the root of the second moment that Adam
            (arXiv 1412.6980) has of the joint training: the way in which that gradient really
            moves an adapter trained with Adam; values that no gradient has reached yet, as A at
            the first step, stay. `sgd` takes it as it is, as TAG does: for adapters
            its length is mostly a matter of how large A and B happen to be.
        step_rate: Learning rate of a task's step. The first-order form is proportional to it. The
            lookahead form wants it small enough for a straight line and large enough to be seen
            over the backbone's rounding. None takes the learning rate divided by the number of
            tasks: a task's share of a joint step.
        batch_size: Records in a step of the joint training.
        learning_rate: Of the joint training (Adam), reached over the first `every` steps.
        sampling: Of the joint training, see `TrainingSettings`.
        temperature: Of that sampling.
        weighting: What counts alike in every loss, see `TrainingSettings`. With `record` and
            uniform sampling the tasks have equal shares of a joint step. With `token` those with
            short answers have next to none, and a step of theirs is longer than any joint one.
        max_length: Longest record in tokens; longer ones are left out.
        seed: Of the draws.

    Raises:
        ConfigError: A value is out of range.
    """

    measurements: int = 20
    every: int = 8
    records: int = 2
    loss_records: int = 2
    tokens: int = 320
    lookahead_every: int = 2
    step: Step = "adam"
    step_rate: float | None = None
    batch_size: int = 8
    learning_rate: float = 1e-3
    sampling: Sampling = "uniform"
    temperature: float = 2.0
    weighting: Weighting = "record"
    max_length: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every field, since settings come from a command line."""
        for field in ("measurements", "every", "records", "loss_records", "batch_size"):
            whole(field, getattr(self, field), 1)
        whole("max_length", self.max_length, 2)
        whole("tokens", self.tokens, 0)
        whole("lookahead_every", self.lookahead_every, 0)
        whole("seed", self.seed, 0)
        number("temperature", self.temperature, 1)
        for field in ("learning_rate", "step_rate"):
            value = getattr(self, field)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{field} must be a positive number, got {value!r}.")
        kinds = {"step": Step, "sampling": Sampling, "weighting": Weighting}
        for field, kind in kinds.items():
            if getattr(self, field) not in get_args(kind):
                raise ConfigError(
                    f"{field} must be one of {get_args(kind)}, got {getattr(self, field)!r}."
                )
