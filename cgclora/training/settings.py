"""What to train and how, as values that are checked when they are set."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from cgclora.config import ConfigError, number, whole
from cgclora.data.sampling import Sampling, Weighting

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from cgclora.adapter import Adapter
    from cgclora.data.records import Record
    from cgclora.inference.request import Request

BestBy = Literal["loss", "score"]

NO_JUDGE = (
    "best_by is 'score', and nothing here knows the tasks' metrics: use `python -m evals` in place "
    "of `python -m cgclora`, or give `judge`, such as `evals.scoring.dev_scores.TaskJudge`."
)


@dataclass(frozen=True)
class TrainingSettings:
    """How to train."""

    epochs: float = 2.0  # passes over the data
    batch_size: int = 8  # records in one forward pass of one process
    accumulation: int = 1  # forward passes in one step
    learning_rate: float = 1e-3  # peak rate of the experts
    gate_learning_rate: float | None = None  # peak rate of the gate; None takes `learning_rate`
    warmup: float = 0.05  # share of the steps over which the rates rise; a cosine to zero follows
    weight_decay: float = 0.0  # of the experts; the gate has none
    # How often a task is seen: `proportional` to its records, `uniform`, or by `temperature`,
    # records to the power 1 / temperature.
    sampling: Sampling = "proportional"
    temperature: float = 2.0  # for that sampling, 1 or more; 1 is proportional, large is uniform
    # Of a target token in the training loss: `token`, all count alike; `record`, those of a record
    # share a weight of 1, so that a label counts as much as a report.
    weighting: Weighting = "token"
    # Most tokens of a record; longer ones are left out and counted. So are those that the backbone
    # has no positions for.
    max_length: int = 1024
    records_per_task: int = 0  # training records of a task, drawn with `seed`; 0 takes all that fit
    records_of: Mapping[str, int] = field(default_factory=dict)  # other numbers for some tasks
    dev_records_per_task: int = 0  # the same for the dev loss
    evaluations: int = 8  # number of dev losses, evenly spread; a checkpoint follows each
    patience: int = 0  # evaluations without better weights before stopping; 0 never stops
    # What makes weights better: a lower dev `loss`, or a higher `score` of dev answers, the mean of
    # the tasks' main metrics, and among equal ones a lower loss.
    best_by: BestBy = "loss"
    score_records: int = 50  # dev records of a task that are answered for it; 0 takes all
    gradient_checkpointing: bool = False  # recompute activations in the backward pass
    seed: int = 0  # of the records' order and of dropout, from 0 to 2^32 - 1

    def __post_init__(self) -> None:
        """Check every field, since settings may come from a form."""
        for name, least in (
            ("batch_size", 1),
            ("accumulation", 1),
            ("max_length", 2),
            ("records_per_task", 0),
            ("dev_records_per_task", 0),
            ("evaluations", 1),
            ("patience", 0),
            ("score_records", 0),
            ("seed", 0),
        ):
            whole(name, getattr(self, name), least)
        for task, count in self.records_of.items():
            whole(f"records_of {task!r}", count, 0)
        if self.seed >= 2**32:  # what numpy takes
            raise ConfigError(f"seed must be less than 2^32, got {self.seed!r}.")
        for name, limit in (("epochs", 1e6), ("learning_rate", 1e38)):  # more overflows later
            value = getattr(self, name)
            number(name, value, 0)
            if not 0 < value <= limit:
                raise ConfigError(
                    f"{name} must be a positive number up to {limit:g}, got {value!r}."
                )
        if self.gate_learning_rate is not None:
            number("gate_learning_rate", self.gate_learning_rate, 0)
        number("weight_decay", self.weight_decay, 0)
        # Below 1 a task with few records would be drawn less than its share, down to never.
        number("temperature", self.temperature, 1)
        number("warmup", self.warmup, 0)
        if self.warmup >= 1:
            raise ConfigError(f"warmup must be in [0, 1), got {self.warmup!r}.")
        for name, kinds in (
            ("sampling", get_args(Sampling)),
            ("weighting", get_args(Weighting)),
            ("best_by", get_args(BestBy)),
        ):
            if getattr(self, name) not in kinds:
                raise ConfigError(f"{name} must be one of {kinds}, got {getattr(self, name)!r}.")

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, those of scoring only with `best_by="score"`."""
        values = dataclasses.asdict(self)
        if self.best_by == "loss":
            del values["best_by"], values["score_records"]
        return values

    def steps(self, records: int, processes: int = 1) -> int:
        """How many steps so many training records make, if no patience ends them early."""
        batches = math.ceil(records / (self.batch_size * processes))
        return max(1, round(self.epochs * math.ceil(batches / self.accumulation)))

    def rate(self, step: int, steps: int) -> float:
        """The share of the peak rates with which a step is taken: a rise, then half a cosine.

        As `transformers.get_cosine_schedule_with_warmup` has it.
        """
        rise = math.ceil(self.warmup * steps)
        if step < rise:
            return step / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


class Judge(Protocol):
    """What knows the tasks and their metrics."""

    def request(self, record: Record) -> Request:
        """What is asked for a record."""

    def score(self, task: str, answers: Sequence[tuple[Record, str]]) -> float:
        """The main score of answers to records of a task; more is better."""

    def metrics(self, tasks: Sequence[str]) -> Mapping[str, str]:
        """Name and version of each task's main metric, for the manifest.

        Raises:
            DataError: A task is not known.
            ConfigError: A metric cannot be computed here.
        """


@dataclass(frozen=True)
class TrainingRun:
    """What to train, and where."""

    adapter: Adapter  # a fresh one, just attached
    train_records: Sequence[Record]  # what to learn from; every task needs some
    dev_records: Sequence[Record]  # what the dev loss is taken on; every task needs some
    settings: TrainingSettings
    folder: Path
    # The tasks that have records; None for all. With some only, the adapter keeps the router that
    # it has.
    only: Sequence[str] | None = None
    learns: Mapping[str, Tensor] | None = None  # trained values by name, bool; None is all
    check: Callable[[], None] | None = None  # called before saving; may raise to prevent it
    facts: Mapping[str, Any] = field(default_factory=dict)  # more for the adapter's manifest
    dtype: torch.dtype | None = None  # of the saved weights; None keeps fp32
    judge: Judge | None = None  # scores dev answers, for `best_by="score"`

    def __post_init__(self) -> None:
        """Check that there is a judge if one is needed."""
        if self.settings.best_by == "score" and self.judge is None:
            raise ConfigError(NO_JUDGE)
