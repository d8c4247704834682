"""Model work that ZeroGPU runs in a forked process; arguments and results can be pickled."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Protocol

from ui.engine.zero_gpu import on_gpu

if TYPE_CHECKING:
    from cgclora.inference.multi_adapter import Clusters
    from cgclora.inference.request import Piece, Request
    from cgclora.models.backbone import Backbone

BARE_TOKENS = 64
"""Longest answer of the bare backbone, which seldom stops by itself."""

BARE = "backbone"
"""Names the backbone without experts where other names are adapters."""


class Models(Protocol):
    """What holds the backbone and its adapters, such as `AppEngine`."""

    def resident(self, cluster: str | None = None) -> tuple[Backbone, Clusters]:
        """The backbone and the resident adapters."""


@on_gpu
def answers(engine: Models, requests: Sequence[Request]) -> Generator[Piece]:
    """Stream answers without the shared batch, see `AppEngine.ask`."""
    from cgclora.inference.engine import stream  # noqa: PLC0415 - torch is loaded by now

    backbone, clusters = engine.resident()
    yield from stream(backbone, requests, clusters)


@on_gpu
def label_shares(engine: Models, request: Request, labels: Sequence[str]) -> Generator[list[float]]:
    """Yield label probabilities once, see `AppEngine.label_probabilities`."""
    from cgclora.analysis.probe import label_probabilities  # noqa: PLC0415 - torch is loaded by now

    backbone, clusters = engine.resident(request.cluster)
    adapter = clusters.adapters[request.cluster] if request.cluster else None
    yield label_probabilities(backbone, request, labels, adapter)
