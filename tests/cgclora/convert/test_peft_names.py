"""Where PEFT looks for the layers of an export: mixtures of experts, decoders that lie deeper."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.utils.transformers_weight_conversion import _MOE_TARGET_MODULE_MAPPING
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from cgclora.adapter import Adapter
from cgclora.convert.importing.lora import import_peft
from cgclora.convert.merged import export_merged
from cgclora.convert.peft_export import export_peft
from cgclora.convert.to_lora import _EXPERT_NAMES, TaskLoRAs
from cgclora.convert.vllm import export_vllm
from cgclora.storage.adapter_dir import AdapterError
from tests.helpers.reference import METHODS, logits, scatter, token_ids
from tests.helpers.tiny import VOCABULARY, make_model, make_tokenizer

IDS = token_ids(2)
CGC = METHODS["CGC-LoRA"]
_EXPERTS = {"num_hidden_layers": 3, "moe_intermediate_size": 16, "num_experts_per_tok": 2}
_ROUTED = {**_EXPERTS, "n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1}
_GROUPS = {"n_group": 1, "topk_group": 1}
_LATENT = {
    **_ROUTED,
    **_GROUPS,
    "num_key_value_heads": 4,
    "head_dim": 4,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
}
FAMILIES: dict[str, dict[str, object]] = {
    "glm4_moe": {**_ROUTED, **_GROUPS},
    "ernie4_5_moe": {**_EXPERTS, "moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1},
    "deepseek_v2": {**_LATENT, "q_lora_rank": None},
    "deepseek_v3": {**_LATENT, "q_lora_rank": 8},
    "qwen3_moe": {**_EXPERTS, "num_experts": 4, "mlp_only_layers": [0]},
    "qwen2_moe": {**_EXPERTS, "num_experts": 4, "mlp_only_layers": [0],
                  "shared_expert_intermediate_size": 16},
    "olmoe": {**_EXPERTS, "num_experts": 4},
    "mixtral": {"num_local_experts": 4},
    "lfm2_moe": {**_EXPERTS, "num_experts": 4, "num_dense_layers": 1,
                 "layer_types": ["conv", "full_attention", "full_attention"]},
}  # fmt: skip
"""Settings of a tiny one of each model type: with dense layers and shared experts, if it can."""


def tiny(family: str) -> PreTrainedModel:
    model = make_model("llama", model_type=family, **FAMILIES[family])
    model.set_experts_implementation("eager")  # the other ones know no float64
    return model


def attached(family: str, targets: tuple[str, ...] | None = None) -> Adapter:
    config = dataclasses.replace(CGC, target_modules=targets)
    return scatter(Adapter.attach(tiny(family), config))


def expected_logits(adapter: Adapter, task: str) -> torch.Tensor:
    """In float64, which rounds nothing that a choice of experts could turn on."""
    with adapter.route([task] * len(IDS)):
        return logits(adapter.model.double(), IDS)


def loads_exactly(folder: Path, adapter: Adapter, task: str) -> bool:
    """Whether PEFT makes the same function of a folder."""
    bare = tiny(adapter.model.config.model_type).double()
    loaded = PeftModel.from_pretrained(bare, folder).double().eval()
    expected = expected_logits(adapter, task)
    size = float((expected - logits(tiny(bare.config.model_type).double(), IDS)).abs().max())
    assert size > 0.1
    return bool((logits(loaded, IDS) - expected).abs().max() < 1e-5 * size)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_task_is_exported_exactly_from_a_mixture_of_experts(tmp_path, family):
    adapter = attached(family)
    export_peft(TaskLoRAs.of(adapter), tmp_path / "out", ["mood"])
    assert loads_exactly(tmp_path / "out", adapter, "mood")


@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("glm4_moe", ("q_proj", "o_proj")),
        ("deepseek_v3", ("kv_a_proj_with_mqa", "o_proj")),
        ("lfm2_moe", ("w1", "w3")),
    ],
)
def test_layers_that_peft_leaves_alone_are_exported_from_any_backbone(tmp_path, family, targets):
    adapter = attached(family, targets)
    adapter.save(tmp_path / "adapter")
    source = TaskLoRAs.read(tmp_path / "adapter", adapter.model.config)
    export_peft(source, tmp_path / "out", ["mood"])
    assert loads_exactly(tmp_path / "out", adapter, "mood")


def test_layers_called_like_experts_are_named_as_parameters_and_kept_from_vllm(tmp_path):
    adapter = attached("glm4_moe")
    adapter.save(tmp_path / "adapter")
    source = TaskLoRAs.read(tmp_path / "adapter", adapter.model.config)
    names = ("gate_proj", "up_proj", "down_proj")
    paths = [f"model.layers.0.mlp.{name}" for name in names]
    assert [*source.hidden_from_peft] == paths
    export_peft(source, tmp_path / "out", ["mood"])
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["target_parameters"] == [f"{path}.weight" for path in paths]
    assert sorted(config["target_modules"]) == ["k_proj", "o_proj", "q_proj", "v_proj"]
    back = import_peft(tmp_path / "out", tiny("glm4_moe"), ["mood"])
    assert loads_exactly(tmp_path / "out", back, "mood")
    with pytest.raises(AdapterError, match=r"3 of the .* called like routed experts.* to merged"):
        export_vllm([source], tmp_path / "bundle", base="x/y")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_mixture_loses_nothing(tmp_path, family):
    adapter = attached(family)
    export_merged(adapter, "mood", tmp_path / "out", make_tokenizer())
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    found.set_experts_implementation("eager")
    expected = expected_logits(adapter, "mood")
    size = float((expected - logits(tiny(family).double(), IDS)).abs().max())
    assert size > 0.1
    difference = (logits(found.double().eval(), IDS) - expected).abs().max()
    assert difference < 1e-5 * size  # what a weight of float32 rounds


def test_names_that_are_taken_for_experts_are_those_of_peft():
    theirs = {pattern: set(names) for pattern, names in _MOE_TARGET_MODULE_MAPPING.items()}
    assert theirs == _EXPERT_NAMES


# Decoders that lie deeper -----------------------------------------------------------------

_TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.2,
}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def with_eyes() -> PreTrainedModel:
    """A Gemma 3 that also reads pictures: its decoder is `model.language_model`."""
    config = AutoConfig.for_model(
        "gemma3", text_config=_TEXT, vision_config=_VISION, mm_tokens_per_image=4
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval().requires_grad_(False)


def test_a_decoder_that_lies_deeper_goes_out_and_comes_back_with_every_layer(tmp_path):
    adapter = scatter(Adapter.attach(with_eyes(), CGC))
    assert all(".language_model." in path for path in adapter.layers)
    expected = expected_logits(adapter, "mood")
    export_peft(TaskLoRAs.of(adapter), tmp_path / "out", ["mood"])
    found = PeftModel.from_pretrained(with_eyes().double(), tmp_path / "out").double().eval()
    back = import_peft(tmp_path / "out", with_eyes(), ["mood"])
    assert list(back.layers) == list(adapter.layers)
    bare = logits(with_eyes().double(), IDS)
    size = float((expected - bare).abs().max())
    assert size > 0.1
    for other in (logits(found, IDS), expected_logits(back, "mood")):
        assert (other - expected).abs().max() < 1e-5 * size
