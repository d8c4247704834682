"""A GGUF file's model is the one that `transformers` makes of it, which takes much longer."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GgufConfig

from cgclora.gguf_model import convert_model

WORDS = [f"word {index}" for index in range(48)]


def write(path: Path, *, architecture: str = "gemma3", without: str = "") -> None:
    """A tiny model of random numbers, in 8 bits but for its norms."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(96)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_key_length(32)
    writer.add_value_length(32)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_sliding_window(16)
    writer.add_rope_freq_base(5e5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(WORDS)
    writer.add_token_scores([0.5] * len(WORDS))
    writer.add_token_types([1] * len(WORDS))
    for number, add in enumerate(
        (
            writer.add_pad_token_id,
            writer.add_eos_token_id,
            writer.add_bos_token_id,
            writer.add_unk_token_id,
        )
    ):
        add(number)
    shapes = {"token_embd": (len(WORDS), 64), "output_norm": (64,)}
    for layer in range(2):
        shapes |= {
            f"blk.{layer}.{name}": shape
            for name, shape in {
                "attn_q": (64, 64),
                "attn_k": (32, 64),
                "attn_v": (32, 64),
                "attn_output": (64, 64),
                "attn_q_norm": (32,),
                "attn_k_norm": (32,),
                "attn_norm": (64,),
                "post_attention_norm": (64,),
                "ffn_norm": (64,),
                "post_ffw_norm": (64,),
                "ffn_gate": (96, 64),
                "ffn_up": (96, 64),
                "ffn_down": (64, 96),
            }.items()
        }
    random = np.random.default_rng()
    for name, shape in shapes.items():
        if name == without:
            continue
        values = random.normal(size=shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", values)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(f"{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_the_model_is_that_of_transformers(tmp_path: Path) -> None:
    write(tmp_path / "tiny.gguf")
    ours = convert_model(tmp_path / "tiny.gguf")
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path,
        gguf_file="tiny.gguf",
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    expected = theirs.state_dict()
    assert ours.state_dict().keys() == expected.keys()
    for name, weight in ours.state_dict().items():
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight, expected[name]), name
    told = ("_name_or_path", "quantization_config")
    assert {
        key: value for key, value in ours.config.to_dict().items() if not key.endswith(told)
    } == {key: value for key, value in theirs.config.to_dict().items() if not key.endswith(told)}
    assert ours.config.vocab_size == len(WORDS)
    assert ours.lm_head.weight is ours.model.embed_tokens.weight


def test_what_is_no_gemma_3_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "other.gguf", architecture="llama")
    with pytest.raises(ValueError, match=r"other\.gguf holds no Gemma 3 but 'llama'"):
        convert_model(tmp_path / "other.gguf")


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    write(tmp_path / "less.gguf", without="blk.1.ffn_up")
    with pytest.raises(ValueError, match=r"lacks the tensor of model\.layers\.1\.mlp\.up_proj"):
        convert_model(tmp_path / "less.gguf")
