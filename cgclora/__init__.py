"""CGC-LoRA: one frozen language model, many tasks, experts shared and specific.

Names are imported when first used, so that `python -m cgclora --help` does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cgclora.adapter import Adapter as Adapter
    from cgclora.config import AdapterConfig as AdapterConfig
    from cgclora.data.readers import read_records as read_records
    from cgclora.data.records import Record as Record
    from cgclora.inference.engine import generate as generate
    from cgclora.inference.engine import stream as stream
    from cgclora.inference.multi_adapter import Clusters as Clusters
    from cgclora.inference.request import Request as Request
    from cgclora.models.backbone import Backbone as Backbone
    from cgclora.models.backbone import load_backbone as load_backbone
    from cgclora.training.settings import TrainingRun as TrainingRun
    from cgclora.training.settings import TrainingSettings as TrainingSettings
    from cgclora.training.train import train as train
    from cgclora.training.train import train_side_by_side as train_side_by_side

__version__ = "0.1.0"

_HOMES = {
    "Adapter": "cgclora.adapter",
    "AdapterConfig": "cgclora.config",
    "Backbone": "cgclora.models.backbone",
    "Clusters": "cgclora.inference.multi_adapter",
    "Record": "cgclora.data.records",
    "Request": "cgclora.inference.request",
    "TrainingRun": "cgclora.training.settings",
    "TrainingSettings": "cgclora.training.settings",
    "generate": "cgclora.inference.engine",
    "load_backbone": "cgclora.models.backbone",
    "read_records": "cgclora.data.readers",
    "stream": "cgclora.inference.engine",
    "train": "cgclora.training.train",
    "train_side_by_side": "cgclora.training.train",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605 - the same names, not written twice


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cgclora' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
