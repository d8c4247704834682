"""Families of methods: what a reader wants to see together, or not at all."""

from __future__ import annotations

from typing import Literal, get_args

from evals.methods import CGC_LORA, LORAHUB

Family = Literal["cgc-lora", "ablation", "moe-lora", "lora", "merging", "backbone", "other"]

FAMILIES: tuple[Family, ...] = get_args(Family)
"""In the order in which they are offered."""


def family(method: str) -> Family:
    """The family of a method by its name; a name that nobody knows is of the family `other`."""
    if method == "Backbone":
        return "backbone"
    if method == LORAHUB:
        return "merging"
    if method.startswith(f"{CGC_LORA} w/o "):
        return "ablation"
    for start, found in ((CGC_LORA, "cgc-lora"), ("MOE-LoRA", "moe-lora"), ("LoRA", "lora")):
        if method.startswith(start):
            return found  # type: ignore[return-value]
    return "other"
