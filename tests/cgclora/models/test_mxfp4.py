"""gpt-oss as its makers publish it: routed experts in MXFP4, which is undone while it is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from cgclora.adapter import Adapter
from cgclora.convert.merged import export_merged
from cgclora.models import checkpoint
from cgclora.models.backbone import BackboneError, load_backbone
from cgclora.models.target_modules import linear_paths
from cgclora.storage import atomic_io
from cgclora.storage.adapter_dir import AdapterError
from tests.helpers.reference import METHODS, TASKS, scatter, token_ids
from tests.helpers.tiny import make_tokenizer
from tests.suites.backbones.configs import tiny_config

E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
"""What three bits mean, after a bit for the sign (OCP Microscaling Formats 1.0, table 5)."""


def packed(shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Random blocks [experts, out, n, 16], scales [experts, out, n], values [experts, in, out]."""
    experts, inputs, outputs = shape
    codes = torch.randint(16, (experts, outputs, inputs // 32, 32), generator=generator)
    scales = torch.randint(120, 126, (experts, outputs, inputs // 32), generator=generator)
    values = torch.tensor(E2M1 + [-value for value in E2M1])[codes]
    values = values * torch.exp2(scales - 127.0).unsqueeze(-1)
    blocks = codes[..., ::2] + 16 * codes[..., 1::2]  # the first value in the low bits
    return blocks.byte(), scales.byte(), values.flatten(2).transpose(1, 2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A folder as on the hub, and the values of its experts."""
    folder = tmp_path_factory.mktemp("gpt-oss")
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(tiny_config("gpt_oss"), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    tensors, values = load_file(folder / "model.safetensors"), {}
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        blocks, scales, values[name] = packed(tuple(tensors.pop(name).shape), generator)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    left = [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ]
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": left}
    atomic_io.write_json(folder / "config.json", config)
    return folder, values


def test_experts_have_the_values_of_the_format(made: tuple[Path, dict[str, Tensor]]) -> None:
    folder, values = made
    state = load_backbone(folder, device="cpu", dtype="bfloat16").model.state_dict()
    assert len(values) == 8
    for name, expected in values.items():
        assert torch.equal(state[name].float(), expected)


def test_attention_is_adapted_and_merged_models_are_not_packed(
    made: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    backbone = load_backbone(made[0], device="cpu", dtype="float32")
    names = {path.rpartition(".")[2] for path in linear_paths(backbone.model)}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj"}
    with pytest.raises(AdapterError, match=r"no linear layer is named 'gate_up_proj'; there are"):
        linear_paths(backbone.model, ["gate_up_proj"])
    adapter = scatter(Adapter.attach(backbone, METHODS["CGC-LoRA"]))
    with torch.no_grad(), adapter.route(["mood"]):
        expected = backbone.model(input_ids=token_ids(1)).logits
    export_merged(adapter, TASKS[1], tmp_path / "out", backbone.tokenizer)
    again = load_backbone(tmp_path / "out", device="cpu", dtype="float32")
    with torch.no_grad():
        found = again.model(input_ids=token_ids(1)).logits
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_four_bit_is_refused(made: tuple[Path, dict[str, Tensor]]) -> None:
    with pytest.raises(BackboneError, match="MXFP4, which bitsandbytes does not make smaller"):
        checkpoint._from_pretrained(made[0], "gpt-oss", quantization_config=object())
