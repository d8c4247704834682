"""What PEFT's adapter_config.json says: each field is honoured, or the folder is refused.

The right values come from PEFT, which trains, writes and computes.
"""

import json
import re
from pathlib import Path

import pytest
import torch
from peft import (
    EvaConfig,
    LoraConfig,
    LoraGAConfig,
    PeftModel,
    get_peft_model,
)
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.loraga import preprocess_loraga
from torch import Tensor
from transformers import PreTrainedModel

from cgclora.convert.importing.lora import import_peft, same_model, upcycle
from cgclora.convert.importing.peft import PEFT_CONFIG, read_peft
from cgclora.storage.adapter_dir import AdapterError
from tests.helpers.reference import logits, token_ids
from tests.helpers.tiny import make_backbone, make_model

IDS = token_ids(2)
ATTENTION = ["q_proj", "v_proj"]


def begun(**settings: object) -> PeftModel:
    """A LoRA before its first step; PEFT may have changed the backbone below it."""
    options = {"r": 4, "lora_alpha": 6, "target_modules": ATTENTION, "task_type": "CAUSAL_LM"}
    config = LoraConfig(**{**options, **settings})
    model = make_model()
    if config.init_lora_weights == "corda":
        preprocess_corda(model, config, lambda: logits(model, token_ids(1, 100)))
    if config.init_lora_weights == "lora_ga":
        preprocess_loraga(model, config, lambda: backward(model))
    return get_peft_model(model, config)


def backward(model: PreTrainedModel) -> None:
    inputs = model.get_input_embeddings()(IDS).requires_grad_()
    model(inputs_embeds=inputs, labels=IDS).loss.backward()


def trained(folder: Path, initial: Path | None = None, **settings: object) -> Tensor:
    """Write a LoRA that has learnt something, as PEFT does; returns the logits that it has there.

    Args:
        folder: Where to.
        initial: Where to write it before its first step; it is then converted to a plain LoRA.
        settings: Of PEFT's config.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = begun(**settings)
        if initial is not None:
            model.save_pretrained(initial)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data += 0.2 * torch.randn_like(parameter)
    expected = logits(model.eval(), IDS)
    converted = {} if initial is None else {"path_initial_model_for_weight_conversion": initial}
    model.save_pretrained(folder, **{name: str(path) for name, path in converted.items()})
    return expected


def imported(folder: Path) -> Tensor:
    adapter = import_peft(folder, make_backbone(), ["one"])
    with adapter.route(["one"] * len(IDS)):
        return logits(adapter.model, IDS)


def rewritten(folder: Path, **changes: object) -> Path:
    config = json.loads((folder / PEFT_CONFIG).read_text())
    (folder / PEFT_CONFIG).write_text(json.dumps({**config, **changes}))
    return folder


def assert_same(found: Tensor, expected: Tensor) -> None:
    """The same logits but for float32, and not those of the bare backbone."""
    size = float((expected - logits(make_model(), IDS)).abs().max())
    assert size > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * size)


# Fields -----------------------------------------------------------------------------------

HONOURED = [
    {"task_type": None, "auto_mapping": {"parent_library": "elsewhere"}},
    {"base_model_name_or_path": None, "revision": "v1", "peft_version": "0.1"},
    {"inference_mode": True},
    {"r": 3, "lora_alpha": 1},
    {"use_rslora": True},
    {"lora_dropout": 0.25},
    {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"layers.1.self_attn.q_proj": 20}},
    {"rank_pattern": {"^model.layers.0.+": 2}, "use_rslora": True},
    {"target_modules": "all-linear"},
    {"target_modules": r".*\.(q_proj|down_proj)"},
    {"exclude_modules": ["layers.0.self_attn.q_proj"]},
    {"layers_to_transform": [1], "layers_pattern": "layers"},
    {"fan_in_fan_out": True},
    {"ensure_weight_tying": True},
    {"init_lora_weights": "eva", "eva_config": EvaConfig()},
    {"corda_config": CordaConfig()},
    {"loftq_config": {"loftq_bits": 4}, "lora_ga_config": LoraGAConfig()},
    {"qalora_group_size": 8, "megatron_core": "elsewhere"},
]
REFUSED = {
    "use_dora": True,
    "use_qalora": True,
    "use_bdlora": {"nblocks": 2},
    "bias": "all",
    "lora_bias": True,
    "modules_to_save": ["lm_head"],
    "trainable_token_indices": [5],
    "layer_replication": [[0, 2]],
    "target_parameters": ["mlp.experts.down_proj"],
    "alora_invocation_tokens": [5],
    "arrow_config": {"top_k": 1},
    "kasa_config": {"beta": 1},
    "monteclora_config": {"num_samples": 8},
    "velora_config": {"num_groups": 2},
    "megatron_config": {"hidden_size": 32},
}


@pytest.mark.parametrize("settings", HONOURED, ids=" ".join)
def test_an_imported_lora_gives_pefts_logits(tmp_path, settings):
    expected = trained(tmp_path / "lora", **settings)
    assert_same(imported(tmp_path / "lora"), expected)


@pytest.mark.parametrize("field", sorted(REFUSED.keys() - {"arrow_config"}))
def test_what_does_more_than_add_a_product_is_refused(tmp_path, field):
    trained(tmp_path / "lora")
    with pytest.raises(AdapterError, match=rf"uses {field}\b.*merge it"):
        read_peft(rewritten(tmp_path / "lora", **{field: REFUSED[field]}))


@pytest.mark.parametrize(
    "settings",
    [
        {"peft_type": "XLORA"},
        {"peft_type": "MIXLORA", "routing_strategy": "mixlora", "num_experts": 8},
        {"lora_nums": 8, "blc_alpha": 0.1},
        {"arrow_config": REFUSED["arrow_config"]},
    ],
    ids=str,
)
def test_mixtures_that_weigh_loras_for_each_token_are_refused_with_the_reason(tmp_path, settings):
    trained(tmp_path / "lora")
    named = next(name for name in settings if name != "peft_type" or len(settings) == 1)
    word = settings["peft_type"] if named == "peft_type" else named
    with pytest.raises(AdapterError, match=rf"every token \(.*{word}.*by the task alone"):
        read_peft(rewritten(tmp_path / "lora", **settings))


def test_every_field_that_peft_writes_is_honoured_or_refused():
    looked_at = {"peft_type"}.union(REFUSED, *HONOURED)
    assert looked_at == LoraConfig().to_dict().keys()


def test_a_field_of_a_later_peft_is_named_in_a_warning(tmp_path):
    trained(tmp_path / "lora")
    rewritten(tmp_path / "lora", use_tomorrow={"strength": 2}, use_never=None)
    with pytest.warns(UserWarning, match=r"not known to this version: \['use_tomorrow'\]"):
        lora = read_peft(tmp_path / "lora")
    assert lora.rank == 4


# Starts -----------------------------------------------------------------------------------

STARTS = [
    *(True, False, "gaussian", "Gaussian", "eva", "orthogonal", "mica", "MiCA"),
    *("olora", "OLoRA", "pissa", "pissa_niter_4", "corda", "lora_ga"),
]
_SETTINGS = {
    "corda": {"corda_config": CordaConfig(corda_method="kpm")},
    "lora_ga": {"lora_ga_config": LoraGAConfig()},
}


def starting(start: object) -> dict[str, object]:
    """PEFT's settings of a start."""
    return {"init_lora_weights": start, **_SETTINGS.get(start, {})}


