"""Tasks as PEFT LoRAs: PEFT gives their logits, and the folder says where they come from."""

import json

import pytest
import torch
from safetensors.torch import load_file

from cgclora.config import AdapterConfig
from cgclora.convert.gguf import export_gguf
from cgclora.convert.peft_export import export_peft
from cgclora.convert.to_lora import TaskLoRAs, file_names
from cgclora.convert.vllm import export_vllm
from cgclora.storage.adapter_dir import AdapterError, read_manifest
from cgclora.storage.atomic_io import sha256_file
from tests.helpers.exports import ALL_ARCHITECTURES, CGC, CLOSE, IDS, attached, routed, with_peft
from tests.helpers.reference import METHODS, TASKS, logits, merged
from tests.helpers.tiny import ARCHITECTURES, make_model


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        *(pytest.param("qwen2", config, id=name) for name, config in METHODS.items()),
        *(pytest.param(name, CGC, id=name) for name in ARCHITECTURES if name != "qwen2"),
    ],
)
def test_peft_loads_a_task_and_gives_its_logits(tmp_path, architecture, config):
    adapter = attached(architecture, config)
    export_peft(TaskLoRAs.of(adapter), tmp_path / "out")
    bare = make_model(architecture).double()
    adapter.model.double()  # what fp32 rounds in a pass would hide what an export loses
    for task in TASKS:
        found = logits(with_peft(bare, tmp_path / "out" / task).double(), IDS)
        torch.testing.assert_close(found, routed(adapter, task), **CLOSE)
        torch.testing.assert_close(found, logits(merged(bare, adapter, task), IDS), **CLOSE)
        assert not torch.allclose(found, logits(bare, IDS), **CLOSE)


