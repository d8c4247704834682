"""A task as a whole model."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from cgclora.adapter import Adapter
from cgclora.convert.merged import export_merged
from cgclora.models.backbone import load_backbone
from cgclora.storage.adapter_dir import AdapterError
from tests.helpers.exports import ALL_ARCHITECTURES, CGC, CLOSE, IDS, attached, routed
from tests.helpers.reference import METHODS, logits, scatter
from tests.helpers.tiny import make_backbone, make_model


def backbone_weights(adapter: Adapter) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in adapter.model.state_dict().items()}


@ALL_ARCHITECTURES
def test_the_merged_model_is_the_folded_one_bit_for_bit(tmp_path, architecture):
    adapter, tokenizer = attached(architecture), make_backbone().tokenizer
    before = backbone_weights(adapter)
    export_merged(adapter, "mood", tmp_path / "out", tokenizer)
    after = backbone_weights(adapter)
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(logits(found, IDS), routed(adapter, "mood"), **CLOSE)
    adapter.fold("mood")
    assert torch.equal(logits(found, IDS), logits(adapter.model, IDS))
    assert AutoTokenizer.from_pretrained(tmp_path / "out").encode("好") == tokenizer.encode("好")


def test_a_merged_model_is_a_backbone_like_any_other(tmp_path):
    adapter = attached("gemma3")
    export_merged(adapter, "mood", tmp_path / "out", make_backbone().tokenizer)
    backbone = load_backbone(tmp_path / "out", device="cpu", dtype="float32")
    torch.testing.assert_close(logits(backbone.model, IDS), routed(adapter, "mood"), **CLOSE)


def test_other_adapters_on_the_backbone_are_not_part_of_the_merged_model(tmp_path):
    backbone = make_backbone()
    adapter = scatter(Adapter.attach(backbone, CGC, name="one"))
    scatter(Adapter.attach(backbone, METHODS["LoRA"], name="two"), seed=2)
    export_merged(adapter, "mood", tmp_path / "out", backbone.tokenizer)
    assert load_file(tmp_path / "out" / "model.safetensors").keys() <= set(
        make_model().state_dict()
    )


def test_a_folded_task_is_not_lost_by_an_export(tmp_path):
    adapter = attached()
    adapter.fold("names")
    with pytest.raises(AdapterError, match="'names' is folded in: unfold"):
        export_merged(adapter, "mood", tmp_path / "out", make_backbone().tokenizer)
    assert adapter.folded_task == "names"


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(OSError, match=r"takes .* GB, 0\.00 GB are free"):
        export_merged(attached(), "mood", tmp_path / "out", make_backbone().tokenizer)
    assert not (tmp_path / "out").exists()
