"""Which layers are adapted, and which backbones are refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    Qwen3_5ForConditionalGeneration,
)

from cgclora.adapter import Adapter
from cgclora.convert.to_lora import TaskLoRAs
from cgclora.models.backbone import load_backbone
from cgclora.models.target_modules import linear_paths
from cgclora.storage.adapter_dir import AdapterError
from tests.helpers.reference import METHODS, TASKS, logits, scatter, token_ids
from tests.helpers.tiny import make_model, make_tokenizer
from tests.suites.backbones.configs import tiny_config

CGC = METHODS["CGC-LoRA"]


def make(model_type: str) -> PreTrainedModel:
    """A tiny random model of a type that `tests.helpers.tiny` has not."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(tiny_config(model_type), dtype=torch.float32)
    return model.eval().requires_grad_(False)


def ends(paths: list[str]) -> set[str]:
    """The last parts of paths."""
    return {path.rpartition(".")[2] for path in paths}


# Multimodal checkpoints -------------------------------------------------------------------


def test_of_a_multimodal_backbone_the_text_decoder_alone_is_adapted_and_all_of_it_learns():
    model = make("gemma3")
    adapter = scatter(Adapter.attach(model, CGC))
    assert any("vision" in path for path, _ in model.named_modules())
    assert all(path.startswith("model.language_model.layers.") for path in adapter.layers)
    assert len(adapter.layers) == 7 * model.config.text_config.num_hidden_layers
    ids = token_ids(3)
    with adapter.route(TASKS):
        adapter.model(input_ids=ids, labels=ids).loss.backward()
    for name, parameter in adapter.named_parameters():
        assert parameter.grad.any(), name


def test_an_adapter_that_was_saved_with_a_vision_towers_layers_is_read_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def all_linear(model: PreTrainedModel, names: object) -> list[str]:
        head = model.get_output_embeddings()
        return [
            path
            for path, module in model.named_modules()
            if isinstance(module, nn.Linear) and module is not head
        ]

    with monkeypatch.context() as before:  # as earlier versions chose
        before.setattr("cgclora.adapter.adapter.linear_paths", all_linear)
        older = scatter(Adapter.attach(make("gemma3"), CGC))
    older.save(tmp_path / "older")
    adapter = Adapter.load(tmp_path / "older", make("gemma3"))
    assert list(adapter.layers) == list(older.layers)
    assert any("vision" in path for path in adapter.layers)
    ids = token_ids(3)
    with older.route(TASKS), adapter.route(TASKS):
        assert torch.equal(logits(adapter.model, ids), logits(older.model, ids))
    exported = TaskLoRAs.read(tmp_path / "older", adapter.model.config)
    assert list(exported.layers) == list(older.layers)


def test_a_multimodal_checkpoint_whose_text_model_is_whole_is_a_backbone(tmp_path: Path):
    whole = Qwen3_5ForConditionalGeneration(tiny_config("qwen3_5")).eval()
    whole.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).architectures == [type(whole).__name__]
    backbone = load_backbone(tmp_path, device="cpu", dtype="float32")
    ids = token_ids(2)
    torch.testing.assert_close(logits(backbone.model, ids), logits(whole, ids))
    assert not any("vision" in path for path in Adapter.attach(backbone, CGC).layers)


# Layers that are left out -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_type", "adapted"),
    [
        ("qwen3_moe", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("mamba", {"in_proj"}),
        ("bart", {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}),
    ],
)
def test_what_sees_no_rows_or_no_text_is_left_out(model_type: str, adapted: set[str]):
    model = make(model_type)
    paths = linear_paths(model)
    assert ends(paths) == adapted
    assert not any("encoder_attn" in path or "expert" in path for path in paths)
    Adapter.attach(model, CGC)


def test_a_layer_that_is_left_out_is_refused_by_name():
    with pytest.raises(AdapterError, match=r"'x_proj' cannot be adapted.*there are \['in_proj'\]"):
        linear_paths(make("mamba"), ["x_proj"])


def test_the_same_layers_are_adapted_where_there_are_no_weights():
    config = tiny_config("gemma3")
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config)
    assert linear_paths(skeleton) == linear_paths(make("gemma3"))


def test_code_that_asks_an_adapted_layer_for_its_weight_gets_the_frozen_one():
    model = make_model("glm")
    down = model.model.layers[0].mlp.down_proj
    adapter = Adapter.attach(model, CGC)
    layer = model.model.layers[0].mlp.down_proj
    assert layer.weight is down.weight
    assert layer.bias is down.bias
    assert "model.layers.0.mlp.down_proj.weight" not in dict(model.named_parameters())
    adapter.fold("mood")
    assert layer.weight is layer.base_layer.weight is not layer.frozen_weight


# Backbones that are refused ---------------------------------------------------------------


class Wrapped(nn.Module):
    """An MLP that is given something other than the rows of the batch."""

    def __init__(self, inner: nn.Module, change: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner = inner
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.inner, x)


CHANGES: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], str]] = {
    "flat": (lambda f, x: f(x.flatten(0, 1)).view_as(x), "tokens without their rows"),
    "tokens first": (lambda f, x: f(x.transpose(0, 1)).transpose(0, 1), "tokens without their"),
    "reordered": (lambda f, x: f(x.roll(1, 0)).roll(-1, 0), "another order"),
    "reversed": (lambda f, x: f(x.flip(0)).flip(0), "another order"),
    "never": (lambda f, x: x, "not called"),
    "read past": (
        lambda f, x: nn.functional.linear(
            nn.functional.linear(x, f.gate_up_proj.weight)[..., ::2], f.down_proj.weight
        ),
        "not called",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_backbone_whose_layers_do_not_see_rows_is_refused_with_layer_and_way_out(change: str):
    model = make_model("glm")
    layer = model.model.layers[1]
    function, reason = CHANGES[change]
    layer.mlp = Wrapped(layer.mlp, function)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    where = r"layers of GlmForCausalLM.*model\.layers\.1\.mlp\.inner\.gate_up_proj"
    with pytest.raises(AdapterError, match=rf"{where}.*{reason}.*target_modules=\[.*'q_proj'"):
        Adapter.attach(model, CGC)
    assert model.state_dict().keys() == weights.keys()
    names = ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert ends(linear_paths(model, names)) == set(names)


def test_a_backbone_that_cannot_read_token_ids_alone_is_refused(monkeypatch: pytest.MonkeyPatch):
    model = make_model("glm")

    def forward(*_: object, **__: object) -> None:
        raise TypeError("pixel_values is missing")

    monkeypatch.setattr(model.model, "forward", forward)
    with pytest.raises(AdapterError, match=r"cannot read the token ids.*pixel_values is missing"):
        Adapter.attach(model, CGC)


def test_looking_at_the_rows_leaves_the_backbone_as_it_was():
    model = make_model("glm").train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    adapter = Adapter.attach(model, CGC)
    adapter.detach()
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_pre_hooks for module in model.modules())
