"""Model work that ZeroGPU runs in a forked process; arguments and results can be pickled."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ui.engine.zero_gpu import on_gpu

if TYPE_CHECKING:
    from cgclora.inference.request import Piece, Request
    from ui.engine.engine import Engine

BARE_TOKENS = 64
"""Longest answer of the bare backbone, which seldom stops by itself."""

BARE = "backbone"
"""Names the backbone without experts where other names are adapters."""


@on_gpu
def answers(engine: Engine, requests: Sequence[Request]) -> Generator[Piece]:
    """Stream answers without the shared batch, see `Engine.ask`."""
    from cgclora.inference.generate import stream  # noqa: PLC0415 - torch is loaded by now

    backbone, clusters = engine.resident()
    yield from stream(backbone, requests, clusters)


@on_gpu
def label_shares(engine: Engine, request: Request, labels: Sequence[str]) -> Generator[list[float]]:
    """Yield label probabilities once, see `Engine.label_probabilities`."""
    from cgclora.analysis.probe import label_probabilities  # noqa: PLC0415 - torch is loaded by now

    backbone, clusters = engine.resident(request.cluster)
    adapter = clusters.adapters[request.cluster] if request.cluster else None
    yield label_probabilities(backbone, replace(request, cluster=None), labels, adapter)
