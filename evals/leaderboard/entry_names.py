"""Names of a board's entries: the method, and what tells it from others of the method."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from evals.runs.scored_run import Key

_ASPECTS = {
    "prompt": "prompt",
    "total_rank": "rank",
    "active_rank": "active rank",
    "parameters": "parameters",
    "recipe": "recipe",
    "fingerprint": "backbone",
}
"""What tells entries apart whose method, label and backbone are the same, and its word."""


def entry_names(keys: Sequence[Key]) -> list[str]:
    """Names that no two entries of a board share, as short as that allows."""
    names = [key.method for key in keys]
    for aspect in ("label", "backbone"):
        values = [getattr(key, aspect) for key in keys]
        if len(set(values)) > 1:
            names = [
                f"{name} · {one}".rstrip(" ·") for name, one in zip(names, values, strict=True)
            ]
    for aspect, word in _ASPECTS.items():
        values = [str(getattr(key, aspect))[:12] for key in keys]
        sharers: dict[str, set[str]] = defaultdict(set)
        for name, one in zip(names, values, strict=True):
            sharers[name].add(one)
        names = [
            f"{name} · {word} {one}" if len(sharers[name]) > 1 else name
            for name, one in zip(names, values, strict=True)
        ]
    return names
