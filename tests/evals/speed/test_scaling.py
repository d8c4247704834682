"""What growth costs: the arithmetic against adapters that are really there."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cgclora.adapter import Adapter
from evals.__main__ import main
from evals.speed.scaling import BACKBONES, CONFIG, MEMORY, adapter_bytes, measure, need, table
from tests.helpers.tiny import make_backbone


def shapes_of(adapter: Adapter) -> list[tuple[int, int]]:
    linear = [layer.base_layer for layer in adapter.layers.values()]
    return [(layer.in_features, layer.out_features) for layer in linear]


def test_an_adapter_has_the_bytes_of_the_arithmetic(tmp_path: Path) -> None:
    backbone = make_backbone("gemma3")
    adapter = Adapter.attach(backbone, CONFIG)
    held = sum(2 * parameter.numel() for _, parameter in adapter.named_parameters())
    assert adapter_bytes(CONFIG, shapes_of(adapter)) == held
    adapter.save(tmp_path / "a", dtype=torch.bfloat16)
    stored = (tmp_path / "a" / "adapter.safetensors").stat().st_size
    assert held < stored < held + 20_000  # names


def test_one_more_task_adds_what_a_larger_adapter_has_more() -> None:
    parameters, shapes = BACKBONES["7B"]
    larger = replace(CONFIG, tasks=(*CONFIG.tasks, "one more"))
    more = adapter_bytes(larger, shapes) - adapter_bytes(CONFIG, shapes)
    gate_row = 2 * CONFIG.embedding_size * (1 + len(shapes) * CONFIG.specific)
    assert need(CONFIG, shapes, parameters, 16).task == more - gate_row


@pytest.mark.parametrize("name", BACKBONES)
def test_the_gpus_hold_what_they_are_counted_for(name: str) -> None:
    parameters, shapes = BACKBONES[name]
    for tasks in (10, 1000, 10_000):
        found = need(CONFIG, shapes, parameters, tasks)
        assert found.adapters == math.ceil(tasks / 16) * adapter_bytes(CONFIG, shapes)
        weights = 2 * parameters

        def fits(gpus: int, adapters: int = found.adapters, weights: float = weights) -> bool:
            copies = gpus if weights < MEMORY else 1
            return copies * weights + adapters <= gpus * MEMORY

        assert fits(found.gpus)
        assert found.gpus == 1 or not fits(found.gpus - 1)


def test_the_shapes_are_those_of_the_embedded_backbone() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "gemma3_text",
        hidden_size=640,
        num_hidden_layers=18,
        intermediate_size=2048,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        vocab_size=262_144,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    parameters, shapes = BACKBONES["270M"]
    linear = [m for m in model.get_decoder().modules() if isinstance(m, torch.nn.Linear)]
    assert sorted((m.in_features, m.out_features) for m in linear) == sorted(shapes)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=0.01)


def test_measuring_leaves_the_backbone_as_it_was_and_agrees_with_the_arithmetic() -> None:
    backbone = make_backbone()
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    config = replace(CONFIG, embedding_size=4)
    report = measure(backbone, config, tasks=(16, 32), repeats=1)
    after = backbone.model.state_dict()
    for name, tensor in before.items():
        path, _, leaf = name.rpartition(".")
        assert torch.equal(after.get(name, after.get(f"{path}.base_layer.{leaf}")), tensor)
    for bank in report["banks"]:
        assert bank["bytes"] == 2 * bank["bytes_by_arithmetic"]  # the tiny backbone is in fp32
        assert min(bank["plan_seconds"], bank["decode_seconds"]) > 0
    assert report["swap"]["bytes"] > 0
    with pytest.raises(ValueError, match="at least 16"):
        measure(backbone, config, tasks=(8,))


def test_the_command_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scaling"]) == 0
    printed = capsys.readouterr().out.strip()
    assert printed == table(CONFIG)
