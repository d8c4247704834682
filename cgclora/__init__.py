"""CGC-LoRA: one frozen language model, many tasks, experts shared and specific.

Names are imported when first used, so that `python -m cgclora --help` does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cgclora.adapter import Adapter as Adapter
    from cgclora.backbone import Backbone as Backbone
    from cgclora.backbone import load_backbone as load_backbone
    from cgclora.cluster import Clusters as Clusters
    from cgclora.config import AdapterConfig as AdapterConfig
    from cgclora.data import Record as Record
    from cgclora.decoding import generate as generate
    from cgclora.decoding import stream as stream
    from cgclora.member import TrainingRun as TrainingRun
    from cgclora.records import read_records as read_records
    from cgclora.request import Request as Request
    from cgclora.settings import TrainingSettings as TrainingSettings
    from cgclora.training import train as train
    from cgclora.training import train_side_by_side as train_side_by_side

__version__ = "0.1.0"

_HOMES = {
    "Adapter": "adapter",
    "AdapterConfig": "config",
    "Backbone": "backbone",
    "Clusters": "cluster",
    "Record": "data",
    "Request": "request",
    "TrainingRun": "member",
    "TrainingSettings": "settings",
    "generate": "decoding",
    "load_backbone": "backbone",
    "read_records": "records",
    "stream": "decoding",
    "train": "training",
    "train_side_by_side": "training",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605 - the same names, not written twice


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cgclora' has no attribute {name!r}")
    return getattr(importlib.import_module(f"cgclora.{_HOMES[name]}"), name)
