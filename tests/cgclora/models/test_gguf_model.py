"""A GGUF file's model is the one that `transformers` makes of it, which takes much longer."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GgufConfig

from cgclora.models.gguf_model import convert_model
from tests.helpers.tiny_gguf import WORDS, write_gguf


def test_the_model_is_that_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cgclora.models.gguf_model._ROWS", 5)  # so that tensors are read in parts
    write_gguf(tmp_path / "tiny.gguf")
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
    write_gguf(tmp_path / "other.gguf", architecture="llama")
    with pytest.raises(ValueError, match=r"other\.gguf holds no Gemma 3 but 'llama'"):
        convert_model(tmp_path / "other.gguf")


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    write_gguf(tmp_path / "less.gguf", without="blk.1.ffn_up")
    with pytest.raises(ValueError, match=r"lacks the tensor of model\.layers\.1\.mlp\.up_proj"):
        convert_model(tmp_path / "less.gguf")


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    write_gguf(tmp_path / "wide.gguf", feed_forward=128)
    with pytest.raises(ValueError, match=r"holds .*mlp\.gate_proj\.weight in the shape \(96, 64\)"):
        convert_model(tmp_path / "wide.gguf")
