"""Adapters to export, and what is made of an export."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import nn

from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig
from tests.helpers.reference import METHODS, logits, scatter, token_ids
from tests.helpers.tiny import ARCHITECTURES, make_backbone

ALL_ARCHITECTURES = pytest.mark.parametrize("architecture", ARCHITECTURES)
CGC = METHODS["CGC-LoRA"]
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
IDS = token_ids(2)


def attached(
    architecture: str = "qwen2", config: AdapterConfig = CGC, name: str = "default"
) -> Adapter:
    """An adapter on a tiny backbone that it changes."""
    return scatter(Adapter.attach(make_backbone(architecture), config, name=name))


def routed(adapter: Adapter, task: str, ids: torch.Tensor = IDS) -> torch.Tensor:
    with adapter.route([task] * len(ids)):
        return logits(adapter.model, ids)


def with_peft(model: nn.Module, folder: Path) -> nn.Module:
    """What PEFT makes of a folder, on a copy of a bare model."""
    return PeftModel.from_pretrained(deepcopy(model), folder).eval()
