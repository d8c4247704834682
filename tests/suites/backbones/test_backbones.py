"""The page that says which backbones the method is the same on, and some of its lines anew."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from cgclora.layer import LayerExperts
from cgclora.models.backbone import load_backbone
from tests.helpers.tiny import make_tokenizer
from tests.suites.backbones.checks import EQUAL, Row, examine
from tests.suites.backbones.configs import MULTIMODAL, tiny_config

PAGE = (Path(__file__).parents[3] / "docs" / "backbones.md").read_text(encoding="utf-8")
COMMAND = "write it anew: python -m tests.suites.backbones docs/backbones.md"
SOME = ("deepseek_v3", "gemma3", "gpt_neox", "mamba", "qwen2_moe", "qwen3_5")
"""Latent attention, images, one layer for three, no attention, experts, linear attention."""


def lines() -> dict[str, list[str]]:
    """The cells of each model type's line."""
    rows = re.findall(r"^\| (\S+) \|(.*)\|$", PAGE, re.MULTILINE)
    return {name: [cell.strip() for cell in rest.split(" | ")] for name, rest in rows}


def kind(cell: str) -> str:
    """A finding without its words and numbers."""
    return re.split(r"[: ]", cell)[0]


def test_the_page_names_the_model_types_of_the_transformers_that_is_required():
    assert f"transformers {transformers.__version__}" in PAGE, COMMAND
    assert lines().keys() == {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MULTIMODAL}, COMMAND


def test_no_backbone_is_wrong_without_saying_so():
    """What is not equal is refused with words of ours, or has no tiny model here."""
    found = {kind(cell) for cells in lines().values() for cell in cells if cell}
    assert found <= {EQUAL, "refused", "no"}


@pytest.mark.parametrize("model_type", SOME)
def test_a_backbone_is_what_the_page_says(model_type: str):
    torch.manual_seed(0)
    row = examine(model_type)
    assert [kind(cell) for cell in row.cells] == [kind(cell) for cell in lines()[model_type]]


@pytest.mark.parametrize("model_type", ["qwen3_5", "qwen3_vl"])
def test_the_text_model_of_a_multimodal_checkpoint_is_loaded(model_type: str, tmp_path: Path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whole = AutoModelForImageTextToText.from_config(tiny_config(model_type)).eval()
    whole.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    model = load_backbone(tmp_path, device="cpu", dtype="float32").model
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, whole(input_ids=ids).logits)


def test_an_error_is_found(monkeypatch: pytest.MonkeyPatch):
    """The checks themselves notice experts that are weighed wrongly."""
    add = LayerExperts.add

    def other(self: LayerExperts, x: torch.Tensor, y: torch.Tensor) -> None:
        add(replace(self, weights=self.weights.roll(1, 0)), x, y)

    monkeypatch.setattr(LayerExperts, "add", other)
    row: Row = examine("gpt_neox")
    assert [kind(cell) for cell in row.cells] == ["differs"] * 3 + [EQUAL] * 2
