"""What a user chooses for a comparison. Nothing here imports torch: a form needs it at once."""

from __future__ import annotations

from dataclasses import dataclass

from cgclora.config import number, whole
from evals.methods import CGC_LORA, FULL, MOE_LORA, SINGLE

DEFAULT_METHODS = (SINGLE, FULL, MOE_LORA, CGC_LORA)
DEFAULT_RATES = (1e-3, 3e-3)
DEFAULT_MINUTES = 15.0


@dataclass(frozen=True)
class Wishes:
    """What a user chooses; None leaves it to the plan.

    Raises:
        ConfigError: A value that the recipe does not check is out of range.
    """

    methods: tuple[str, ...] = DEFAULT_METHODS
    seeds: int = 1  # number of training seeds
    learning_rates: tuple[float, ...] = DEFAULT_RATES  # tried with the first seed, by each method
    minutes: float = DEFAULT_MINUTES  # that the comparison should take
    train_records: int | None = None  # of a task; 0 takes all
    epochs: float | None = None
    test_records: int | None = None  # of a task; 0 takes all

    def __post_init__(self) -> None:
        """Check the fields."""
        whole("seeds", self.seeds, 1)
        number("minutes", self.minutes, 0)