def keeps_backbone(start: object) -> bool:
    """Whether PEFT leaves the weights below a LoRA as they were."""
    bare = make_model()
    model = begun(**starting(start)).get_base_model()
    path = "model.layers.0.self_attn.q_proj"
    return torch.equal(model.get_submodule(path).base_layer.weight, bare.get_submodule(path).weight)


@pytest.mark.parametrize("start", STARTS, ids=str)
def test_a_start_is_imported_exactly_where_peft_keeps_the_backbone(tmp_path, start):
    expected = trained(tmp_path / "lora", **starting(start))
    if keeps_backbone(start):
        assert_same(imported(tmp_path / "lora"), expected)
    else:
        message = rf"init_lora_weights={start}, .*path_initial_model_for_weight_conversion"
        with pytest.raises(AdapterError, match=message):
            read_peft(tmp_path / "lora")


@pytest.mark.parametrize("start", ["olora", "OLoRA", "pissa", "corda", "lora_ga"])
def test_what_peft_converts_to_a_plain_lora_is_imported(tmp_path, start):
    expected = trained(tmp_path / "lora", tmp_path / "initial", **starting(start))
    assert_same(imported(tmp_path / "lora"), expected)


@pytest.mark.parametrize("start", ["loftq", "LoftQ", "tomorrow"])
def test_a_start_that_quantises_the_backbone_or_is_unknown_is_refused(tmp_path, start):
    trained(tmp_path / "lora")
    with pytest.raises(AdapterError, match="not known to leave the backbone's weights"):
        read_peft(rewritten(tmp_path / "lora", init_lora_weights=start))


# The backbone's name ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        *("Qwen/Qwen2.5-0.5B", "qwen/qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B/"),
        *("Qwen2.5-0.5B", "/models/Qwen2.5-0.5B", "./Qwen2.5-0.5B/", "C:\\models\\Qwen2.5-0.5B"),
        "/home/me/.cache/huggingface/hub/models--Qwen--Qwen2.5-0.5B/snapshots/060db6499f32",
    ],
)
def test_one_model_has_many_names(other):
    assert same_model("Qwen/Qwen2.5-0.5B", other)
    assert same_model(other, "Qwen/Qwen2.5-0.5B")


@pytest.mark.parametrize(
    "other",
    [
        *("Qwen/Qwen2.5-1.5B", "somebody/Qwen2.5-0.5B", "/models/Qwen2.5-1.5B", "5-0.5B"),
        "/home/me/.cache/huggingface/hub/models--Qwen--Qwen2.5-1.5B/snapshots/060db6499f32",
        "/home/me/.cache/huggingface/hub/models--somebody--Qwen2.5-0.5B/snapshots/060db6499f32",
    ],
)
def test_names_of_other_models_differ(other):
    assert not same_model("Qwen/Qwen2.5-0.5B", other)
    assert not same_model(other, "Qwen/Qwen2.5-0.5B")


def test_a_lora_of_another_backbone_is_imported_with_a_warning(tmp_path):
    trained(tmp_path / "lora")
    rewritten(tmp_path / "lora", base_model_name_or_path="Qwen/Qwen2.5-0.5B")
    message = re.escape("trained on Qwen/Qwen2.5-0.5B, the backbone here is tiny-qwen2")
    with pytest.warns(UserWarning, match=message):
        adapter = import_peft(tmp_path / "lora", make_backbone(), ["one"])
    assert adapter.layers
    with pytest.warns(UserWarning, match=message):
        upcycle({"one": tmp_path / "lora"}, make_backbone())


def test_a_backbone_from_a_folder_is_known_by_where_it_lies(tmp_path, monkeypatch):
    folder = tmp_path / "models--Qwen--Qwen2.5-0.5B" / "snapshots" / "060db6499f32"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    trained(tmp_path / "lora")
    rewritten(tmp_path / "lora", base_model_name_or_path="Qwen/Qwen2.5-0.5B")
    import_peft(tmp_path / "lora", make_model(name_or_path="."), ["one"])
