"""Adapters and their backbone in folders."""

from pathlib import Path

import pytest
import torch

from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig
from cgclora.models.backbone import load_backbone
from tests.helpers.tiny import make_model, make_tokenizer
from tests.ui.engine.questions import TASKS


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two adapters, and the tiny backbone that they belong to."""
    folder = tmp_path_factory.mktemp("zero")
    backbone = folder / "backbone"
    model = make_model("llama")
    model.config.max_position_embeddings = 2048
    model.save_pretrained(backbone)
    make_tokenizer().save_pretrained(backbone)
    for seed, name in enumerate(("one", "two")):
        loaded = load_backbone(backbone, device="cpu", dtype="bfloat16")
        adapter = Adapter.attach(loaded, AdapterConfig(tasks=TASKS, common=2, specific=1))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for _, parameter in adapter.named_parameters():
                parameter.normal_(0, 0.3, generator=generator)
        adapter.save(folder / "adapters" / name)
    return folder / "adapters", backbone
