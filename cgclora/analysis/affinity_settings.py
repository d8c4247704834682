"""How inter-task affinities are measured."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from cgclora.config import ConfigError, number, whole
from cgclora.data.sampling import Sampling, Weighting

Step = Literal["adam", "sgd"]


@dataclass(frozen=True)
class AffinitySettings:
    """How affinities are measured, and how the adapter is trained meanwhile.

    Raises:
        ConfigError: A value is out of range.
    """

    measurements: int = 20  # how many; a later call may ask for more
    every: int = 8  # steps of joint training before each of them
    records: int = 2  # of a task, for the gradient that makes its step, at least
    loss_records: int = 2  # of a task, other ones, for its loss, at least
    # Of a task, for each of the two: tasks with short records take as many as this makes at their
    # mean length, since an answer of one word says little; 0 takes no more.
    tokens: int = 320
    # Every how many measurements the lookahead form is taken as well, which costs a pass over the
    # loss records of all tasks a task; 0 never takes it.
    lookahead_every: int = 2
    # `adam` divides a task's gradient by the root of the second moment that Adam (arXiv 1412.6980)
    # has of the joint training: the way in which that gradient really moves an adapter trained with
    # Adam; values that no gradient has reached yet, as A at the first step, stay. `sgd` takes it as
    # it is, as TAG does: for adapters its length is mostly a matter of how large A and B happen to
    # be.
    step: Step = "adam"
    # Learning rate of a task's step. The first-order form is proportional to it. The lookahead form
    # wants it small enough for a straight line and large enough to be seen over the backbone's
    # rounding. None takes the learning rate divided by the number of tasks: a task's share of a
    # joint step.
    step_rate: float | None = None
    batch_size: int = 8  # records in a step of the joint training
    learning_rate: float = 1e-3  # of the joint training, reached over the first `every` steps
    sampling: Sampling = "uniform"  # of the joint training, see `TrainingSettings`
    temperature: float = 2.0  # of that sampling
    # What counts alike in every loss, see `TrainingSettings`. With `record` and uniform sampling
    # the tasks have equal shares of a joint step. With `token` those with short answers have next
    # to none, and a step of theirs is longer than any joint one.
    weighting: Weighting = "record"
    max_length: int = 512  # longest record in tokens; longer ones are left out
    seed: int = 0  # of the draws

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
