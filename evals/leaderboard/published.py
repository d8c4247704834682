"""Scores published elsewhere, which are never ranked together with own runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A published score."""

    method: str
    backbone: str
    cluster: str
    score: float  # mean over the cluster's tasks, in [0, 1]
    source: str
    note: str  # how its measurement differs


_PROMPTCBLUE = "https://github.com/michael-wzhu/PromptCBLUE"
_DEV = "16 tasks on the official dev set; backbone and data split differ from those of the boards"

PUBLISHED: tuple[Published, ...] = tuple(
    Published(method, backbone, "medical", score, _PROMPTCBLUE, note)
    for method, backbone, score, note in (
        ("AdaLoRA", "ChatGLM-6B", 0.6466, f"{_DEV}; 5,100 steps, by boom-R123"),
        ("LoRA, rank 8", "ChatGLM-6B", 0.6448, f"{_DEV}; 3,000 steps"),
        ("P-tuning", "ChatGLM-6B", 0.6095, f"{_DEV}; 3,000 steps"),
        ("In-context examples", "ChatGPT", 0.4208, f"{_DEV}; 3 to 20 examples, June 2023"),
    )
)
"""Overall scores of the benchmark's authors, from the table in their README."""
