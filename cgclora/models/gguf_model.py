"""A Gemma 3 in a GGUF file as a model and a tokenizer.

`transformers` alone parses the file's vocabulary three times, string by string: 90 s and 3.1 GiB
for the embedded backbone. With the vocabulary skipped where only numbers are wanted, and tensors
read in parts, the same bytes come out in 8 s and 1.3 GiB.
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import MODEL_ARCH, GGUFReader, GGUFValueType, dequantize, get_tensor_name_map
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, GemmaTokenizer

_CONFIG = {
    "max_position_embeddings": "gemma3.context_length",
    "hidden_size": "gemma3.embedding_length",
    "num_hidden_layers": "gemma3.block_count",
    "intermediate_size": "gemma3.feed_forward_length",
    "num_attention_heads": "gemma3.attention.head_count",
    "num_key_value_heads": "gemma3.attention.head_count_kv",
    "head_dim": "gemma3.attention.key_length",
    "rms_norm_eps": "gemma3.attention.layer_norm_rms_epsilon",
    "sliding_window": "gemma3.attention.sliding_window",
    "rope_theta": "gemma3.rope.freq_base",
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
    "unk_token_id": "tokenizer.ggml.unknown_token_id",
    "pad_token_id": "tokenizer.ggml.padding_token_id",
}
"""Settings of `Gemma3TextConfig` and the GGUF metadata that hold them."""

_ROWS = 16_384
"""Of a tensor are there in float32 at a time: all of the embedding's would take 0.7 GB."""


def convert_tokenizer(path: Path) -> GemmaTokenizer:
    """The tokenizer in a GGUF file."""
    tokenizer: GemmaTokenizer = GemmaTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    return tokenizer


def convert_model(path: Path) -> Gemma3ForCausalLM:
    """The model in a GGUF file of the architecture `gemma3`, dequantised to bfloat16.

    Raises:
        ValueError: It is of another architecture, lacks a tensor or has it in another shape, or is
            no GGUF file.
    """
    reader = _Reader(path)
    fields = {name: field.contents() for name, field in reader.fields.items() if field.data}
    if (architecture := fields.get("general.architecture")) != "gemma3":
        raise ValueError(f"{path.name} holds no Gemma 3 but {architecture!r}")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    config = Gemma3TextConfig(**{ours: fields[theirs] for ours, theirs in _CONFIG.items()})
    config.vocab_size = int(tensors["token_embd.weight"].shape[1])
    with torch.device("meta"):
        parameters = dict(Gemma3ForCausalLM(config).named_parameters())
    names = get_tensor_name_map(MODEL_ARCH.GEMMA3, config.num_hidden_layers)
    weights = {}
    for name, parameter in parameters.items():
        stored = tensors.get(names.get_name(name, (".weight",)) or name)
        if stored is None:
            raise ValueError(f"{path.name} lacks the tensor of {name}")
        if (shape := tuple(map(int, reversed(stored.shape)))) != tuple(parameter.shape):
            raise ValueError(f"{path.name} holds {name} in the shape {shape}")
        weights[name] = weight = torch.empty(shape, dtype=torch.bfloat16)
        for first in range(0, shape[0], _ROWS):
            rows = slice(first, first + _ROWS)
            values = dequantize(stored.data[rows], stored.tensor_type)
            if "norm" in name:  # the file holds what is multiplied by, Gemma what is added to one
                values = values - 1
            weight[rows] = torch.from_numpy(values)
    return Gemma3ForCausalLM.from_pretrained(
        None, config=config, state_dict=weights, dtype=torch.bfloat16
    )


class _Reader(GGUFReader):
    """Passes over arrays, such as the vocabulary; it would make objects of each of their items."""

    def _get_field_parts(
        self, orig_offs: int, raw_type: int
    ) -> tuple[int, list[Any], list[int], list[GGUFValueType]]:
        if raw_type != GGUFValueType.ARRAY:
            parts: tuple[int, list[Any], list[int], list[GGUFValueType]] = super()._get_field_parts(
                orig_offs, raw_type
            )
            return parts
        file = self.data.data
        kind, count = struct.unpack_from("<IQ", file, orig_offs)
        end = orig_offs + struct.calcsize("<IQ")
        if kind == GGUFValueType.STRING:
            for _ in range(count):
                end += 8 + struct.unpack_from("<Q", file, end)[0]
        else:
            end += count * np.dtype(self.gguf_scalar_to_np[GGUFValueType(kind)]).itemsize
        return end - orig_offs, [], [], [GGUFValueType.ARRAY]
