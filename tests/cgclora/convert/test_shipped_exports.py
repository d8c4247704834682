"""The shipped adapter on the embedded backbone, exported."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from cgclora.adapter import Adapter
from cgclora.convert.importing.lora import import_peft
from cgclora.convert.merged import export_merged
from cgclora.convert.peft_export import export_peft
from cgclora.convert.to_lora import TaskLoRAs
from cgclora.models.backbone import Backbone, load_backbone
from tests.helpers.exports import routed, with_peft
from tests.helpers.reference import logits

MEDICAL = Path(__file__).parents[3] / "assets" / "adapters" / "medical"


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Mean distance of logits. In bfloat16 they are a few hundredths of the adapter's effect off,
    whoever computes them: it rounds to 8 bits, and everybody in other places."""
    return float((found - expected).abs().mean())


@pytest.fixture(scope="module")
def embedded() -> Backbone:
    return load_backbone(device="cpu", dtype="bfloat16")


@pytest.fixture(scope="module")
def prompts(embedded: Backbone) -> torch.Tensor:
    ids = embedded.tokenizer("荨麻疹怎么治才能不复发？这句话的意图是什么？\n")["input_ids"]
    return torch.tensor([ids])


@pytest.mark.backbone
def test_the_shipped_adapter_is_the_same_in_peft_and_in_fp32_to_the_fourth_digit(
    tmp_path, embedded, prompts
):
    export_peft(TaskLoRAs.read(MEDICAL, embedded.model.config), tmp_path / "out", ["KUAKE-QIC"])
    for backbone, close in ((embedded, 0.1), (load_backbone(device="cpu", dtype="float32"), 1e-4)):
        adapter = Adapter.load(MEDICAL, backbone)
        expected = routed(adapter, "KUAKE-QIC", prompts)
        adapter.detach()
        bare = logits(backbone.model, prompts)
        found = logits(with_peft(backbone.model, tmp_path / "out"), prompts)
        assert apart(found, expected) < close * apart(bare, expected)
        assert torch.equal(found[:, -1].argmax(-1), expected[:, -1].argmax(-1))


@pytest.mark.backbone
def test_an_exported_task_of_the_shipped_adapter_comes_back_the_same(tmp_path, embedded, prompts):
    source = TaskLoRAs.read(MEDICAL, embedded.model.config)
    export_peft(source, tmp_path / "out", ["KUAKE-QIC"])
    adapter = import_peft(tmp_path / "out", embedded, ["again"])
    found = routed(adapter, "again", prompts)
    adapter.detach()
    adapter = Adapter.load(MEDICAL, embedded)
    expected = routed(adapter, "KUAKE-QIC", prompts)
    adapter.detach()
    assert apart(found, expected) < 0.1 * apart(logits(embedded.model, prompts), expected)


@pytest.mark.backbone
def test_the_shipped_adapter_is_the_same_in_a_merged_model(tmp_path, embedded, prompts):
    adapter = Adapter.load(MEDICAL, embedded)
    export_merged(adapter, "KUAKE-QIC", tmp_path / "out", embedded.tokenizer)
    expected = routed(adapter, "KUAKE-QIC", prompts)
    adapter.fold("KUAKE-QIC")
    folded = logits(embedded.model, prompts)
    adapter.detach()
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert found.dtype == torch.bfloat16
    assert torch.equal(logits(found, prompts), folded)
    bare = logits(embedded.model, prompts)
    assert apart(folded, expected) < 0.1 * apart(bare, expected)
