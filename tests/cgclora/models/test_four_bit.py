"""Backbones in 4 bits, against plain models of the values that bitsandbytes gives back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from cgclora.adapter import Adapter
from cgclora.convert.merged import export_merged
from cgclora.convert.peft_export import export_peft
from cgclora.convert.to_lora import TaskLoRAs
from cgclora.inference.engine import generate
from cgclora.inference.request import Request
from cgclora.inference.runtime import Runtime
from cgclora.models.backbone import Backbone, load_backbone
from cgclora.models.checkpoint import is_four_bit
from cgclora.storage.adapter_dir import AdapterError
from cgclora.training.loss import TargetLoss
from tests.helpers.reference import METHODS, TASKS, scatter, token_ids
from tests.helpers.tiny import make_model, make_tokenizer
from tests.helpers.training_runs import CONFIG, run

functional = pytest.importorskip("bitsandbytes.functional")
CGC = METHODS["CGC-LoRA"]
KINDS = {
    "qwen3": {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16},
    "gpt_neox": {"hidden_size": 64, "intermediate_size": 128, "tie_word_embeddings": False},
}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone of layers that are large enough to be packed."""
    folder = tmp_path_factory.mktemp(request.param)
    make_model(request.param, **KINDS[request.param]).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def backbone(folder: Path) -> Backbone:
    return load_backbone(folder, device="cpu", dtype="float32", four_bit=True)


def unpacked(folder: Path, model: PreTrainedModel) -> Backbone:
    """The same backbone in float32, with the values that its packed weights stand for."""
    plain = load_backbone(folder, device="cpu", dtype="float32")
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear) and not module.weight.is_floating_point():
            weight = functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            plain.model.get_submodule(path).weight.data = weight
    return plain


def test_linear_layers_are_packed_and_the_backbone_is_known_as_the_unquantised_one(
    folder: Path, backbone: Backbone
) -> None:
    plain = load_backbone(folder, device="cpu", dtype="float32")
    assert is_four_bit(backbone.model)
    assert not is_four_bit(plain.model)
    assert backbone.fingerprint == plain.fingerprint
    weights = {path: one.weight for path, one in backbone.model.named_modules()
               if isinstance(one, nn.Linear)}  # fmt: skip
    head = {path for path, weight in weights.items() if weight.is_floating_point()}
    assert len(head) == 1
    assert len(weights) > 4
    assert Runtime.of(backbone).facts() == {
        "pass": "transformers",
        "weights": "nf4, computed in float32",
    }


def test_loss_and_gradients_are_those_of_the_unpacked_weights(
    folder: Path, backbone: Backbone
) -> None:
    ids, positions = token_ids(3), torch.tensor([3, 4, 9, 17, 20])
    targets = torch.tensor([5, 299, 0, 7, 8])
    found = []
    for one in (unpacked(folder, backbone.model), backbone):
        adapter = scatter(Adapter.attach(one, CGC))
        module = TargetLoss(adapter.model)
        with adapter.route(TASKS):
            losses = module(ids, positions, targets)
        parameters = [parameter for _, parameter in adapter.named_parameters()]
        found.append([losses, *torch.autograd.grad(losses.sum(), parameters)])
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm()


def test_mixed_batches_are_answered_as_with_the_unpacked_weights(
    folder: Path, backbone: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = ("好", "Is this about health?", "天", "what")
    requests = [
        Request(task, prompt, max_new_tokens=6)
        for task, prompt in zip((*TASKS, None), prompts, strict=True)
    ]
    answers = []
    for one in (unpacked(folder, backbone.model), backbone):
        caplog.clear()
        adapter = scatter(Adapter.attach(one, CGC))
        answers.append([answer.text for answer in generate(one, requests, adapter, batch_size=2)])
    assert answers[0] == answers[1]
    assert len({*answers[0]}) > 1
    ours = [record for record in caplog.records if record.name.startswith("cgclora")]
    assert [record.getMessage() for record in ours] == [
        "the fast decoder has no code for 4-bit weights: transformers answers, with the same "
        "results."
    ]


def test_an_adapter_trained_on_packed_weights_belongs_to_the_backbone(
    folder: Path, backbone: Backbone, tmp_path: Path
) -> None:
    settings = {"gradient_checkpointing": True, "epochs": 1.0, "evaluations": 1}
    adapter, manifest = run(tmp_path / "run", backbone, **settings)
    losses = manifest["training"]
    assert losses["best_dev_loss"] < 5
    plain = load_backbone(folder, device="cpu", dtype="float32")
    again = Adapter.load(tmp_path / "run" / "adapter", plain)
    task = CONFIG.tasks[0]
    again.fold(task)  # as no backbone in 4 bits can
    for refused in (
        lambda: adapter.fold(task),
        lambda: export_merged(adapter, task, tmp_path / "out", backbone.tokenizer),
    ):
        with pytest.raises(AdapterError, match="is quantised: fold into an unquantised backbone"):
            refused()
    export_peft(TaskLoRAs.of(adapter), tmp_path / "peft", [task])
