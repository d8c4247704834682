"""The methods that a leaderboard compares: what each one trains, and what it is asked.

All of them share data, steps and tuning; see `recipe`. Rank is counted as in `AdapterConfig`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from cgclora.config import AdapterConfig, number, whole

Adapters = Literal["none", "one a task", "one for all", "composed", "added"]


@dataclass(frozen=True)
class Sizes:
    """How large the adapters of a comparison are.

    Attributes:
        lora_rank: Of LoRA (Single), (Full), (Full+TP), and so of LoRAHub.
        common: Common experts of CGC-LoRA.
        specific: Specific experts a task.
        expert_rank: Of each of them.
        alpha: Of CGC-LoRA; its ablations have the same for each rank that is active, the others
            the published twice their rank.
        moe_experts: Experts of MOE-LoRA.
        moe_rank: Their total rank; 0 takes that of CGC-LoRA.
    """

    lora_rank: int = 8
    common: int = 4
    specific: int = 1
    expert_rank: int = 2
    alpha: float = 16.0
    moe_experts: int = 8
    moe_rank: int = 0

    def __post_init__(self) -> None:
        """Check every field, since a recipe is written by hand."""
        for name, value in vars(self).items():
            if name == "alpha":
                number("sizes.alpha", value, 0)
            else:
                whole(f"sizes.{name}", value, 0 if name == "moe_rank" else 1)


Build = Callable[[Sequence[str], Sizes], AdapterConfig]


@dataclass(frozen=True)
class Method:
    """One row of a leaderboard.

    Attributes:
        name: What it is called.
        adapters: `none`; `one a task`, trained on that task alone; `one for all` tasks of the
            cluster; `composed` of those of LoRA (Single) without training; or `added`, for each
            task one that was trained on the others, to which the task was added.
        config: The adapter for some tasks; None where nothing is trained.
        prompt: One of `evals.runs.evaluate.PROMPTS`, in training and answering alike.
    """

    name: str
    adapters: Adapters
    config: Build | None = None
    prompt: str = "plain"

    @property
    def has_many(self) -> bool:
        """Whether each task has an adapter of its own."""
        return self.adapters in {"one a task", "added"}


def _lora(tasks: Sequence[str], sizes: Sizes) -> AdapterConfig:
    return AdapterConfig.lora(tasks, sizes.lora_rank)


def _moe_lora(tasks: Sequence[str], sizes: Sizes) -> AdapterConfig:
    rank = sizes.moe_rank or _cgc_lora(tasks, sizes).total_rank
    return AdapterConfig.moe_lora(tasks, sizes.moe_experts, rank, alpha=2.0 * rank)


def _cgc_lora(tasks: Sequence[str], sizes: Sizes) -> AdapterConfig:
    return AdapterConfig(
        tuple(tasks),
        common=sizes.common,
        specific=sizes.specific,
        expert_rank=sizes.expert_rank,
        alpha=sizes.alpha,
    )


def _without_gate(tasks: Sequence[str], sizes: Sizes) -> AdapterConfig:
    return dataclasses.replace(_cgc_lora(tasks, sizes), gate="uniform")


# What an ablation takes away it gives to the other kind: with a smaller total rank it would lose
# for two reasons.


def _as_strong(whole: AdapterConfig, **changes: int) -> AdapterConfig:
    """Other experts, whose sum under a uniform gate is scaled as before: alpha / active rank."""
    changed = dataclasses.replace(whole, **changes)  # type: ignore[arg-type]
    alpha = whole.alpha * changed.active_rank / whole.active_rank
    return dataclasses.replace(changed, alpha=alpha)


def _without_common(tasks: Sequence[str], sizes: Sizes) -> AdapterConfig:
    whole = _cgc_lora(tasks, sizes)
    share = max(1, whole.num_experts // len(tasks))
    rank = max(1, round(whole.total_rank / (share * len(tasks))))
    return _as_strong(whole, common=0, specific=share, expert_rank=rank)


def _without_specific(tasks: Sequence[str], sizes: Sizes) -> AdapterConfig:
    whole = _cgc_lora(tasks, sizes)
    return _as_strong(whole, common=whole.num_experts, specific=0)


def _total_rank(tasks: Sequence[str], sizes: Sizes) -> AdapterConfig:
    return _cgc_lora(tasks, sizes).matched_lora("total")


def _active_rank(tasks: Sequence[str], sizes: Sizes) -> AdapterConfig:
    return _cgc_lora(tasks, sizes).matched_lora("active")


SINGLE = "LoRA (Single)"
LORAHUB = "LoRAHub"
CGC_LORA = "CGC-LoRA"
ADDED = "CGC-LoRA (added)"

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        method.name: method
        for method in (
            Method("Backbone", "none"),
            Method(SINGLE, "one a task", _lora),
            Method("LoRA (Full)", "one for all", _lora),
            Method("MOE-LoRA", "one for all", _moe_lora),
            Method(CGC_LORA, "one for all", _cgc_lora),
            Method("LoRA (Full+TP)", "one for all", _lora, "task name"),
            Method(LORAHUB, "composed"),
            Method("LoRA (total rank)", "one for all", _total_rank),
            Method("LoRA (active rank)", "one for all", _active_rank),
            Method("CGC-LoRA w/o gate", "one for all", _without_gate),
            Method("CGC-LoRA w/o common", "one for all", _without_common),
            Method("CGC-LoRA w/o specific", "one for all", _without_specific),
            Method(ADDED, "added", _cgc_lora),
        )
    }
)
"""By name, in the order in which a comparison runs them: the main ones first."""

COMPARED = tuple(name for name in METHODS if name != ADDED)
"""What a comparison runs unless it names its methods: ways to train all tasks at once."""


def spelled(said: str, config: AdapterConfig) -> str:
    """The leaderboard's name for what a manifest calls a method, such as `cgc-lora`.

    An ablation is named as one, whatever it calls itself; an unknown method keeps its name.

    Args:
        said: The manifest's word; may be empty.
        config: Of the adapter.
    """
    if said.lower() == CGC_LORA.lower():
        learned = config.gate == "task"
        parts = {"common": config.common, "specific": config.specific, "gate": learned}
        missing = next((name for name, there in parts.items() if not there), "")
        return f"{CGC_LORA} w/o {missing}" if missing else CGC_LORA
    return next((name for name in METHODS if name.lower() == said.lower()), said)
