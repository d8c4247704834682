"""Poly adapters of PEFT, which makes, writes and runs them; ours must answer alike."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel, PolyConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cgclora.__main__ import main
from cgclora.adapter import Adapter
from cgclora.convert.importing.lora import upcycle
from cgclora.convert.importing.peft import PEFT_CONFIG, PEFT_WEIGHTS, read_peft
from cgclora.convert.importing.poly import read_tasks
from cgclora.models.backbone import load_backbone
from cgclora.storage.adapter_dir import AdapterError
from tests.helpers.reference import logits, token_ids
from tests.helpers.tiny import make_backbone, make_model, save_backbone

IDS = token_ids(3)
NAMES = ("one", "two", "three")


def saved(folder: Path, splits: int = 1) -> Path:
    """A Poly of three tasks that share four skills, with random weights, as PEFT writes it."""
    config = PolyConfig(
        r=3,
        n_tasks=3,
        n_skills=4,
        n_splits=splits,
        target_modules=["q_proj", "down_proj"],
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = get_peft_model(make_model(), config)
        for name, parameter in model.named_parameters():
            if "poly_" in name:
                nn.init.normal_(parameter, std=1.0 if "logits" in name else 0.3)
    model.save_pretrained(folder)
    return folder


def in_peft(folder: Path, tasks: list[int]) -> Tensor:
    model = PeftModel.from_pretrained(make_model(), folder).eval()
    with torch.no_grad():
        return model(input_ids=IDS, task_ids=torch.tensor(tasks)).logits.double()


@pytest.mark.parametrize("splits", [1, 2])
def test_each_task_answers_as_in_peft(tmp_path, splits):
    folder = saved(tmp_path / "poly", splits)
    adapter = upcycle(dict(zip(NAMES, read_tasks(folder), strict=True)), make_backbone())
    assert (adapter.config.common, adapter.config.specific) == (0, 1)
    assert adapter.config.expert_rank == 3
    expected = in_peft(folder, [2, 0, 1])
    assert (expected - logits(make_model(), IDS)).abs().max() > 0.1
    with adapter.route(["three", "one", "two"]):
        found = logits(adapter.model, IDS)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_lora_is_read_as_ever(tmp_path):
    folder = saved(tmp_path / "poly")
    with pytest.raises(AdapterError, match="Poly of many tasks"):
        read_peft(folder)
    first, *_ = read_tasks(folder)
    assert (first.name, first.facts["task_id"], first.scales) == (
        *("poly-0", 0),
        dict.fromkeys(first.layers, 1 / 3),
    )


def test_the_command_imports_every_task_of_a_poly(tmp_path, capsys):
    folder, source = saved(tmp_path / "poly"), save_backbone(tmp_path / "backbone")
    words = ["import", "--backbone", str(source), "--peft", str(folder), "--out"]
    tasks = [word for name in NAMES for word in ("--task", name)]
    assert main([*words, str(tmp_path / "out"), *tasks]) == 0
    backbone = load_backbone(source, device="cpu", dtype="float32")
    adapter = Adapter.load(tmp_path / "out", backbone)
    assert adapter.config.tasks == NAMES
    assert adapter.config.common == 0
    with adapter.route(["two", "two", "one"]):
        found = logits(adapter.model, IDS)
    torch.testing.assert_close(found, in_peft(folder, [1, 1, 0]), rtol=1e-4, atol=1e-4)
    assert main([*words, str(tmp_path / "other"), "--task", "one"]) == 2
    assert "3 LoRAs in --peft but 1 --task" in capsys.readouterr().err


Q = "base_model.model.model.layers.0.self_attn.q_proj."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{Q}poly_lora_B": None}, "lacks"),
        ({f"{Q}poly_lora_B": torch.zeros(1, 4, 2, 32)}, "do not fit"),
        ({f"{Q}poly_router.module_logits": torch.zeros(2, 4)}, "have \\[2, 3\\] tasks"),
        ({f"{Q}poly_router.module_logits": torch.zeros(3)}, "do not fit"),
        ({f"{Q}lora_A.weight": torch.zeros(3, 32)}, "no part of Poly"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"poly_type": "another"}, "poly_type"),
    ],
    ids=str,
)
def test_what_is_no_plain_poly_is_refused(tmp_path, change, message):
    folder = saved(tmp_path / "poly")
    tensors = load_file(folder / PEFT_WEIGHTS)
    config = json.loads((folder / PEFT_CONFIG).read_text())
    for name, value in change.items():
        if name.startswith("base"):
            tensors[name] = value
        else:
            config[name] = value
    save_file({k: v for k, v in tensors.items() if v is not None}, folder / PEFT_WEIGHTS)
    (folder / PEFT_CONFIG).write_text(json.dumps(config))
    with pytest.raises(AdapterError, match=message):
        read_tasks(folder)