@ALL_ARCHITECTURES
def test_a_saved_adapter_is_exported_without_the_backbones_weights(tmp_path, architecture):
    adapter = attached(architecture)
    adapter.save(tmp_path / "adapter", facts={"licence": "CC0", "method": "cgc-lora"})
    export_peft(TaskLoRAs.of(adapter), tmp_path / "attached", ["mood"])
    saved = TaskLoRAs.read(tmp_path / "adapter", adapter.model.config)
    export_peft(saved, tmp_path / "saved", ["mood"])
    expected = load_file(tmp_path / "attached" / "adapter_model.safetensors")
    found = load_file(tmp_path / "saved" / "adapter_model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)


def test_only_adapted_layers_are_named_and_by_suffix_where_that_is_clear(tmp_path):
    everywhere = TaskLoRAs.of(attached())
    assert set(everywhere.target_modules) == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    path = "model.layers.1.self_attn.q_proj"
    config = AdapterConfig(TASKS, expert_rank=2, target_modules=(path, "down_proj"))
    adapter = attached(config=config)
    experts = TaskLoRAs.of(adapter)
    assert path in experts.target_modules
    export_peft(experts, tmp_path / "out", ["mood"])
    model = with_peft(make_model(), tmp_path / "out")
    wrapped = {name for name, module in model.named_modules() if hasattr(module, "lora_A")}
    assert wrapped == {f"base_model.model.{name}" for name in adapter.layers}
    torch.testing.assert_close(logits(model, IDS), routed(adapter, "mood"), **CLOSE)


def test_the_update_is_exact_in_fp32(tmp_path):
    adapter = attached()
    lora = TaskLoRAs.of(adapter).lora("mood")
    assert lora.rank == CGC.active_rank
    for row, (path, layer) in enumerate(adapter.layers.items()):
        A, B = lora.layers[path]
        expected = layer.update(adapter.name, adapter.rank_weights("mood")[row])
        torch.testing.assert_close(B @ A, expected, rtol=1e-5, atol=1e-6)


def test_an_export_says_where_it_comes_from(tmp_path):
    adapter = attached("gemma3")
    adapter.save(tmp_path / "adapter", facts={"licence": "CC BY-NC 4.0", "method": "cgc-lora"})
    source = TaskLoRAs.read(tmp_path / "adapter", adapter.model.config)
    manifest = export_peft(source, tmp_path / "out", ["mood"], base="somebody/gemma")
    written = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert json.loads(json.dumps(manifest)) == written
    origin, stored = manifest["adapters"][0], read_manifest(tmp_path / "adapter")[0]
    assert origin["sha256"] == stored["files"]["adapter.safetensors"]["sha256"]
    assert manifest["backbone"]["fingerprint"] == stored["backbone"]["fingerprint"]
    assert (manifest["licence"], manifest["separator"]) == ("CC BY-NC 4.0", "\n")
    assert manifest["export"] == {"format": "peft", "tasks": ["mood"], "rank": CGC.active_rank}
    for name, facts in manifest["files"].items():
        assert sha256_file(tmp_path / "out" / name) == facts["sha256"]
    written = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == "somebody/gemma"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "CC BY-NC 4.0" in card
    assert "Gemma Terms of Use" in card
    assert "Gemma Terms of Use" in (tmp_path / "out" / "NOTICE").read_text()
    assert "# Gemma Terms of Use" in (tmp_path / "out" / "GEMMA_TERMS.md").read_text()


def test_only_gemma_brings_gemmas_terms(tmp_path):
    export_peft(TaskLoRAs.of(attached("qwen2")), tmp_path / "out", ["mood"])
    assert not (tmp_path / "out" / "NOTICE").exists()
    assert "Gemma" not in (tmp_path / "out" / "README.md").read_text()


def test_every_folder_of_an_export_of_all_tasks_says_it_too(tmp_path):
    export_peft(TaskLoRAs.of(attached()), tmp_path / "out")
    for task in TASKS:
        manifest = json.loads((tmp_path / "out" / task / "manifest.json").read_text())
        assert manifest["export"]["tasks"] == [task]


def test_an_export_replaces_an_older_one_and_nothing_else(tmp_path):
    experts = TaskLoRAs.of(attached())
    export_peft(experts, tmp_path / "out")
    export_peft(experts, tmp_path / "out", ["mood"])
    assert not (tmp_path / "out" / "summary").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(AdapterError, match="something other than an export"):
        export_peft(experts, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_another_backbone_is_noticed_by_its_layers(tmp_path):
    attached("qwen2").save(tmp_path / "adapter")
    with pytest.raises(AdapterError, match="name the one it was trained on"):
        TaskLoRAs.read(tmp_path / "adapter", make_model("glm").config)
    for other in ({"intermediate_size": 48}, {"num_key_value_heads": 4}):
        config = make_model("qwen2").config
        config.update(other)
        with pytest.raises(AdapterError, match=r"other layers.*name the one it was trained on"):
            TaskLoRAs.read(tmp_path / "adapter", config)


def test_another_backbone_is_noticed_by_its_type(tmp_path):
    manifest = attached("qwen2").save(tmp_path / "adapter")
    llama = make_model("llama").config  # with the same layers
    with pytest.raises(AdapterError, match=r"another type than 'llama'.*the one it was trained on"):
        TaskLoRAs.read(tmp_path / "adapter", llama)
    del manifest["backbone"]["model_type"]  # as older versions wrote it
    (tmp_path / "adapter" / "manifest.json").write_text(json.dumps(manifest))
    assert TaskLoRAs.read(tmp_path / "adapter", llama).layers


def test_a_saved_adapter_is_read_once(tmp_path, monkeypatch):
    adapter = attached()
    adapter.save(tmp_path / "adapter")
    hashed = []
    monkeypatch.setattr(
        "cgclora.storage.atomic_io.sha256_file",
        lambda path: hashed.append(path.name) or sha256_file(path),
    )
    TaskLoRAs.read(tmp_path / "adapter", adapter.model.config)
    assert sorted(hashed) == ["adapter.safetensors", "config.json"]


def test_file_names_are_safe_and_distinct():
    assert file_names(["a/../b", "情感 分析", "x=y;z"]) == {
        "a/../b": "a_.._b",
        "情感 分析": "情感_分析",
        "x=y;z": "x_y_z",
    }
    for alike in (["a b", "a/b"], ["-a", "a"]):
        with pytest.raises(AdapterError, match="one by one"):
            file_names(alike)


def test_tasks_get_names_that_programs_do_not_take_for_options():
    assert file_names(["-x", "--", "._-y-"]) == {"-x": "x", "--": "task", "._-y-": "y-"}


def test_long_names_are_cut_and_stay_distinct(tmp_path):
    tasks = ("情" * 150 + "甲", "情" * 150 + "乙")
    names = file_names(tasks).values()
    assert len(set(names)) == 2
    assert all(len(name.encode()) <= 200 and name.startswith("情情") for name in names)
    config = AdapterConfig(tasks, expert_rank=2)
    export_gguf(TaskLoRAs.of(attached(config=config)), tmp_path / "out")
    assert all((tmp_path / "out" / f"{name}.gguf").is_file() for name in names)


def test_no_task_takes_the_place_of_a_file_of_the_export(tmp_path):
    export_peft(TaskLoRAs.of(attached("gemma3")), tmp_path / "peft")
    export_vllm([TaskLoRAs.of(attached())], tmp_path / "vllm", base="x/y")
    written = {
        path.name for out in ("peft", "vllm") for path in (tmp_path / out).iterdir()
        if path.is_file()
    }  # fmt: skip
    assert len(written) == 7
    tasks = tuple(sorted(written))
    adapter = attached("gemma3", AdapterConfig(tasks, expert_rank=2))
    manifest = export_peft(TaskLoRAs.of(adapter), tmp_path / "out")
    assert manifest["export"]["tasks"] == list(tasks)
    for task in tasks:
        model = with_peft(make_model("gemma3"), tmp_path / "out" / f"task_{task}")
        torch.testing.assert_close(logits(model, IDS), routed(adapter, task), **CLOSE)
