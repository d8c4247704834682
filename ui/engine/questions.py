"""What is asked of the model: generator functions whose arguments and values can be pickled.

They are called by `Models.run` or `ModelProcess.run`. Those that are marked compute with the model
themselves, on ZeroGPU in a fork.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cgclora.config import ConfigError
from cgclora.convert.formats import Export, size
from ui.engine.client import EngineError, Wait, stream_pieces
from ui.engine.task_gates import AdapterGates
from ui.engine.zero_gpu import on_gpu

if TYPE_CHECKING:
    from cgclora.inference.request import Piece, Request
    from ui.engine.models import Models

BARE_TOKENS = 64
"""Longest answer of the bare backbone, which seldom stops by itself."""

BARE = "backbone"
"""Names the backbone without experts where other names are adapters."""

_log = logging.getLogger(__name__)


def attach(models: Models, name: str, folder: Path) -> Generator[AdapterGates]:
    """Load an adapter and yield its gates.

    Raises:
        EngineError: It cannot be used.
    """
    from cgclora.storage.adapter_dir import AdapterError  # noqa: PLC0415 - torch is loaded by now

    try:
        yield AdapterGates.read(models.clusters.add(name, folder))
    except Exception as error:  # the others must still work
        if not isinstance(error, AdapterError | ConfigError):
            _log.exception("the adapter %s cannot be used", name)
        raise EngineError(str(error)) from error


def stream_answers(
    models: Models, requests: Sequence[Request], seconds: float
) -> Generator[Piece | Wait]:
    """Stream answers, batched with other visitors' requests, see `stream_pieces`."""
    if models.inference is None:
        yield from answers(models, requests)
    else:
        yield from stream_pieces(models.inference, requests, seconds)


@on_gpu
def answers(models: Models, requests: Sequence[Request]) -> Generator[Piece]:
    """Stream answers without the shared batch."""
    from cgclora.inference.engine import stream  # noqa: PLC0415 - torch is loaded by now

    yield from stream(models.backbone, requests, models.clusters)


@on_gpu
def label_shares(models: Models, request: Request, labels: Sequence[str]) -> Generator[list[float]]:
    """Yield label probabilities once, see `AppEngine.label_probabilities`."""
    from cgclora.analysis.probe import label_probabilities  # noqa: PLC0415 - torch is loaded by now

    adapter = models.adapter(request.cluster) if request.cluster else None
    yield label_probabilities(models.backbone, request, labels, adapter)


def export_size(models: Models, kind: str, order: Export) -> Generator[int | None]:
    """Yield once how many bytes an export will have; None if its format does not say.

    Raises:
        EngineError: Adapter or backbone cannot be read.
    """
    try:
        yield size(kind, order)
    except (OSError, ValueError, RuntimeError) as error:
        raise EngineError(str(error)) from error


def token_counts(models: Models, texts: Sequence[str]) -> Generator[list[int]]:
    """Yield the number of tokens of each text once, without start and end token."""
    encoded = models.backbone.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    yield [len(ids) for ids in encoded]
